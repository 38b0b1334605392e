//! Deletes rows that nobody needs any more, a batch at a time.

use jiff::{SignedDuration, Timestamp};

use super::{Store, StoreError, ts};

/// A timeline is read for weeks after an incident, not for ever.
const EVENT_AGE: SignedDuration = SignedDuration::from_hours(90 * 24);
/// Clients repeat a request within minutes; a day covers a weekend's retry queue, almost.
const IDEMPOTENCY_AGE: SignedDuration = SignedDuration::from_hours(24);
/// A replica not seen for a day is not coming back under that id.
const REPLICA_AGE: SignedDuration = SignedDuration::from_hours(24);
/// A preflight that no migration came of says nothing about the present after this.
const PREFLIGHT_AGE: SignedDuration = SignedDuration::from_hours(30 * 24);
/// What a canary found is believed for a day; its row is read when something was wrong with that.
const CANARY_AGE: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Rows deleted by one statement: some ten milliseconds.
const BATCH: i64 = 5000;

/// How many rows were deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Of `events`.
    pub events: u64,
    /// Of `idempotency_keys`.
    pub idempotency_keys: u64,
    /// Of `replicas`.
    pub replicas: u64,
    /// Of `preflights`.
    pub preflights: u64,
    /// Of `canaries`.
    pub canaries: u64,
}

/// Deletes all dead rows.
pub async fn run(store: &Store, now: Timestamp) -> Result<Swept, StoreError> {
    const EVENTS: &str = "DELETE FROM events WHERE id IN (
         SELECT id FROM events WHERE at < $1 ORDER BY at LIMIT $2)";
    const KEYS: &str = "DELETE FROM idempotency_keys WHERE (actor, key) IN (
         SELECT actor, key FROM idempotency_keys WHERE created_at < $1
         ORDER BY created_at LIMIT $2)";
    const REPLICAS: &str = "DELETE FROM replicas WHERE id IN (
         SELECT id FROM replicas WHERE seen_at < $1 LIMIT $2)";
    const PREFLIGHTS: &str = "DELETE FROM preflights WHERE id IN (
         SELECT id FROM preflights p WHERE created_at < $1
           AND NOT EXISTS (SELECT 1 FROM migrations WHERE preflight_id = p.id)
         ORDER BY created_at LIMIT $2)";
    const CANARIES: &str = "DELETE FROM canaries WHERE id IN (
         SELECT id FROM canaries
         WHERE finished_at < $1 AND probe IN ('never', 'gone') LIMIT $2)";
    Ok(Swept {
        events: batches(store, EVENTS, now - EVENT_AGE).await?,
        idempotency_keys: batches(store, KEYS, now - IDEMPOTENCY_AGE).await?,
        replicas: batches(store, REPLICAS, now - REPLICA_AGE).await?,
        preflights: batches(store, PREFLIGHTS, now - PREFLIGHT_AGE).await?,
        canaries: batches(store, CANARIES, now - CANARY_AGE).await?,
    })
}

async fn batches(store: &Store, query: &'static str, before: Timestamp) -> Result<u64, StoreError> {
    let mut total = 0;
    loop {
        let result = sqlx::query(query).bind(ts(before)).bind(BATCH).execute(store.pool()).await?;
        total += result.rows_affected();
        if result.rows_affected() < BATCH.unsigned_abs() {
            return Ok(total);
        }
    }
}
