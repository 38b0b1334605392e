//! `/v1/work`

use axum::Json;
use axum::extract::{FromRequestParts, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::Deserialize;
use utoipa::IntoParams;

use super::page;
use crate::api::Page;
use crate::api::work::{WorkItem, WorkVerb};
use crate::app::authz::Caller;
use crate::app::work::{self, Filter, Item, Kind, Push, Resource, State as WorkState};
use crate::http::extract::{self, Query};
use crate::http::{Api, Refusal};

/// Which items to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WorkQuery {
    /// Most entries, 1 to 500. Default 100.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Only this kind: `cloud`, `observe_servers`, `observe_nodes`, `cluster`, `migration`, `sweep`.
    kind: Option<String>,
    /// Only in this state: `leased`, `due`, `parked`, `paused`, `idle`.
    state: Option<String>,
}

/// List work items
#[utoipa::path(
    get, path = "/v1/work", tag = "work", operation_id = "list_work", params(WorkQuery),
    responses((status = 200, body = Page<WorkItem>, description = "By kind and id")),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<WorkQuery>,
) -> Result<Json<Page<WorkItem>>, Refusal> {
    let request = extract::page(query.limit, query.cursor)?;
    let filter = Filter {
        kind: word("kind", query.kind.as_deref(), &Kind::ALL.map(Kind::as_str))?,
        state: word("state", query.state.as_deref(), &WorkState::ALL.map(WorkState::as_str))?,
    };
    let run = api.run(|app| async move { work::list(&app, &caller, filter, &request).await });
    Ok(page(run.await?, item))
}

fn word<T: std::str::FromStr>(
    field: &str,
    text: Option<&str>,
    all: &[&str],
) -> Result<Option<T>, Refusal> {
    let wrong = |_| Refusal::field(field, format!("must be one of {}", all.join(", ")));
    text.map(str::parse).transpose().map_err(wrong)
}

/// Kind, resource and verb of the path.
pub struct Target(Kind, Resource, Push);

impl<S: Send + Sync> FromRequestParts<S> for Target {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        type Path = axum::extract::Path<(String, uuid::Uuid, String)>;
        let absent = || {
            let detail = "there is no such work item or verb";
            Refusal::new(StatusCode::NOT_FOUND, "absent", detail)
        };
        let path = Path::from_request_parts(parts, state).await.map_err(|_| absent())?;
        let (kind, id, verb) = path.0;
        let push = match verb.as_str() {
            "retry" => Push::Retry,
            "enable" => Push::Enable,
            "disable" => Push::Disable,
            _ => return Err(absent()),
        };
        let kind = kind.parse().map_err(|_| absent())?;
        Ok(Self(kind, Resource(id), push))
    }
}

/// Push, stop or start a work item
#[utoipa::path(
    post, path = "/v1/work/{kind}/{id}/{verb}", tag = "work", operation_id = "push_work",
    params(("kind" = String, Path, description = "Kind"),
           ("id" = uuid::Uuid, Path, description = "Id of the resource"),
           ("verb" = WorkVerb, Path, description = "What to do")),
    responses((status = 202, body = WorkItem, description = "The item")),
)]
pub async fn push(
    State(api): State<Api>,
    caller: Caller,
    Target(kind, id, push): Target,
) -> Result<(StatusCode, Json<WorkItem>), Refusal> {
    let ask = caller.into();
    let run = api.run(|app| async move { work::push(&app, &ask, (kind, id), push).await });
    Ok((StatusCode::ACCEPTED, Json(item(run.await?))))
}

fn item(item: Item) -> WorkItem {
    WorkItem {
        kind: item.kind.to_string(),
        id: item.id.0,
        state: item.state.as_str().to_owned(),
        due_at: item.due_at,
        fence: item.fence,
        attempts: item.attempts,
        last_error: item.last_error,
        parked_reason: item.parked_reason,
        parked_at: item.parked_at,
    }
}
