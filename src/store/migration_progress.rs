//! What workers read of a migration, and the migration worker writes on it.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgExecutor, Row};

use super::{StoreError, Ts, Tx, expect_rows, ts};
use crate::domain::condition::{self, Condition};
use crate::domain::harm::Harm;
use crate::domain::ids::{CloudId, ClusterId, MigrationId, NodeId, PoolId};
use crate::domain::migration::{Event, Migration, MigrationNode, MigrationSpec, PHASES, Phase};

const COLUMNS: &str = "id, cluster_id, source_cloud_id, target_cloud_id, spec, pool_ids, phase,
    phase_since, wave, paused, resumed_at, approved_wave, wants_commit, wants_rollback,
    wants_cancel, healthy_since, harm";

/// Reads a migration.
pub async fn load(tx: &mut Tx, id: MigrationId) -> Result<Option<Migration>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM migrations WHERE id = $1");
    let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id).fetch_optional(&mut **tx).await?;
    with_nodes(tx, row).await
}

/// The migration of a cluster that is not over.
pub async fn active(tx: &mut Tx, cluster: ClusterId) -> Result<Option<Migration>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM migrations
         WHERE cluster_id = $1 AND phase NOT IN ('succeeded', 'rolled_back', 'cancelled')"
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(cluster).fetch_optional(&mut **tx).await?;
    with_nodes(tx, row).await
}

/// Ids of the migrations of these clusters that are not over, or whose target is being cleaned.
pub async fn active_ids(
    executor: impl PgExecutor<'_>,
    clusters: &[ClusterId],
) -> Result<Vec<MigrationId>, StoreError> {
    let rows = sqlx::query(
        "SELECT id FROM migrations
         WHERE cluster_id = ANY($1)
           AND (phase NOT IN ('succeeded', 'rolled_back', 'cancelled')
                OR phase = 'rolled_back'
                   AND conditions @> '[{\"type\": \"TargetCleanup\", \"status\": true}]')",
    )
    .bind(clusters.iter().map(|id| id.0).collect::<Vec<_>>())
    .fetch_all(executor)
    .await?;
    rows.iter().map(|row| Ok(row.try_get("id")?)).collect()
}

async fn with_nodes(tx: &mut Tx, row: Option<PgRow>) -> Result<Option<Migration>, StoreError> {
    let Some(row) = row else { return Ok(None) };
    let mut migration = read(&row)?;
    let nodes = sqlx::query(
        "SELECT m.node_id, m.wave, n.pool_id, n.desired = 'present' OR n.lost AS counts
         FROM migration_nodes AS m
         JOIN nodes AS n ON n.id = m.node_id
         WHERE m.migration_id = $1
         ORDER BY m.node_id",
    )
    .bind(migration.id)
    .fetch_all(&mut **tx)
    .await?;
    for node in &nodes {
        let wave: i32 = node.try_get("wave")?;
        let counts: bool = node.try_get("counts")?;
        if let Some(pool) = node.try_get::<Option<PoolId>, _>("pool_id")?.filter(|_| counts) {
            *migration.sizes.entry(pool).or_default() += 1;
        }
        migration.nodes.push(MigrationNode {
            node_id: node.try_get::<NodeId, _>("node_id")?,
            wave: usize::try_from(wave).unwrap_or(0),
        });
    }
    let skips = sqlx::query("SELECT node_id FROM migration_skips WHERE migration_id = $1");
    for skip in skips.bind(migration.id).fetch_all(&mut **tx).await? {
        migration.skips.insert(skip.try_get("node_id")?);
    }
    Ok(Some(migration))
}

fn read(row: &PgRow) -> Result<Migration, StoreError> {
    let id: MigrationId = row.try_get("id")?;
    let word: &str = row.try_get("phase")?;
    let phase = PHASES
        .into_iter()
        .find(|phase| phase.as_str() == word)
        .ok_or_else(|| StoreError::inconsistent("migrations", id, word))?;
    let index = |n: i32| usize::try_from(n).unwrap_or(0);
    let pools: Vec<uuid::Uuid> = row.try_get("pool_ids")?;
    Ok(Migration {
        id,
        cluster_id: row.try_get("cluster_id")?,
        source: row.try_get("source_cloud_id")?,
        target: row.try_get("target_cloud_id")?,
        spec: row.try_get::<Json<MigrationSpec>, _>("spec")?.0,
        phase,
        phase_since: row.try_get::<Ts, _>("phase_since")?.to_jiff(),
        wave: index(row.try_get("wave")?),
        paused: row.try_get("paused")?,
        resumed_at: row.try_get::<Option<Ts>, _>("resumed_at")?.map(Ts::to_jiff),
        approved_wave: row.try_get::<Option<i32>, _>("approved_wave")?.map(index),
        wants_commit: row.try_get("wants_commit")?,
        wants_rollback: row.try_get("wants_rollback")?,
        wants_cancel: row.try_get("wants_cancel")?,
        healthy_since: row.try_get::<Option<Ts>, _>("healthy_since")?.map(Ts::to_jiff),
        harm: row.try_get::<Json<Harm>, _>("harm")?.0,
        pools: pools.into_iter().map(PoolId::from).collect(),
        nodes: Vec::new(),
        sizes: BTreeMap::new(),
        skips: BTreeSet::new(),
    })
}

/// Moves the phase, if it still is what the plan saw and nobody turned round meanwhile. What the
/// old phase waited for is forgotten. Turning back and ending are not held up by a pause. Returns
/// whether it moved.
pub async fn move_phase(
    tx: &mut Tx,
    migration: &Migration,
    (event, to, wave): (Event, Phase, usize),
    now: jiff::Timestamp,
) -> Result<bool, StoreError> {
    let ignores_pause = matches!(event, Event::Rollback | Event::Cancel | Event::ClusterDeleted);
    let result = sqlx::query(
        "UPDATE migrations
         SET phase = $3,
             wave = $4,
             phase_since = $5,
             updated_at = $5,
             healthy_since = NULL,
             waiting = '[]',
             finished_at = CASE
                 WHEN $3 IN ('succeeded', 'rolled_back', 'cancelled') THEN $5 END
         WHERE id = $1 AND phase = $2 AND wants_rollback = $6 AND wants_cancel = $7
           AND (paused IS NULL OR $8)",
    )
    .bind(migration.id)
    .bind(migration.phase.as_str())
    .bind(to.as_str())
    .bind(i32::try_from(wave).unwrap_or(i32::MAX))
    .bind(ts(now))
    .bind(migration.wants_rollback)
    .bind(migration.wants_cancel)
    .bind(ignores_pause)
    .execute(&mut **tx)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// Writes what the watch over the migration saw.
pub async fn write_harm(tx: &mut Tx, id: MigrationId, harm: &Harm) -> Result<(), StoreError> {
    let result = sqlx::query("UPDATE migrations SET harm = $2 WHERE id = $1")
        .bind(id)
        .bind(Json(harm))
        .execute(&mut **tx)
        .await?;
    expect_rows(&result, 1)
}

/// Who asked for a migration.
pub async fn author(tx: &mut Tx, id: MigrationId) -> Result<String, StoreError> {
    let row = sqlx::query("SELECT created_by FROM migrations WHERE id = $1").bind(id);
    Ok(row.fetch_one(&mut **tx).await?.try_get(0)?)
}

/// Starts or stops the soak's time.
pub async fn set_healthy(
    tx: &mut Tx,
    id: MigrationId,
    since: Option<jiff::Timestamp>,
) -> Result<(), StoreError> {
    let result = sqlx::query("UPDATE migrations SET healthy_since = $2 WHERE id = $1")
        .bind(id)
        .bind(since.map(ts))
        .execute(&mut **tx)
        .await?;
    expect_rows(&result, 1)
}

/// Pauses a migration for a reason of its own.
pub async fn pause(tx: &mut Tx, id: MigrationId, reason: &str) -> Result<(), StoreError> {
    let result = sqlx::query("UPDATE migrations SET paused = coalesce(paused, $2) WHERE id = $1")
        .bind(id)
        .bind(reason)
        .execute(&mut **tx)
        .await?;
    expect_rows(&result, 1)
}

/// Turns a migration back for a reason of its own, unless somebody wants something else of it.
pub async fn turn_back(tx: &mut Tx, id: MigrationId) -> Result<(), StoreError> {
    let result = sqlx::query(
        "UPDATE migrations
         SET wants_rollback = TRUE, wants_commit = FALSE, generation = generation + 1
         WHERE id = $1",
    )
    .bind(id)
    .execute(&mut **tx)
    .await?;
    expect_rows(&result, 1)
}

/// What a pool's nodes are made of on a cloud; none is the cloud's default.
#[derive(Debug, Clone, Copy)]
pub struct PoolPlace<'a> {
    /// Flavor.
    pub flavor: &'a str,
    /// Zone.
    pub zone: Option<&'a str>,
    /// Network.
    pub network: Option<&'a str>,
    /// Security group.
    pub security_group: Option<&'a str>,
    /// Image.
    pub image: Option<&'a str>,
}

/// Moves a pool to another cloud: its nodes belong there from now on.
pub async fn move_pool(
    tx: &mut Tx,
    pool: PoolId,
    (cloud, place): (CloudId, PoolPlace<'_>),
) -> Result<(), StoreError> {
    let result = sqlx::query(
        "UPDATE pools
         SET cloud_id = $2, flavor = $3, zone = $4, network = $5, security_group = $6, image = $7
         WHERE id = $1",
    )
    .bind(pool)
    .bind(cloud)
    .bind(place.flavor)
    .bind(place.zone)
    .bind(place.network)
    .bind(place.security_group)
    .bind(place.image)
    .execute(&mut **tx)
    .await?;
    expect_rows(&result, 1)
}

/// Writes why a migration is not going on, for owners to read; only if that changed.
pub async fn write_status(
    tx: &mut Tx,
    id: MigrationId,
    waiting: &[String],
) -> Result<(), StoreError> {
    sqlx::query("UPDATE migrations SET waiting = $2 WHERE id = $1 AND waiting IS DISTINCT FROM $2")
        .bind(id)
        .bind(Json(waiting))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Sets conditions of a migration; returns those whose status changed.
pub async fn set_conditions(
    tx: &mut Tx,
    id: MigrationId,
    new: Vec<Condition>,
) -> Result<Vec<Condition>, StoreError> {
    let query = sqlx::query("SELECT conditions FROM migrations WHERE id = $1").bind(id);
    let row = query.fetch_one(&mut **tx).await?;
    let Json(mut conditions): Json<Vec<Condition>> = row.try_get("conditions")?;
    let (mut is_changed, mut turned) = (false, Vec::new());
    for one in new {
        let old = conditions.iter().find(|c| c.kind == one.kind).map(|c| c.status);
        if old != Some(one.status) {
            turned.push(one.clone());
        }
        is_changed |= condition::set(&mut conditions, one);
    }
    if is_changed {
        let update = sqlx::query("UPDATE migrations SET conditions = $2 WHERE id = $1");
        update.bind(id).bind(Json(conditions)).execute(&mut **tx).await?;
    }
    Ok(turned)
}
