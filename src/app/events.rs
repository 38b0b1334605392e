//! The stream of events.

use super::authz::{Action, Caller};
use super::{App, Error};
use crate::domain::ids::ClusterId;
use crate::store::events::{self, Event, EventFilter, Position};

pub use crate::store::events::{Event as EventView, Position as Place};

/// Events that are read in one go.
const BATCH: u32 = 200;

/// Where a new reader starts: at the event it has seen last, else at the present end.
pub async fn start(app: &App, caller: &Caller, last_seen: Option<&str>) -> Result<Position, Error> {
    caller.may(Action::ReadEvents)?;
    match last_seen {
        Some(text) => {
            text.parse().map_err(|_| Error::field("Last-Event-ID", "is not the id of an event"))
        }
        None => Ok(events::end(app.store.pool()).await?),
    }
}

/// The events after `position` that the caller may see, oldest first.
pub async fn follow(
    app: &App,
    caller: &Caller,
    cluster: Option<ClusterId>,
    position: Position,
) -> Result<Vec<Event>, Error> {
    caller.may(Action::ReadEvents)?;
    let filter = EventFilter { project: caller.scope(), cluster, resource: None };
    Ok(events::follow(app.store.pool(), filter, position, BATCH).await?)
}
