//! Who takes whose place: decided when the heir's row is made, and stored then.

use sqlx::{PgExecutor, Row};

use crate::domain::ids::{CloudId, ClusterId, MigrationId, NodeId, PoolId};
use crate::store::{StoreError, Tx};

/// A node that could not serve any more and in whose place nobody stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostRow {
    /// Which node.
    pub id: NodeId,
    /// Its pool.
    pub pool_id: PoolId,
    /// Where it was.
    pub cloud_id: CloudId,
    /// Whose ledger its heir is given: its own, or its predecessor's if it was never given that, or
    /// never served and so has none of its own.
    pub ledger_of: NodeId,
}

/// The lost nodes of a cluster without an heir, open or closed. One whose heir is lost, too, is
/// represented by that.
pub async fn lost(
    executor: impl PgExecutor<'_>,
    cluster: ClusterId,
) -> Result<Vec<LostRow>, StoreError> {
    let rows = sqlx::query(
        "SELECT id, pool_id, cloud_id,
                CASE WHEN carried IS NULL
                          AND (usable_at IS NULL
                               OR EXISTS (SELECT 1 FROM nodes AS p
                                          WHERE p.id = n.predecessor_id AND p.ledger <> '{}'))
                     THEN coalesce(predecessor_id, id)
                     ELSE id END AS ledger_of
         FROM nodes AS n
         WHERE cluster_id = $1 AND lost AND pool_id IS NOT NULL
           AND NOT EXISTS (
               SELECT 1 FROM nodes AS h
               WHERE h.id = n.heir_id AND (h.desired = 'present' OR h.lost))
         ORDER BY name",
    )
    .bind(cluster)
    .fetch_all(executor)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(LostRow {
                id: row.try_get("id")?,
                pool_id: row.try_get("pool_id")?,
                cloud_id: row.try_get("cloud_id")?,
                ledger_of: row.try_get("ledger_of")?,
            })
        })
        .collect()
}

/// Writes that `heir` takes the place of `of` and is given the ledger of `ledger_of`. Whoever had
/// the lost one of the two for an heir has this one now, and so has whoever was lost before it was
/// given the same ledger.
pub async fn adopt(
    tx: &mut Tx,
    heir: NodeId,
    (of, ledger_of): (NodeId, NodeId),
) -> Result<(), StoreError> {
    sqlx::query("UPDATE nodes SET predecessor_id = $2 WHERE id = $1")
        .bind(heir)
        .bind(ledger_of)
        .execute(&mut **tx)
        .await?;
    sqlx::query(
        "UPDATE nodes SET heir_id = $1
         WHERE id IN ($2, $3)
            OR lost AND cluster_id = (SELECT cluster_id FROM nodes WHERE id = $1)
               AND (heir_id IN (SELECT id FROM nodes WHERE id IN ($2, $3) AND lost)
                    OR carried IS NULL AND predecessor_id IN ($2, $3) AND id <> $1)",
    )
    .bind(heir)
    .bind(of)
    .bind(ledger_of)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Nobody will stand in the place of a node that its owner gave up, nor of those before it.
pub async fn give_up(tx: &mut Tx, node: NodeId) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE nodes SET lost = FALSE
         WHERE lost AND heir_id = $1
           AND cluster_id = (SELECT cluster_id FROM nodes WHERE id = $1)",
    )
    .bind(node)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Nobody will stand in the place of what a migration made on a target that it gave up.
pub async fn give_up_target(
    tx: &mut Tx,
    (cluster, migration, target): (ClusterId, MigrationId, CloudId),
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE nodes SET lost = FALSE
         WHERE lost AND cluster_id = $1 AND job_id = $2 AND cloud_id = $3",
    )
    .bind(cluster)
    .bind(migration)
    .bind(target)
    .execute(&mut **tx)
    .await?;
    Ok(())
}
