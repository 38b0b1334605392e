//! Preflights: what `app` writes (the wish, wishes to check, waivers) and what their worker writes.

use jiff::Timestamp;
use sqlx::postgres::PgRow;
use sqlx::{PgExecutor, QueryBuilder};
use uuid::Uuid;

use super::reader::{Reader, to_json};
use super::{StoreError, Tx, expect_rows, ts};
use crate::domain::ids::{CloudId, ClusterId, MigrationId, PoolId, PreflightId};
use crate::domain::insight::{Insight, InsightId, Waiver};
use crate::domain::migration::{MigrationSpec, Phase};
use crate::domain::preflight::MovePlan;

/// A preflight.
#[derive(Debug, Clone, PartialEq)]
pub struct PreflightRow {
    /// Its id.
    pub id: PreflightId,
    /// Whose workers would move.
    pub cluster_id: ClusterId,
    /// Cloud that they would leave.
    pub source: CloudId,
    /// Cloud that they would move to.
    pub target: CloudId,
    /// The migration that was asked about.
    pub spec: MigrationSpec,
    /// Pools that would move.
    pub pools: Vec<PoolId>,
    /// Who goes on in spite of what.
    pub waivers: Vec<(InsightId, Waiver)>,
    /// Counts wishes to check.
    pub wanted: i64,
    /// The last wish that was fulfilled.
    pub done: i64,
    /// The check of the target cloud that the next look waits for.
    pub cloud_check: Option<i64>,
    /// When that was asked for.
    pub cloud_asked_at: Option<Timestamp>,
    /// What was found, without waivers.
    pub insights: Vec<Insight>,
    /// What the migration would do.
    pub plan: Option<MovePlan>,
    /// When it was last looked at.
    pub checked_at: Option<Timestamp>,
    /// Who asked.
    pub created_by: String,
    /// When.
    pub created_at: Timestamp,
}

impl PreflightRow {
    /// Whether the last look came after the last wish for one.
    pub fn is_done(&self) -> bool {
        self.done >= self.wanted
    }
}

/// The migration that a preflight belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// Which one.
    pub migration: MigrationId,
    /// Where it is.
    pub phase: Phase,
    /// When it was accepted.
    pub created_at: Timestamp,
}

const SELECT: &str = "SELECT id, cluster_id, source_cloud_id, target_cloud_id, spec, pool_ids,
            waivers, wanted, done, cloud_check, cloud_asked_at, insights, plan, checked_at,
            created_by, created_at
     FROM preflights";

fn preflight(row: &PgRow) -> Result<PreflightRow, StoreError> {
    let row = Reader::new("preflights", row)?;
    Ok(PreflightRow {
        id: row.get("id")?,
        cluster_id: row.get("cluster_id")?,
        source: row.get("source_cloud_id")?,
        target: row.get("target_cloud_id")?,
        spec: row.json("spec")?,
        pools: row.get::<Vec<Uuid>>("pool_ids")?.into_iter().map(PoolId).collect(),
        waivers: row.json("waivers")?,
        wanted: row.get("wanted")?,
        done: row.get("done")?,
        cloud_check: row.get("cloud_check")?,
        cloud_asked_at: row.maybe_at("cloud_asked_at")?,
        insights: row.json("insights")?,
        plan: row.maybe_json("plan")?,
        checked_at: row.maybe_at("checked_at")?,
        created_by: row.get("created_by")?,
        created_at: row.at("created_at")?,
    })
}

/// Adds a preflight that nobody has looked into yet.
pub async fn insert(tx: &mut Tx, row: &PreflightRow) -> Result<(), StoreError> {
    let result = sqlx::query(
        "INSERT INTO preflights (id, cluster_id, source_cloud_id, target_cloud_id, spec, pool_ids,
                                 waivers, created_by, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(row.id)
    .bind(row.cluster_id)
    .bind(row.source)
    .bind(row.target)
    .bind(to_json(&row.spec))
    .bind(row.pools.iter().map(|pool| pool.0).collect::<Vec<Uuid>>())
    .bind(to_json(&row.waivers))
    .bind(&row.created_by)
    .bind(ts(row.created_at))
    .execute(&mut **tx)
    .await?;
    expect_rows(&result, 1)
}

/// One preflight.
pub async fn find(
    executor: impl PgExecutor<'_>,
    id: PreflightId,
) -> Result<Option<PreflightRow>, StoreError> {
    let mut query = QueryBuilder::new(SELECT);
    query.push(" WHERE id = ").push_bind(id);
    query.build().fetch_optional(executor).await?.as_ref().map(preflight).transpose()
}

/// Preflights by id; those that do not exist are left out.
pub async fn list(
    executor: impl PgExecutor<'_>,
    ids: &[PreflightId],
) -> Result<Vec<PreflightRow>, StoreError> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let mut query = QueryBuilder::new(SELECT);
    query.push(" WHERE id = ANY(").push_bind(ids).push(")");
    query.build().fetch_all(executor).await?.iter().map(preflight).collect()
}

/// One preflight, locked until the transaction ends.
pub async fn lock(tx: &mut Tx, id: PreflightId) -> Result<Option<PreflightRow>, StoreError> {
    let mut query = QueryBuilder::new(SELECT);
    query.push(" WHERE id = ").push_bind(id).push(" FOR NO KEY UPDATE");
    query.build().fetch_optional(&mut **tx).await?.as_ref().map(preflight).transpose()
}

/// The newest preflight of a cluster for a target.
pub async fn newest(
    executor: impl PgExecutor<'_>,
    (cluster, target): (ClusterId, Option<CloudId>),
) -> Result<Option<PreflightRow>, StoreError> {
    let mut query = QueryBuilder::new(SELECT);
    query.push(" WHERE cluster_id = ").push_bind(cluster);
    if let Some(target) = target {
        query.push(" AND target_cloud_id = ").push_bind(target);
    }
    query.push(" ORDER BY created_at DESC, id DESC LIMIT 1");
    query.build().fetch_optional(executor).await?.as_ref().map(preflight).transpose()
}

/// The preflight of a migration.
pub async fn of_migration(
    executor: impl PgExecutor<'_>,
    id: MigrationId,
) -> Result<Option<PreflightRow>, StoreError> {
    let mut query = QueryBuilder::new(SELECT);
    query.push(" WHERE id = (SELECT preflight_id FROM migrations WHERE id = ");
    query.push_bind(id).push(")");
    query.build().fetch_optional(executor).await?.as_ref().map(preflight).transpose()
}

/// The migration that a preflight belongs to, if any.
pub async fn owner(
    executor: impl PgExecutor<'_>,
    id: PreflightId,
) -> Result<Option<Owner>, StoreError> {
    let row = sqlx::query("SELECT id, phase, created_at FROM migrations WHERE preflight_id = $1")
        .bind(id)
        .fetch_optional(executor)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let row = Reader::new("migrations", &row)?;
    Ok(Some(Owner {
        migration: row.get("id")?,
        phase: row.word("phase")?,
        created_at: row.at("created_at")?,
    }))
}

/// Asks for a look.
pub async fn want_check(tx: &mut Tx, id: PreflightId) -> Result<(), StoreError> {
    let result = sqlx::query("UPDATE preflights SET wanted = wanted + 1 WHERE id = $1")
        .bind(id)
        .execute(&mut **tx)
        .await?;
    expect_rows(&result, 1)
}

/// Writes the waivers.
pub async fn set_waivers(
    tx: &mut Tx,
    id: PreflightId,
    waivers: &[(InsightId, Waiver)],
) -> Result<(), StoreError> {
    let result = sqlx::query("UPDATE preflights SET waivers = $2 WHERE id = $1")
        .bind(id)
        .bind(to_json(waivers))
        .execute(&mut **tx)
        .await?;
    expect_rows(&result, 1)
}

/// Remembers which check of the target cloud the next look waits for.
pub async fn set_cloud_check(
    tx: &mut Tx,
    id: PreflightId,
    check: Option<(i64, Timestamp)>,
) -> Result<(), StoreError> {
    let result =
        sqlx::query("UPDATE preflights SET cloud_check = $2, cloud_asked_at = $3 WHERE id = $1")
            .bind(id)
            .bind(check.map(|(number, _)| number))
            .bind(check.map(|(_, at)| ts(at)))
            .execute(&mut **tx)
            .await?;
    expect_rows(&result, 1)
}

/// What a look found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The wish that it fulfils.
    pub wanted: i64,
    /// What was found.
    pub insights: Vec<Insight>,
    /// What the migration would do, as far as that can be told.
    pub plan: Option<MovePlan>,
    /// When.
    pub at: Timestamp,
}

/// Writes what a look found.
pub async fn write_check(tx: &mut Tx, id: PreflightId, found: &Found) -> Result<(), StoreError> {
    let result = sqlx::query(
        "UPDATE preflights
         SET insights = $2, plan = $3, checked_at = $4, done = GREATEST(done, $5),
             cloud_check = NULL, cloud_asked_at = NULL
         WHERE id = $1",
    )
    .bind(id)
    .bind(to_json(&found.insights))
    .bind(found.plan.as_ref().map(to_json))
    .bind(ts(found.at))
    .bind(found.wanted)
    .execute(&mut **tx)
    .await?;
    expect_rows(&result, 1)
}
