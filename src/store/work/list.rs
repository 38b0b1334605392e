//! Work as operators see it: lists and numbers.

use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{PgExecutor, Row};
use uuid::Uuid;

use super::kind::{ResourceId, UnknownWord, WorkKind};
use crate::store::page::{Page, PageRequest};
use crate::store::{StoreError, Ts, ts};

/// Where an item stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkState {
    /// A replica works on it.
    Leased,
    /// Waits for a free replica.
    Due,
    /// Waits for the world, and says for what.
    Parked,
    /// Stopped by an operator.
    Paused,
    /// Nothing to do until its next time, or waiting out a back-off.
    Idle,
}

impl WorkState {
    /// Every state.
    pub const ALL: [Self; 5] = [Self::Leased, Self::Due, Self::Parked, Self::Paused, Self::Idle];

    /// The name, as in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leased => "leased",
            Self::Due => "due",
            Self::Parked => "parked",
            Self::Paused => "paused",
            Self::Idle => "idle",
        }
    }
}

impl FromStr for WorkState {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let found = Self::ALL.into_iter().find(|state| state.as_str() == text);
        found.ok_or_else(|| UnknownWord(text.to_owned()))
    }
}

/// A work item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkItem {
    /// Kind of the item.
    pub kind: WorkKind,
    /// What it is about.
    pub id: ResourceId,
    /// Where it stands.
    pub state: WorkState,
    /// Wake-ups asked for.
    pub wanted: i64,
    /// Wake-ups that a finished activation has seen.
    pub seen: i64,
    /// When it is, or was, due.
    pub due_at: Timestamp,
    /// Which replica works on it.
    pub holder: Option<Uuid>,
    /// When that replica's lease ends, by the database's clock.
    pub expires_at: Option<Timestamp>,
    /// How often it was claimed.
    pub fence: i64,
    /// Failures in a row.
    pub attempts: u32,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// What it waits for.
    pub parked_reason: Option<String>,
    /// Since when it waits for that.
    pub parked_at: Option<Timestamp>,
}

/// Which items to list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct WorkFilter {
    /// Only this kind.
    pub kind: Option<WorkKind>,
    /// Only items in this state.
    pub state: Option<WorkState>,
}

/// Lists items by kind and id.
pub async fn list(
    executor: impl PgExecutor<'_>,
    filter: WorkFilter,
    request: &PageRequest,
    now: Timestamp,
) -> Result<Page<WorkItem>, StoreError> {
    let keyset = request.keyset("work.kind", &filter);
    let (kind, id): (Option<String>, Option<Uuid>) = keyset.after::<(String, Uuid)>()?.unzip();
    let rows = sqlx::query(
        "SELECT kind, resource_id, state, wanted, seen, due_at, holder, expires_at, fence,
                attempts, last_error, parked_reason, parked_at
         FROM (
             SELECT kind, resource_id, wanted, seen, due_at, holder, expires_at, fence,
                    attempts, last_error, parked_reason, parked_at,
                    CASE WHEN expires_at > clock_timestamp() THEN 'leased'
                         WHEN NOT enabled THEN 'paused'
                         WHEN due_at <= $1 THEN 'due'
                         WHEN parked_reason IS NOT NULL THEN 'parked'
                         ELSE 'idle' END AS state
             FROM work_items
         ) AS item
         WHERE ($2::text IS NULL OR kind = $2)
           AND ($3::text IS NULL OR state = $3)
           AND ($4::text IS NULL OR (kind, resource_id) > ($4, $5))
         ORDER BY kind, resource_id
         LIMIT $6",
    )
    .bind(ts(now))
    .bind(filter.kind.map(WorkKind::as_str))
    .bind(filter.state.map(WorkState::as_str))
    .bind(kind)
    .bind(id)
    .bind(keyset.fetch())
    .fetch_all(executor)
    .await?;
    let items = rows.iter().map(item).collect::<Result<Vec<_>, _>>()?;
    Ok(keyset.page(items, |item| (item.kind.as_str(), item.id)))
}

/// One item.
pub async fn find(
    executor: impl PgExecutor<'_>,
    kind: WorkKind,
    id: impl Into<ResourceId>,
    now: Timestamp,
) -> Result<Option<WorkItem>, StoreError> {
    let row = sqlx::query(
        "SELECT kind, resource_id, wanted, seen, due_at, holder, expires_at, fence,
                attempts, last_error, parked_reason, parked_at,
                CASE WHEN expires_at > clock_timestamp() THEN 'leased'
                     WHEN NOT enabled THEN 'paused'
                     WHEN due_at <= $3 THEN 'due'
                     WHEN parked_reason IS NOT NULL THEN 'parked'
                     ELSE 'idle' END AS state
         FROM work_items
         WHERE kind = $1 AND resource_id = $2",
    )
    .bind(kind.as_str())
    .bind(id.into())
    .bind(ts(now))
    .fetch_optional(executor)
    .await?;
    row.as_ref().map(item).transpose()
}

fn item(row: &PgRow) -> Result<WorkItem, StoreError> {
    let id: ResourceId = row.try_get("resource_id")?;
    let attempts: i32 = row.try_get("attempts")?;
    Ok(WorkItem {
        kind: word(row, "kind")?,
        id,
        state: word(row, "state")?,
        wanted: row.try_get("wanted")?,
        seen: row.try_get("seen")?,
        due_at: row.try_get::<Ts, _>("due_at")?.to_jiff(),
        holder: row.try_get("holder")?,
        expires_at: row.try_get::<Option<Ts>, _>("expires_at")?.map(Ts::to_jiff),
        fence: row.try_get("fence")?,
        attempts: u32::try_from(attempts)
            .map_err(|error| StoreError::inconsistent("work_items", id, error))?,
        last_error: row.try_get("last_error")?,
        parked_reason: row.try_get("parked_reason")?,
        parked_at: row.try_get::<Option<Ts>, _>("parked_at")?.map(Ts::to_jiff),
    })
}

fn word<T: FromStr<Err = UnknownWord>>(row: &PgRow, column: &str) -> Result<T, StoreError> {
    let text: &str = row.try_get(column)?;
    text.parse().map_err(|error| StoreError::inconsistent("work_items", text, error))
}

/// Numbers of one kind of work, for metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueStatistics {
    /// Which kind.
    pub kind: WorkKind,
    /// Items of this kind.
    pub total: u64,
    /// Due, and held by nobody.
    pub due: u64,
    /// Being worked on.
    pub leased: u64,
    /// Parked, due or not.
    pub parked: u64,
    /// Failed the last time.
    pub failing: u64,
    /// For how long the oldest due item has been due; zero if none is.
    pub oldest_due: Duration,
}

/// Numbers of all kinds that have items.
pub async fn statistics(
    executor: impl PgExecutor<'_>,
    now: Timestamp,
) -> Result<Vec<QueueStatistics>, StoreError> {
    let rows = sqlx::query(
        "SELECT kind,
                count(*) AS total,
                count(*) FILTER (WHERE waits) AS due,
                count(*) FILTER (WHERE expires_at > clock_timestamp()) AS leased,
                count(*) FILTER (WHERE parked_reason IS NOT NULL) AS parked,
                count(*) FILTER (WHERE attempts > 0) AS failing,
                min(due_at) FILTER (WHERE waits) AS oldest
         FROM (
             SELECT kind, expires_at, parked_reason, attempts, due_at,
                    enabled AND due_at <= $1
                        AND (holder IS NULL OR expires_at <= clock_timestamp()) AS waits
             FROM work_items
         ) AS item
         GROUP BY kind
         ORDER BY kind",
    )
    .bind(ts(now))
    .fetch_all(executor)
    .await?;
    rows.iter().map(|row| queue(row, now)).collect()
}

fn queue(row: &PgRow, now: Timestamp) -> Result<QueueStatistics, StoreError> {
    let count = |column: &str| -> Result<u64, StoreError> {
        Ok(u64::try_from(row.try_get::<i64, _>(column)?).unwrap_or(0))
    };
    let oldest = row.try_get::<Option<Ts>, _>("oldest")?.map(Ts::to_jiff);
    let age = oldest.map(|at| now.duration_since(at)).unwrap_or_default();
    Ok(QueueStatistics {
        kind: word(row, "kind")?,
        total: count("total")?,
        due: count("due")?,
        leased: count("leased")?,
        parked: count("parked")?,
        failing: count("failing")?,
        oldest_due: Duration::try_from(age).unwrap_or_default(),
    })
}
