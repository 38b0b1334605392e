//! `/v1/events`: the stream of what happens.

use std::collections::VecDeque;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Sse;
use axum::response::sse::{Event as Message, KeepAlive};
use futures::Stream;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::api::events::Event;
use crate::app::authz::{Caller, is_still_good};
use crate::app::events::{self, EventView, Place};
use crate::domain::ids::ClusterId;
use crate::http::extract::{Query, id};
use crate::http::{Api, Refusal};

/// How often the database is asked when nothing comes: a person does not notice a second.
const POLL: Duration = Duration::from_secs(1);

/// Which events to follow.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventQuery {
    /// Only of this cluster.
    #[param(value_type = Option<uuid::Uuid>)]
    cluster: Option<String>,
}

/// Follow events as they happen
///
/// Server-sent events. A reader that sends the id of its last event as `Last-Event-ID` goes on
/// after it; else it begins with what happens from now on. Tenants see their project's events.
#[utoipa::path(
    get, path = "/v1/events", tag = "events", operation_id = "follow_events",
    params(EventQuery,
           ("Last-Event-ID" = Option<String>, Header, description = "Id of the last event seen")),
    responses((status = 200, body = Event, content_type = "text/event-stream",
               description = "Each message's data is an event")),
)]
pub async fn follow(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<EventQuery>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Message, axum::Error>>>, Refusal> {
    let cluster = query.cluster.map(|text| id::<ClusterId>("cluster", &text)).transpose()?;
    let last = headers.get("last-event-id").map(|value| value.to_str().unwrap_or("?").to_owned());
    let (asker, start) = (caller.clone(), last);
    let place =
        api.run(|app| async move { events::start(&app, &asker, start.as_deref()).await }).await?;
    let reader = Reader { api, caller, cluster, place, ready: VecDeque::new(), is_first: true };
    let stream = futures::stream::unfold(reader, |mut reader| async move {
        let message = reader.next().await?;
        Some((message, reader))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()))
}

struct Reader {
    api: Api,
    caller: Caller,
    cluster: Option<ClusterId>,
    place: Place,
    ready: VecDeque<EventView>,
    is_first: bool,
}

impl Reader {
    /// The next message; none when the stream ends: the service stops, the token has ended or the
    /// database fails. The client comes back with the id of its last event.
    async fn next(&mut self) -> Option<Result<Message, axum::Error>> {
        loop {
            if let Some(view) = self.ready.pop_front() {
                self.place = view.position;
                let event = event(view);
                let message = Message::default().id(event.id.clone()).event(event.reason.clone());
                return Some(message.json_data(&event));
            }
            if !self.is_first {
                tokio::select! {
                    () = self.api.stop.cancelled() => return None,
                    () = tokio::time::sleep(POLL) => {}
                }
            }
            self.is_first = false;
            self.ready = self.read().await?.into();
        }
    }

    async fn read(&self) -> Option<Vec<EventView>> {
        let (caller, cluster, place) = (self.caller.clone(), self.cluster, self.place);
        let run = self.api.run(|app| async move {
            if !is_still_good(&app, &caller).await? {
                return Ok(None);
            }
            events::follow(&app, &caller, cluster, place).await.map(Some)
        });
        run.await.ok().flatten()
    }
}

/// An event as the API tells it.
pub(super) fn event(view: EventView) -> Event {
    Event {
        id: view.position.to_string(),
        at: view.at,
        project_id: view.project,
        cluster_id: view.cluster,
        resource_kind: view.resource_kind,
        resource_id: view.resource,
        kind: view.event_type.as_str().to_owned(),
        reason: view.reason,
        message: view.message,
        data: view.data,
    }
}
