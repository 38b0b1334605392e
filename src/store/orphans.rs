//! What is ours on a cloud and has no owner any more.

use std::collections::BTreeSet;

use sqlx::{PgExecutor, Row};

use super::{StoreError, Ts, Tx, ts};
use crate::domain::ids::AccountId;

/// What kind of thing it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OrphanKind {
    /// A Nova server.
    Server,
    /// A Neutron port.
    Port,
    /// A Nova server group.
    ServerGroup,
}

impl OrphanKind {
    /// The word in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Port => "port",
            Self::ServerGroup => "server_group",
        }
    }
}

/// A thing without owner.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Orphan {
    /// What it is.
    pub kind: OrphanKind,
    /// The cloud's id of it.
    pub outside_id: String,
    /// Its name there.
    pub name: String,
}

/// An orphan that was seen before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// In how many sweeps.
    pub count: i32,
    /// When first.
    pub first_at: jiff::Timestamp,
}

/// Ids of servers, ports and server groups on an account that an open row claims. A node whose
/// call is unclear claims whatever bears its id: those are in the second set.
pub async fn claims(
    tx: &mut Tx,
    account: AccountId,
) -> Result<(BTreeSet<String>, BTreeSet<uuid::Uuid>), StoreError> {
    let rows = sqlx::query(
        "SELECT unnest(ARRAY[server_id, port_id]) AS outside_id
         FROM nodes WHERE account_id = $1 AND closed_at IS NULL
         UNION
         SELECT vip_port_id FROM clusters WHERE phase <> 'deleted'
         UNION
         SELECT server_group_id FROM server_groups
         WHERE account_id = $1 AND state NOT IN ('gone', 'never')",
    )
    .bind(account)
    .fetch_all(&mut **tx)
    .await?;
    let mut ids = BTreeSet::new();
    for row in &rows {
        ids.extend(row.try_get::<Option<String>, _>("outside_id")?);
    }
    let unclear = sqlx::query(
        "SELECT id FROM nodes
         WHERE account_id = $1 AND closed_at IS NULL
           AND (server IN ('unknown', 'never') OR port IN ('unknown', 'never'))
         UNION
         SELECT id FROM clusters WHERE phase <> 'deleted' AND vip_port IN ('unknown', 'never')
         UNION
         SELECT cluster_id FROM server_groups
         WHERE account_id = $1 AND state IN ('unknown', 'never')",
    )
    .bind(account)
    .fetch_all(&mut **tx)
    .await?;
    let mut owners = BTreeSet::new();
    for row in &unclear {
        owners.insert(row.try_get("id")?);
    }
    Ok((ids, owners))
}

/// Records an orphan that a sweep saw; returns what is known of it.
pub async fn see(
    tx: &mut Tx,
    account: AccountId,
    orphan: &Orphan,
    now: jiff::Timestamp,
) -> Result<Seen, StoreError> {
    let row = sqlx::query(
        "INSERT INTO orphans (account_id, kind, outside_id, name, first_seen_at)
         VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (account_id, kind, outside_id) DO UPDATE
         SET seen_count = orphans.seen_count + 1
         RETURNING seen_count, first_seen_at",
    )
    .bind(account)
    .bind(orphan.kind.as_str())
    .bind(&orphan.outside_id)
    .bind(&orphan.name)
    .bind(ts(now))
    .fetch_one(&mut **tx)
    .await?;
    Ok(Seen {
        count: row.try_get("seen_count")?,
        first_at: row.try_get::<Ts, _>("first_seen_at")?.to_jiff(),
    })
}

/// Forgets what is no orphan any more: gone, or owned after all.
pub async fn forget_others(
    tx: &mut Tx,
    account: AccountId,
    still: &[Orphan],
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM orphans WHERE account_id = $1 AND NOT (outside_id = ANY($2))")
        .bind(account)
        .bind(still.iter().map(|orphan| orphan.outside_id.clone()).collect::<Vec<_>>())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// How many orphans are known on an account.
pub async fn count(executor: impl PgExecutor<'_>, account: AccountId) -> Result<i64, StoreError> {
    let row = sqlx::query("SELECT count(*) FROM orphans WHERE account_id = $1")
        .bind(account)
        .fetch_one(executor)
        .await?;
    Ok(row.try_get(0)?)
}
