//! Work items, for operators: see the machine, stop it, start it, push it.

use serde_json::json;

use super::act::{Act, Subject};
use super::authz::{Action, Caller};
use super::{App, Ask, Error};
use crate::store::page::{Page, PageRequest};
use crate::store::work::{self, ResourceId, WorkFilter, WorkItem, WorkKind};

pub use crate::store::work::{
    ResourceId as Resource, WorkFilter as Filter, WorkItem as Item, WorkKind as Kind,
    WorkState as State,
};

/// What an operator does to an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Push {
    /// Forget failures and back-off, and look at it now.
    Retry,
    /// Take it up again.
    Enable,
    /// Leave it alone until it is enabled.
    Disable,
}

/// Items by kind and id.
pub async fn list(
    app: &App,
    caller: &Caller,
    filter: WorkFilter,
    page: &PageRequest,
) -> Result<Page<WorkItem>, Error> {
    caller.may(Action::ManageWork)?;
    Ok(work::list(app.store.pool(), filter, page, app.now()).await?)
}

/// Pushes one item.
pub async fn push(
    app: &App,
    ask: &Ask,
    (kind, id): (WorkKind, ResourceId),
    push: Push,
) -> Result<WorkItem, Error> {
    ask.caller.may(Action::ManageWork)?;
    let absent = || Error::absent("work item", format!("{kind}/{id}"));
    let mut act = Act::begin(app, ask).await?;
    work::find(&mut *act.tx, kind, id, act.now).await?.ok_or_else(absent)?;
    let action = match push {
        Push::Retry => {
            work::retry(&mut act.tx, kind, id, act.now).await?;
            "work.retry"
        }
        Push::Enable => {
            work::resume(&mut act.tx, kind, id).await?;
            act.wake(kind, id).await?;
            "work.enable"
        }
        Push::Disable => {
            work::pause(&mut act.tx, kind, id).await?;
            "work.disable"
        }
    };
    let item = work::find(&mut *act.tx, kind, id, act.now).await?.ok_or_else(absent)?;
    let subject = Subject { kind: "work", id: id.0, project: None, cluster: None };
    act.audit(action, subject, json!({ "kind": kind })).await?;
    act.commit(id.0).await?;
    Ok(item)
}
