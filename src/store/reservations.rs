//! What others will still make on a cloud, computed from rows in the reader's own transaction.

use jiff::Timestamp;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::{StoreError, Tx, ts};
use crate::domain::ids::{CloudId, ClusterId, MigrationId, ProjectId};
use crate::domain::preflight::Reservation;

/// Who asks what others will make.
#[derive(Debug, Clone, Copy)]
pub struct Asker {
    /// Its cluster, which is not an other.
    pub cluster: ClusterId,
    /// Its project, by which quotas are told apart.
    pub project: ProjectId,
    /// Its migration and when that was accepted; none while only a plan is made.
    pub migration: Option<(Timestamp, MigrationId)>,
    /// When the cloud's inventory was read.
    pub inventory_at: Option<Timestamp>,
}

/// The account of a project on a cloud, as in `cloud_progress::account_of`.
const ACCOUNT: &str = "SELECT id FROM accounts a
    WHERE a.cloud_id = $1 AND (a.project_id = $2 OR a.project_id IS NULL)
    ORDER BY a.project_id NULLS LAST LIMIT 1";

/// What open migrations to the cloud have not made yet, and nodes that the inventory can't know of.
pub async fn on(tx: &mut Tx, cloud: CloudId, asker: Asker) -> Result<Vec<Reservation>, StoreError> {
    let mut all = of_migrations(tx, cloud, asker).await?;
    all.extend(of_new_nodes(tx, cloud, asker).await?);
    Ok(all)
}

async fn of_migrations(
    tx: &mut Tx,
    cloud: CloudId,
    asker: Asker,
) -> Result<Vec<Reservation>, StoreError> {
    let sql = format!(
        "SELECT 'migration of cluster ' || c.name AS by, p.flavor,
                GREATEST(p.count - count(n.id), 0) AS servers,
                ({ACCOUNT}) IS NOT DISTINCT FROM (
                    SELECT id FROM accounts a
                    WHERE a.cloud_id = $1 AND (a.project_id = c.project_id OR a.project_id IS NULL)
                    ORDER BY a.project_id NULLS LAST LIMIT 1) AS is_same_account
         FROM migrations m
         JOIN clusters c ON c.id = m.cluster_id
         JOIN pools p ON p.id = ANY (m.pool_ids)
         LEFT JOIN nodes n ON n.pool_id = p.id AND n.cloud_id = $1 AND n.closed_at IS NULL
              AND n.desired = 'present'
         WHERE m.target_cloud_id = $1 AND m.cluster_id <> $3
           AND m.phase NOT IN ('succeeded', 'rolled_back', 'cancelled', 'rolling_back')
           AND NOT m.wants_rollback AND NOT m.wants_cancel
           AND (m.phase NOT IN ('pending', 'preflight') OR $4::timestamptz IS NULL
                OR (m.created_at, m.id) < ($4, $5))
         GROUP BY m.id, c.name, c.project_id, p.id, p.flavor, p.count
         HAVING p.count > count(n.id)
         ORDER BY m.created_at, m.id, p.id"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(cloud)
        .bind(asker.project)
        .bind(asker.cluster)
        .bind(asker.migration.map(|(at, _)| ts(at)))
        .bind(asker.migration.map(|(_, id)| id))
        .fetch_all(&mut **tx)
        .await?;
    rows.iter().map(read).collect()
}

async fn of_new_nodes(
    tx: &mut Tx,
    cloud: CloudId,
    asker: Asker,
) -> Result<Vec<Reservation>, StoreError> {
    let sql = format!(
        "SELECT 'new nodes of cluster ' || c.name AS by, n.flavor, count(*) AS servers,
                n.account_id IS NOT DISTINCT FROM ({ACCOUNT}) AS is_same_account
         FROM nodes n
         JOIN clusters c ON c.id = n.cluster_id
         WHERE n.cloud_id = $1 AND n.cluster_id <> $3 AND n.closed_at IS NULL
           AND n.desired = 'present'
           AND (n.server IN ('never', 'unknown')
                OR (n.server = 'present' AND n.server_intent_at >= $4))
         GROUP BY c.name, n.flavor, n.account_id
         ORDER BY c.name, n.flavor"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(cloud)
        .bind(asker.project)
        .bind(asker.cluster)
        .bind(asker.inventory_at.map(ts))
        .fetch_all(&mut **tx)
        .await?;
    rows.iter().map(read).collect()
}

fn read(row: &PgRow) -> Result<Reservation, StoreError> {
    Ok(Reservation {
        by: row.try_get("by")?,
        flavor: row.try_get("flavor")?,
        servers: u64::try_from(row.try_get::<i64, _>("servers")?).unwrap_or(0),
        is_same_account: row.try_get("is_same_account")?,
    })
}
