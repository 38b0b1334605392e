//! Pools: workers that are alike.

use std::collections::BTreeMap;

use sqlx::postgres::PgRow;
use sqlx::{PgExecutor, QueryBuilder};
use uuid::Uuid;

use crate::domain::ids::{CloudId, ClusterId, PoolId};
use crate::domain::node_view::Taint;
use crate::store::reader::{Reader, to_integer, to_json};
use crate::store::{StoreError, Tx, expect_rows};

/// A pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolRow {
    /// Its id.
    pub id: PoolId,
    /// Its cluster.
    pub cluster_id: ClusterId,
    /// Its name.
    pub name: String,
    /// Where its workers belong.
    pub cloud_id: CloudId,
    /// Their flavor.
    pub flavor: String,
    /// Their zone; none: the cloud chooses.
    pub zone: Option<String>,
    /// Their network; none: the cloud's default.
    pub network: Option<String>,
    /// Their security group; none: the cloud's default.
    pub security_group: Option<String>,
    /// Their image, if a mapping chose one.
    pub image: Option<String>,
    /// How many.
    pub count: u32,
    /// Labels of every node.
    pub labels: BTreeMap<String, String>,
    /// Taints of every node.
    pub taints: Vec<Taint>,
    /// Nodes beyond `count` while some are replaced.
    pub surge: u32,
}

const SELECT: &str =
    "SELECT id, cluster_id, name, cloud_id, flavor, zone, network, security_group, image, count,
            labels, taints, surge
     FROM pools";

fn pool(row: &PgRow) -> Result<PoolRow, StoreError> {
    let row = Reader::new("pools", row)?;
    Ok(PoolRow {
        id: row.get("id")?,
        cluster_id: row.get("cluster_id")?,
        name: row.get("name")?,
        cloud_id: row.get("cloud_id")?,
        flavor: row.get("flavor")?,
        zone: row.get("zone")?,
        network: row.get("network")?,
        security_group: row.get("security_group")?,
        image: row.get("image")?,
        count: row.count("count")?,
        labels: row.json("labels")?,
        taints: row.json("taints")?,
        surge: row.count("surge")?,
    })
}

/// Adds a pool.
pub async fn insert(tx: &mut Tx, pool: &PoolRow) -> Result<(), StoreError> {
    let result = sqlx::query(
        "INSERT INTO pools (id, cluster_id, name, cloud_id, flavor, zone, count, labels, taints,
                            surge, network, security_group, image)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
    )
    .bind(pool.id)
    .bind(pool.cluster_id)
    .bind(&pool.name)
    .bind(pool.cloud_id)
    .bind(&pool.flavor)
    .bind(&pool.zone)
    .bind(to_integer(pool.count))
    .bind(to_json(&pool.labels))
    .bind(to_json(&pool.taints))
    .bind(to_integer(pool.surge))
    .bind(&pool.network)
    .bind(&pool.security_group)
    .bind(&pool.image)
    .execute(&mut **tx)
    .await?;
    expect_rows(&result, 1)
}

/// Pools of the clusters, by cluster and name.
pub async fn list(
    executor: impl PgExecutor<'_>,
    clusters: &[ClusterId],
) -> Result<Vec<PoolRow>, StoreError> {
    let ids: Vec<Uuid> = clusters.iter().map(|id| id.0).collect();
    let mut query = QueryBuilder::new(SELECT);
    query.push(" WHERE cluster_id = ANY(").push_bind(ids).push(") ORDER BY cluster_id, name");
    query.build().fetch_all(executor).await?.iter().map(pool).collect()
}

/// Writes what an owner may change of a pool: count, labels, taints, surge.
pub async fn update(tx: &mut Tx, pool: &PoolRow) -> Result<(), StoreError> {
    let result = sqlx::query(
        "UPDATE pools
         SET count = $2, labels = $3, taints = $4, surge = $5
         WHERE id = $1",
    )
    .bind(pool.id)
    .bind(to_integer(pool.count))
    .bind(to_json(&pool.labels))
    .bind(to_json(&pool.taints))
    .bind(to_integer(pool.surge))
    .execute(&mut **tx)
    .await?;
    expect_rows(&result, 1)
}
