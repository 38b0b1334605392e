//! Nodes as users see them: read only. Their writers are the workers.

use std::collections::BTreeMap;

use sqlx::postgres::PgRow;
use sqlx::{PgExecutor, QueryBuilder, Row};
use uuid::Uuid;

use crate::domain::ids::{AccountId, ClusterId, MigrationId, PoolId};
use crate::domain::inventory::ServerStatus;
use crate::domain::ledger::Ledger;
use crate::domain::node::{Lineage, Node};
use crate::store::reader::Reader;
use crate::store::{StoreError, nodes};

/// A node with what surrounds it.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeRow {
    /// The node.
    pub node: Node,
    /// With whose login it is made.
    pub account_id: AccountId,
    /// Its flavor.
    pub flavor: String,
    /// Its zone.
    pub zone: Option<String>,
    /// The migration for which it was made.
    pub job_id: Option<MigrationId>,
    /// What its owner put on it, as last seen.
    pub ledger: Ledger,
    /// What its predecessor's owner had put on that.
    pub heritage: Option<Ledger>,
}

/// Columns of [`NodeRow`].
const SELECT: &str = "SELECT id, cluster_id, pool_id, cloud_id, account_id, role, member, name,
            flavor, zone, job_id, desired, attempt, not_before, trouble, created_at, port, port_id,
            address, server, server_id, server_intent_at, server_status, server_fault,
            server_missing_since, token, object, kubelet, drain, drain_started_at, was_cordoned,
            blockers, usable_at, predecessor_id, heir_id, ledger, carried,
            (SELECT p.ledger FROM nodes AS p WHERE p.id = nodes.predecessor_id) AS heritage,
            (SELECT p.drain = 'idle' AND p.desired = 'present' FROM nodes AS p
             WHERE p.id = nodes.predecessor_id) AS predecessor_serves
     FROM nodes";

fn node_row(row: &PgRow) -> Result<NodeRow, StoreError> {
    let row = Reader::new("nodes", row)?;
    Ok(NodeRow {
        account_id: row.get("account_id")?,
        flavor: row.get("flavor")?,
        zone: row.get("zone")?,
        job_id: row.get("job_id")?,
        ledger: row.json("ledger")?,
        heritage: row.maybe_json("heritage")?,
        node: node(&row)?,
    })
}

fn node(row: &Reader<'_>) -> Result<Node, StoreError> {
    Ok(Node {
        id: row.get("id")?,
        cluster_id: row.get("cluster_id")?,
        pool_id: row.get("pool_id")?,
        role: row.word("role")?,
        member: row.maybe_count("member")?,
        name: row.get("name")?,
        cloud_id: row.get("cloud_id")?,
        desired: row.word("desired")?,
        attempt: row.count("attempt")?,
        not_before: row.maybe_at("not_before")?,
        created_at: row.at("created_at")?,
        port: row.word("port")?,
        port_id: row.get("port_id")?,
        address: row.get("address")?,
        server: row.word("server")?,
        server_id: row.get("server_id")?,
        server_intent_at: row.maybe_at("server_intent_at")?,
        server_status: row.get::<Option<String>>("server_status")?.map(ServerStatus::from),
        server_fault: row.get("server_fault")?,
        server_missing_since: row.maybe_at("server_missing_since")?,
        token: row.word("token")?,
        object: row.word("object")?,
        kubelet: row.json("kubelet")?,
        drain: row.word("drain")?,
        drain_started_at: row.maybe_at("drain_started_at")?,
        was_cordoned: row.get("was_cordoned")?,
        blockers: row.json("blockers")?,
        usable_at: row.maybe_at("usable_at")?,
        trouble: row.get("trouble")?,
        lineage: Lineage {
            predecessor: row.get("predecessor_id")?,
            heir: row.get("heir_id")?,
            needs_carry: nodes::needs_carry(
                (
                    row.maybe_json::<Ledger>("heritage")?.as_ref(),
                    row.maybe_json::<Ledger>("carried")?.as_ref(),
                ),
                row.get("predecessor_serves")?,
            ),
        },
        signs: crate::domain::node::Signs::default(),
    })
}

/// Nodes of a cluster that are not closed, by name.
pub async fn list(
    executor: impl PgExecutor<'_>,
    cluster: ClusterId,
) -> Result<Vec<NodeRow>, StoreError> {
    let mut query = QueryBuilder::new(SELECT);
    query.push(" WHERE closed_at IS NULL AND cluster_id = ").push_bind(cluster);
    query.push(" ORDER BY name");
    query.build().fetch_all(executor).await?.iter().map(node_row).collect()
}

/// Nodes of a migration, also closed ones: its old nodes, and those that were made for it.
pub async fn list_of_migration(
    executor: impl PgExecutor<'_>,
    migration: MigrationId,
) -> Result<Vec<NodeRow>, StoreError> {
    let mut query = QueryBuilder::new(SELECT);
    query.push(" WHERE job_id = ").push_bind(migration);
    query.push(" OR id IN (SELECT node_id FROM migration_nodes WHERE migration_id = ");
    query.push_bind(migration).push(") ORDER BY name");
    query.build().fetch_all(executor).await?.iter().map(node_row).collect()
}

/// How many nodes there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeCount {
    /// In any state.
    pub nodes: u32,
    /// Those that serve.
    pub usable: u32,
}

/// Numbers of nodes by cluster and pool (none: the control plane).
pub async fn count(
    executor: impl PgExecutor<'_>,
    clusters: &[ClusterId],
) -> Result<BTreeMap<(ClusterId, Option<PoolId>), NodeCount>, StoreError> {
    let ids: Vec<Uuid> = clusters.iter().map(|id| id.0).collect();
    // The same rule as `Node::is_usable`; a test holds the two together.
    let rows = sqlx::query(
        "SELECT cluster_id, pool_id,
                count(*) AS nodes,
                count(*) FILTER (
                    WHERE desired = 'present' AND server = 'present'
                      AND server_status = 'ACTIVE' AND object = 'present'
                      AND (kubelet ->> 'is_ready')::boolean
                      AND (kubelet ->> 'is_ours')::boolean
                      AND (kubelet ->> 'is_labelled')::boolean
                      AND (kubelet ->> 'has_daemons')::boolean) AS usable
         FROM nodes
         WHERE closed_at IS NULL AND cluster_id = ANY($1)
         GROUP BY cluster_id, pool_id",
    )
    .bind(ids)
    .fetch_all(executor)
    .await?;
    let number = |row: &PgRow, column: &str| -> Result<u32, StoreError> {
        Ok(u32::try_from(row.try_get::<i64, _>(column)?).unwrap_or(u32::MAX))
    };
    rows.iter()
        .map(|row| {
            let key = (row.try_get("cluster_id")?, row.try_get("pool_id")?);
            Ok((key, NodeCount { nodes: number(row, "nodes")?, usable: number(row, "usable")? }))
        })
        .collect()
}
