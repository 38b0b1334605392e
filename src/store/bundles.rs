//! The tokens with which control-plane servers fetch their bundle.

use jiff::Timestamp;

use super::reader::Reader;
use super::{StoreError, Tx, expect_rows, ts};
use crate::domain::ids::{ClusterId, NodeId};
use crate::domain::node::Desired;

/// A node that may fetch a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleRow {
    /// The node.
    pub node_id: NodeId,
    /// Its cluster.
    pub cluster_id: ClusterId,
    /// Whether it is wanted.
    pub desired: Desired,
    /// Its server, once recorded.
    pub server_id: Option<String>,
    /// Its address.
    pub address: Option<String>,
    /// When the token ends.
    pub expires_at: Option<Timestamp>,
    /// When it was used.
    pub used_at: Option<Timestamp>,
}

/// The node whose token has this hash, locked until the transaction ends.
pub async fn lock(tx: &mut Tx, hash: &[u8; 32]) -> Result<Option<BundleRow>, StoreError> {
    let row = sqlx::query(
        "SELECT id, cluster_id, desired, server_id, address, bundle_expires_at, bundle_used_at
         FROM nodes
         WHERE bundle_token_hash = $1 AND closed_at IS NULL
         FOR NO KEY UPDATE",
    )
    .bind(hash.as_slice())
    .fetch_optional(&mut **tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let row = Reader::new("nodes", &row)?;
    Ok(Some(BundleRow {
        node_id: row.get("id")?,
        cluster_id: row.get("cluster_id")?,
        desired: row.word("desired")?,
        server_id: row.get("server_id")?,
        address: row.get("address")?,
        expires_at: row.maybe_at("bundle_expires_at")?,
        used_at: row.maybe_at("bundle_used_at")?,
    }))
}

/// Records that the token was used.
pub async fn set_used(tx: &mut Tx, id: NodeId, now: Timestamp) -> Result<(), StoreError> {
    let result = sqlx::query(
        "UPDATE nodes SET bundle_used_at = $2 WHERE id = $1 AND bundle_used_at IS NULL",
    )
    .bind(id)
    .bind(ts(now))
    .execute(&mut **tx)
    .await?;
    expect_rows(&result, 1)
}
