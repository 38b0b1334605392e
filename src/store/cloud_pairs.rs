//! Cloud pairs. Written by `app`, read by whoever puts nodes on another cloud.

use jiff::Timestamp;
use sqlx::postgres::PgRow;
use sqlx::{PgExecutor, QueryBuilder, Row};
use uuid::Uuid;

use super::change::{Change, change};
use super::page::{Page, PageRequest};
use super::reader::{Reader, to_json};
use super::{StoreError, Tx, expect_rows, ts};
use crate::domain::cloud_pair::CloudPairSpec;
use crate::domain::ids::{CloudId, CloudPairId, ClusterId, MigrationId};

/// There is a pair of these clouds already.
pub const PAIR_TAKEN: &str = "cloud_pairs_clouds_key";

/// A cloud pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudPairRow {
    /// Its id.
    pub id: CloudPairId,
    /// Cloud that nodes leave.
    pub source_id: CloudId,
    /// Its name.
    pub source: String,
    /// Cloud that they move to.
    pub target_id: CloudId,
    /// Its name.
    pub target: String,
    /// What is mapped.
    pub spec: CloudPairSpec,
    /// Number of the mapping.
    pub generation: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

const SELECT: &str = "SELECT pair.id, pair.source_cloud_id, source.name AS source,
            pair.target_cloud_id, target.name AS target, pair.spec, pair.generation,
            pair.created_at, pair.updated_at
     FROM cloud_pairs pair
     JOIN clouds source ON source.id = pair.source_cloud_id
     JOIN clouds target ON target.id = pair.target_cloud_id";

fn pair(row: &PgRow) -> Result<CloudPairRow, StoreError> {
    let row = Reader::new("cloud_pairs", row)?;
    Ok(CloudPairRow {
        id: row.get("id")?,
        source_id: row.get("source_cloud_id")?,
        source: row.get("source")?,
        target_id: row.get("target_cloud_id")?,
        target: row.get("target")?,
        spec: row.json("spec")?,
        generation: row.get("generation")?,
        created_at: row.at("created_at")?,
        updated_at: row.at("updated_at")?,
    })
}

/// The pair of two clouds.
pub async fn find(
    executor: impl PgExecutor<'_>,
    (source, target): (CloudId, CloudId),
) -> Result<Option<CloudPairRow>, StoreError> {
    let mut query = QueryBuilder::new(SELECT);
    query.push(" WHERE pair.source_cloud_id = ").push_bind(source);
    query.push(" AND pair.target_cloud_id = ").push_bind(target);
    query.build().fetch_optional(executor).await?.as_ref().map(pair).transpose()
}

/// The pair of two clouds, held against removal until the transaction ends. Whoever starts a
/// migration does this, so that a pair is not taken away from under it.
pub async fn hold(
    tx: &mut Tx,
    (source, target): (CloudId, CloudId),
) -> Result<Option<CloudPairRow>, StoreError> {
    let mut query = QueryBuilder::new(SELECT);
    query.push(" WHERE pair.source_cloud_id = ").push_bind(source);
    query.push(" AND pair.target_cloud_id = ").push_bind(target).push(" FOR KEY SHARE OF pair");
    query.build().fetch_optional(&mut **tx).await?.as_ref().map(pair).transpose()
}

/// The pair of two clouds, locked until the transaction ends.
pub async fn lock(
    tx: &mut Tx,
    (source, target): (CloudId, CloudId),
) -> Result<Option<CloudPairRow>, StoreError> {
    let mut query = QueryBuilder::new(SELECT);
    query.push(" WHERE pair.source_cloud_id = ").push_bind(source);
    query.push(" AND pair.target_cloud_id = ").push_bind(target).push(" FOR UPDATE OF pair");
    query.build().fetch_optional(&mut **tx).await?.as_ref().map(pair).transpose()
}

/// Pairs by names of source and target.
pub async fn list(
    executor: impl PgExecutor<'_>,
    request: &PageRequest,
) -> Result<Page<CloudPairRow>, StoreError> {
    let keyset = request.keyset("cloud_pairs.names", &());
    let mut query = QueryBuilder::new(SELECT);
    if let Some((source, target)) = keyset.after::<(String, String)>()? {
        query.push(" WHERE (source.name, target.name) > (").push_bind(source);
        query.push(", ").push_bind(target).push(")");
    }
    query.push(" ORDER BY source.name, target.name LIMIT ").push_bind(keyset.fetch());
    let rows = query.build().fetch_all(executor).await?;
    let rows = rows.iter().map(pair).collect::<Result<Vec<_>, _>>()?;
    Ok(keyset.page(rows, |row| (row.source.clone(), row.target.clone())))
}

/// Adds a pair.
pub async fn insert(
    tx: &mut Tx,
    id: CloudPairId,
    ((source, target), spec): ((CloudId, CloudId), &CloudPairSpec),
    now: Timestamp,
) -> Result<(), StoreError> {
    let result = sqlx::query(
        "INSERT INTO cloud_pairs (id, source_cloud_id, target_cloud_id, spec, created_at,
                                  updated_at)
         VALUES ($1, $2, $3, $4, $5, $5)",
    )
    .bind(id)
    .bind(source)
    .bind(target)
    .bind(to_json(spec))
    .bind(ts(now))
    .execute(&mut **tx)
    .await?;
    expect_rows(&result, 1)
}

/// Maps anew. `seen` is the generation that the caller knows, if it cares.
pub async fn set_spec(
    tx: &mut Tx,
    (id, seen): (CloudPairId, Option<i64>),
    spec: &CloudPairSpec,
    now: Timestamp,
) -> Result<Change, StoreError> {
    let update = sqlx::query(
        "UPDATE cloud_pairs
         SET spec = $3, generation = generation + 1, updated_at = $4
         WHERE id = $1 AND ($2::bigint IS NULL OR generation = $2)
         RETURNING generation",
    )
    .bind(id)
    .bind(seen)
    .bind(to_json(spec))
    .bind(ts(now));
    let look = sqlx::query("SELECT generation FROM cloud_pairs WHERE id = $1");
    change(tx, update, look.bind(id)).await
}

/// Deletes a pair.
pub async fn remove(tx: &mut Tx, id: CloudPairId) -> Result<(), StoreError> {
    let query = sqlx::query("DELETE FROM cloud_pairs WHERE id = $1").bind(id);
    expect_rows(&query.execute(&mut **tx).await?, 1)
}

/// Deletes every pair of a cloud that is removed.
pub async fn remove_of(tx: &mut Tx, cloud: CloudId) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM cloud_pairs WHERE source_cloud_id = $1 OR target_cloud_id = $1")
        .bind(cloud)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Migrations under way between two clouds, with their clusters.
pub async fn users(
    executor: impl PgExecutor<'_>,
    (source, target): (CloudId, CloudId),
) -> Result<Vec<(MigrationId, ClusterId)>, StoreError> {
    let rows = sqlx::query(
        "SELECT id, cluster_id
         FROM migrations
         WHERE source_cloud_id = $1 AND target_cloud_id = $2
           AND phase NOT IN ('succeeded', 'rolled_back', 'cancelled')
         ORDER BY id",
    )
    .bind::<Uuid>(source.0)
    .bind::<Uuid>(target.0)
    .fetch_all(executor)
    .await?;
    rows.iter().map(|row| Ok((row.try_get("id")?, row.try_get("cluster_id")?))).collect()
}
