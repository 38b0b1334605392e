//! What happened: timelines of a cluster or a project, and the stream of all events.
//!
//! A timeline is read newest first and by id. The stream is read by (transaction, id): ids are
//! given out before commit, so a reader that remembers only the greatest id would skip events
//! which commit late. It sees only transactions below every running one.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{PgExecutor, Row};
use uuid::Uuid;

use super::page::{Page, PageRequest};
use super::{StoreError, Ts, Tx, ts};
use crate::domain::ids::{ClusterId, ProjectId};

/// Channel on which readers of the stream are told to look.
pub const EVENT_CHANNEL: &str = "zcp_events";

/// Whether an event asks for attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventType {
    /// As it should be.
    Normal,
    /// Somebody may want to look.
    Warning,
}

impl EventType {
    /// The name, as in the database and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Warning => "warning",
        }
    }
}

/// An event to record.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// Whose it is; none for what only operators see.
    pub project: Option<ProjectId>,
    /// On which cluster's timeline it is.
    pub cluster: Option<ClusterId>,
    /// What kind of thing it is about, such as `node`.
    pub resource_kind: &'static str,
    /// What it is about.
    pub resource: Uuid,
    /// Whether it asks for attention.
    pub event_type: EventType,
    /// For programs, such as `NodeReady`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// What programs may want beside.
    pub data: Value,
}

/// A recorded event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its place in the stream.
    pub position: Position,
    /// When it happened.
    pub at: Timestamp,
    /// Whose it is.
    pub project: Option<ProjectId>,
    /// On which cluster's timeline it is.
    pub cluster: Option<ClusterId>,
    /// What kind of thing it is about.
    pub resource_kind: String,
    /// What it is about.
    pub resource: Uuid,
    /// Whether it asks for attention.
    pub event_type: EventType,
    /// For programs.
    pub reason: String,
    /// For people.
    pub message: String,
    /// What programs may want beside.
    pub data: Value,
}

/// A place in the stream of events; as text, the `id` of a server-sent event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    xact: i64,
    id: i64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.xact, self.id)
    }
}

/// A text that is no place in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the id of an event")]
pub struct BadPosition;

impl FromStr for Position {
    type Err = BadPosition;

    fn from_str(text: &str) -> Result<Self, BadPosition> {
        let (xact, id) = text.split_once('-').ok_or(BadPosition)?;
        let number = |text: &str| text.parse().map_err(|_| BadPosition);
        Ok(Self { xact: number(xact)?, id: number(id)? })
    }
}

/// Which events to read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct EventFilter {
    /// Only of this project.
    pub project: Option<ProjectId>,
    /// Only of this cluster.
    pub cluster: Option<ClusterId>,
    /// Only about this thing.
    pub resource: Option<Uuid>,
}

/// Records an event in the transaction of the change.
pub async fn record(tx: &mut Tx, event: NewEvent, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO events (at, project_id, cluster_id, resource_kind, resource_id, type,
                             reason, message, data)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(ts(now))
    .bind(event.project)
    .bind(event.cluster)
    .bind(event.resource_kind)
    .bind(event.resource)
    .bind(event.event_type.as_str())
    .bind(event.reason)
    .bind(event.message)
    .bind(event.data)
    .execute(&mut **tx)
    .await?;
    // Delivered at commit, once per transaction.
    sqlx::query("SELECT pg_notify($1, '')").bind(EVENT_CHANNEL).execute(&mut **tx).await?;
    Ok(())
}

/// Lists events, newest first.
pub async fn list(
    executor: impl PgExecutor<'_>,
    filter: EventFilter,
    request: &PageRequest,
) -> Result<Page<Event>, StoreError> {
    let keyset = request.keyset("events.newest", &filter);
    let rows = sqlx::query(
        "SELECT xact, id, at, project_id, cluster_id, resource_kind, resource_id, type, reason,
                message, data
         FROM events
         WHERE ($1::uuid IS NULL OR project_id = $1)
           AND ($2::uuid IS NULL OR cluster_id = $2)
           AND ($3::uuid IS NULL OR resource_id = $3)
           AND ($4::bigint IS NULL OR id < $4)
         ORDER BY id DESC
         LIMIT $5",
    )
    .bind(filter.project)
    .bind(filter.cluster)
    .bind(filter.resource)
    .bind(keyset.after::<i64>()?)
    .bind(keyset.fetch())
    .fetch_all(executor)
    .await?;
    let events = rows.iter().map(event).collect::<Result<Vec<_>, _>>()?;
    Ok(keyset.page(events, |event| event.position.id))
}

/// The next events of the stream after `position`, oldest first. Every event comes once, in the
/// order of transactions; one may come late, while older transactions are running anywhere on the
/// database server.
pub async fn follow(
    executor: impl PgExecutor<'_>,
    filter: EventFilter,
    position: Position,
    limit: u32,
) -> Result<Vec<Event>, StoreError> {
    let rows = sqlx::query(
        "SELECT xact, id, at, project_id, cluster_id, resource_kind, resource_id, type, reason,
                message, data
         FROM events
         WHERE (xact, id) > ($1, $2)
           AND xact < pg_snapshot_xmin(pg_current_snapshot())::text::bigint
           AND ($3::uuid IS NULL OR project_id = $3)
           AND ($4::uuid IS NULL OR cluster_id = $4)
           AND ($5::uuid IS NULL OR resource_id = $5)
         ORDER BY xact, id
         LIMIT $6",
    )
    .bind(position.xact)
    .bind(position.id)
    .bind(filter.project)
    .bind(filter.cluster)
    .bind(filter.resource)
    .bind(i64::from(limit))
    .fetch_all(executor)
    .await?;
    rows.iter().map(event).collect()
}

/// The present end of the stream: events that are recorded from now on come after it.
pub async fn end(executor: impl PgExecutor<'_>) -> Result<Position, StoreError> {
    // Of the transaction before the oldest running one, everything has been seen.
    let xact: i64 =
        sqlx::query_scalar("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1")
            .fetch_one(executor)
            .await?;
    Ok(Position { xact, id: i64::MAX })
}

fn event(row: &PgRow) -> Result<Event, StoreError> {
    let id = row.try_get("id")?;
    let event_type = match row.try_get("type")? {
        "normal" => EventType::Normal,
        "warning" => EventType::Warning,
        other => {
            return Err(StoreError::inconsistent("events", id, format!("type {other}")));
        }
    };
    Ok(Event {
        position: Position { xact: row.try_get("xact")?, id },
        at: row.try_get::<Ts, _>("at")?.to_jiff(),
        project: row.try_get("project_id")?,
        cluster: row.try_get("cluster_id")?,
        resource_kind: row.try_get("resource_kind")?,
        resource: row.try_get("resource_id")?,
        event_type,
        reason: row.try_get("reason")?,
        message: row.try_get("message")?,
        data: row.try_get("data")?,
    })
}
