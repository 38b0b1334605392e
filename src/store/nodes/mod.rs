//! Nodes: what is wanted of each, and what was seen of it.
//!
//! Who writes which column stands in the migration. Writes about servers and Node objects take a
//! number from the sequence `outside_order`; so does a list when it starts, and it leaves alone
//! what was written after that (`observed`).

pub mod heirs;
pub mod observed;
pub mod progress;
pub mod slots;

use std::str::FromStr;

use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgExecutor, Row};
use uuid::Uuid;

use super::seal::Sealed;
use super::{StoreError, Ts, Tx, expect_rows, ts};
use crate::domain::ids::{AccountId, CloudId, ClusterId, MigrationId, NodeId, PoolId};
use crate::domain::inventory::ServerStatus;
use crate::domain::ledger::Ledger;
use crate::domain::node::{Blocker, Desired, Drain, Kubelet, Lineage, Node, Outside, Role, Signs};

/// A node with what only workers need.
#[derive(Debug, Clone)]
pub struct NodeRow {
    /// What the planner sees.
    pub node: Node,
    /// Project and credential under which its port and server are made.
    pub account_id: AccountId,
    /// Flavor by name or id.
    pub flavor: String,
    /// Availability zone.
    pub zone: Option<String>,
    /// Network by name or id; none: the cloud's default.
    pub network: Option<String>,
    /// Security group by name or id; none: the cloud's default.
    pub security_group: Option<String>,
    /// Image by name or id, if a mapping chose one.
    pub image: Option<String>,
    /// The migration that it was made for.
    pub job_id: Option<MigrationId>,
    /// Its server group.
    pub group_id: Option<Uuid>,
    /// Worker: its bootstrap token. Control plane: token for its bundle, then its bootstrap token.
    pub secret: Sealed,
    /// UID of its Node object, once seen.
    pub object_uid: Option<String>,
    /// What its owner put on it, as last seen.
    pub ledger: Ledger,
    /// What its predecessor's owner had put on that.
    pub heritage: Option<Ledger>,
    /// When the unclear call of its server was first looked after, see `worker::cluster`.
    pub server_looked_at: Option<jiff::Timestamp>,
}

const COLUMNS: &str = "id, cluster_id, pool_id, cloud_id, account_id, role, member, name, flavor,
    zone, network, security_group, image, job_id, desired, attempt, not_before, trouble, created_at, port, port_id, address,
    group_id, server, server_id, server_intent_at, server_looked_at, server_status, server_fault,
    server_missing_since, secret, token, object, object_uid, kubelet, usable_at, drain,
    drain_started_at, was_cordoned, blockers, server_creates, server_deleting_since,
    server_delete_sent_at, server_hidden_at, server_started_at, unready_since, token_until, failed,
    predecessor_id, heir_id, ledger, carried,
    (SELECT p.ledger FROM nodes AS p WHERE p.id = nodes.predecessor_id) AS heritage,
    (SELECT p.drain = 'idle' AND p.desired = 'present' FROM nodes AS p
     WHERE p.id = nodes.predecessor_id) AS predecessor_serves";

/// Open nodes of a cluster, by name.
pub async fn open_of_cluster(
    executor: impl PgExecutor<'_>,
    cluster: ClusterId,
) -> Result<Vec<NodeRow>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS}
         FROM nodes
         WHERE cluster_id = $1 AND closed_at IS NULL
         ORDER BY name"
    );
    let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(cluster);
    query.fetch_all(executor).await?.iter().map(read).collect()
}

/// One node, open or closed.
pub async fn find(
    executor: impl PgExecutor<'_>,
    id: NodeId,
) -> Result<Option<NodeRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM nodes WHERE id = $1");
    let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id).fetch_optional(executor).await?;
    row.as_ref().map(read).transpose()
}

fn word<T>(
    row: &PgRow,
    column: &'static str,
    all: &[T],
    name: fn(T) -> &'static str,
) -> Result<T, StoreError>
where
    T: Copy,
{
    let text: &str = row.try_get(column)?;
    let id: NodeId = row.try_get("id")?;
    let found = all.iter().copied().find(|one| name(*one) == text);
    found.ok_or_else(|| StoreError::inconsistent("nodes", id, format!("{column} is {text:?}")))
}

fn outside(row: &PgRow, column: &'static str) -> Result<Outside, StoreError> {
    word(row, column, &Outside::ALL, Outside::as_str)
}

fn at(row: &PgRow, column: &str) -> Result<Option<jiff::Timestamp>, StoreError> {
    Ok(row.try_get::<Option<Ts>, _>(column)?.map(Ts::to_jiff))
}

fn read(row: &PgRow) -> Result<NodeRow, StoreError> {
    Ok(NodeRow {
        node: read_node(row)?,
        account_id: row.try_get("account_id")?,
        flavor: row.try_get("flavor")?,
        zone: row.try_get("zone")?,
        network: row.try_get("network")?,
        security_group: row.try_get("security_group")?,
        image: row.try_get("image")?,
        job_id: row.try_get("job_id")?,
        group_id: row.try_get("group_id")?,
        secret: row.try_get("secret")?,
        object_uid: row.try_get("object_uid")?,
        ledger: row.try_get::<Json<Ledger>, _>("ledger")?.0,
        heritage: ledger(row, "heritage")?,
        server_looked_at: at(row, "server_looked_at")?,
    })
}

fn read_node(row: &PgRow) -> Result<Node, StoreError> {
    let status: Option<String> = row.try_get("server_status")?;
    let member: Option<i32> = row.try_get("member")?;
    let attempt: i32 = row.try_get("attempt")?;
    Ok(Node {
        id: row.try_get("id")?,
        cluster_id: row.try_get("cluster_id")?,
        pool_id: row.try_get("pool_id")?,
        role: word(row, "role", &Role::ALL, Role::as_str)?,
        member: member.and_then(|n| u16::try_from(n).ok()),
        name: row.try_get("name")?,
        cloud_id: row.try_get("cloud_id")?,
        desired: word(row, "desired", &[Desired::Present, Desired::Absent], Desired::as_str)?,
        attempt: u32::try_from(attempt).unwrap_or(0),
        not_before: at(row, "not_before")?,
        created_at: at(row, "created_at")?.unwrap_or_default(),
        port: outside(row, "port")?,
        port_id: row.try_get("port_id")?,
        address: row.try_get("address")?,
        server: outside(row, "server")?,
        server_id: row.try_get("server_id")?,
        server_intent_at: at(row, "server_intent_at")?,
        server_status: status.and_then(|word| ServerStatus::from_str(&word).ok()),
        server_fault: row.try_get("server_fault")?,
        server_missing_since: at(row, "server_missing_since")?,
        token: outside(row, "token")?,
        object: outside(row, "object")?,
        kubelet: row.try_get::<Json<Kubelet>, _>("kubelet")?.0,
        drain: word(row, "drain", &Drain::ALL, Drain::as_str)?,
        drain_started_at: at(row, "drain_started_at")?,
        was_cordoned: row.try_get("was_cordoned")?,
        blockers: row.try_get::<Json<Vec<Blocker>>, _>("blockers")?.0,
        usable_at: at(row, "usable_at")?,
        trouble: row.try_get("trouble")?,
        lineage: Lineage {
            predecessor: row.try_get("predecessor_id")?,
            heir: row.try_get("heir_id")?,
            needs_carry: needs_carry(
                (ledger(row, "heritage")?.as_ref(), ledger(row, "carried")?.as_ref()),
                row.try_get("predecessor_serves")?,
            ),
        },
        signs: read_signs(row)?,
    })
}

fn read_signs(row: &PgRow) -> Result<Signs, StoreError> {
    let creates: i32 = row.try_get("server_creates")?;
    Ok(Signs {
        creates: u32::try_from(creates).unwrap_or(0),
        deleting_since: at(row, "server_deleting_since")?,
        delete_sent_at: at(row, "server_delete_sent_at")?,
        hidden_at: at(row, "server_hidden_at")?,
        started_at: at(row, "server_started_at")?,
        unready_since: at(row, "unready_since")?,
        token_until: at(row, "token_until")?,
        failed: row.try_get("failed")?,
    })
}

fn ledger(row: &PgRow, column: &str) -> Result<Option<Ledger>, StoreError> {
    Ok(row.try_get::<Option<Json<Ledger>>, _>(column)?.map(|Json(ledger)| ledger))
}

/// Whether a node lacks what its predecessor's owner put on that: until it was carried once, and
/// again when it changes while the predecessor serves.
pub(crate) fn needs_carry(
    (heritage, carried): (Option<&Ledger>, Option<&Ledger>),
    predecessor_serves: Option<bool>,
) -> bool {
    match (heritage, carried) {
        (None, _) => false,
        (Some(heritage), None) => !heritage.is_empty(),
        (Some(heritage), Some(carried)) => {
            predecessor_serves == Some(true) && !heritage.is_empty() && heritage != carried
        }
    }
}

/// A row to be inserted.
#[derive(Debug)]
pub struct NewNodeRow {
    /// Its id.
    pub id: NodeId,
    /// Its cluster.
    pub cluster_id: ClusterId,
    /// Its pool; only workers have one.
    pub pool_id: Option<PoolId>,
    /// What it is for.
    pub role: Role,
    /// Where.
    pub cloud_id: CloudId,
    /// Under which account.
    pub account_id: AccountId,
    /// Member of the control plane.
    pub member: Option<u16>,
    /// Name of server and Node object.
    pub name: String,
    /// Flavor by name or id.
    pub flavor: String,
    /// Availability zone.
    pub zone: Option<String>,
    /// Network by name or id; none: the cloud's default.
    pub network: Option<String>,
    /// Security group by name or id; none: the cloud's default.
    pub security_group: Option<String>,
    /// Image by name or id, if a mapping chose one.
    pub image: Option<String>,
    /// The migration that it is made for.
    pub job_id: Option<MigrationId>,
    /// Its server group; a canary has none.
    pub group_id: Option<Uuid>,
    /// How many rows failed before in its place.
    pub attempt: u32,
    /// Nothing is tried before.
    pub not_before: Option<jiff::Timestamp>,
    /// Why the one before failed in its place.
    pub trouble: Option<String>,
    /// Its sealed secrets.
    pub secret: Sealed,
    /// Hash of its bundle token, for control-plane members.
    pub bundle_token_hash: Option<Vec<u8>>,
    /// Now.
    pub created_at: jiff::Timestamp,
}

/// Inserts a node that is wanted.
pub async fn insert(tx: &mut Tx, new: NewNodeRow) -> Result<(), StoreError> {
    let result = sqlx::query(
        "INSERT INTO nodes (id, cluster_id, pool_id, cloud_id, account_id, role, member, name,
             flavor, zone, job_id, group_id, attempt, not_before, secret, bundle_token_hash,
             created_at, network, security_group, image, trouble, failed)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,
                 $18, $19, $20, $21, $21)",
    )
    .bind(new.id)
    .bind(new.cluster_id)
    .bind(new.pool_id)
    .bind(new.cloud_id)
    .bind(new.account_id)
    .bind(new.role.as_str())
    .bind(new.member.map(i32::from))
    .bind(new.name)
    .bind(new.flavor)
    .bind(new.zone)
    .bind(new.job_id)
    .bind(new.group_id)
    .bind(i32::try_from(new.attempt).unwrap_or(i32::MAX))
    .bind(new.not_before.map(ts))
    .bind(new.secret)
    .bind(new.bundle_token_hash)
    .bind(ts(new.created_at))
    .bind(new.network)
    .bind(new.security_group)
    .bind(new.image)
    .bind(new.trouble)
    .execute(&mut **tx)
    .await?;
    expect_rows(&result, 1)
}
