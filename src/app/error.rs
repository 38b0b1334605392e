//! Why a request was not done, in the words of the caller.

use crate::domain::field::FieldErrors;
use crate::store::StoreError;

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Fields are wrong.
    #[error("{0}")]
    Fields(FieldErrors),
    /// Nobody knows the caller.
    #[error("{0}")]
    Unauthenticated(&'static str),
    /// The caller may see it but not do it.
    #[error("{0}")]
    Forbidden(String),
    /// There is no such thing, or the caller may not know of it.
    #[error("there is no {what} {name}")]
    Absent {
        /// What kind of thing.
        what: &'static str,
        /// Name or id, as the caller gave it.
        name: String,
    },
    /// The state forbids it.
    #[error("{detail}")]
    Conflict {
        /// Which state, and what would be allowed.
        detail: String,
        /// Words for what would be legal now.
        legal: Vec<String>,
    },
    /// The caller has seen an older generation.
    #[error("it was changed meanwhile and has generation {0} now: read it again")]
    Stale(i64),
    /// The idempotency key was used for another request.
    #[error("this Idempotency-Key was used for another request")]
    KeyReused,
    /// What is asked for will be there soon.
    #[error("{0}")]
    TooEarly(&'static str),
    /// The database failed.
    #[error("a call to the database")]
    Store(#[source] StoreError),
    /// Our bug.
    #[error("{doing}")]
    Internal {
        /// What was being done.
        doing: &'static str,
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// One wrong field.
    pub fn field(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Fields(FieldErrors::one(field, problem))
    }

    /// There is no such thing.
    pub fn absent(what: &'static str, name: impl ToString) -> Self {
        Self::Absent { what, name: name.to_string() }
    }

    /// The state forbids it.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::Conflict { detail: detail.into(), legal: Vec::new() }
    }

    /// Whether the same request may succeed later without any change.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_temporary())
    }

    /// Whether the same request is likely to succeed at once.
    pub fn is_contended(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_contended())
    }

    /// Our bug.
    pub fn internal(
        doing: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Internal { doing, source: source.into() }
    }
}

impl From<FieldErrors> for Error {
    fn from(errors: FieldErrors) -> Self {
        Self::Fields(errors)
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Cursor(cursor) => Self::field("cursor", cursor.to_string()),
            other => Self::Store(other),
        }
    }
}
