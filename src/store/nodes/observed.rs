//! What full lists of servers and Node objects say, written over the rows that are older.

use sqlx::types::Json;
use sqlx::{PgExecutor, Row};

use super::NodeRow;
use super::slots::IS_BUILDING;
use crate::domain::ids::{AccountId, ClusterId, NodeId};
use crate::domain::ledger::Ledger;
use crate::domain::node::Kubelet;
use crate::store::{Store, StoreError, Tx, ts};

/// The number of a list; taken before the list is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListOrder(i64);

/// Takes a number for a list that is about to start.
pub async fn begin_list(store: &Store) -> Result<ListOrder, StoreError> {
    let row = sqlx::query("SELECT nextval('outside_order')").fetch_one(store.pool()).await?;
    Ok(ListOrder(row.try_get(0)?))
}

/// What a list of servers says about one node.
#[derive(Debug, Clone)]
pub struct SeenServer {
    /// Our id, from the server's metadata.
    pub node: NodeId,
    /// Nova's id.
    pub server_id: String,
    /// Nova's word for its state.
    pub status: String,
    /// Its fault.
    pub fault: Option<String>,
    /// Where it is: its host's name, or what an ordinary credential sees of it.
    pub host: Option<String>,
}

/// Writes a list of an account's servers; what is missing in it counts only if it is complete.
/// Returns the clusters of the nodes that changed.
///
/// A row that was written after the list began is left alone. A server that should be there and
/// is not in the list is marked missing; the cluster worker asks for it by id before it believes
/// that.
pub async fn write_servers(
    tx: &mut Tx,
    (account, order): (AccountId, ListOrder),
    (seen, is_complete): (&[SeenServer], bool),
    now: jiff::Timestamp,
) -> Result<Vec<ClusterId>, StoreError> {
    // A copy that somebody made of a server bears its marks, too: the id tells which is ours.
    let mut changed: Vec<ClusterId> = sqlx::query(
        "UPDATE nodes AS n
         SET server_status = s.status,
             server_fault = s.fault,
             server_host = coalesce(s.host, n.server_host),
             server_missing_since = NULL,
             server_hidden_at = NULL
         FROM unnest($3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[])
             AS s (node_id, server_id, status, fault, host)
         WHERE n.id = s.node_id AND n.account_id = $1 AND n.closed_at IS NULL
           AND n.server_order < $2 AND n.server_id = s.server_id
           AND (n.server_status, n.server_fault, n.server_missing_since, n.server_hidden_at,
                n.server_host)
               IS DISTINCT FROM (s.status, s.fault, NULL, NULL, coalesce(s.host, n.server_host))
         RETURNING n.cluster_id",
    )
    .bind(account)
    .bind(order.0)
    .bind(seen.iter().map(|s| s.node.0).collect::<Vec<_>>())
    .bind(seen.iter().map(|s| s.server_id.clone()).collect::<Vec<_>>())
    .bind(seen.iter().map(|s| s.status.clone()).collect::<Vec<_>>())
    .bind(seen.iter().map(|s| s.fault.clone()).collect::<Vec<_>>())
    .bind(seen.iter().map(|s| s.host.clone()).collect::<Vec<_>>())
    .fetch_all(&mut **tx)
    .await?
    .iter()
    .map(|row| row.try_get("cluster_id"))
    .collect::<Result<_, _>>()?;
    let missing = sqlx::query(
        "UPDATE nodes
         SET server_missing_since = $4
         WHERE $5 AND account_id = $1 AND closed_at IS NULL AND server_order < $2
           AND server IN ('present', 'deleting') AND server_missing_since IS NULL
           AND NOT (server_id = ANY($3))
         RETURNING cluster_id",
    )
    .bind(account)
    .bind(order.0)
    .bind(seen.iter().map(|s| s.server_id.clone()).collect::<Vec<_>>())
    .bind(ts(now))
    .bind(is_complete)
    .fetch_all(&mut **tx)
    .await?;
    for row in &missing {
        changed.push(row.try_get("cluster_id")?);
    }
    changed.sort_unstable();
    changed.dedup();
    Ok(changed)
}

/// How much is going on with the servers of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// All are as they should be.
    Calm,
    /// Some are not.
    Busy,
    /// Some are being built: somebody waits for each, and for its build slot.
    Building,
}

/// How often an account should be listed.
pub async fn pace(executor: impl PgExecutor<'_>, account: AccountId) -> Result<Pace, StoreError> {
    let sql = format!(
        "SELECT count(*) > 0 AS is_busy, coalesce(bool_or({IS_BUILDING}), FALSE) AS is_building
         FROM nodes
         WHERE account_id = $1 AND closed_at IS NULL
           AND (server IN ('unknown', 'deleting')
                OR server = 'present' AND server_status IS DISTINCT FROM 'ACTIVE')"
    );
    let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(account).fetch_one(executor).await?;
    Ok(match (row.try_get("is_building")?, row.try_get("is_busy")?) {
        (true, _) => Pace::Building,
        (false, true) => Pace::Busy,
        (false, false) => Pace::Calm,
    })
}

/// What a list of Node objects says about one node.
#[derive(Debug, Clone)]
pub struct SeenObject {
    /// Our id.
    pub node: NodeId,
    /// UID of the Node object; `None` if there is none.
    pub uid: Option<String>,
    /// What it says.
    pub kubelet: Kubelet,
    /// Whether the node is usable with this, see `Node::is_usable`.
    pub is_usable: bool,
    /// What its owner put on it; `None` keeps what was seen last.
    pub ledger: Option<Ledger>,
}

/// What a list says about `rows`, put where it is newer. Returns whether anything changed.
pub async fn write_objects(
    tx: &mut Tx,
    order: ListOrder,
    (seen, now): (&[SeenObject], jiff::Timestamp),
) -> Result<bool, StoreError> {
    let mut changed = 0;
    for one in seen {
        let state = if one.uid.is_some() { "present" } else { "gone" };
        let result = sqlx::query(
            "UPDATE nodes
             SET object = CASE
                     WHEN object = 'never' AND $3 = 'gone' THEN 'never'
                     ELSE $3 END,
                 object_uid = coalesce($4, object_uid),
                 kubelet = $5,
                 unready_since = CASE
                     WHEN usable_at IS NULL OR $9 THEN NULL
                     ELSE coalesce(unready_since, $7) END,
                 usable_at = CASE WHEN $6 THEN coalesce(usable_at, $7) ELSE usable_at END,
                 ledger = coalesce($8, ledger)
             WHERE id = $1 AND object_order < $2",
        )
        .bind(one.node)
        .bind(order.0)
        .bind(state)
        .bind(one.uid.as_deref())
        .bind(Json(&one.kubelet))
        .bind(one.is_usable)
        .bind(ts(now))
        .bind(one.ledger.as_ref().map(Json))
        .bind(one.uid.is_some() && one.kubelet.is_ready)
        .execute(&mut **tx)
        .await?;
        changed += result.rows_affected();
    }
    Ok(changed > 0)
}

/// Whether what was seen differs from the row, so that only changed rows are written.
pub fn differs(row: &NodeRow, seen: &SeenObject) -> bool {
    use crate::domain::node::Outside;

    let is_there = row.node.object == Outside::Present;
    row.node.kubelet != seen.kubelet
        || is_there != seen.uid.is_some()
        || row.object_uid.as_ref() != seen.uid.as_ref().or(row.object_uid.as_ref())
        || (seen.is_usable && row.node.usable_at.is_none())
        || seen.ledger.as_ref().is_some_and(|ledger| *ledger != row.ledger)
}

/// Servers of an account that ended in ERROR on the host of this node's server since then, its own
/// included, and what the cloud calls the host.
pub async fn failures_on_host(
    tx: &mut Tx,
    id: NodeId,
    since: jiff::Timestamp,
) -> Result<Option<(String, i64)>, StoreError> {
    let row = sqlx::query(
        "SELECT n.server_host AS host,
                (SELECT count(*) FROM nodes AS other
                 WHERE other.account_id = n.account_id AND other.server_host = n.server_host
                   AND other.server_fault IS NOT NULL AND other.server_intent_at >= $2) AS failures
         FROM nodes AS n
         WHERE n.id = $1 AND n.server_host IS NOT NULL",
    )
    .bind(id)
    .bind(ts(since))
    .fetch_optional(&mut **tx)
    .await?;
    row.map(|row| Ok((row.try_get("host")?, row.try_get("failures")?))).transpose()
}
