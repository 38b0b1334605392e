//! `/v1/cloud-pairs`

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;

use super::{page, tag};
use crate::api::Page;
use crate::api::cloud_pairs::{CloudPair, CloudPairMaps};
use crate::app::authz::Caller;
use crate::app::cloud_pairs::{self, PairView};
use crate::http::extract::{Body, IfMatch, PageQuery, Query, Segments};
use crate::http::{Api, Refusal};

/// Map one cloud to another
///
/// Replaces the whole mapping. Every name must exist on the source and mean exactly one thing on
/// the target; a wrong one is named by its path, such as `flavors.m1.large`.
#[utoipa::path(
    put, path = "/v1/cloud-pairs/{source}/{target}", tag = "clouds",
    operation_id = "set_cloud_pair", request_body = CloudPairMaps,
    params(("source" = String, Path, description = "Name or id of the cloud that nodes leave"),
           ("target" = String, Path, description = "Name or id of the cloud that they move to"),
           ("If-Match" = Option<String>, Header, description = "Generation that was seen")),
    responses((status = 200, body = CloudPair, description = "Changed"),
              (status = 201, body = CloudPair, description = "Made")),
)]
pub async fn set(
    State(api): State<Api>,
    Segments(source, target): Segments,
    IfMatch(seen): IfMatch,
    Body { ask, value }: Body<CloudPairMaps>,
) -> Result<impl IntoResponse, Refusal> {
    let run = api.run(|app| async move {
        cloud_pairs::set(&app, &ask, (&source, &target), (&value, seen)).await
    });
    let (view, is_new) = run.await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, tag(view.row.generation), Json(pair(view))))
}

/// List cloud pairs
#[utoipa::path(
    get, path = "/v1/cloud-pairs", tag = "clouds", operation_id = "list_cloud_pairs",
    params(PageQuery),
    responses((status = 200, body = Page<CloudPair>, description = "By names of the clouds")),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<CloudPair>>, Refusal> {
    let request = query.page()?;
    let run = api.run(|app| async move { cloud_pairs::list(&app, &caller, &request).await });
    Ok(page(run.await?, pair))
}

/// Read a cloud pair
///
/// With what the inventories of now say of it.
#[utoipa::path(
    get, path = "/v1/cloud-pairs/{source}/{target}", tag = "clouds",
    operation_id = "show_cloud_pair",
    params(("source" = String, Path, description = "Name or id of the cloud that nodes leave"),
           ("target" = String, Path, description = "Name or id of the cloud that they move to")),
    responses((status = 200, body = CloudPair, description = "The pair")),
)]
pub async fn show(
    State(api): State<Api>,
    caller: Caller,
    Segments(source, target): Segments,
) -> Result<impl IntoResponse, Refusal> {
    let run =
        api.run(|app| async move { cloud_pairs::show(&app, &caller, (&source, &target)).await });
    let view = run.await?;
    Ok((tag(view.row.generation), Json(pair(view))))
}

/// Delete a cloud pair that no migration uses
#[utoipa::path(
    delete, path = "/v1/cloud-pairs/{source}/{target}", tag = "clouds",
    operation_id = "delete_cloud_pair",
    params(("source" = String, Path, description = "Name or id of the cloud that nodes leave"),
           ("target" = String, Path, description = "Name or id of the cloud that they move to"),
           ("If-Match" = Option<String>, Header, description = "Generation that was seen")),
    responses((status = 204, description = "Deleted")),
)]
pub async fn remove(
    State(api): State<Api>,
    caller: Caller,
    Segments(source, target): Segments,
    IfMatch(seen): IfMatch,
) -> Result<StatusCode, Refusal> {
    let ask = caller.into();
    let run = api
        .run(|app| async move { cloud_pairs::remove(&app, &ask, (&source, &target), seen).await });
    run.await?;
    Ok(StatusCode::NO_CONTENT)
}

fn pair(view: PairView) -> CloudPair {
    let PairView { row, check, checked_at } = view;
    CloudPair {
        id: row.id,
        source: row.source,
        target: row.target,
        flavors: row.spec.flavors,
        networks: row.spec.networks,
        security_groups: row.spec.security_groups,
        zones: row.spec.zones,
        images: row.spec.images,
        generation: row.generation,
        problems: check.problems,
        warnings: check.warnings,
        checked_at,
        created_at: row.created_at,
        updated_at: row.updated_at,
    }
}
