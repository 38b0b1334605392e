//! `/v1/offerings`

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::page;
use crate::api::Page;
use crate::api::offerings::{NewOffering, Offering};
use crate::app::authz::Caller;
use crate::app::offerings::{self, OfferingView};
use crate::http::extract::{Body, PageQuery, Query, Segment};
use crate::http::{Api, Refusal};

/// Add an offering
#[utoipa::path(
    post, path = "/v1/offerings", tag = "offerings", operation_id = "create_offering",
    request_body = NewOffering,
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes repeating harmless")),
    responses((status = 201, body = Offering, description = "Added")),
)]
pub async fn create(
    State(api): State<Api>,
    Body { ask, value }: Body<NewOffering>,
) -> Result<(StatusCode, Json<Offering>), Refusal> {
    let new = (value.name.clone(), value.spec());
    let run = api.run(|app| async move { offerings::create(&app, &ask, new).await });
    Ok((StatusCode::CREATED, Json(offering(run.await?))))
}

/// List offerings
#[utoipa::path(
    get, path = "/v1/offerings", tag = "offerings", operation_id = "list_offerings",
    params(PageQuery),
    responses((status = 200, body = Page<Offering>, description = "By name, without manifests")),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Offering>>, Refusal> {
    let request = query.page()?;
    let run = api.run(|app| async move { offerings::list(&app, &caller, &request).await });
    Ok(page(run.await?, |view| Offering { cni_manifest: None, ..offering(view) }))
}

/// Read an offering
#[utoipa::path(
    get, path = "/v1/offerings/{offering}", tag = "offerings", operation_id = "show_offering",
    params(("offering" = String, Path, description = "Name or id")),
    responses((status = 200, body = Offering, description = "The offering")),
)]
pub async fn show(
    State(api): State<Api>,
    caller: Caller,
    Segment(name): Segment,
) -> Result<Json<Offering>, Refusal> {
    let run = api.run(|app| async move { offerings::show(&app, &caller, &name).await });
    Ok(Json(offering(run.await?)))
}

fn offering(view: OfferingView) -> Offering {
    Offering {
        id: view.id,
        name: view.name,
        kubernetes_version: view.spec.kubernetes_version,
        addon_manager_version: view.spec.addon_manager_version,
        images: view.spec.images,
        cni_ports: view.spec.cni_ports,
        node_daemons: view.spec.node_daemons,
        cni_manifest: Some(view.spec.cni_manifest),
        created_at: view.created_at,
    }
}
