//! One private PostgreSQL server for the test binary, one database for each test.
//!
//! The server stops when this process ends, however it ends: its watchdog holds the other end
//! of a pipe. A template database has the schema; each test gets a copy, dropped at its end.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, LazyLock};

use jiff::Timestamp;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::Mutex;
use zcp::clock::{Clock, ManualClock, SeededIds};
use zcp::dev::postgres::{EmbeddedPostgres, PostgresOptions};
use zcp::store::Store;
use zcp::store::work::{ResourceId, WorkKind};

/// Connections of one test: enough for a few replicas.
const CONNECTIONS: u32 = 8;

struct Server {
    postgres: EmbeddedPostgres,
    /// Databases to drop.
    done: Sender<String>,
}

static SERVER: LazyLock<Server> = LazyLock::new(|| {
    // Tests bring their own runtimes, which end with them; this one must not.
    let start = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(start())
    });
    start.join().expect("the server starts")
});

/// A folder of our own with a short name (sockets need that), enterable by the server's user.
fn folder() -> PathBuf {
    std::env::temp_dir().join(format!("zcp-it-{}", std::process::id()))
}

async fn start() -> Server {
    let options = PostgresOptions::disposable(folder());
    let postgres = EmbeddedPostgres::start(options).await.expect("PostgreSQL is installed");
    let template = Store::connect(&postgres.url("zcp"), 2).await.expect("connect");
    template.migrate().await.expect("migrate");
    // A template must have no connection.
    template.close().await;
    let (done, names) = channel::<String>();
    let url = postgres.url("postgres");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            for name in names {
                let drop = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
                let mut admin = PgConnection::connect(&url).await.expect("connect");
                let _ends_with_the_server =
                    sqlx::query(AssertSqlSafe(drop)).execute(&mut admin).await;
            }
        });
    });
    Server { postgres, done }
}

/// A database of one test, with a clock that stands still and ids that repeat.
pub struct TestDb {
    /// The database.
    pub store: Store,
    /// Moves only when the test moves it.
    pub clock: Arc<ManualClock>,
    /// The same ids in every run.
    pub ids: Arc<SeededIds>,
    url: String,
    name: String,
    /// The server, if this test has one of its own.
    own: Option<OwnServer>,
}

/// A server that a test may stop and start.
struct OwnServer {
    options: PostgresOptions,
    running: Mutex<Option<EmbeddedPostgres>>,
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        // The watchdog stops the server; what it still writes is not worth keeping.
        drop(self.running.get_mut().take());
        let _left_in_the_temporary_folder = std::fs::remove_dir_all(&self.options.folder);
    }
}

impl TestDb {
    /// A database on a server of its own.
    pub async fn alone(name: &str) -> Self {
        let folder = format!("zcp-own-{}-{name}", std::process::id());
        let mut options = PostgresOptions::durable(std::env::temp_dir().join(folder));
        options.max_connections = 50;
        let server = EmbeddedPostgres::start(options.clone()).await.expect("PostgreSQL starts");
        let url = server.url("zcp");
        let store = Store::connect(&url, CONNECTIONS).await.expect("connect");
        store.migrate().await.expect("migrate");
        let start: Timestamp = "2026-03-01T12:00:00Z".parse().expect("a time");
        Self {
            store,
            clock: Arc::new(ManualClock::new(start)),
            ids: Arc::new(SeededIds::new(1)),
            url,
            name: String::new(),
            own: Some(OwnServer { options, running: Mutex::new(Some(server)) }),
        }
    }

    /// A database without schema.
    pub async fn bare() -> Self {
        let start: Timestamp = "2026-03-01T12:00:00Z".parse().expect("a time");
        Self::copy_of("template0", start, 1).await
    }

    /// Stops the server of [`Self::alone`]: open connections are ended, new ones refused.
    pub async fn stop_server(&self) {
        let own = self.own.as_ref().expect("a server of its own");
        let server = own.running.lock().await.take().expect("it runs");
        server.stop().await.expect("PostgreSQL stops");
    }

    /// Starts the server of [`Self::alone`] again.
    pub async fn start_server(&self) {
        let own = self.own.as_ref().expect("a server of its own");
        let server = EmbeddedPostgres::start(own.options.clone()).await.expect("it starts");
        *own.running.lock().await = Some(server);
    }

    /// A new database with the schema and nothing else.
    pub async fn new() -> Self {
        let start: Timestamp = "2026-03-01T12:00:00Z".parse().expect("a time");
        Self::copy_of("zcp", start, 1).await
    }

    /// Puts the database away as a template for others. It goes with the server.
    pub async fn into_template(mut self) -> String {
        self.store.close().await;
        std::mem::take(&mut self.name)
    }

    /// A copy of a template, with a clock that shows `start` and ids that follow from `seed`.
    pub async fn copy_of(template: &str, start: Timestamp, seed: u64) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let server = &*SERVER;
        let mut admin =
            PgConnection::connect(&server.postgres.url("postgres")).await.expect("connect");
        let create = format!("CREATE DATABASE {name} TEMPLATE {template}");
        sqlx::query(AssertSqlSafe(create)).execute(&mut admin).await.expect("create a database");
        admin.close().await.expect("close");
        let url = server.postgres.url(&name);
        let store = Store::connect(&url, CONNECTIONS).await.expect("connect");
        let clock = Arc::new(ManualClock::new(start));
        Self { store, clock, ids: Arc::new(SeededIds::new(seed)), url, name, own: None }
    }

    /// The present moment of the test's clock.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// URL of the database.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A second set of connections to the same database, as another replica has.
    pub async fn another_store(&self) -> Store {
        Store::connect(&self.url, CONNECTIONS).await.expect("connect")
    }

    /// Ends the lease of an item now. Leases end by database time, which no clock of ours moves.
    pub async fn expire_lease(&self, kind: WorkKind, id: impl Into<ResourceId>) {
        sqlx::query(
            "UPDATE work_items SET expires_at = clock_timestamp() - interval '1 second'
             WHERE kind = $1 AND resource_id = $2 AND expires_at IS NOT NULL",
        )
        .bind(kind.as_str())
        .bind(id.into())
        .execute(self.store.pool())
        .await
        .expect("expire a lease");
    }

    /// Ends every lease now, as if all replicas had died long ago.
    pub async fn expire_all_leases(&self) {
        sqlx::query(
            "UPDATE work_items SET expires_at = clock_timestamp() - interval '1 second'
             WHERE expires_at IS NOT NULL",
        )
        .execute(self.store.pool())
        .await
        .expect("expire all leases");
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        let name = std::mem::take(&mut self.name);
        if !name.is_empty() {
            let _at_the_end_of_the_process = SERVER.done.send(name);
        }
    }
}
