//! API tokens. Only their hash is stored: 32 random bytes need no slow hash.

use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest, Sha256};
use sqlx::postgres::PgRow;
use sqlx::{PgExecutor, Row};

use super::page::{Page, PageRequest};
use super::{StoreError, Ts, Tx, ts};
use crate::domain::ids::{ProjectId, TokenId};

/// A token, without what would let anybody use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its id.
    pub id: TokenId,
    /// What its owner calls it.
    pub name: String,
    /// What it may do; the words are those of the permission table.
    pub role: String,
    /// Where it may do that; none for everywhere.
    pub project: Option<ProjectId>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
    /// When somebody ended it.
    pub revoked_at: Option<Timestamp>,
}

impl Token {
    /// Whether it may be used at `now`.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }
}

/// Digest of a token's text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The digest of `secret`.
    pub fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret).into())
    }
}

/// Which tokens to list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct TokenFilter {
    /// Only of this project.
    pub project: Option<ProjectId>,
}

/// Adds a token.
pub async fn insert(tx: &mut Tx, token: &Token, hash: TokenHash) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO api_tokens (id, name, hash, role, project_id, created_at, expires_at,
                                 revoked_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(token.id)
    .bind(&token.name)
    .bind(hash.0.as_slice())
    .bind(&token.role)
    .bind(token.project)
    .bind(ts(token.created_at))
    .bind(token.expires_at.map(ts))
    .bind(token.revoked_at.map(ts))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The token of that hash, valid or not.
pub async fn find_by_hash(
    executor: impl PgExecutor<'_>,
    hash: TokenHash,
) -> Result<Option<Token>, StoreError> {
    let row = sqlx::query(
        "SELECT id, name, role, project_id, created_at, expires_at, revoked_at
         FROM api_tokens
         WHERE hash = $1",
    )
    .bind(hash.0.as_slice())
    .fetch_optional(executor)
    .await?;
    row.as_ref().map(token).transpose()
}

/// The token of that id.
pub async fn find(executor: impl PgExecutor<'_>, id: TokenId) -> Result<Option<Token>, StoreError> {
    let row = sqlx::query(
        "SELECT id, name, role, project_id, created_at, expires_at, revoked_at
         FROM api_tokens
         WHERE id = $1",
    )
    .bind(id)
    .fetch_optional(executor)
    .await?;
    row.as_ref().map(token).transpose()
}

/// Lists tokens, newest first.
pub async fn list(
    executor: impl PgExecutor<'_>,
    filter: TokenFilter,
    request: &PageRequest,
) -> Result<Page<Token>, StoreError> {
    let keyset = request.keyset("tokens.newest", &filter);
    let rows = sqlx::query(
        "SELECT id, name, role, project_id, created_at, expires_at, revoked_at
         FROM api_tokens
         WHERE ($1::uuid IS NULL OR project_id = $1)
           AND ($2::uuid IS NULL OR id < $2)
         ORDER BY id DESC
         LIMIT $3",
    )
    .bind(filter.project)
    .bind(keyset.after::<TokenId>()?)
    .bind(keyset.fetch())
    .fetch_all(executor)
    .await?;
    let tokens = rows.iter().map(token).collect::<Result<Vec<_>, _>>()?;
    Ok(keyset.page(tokens, |token| token.id))
}

/// Ends a token; one that was ended before stays ended since then. None if there is none.
pub async fn revoke(tx: &mut Tx, id: TokenId, now: Timestamp) -> Result<Option<Token>, StoreError> {
    let row = sqlx::query(
        "UPDATE api_tokens
         SET revoked_at = COALESCE(revoked_at, $2)
         WHERE id = $1
         RETURNING id, name, role, project_id, created_at, expires_at, revoked_at",
    )
    .bind(id)
    .bind(ts(now))
    .fetch_optional(&mut **tx)
    .await?;
    row.as_ref().map(token).transpose()
}

fn token(row: &PgRow) -> Result<Token, StoreError> {
    let time = |column: &str| -> Result<Option<Timestamp>, StoreError> {
        Ok(row.try_get::<Option<Ts>, _>(column)?.map(Ts::to_jiff))
    };
    Ok(Token {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        role: row.try_get("role")?,
        project: row.try_get("project_id")?,
        created_at: row.try_get::<Ts, _>("created_at")?.to_jiff(),
        expires_at: time("expires_at")?,
        revoked_at: time("revoked_at")?,
    })
}
