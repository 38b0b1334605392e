//! What a call to the database can end in.

use sqlx::postgres::PgQueryResult;

use super::page::CursorError;
use super::seal::SealError;

/// A failed call to the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached, is overloaded, or made us wait too long: trying again is
    /// sensible.
    #[error("the database is not available")]
    Unavailable(#[source] sqlx::Error),
    /// A named constraint refused the write. Callers match the name.
    #[error("constraint {constraint} refuses the write")]
    Conflict {
        /// Name of the constraint, as in the migration.
        constraint: String,
    },
    /// A row that cannot be: our bug, or somebody edited the table.
    #[error("row {id} of table {table} makes no sense: {problem}")]
    Inconsistent {
        /// Where the row is.
        table: &'static str,
        /// Which row it is.
        id: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A write touched another number of rows than it must.
    #[error("a write touched {actual} rows instead of {expected}")]
    Rows {
        /// How many it must touch.
        expected: u64,
        /// How many it touched.
        actual: u64,
    },
    /// Another worker holds the resource now, or nobody does. Nothing was written.
    #[error("the lease is lost")]
    LeaseLost,
    /// A sealed value cannot be read or written.
    #[error("a sealed value cannot be opened")]
    Seal(#[from] SealError),
    /// The caller's cursor is not one of ours.
    #[error("the cursor is not valid here")]
    Cursor(#[from] CursorError),
    /// The schema cannot be brought up to date.
    #[error("the database schema cannot be migrated")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// Any other answer of the database: our bug.
    #[error("the database refuses a query")]
    Query(#[source] sqlx::Error),
}

impl StoreError {
    /// The name of the constraint that refused the write, if one did.
    pub fn constraint(&self) -> Option<&str> {
        match self {
            Self::Conflict { constraint } => Some(constraint),
            _ => None,
        }
    }

    /// Whether the same call may succeed later without any change of ours.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// Whether the database broke the transaction off in favour of another one (serialization
    /// failure, deadlock): the same again at once is likely to succeed.
    pub fn is_contended(&self) -> bool {
        let Self::Unavailable(sqlx::Error::Database(refusal)) = self else { return false };
        refusal.code().is_some_and(|code| ["40001", "40P01"].contains(&&*code))
    }

    /// A row that cannot be.
    pub fn inconsistent(
        table: &'static str,
        id: impl ToString,
        problem: impl ToString,
    ) -> StoreError {
        Self::Inconsistent { table, id: id.to_string(), problem: problem.to_string() }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error as E;
        match &error {
            E::Io(_)
            | E::Tls(_)
            | E::Protocol(_)
            | E::PoolTimedOut
            | E::PoolClosed
            | E::WorkerCrashed
            | E::BeginFailed => Self::Unavailable(error),
            E::Database(refusal) => {
                if refusal.code().is_some_and(|code| is_passing(&code)) {
                    return Self::Unavailable(error);
                }
                match refusal.constraint() {
                    Some(constraint) => Self::Conflict { constraint: constraint.to_owned() },
                    None => Self::Query(error),
                }
            }
            _ => Self::Query(error),
        }
    }
}

/// Conditions of the server that pass: connection (08), resources (53), shutdown and
/// cancellation (57), serialization and deadlock (40), lock not available (55P03), idle in
/// transaction (25P03), read-only after a failover (25006).
fn is_passing(code: &str) -> bool {
    ["08", "53", "57", "40"].iter().any(|class| code.starts_with(class))
        || ["55P03", "25P03", "25006"].contains(&code)
}

/// Checks that a write touched exactly `expected` rows.
pub fn expect_rows(result: &PgQueryResult, expected: u64) -> Result<(), StoreError> {
    match result.rows_affected() {
        actual if actual == expected => Ok(()),
        actual => Err(StoreError::Rows { expected, actual }),
    }
}
