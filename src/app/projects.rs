//! Projects: tenants.

use serde_json::json;

use super::act::{Act, Start, Subject};
use super::authz::{Action, Caller};
use super::{App, Ask, Error};
use crate::domain::ids::ProjectId;
use crate::domain::name::{NAME_MAX, check_name};
use crate::store::page::{Page, PageRequest};
use crate::store::projects::{self, NAME_KEY, Project};

pub use crate::store::projects::Project as ProjectView;

/// Makes a project.
pub async fn create(app: &App, ask: &Ask, name: &str) -> Result<Project, Error> {
    ask.caller.may(Action::ManageProjects)?;
    check_name("name", name, NAME_MAX).into_result(())?;
    let mut act = match Act::start(app, ask).await? {
        Start::Fresh(act) => act,
        Start::Done(id) => return show(app, &ask.caller, &id.to_string()).await,
    };
    let project =
        Project { id: ProjectId(app.ids.uuid()), name: name.to_owned(), created_at: act.now };
    projects::insert(&mut act.tx, &project).await.map_err(|error| match error.constraint() {
        Some(NAME_KEY) => Error::conflict(format!("there is a project {name} already")),
        _ => error.into(),
    })?;
    let subject =
        Subject { kind: "project", id: project.id.0, project: Some(project.id), cluster: None };
    act.audit("project.create", subject, json!({ "name": name })).await?;
    act.commit(project.id.0).await?;
    Ok(project)
}

/// One project by name or id.
pub async fn show(app: &App, caller: &Caller, name: &str) -> Result<Project, Error> {
    caller.may(Action::ReadProjects)?;
    let found = find(app, name).await?;
    found.filter(|project| caller.sees(project.id)).ok_or_else(|| Error::absent("project", name))
}

/// Projects by name; tenants see their own.
pub async fn list(app: &App, caller: &Caller, page: &PageRequest) -> Result<Page<Project>, Error> {
    caller.may(Action::ReadProjects)?;
    match caller.scope() {
        None => Ok(projects::list(app.store.pool(), page).await?),
        Some(id) => {
            let own = projects::find(app.store.pool(), id).await?;
            Ok(Page { items: own.into_iter().collect(), next: None })
        }
    }
}

/// A project by name, else by id.
pub(super) async fn find(app: &App, name: &str) -> Result<Option<Project>, Error> {
    let pool = app.store.pool();
    if let Some(project) = projects::find_by_name(pool, name).await? {
        return Ok(Some(project));
    }
    match name.parse() {
        Ok(id) => Ok(projects::find(pool, id).await?),
        Err(_) => Ok(None),
    }
}
