//! `/v1/clouds`

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;

use super::{page, tag};
use crate::api::Page;
use crate::api::clouds::{Cloud, CloudPatch, NewCloud};
use crate::app::authz::Caller;
use crate::app::clouds::{self, CloudChange, CloudView};
use crate::http::extract::{Body, IfMatch, PageQuery, Query, Segment};
use crate::http::{Api, Refusal};

/// Register a cloud
///
/// It begins in `checking`; a worker looks at it and says in `checks` what works.
#[utoipa::path(
    post, path = "/v1/clouds", tag = "clouds", operation_id = "create_cloud",
    request_body = NewCloud,
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes repeating harmless")),
    responses((status = 201, body = Cloud, description = "Registered; not checked yet")),
)]
pub async fn create(
    State(api): State<Api>,
    Body { ask, value }: Body<NewCloud>,
) -> Result<impl IntoResponse, Refusal> {
    let (name, spec) = (value.name.clone(), value.spec());
    let new = clouds::NewCloud { name, spec, credential: value.credential };
    let view = api.run(|app| async move { clouds::create(&app, &ask, &new).await }).await?;
    Ok((StatusCode::CREATED, tag(view.generation), Json(cloud(view, true))))
}

/// List clouds
#[utoipa::path(
    get, path = "/v1/clouds", tag = "clouds", operation_id = "list_clouds", params(PageQuery),
    responses((status = 200, body = Page<Cloud>, description = "By name, without inventory")),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Cloud>>, Refusal> {
    let request = query.page()?;
    let is_operator = caller.is_operator();
    let found = api.run(|app| async move { clouds::list(&app, &caller, &request).await }).await?;
    Ok(page(found, |view| cloud(view, is_operator)))
}

/// Read a cloud with its inventory
#[utoipa::path(
    get, path = "/v1/clouds/{cloud}", tag = "clouds", operation_id = "show_cloud",
    params(("cloud" = String, Path, description = "Name or id")),
    responses((status = 200, body = Cloud, description = "The cloud")),
)]
pub async fn show(
    State(api): State<Api>,
    caller: Caller,
    Segment(name): Segment,
) -> Result<impl IntoResponse, Refusal> {
    let is_operator = caller.is_operator();
    let view = api.run(|app| async move { clouds::show(&app, &caller, &name).await }).await?;
    Ok((tag(view.generation), Json(cloud(view, is_operator))))
}

/// Change settings or login
#[utoipa::path(
    patch, path = "/v1/clouds/{cloud}", tag = "clouds", operation_id = "change_cloud",
    request_body = CloudPatch,
    params(("cloud" = String, Path, description = "Name or id"),
           ("If-Match" = Option<String>, Header, description = "Generation that was seen")),
    responses((status = 200, body = Cloud, description = "Changed; to be checked again")),
)]
pub async fn change(
    State(api): State<Api>,
    Segment(name): Segment,
    IfMatch(seen): IfMatch,
    Body { ask, value }: Body<CloudPatch>,
) -> Result<impl IntoResponse, Refusal> {
    let change = CloudChange { spec: value.spec, credential: value.credential, seen };
    let run = api.run(|app| async move { clouds::change(&app, &ask, &name, &change).await });
    let view = run.await?;
    Ok((tag(view.generation), Json(cloud(view, true))))
}

/// Remove a cloud on which nothing is left
#[utoipa::path(
    delete, path = "/v1/clouds/{cloud}", tag = "clouds", operation_id = "remove_cloud",
    params(("cloud" = String, Path, description = "Name or id"),
           ("If-Match" = Option<String>, Header, description = "Generation that was seen")),
    responses((status = 204, description = "Removed")),
)]
pub async fn remove(
    State(api): State<Api>,
    caller: Caller,
    Segment(name): Segment,
    IfMatch(seen): IfMatch,
) -> Result<StatusCode, Refusal> {
    let ask = caller.into();
    api.run(|app| async move { clouds::remove(&app, &ask, &name, seen).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Check a cloud now
#[utoipa::path(
    post, path = "/v1/clouds/{cloud}/check", tag = "clouds", operation_id = "check_cloud",
    params(("cloud" = String, Path, description = "Name or id"),
           ("Idempotency-Key" = Option<String>, Header, description = "Makes repeating harmless")),
    responses((status = 202, body = Cloud, description = "`check_pending` until it is done")),
)]
pub async fn check(
    State(api): State<Api>,
    Segment(name): Segment,
    Body { ask, value: Nothing {} }: Body<Nothing>,
) -> Result<impl IntoResponse, Refusal> {
    let view = api.run(|app| async move { clouds::check(&app, &ask, &name).await }).await?;
    Ok((StatusCode::ACCEPTED, tag(view.generation), Json(cloud(view, true))))
}

/// The body of an action that needs none.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

fn cloud(view: CloudView, is_operator: bool) -> Cloud {
    Cloud {
        id: view.id,
        name: view.name,
        phase: view.phase,
        generation: view.generation,
        observed_generation: view.observed_generation,
        check_pending: view.check_done < view.check_wanted,
        defaults: view.spec.defaults.clone(),
        spec: is_operator.then_some(view.spec),
        checks: if is_operator { view.checks } else { Vec::new() },
        inventory: view.inventory,
        inventory_at: view.inventory_at,
        created_at: view.created_at,
        updated_at: view.updated_at,
    }
}
