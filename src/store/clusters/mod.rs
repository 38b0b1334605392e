//! Clusters, and the clusters' keys; pools are in [`pools`], their nodes as users see them in
//! [`nodes`].
//!
//! Here is what `app` writes: the wish. What is observed is written by the cluster worker.

pub mod nodes;
pub mod pools;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{PgExecutor, QueryBuilder, Row};

use super::change::{Change, change};
use super::page::{Page, PageRequest};
use super::reader::{Reader, to_integer, to_json};
use super::seal::Sealed;
use super::{StoreError, Tx, expect_rows, ts};
use crate::domain::cluster::{ClusterNetwork, ClusterPhase};
use crate::domain::condition::Condition;
use crate::domain::ids::{CloudId, ClusterId, OfferingId, ProjectId};
use crate::domain::node::{Desired, Outside};

/// The project has a cluster of this name.
pub const NAME_TAKEN: &str = "clusters_name_per_project_key";

/// A cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterRow {
    /// Its id.
    pub id: ClusterId,
    /// Its project.
    pub project_id: ProjectId,
    /// Its name.
    pub name: String,
    /// Its offering.
    pub offering_id: OfferingId,
    /// Where its control plane is.
    pub control_plane_cloud_id: CloudId,
    /// How many control-plane servers.
    pub control_plane_count: u32,
    /// Their flavor.
    pub control_plane_flavor: String,
    /// Addresses and names inside.
    pub network: ClusterNetwork,
    /// Extra flags of the API server.
    pub api_server_args: BTreeMap<String, String>,
    /// Whether it is wanted.
    pub desired: Desired,
    /// Number of the wish.
    pub generation: i64,
    /// Number of the wish that is fulfilled.
    pub observed_generation: i64,
    /// Where it is in its life.
    pub phase: ClusterPhase,
    /// Finer truths.
    pub conditions: Vec<Condition>,
    /// Why it is not going on.
    pub waiting: Vec<String>,
    /// The port of the endpoint's address.
    pub vip_port: Outside,
    /// Its id.
    pub vip_port_id: Option<String>,
    /// The endpoint's address.
    pub vip_address: Option<String>,
    /// When its API answered first.
    pub api_reached_at: Option<Timestamp>,
    /// When what every cluster gets (CNI and the like) was applied.
    pub base_applied_at: Option<Timestamp>,
    /// When its nodes were last listed.
    pub nodes_listed_at: Option<Timestamp>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When nothing of it was left.
    pub deleted_at: Option<Timestamp>,
}

impl ClusterRow {
    /// A cluster that was just asked for.
    pub fn new(id: ClusterId, project_id: ProjectId, now: Timestamp) -> Self {
        Self {
            id,
            project_id,
            name: String::new(),
            offering_id: OfferingId(uuid::Uuid::nil()),
            control_plane_cloud_id: CloudId(uuid::Uuid::nil()),
            control_plane_count: 1,
            control_plane_flavor: String::new(),
            network: ClusterNetwork::default(),
            api_server_args: BTreeMap::new(),
            desired: Desired::Present,
            generation: 1,
            observed_generation: 0,
            phase: ClusterPhase::Creating,
            conditions: Vec::new(),
            waiting: Vec::new(),
            vip_port: Outside::Never,
            vip_port_id: None,
            vip_address: None,
            api_reached_at: None,
            base_applied_at: None,
            nodes_listed_at: None,
            created_at: now,
            updated_at: now,
            deleted_at: None,
        }
    }

    /// `https://<address>:6443`, once there is an address.
    pub fn endpoint(&self) -> Option<String> {
        self.vip_address.as_ref().map(|address| format!("https://{address}:6443"))
    }
}

const SELECT: &str = "SELECT id, project_id, name, offering_id, control_plane_cloud_id,
            control_plane_count, control_plane_flavor, network, api_server_args, desired,
            generation, observed_generation, phase, conditions, waiting, vip_port, vip_port_id,
            vip_address, api_reached_at, base_applied_at, nodes_listed_at, created_at, updated_at,
            deleted_at
     FROM clusters";

fn cluster(row: &PgRow) -> Result<ClusterRow, StoreError> {
    let row = Reader::new("clusters", row)?;
    Ok(ClusterRow {
        id: row.get("id")?,
        project_id: row.get("project_id")?,
        name: row.get("name")?,
        offering_id: row.get("offering_id")?,
        control_plane_cloud_id: row.get("control_plane_cloud_id")?,
        control_plane_count: row.count("control_plane_count")?,
        control_plane_flavor: row.get("control_plane_flavor")?,
        network: row.json("network")?,
        api_server_args: row.json("api_server_args")?,
        desired: row.word("desired")?,
        generation: row.get("generation")?,
        observed_generation: row.get("observed_generation")?,
        phase: row.word("phase")?,
        conditions: row.json("conditions")?,
        waiting: row.json("waiting")?,
        vip_port: row.word("vip_port")?,
        vip_port_id: row.get("vip_port_id")?,
        vip_address: row.get("vip_address")?,
        api_reached_at: row.maybe_at("api_reached_at")?,
        base_applied_at: row.maybe_at("base_applied_at")?,
        nodes_listed_at: row.maybe_at("nodes_listed_at")?,
        created_at: row.at("created_at")?,
        updated_at: row.at("updated_at")?,
        deleted_at: row.maybe_at("deleted_at")?,
    })
}

/// Adds a cluster. Only the wish is written; everything observed begins empty.
pub async fn insert(tx: &mut Tx, cluster: &ClusterRow) -> Result<(), StoreError> {
    let result = sqlx::query(
        "INSERT INTO clusters (id, project_id, name, offering_id, control_plane_cloud_id,
                               control_plane_count, control_plane_flavor, network,
                               api_server_args, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10)",
    )
    .bind(cluster.id)
    .bind(cluster.project_id)
    .bind(&cluster.name)
    .bind(cluster.offering_id)
    .bind(cluster.control_plane_cloud_id)
    .bind(to_integer(cluster.control_plane_count))
    .bind(&cluster.control_plane_flavor)
    .bind(to_json(&cluster.network))
    .bind(to_json(&cluster.api_server_args))
    .bind(ts(cluster.created_at))
    .execute(&mut **tx)
    .await?;
    expect_rows(&result, 1)
}

/// One cluster.
pub async fn find(
    executor: impl PgExecutor<'_>,
    id: ClusterId,
) -> Result<Option<ClusterRow>, StoreError> {
    let mut query = QueryBuilder::new(SELECT);
    query.push(" WHERE id = ").push_bind(id);
    query.build().fetch_optional(executor).await?.as_ref().map(cluster).transpose()
}

/// One cluster, locked against other wishes until the transaction ends.
pub async fn lock(tx: &mut Tx, id: ClusterId) -> Result<Option<ClusterRow>, StoreError> {
    let mut query = QueryBuilder::new(SELECT);
    query.push(" WHERE id = ").push_bind(id).push(" FOR NO KEY UPDATE");
    query.build().fetch_optional(&mut **tx).await?.as_ref().map(cluster).transpose()
}

/// Which clusters to list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ClusterFilter {
    /// Only this project's.
    pub project_id: Option<ProjectId>,
    /// Only those of this name.
    pub name: Option<String>,
    /// Also those of which nothing is left.
    pub with_deleted: bool,
}

/// Clusters, oldest first.
pub async fn list(
    executor: impl PgExecutor<'_>,
    filter: &ClusterFilter,
    request: &PageRequest,
) -> Result<Page<ClusterRow>, StoreError> {
    let keyset = request.keyset("clusters.id", filter);
    let mut query = QueryBuilder::new(SELECT);
    query.push(" WHERE TRUE");
    if let Some(project) = filter.project_id {
        query.push(" AND project_id = ").push_bind(project);
    }
    if let Some(name) = &filter.name {
        query.push(" AND name = ").push_bind(name.clone());
    }
    if !filter.with_deleted {
        query.push(" AND phase <> 'deleted'");
    }
    if let Some(after) = keyset.after::<ClusterId>()? {
        query.push(" AND id > ").push_bind(after);
    }
    query.push(" ORDER BY id LIMIT ").push_bind(keyset.fetch());
    let rows = query.build().fetch_all(executor).await?;
    let rows = rows.iter().map(cluster).collect::<Result<Vec<_>, _>>()?;
    Ok(keyset.page(rows, |row| row.id))
}

/// Records that the wish changed. `seen` is the generation that the caller knows, if it cares.
pub async fn bump(
    tx: &mut Tx,
    id: ClusterId,
    seen: Option<i64>,
    now: Timestamp,
) -> Result<Change, StoreError> {
    let update = sqlx::query(
        "UPDATE clusters
         SET generation = generation + 1, updated_at = $3
         WHERE id = $1 AND ($2::bigint IS NULL OR generation = $2)
         RETURNING generation",
    );
    let look = sqlx::query("SELECT generation FROM clusters WHERE id = $1").bind(id);
    change(tx, update.bind(id).bind(seen).bind(ts(now)), look).await
}

/// Records that the cluster is not wanted any more.
pub async fn set_absent(
    tx: &mut Tx,
    id: ClusterId,
    seen: Option<i64>,
    now: Timestamp,
) -> Result<Change, StoreError> {
    let update = sqlx::query(
        "UPDATE clusters
         SET desired = 'absent', generation = generation + 1, updated_at = $3
         WHERE id = $1 AND ($2::bigint IS NULL OR generation = $2)
         RETURNING generation",
    );
    let look = sqlx::query("SELECT generation FROM clusters WHERE id = $1").bind(id);
    change(tx, update.bind(id).bind(seen).bind(ts(now)), look).await
}

/// Which pair of a cluster's PKI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// Signs API servers, kubelets and clients.
    ClusterCa,
    /// Signs the API server in front of aggregated APIs.
    FrontProxyCa,
    /// Signs etcd members and their clients.
    EtcdCa,
    /// Signs service account tokens.
    ServiceAccount,
}

impl KeyKind {
    /// Every kind.
    pub const ALL: [Self; 4] =
        [Self::ClusterCa, Self::FrontProxyCa, Self::EtcdCa, Self::ServiceAccount];

    /// The word in the database; also the column of the key's seal.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterCa => "cluster_ca",
            Self::FrontProxyCa => "front_proxy_ca",
            Self::EtcdCa => "etcd_ca",
            Self::ServiceAccount => "service_account",
        }
    }
}

/// One pair of a cluster's PKI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// Which pair.
    pub kind: KeyKind,
    /// Certificate or public key.
    pub public_pem: String,
    /// The private key, sealed at `cluster_keys/<cluster id>/<kind>`.
    pub private_key: Sealed,
}

/// Adds the keys of a cluster.
pub async fn insert_keys(tx: &mut Tx, id: ClusterId, keys: &[KeyRow]) -> Result<(), StoreError> {
    for key in keys {
        let result = sqlx::query(
            "INSERT INTO cluster_keys (cluster_id, kind, public_pem, private_key)
             VALUES ($1, $2, $3, $4)",
        )
        .bind(id)
        .bind(key.kind.as_str())
        .bind(&key.public_pem)
        .bind(&key.private_key)
        .execute(&mut **tx)
        .await?;
        expect_rows(&result, 1)?;
    }
    Ok(())
}

/// The keys of a cluster; none once it is deleted.
pub async fn list_keys(
    executor: impl PgExecutor<'_>,
    id: ClusterId,
) -> Result<Vec<KeyRow>, StoreError> {
    let rows = sqlx::query(
        "SELECT kind, public_pem, private_key FROM cluster_keys WHERE cluster_id = $1 ORDER BY kind",
    )
    .bind(id)
    .fetch_all(executor)
    .await?;
    let key = |row: &PgRow| {
        let word: &str = row.try_get("kind")?;
        let kind = KeyKind::ALL.into_iter().find(|kind| kind.as_str() == word);
        Ok(KeyRow {
            kind: kind.ok_or_else(|| StoreError::inconsistent("cluster_keys", id, word))?,
            public_pem: row.try_get("public_pem")?,
            private_key: row.try_get("private_key")?,
        })
    };
    rows.iter().map(key).collect()
}
