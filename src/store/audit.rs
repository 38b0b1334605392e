//! Who asked for what. Rows are only ever added.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{PgExecutor, Row};
use uuid::Uuid;

use super::page::{Page, PageRequest};
use super::{StoreError, Ts, Tx, ts};
use crate::domain::ids::ProjectId;

/// One thing that somebody asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditRecord {
    /// Id of the record; sorts by time.
    pub id: Uuid,
    /// When it was asked for.
    pub at: Timestamp,
    /// By whom, such as `token:<id>`.
    pub actor: String,
    /// What, such as `cluster.create`.
    pub action: String,
    /// In which project.
    pub project: Option<ProjectId>,
    /// Of what kind of thing.
    pub resource_kind: String,
    /// Of which thing.
    pub resource: Uuid,
    /// The request's particulars, without secrets.
    pub detail: Value,
}

/// Which records to list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct AuditFilter {
    /// Only of this project.
    pub project: Option<ProjectId>,
    /// Only about this thing.
    pub resource: Option<Uuid>,
}

/// Records a request in the transaction of what it changes.
pub async fn record(tx: &mut Tx, record: &AuditRecord) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO audit (id, at, actor, action, project_id, resource_kind, resource_id, detail)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(record.id)
    .bind(ts(record.at))
    .bind(&record.actor)
    .bind(&record.action)
    .bind(record.project)
    .bind(&record.resource_kind)
    .bind(record.resource)
    .bind(&record.detail)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Lists records, newest first.
pub async fn list(
    executor: impl PgExecutor<'_>,
    filter: AuditFilter,
    request: &PageRequest,
) -> Result<Page<AuditRecord>, StoreError> {
    let keyset = request.keyset("audit.newest", &filter);
    let rows = sqlx::query(
        "SELECT id, at, actor, action, project_id, resource_kind, resource_id, detail
         FROM audit
         WHERE ($1::uuid IS NULL OR project_id = $1)
           AND ($2::uuid IS NULL OR resource_id = $2)
           AND ($3::uuid IS NULL OR id < $3)
         ORDER BY id DESC
         LIMIT $4",
    )
    .bind(filter.project)
    .bind(filter.resource)
    .bind(keyset.after::<Uuid>()?)
    .bind(keyset.fetch())
    .fetch_all(executor)
    .await?;
    let records = rows.iter().map(record_of).collect::<Result<Vec<_>, _>>()?;
    Ok(keyset.page(records, |record| record.id))
}

fn record_of(row: &PgRow) -> Result<AuditRecord, StoreError> {
    Ok(AuditRecord {
        id: row.try_get("id")?,
        at: row.try_get::<Ts, _>("at")?.to_jiff(),
        actor: row.try_get("actor")?,
        action: row.try_get("action")?,
        project: row.try_get("project_id")?,
        resource_kind: row.try_get("resource_kind")?,
        resource: row.try_get("resource_id")?,
        detail: row.try_get("detail")?,
    })
}
