//! What the cluster worker reads of a cluster, and writes on it.

use std::collections::BTreeMap;

use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgExecutor, Row};

use super::seal::Sealed;
use super::{StoreError, Ts, Tx, expect_rows, ts};
use crate::domain::cluster::{ClusterNetwork, ClusterPhase};
use crate::domain::condition::Condition;
use crate::domain::ids::{CloudId, ClusterId, PoolId, ProjectId};
use crate::domain::node::{Desired, Outside};
use crate::domain::node_view::Taint;
use crate::domain::offering::OfferingSpec;

/// A cluster as its worker sees it.
#[derive(Debug, Clone)]
pub struct ClusterWork {
    /// Its id.
    pub id: ClusterId,
    /// Whose it is.
    pub project_id: ProjectId,
    /// Its name.
    pub name: String,
    /// Whether it is wanted.
    pub desired: Desired,
    /// Counts changes of what is wanted.
    pub generation: i64,
    /// Where it is in its life.
    pub phase: ClusterPhase,
    /// What it runs.
    pub offering: OfferingSpec,
    /// Where its control plane is.
    pub control_plane_cloud: CloudId,
    /// How many members.
    pub members: u16,
    /// Their flavor.
    pub control_plane_flavor: String,
    /// Addresses and names inside.
    pub network: ClusterNetwork,
    /// Extra flags of the API server.
    pub api_server_args: BTreeMap<String, String>,
    /// Port of the endpoint's address.
    pub vip_port: Outside,
    /// Its id.
    pub vip_port_id: Option<String>,
    /// The endpoint's address.
    pub vip_address: Option<String>,
    /// When the API first answered.
    pub api_reached_at: Option<jiff::Timestamp>,
    /// When its Node objects were last listed.
    pub nodes_listed_at: Option<jiff::Timestamp>,
    /// When the CNI was applied.
    pub base_applied_at: Option<jiff::Timestamp>,
    /// Fine-grained truths.
    pub conditions: Vec<Condition>,
    /// Why it is not going on.
    pub waiting: Vec<String>,
}

/// A pool as workers see it.
#[derive(Debug, Clone)]
pub struct PoolWork {
    /// Its id.
    pub id: PoolId,
    /// Its name.
    pub name: String,
    /// Where its nodes belong.
    pub cloud_id: CloudId,
    /// Flavor of new nodes there.
    pub flavor: String,
    /// Zone of new nodes.
    pub zone: Option<String>,
    /// Network of new nodes; none: the cloud's default.
    pub network: Option<String>,
    /// Security group of new nodes; none: the cloud's default.
    pub security_group: Option<String>,
    /// Image of new nodes, if a mapping chose one.
    pub image: Option<String>,
    /// How many are wanted.
    pub count: u32,
    /// Labels of every node.
    pub labels: BTreeMap<String, String>,
    /// Taints of every node.
    pub taints: Vec<Taint>,
    /// How many more may exist while some are replaced.
    pub surge: u32,
}

fn phase(row: &PgRow) -> Result<ClusterPhase, StoreError> {
    let id: ClusterId = row.try_get("id")?;
    match row.try_get::<&str, _>("phase")? {
        "creating" => Ok(ClusterPhase::Creating),
        "running" => Ok(ClusterPhase::Running),
        "deleting" => Ok(ClusterPhase::Deleting),
        "deleted" => Ok(ClusterPhase::Deleted),
        other => Err(StoreError::inconsistent("clusters", id, other)),
    }
}

/// Reads a cluster.
pub async fn load(
    executor: impl PgExecutor<'_>,
    id: ClusterId,
) -> Result<Option<ClusterWork>, StoreError> {
    let row = sqlx::query(
        "SELECT c.id, c.project_id, c.name, c.desired, c.generation, c.phase, o.spec AS offering,
                c.control_plane_cloud_id, c.control_plane_count, c.control_plane_flavor,
                c.network, c.api_server_args, c.vip_port, c.vip_port_id, c.vip_address,
                c.api_reached_at, c.nodes_listed_at, c.base_applied_at, c.conditions, c.waiting
         FROM clusters c
         JOIN offerings o ON o.id = c.offering_id
         WHERE c.id = $1",
    )
    .bind(id)
    .fetch_optional(executor)
    .await?;
    row.as_ref().map(read).transpose()
}

fn read(row: &PgRow) -> Result<ClusterWork, StoreError> {
    let id: ClusterId = row.try_get("id")?;
    let vip_port: &str = row.try_get("vip_port")?;
    let vip_port = Outside::ALL
        .into_iter()
        .find(|one| one.as_str() == vip_port)
        .ok_or_else(|| StoreError::inconsistent("clusters", id, "vip_port"))?;
    let at = |column| -> Result<Option<jiff::Timestamp>, StoreError> {
        Ok(row.try_get::<Option<Ts>, _>(column)?.map(Ts::to_jiff))
    };
    let members: i32 = row.try_get("control_plane_count")?;
    let is_wanted = row.try_get::<&str, _>("desired")? == "present";
    Ok(ClusterWork {
        id,
        project_id: row.try_get("project_id")?,
        name: row.try_get("name")?,
        desired: if is_wanted { Desired::Present } else { Desired::Absent },
        generation: row.try_get("generation")?,
        phase: phase(row)?,
        offering: row.try_get::<Json<OfferingSpec>, _>("offering")?.0,
        control_plane_cloud: row.try_get("control_plane_cloud_id")?,
        members: u16::try_from(members).unwrap_or(1),
        control_plane_flavor: row.try_get("control_plane_flavor")?,
        network: row.try_get::<Json<ClusterNetwork>, _>("network")?.0,
        api_server_args: row.try_get::<Json<_>, _>("api_server_args")?.0,
        vip_port,
        vip_port_id: row.try_get("vip_port_id")?,
        vip_address: row.try_get("vip_address")?,
        api_reached_at: at("api_reached_at")?,
        nodes_listed_at: at("nodes_listed_at")?,
        base_applied_at: at("base_applied_at")?,
        conditions: row.try_get::<Json<_>, _>("conditions")?.0,
        waiting: row.try_get::<Json<_>, _>("waiting")?.0,
    })
}

/// Pools of a cluster, by name.
pub async fn pools(
    executor: impl PgExecutor<'_>,
    cluster: ClusterId,
) -> Result<Vec<PoolWork>, StoreError> {
    let rows = sqlx::query(
        "SELECT id, name, cloud_id, flavor, zone, network, security_group, image, count, labels,
                taints, surge
         FROM pools
         WHERE cluster_id = $1
         ORDER BY name",
    )
    .bind(cluster)
    .fetch_all(executor)
    .await?;
    rows.iter()
        .map(|row| {
            let count: i32 = row.try_get("count")?;
            let surge: i32 = row.try_get("surge")?;
            Ok(PoolWork {
                id: row.try_get("id")?,
                name: row.try_get("name")?,
                cloud_id: row.try_get("cloud_id")?,
                flavor: row.try_get("flavor")?,
                zone: row.try_get("zone")?,
                network: row.try_get("network")?,
                security_group: row.try_get("security_group")?,
                image: row.try_get("image")?,
                count: u32::try_from(count).unwrap_or(0),
                labels: row.try_get::<Json<_>, _>("labels")?.0,
                taints: row.try_get::<Json<_>, _>("taints")?.0,
                surge: u32::try_from(surge).unwrap_or(1),
            })
        })
        .collect()
}

/// The cluster's keys as the database has them: kind, public PEM, sealed private key.
pub async fn keys(
    executor: impl PgExecutor<'_>,
    cluster: ClusterId,
) -> Result<Vec<(String, String, Sealed)>, StoreError> {
    let rows =
        sqlx::query("SELECT kind, public_pem, private_key FROM cluster_keys WHERE cluster_id = $1")
            .bind(cluster)
            .fetch_all(executor)
            .await?;
    rows.iter()
        .map(|row| {
            Ok((row.try_get("kind")?, row.try_get("public_pem")?, row.try_get("private_key")?))
        })
        .collect()
}

/// A change of a cluster's own row.
#[derive(Debug, Clone)]
pub enum Change {
    /// What is true of the port of the endpoint's address.
    VipPort(Outside),
    /// The port is there, with its id and address.
    VipMade(String, String),
    /// The API answered.
    ApiReached,
    /// The CNI was applied.
    BaseApplied,
    /// Nothing of it is left: its keys go too.
    Close,
}

/// Writes a change.
pub async fn write(
    tx: &mut Tx,
    id: ClusterId,
    change: Change,
    now: jiff::Timestamp,
) -> Result<(), StoreError> {
    let query = match change {
        Change::VipPort(state) => sqlx::query("UPDATE clusters SET vip_port = $2 WHERE id = $1")
            .bind(id)
            .bind(state.as_str()),
        Change::VipMade(port, address) => sqlx::query(
            "UPDATE clusters
             SET vip_port = 'present', vip_port_id = $2, vip_address = $3
             WHERE id = $1",
        )
        .bind(id)
        .bind(port)
        .bind(address),
        Change::ApiReached => sqlx::query(
            "UPDATE clusters
             SET api_reached_at = coalesce(api_reached_at, $2),
                 phase = CASE WHEN phase = 'creating' THEN 'running' ELSE phase END
             WHERE id = $1",
        )
        .bind(id)
        .bind(ts(now)),
        Change::BaseApplied => {
            sqlx::query("UPDATE clusters SET base_applied_at = $2 WHERE id = $1")
                .bind(id)
                .bind(ts(now))
        }
        Change::Close => {
            sqlx::query("DELETE FROM cluster_keys WHERE cluster_id = $1")
                .bind(id)
                .execute(&mut **tx)
                .await?;
            sqlx::query(
                "UPDATE clusters SET phase = 'deleted', deleted_at = $2, waiting = '[]'
                 WHERE id = $1",
            )
            .bind(id)
            .bind(ts(now))
        }
    };
    expect_rows(&query.execute(&mut **tx).await?, 1)
}

/// Writes what an activation found, for owners to read.
pub async fn write_status(
    tx: &mut Tx,
    cluster: &ClusterWork,
    (conditions, waiting): (&[Condition], &[String]),
) -> Result<(), StoreError> {
    let result = sqlx::query(
        "UPDATE clusters
         SET conditions = $2, waiting = $3, observed_generation = $4
         WHERE id = $1",
    )
    .bind(cluster.id)
    .bind(Json(conditions))
    .bind(Json(waiting))
    .bind(cluster.generation)
    .execute(&mut **tx)
    .await?;
    expect_rows(&result, 1)
}

/// Records that the Node objects were listed.
pub async fn write_listed(
    tx: &mut Tx,
    id: ClusterId,
    now: jiff::Timestamp,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE clusters SET nodes_listed_at = $2 WHERE id = $1")
        .bind(id)
        .bind(ts(now))
        .execute(&mut **tx)
        .await?;
    Ok(())
}
