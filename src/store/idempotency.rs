//! Requests that carry an idempotency key are carried out once.
//!
//! Everything happens in the transaction of the change: [`begin`] first, [`finish`] last. So
//! there is a row if and only if the change was made, and no kill in between can leave a key
//! that is neither used nor free. Two requests at once are told apart by a lock that ends with
//! the transaction.

use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest, Sha256};
use sqlx::Row;

use super::{StoreError, Tx, ts};

/// A key, and the request that carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyedRequest {
    /// Who asks; keys of different callers are different keys.
    pub actor: String,
    /// The key, as the caller chose it.
    pub key: String,
    /// Digest of the request, see [`KeyedRequest::new`].
    hash: [u8; 32],
}

impl KeyedRequest {
    /// A request of `actor` under `key`; `parts` is everything that makes it this request:
    /// method, path, body.
    pub fn new(actor: impl Into<String>, key: impl Into<String>, parts: &[&[u8]]) -> Self {
        let mut digest = Sha256::new();
        for part in parts {
            // With lengths, so that no two lists of parts run together to the same text.
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        Self { actor: actor.into(), key: key.into(), hash: digest.finalize().into() }
    }
}

/// The answer that a request got.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// What the caller was told, or what is needed to tell it again.
    pub response: Value,
}

/// What a key says about a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Begun {
    /// Carry it out, then [`finish`] in the same transaction.
    Fresh,
    /// It was carried out before: answer this.
    Repeated(Answer),
    /// Another request was carried out under this key.
    OtherRequest,
    /// A request with this key is being carried out right now.
    Running,
}

/// Looks up and locks a key.
pub async fn begin(tx: &mut Tx, request: &KeyedRequest) -> Result<Begun, StoreError> {
    // A transaction lock: it cannot outlive us in a pooled connection.
    let is_ours: bool = sqlx::query_scalar(
        "SELECT pg_try_advisory_xact_lock(hashtextextended($1 || '/' || $2, 0))",
    )
    .bind(&request.actor)
    .bind(&request.key)
    .fetch_one(&mut **tx)
    .await?;
    if !is_ours {
        return Ok(Begun::Running);
    }
    let row = sqlx::query(
        "SELECT request_hash, status, response
         FROM idempotency_keys
         WHERE actor = $1 AND key = $2",
    )
    .bind(&request.actor)
    .bind(&request.key)
    .fetch_optional(&mut **tx)
    .await?;
    let Some(row) = row else { return Ok(Begun::Fresh) };
    if row.try_get::<&[u8], _>("request_hash")? != request.hash {
        return Ok(Begun::OtherRequest);
    }
    let status: i16 = row.try_get("status")?;
    let status = u16::try_from(status)
        .map_err(|error| StoreError::inconsistent("idempotency_keys", &request.key, error))?;
    Ok(Begun::Repeated(Answer { status, response: row.try_get("response")? }))
}

/// Remembers the answer.
pub async fn finish(
    tx: &mut Tx,
    request: &KeyedRequest,
    answer: &Answer,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO idempotency_keys (actor, key, request_hash, status, response, created_at)
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(&request.actor)
    .bind(&request.key)
    .bind(request.hash.as_slice())
    .bind(i16::try_from(answer.status).unwrap_or(i16::MAX))
    .bind(&answer.response)
    .bind(ts(now))
    .execute(&mut **tx)
    .await?;
    Ok(())
}
