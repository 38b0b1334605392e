//! Which object of the management cluster is which migration.
//!
//! `app` ties an object to the migration that it makes, and notes the wishes that it carries out;
//! the management worker writes everything else.

use jiff::Timestamp;
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{PgExecutor, Row};
use uuid::Uuid;

use super::{StoreError, Tx, expect_rows, ts};
use crate::domain::ids::{MigrationId, ProjectId};

/// Another migration is this object's.
pub const UID_KEY: &str = "migration_objects_uid_key";
/// Migrations that get their objects in one activation; the rest in the next.
const UNTIED_AT_ONCE: i64 = 100;

/// The tie between a migration and its object.
#[derive(Debug, Clone, PartialEq)]
pub struct Tie {
    /// The migration.
    pub migration: MigrationId,
    /// Namespace of the object.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
    /// The object's uid; none while it may or may not exist.
    pub uid: Option<Uuid>,
    /// Generation of the object whose wishes were carried out last.
    pub taken_generation: i64,
    /// Those wishes.
    pub taken: Option<Value>,
    /// When the object went for good.
    pub released_at: Option<Timestamp>,
}

/// A migration without an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Untied {
    /// The migration.
    pub migration: MigrationId,
    /// Its project.
    pub project: ProjectId,
    /// Name of its cluster.
    pub cluster: String,
}

/// Ties of all objects that are there, and of released ones whose migration is not over.
pub async fn list(executor: impl PgExecutor<'_>) -> Result<Vec<Tie>, StoreError> {
    let rows = sqlx::query(
        "SELECT migration_id, namespace, name, uid, taken_generation, taken, released_at
         FROM migration_objects o
         WHERE released_at IS NULL
            OR EXISTS (SELECT 1 FROM migrations m
                       WHERE m.id = o.migration_id
                         AND m.phase NOT IN ('succeeded', 'rolled_back', 'cancelled'))
         ORDER BY migration_id",
    )
    .fetch_all(executor)
    .await?;
    rows.iter().map(tie).collect()
}

fn tie(row: &PgRow) -> Result<Tie, StoreError> {
    let released: Option<super::Ts> = row.try_get("released_at")?;
    Ok(Tie {
        migration: row.try_get("migration_id")?,
        namespace: row.try_get("namespace")?,
        name: row.try_get("name")?,
        uid: row.try_get("uid")?,
        taken_generation: row.try_get("taken_generation")?,
        taken: row.try_get("taken")?,
        released_at: released.map(super::Ts::to_jiff),
    })
}

/// The tie of one object.
pub async fn find(
    executor: impl PgExecutor<'_>,
    uid: Uuid,
) -> Result<Option<MigrationId>, StoreError> {
    let row = sqlx::query("SELECT migration_id FROM migration_objects WHERE uid = $1")
        .bind(uid)
        .fetch_optional(executor)
        .await?;
    row.map(|row| Ok(row.try_get("migration_id")?)).transpose()
}

/// Migrations that are under way and have no object, in these projects.
pub async fn list_untied(
    executor: impl PgExecutor<'_>,
    projects: &[ProjectId],
) -> Result<Vec<Untied>, StoreError> {
    let projects: Vec<Uuid> = projects.iter().map(|id| id.0).collect();
    let rows = sqlx::query(
        "SELECT m.id, c.project_id, c.name
         FROM migrations m JOIN clusters c ON c.id = m.cluster_id
         WHERE m.phase NOT IN ('succeeded', 'rolled_back', 'cancelled')
           AND c.project_id = ANY($1)
           AND NOT EXISTS (SELECT 1 FROM migration_objects o WHERE o.migration_id = m.id)
         ORDER BY m.id
         LIMIT $2",
    )
    .bind(projects)
    .bind(UNTIED_AT_ONCE)
    .fetch_all(executor)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Untied {
                migration: row.try_get("id")?,
                project: row.try_get("project_id")?,
                cluster: row.try_get("name")?,
            })
        })
        .collect()
}

/// Ties a migration to its object. `Conflict` with [`UID_KEY`] if the object has one already.
pub async fn insert(tx: &mut Tx, tie: &Tie, now: Timestamp) -> Result<(), StoreError> {
    let result = sqlx::query(
        "INSERT INTO migration_objects
             (migration_id, namespace, name, uid, taken_generation, taken, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(tie.migration)
    .bind(&tie.namespace)
    .bind(&tie.name)
    .bind(tie.uid)
    .bind(tie.taken_generation)
    .bind(&tie.taken)
    .bind(ts(now))
    .execute(&mut **tx)
    .await?;
    expect_rows(&result, 1)
}

/// Notes under which name and uid the object is (none: it may or may not exist). What was taken of
/// another object says nothing of this one.
pub async fn set_object(
    tx: &mut Tx,
    migration: MigrationId,
    (name, uid): (&str, Option<Uuid>),
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE migration_objects
         SET taken_generation = CASE WHEN uid IS NOT DISTINCT FROM $3 THEN taken_generation
                                     ELSE 0 END,
             taken = CASE WHEN uid IS NOT DISTINCT FROM $3 THEN taken ELSE NULL END,
             name = $2, uid = $3
         WHERE migration_id = $1",
    )
    .bind(migration)
    .bind(name)
    .bind(uid)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Notes that the wishes of this generation are carried out.
pub async fn set_taken(
    tx: &mut Tx,
    migration: MigrationId,
    (generation, wishes): (i64, &Value),
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE migration_objects
         SET taken_generation = $2, taken = $3
         WHERE migration_id = $1 AND taken_generation < $2",
    )
    .bind(migration)
    .bind(generation)
    .bind(wishes)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Notes that the object is gone for good.
pub async fn release(
    tx: &mut Tx,
    migration: MigrationId,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE migration_objects SET released_at = $2
         WHERE migration_id = $1 AND released_at IS NULL",
    )
    .bind(migration)
    .bind(ts(now))
    .execute(&mut **tx)
    .await?;
    Ok(())
}
