//! Offerings. Written by `app`, kept for ever.

use jiff::Timestamp;
use sqlx::postgres::PgRow;
use sqlx::{PgExecutor, QueryBuilder, Row};

use super::page::{Page, PageRequest};
use super::reader::{Reader, to_json};
use super::{StoreError, Tx, expect_rows, ts};
use crate::domain::ids::OfferingId;
use crate::domain::offering::OfferingSpec;

/// The name is another offering's.
pub const NAME_TAKEN: &str = "offerings_name_key";

/// An offering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferingRow {
    /// Its id.
    pub id: OfferingId,
    /// Its name.
    pub name: String,
    /// What is offered.
    pub spec: OfferingSpec,
    /// When it was added.
    pub created_at: Timestamp,
}

const SELECT: &str = "SELECT id, name, spec, created_at FROM offerings";

fn offering(row: &PgRow) -> Result<OfferingRow, StoreError> {
    let row = Reader::new("offerings", row)?;
    Ok(OfferingRow {
        id: row.get("id")?,
        name: row.get("name")?,
        spec: row.json("spec")?,
        created_at: row.at("created_at")?,
    })
}

/// Adds an offering.
pub async fn insert(tx: &mut Tx, offering: &OfferingRow) -> Result<(), StoreError> {
    let result =
        sqlx::query("INSERT INTO offerings (id, name, spec, created_at) VALUES ($1, $2, $3, $4)")
            .bind(offering.id)
            .bind(&offering.name)
            .bind(to_json(&offering.spec))
            .bind(ts(offering.created_at))
            .execute(&mut **tx)
            .await?;
    expect_rows(&result, 1)
}

/// One offering.
pub async fn find(
    executor: impl PgExecutor<'_>,
    id: OfferingId,
) -> Result<Option<OfferingRow>, StoreError> {
    let mut query = QueryBuilder::new(SELECT);
    query.push(" WHERE id = ").push_bind(id);
    query.build().fetch_optional(executor).await?.as_ref().map(offering).transpose()
}

/// One offering by its name.
pub async fn find_named(
    executor: impl PgExecutor<'_>,
    name: &str,
) -> Result<Option<OfferingRow>, StoreError> {
    let mut query = QueryBuilder::new(SELECT);
    query.push(" WHERE name = ").push_bind(name);
    query.build().fetch_optional(executor).await?.as_ref().map(offering).transpose()
}

/// Names of all offerings.
pub async fn names(executor: impl PgExecutor<'_>) -> Result<Vec<String>, StoreError> {
    let rows = sqlx::query("SELECT name FROM offerings ORDER BY name").fetch_all(executor).await?;
    rows.iter().map(|row| Ok(row.try_get("name")?)).collect()
}

/// Offerings by name.
pub async fn list(
    executor: impl PgExecutor<'_>,
    request: &PageRequest,
) -> Result<Page<OfferingRow>, StoreError> {
    let keyset = request.keyset("offerings.name", &());
    let after: Option<String> = keyset.after()?;
    let mut query = QueryBuilder::new(SELECT);
    if let Some(after) = after {
        query.push(" WHERE name > ").push_bind(after);
    }
    query.push(" ORDER BY name LIMIT ").push_bind(keyset.fetch());
    let rows = query.build().fetch_all(executor).await?;
    let rows = rows.iter().map(offering).collect::<Result<Vec<_>, _>>()?;
    Ok(keyset.page(rows, |row| row.name.clone()))
}
