//! Migrations of clusters.
//!
//! Here is what `app` writes: the request with its fixed list of nodes, and the wishes of the verbs.
//! Progress is written by the migration worker.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{PgExecutor, QueryBuilder, Row};
use uuid::Uuid;

use super::page::{Page, PageRequest};
use super::reader::{Reader, to_integer, to_json};
use super::{StoreError, Tx, expect_rows, ts};
use crate::domain::condition::Condition;
use crate::domain::harm::Harm;
use crate::domain::ids::{CloudId, ClusterId, MigrationId, NodeId, PoolId, PreflightId, ProjectId};
use crate::domain::migration::{Migration, MigrationNode, MigrationSpec, Phase, Standing};

/// The cluster has a migration under way.
pub const ONE_PER_CLUSTER: &str = "migrations_one_per_cluster_key";

/// A migration.
#[derive(Debug, Clone, PartialEq)]
pub struct MigrationRow {
    /// Its id.
    pub id: MigrationId,
    /// Its cluster.
    pub cluster_id: ClusterId,
    /// Cloud that the workers leave.
    pub source: CloudId,
    /// Cloud that they move to.
    pub target: CloudId,
    /// What is looked at before it begins; none for migrations of before there were preflights.
    pub preflight_id: Option<PreflightId>,
    /// What was asked.
    pub spec: MigrationSpec,
    /// Pools that move.
    pub pools: Vec<PoolId>,
    /// Where it is.
    pub phase: Phase,
    /// When the phase began.
    pub phase_since: Timestamp,
    /// Index of the wave into `spec.waves`.
    pub wave: usize,
    /// Why it is paused, if it is.
    pub paused: Option<String>,
    /// When it last went on after a pause.
    pub resumed_at: Option<Timestamp>,
    /// The wave that somebody approved last.
    pub approved_wave: Option<usize>,
    /// Somebody wants it committed.
    pub wants_commit: bool,
    /// Somebody wants it back.
    pub wants_rollback: bool,
    /// Somebody wants it ended before it began.
    pub wants_cancel: bool,
    /// Since when everything that the soak asks for has been true.
    pub healthy_since: Option<Timestamp>,
    /// Finer truths.
    pub conditions: Vec<Condition>,
    /// Why it is not going on.
    pub waiting: Vec<String>,
    /// Number of the wish.
    pub generation: i64,
    /// Who asked for it.
    pub created_by: String,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

impl MigrationRow {
    /// The migration as planners see it, without what only they need of its nodes.
    pub fn migration(&self, nodes: Vec<MigrationNode>) -> Migration {
        Migration {
            id: self.id,
            cluster_id: self.cluster_id,
            source: self.source,
            target: self.target,
            spec: self.spec.clone(),
            phase: self.phase,
            phase_since: self.phase_since,
            wave: self.wave,
            paused: self.paused.clone(),
            resumed_at: self.resumed_at,
            approved_wave: self.approved_wave,
            wants_commit: self.wants_commit,
            wants_rollback: self.wants_rollback,
            wants_cancel: self.wants_cancel,
            healthy_since: self.healthy_since,
            harm: Harm::default(),
            pools: self.pools.clone(),
            nodes,
            sizes: BTreeMap::new(),
            skips: BTreeSet::new(),
        }
    }

    /// All that decides what a verb means now.
    pub fn standing(&self) -> Standing {
        Standing {
            phase: self.phase,
            is_paused: self.paused.is_some(),
            is_approved: self.approved_wave == Some(self.wave),
            wants_rollback: self.wants_rollback,
            wants_commit: self.wants_commit,
            wants_cancel: self.wants_cancel,
        }
    }
}

const SELECT: &str = "SELECT id, cluster_id, source_cloud_id, target_cloud_id, preflight_id, spec, pool_ids,
            phase, phase_since, wave, paused, resumed_at, approved_wave, wants_commit,
            wants_rollback, wants_cancel, healthy_since, conditions, waiting, generation, created_by, created_at,
            updated_at, finished_at
     FROM migrations";

fn migration(row: &PgRow) -> Result<MigrationRow, StoreError> {
    let row = Reader::new("migrations", row)?;
    Ok(MigrationRow {
        id: row.get("id")?,
        cluster_id: row.get("cluster_id")?,
        source: row.get("source_cloud_id")?,
        target: row.get("target_cloud_id")?,
        preflight_id: row.get("preflight_id")?,
        spec: row.json("spec")?,
        pools: row.get::<Vec<Uuid>>("pool_ids")?.into_iter().map(PoolId).collect(),
        phase: row.word("phase")?,
        phase_since: row.at("phase_since")?,
        wave: row.count("wave")?,
        paused: row.get("paused")?,
        resumed_at: row.maybe_at("resumed_at")?,
        approved_wave: row.maybe_count("approved_wave")?,
        wants_commit: row.get("wants_commit")?,
        wants_rollback: row.get("wants_rollback")?,
        wants_cancel: row.get("wants_cancel")?,
        healthy_since: row.maybe_at("healthy_since")?,
        conditions: row.json("conditions")?,
        waiting: row.json("waiting")?,
        generation: row.get("generation")?,
        created_by: row.get("created_by")?,
        created_at: row.at("created_at")?,
        updated_at: row.at("updated_at")?,
        finished_at: row.maybe_at("finished_at")?,
    })
}

/// Adds a migration with its list of old nodes.
pub async fn insert(
    tx: &mut Tx,
    migration: &MigrationRow,
    nodes: &[MigrationNode],
) -> Result<(), StoreError> {
    let result = sqlx::query(
        "INSERT INTO migrations (id, cluster_id, source_cloud_id, target_cloud_id, spec, pool_ids,
                                 phase_since, wave, created_by, created_at, updated_at,
                                 preflight_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $7, $7, $10)",
    )
    .bind(migration.id)
    .bind(migration.cluster_id)
    .bind(migration.source)
    .bind(migration.target)
    .bind(to_json(&migration.spec))
    .bind(migration.pools.iter().map(|pool| pool.0).collect::<Vec<Uuid>>())
    .bind(ts(migration.created_at))
    .bind(to_integer(migration.wave))
    .bind(&migration.created_by)
    .bind(migration.preflight_id)
    .execute(&mut **tx)
    .await?;
    expect_rows(&result, 1)?;
    let result = sqlx::query(
        "INSERT INTO migration_nodes (migration_id, node_id, wave)
         SELECT $1, node_id, wave
         FROM unnest($2::uuid[], $3::integer[]) AS node (node_id, wave)",
    )
    .bind(migration.id)
    .bind(nodes.iter().map(|node| node.node_id.0).collect::<Vec<Uuid>>())
    .bind(nodes.iter().map(|node| to_integer(node.wave)).collect::<Vec<i32>>())
    .execute(&mut **tx)
    .await?;
    expect_rows(&result, nodes.len() as u64)
}

/// One migration.
pub async fn find(
    executor: impl PgExecutor<'_>,
    id: MigrationId,
) -> Result<Option<MigrationRow>, StoreError> {
    let mut query = QueryBuilder::new(SELECT);
    query.push(" WHERE id = ").push_bind(id);
    query.build().fetch_optional(executor).await?.as_ref().map(migration).transpose()
}

/// One migration, locked until the transaction ends.
pub async fn lock(tx: &mut Tx, id: MigrationId) -> Result<Option<MigrationRow>, StoreError> {
    let mut query = QueryBuilder::new(SELECT);
    query.push(" WHERE id = ").push_bind(id).push(" FOR NO KEY UPDATE");
    query.build().fetch_optional(&mut **tx).await?.as_ref().map(migration).transpose()
}

/// The migrations that are under way in these clusters, at most one each.
pub async fn list_open(
    executor: impl PgExecutor<'_>,
    clusters: &[ClusterId],
) -> Result<Vec<MigrationRow>, StoreError> {
    let ids: Vec<Uuid> = clusters.iter().map(|id| id.0).collect();
    let mut query = QueryBuilder::new(SELECT);
    query.push(" WHERE phase NOT IN ('succeeded', 'rolled_back', 'cancelled')");
    query.push(" AND cluster_id = ANY(").push_bind(ids).push(")");
    query.build().fetch_all(executor).await?.iter().map(migration).collect()
}

/// Migrations by their ids, in any order.
pub async fn list_by_ids(
    executor: impl PgExecutor<'_>,
    ids: &[MigrationId],
) -> Result<Vec<MigrationRow>, StoreError> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let mut query = QueryBuilder::new(SELECT);
    query.push(" WHERE id = ANY(").push_bind(ids).push(")");
    query.build().fetch_all(executor).await?.iter().map(migration).collect()
}

/// Which migrations to list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct MigrationFilter {
    /// Only this project's.
    pub project_id: Option<ProjectId>,
    /// Only this cluster's.
    pub cluster_id: Option<ClusterId>,
}

/// Migrations, newest first.
pub async fn list(
    executor: impl PgExecutor<'_>,
    filter: MigrationFilter,
    request: &PageRequest,
) -> Result<Page<MigrationRow>, StoreError> {
    let keyset = request.keyset("migrations.id desc", &filter);
    let mut query = QueryBuilder::new(SELECT);
    query.push(" WHERE TRUE");
    if let Some(project) = filter.project_id {
        query.push(" AND cluster_id IN (SELECT id FROM clusters WHERE project_id = ");
        query.push_bind(project).push(")");
    }
    if let Some(cluster) = filter.cluster_id {
        query.push(" AND cluster_id = ").push_bind(cluster);
    }
    if let Some(after) = keyset.after::<MigrationId>()? {
        query.push(" AND id < ").push_bind(after);
    }
    query.push(" ORDER BY id DESC LIMIT ").push_bind(keyset.fetch());
    let rows = query.build().fetch_all(executor).await?;
    let rows = rows.iter().map(migration).collect::<Result<Vec<_>, _>>()?;
    Ok(keyset.page(rows, |row| row.id))
}

/// The old nodes of migrations with their waves.
pub async fn list_nodes(
    executor: impl PgExecutor<'_>,
    ids: &[MigrationId],
) -> Result<Vec<(MigrationId, MigrationNode)>, StoreError> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query(
        "SELECT migration_id, node_id, wave
         FROM migration_nodes
         WHERE migration_id = ANY($1)
         ORDER BY migration_id, wave, node_id",
    )
    .bind(ids)
    .fetch_all(executor)
    .await?;
    rows.iter()
        .map(|row| {
            let wave = usize::try_from(row.try_get::<i32, _>("wave")?).unwrap_or(0);
            let node = MigrationNode { node_id: row.try_get("node_id")?, wave };
            Ok((row.try_get("migration_id")?, node))
        })
        .collect()
}

/// Writes what users wish of a migration: paused, approved wave, the three wants.
pub async fn set_wishes(
    tx: &mut Tx,
    migration: &MigrationRow,
    now: Timestamp,
) -> Result<(), StoreError> {
    let result = sqlx::query(
        "UPDATE migrations
         SET resumed_at = CASE
                 WHEN (paused IS NOT NULL AND $2 IS NULL) OR wants_rollback <> $5 THEN $7
                 ELSE resumed_at END,
             paused = $2, approved_wave = $3, wants_commit = $4, wants_rollback = $5,
             wants_cancel = $6, generation = generation + 1, updated_at = $7
         WHERE id = $1",
    )
    .bind(migration.id)
    .bind(&migration.paused)
    .bind(migration.approved_wave.map(to_integer))
    .bind(migration.wants_commit)
    .bind(migration.wants_rollback)
    .bind(migration.wants_cancel)
    .bind(ts(now))
    .execute(&mut **tx)
    .await?;
    expect_rows(&result, 1)
}

/// Writes that nobody waits for the drain of a node, and why. Returns whether that is new.
pub async fn skip(
    tx: &mut Tx,
    migration: MigrationId,
    (node, reason): (NodeId, &str),
    now: Timestamp,
) -> Result<bool, StoreError> {
    let result = sqlx::query(
        "INSERT INTO migration_skips (migration_id, node_id, reason)
         VALUES ($1, $2, $3)
         ON CONFLICT DO NOTHING",
    )
    .bind(migration)
    .bind(node)
    .bind(reason)
    .execute(&mut **tx)
    .await?;
    let is_new = result.rows_affected() == 1;
    if is_new {
        sqlx::query(
            "UPDATE migrations SET generation = generation + 1, updated_at = $2 WHERE id = $1",
        )
        .bind(migration)
        .bind(ts(now))
        .execute(&mut **tx)
        .await?;
    }
    Ok(is_new)
}

/// Forgets the back-off of nodes that wait to be tried again.
pub async fn forget_backoff(tx: &mut Tx, cluster: ClusterId) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE nodes SET not_before = NULL
         WHERE cluster_id = $1 AND closed_at IS NULL AND not_before IS NOT NULL",
    )
    .bind(cluster)
    .execute(&mut **tx)
    .await?;
    Ok(())
}
