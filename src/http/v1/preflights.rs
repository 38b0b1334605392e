//! `/v1/preflights`, and those of one cluster.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;

use super::clouds::Nothing;
use crate::api::preflights::{NewPreflight, NewWaiver, Preflight};
use crate::app::authz::Caller;
use crate::app::preflights::{self, PreflightView};
use crate::domain::ids::{ClusterId, PreflightId};
use crate::http::extract::{Body, Segment, id};
use crate::http::{Api, Refusal};

/// Look at what a migration would meet, without starting one
///
/// Nothing is changed in cluster or clouds. Read it again until `check_pending` is false.
#[utoipa::path(
    post, path = "/v1/clusters/{cluster}/preflights", tag = "migrations",
    operation_id = "create_preflight", request_body = NewPreflight,
    params(("cluster" = uuid::Uuid, Path, description = "Id of the cluster"),
           ("Idempotency-Key" = Option<String>, Header, description = "Makes repeating harmless")),
    responses((status = 202, body = Preflight, description = "Written down; a worker looks")),
)]
pub async fn create(
    State(api): State<Api>,
    Segment(text): Segment,
    Body { ask, value }: Body<NewPreflight>,
) -> Result<impl IntoResponse, Refusal> {
    let id: ClusterId = id("cluster", &text)?;
    let run = api.run(|app| async move { preflights::create(&app, &ask, id, &value).await });
    Ok((StatusCode::ACCEPTED, Json(preflight(run.await?))))
}

/// Read what a migration would meet
#[utoipa::path(
    get, path = "/v1/preflights/{preflight}", tag = "migrations",
    operation_id = "show_preflight",
    params(("preflight" = uuid::Uuid, Path, description = "Id")),
    responses((status = 200, body = Preflight, description = "Insights, waves, needs, time")),
)]
pub async fn show(
    State(api): State<Api>,
    caller: Caller,
    Segment(text): Segment,
) -> Result<impl IntoResponse, Refusal> {
    let id: PreflightId = id("preflight", &text)?;
    let run = api.run(|app| async move { preflights::show(&app, &caller, id).await });
    Ok(Json(preflight(run.await?)))
}

/// Look again now
#[utoipa::path(
    post, path = "/v1/preflights/{preflight}/check", tag = "migrations",
    operation_id = "check_preflight",
    params(("preflight" = uuid::Uuid, Path, description = "Id"),
           ("Idempotency-Key" = Option<String>, Header, description = "Makes repeating harmless")),
    responses((status = 202, body = Preflight, description = "`check_pending` until it is done")),
)]
pub async fn check(
    State(api): State<Api>,
    Segment(text): Segment,
    Body { ask, value: Nothing {} }: Body<Nothing>,
) -> Result<impl IntoResponse, Refusal> {
    let id: PreflightId = id("preflight", &text)?;
    let run = api.run(|app| async move { preflights::check(&app, &ask, id).await });
    Ok((StatusCode::ACCEPTED, Json(preflight(run.await?))))
}

/// Go on in spite of an insight
///
/// In the caller's name and until a given time. What cannot work at all cannot be waived.
#[utoipa::path(
    post, path = "/v1/preflights/{preflight}/waivers", tag = "migrations",
    operation_id = "waive_insight", request_body = NewWaiver,
    params(("preflight" = uuid::Uuid, Path, description = "Id"),
           ("Idempotency-Key" = Option<String>, Header, description = "Makes repeating harmless")),
    responses((status = 201, body = Preflight, description = "The insight does not block now")),
)]
pub async fn waive(
    State(api): State<Api>,
    Segment(text): Segment,
    Body { ask, value }: Body<NewWaiver>,
) -> Result<impl IntoResponse, Refusal> {
    let id: PreflightId = id("preflight", &text)?;
    let run = api.run(|app| async move {
        let new = preflights::NewWaiver {
            insight: &value.insight,
            reason: &value.reason,
            expires_at: value.expires_at,
        };
        preflights::waive(&app, &ask, id, new).await
    });
    Ok((StatusCode::CREATED, Json(preflight(run.await?))))
}

fn preflight(view: PreflightView) -> Preflight {
    let name_of = |id| view.clouds.get(&id).cloned().unwrap_or_default();
    let row = &view.row;
    Preflight {
        id: row.id,
        cluster_id: row.cluster_id,
        cluster: view.cluster.name.clone(),
        project: view.project.clone(),
        source: name_of(row.source),
        target: name_of(row.target),
        migration_id: view.migration,
        check_pending: !row.is_done(),
        checked_at: row.checked_at,
        blocking: u32::try_from(view.blocking).unwrap_or(u32::MAX),
        plan: row.plan.clone(),
        created_by: row.created_by.clone(),
        created_at: row.created_at,
        insights: view.insights,
    }
}
