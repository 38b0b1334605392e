//! The only module with SQL; one file per aggregate, queries beside the row types.
//!
//! Conventions: reads take any executor (`store.pool()` or `&mut *tx`) and return `Option` or a
//! page; writes take `&mut Tx`, so that a change, its audit row and the wake-up of its worker
//! commit together. A worker writes only through [`Fenced`], which derefs to [`Tx`]. Ids and
//! times are arguments; only lease expiry uses the database's clock.

pub mod audit;
pub mod bundles;
pub mod canaries;
mod change;
pub mod cloud_pairs;
pub mod cloud_progress;
pub mod clouds;
pub mod cluster_progress;
pub mod clusters;
mod error;
pub mod events;
pub mod groups;
pub mod housekeeping;
pub mod idempotency;
pub mod installation;
pub mod migration_objects;
pub mod migration_progress;
pub mod migrations;
pub mod nodes;
pub mod offerings;
pub mod orphans;
pub mod page;
pub mod preflights;
pub mod projects;
mod reader;
pub mod replicas;
pub mod reservations;
pub mod seal;
pub mod tokens;
pub mod work;

use std::future::Future;
use std::str::FromStr;
use std::time::Duration;

use jiff_sqlx::ToSqlx;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{Connection as _, Postgres, Row, Transaction};

pub use change::Change;
pub use error::{StoreError, expect_rows};

use work::Lease;

/// An open transaction. Dropped without [`commit`](Transaction::commit), it rolls back.
pub type Tx = Transaction<'static, Postgres>;

/// The column type of all our times.
pub type Ts = jiff_sqlx::Timestamp;

/// A query that takes longer is a bug or a sick database; every one of ours is far below.
const STATEMENT_TIMEOUT: &str = "30s";
/// Row locks are held for milliseconds. Waiting longer than this helps nobody.
const LOCK_TIMEOUT: &str = "10s";
/// Waits for [`LOCK_TIMEOUT`] while another replica migrates.
const MIGRATE_ROUNDS: u32 = 12;
/// No transaction of ours waits for anything but the database.
const IDLE_IN_TRANSACTION_TIMEOUT: &str = "30s";
/// A request that cannot get a connection in this time is better answered with 503.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// Every schema change, oldest first, forward only.
static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// The database.
#[derive(Debug, Clone)]
pub struct Store {
    pool: PgPool,
}

impl Store {
    /// Connects to the database at `url` with at most `max_connections` connections.
    pub async fn connect(url: &str, max_connections: u32) -> Result<Self, StoreError> {
        let options = PgConnectOptions::from_str(url)?.application_name("zcpd").options([
            ("statement_timeout", STATEMENT_TIMEOUT),
            ("lock_timeout", LOCK_TIMEOUT),
            ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION_TIMEOUT),
        ]);
        let pool = PgPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // The check on release below already proves that an idle connection is clean.
            .test_before_acquire(true)
            .after_release(|connection, _| Box::pin(is_outside_transaction(connection)))
            .connect_with(options)
            .await?;
        Ok(Self { pool })
    }

    /// Applies every migration that the database does not have yet. Replicas that start together
    /// wait for each other, for two minutes at most.
    ///
    /// The lock belongs to a session. So it is taken on a connection of its own that ends with
    /// this call however it ends, and never goes back into the pool with the lock.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        for round in 1.. {
            let mut connection = PgConnection::connect_with(&self.pool.connect_options()).await?;
            match MIGRATIONS.run(&mut connection).await {
                // Another replica is at it: each round waits as long as locks are waited for.
                Err(error) if round < MIGRATE_ROUNDS && is_locked(&error) => {}
                other => return other.map_err(StoreError::Migrate),
            }
        }
        Ok(())
    }

    /// Version and checksum of every migration in this binary, oldest first.
    pub fn migrations() -> Vec<(i64, String)> {
        MIGRATIONS.iter().map(|one| (one.version, hex::encode(&one.checksum))).collect()
    }

    /// Begins a transaction.
    pub async fn begin(&self) -> Result<Tx, StoreError> {
        Ok(self.pool.begin().await?)
    }

    /// Begins a read-only transaction that sees one moment of the whole database.
    pub async fn snapshot(&self) -> Result<Tx, StoreError> {
        Ok(self.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?)
    }

    /// Begins the transaction of a worker that holds `lease`.
    pub async fn fenced(&self, lease: &Lease) -> Result<Fenced, StoreError> {
        Fenced::begin(self, lease).await
    }

    /// The pool, for single reads that need no transaction.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.pool).await?;
        Ok(())
    }

    /// Waits until all connections are returned, and closes them.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// Whether a migration could not begin since another replica holds the lock.
fn is_locked(error: &sqlx::migrate::MigrateError) -> bool {
    use sqlx::migrate::MigrateError as E;
    let (E::Execute(error) | E::ExecuteMigration(error, _)) = error else { return false };
    error.as_database_error().is_some_and(|refusal| refusal.code().as_deref() == Some("55P03"))
}

/// Ends a call to the database that gets no answer within `limit`: a connection on which nothing
/// comes back any more looks like one that waits.
pub async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let answer = tokio::time::timeout(limit, call).await;
    answer.unwrap_or(Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut)))
}

/// A cancelled `begin` can leave a transaction open in a connection that goes back to the pool
/// (sqlx counts it only after the answer). Whoever takes it next would write into a transaction
/// that nobody commits, so such a connection is closed. In a statement of its own, the
/// transaction's start is the statement's.
async fn is_outside_transaction(connection: &mut PgConnection) -> sqlx::Result<bool> {
    let row = sqlx::raw_sql("SELECT now() = statement_timestamp()").fetch_one(connection).await?;
    row.try_get(0)
}

/// A transaction of a worker. Its first statement checks the lease and locks the work item, so
/// nobody can take the item over before this transaction ends.
#[derive(Debug)]
pub struct Fenced {
    tx: Tx,
}

impl Fenced {
    /// Begins a transaction if `lease` still holds; else `StoreError::LeaseLost`.
    pub async fn begin(store: &Store, lease: &Lease) -> Result<Self, StoreError> {
        let mut tx = store.begin().await?;
        // The lock is needed: with a mere check of the fence, a claim could slip in before our
        // writes. Expiry is the database's time, and not that of the transaction's start.
        let held = sqlx::query(
            "SELECT 1
             FROM work_items
             WHERE kind = $1 AND resource_id = $2 AND fence = $3
               AND expires_at > clock_timestamp()
             FOR UPDATE",
        )
        .bind(lease.kind.as_str())
        .bind(lease.id)
        .bind(lease.fence)
        .fetch_optional(&mut *tx)
        .await?;
        match held {
            Some(_) => Ok(Self { tx }),
            None => Err(StoreError::LeaseLost),
        }
    }

    /// Makes the writes durable.
    pub async fn commit(self) -> Result<(), StoreError> {
        Ok(self.tx.commit().await?)
    }
}

impl std::ops::Deref for Fenced {
    type Target = Tx;

    fn deref(&self) -> &Tx {
        &self.tx
    }
}

impl std::ops::DerefMut for Fenced {
    fn deref_mut(&mut self) -> &mut Tx {
        &mut self.tx
    }
}

/// A time as the database takes it.
pub fn ts(at: jiff::Timestamp) -> Ts {
    at.to_sqlx()
}
