//! Durable work: `work_items`, one row per thing to look at.
//!
//! ```text
//!            wake                    claim                 finish
//!   (none) --------> due --------------------> leased ----------------> idle | parked | due
//!                     ^                          |  lease expires, or released
//!                     +--------------------------+
//! ```
//! *Waking* raises `wanted` and makes the row due. *Claiming* takes due rows that nobody holds,
//! raises the fence and reads `wanted`. *Finishing* compares: if `wanted` moved meanwhile, the
//! row is due at once, whatever the worker said, so no wake-up is lost.
//!
//! `due_at` is of the injected clock; `expires_at` is of the database's, since replicas' clocks
//! differ. After a crash the row stays due and leased until the lease expires.

mod hints;
mod kind;
mod lease;
mod list;

use std::time::Duration;

use jiff::Timestamp;
use sqlx::Row;
use uuid::Uuid;

use super::{Store, StoreError, Ts, Tx, ts};

pub use hints::{Hint, Hints};
pub use kind::{ResourceId, UnknownWord, WorkKind};
pub use lease::{Claim, Finish, Finished, Lease};
pub use list::{QueueStatistics, WorkFilter, WorkItem, WorkState, find, list, statistics};

/// Channel of wake-up hints; the payload is the kind.
const WAKE_CHANNEL: &str = "zcp_work";
/// What must be left of a lease for a call outside to begin. Renewed in time, two thirds are left
/// at the least; the shortest lease that the configuration allows is 10 s.
const CALL_MARGIN: Duration = Duration::from_secs(3);

/// Wakes an item: it is due now, whatever it waits for. Makes it if there is none.
pub async fn wake(
    tx: &mut Tx,
    kind: WorkKind,
    id: impl Into<ResourceId>,
    now: Timestamp,
) -> Result<(), StoreError> {
    wake_all(tx, kind, &[id.into()], now).await
}

/// Wakes many items of one kind at once.
pub async fn wake_all(
    tx: &mut Tx,
    kind: WorkKind,
    ids: &[ResourceId],
    now: Timestamp,
) -> Result<(), StoreError> {
    raise(tx, kind, ids, now).await?;
    // Only a hint: delivered at commit, once per transaction and kind, lost without harm.
    sqlx::query("SELECT pg_notify($1, $2)")
        .bind(WAKE_CHANNEL)
        .bind(kind.as_str())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Makes an item due at `at` at the latest. If it is being worked on right now, it runs again
/// at once after that, since the worker's own next time would overwrite this one.
pub async fn wake_at(
    tx: &mut Tx,
    kind: WorkKind,
    id: impl Into<ResourceId>,
    at: Timestamp,
) -> Result<(), StoreError> {
    raise(tx, kind, &[id.into()], at).await
}

async fn raise(
    tx: &mut Tx,
    kind: WorkKind,
    ids: &[ResourceId],
    at: Timestamp,
) -> Result<(), StoreError> {
    // Sorted, so that two transactions which wake the same items cannot deadlock.
    let mut ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    ids.sort_unstable();
    ids.dedup();
    sqlx::query(
        "INSERT INTO work_items (kind, resource_id, due_at)
         SELECT $1, id, $3
         FROM unnest($2::uuid[]) AS id
         ON CONFLICT ON CONSTRAINT work_items_pkey DO UPDATE
         SET wanted = work_items.wanted + 1,
             due_at = LEAST(work_items.due_at, EXCLUDED.due_at),
             parked_reason = NULL,
             parked_at = NULL",
    )
    .bind(kind.as_str())
    .bind(ids)
    .bind(ts(at))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Takes due items that nobody holds, longest due first.
pub async fn claim(
    store: &Store,
    claim: Claim<'_>,
    now: Timestamp,
) -> Result<Vec<Lease>, StoreError> {
    // Rows locked by a fenced transaction or another claim are skipped, not waited for.
    let rows = sqlx::query(
        "WITH due AS (
             SELECT kind, resource_id
             FROM work_items
             WHERE kind = $1
               AND enabled
               AND due_at <= $2
               AND (holder IS NULL OR expires_at <= clock_timestamp())
               AND NOT (resource_id = ANY($3))
             ORDER BY due_at, resource_id
             LIMIT $4
             FOR UPDATE SKIP LOCKED
         )
         UPDATE work_items AS item
         SET holder = $5,
             expires_at = clock_timestamp() + make_interval(secs => $6),
             fence = item.fence + 1
         FROM due
         WHERE item.kind = due.kind AND item.resource_id = due.resource_id
         RETURNING item.resource_id, item.fence, item.wanted, item.attempts, item.due_at",
    )
    .bind(claim.kind.as_str())
    .bind(ts(now))
    .bind(claim.except)
    .bind(i64::from(claim.limit))
    .bind(claim.holder)
    .bind(claim.lease.as_secs_f64())
    .fetch_all(store.pool())
    .await?;
    let mut leases = Vec::with_capacity(rows.len());
    for row in rows {
        let due: Ts = row.try_get("due_at")?;
        let attempts: i32 = row.try_get("attempts")?;
        let lease = Lease {
            kind: claim.kind,
            id: row.try_get("resource_id")?,
            holder: claim.holder,
            fence: row.try_get("fence")?,
            wanted: row.try_get("wanted")?,
            attempts: u32::try_from(attempts).unwrap_or(0),
        };
        leases.push((due.to_jiff(), lease));
    }
    // UPDATE returns rows in no order.
    leases.sort_by_key(|(due, lease)| (*due, lease.id));
    Ok(leases.into_iter().map(|(_, lease)| lease).collect())
}

/// Extends a lease. `StoreError::LeaseLost` if it has expired or is another's.
pub async fn renew(store: &Store, lease: &Lease, length: Duration) -> Result<(), StoreError> {
    let result = sqlx::query(
        "UPDATE work_items
         SET expires_at = clock_timestamp() + make_interval(secs => $4)
         WHERE kind = $1 AND resource_id = $2 AND fence = $3
           AND expires_at > clock_timestamp()",
    )
    .bind(lease.kind.as_str())
    .bind(lease.id)
    .bind(lease.fence)
    .bind(length.as_secs_f64())
    .execute(store.pool())
    .await?;
    if result.rows_affected() == 1 { Ok(()) } else { Err(StoreError::LeaseLost) }
}

/// Whether a lease holds, and for a while yet; asked right before a call outside, which checks no
/// fence. The driver cancels the call if the lease is not renewed in time.
pub async fn check(store: &Store, lease: &Lease) -> Result<(), StoreError> {
    let held = sqlx::query(
        "SELECT 1
         FROM work_items
         WHERE kind = $1 AND resource_id = $2 AND fence = $3
           AND expires_at > clock_timestamp() + make_interval(secs => $4)",
    )
    .bind(lease.kind.as_str())
    .bind(lease.id)
    .bind(lease.fence)
    .bind(CALL_MARGIN.as_secs_f64())
    .fetch_optional(store.pool())
    .await?;
    held.map(|_| ()).ok_or(StoreError::LeaseLost)
}

/// Gives an item back unfinished: it stays due, and anyone may take it.
pub async fn release(store: &Store, lease: &Lease) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE work_items
         SET holder = NULL, expires_at = NULL
         WHERE kind = $1 AND resource_id = $2 AND fence = $3",
    )
    .bind(lease.kind.as_str())
    .bind(lease.id)
    .bind(lease.fence)
    .execute(store.pool())
    .await?;
    Ok(())
}

/// The columns that a [`Finish`] sets.
struct Outcome {
    seen: bool,
    after: Duration,
    /// What failures in a row are multiplied with, and what is added to them. Computed in SQL,
    /// so that a retry meanwhile is not undone.
    attempts: (i32, i32),
    error: Option<String>,
    parked: Option<String>,
}

impl Outcome {
    /// None if the item goes away.
    fn of(finish: Finish) -> Option<Self> {
        let good = |after| Self { seen: true, after, attempts: (0, 0), error: None, parked: None };
        Some(match finish {
            Finish::Settled { resync } => good(resync),
            Finish::After(after) => good(after),
            Finish::Parked { reason, recheck } => Self { parked: Some(reason), ..good(recheck) },
            Finish::Busy { error, wait } => {
                Self { seen: false, error: Some(error), attempts: (1, 0), ..good(wait) }
            }
            Finish::Failed { error, backoff } => {
                Self { seen: false, error: Some(error), attempts: (1, 1), ..good(backoff) }
            }
            Finish::Dead { error, recheck } => Self {
                seen: false,
                attempts: (1, 1),
                parked: Some(error.clone()),
                error: Some(error),
                ..good(recheck)
            },
            Finish::Gone => return None,
        })
    }
}

/// Records how an activation ended and gives the item back. Valid as long as nobody else has
/// claimed the item, even if the lease has expired meanwhile.
pub async fn finish(
    store: &Store,
    lease: &Lease,
    finish: Finish,
    now: Timestamp,
) -> Result<Finished, StoreError> {
    let Some(outcome) = Outcome::of(finish) else { return remove(store, lease, now).await };
    let due = now + jiff::SignedDuration::try_from(outcome.after).unwrap_or_default();
    // The parked reason goes when somebody wakes the item, also when that happens right now.
    let row = sqlx::query(
        "UPDATE work_items
         SET holder = NULL,
             expires_at = NULL,
             seen = CASE WHEN $5 THEN GREATEST(seen, $4) ELSE seen END,
             due_at = CASE WHEN wanted > $4 THEN $6 ELSE $7 END,
             attempts = attempts * $8 + $9,
             last_error = $10,
             parked_reason = CASE WHEN wanted > $4 THEN NULL ELSE $11 END,
             parked_at = CASE
                 WHEN wanted > $4 OR $11::text IS NULL THEN NULL
                 ELSE COALESCE(parked_at, $6) END
         WHERE kind = $1 AND resource_id = $2 AND fence = $3
         RETURNING wanted > $4",
    )
    .bind(lease.kind.as_str())
    .bind(lease.id)
    .bind(lease.fence)
    .bind(lease.wanted)
    .bind(outcome.seen)
    .bind(ts(now))
    .bind(ts(due))
    .bind(outcome.attempts.0)
    .bind(outcome.attempts.1)
    .bind(outcome.error)
    .bind(outcome.parked)
    .fetch_optional(store.pool())
    .await?;
    match row {
        Some(row) if row.try_get(0)? => Ok(Finished::DueAgain),
        Some(_) => Ok(Finished::DueIn(outcome.after)),
        None => missed(store, lease).await,
    }
}

/// Deletes the item, unless somebody woke it meanwhile: then it runs once more.
async fn remove(store: &Store, lease: &Lease, now: Timestamp) -> Result<Finished, StoreError> {
    let result = sqlx::query(
        "DELETE FROM work_items
         WHERE kind = $1 AND resource_id = $2 AND fence = $3 AND wanted = $4",
    )
    .bind(lease.kind.as_str())
    .bind(lease.id)
    .bind(lease.fence)
    .bind(lease.wanted)
    .execute(store.pool())
    .await?;
    if result.rows_affected() == 1 {
        return Ok(Finished::Gone);
    }
    let missed = missed(store, lease).await?;
    if missed != Finished::DueAgain {
        return Ok(missed);
    }
    Box::pin(finish(store, lease, Finish::After(Duration::ZERO), now)).await
}

/// Why a write that names the fence met no row.
async fn missed(store: &Store, lease: &Lease) -> Result<Finished, StoreError> {
    let fence: Option<i64> =
        sqlx::query_scalar("SELECT fence FROM work_items WHERE kind = $1 AND resource_id = $2")
            .bind(lease.kind.as_str())
            .bind(lease.id)
            .fetch_optional(store.pool())
            .await?;
    Ok(match fence {
        None => Finished::Gone,
        Some(fence) if fence == lease.fence => Finished::DueAgain,
        Some(_) => Finished::LeaseLost,
    })
}

/// Forgets back-off, failures and parking, and wakes the item. None if there is none.
pub async fn retry(
    tx: &mut Tx,
    kind: WorkKind,
    id: impl Into<ResourceId>,
    now: Timestamp,
) -> Result<Option<WorkItem>, StoreError> {
    let id = id.into();
    sqlx::query(
        "UPDATE work_items
         SET attempts = 0, last_error = NULL
         WHERE kind = $1 AND resource_id = $2",
    )
    .bind(kind.as_str())
    .bind(id)
    .execute(&mut **tx)
    .await?;
    if find(&mut **tx, kind, id, now).await?.is_none() {
        return Ok(None);
    }
    wake(tx, kind, id, now).await?;
    find(&mut **tx, kind, id, now).await
}

/// Stops the machine for one item: nobody claims it until it is resumed.
pub async fn pause(
    tx: &mut Tx,
    kind: WorkKind,
    id: impl Into<ResourceId>,
) -> Result<(), StoreError> {
    set_enabled(tx, kind, id.into(), false).await
}

/// Lets a paused item go on.
pub async fn resume(
    tx: &mut Tx,
    kind: WorkKind,
    id: impl Into<ResourceId>,
) -> Result<(), StoreError> {
    set_enabled(tx, kind, id.into(), true).await
}

async fn set_enabled(
    tx: &mut Tx,
    kind: WorkKind,
    id: ResourceId,
    enabled: bool,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE work_items SET enabled = $3 WHERE kind = $1 AND resource_id = $2")
        .bind(kind.as_str())
        .bind(id)
        .bind(enabled)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Deletes an item, with its resource. A worker that holds it notices by its fence.
pub async fn delete(
    tx: &mut Tx,
    kind: WorkKind,
    id: impl Into<ResourceId>,
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM work_items WHERE kind = $1 AND resource_id = $2")
        .bind(kind.as_str())
        .bind(id.into())
        .execute(&mut **tx)
        .await?;
    Ok(())
}
