//! What became of a compare-and-set.

use sqlx::{PgExecutor, Row};

use super::StoreError;

/// What became of a write that names the generation it has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Written; the row has this generation now.
    Updated(i64),
    /// Somebody changed the row meanwhile; it has this generation.
    Stale(i64),
    /// There is no such row.
    Missing,
}

/// Runs an `UPDATE ... RETURNING generation`; if it met no row, tells why by `look`.
pub(crate) async fn change<'q, E>(
    tx: &mut super::Tx,
    update: sqlx::query::Query<'q, sqlx::Postgres, E>,
    look: sqlx::query::Query<'q, sqlx::Postgres, E>,
) -> Result<Change, StoreError>
where
    E: Send + sqlx::IntoArguments<sqlx::Postgres> + 'q,
{
    if let Some(row) = fetch(&mut **tx, update).await? {
        return Ok(Change::Updated(row));
    }
    Ok(fetch(&mut **tx, look).await?.map_or(Change::Missing, Change::Stale))
}

async fn fetch<'q, E>(
    executor: impl PgExecutor<'_>,
    query: sqlx::query::Query<'q, sqlx::Postgres, E>,
) -> Result<Option<i64>, StoreError>
where
    E: Send + sqlx::IntoArguments<sqlx::Postgres> + 'q,
{
    let row = query.fetch_optional(executor).await?;
    row.map(|row| row.try_get("generation")).transpose().map_err(StoreError::from)
}
