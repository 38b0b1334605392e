//! Clouds and the accounts with which they are used.
//!
//! Here is what `app` writes: settings, credentials, the wish for a check. What a check finds is
//! written by the cloud worker.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::{PgExecutor, QueryBuilder, Row};
use uuid::Uuid;

use super::change::{Change, change};
use super::page::{Page, PageRequest};
use super::reader::{Reader, to_json};
use super::seal::Sealed;
use super::{StoreError, Tx, expect_rows, ts};
use crate::domain::cloud::{CloudCheck, CloudPhase, CloudSpec};
use crate::domain::ids::{AccountId, CloudId, ProjectId};
use crate::domain::inventory::Inventory;

/// The name is another cloud's.
pub const NAME_TAKEN: &str = "clouds_name_key";

/// A cloud.
#[derive(Debug, Clone, PartialEq)]
pub struct CloudRow {
    /// Its id.
    pub id: CloudId,
    /// Its name.
    pub name: String,
    /// What an operator set.
    pub spec: CloudSpec,
    /// Number of the settings.
    pub generation: i64,
    /// Number of the settings that were checked last.
    pub observed_generation: i64,
    /// Where it is in its life.
    pub phase: CloudPhase,
    /// What the last check found.
    pub checks: Vec<CloudCheck>,
    /// What there is; lists leave it out.
    pub inventory: Option<Inventory>,
    /// When the inventory was read.
    pub inventory_at: Option<Timestamp>,
    /// How many checks were asked for.
    pub check_wanted: i64,
    /// How many of those are answered.
    pub check_done: i64,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// A login to one project of a cloud.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountRow {
    /// Its id.
    pub id: AccountId,
    /// The cloud.
    pub cloud_id: CloudId,
    /// Our project, if the account is not shared by all.
    pub project_id: Option<ProjectId>,
    /// `domain::credential::Credential` as JSON, sealed at `accounts/<id>/credential`.
    pub credential: Sealed,
    /// When its servers were last listed.
    pub listed_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
}

const SELECT: &str = "SELECT id, name, spec, generation, observed_generation, phase, checks,
            inventory, inventory_at, check_wanted, check_done, created_at, updated_at
     FROM clouds
     WHERE removed_at IS NULL";

fn cloud(row: &PgRow) -> Result<CloudRow, StoreError> {
    let row = Reader::new("clouds", row)?;
    Ok(CloudRow {
        id: row.get("id")?,
        name: row.get("name")?,
        spec: row.json("spec")?,
        generation: row.get("generation")?,
        observed_generation: row.get("observed_generation")?,
        phase: row.word("phase")?,
        checks: row.json("checks")?,
        inventory: row.maybe_json("inventory")?,
        inventory_at: row.maybe_at("inventory_at")?,
        check_wanted: row.get("check_wanted")?,
        check_done: row.get("check_done")?,
        created_at: row.at("created_at")?,
        updated_at: row.at("updated_at")?,
    })
}

fn account(row: &PgRow) -> Result<AccountRow, StoreError> {
    let row = Reader::new("accounts", row)?;
    Ok(AccountRow {
        id: row.get("id")?,
        cloud_id: row.get("cloud_id")?,
        project_id: row.get("project_id")?,
        credential: row.get("credential")?,
        listed_at: row.maybe_at("listed_at")?,
        created_at: row.at("created_at")?,
    })
}

/// Adds a cloud, in `checking`.
pub async fn insert(
    tx: &mut Tx,
    id: CloudId,
    (name, spec): (&str, &CloudSpec),
    now: Timestamp,
) -> Result<(), StoreError> {
    let result = sqlx::query(
        "INSERT INTO clouds (id, name, spec, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $4)",
    )
    .bind(id)
    .bind(name)
    .bind(to_json(spec))
    .bind(ts(now))
    .execute(&mut **tx)
    .await?;
    expect_rows(&result, 1)
}

/// Adds an account.
pub async fn insert_account(tx: &mut Tx, account: &AccountRow) -> Result<(), StoreError> {
    let result = sqlx::query(
        "INSERT INTO accounts (id, cloud_id, project_id, credential, created_at)
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(account.id)
    .bind(account.cloud_id)
    .bind(account.project_id)
    .bind(&account.credential)
    .bind(ts(account.created_at))
    .execute(&mut **tx)
    .await?;
    expect_rows(&result, 1)
}

/// One cloud.
pub async fn find(
    executor: impl PgExecutor<'_>,
    id: CloudId,
) -> Result<Option<CloudRow>, StoreError> {
    let mut query = QueryBuilder::new(SELECT);
    query.push(" AND id = ").push_bind(id);
    query.build().fetch_optional(executor).await?.as_ref().map(cloud).transpose()
}

/// One cloud by its name, or by its id as text.
pub async fn find_named(
    executor: impl PgExecutor<'_>,
    name: &str,
) -> Result<Option<CloudRow>, StoreError> {
    let mut query = QueryBuilder::new(SELECT);
    query.push(" AND (name = ").push_bind(name);
    query.push(" OR id = ").push_bind(name.parse::<Uuid>().ok()).push(")");
    query.build().fetch_optional(executor).await?.as_ref().map(cloud).transpose()
}

/// Clouds by name.
pub async fn list_named(
    executor: impl PgExecutor<'_>,
    names: &[String],
) -> Result<Vec<CloudRow>, StoreError> {
    let mut query = QueryBuilder::new(SELECT);
    query.push(" AND name = ANY(").push_bind(names).push(") ORDER BY name");
    query.build().fetch_all(executor).await?.iter().map(cloud).collect()
}

/// Names of all clouds, also of removed ones, by id.
pub async fn names(executor: impl PgExecutor<'_>) -> Result<BTreeMap<CloudId, String>, StoreError> {
    let rows = sqlx::query("SELECT id, name FROM clouds").fetch_all(executor).await?;
    rows.iter().map(|row| Ok((row.try_get("id")?, row.try_get("name")?))).collect()
}

/// Clouds by name, without their inventory.
pub async fn list(
    executor: impl PgExecutor<'_>,
    request: &PageRequest,
) -> Result<Page<CloudRow>, StoreError> {
    let keyset = request.keyset("clouds.name", &());
    let after: Option<String> = keyset.after()?;
    let rows = sqlx::query(
        "SELECT id, name, spec, generation, observed_generation, phase, checks,
                NULL::jsonb AS inventory, inventory_at, check_wanted, check_done, created_at,
                updated_at
         FROM clouds
         WHERE removed_at IS NULL AND ($1::text IS NULL OR name > $1)
         ORDER BY name
         LIMIT $2",
    )
    .bind(after)
    .bind(keyset.fetch())
    .fetch_all(executor)
    .await?;
    let rows = rows.iter().map(cloud).collect::<Result<Vec<_>, _>>()?;
    Ok(keyset.page(rows, |row| row.name.clone()))
}

/// Gives a cloud new settings; it is to be checked again. `seen` is the generation that the
/// caller knows, if it cares.
pub async fn set_spec(
    tx: &mut Tx,
    (id, seen): (CloudId, Option<i64>),
    spec: &CloudSpec,
    now: Timestamp,
) -> Result<Change, StoreError> {
    let update = sqlx::query(
        "UPDATE clouds
         SET spec = $3, generation = generation + 1, phase = 'checking',
             check_wanted = check_wanted + 1, updated_at = $4
         WHERE id = $1 AND removed_at IS NULL AND ($2::bigint IS NULL OR generation = $2)
         RETURNING generation",
    )
    .bind(id)
    .bind(seen)
    .bind(to_json(spec))
    .bind(ts(now));
    let look = sqlx::query("SELECT generation FROM clouds WHERE id = $1 AND removed_at IS NULL");
    change(tx, update, look.bind(id)).await
}

/// Gives an account another credential.
pub async fn set_credential(
    tx: &mut Tx,
    id: AccountId,
    credential: &Sealed,
) -> Result<(), StoreError> {
    let result = sqlx::query("UPDATE accounts SET credential = $2 WHERE id = $1")
        .bind(id)
        .bind(credential)
        .execute(&mut **tx)
        .await?;
    expect_rows(&result, 1)
}

/// Asks for a check.
pub async fn want_check(tx: &mut Tx, id: CloudId, now: Timestamp) -> Result<(), StoreError> {
    let result = sqlx::query(
        "UPDATE clouds
         SET check_wanted = check_wanted + 1, updated_at = $2
         WHERE id = $1 AND removed_at IS NULL",
    )
    .bind(id)
    .bind(ts(now))
    .execute(&mut **tx)
    .await?;
    expect_rows(&result, 1)
}

/// The account that a project uses on a cloud: its own, else the shared one.
pub async fn account_for(
    executor: impl PgExecutor<'_>,
    cloud_id: CloudId,
    project_id: Option<ProjectId>,
) -> Result<Option<AccountRow>, StoreError> {
    let row = sqlx::query(
        "SELECT id, cloud_id, project_id, credential, listed_at, created_at
         FROM accounts
         WHERE cloud_id = $1 AND (project_id IS NULL OR project_id = $2)
         -- nulls, the shared account, sort last
         ORDER BY project_id
         LIMIT 1",
    )
    .bind(cloud_id)
    .bind(project_id)
    .fetch_optional(executor)
    .await?;
    row.as_ref().map(account).transpose()
}

/// All accounts of a cloud.
pub async fn list_accounts(
    executor: impl PgExecutor<'_>,
    cloud_id: CloudId,
) -> Result<Vec<AccountRow>, StoreError> {
    let rows = sqlx::query(
        "SELECT id, cloud_id, project_id, credential, listed_at, created_at
         FROM accounts
         WHERE cloud_id = $1
         ORDER BY id",
    )
    .bind(cloud_id)
    .fetch_all(executor)
    .await?;
    rows.iter().map(account).collect()
}

/// What is left on a cloud.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CloudUse {
    /// Nodes that may still have something there.
    pub nodes: i64,
    /// Pools whose workers belong there.
    pub pools: i64,
    /// Clusters whose control plane is there.
    pub control_planes: i64,
    /// Migrations from or to it that go on.
    pub migrations: i64,
    /// Things of ours that nobody owns.
    pub orphans: i64,
}

impl CloudUse {
    /// Whether nothing is left.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// Counts what is left on a cloud. Locks the cloud, so that nothing comes meanwhile.
pub async fn count_use(tx: &mut Tx, id: CloudId) -> Result<CloudUse, StoreError> {
    sqlx::query("SELECT 1 FROM clouds WHERE id = $1 FOR UPDATE")
        .bind(id)
        .execute(&mut **tx)
        .await?;
    let row = sqlx::query(
        "SELECT
             (SELECT count(*) FROM nodes WHERE cloud_id = $1 AND closed_at IS NULL) AS nodes,
             (SELECT count(*) FROM pools WHERE cloud_id = $1) AS pools,
             (SELECT count(*) FROM clusters
              WHERE control_plane_cloud_id = $1 AND phase <> 'deleted') AS control_planes,
             (SELECT count(*) FROM migrations
              WHERE (source_cloud_id = $1 OR target_cloud_id = $1)
                AND phase NOT IN ('succeeded', 'rolled_back', 'cancelled')) AS migrations,
             (SELECT count(*) FROM orphans
              JOIN accounts ON accounts.id = orphans.account_id
              WHERE accounts.cloud_id = $1) AS orphans",
    )
    .bind(id)
    .fetch_one(&mut **tx)
    .await?;
    Ok(CloudUse {
        nodes: row.try_get("nodes")?,
        pools: row.try_get("pools")?,
        control_planes: row.try_get("control_planes")?,
        migrations: row.try_get("migrations")?,
        orphans: row.try_get("orphans")?,
    })
}

/// Locks clouds against removal until the transaction ends. Whoever puts something on a cloud
/// does this first.
pub async fn hold(tx: &mut Tx, ids: &[CloudId]) -> Result<(), StoreError> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    sqlx::query("SELECT 1 FROM clouds WHERE id = ANY($1) ORDER BY id FOR KEY SHARE")
        .bind(ids)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Removes a cloud: its credentials are wiped, its name is free. The row stays for the history.
pub async fn remove(tx: &mut Tx, id: CloudId, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query("UPDATE accounts SET credential = '' WHERE cloud_id = $1")
        .bind(id)
        .execute(&mut **tx)
        .await?;
    let result = sqlx::query(
        "UPDATE clouds
         SET removed_at = $2, updated_at = $2, inventory = NULL
         WHERE id = $1 AND removed_at IS NULL",
    )
    .bind(id)
    .bind(ts(now))
    .execute(&mut **tx)
    .await?;
    expect_rows(&result, 1)
}

/// Names of all clouds that can be used or checked.
pub async fn open_names(executor: impl PgExecutor<'_>) -> Result<Vec<String>, StoreError> {
    let query = sqlx::query("SELECT name FROM clouds WHERE removed_at IS NULL ORDER BY name");
    let rows = query.fetch_all(executor).await?;
    rows.iter().map(|row| Ok(row.try_get("name")?)).collect()
}
