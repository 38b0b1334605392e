//! What workers read of clouds and accounts, and the cloud worker writes on them.

use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgExecutor, Row};

use super::seal::Sealed;
use super::{StoreError, Ts, Tx, expect_rows, ts};
use crate::domain::cloud::{CloudCheck, CloudPhase, CloudSpec};
use crate::domain::ids::{AccountId, CloudId, ProjectId};
use crate::domain::inventory::Inventory;

/// A cloud as workers see it.
#[derive(Debug, Clone)]
pub struct CloudWork {
    /// Its id.
    pub id: CloudId,
    /// Its name.
    pub name: String,
    /// How an operator registered it.
    pub spec: CloudSpec,
    /// Counts changes of what was registered.
    pub generation: i64,
    /// Whether it can be used.
    pub phase: CloudPhase,
    /// What it has, when last read.
    pub inventory: Option<Inventory>,
    /// When it was last read.
    pub inventory_at: Option<jiff::Timestamp>,
    /// Counts wishes to check it now.
    pub check_wanted: i64,
}

/// A project and its credential on a cloud.
#[derive(Debug, Clone)]
pub struct AccountWork {
    /// Its id.
    pub id: AccountId,
    /// Where.
    pub cloud_id: CloudId,
    /// Sealed credential; `serde_json` of `domain::credential::Credential`.
    pub credential: Sealed,
    /// When all its servers were last listed.
    pub listed_at: Option<jiff::Timestamp>,
    /// How many of ours there were.
    pub servers: u32,
    /// Since when lists lack the servers of a cell that is down.
    pub incomplete_since: Option<jiff::Timestamp>,
}

const COLUMNS: &str = "id, name, spec, generation, phase, inventory, inventory_at, check_wanted";

/// Reads clouds by id; those that do not exist are left out.
pub async fn load(
    executor: impl PgExecutor<'_>,
    ids: &[CloudId],
) -> Result<Vec<CloudWork>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM clouds WHERE id = ANY($1) ORDER BY name");
    let query =
        sqlx::query(sqlx::AssertSqlSafe(sql)).bind(ids.iter().map(|id| id.0).collect::<Vec<_>>());
    query.fetch_all(executor).await?.iter().map(read).collect()
}

fn read(row: &PgRow) -> Result<CloudWork, StoreError> {
    let id: CloudId = row.try_get("id")?;
    let phase = match row.try_get::<&str, _>("phase")? {
        "checking" => CloudPhase::Checking,
        "ready" => CloudPhase::Ready,
        "unusable" => CloudPhase::Unusable,
        other => return Err(StoreError::inconsistent("clouds", id, other)),
    };
    Ok(CloudWork {
        id,
        name: row.try_get("name")?,
        spec: row.try_get::<Json<CloudSpec>, _>("spec")?.0,
        generation: row.try_get("generation")?,
        phase,
        inventory: row.try_get::<Option<Json<Inventory>>, _>("inventory")?.map(|json| json.0),
        inventory_at: row.try_get::<Option<Ts>, _>("inventory_at")?.map(Ts::to_jiff),
        check_wanted: row.try_get("check_wanted")?,
    })
}

/// Accounts on a cloud, the shared one first.
pub async fn accounts(
    executor: impl PgExecutor<'_>,
    cloud: CloudId,
) -> Result<Vec<AccountWork>, StoreError> {
    let rows = sqlx::query(
        "SELECT id, cloud_id, credential, listed_at, servers, incomplete_since FROM accounts
         WHERE cloud_id = $1
         ORDER BY project_id NULLS FIRST",
    )
    .bind(cloud)
    .fetch_all(executor)
    .await?;
    rows.iter().map(read_account).collect()
}

/// One account, unless its cloud was removed: then its login is gone.
pub async fn account(
    executor: impl PgExecutor<'_>,
    id: AccountId,
) -> Result<Option<AccountWork>, StoreError> {
    let row = sqlx::query(
        "SELECT id, cloud_id, credential, listed_at, servers, incomplete_since FROM accounts
         WHERE id = $1 AND cloud_id IN (SELECT id FROM clouds WHERE removed_at IS NULL)",
    )
    .bind(id)
    .fetch_optional(executor)
    .await?;
    row.as_ref().map(read_account).transpose()
}

/// The account of a project on a cloud: its own, or the shared one.
pub async fn account_of(
    executor: impl PgExecutor<'_>,
    cloud: CloudId,
    project: ProjectId,
) -> Result<Option<AccountWork>, StoreError> {
    let row = sqlx::query(
        "SELECT id, cloud_id, credential, listed_at, servers, incomplete_since FROM accounts
         WHERE cloud_id = $1 AND (project_id = $2 OR project_id IS NULL)
         ORDER BY project_id NULLS LAST
         LIMIT 1",
    )
    .bind(cloud)
    .bind(project)
    .fetch_optional(executor)
    .await?;
    row.as_ref().map(read_account).transpose()
}

fn read_account(row: &PgRow) -> Result<AccountWork, StoreError> {
    let servers: i32 = row.try_get("servers")?;
    Ok(AccountWork {
        servers: u32::try_from(servers).unwrap_or(0),
        id: row.try_get("id")?,
        cloud_id: row.try_get("cloud_id")?,
        credential: row.try_get("credential")?,
        listed_at: row.try_get::<Option<Ts>, _>("listed_at")?.map(Ts::to_jiff),
        incomplete_since: row.try_get::<Option<Ts>, _>("incomplete_since")?.map(Ts::to_jiff),
    })
}

/// Writes the result of a check; an inventory only if it could be read. Nothing is written if the
/// cloud was registered anew meanwhile.
pub async fn write_check(
    tx: &mut Tx,
    cloud: &CloudWork,
    (phase, checks, inventory): (CloudPhase, &[CloudCheck], Option<&Inventory>),
    now: jiff::Timestamp,
) -> Result<bool, StoreError> {
    let phase = match phase {
        CloudPhase::Checking => "checking",
        CloudPhase::Ready => "ready",
        CloudPhase::Unusable => "unusable",
    };
    let result = sqlx::query(
        "UPDATE clouds
         SET phase = $3,
             checks = $4,
             inventory = coalesce($5, inventory),
             inventory_at = CASE WHEN $5 IS NULL THEN inventory_at ELSE $6 END,
             observed_generation = $2,
             check_done = GREATEST(check_done, $7),
             updated_at = $6
         WHERE id = $1 AND generation = $2",
    )
    .bind(cloud.id)
    .bind(cloud.generation)
    .bind(phase)
    .bind(Json(checks))
    .bind(inventory.map(Json))
    .bind(ts(now))
    .bind(cloud.check_wanted)
    .execute(&mut **tx)
    .await?;
    Ok(result.rows_affected() == 1)
}

/// Records that all servers of an account were listed, how many there were, and whether some may
/// be missing.
pub async fn write_listed(
    tx: &mut Tx,
    account: AccountId,
    (servers, is_complete): (usize, bool),
    now: jiff::Timestamp,
) -> Result<(), StoreError> {
    let result = sqlx::query(
        "UPDATE accounts
         SET listed_at = $2,
             servers = $4,
             incomplete_since = CASE WHEN $3 THEN NULL ELSE coalesce(incomplete_since, $2) END
         WHERE id = $1",
    )
    .bind(account)
    .bind(ts(now))
    .bind(is_complete)
    .bind(i32::try_from(servers).unwrap_or(i32::MAX))
    .execute(&mut **tx)
    .await?;
    expect_rows(&result, 1)
}

/// Clusters with open nodes or an endpoint on a cloud, to be woken when the cloud changes.
pub async fn clusters_on(
    executor: impl PgExecutor<'_>,
    cloud: CloudId,
) -> Result<Vec<crate::domain::ids::ClusterId>, StoreError> {
    let rows = sqlx::query(
        "SELECT id FROM clusters
         WHERE phase <> 'deleted'
           AND (control_plane_cloud_id = $1
                OR id IN (SELECT cluster_id FROM pools WHERE cloud_id = $1)
                OR id IN (SELECT cluster_id FROM nodes
                          WHERE cloud_id = $1 AND closed_at IS NULL))",
    )
    .bind(cloud)
    .fetch_all(executor)
    .await?;
    rows.iter().map(|row| Ok(row.try_get("id")?)).collect()
}
