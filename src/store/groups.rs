//! Server groups of a cluster: at most as many nodes in each as the cloud's quota allows.

use sqlx::{PgExecutor, Row};
use uuid::Uuid;

use super::{StoreError, Tx, expect_rows};
use crate::domain::ids::{AccountId, CloudId, ClusterId, PoolId};
use crate::domain::node::Outside;

/// A server group.
#[derive(Debug, Clone)]
pub struct GroupRow {
    /// Its row.
    pub id: Uuid,
    /// Pool; none for the control plane.
    pub pool_id: Option<PoolId>,
    /// Cloud of its account.
    pub cloud_id: CloudId,
    /// Where it is made.
    pub account_id: AccountId,
    /// Number within pool and account, from 0.
    pub number: u32,
    /// Its name in Nova.
    pub name: String,
    /// Whether Nova has it.
    pub state: Outside,
    /// Nova's id.
    pub server_group_id: Option<String>,
    /// Open nodes in it.
    pub nodes: u32,
}

/// Every group of a cluster that is not known to be gone.
pub async fn of_cluster(
    executor: impl PgExecutor<'_>,
    cluster: ClusterId,
) -> Result<Vec<GroupRow>, StoreError> {
    let rows = sqlx::query(
        "SELECT g.id, g.pool_id, a.cloud_id, g.account_id, g.number, g.name, g.state,
                g.server_group_id,
                (SELECT count(*) FROM nodes n WHERE n.group_id = g.id AND n.closed_at IS NULL)
                    AS nodes
         FROM server_groups g
         JOIN accounts a ON a.id = g.account_id
         WHERE g.cluster_id = $1
         ORDER BY g.name",
    )
    .bind(cluster)
    .fetch_all(executor)
    .await?;
    rows.iter()
        .map(|row| {
            let id: Uuid = row.try_get("id")?;
            let state: &str = row.try_get("state")?;
            let state = Outside::ALL.into_iter().find(|one| one.as_str() == state);
            let number: i32 = row.try_get("number")?;
            let nodes: i64 = row.try_get("nodes")?;
            Ok(GroupRow {
                id,
                pool_id: row.try_get("pool_id")?,
                cloud_id: row.try_get("cloud_id")?,
                account_id: row.try_get("account_id")?,
                number: u32::try_from(number).unwrap_or(0),
                name: row.try_get("name")?,
                state: state
                    .ok_or_else(|| StoreError::inconsistent("server_groups", id, "state"))?,
                server_group_id: row.try_get("server_group_id")?,
                nodes: u32::try_from(nodes).unwrap_or(u32::MAX),
            })
        })
        .collect()
}

/// The row of a group, made if there is none; a group that is gone begins anew under its name.
pub async fn ensure(
    tx: &mut Tx,
    id: Uuid,
    (cluster, pool, account): (ClusterId, Option<PoolId>, AccountId),
    number: u32,
) -> Result<Uuid, StoreError> {
    let owner = pool.map_or_else(|| "cp".to_owned(), |pool| pool.to_string());
    let row = sqlx::query(
        "INSERT INTO server_groups (id, cluster_id, pool_id, account_id, number, name)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT ON CONSTRAINT server_groups_number_key DO UPDATE
         SET state = CASE WHEN server_groups.state = 'gone' THEN 'never'
                          ELSE server_groups.state END
         RETURNING id",
    )
    .bind(id)
    .bind(cluster)
    .bind(pool)
    .bind(account)
    .bind(i32::try_from(number).unwrap_or(i32::MAX))
    .bind(format!("zcp-{cluster}-{owner}-{number}"))
    .fetch_one(&mut **tx)
    .await?;
    Ok(row.try_get("id")?)
}

/// Writes what is true of a group.
pub async fn write(
    tx: &mut Tx,
    id: Uuid,
    state: Outside,
    server_group_id: Option<&str>,
) -> Result<(), StoreError> {
    let result = sqlx::query(
        "UPDATE server_groups
         SET state = $2, server_group_id = coalesce($3, server_group_id)
         WHERE id = $1",
    )
    .bind(id)
    .bind(state.as_str())
    .bind(server_group_id)
    .execute(&mut **tx)
    .await?;
    expect_rows(&result, 1)
}
