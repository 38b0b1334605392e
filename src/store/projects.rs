//! Tenants.

use jiff::Timestamp;
use sqlx::postgres::PgRow;
use sqlx::{PgExecutor, Row};

use super::page::{Page, PageRequest};
use super::{StoreError, Ts, Tx, ts};
use crate::domain::ids::ProjectId;

/// The constraint that keeps names apart.
pub const NAME_KEY: &str = "projects_name_key";

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    /// Its id.
    pub id: ProjectId,
    /// Its name, unique.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Adds a project. `Conflict` with [`NAME_KEY`] if the name is taken.
pub async fn insert(tx: &mut Tx, project: &Project) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO projects (id, name, created_at) VALUES ($1, $2, $3)")
        .bind(project.id)
        .bind(&project.name)
        .bind(ts(project.created_at))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// The project of that id.
pub async fn find(
    executor: impl PgExecutor<'_>,
    id: ProjectId,
) -> Result<Option<Project>, StoreError> {
    let row = sqlx::query("SELECT id, name, created_at FROM projects WHERE id = $1")
        .bind(id)
        .fetch_optional(executor)
        .await?;
    row.as_ref().map(project).transpose()
}

/// The project of that name.
pub async fn find_by_name(
    executor: impl PgExecutor<'_>,
    name: &str,
) -> Result<Option<Project>, StoreError> {
    let row = sqlx::query("SELECT id, name, created_at FROM projects WHERE name = $1")
        .bind(name)
        .fetch_optional(executor)
        .await?;
    row.as_ref().map(project).transpose()
}

/// Lists projects by name.
pub async fn list(
    executor: impl PgExecutor<'_>,
    request: &PageRequest,
) -> Result<Page<Project>, StoreError> {
    let keyset = request.keyset("projects.name", &());
    let rows = sqlx::query(
        "SELECT id, name, created_at
         FROM projects
         WHERE $1::text IS NULL OR name > $1
         ORDER BY name
         LIMIT $2",
    )
    .bind(keyset.after::<String>()?)
    .bind(keyset.fetch())
    .fetch_all(executor)
    .await?;
    let projects = rows.iter().map(project).collect::<Result<Vec<_>, _>>()?;
    Ok(keyset.page(projects, |project| project.name.clone()))
}

fn project(row: &PgRow) -> Result<Project, StoreError> {
    Ok(Project {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        created_at: row.try_get::<Ts, _>("created_at")?.to_jiff(),
    })
}
