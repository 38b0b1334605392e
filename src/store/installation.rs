//! This installation of zcp: its id, and the CA of the node-facing listener.
//!
//! The sealed key doubles as a check of the key ring: opened at start, it says at once that
//! zcpd was given the wrong one.

use jiff::Timestamp;
use sqlx::{PgExecutor, Row};
use zeroize::Zeroizing;

use super::seal::{KeyRing, Place, Sealed};
use super::{StoreError, Ts, Tx, ts};
use crate::domain::ids::InstallId;

/// This installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// Marks everything that we make outside.
    pub id: InstallId,
    /// Certificate of the node-facing CA.
    pub node_ca_pem: String,
    /// Key of that CA.
    pub node_ca_key: Sealed,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Installation {
    /// Where the CA's key is, for sealing.
    pub fn key_place(id: InstallId) -> Place<'static> {
        Place::new("installations", id.0, "node_ca_key")
    }

    /// The key of the node-facing CA.
    pub fn open_key(&self, keys: &KeyRing) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        Ok(keys.open(Self::key_place(self.id), &self.node_ca_key)?)
    }
}

/// The installation; none on an empty database.
pub async fn find(executor: impl PgExecutor<'_>) -> Result<Option<Installation>, StoreError> {
    let row = sqlx::query("SELECT id, node_ca_pem, node_ca_key, created_at FROM installations")
        .fetch_optional(executor)
        .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Installation {
        id: row.try_get("id")?,
        node_ca_pem: row.try_get("node_ca_pem")?,
        node_ca_key: row.try_get("node_ca_key")?,
        created_at: row.try_get::<Ts, _>("created_at")?.to_jiff(),
    }))
}

/// Writes the installation if there is none, and returns the one that is there: of two replicas
/// that start on an empty database, one wins.
pub async fn ensure(tx: &mut Tx, new: &Installation) -> Result<Installation, StoreError> {
    sqlx::query(
        "INSERT INTO installations (id, node_ca_pem, node_ca_key, created_at)
         VALUES ($1, $2, $3, $4)
         ON CONFLICT ON CONSTRAINT installations_pkey DO NOTHING",
    )
    .bind(new.id)
    .bind(&new.node_ca_pem)
    .bind(&new.node_ca_key)
    .bind(ts(new.created_at))
    .execute(&mut **tx)
    .await?;
    find(&mut **tx).await?.ok_or(StoreError::Rows { expected: 1, actual: 0 })
}
