//! `/v1/projects`

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::page;
use crate::api::Page;
use crate::api::projects::{NewProject, Project};
use crate::app::authz::Caller;
use crate::app::projects::{self, ProjectView};
use crate::http::extract::{Body, PageQuery, Query, Segment};
use crate::http::{Api, Refusal};

/// Make a project
#[utoipa::path(
    post, path = "/v1/projects", tag = "projects", operation_id = "create_project",
    request_body = NewProject,
    params(("Idempotency-Key" = Option<String>, Header, description = "Makes repeating harmless")),
    responses((status = 201, body = Project, description = "Made")),
)]
pub async fn create(
    State(api): State<Api>,
    Body { ask, value }: Body<NewProject>,
) -> Result<(StatusCode, Json<Project>), Refusal> {
    let run = api.run(|app| async move { projects::create(&app, &ask, &value.name).await });
    Ok((StatusCode::CREATED, Json(project(run.await?))))
}

/// List projects; tenants see their own
#[utoipa::path(
    get, path = "/v1/projects", tag = "projects", operation_id = "list_projects",
    params(PageQuery),
    responses((status = 200, body = Page<Project>, description = "By name")),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<Project>>, Refusal> {
    let request = query.page()?;
    let run = api.run(|app| async move { projects::list(&app, &caller, &request).await });
    Ok(page(run.await?, project))
}

/// Read a project
#[utoipa::path(
    get, path = "/v1/projects/{project}", tag = "projects", operation_id = "show_project",
    params(("project" = String, Path, description = "Name or id")),
    responses((status = 200, body = Project, description = "The project")),
)]
pub async fn show(
    State(api): State<Api>,
    caller: Caller,
    Segment(name): Segment,
) -> Result<Json<Project>, Refusal> {
    let run = api.run(|app| async move { projects::show(&app, &caller, &name).await });
    Ok(Json(project(run.await?)))
}

fn project(view: ProjectView) -> Project {
    Project { id: view.id, name: view.name, created_at: view.created_at }
}
