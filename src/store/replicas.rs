//! Running processes.

use jiff::Timestamp;
use sqlx::{PgExecutor, Row};
use uuid::Uuid;

use super::{Store, StoreError, Ts, ts};

/// A running process, or one that died less than a day ago.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Its id, as in `work_items.holder`.
    pub id: Uuid,
    /// Its name, for operators.
    pub name: String,
    /// Version of its binary.
    pub version: String,
    /// When it started.
    pub started_at: Timestamp,
    /// When it last said that it lives.
    pub seen_at: Timestamp,
}

/// Who says that it lives.
#[derive(Debug, Clone, Copy)]
pub struct Beat<'a> {
    /// The replica's id.
    pub id: Uuid,
    /// Its name.
    pub name: &'a str,
}

/// Records that a replica lives; the first time, that it started.
pub async fn beat(store: &Store, beat: Beat<'_>, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO replicas (id, name, version, started_at, seen_at)
         VALUES ($1, $2, $3, $4, $4)
         ON CONFLICT ON CONSTRAINT replicas_pkey DO UPDATE
         SET seen_at = EXCLUDED.seen_at",
    )
    .bind(beat.id)
    .bind(beat.name)
    .bind(env!("CARGO_PKG_VERSION"))
    .bind(ts(now))
    .execute(store.pool())
    .await?;
    Ok(())
}

/// Forgets a replica that stops.
pub async fn leave(store: &Store, id: Uuid) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM replicas WHERE id = $1").bind(id).execute(store.pool()).await?;
    Ok(())
}

/// Every replica, oldest first.
pub async fn list(executor: impl PgExecutor<'_>) -> Result<Vec<Replica>, StoreError> {
    let rows = sqlx::query(
        "SELECT id, name, version, started_at, seen_at
         FROM replicas
         ORDER BY started_at, id
         LIMIT 1000",
    )
    .fetch_all(executor)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Replica {
                id: row.try_get("id")?,
                name: row.try_get("name")?,
                version: row.try_get("version")?,
                started_at: row.try_get::<Ts, _>("started_at")?.to_jiff(),
                seen_at: row.try_get::<Ts, _>("seen_at")?.to_jiff(),
            })
        })
        .collect()
}

/// How many replicas have said since `since` that they live.
pub async fn count_living(
    executor: impl PgExecutor<'_>,
    since: Timestamp,
) -> Result<u32, StoreError> {
    let row = sqlx::query("SELECT count(*) FROM replicas WHERE seen_at >= $1")
        .bind(ts(since))
        .fetch_one(executor)
        .await?;
    Ok(u32::try_from(row.try_get::<i64, _>(0)?).unwrap_or(u32::MAX))
}
