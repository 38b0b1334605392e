//! Puts the service together: API, workers, node listener, metrics.
//!
//! `zcpd serve` runs everything, `zcpd worker` everything but the two listeners for others. Any
//! number of both work on one database. Whatever ends one of the parts by itself ends the
//! process: a half-dead replica is worse than a dead one.

mod installation;
mod listeners;
mod metrics;
mod workers;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::App;
use crate::clock::{SharedClock, SharedIds, SystemClock, SystemIds};
use crate::config::Config;
use crate::http::{self, Api};
use crate::store::Store;
use crate::store::seal::KeyRing;
use crate::telemetry::Metrics;
use crate::worker;

pub use installation::ensure as ensure_installation;

/// How long open requests may take at a stop; streams of events are cut after it.
const REQUESTS_GRACE: Duration = Duration::from_secs(5);

/// Which parts this process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parts {
    /// API, node listener and workers.
    All,
    /// Workers only, with health and metrics.
    Workers,
}

/// Why the service does not start, or ended by itself.
#[derive(Debug)]
pub struct ServiceError {
    doing: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl fmt::Display for ServiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.doing)
    }
}

impl std::error::Error for ServiceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}

/// Says what was being done when an error came.
fn doing<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    what: impl Into<String>,
) -> impl FnOnce(E) -> ServiceError {
    let doing = what.into();
    move |error| ServiceError { doing, source: error.into() }
}

/// The foundation of every command that works on the database.
#[derive(Debug, Clone)]
pub struct Foundation {
    /// Use cases.
    pub app: App,
    /// Sealing keys, shared.
    pub keys: Arc<KeyRing>,
    /// The clock.
    pub clock: SharedClock,
    /// Ids.
    pub ids: SharedIds,
}

impl Foundation {
    /// Reads the sealing keys and connects to the database, whose schema is brought up to date.
    pub async fn open(config: &Config) -> Result<Self, ServiceError> {
        let keys = Arc::new(sealing_keys(config)?);
        let store = connect(config).await?;
        let (clock, ids): (SharedClock, SharedIds) = (Arc::new(SystemClock), Arc::new(SystemIds));
        let app = App {
            store,
            clock: Arc::clone(&clock),
            ids: Arc::clone(&ids),
            keys: Arc::clone(&keys),
        };
        Ok(Self { app, keys, clock, ids })
    }
}

/// Connects to the database and brings its schema up to date.
pub async fn connect(config: &Config) -> Result<Store, ServiceError> {
    let store = Store::connect(config.database.url.expose(), config.database.max_connections)
        .await
        .map_err(doing("connect to the database (database.url)"))?;
    store.migrate().await.map_err(doing("bring the database's schema up to date"))?;
    Ok(store)
}

fn sealing_keys(config: &Config) -> Result<KeyRing, ServiceError> {
    let text = match (&config.seal.key, &config.seal.key_file) {
        (Some(key), _) => key.expose().to_owned(),
        (None, Some(file)) => std::fs::read_to_string(file)
            .map_err(doing(format!("read seal.key_file {}", file.display())))?,
        (None, None) => String::new(),
    };
    KeyRing::parse(&text).map_err(doing("read the sealing keys"))
}

/// Runs the service until `stop` is cancelled or a part of it ends by itself.
pub async fn run(
    config: &Config,
    parts: Parts,
    stop: CancellationToken,
) -> Result<(), ServiceError> {
    let foundation = Foundation::open(config).await?;
    let own = installation::ensure(&foundation).await?;
    if let Some(file) = &config.api.operator_token_file {
        installation::ensure_operator(&foundation, file).await?;
    }
    let metrics = Metrics::default();
    let management = workers::management(config).await?;
    let parts_of = (&own, &metrics, management.clone());
    let (driver, clouds) = workers::driver(config, &foundation, parts_of)?;
    let tasks = TaskTracker::new();
    let sources = (foundation.app.store.clone(), Arc::clone(&foundation.clock));
    tasks.spawn(workers::share_budgets(clouds, sources, stop.clone()));
    if let Some(client) = management {
        let follower = workers::follower(client, &foundation, &own);
        tasks.spawn(worker::management::follow(follower, stop.clone()));
    }
    let listener = bind(config.api.listen, "api.listen").await?;
    let router = match parts {
        Parts::All => {
            let app = foundation.app.clone();
            let api = Api::new(app, metrics.registry(), tasks.clone(), stop.clone());
            let tcp = bind(config.node.listen, "node.listen").await?;
            let url = &config.node.url;
            let nodes = listeners::node_listener(tcp, url, (&foundation, &own), &tasks)?;
            let node_router = http::node_router(api.clone());
            tasks.spawn(listeners::serve_nodes(nodes, node_router, stop.clone()));
            http::router(api)
        }
        Parts::Workers => listeners::health_router(&foundation, &metrics),
    };
    let router = metrics::around(router, &metrics, (&foundation.app, &driver));
    let served = listeners::serve(listener, router, stop.clone());
    tracing::info!(api = %config.api.listen, "zcpd {} runs", env!("CARGO_PKG_VERSION"));
    let worked = driver.run(stop.clone());
    let served = async {
        let served = served.await;
        // A listener that ended by itself takes the rest with it.
        stop.cancel();
        served
    };
    let ((), served) = tokio::join!(worked, served);
    tasks.close();
    let _cut = tokio::time::timeout(REQUESTS_GRACE, tasks.wait()).await;
    foundation.app.store.close().await;
    tracing::info!("zcpd has stopped");
    served.map_err(doing("serve the API"))
}

async fn bind(address: std::net::SocketAddr, key: &str) -> Result<TcpListener, ServiceError> {
    TcpListener::bind(address).await.map_err(doing(format!("listen on {address} ({key})")))
}
