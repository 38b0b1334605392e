//! Watches: what happened since a revision, then what happens.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use super::refusal::{Outcome, Refusal};
use super::resource::Kind;
use super::rest::{self, Call, Selection};
use super::state::State;
use super::store::{Change, ChangeType};
use super::table;
use crate::clock::SharedClock;

/// How long a watch lasts when its client does not say: within the 30 to 60 minutes of a real
/// server's `--min-request-timeout`.
const LONGEST: Duration = Duration::from_mins(45);

/// How often a watch says how far it is: about as often as a real server does.
const BOOKMARKS: Duration = Duration::from_mins(1);

/// An open watch.
pub(super) struct Watch {
    kind: Kind,
    selection: Selection,
    ready: VecDeque<Event>,
    changes: Receiver<Arc<Change>>,
    deadline: Instant,
    /// When the client is told how far it is, if it asked for that.
    bookmark_at: Option<Instant>,
    revision: u64,
    is_over: bool,
    /// Whether objects are sent as tables, and then by which clock their age is told.
    tables: Option<SharedClock>,
}

type Event = (&'static str, Arc<Value>);

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// Opens a watch as its query says.
pub(super) fn begin(state: &mut State, call: &Call) -> Outcome<Watch> {
    let selection = Selection::of(call)?;
    let asked = call.query("resourceVersion");
    let wants_initial = call.query("sendInitialEvents") == "true";
    let from_now = wants_initial || matches!(asked, "" | "0");
    let mut ready = VecDeque::new();
    let revision = if from_now {
        for object in rest::selected(state, call)? {
            ready.push_back(("ADDED", object));
        }
        state.store.revision()
    } else {
        let message = format!("invalid resource version {asked:?}");
        asked.parse().map_err(|_| Refusal::bad_request(message))?
    };
    if wants_initial {
        ready.push_back(("BOOKMARK", Arc::new(bookmark(call, revision))));
    }
    let Some((missed, changes)) = state.store.follow(revision) else {
        return Err(Refusal::expired(revision, state.store.oldest()));
    };
    let seconds = call.query("timeoutSeconds").parse().map_or(LONGEST, Duration::from_secs);
    let deadline = Instant::now() + seconds.min(LONGEST);
    let kind = call.resource.kind;
    let wants_bookmarks = call.query("allowWatchBookmarks") == "true";
    let mut watch = Watch {
        kind,
        selection,
        ready,
        changes,
        deadline,
        bookmark_at: wants_bookmarks.then(|| Instant::now() + BOOKMARKS),
        revision,
        is_over: false,
        tables: None,
    };
    for change in missed {
        watch.take(&change);
    }
    Ok(watch)
}

impl Watch {
    /// The next line of the answer; `None` ends it.
    pub(super) async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(self.line(&event));
            }
            if self.is_over {
                return None;
            }
            let until = self.bookmark_at.map_or(self.deadline, |at| at.min(self.deadline));
            match tokio::time::timeout_at(until, self.changes.recv()).await {
                Err(_) if until < self.deadline => {
                    self.bookmark_at = Some(Instant::now() + BOOKMARKS);
                    self.ready
                        .push_back(("BOOKMARK", Arc::new(progress(self.kind, self.revision))));
                }
                Ok(Ok(change)) => self.take(&change),
                Ok(Err(RecvError::Lagged(_))) => {
                    let status = Refusal::expired(0, 0).to_status();
                    self.ready.push_back(("ERROR", Arc::new(status)));
                    self.is_over = true;
                }
                Ok(Err(RecvError::Closed)) | Err(_) => self.is_over = true,
            }
        }
    }

    /// Turns a change into a line, as this watch's selection sees it.
    fn take(&mut self, change: &Change) {
        self.revision = self.revision.max(change.revision);
        if change.kind != self.kind {
            return;
        }
        let was = change.before.as_ref().is_some_and(|object| self.selection.matches(object));
        let is = self.selection.matches(&change.object);
        let word = match (change.change, was, is) {
            (ChangeType::Deleted, _, true) | (ChangeType::Modified, true, false) => "DELETED",
            (ChangeType::Added, _, true) | (ChangeType::Modified, false, true) => "ADDED",
            (ChangeType::Modified, true, true) => "MODIFIED",
            _ => return,
        };
        self.ready.push_back((word, Arc::clone(&change.object)));
    }

    /// Sends objects as tables, as `kubectl get --watch` asks for.
    pub(super) fn with_tables(mut self, clock: SharedClock) -> Self {
        self.tables = Some(clock);
        self
    }

    fn line(&self, event: &Event) -> String {
        let (word, object) = event;
        let mut line = match &self.tables {
            Some(clock) if *word != "ERROR" && *word != "BOOKMARK" => {
                let table = table::of_object(object, clock.now());
                json!({"type": word, "object": table}).to_string()
            }
            _ => json!({"type": word, "object": **object}).to_string(),
        };
        line.push('\n');
        line
    }
}

/// Tells a client how far the watch is, so that it can go on from there.
fn progress(kind: Kind, revision: u64) -> Value {
    let resource = kind.resource();
    json!({
        "kind": kind.name(),
        "apiVersion": resource.api_version(),
        "metadata": {"resourceVersion": revision.to_string(), "creationTimestamp": null},
    })
}

/// Tells a client of `sendInitialEvents` that it has seen everything.
fn bookmark(call: &Call, revision: u64) -> Value {
    json!({
        "kind": call.resource.kind.name(),
        "apiVersion": call.resource.api_version(),
        "metadata": {
            "resourceVersion": revision.to_string(),
            "creationTimestamp": null,
            "annotations": {"k8s.io/initial-events-end": "true"},
        },
    })
}
