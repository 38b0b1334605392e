//! `zcpd sim`: the simulated world as a process with sockets.
//!
//! Each cloud listens on a loopback port of its own, each cluster's API with TLS on its VIP, which
//! is a loopback address too, and the control API on one more port. Guests reach the node listener
//! over HTTPS from their own addresses. The state folder holds
//!
//! | file | is |
//! |---|---|
//! | `world.json` | the world, stored every minute, at the end, and on `POST /_sim/snapshot` |
//! | `sim.json` | addresses; written when everything listens, and kept over restarts |
//! | `clouds.yaml` | how to log in: `east`, `east-app`, `east-admin`, and so on |

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::control::{self, Control};
use super::faults::Faults;
use super::found::{CREDENTIAL_SECRET, PASSWORD};
use super::kubernetes::{KubeCluster, TlsSettings};
use super::node_facing::NodeFacing;
use super::openstack::CutConnection;
use super::scaled_clock::ScaledClock;
use super::settings::WorldSettings;
use super::world::World;
use crate::clock::SharedClock;

/// How often time passes for what nobody asks about.
const TICK: Duration = Duration::from_millis(100);
/// How often new clusters get listeners.
const LOOK_FOR_CLUSTERS: Duration = Duration::from_millis(250);
/// How often the world is stored; losing a minute of a simulation is no loss.
const STORE: Duration = Duration::from_mins(1);
/// How long open connections and calls may take at the end.
const GRACE: Duration = Duration::from_secs(5);

/// What `zcpd sim` is started with.
#[derive(Debug, Clone)]
pub struct SimSettings {
    /// Folder of its files.
    pub state: PathBuf,
    /// The world to make when the folder holds none.
    pub world: WorldSettings,
    /// How fast the world's time passes. Other than 1 the world's clock leaves that of the service
    /// behind, so tokens that the service makes end early; to see things happen quickly, make
    /// [`Timing`](super::Timing) shorter instead.
    pub speed: f64,
    /// Port of the control API; 0 for any.
    pub control_port: u16,
    /// Whether the world is stored every minute and at the end.
    pub is_stored: bool,
    /// What goes wrong in every cloud from the start; `None` leaves a stored world as it is.
    pub faults: Option<Faults>,
}

/// `sim.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SimAddresses {
    /// URL of each cloud; Keystone is at `/identity/v3` below it.
    pub clouds: BTreeMap<String, String>,
    /// URL of the control API.
    pub control: String,
}

/// Why a simulation cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A file of the state folder.
    #[error("use {0}")]
    File(PathBuf, #[source] std::io::Error),
    /// A stored world of another version.
    #[error("read the world stored in {0}")]
    Stored(PathBuf, #[source] serde_json::Error),
    /// An address is taken.
    #[error("listen on {0}")]
    Listen(SocketAddr, #[source] std::io::Error),
}

/// Serves a world until `stop` is cancelled, then stores it.
pub async fn serve(
    settings: SimSettings,
    clock: SharedClock,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let file = |name: &str| settings.state.join(name);
    let unusable = |error| ServeError::File(settings.state.clone(), error);
    tokio::fs::create_dir_all(&settings.state).await.map_err(unusable)?;
    let stored = file("world.json");
    let (world, clock) = open(&settings, clock, &stored).await?;
    world.set_node_facing(NodeFacing::over_network());
    if let Some(faults) = &settings.faults {
        for name in world.clouds() {
            let _known = world.with_cloud(&name, |cloud, _| cloud.faults = faults.clone());
        }
    }

    let tasks = TaskTracker::new();
    let known = known_addresses(&file("sim.json")).await;
    let mut addresses = SimAddresses::default();
    for name in world.clouds() {
        let fixed = world.with_cloud(&name, |cloud, _| cloud.settings.port).unwrap_or(0);
        let listener = listen(fixed, known.clouds.get(&name)).await?;
        addresses.clouds.insert(name.clone(), url_of(&listener));
        let router = world.cloud_router(&name);
        tasks.spawn(accept(listener, router, (tasks.clone(), stop.clone())));
    }
    let listener = listen(settings.control_port, Some(&known.control)).await?;
    addresses.control = url_of(&listener);
    let control = control::router(Control {
        world: Arc::clone(&world),
        clock: Some(clock),
        snapshot: Some(stored.clone()),
    });
    tasks.spawn(accept(listener, control, (tasks.clone(), stop.clone())));
    write(&file("clouds.yaml"), clouds_yaml(&world, &addresses).as_bytes()).await?;
    // Last: who waits for this file finds everything listening.
    let text = serde_json::to_vec_pretty(&addresses).unwrap_or_default();
    write(&file("sim.json"), &text).await?;
    tracing::info!(control = %addresses.control, "simulated clouds listen");

    tasks.spawn(pass_time(Arc::clone(&world), stop.clone()));
    tasks.spawn(carry_calls(Arc::clone(&world), stop.clone()));
    tasks.spawn(serve_clusters(Arc::clone(&world), (tasks.clone(), stop.clone())));
    if settings.is_stored {
        keep_stored(&world, &stored, &stop).await;
    }
    stop.cancelled().await;
    tasks.close();
    if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
        tracing::warn!("some connections did not end in time");
    }
    if settings.is_stored { store(&world, &stored).await } else { Ok(()) }
}

/// The stored world, or a new one. It never goes back in time.
async fn open(
    settings: &SimSettings,
    clock: SharedClock,
    stored: &Path,
) -> Result<(Arc<World>, Arc<ScaledClock>), ServeError> {
    let scaled = |start| Arc::new(ScaledClock::new(Arc::clone(&clock), start, settings.speed));
    let now = clock.now();
    match tokio::fs::read(stored).await {
        Ok(bytes) => {
            let unreadable = |error| ServeError::Stored(stored.to_owned(), error);
            let present = World::present_of(&bytes).map_err(unreadable)?;
            let clock = scaled(present.max(now));
            let world = World::restore(&bytes, clock.clone()).map_err(unreadable)?;
            Ok((world, clock))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let clock = scaled(now);
            Ok((World::new(settings.world.clone(), clock.clone()), clock))
        }
        Err(error) => Err(ServeError::File(stored.to_owned(), error)),
    }
}

/// Stores a world: whole or not at all.
pub(super) async fn store(world: &Arc<World>, path: &Path) -> Result<(), ServeError> {
    let unusable = |error| ServeError::File(path.to_owned(), error);
    let world = Arc::clone(world);
    let bytes = tokio::task::spawn_blocking(move || world.snapshot())
        .await
        .map_err(|error| unusable(std::io::Error::other(error)))?
        .map_err(|error| unusable(error.into()))?;
    write(path, &bytes).await
}

async fn write(path: &Path, bytes: &[u8]) -> Result<(), ServeError> {
    let unusable = |error| ServeError::File(path.to_owned(), error);
    let new = path.with_extension("new");
    tokio::fs::write(&new, bytes).await.map_err(unusable)?;
    tokio::fs::rename(&new, path).await.map_err(unusable)
}

async fn known_addresses(path: &Path) -> SimAddresses {
    let bytes = tokio::fs::read(path).await.unwrap_or_default();
    // Who waits for the file must not find that of an earlier run.
    let _absent = tokio::fs::remove_file(path).await;
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// Listens on the fixed port, or on that of the last run, or on any.
async fn listen(fixed: u16, known: Option<&String>) -> Result<TcpListener, ServeError> {
    let known = known.and_then(|url| url::Url::parse(url).ok()).and_then(|url| url.port());
    let port = if fixed == 0 { known.unwrap_or(0) } else { fixed };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpListener::bind(address).await.map_err(|error| ServeError::Listen(address, error))
}

fn url_of(listener: &TcpListener) -> String {
    let port = listener.local_addr().map(|address| address.port()).unwrap_or_default();
    format!("http://127.0.0.1:{port}")
}

async fn accept(listener: TcpListener, router: Router, rest: (TaskTracker, CancellationToken)) {
    let (tasks, stop) = rest;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        // A failed accept concerns one client (or a limit of files): the next may work.
        let Ok((stream, _)) = accepted else { continue };
        let (router, stop) = (router.clone(), stop.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = serve_connection(stream, router) => {}
            }
        });
    }
}

async fn serve_connection(stream: TcpStream, router: Router) {
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let router = router.clone();
        async move {
            let Ok(response) = router.oneshot(request.map(Body::new)).await;
            if response.extensions().get::<CutConnection>().is_some() {
                return Err(std::io::Error::from(std::io::ErrorKind::ConnectionAborted));
            }
            Ok(response)
        }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection to a simulated cloud ended early");
    }
}

async fn pass_time(world: Arc<World>, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(TICK)).await.is_some() {
        world.advance();
    }
}

/// Apart from the passing of time, which must not wait for an answer from outside.
async fn carry_calls(world: Arc<World>, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(TICK)).await.is_some() {
        if stop.run_until_cancelled(world.tick()).await.is_none() {
            return;
        }
    }
}

async fn keep_stored(world: &Arc<World>, path: &Path, stop: &CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(STORE)).await.is_some() {
        if let Err(error) = store(world, path).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the world is not stored");
        }
    }
}

/// Keeps a TLS listener on the VIP of each cluster, as long as there is that cluster.
async fn serve_clusters(world: Arc<World>, (tasks, stop): (TaskTracker, CancellationToken)) {
    let mut served: BTreeMap<String, (Arc<KubeCluster>, CancellationToken)> = BTreeMap::new();
    while stop.run_until_cancelled(tokio::time::sleep(LOOK_FOR_CLUSTERS)).await.is_some() {
        let wanted = world.served_clusters(|endpoint, kube| {
            !served.get(endpoint).is_some_and(|(known, _)| Arc::ptr_eq(known, kube))
        });
        served.retain(|endpoint, (kube, listener)| {
            let stays = world.kube(endpoint).is_some_and(|now| Arc::ptr_eq(&now, kube));
            if !stays {
                listener.cancel();
            }
            stays
        });
        for (endpoint, kube, settings) in wanted {
            let listener = stop.child_token();
            match kube.serve_tls(settings, &tasks, listener.clone()).await {
                Ok(address) => {
                    tracing::info!(%address, "a simulated cluster answers");
                    served.insert(endpoint, (kube, listener));
                }
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(
                        error,
                        endpoint,
                        "a simulated cluster cannot listen; trying again"
                    );
                }
            }
        }
    }
}

impl World {
    /// Clusters that `wanted` picks, with how to serve them.
    fn served_clusters(
        &self,
        wanted: impl Fn(&str, &Arc<KubeCluster>) -> bool,
    ) -> Vec<(String, Arc<KubeCluster>, TlsSettings)> {
        let clock = self.clock();
        self.with_guests(|guests| {
            let clusters = guests.clusters.iter();
            let picked = clusters.filter(|(endpoint, cluster)| wanted(endpoint, &cluster.kube));
            picked
                .filter_map(|(endpoint, cluster)| {
                    let settings = TlsSettings {
                        address: endpoint.parse().ok()?,
                        certificate_pem: cluster.serving.certificate_pem.clone(),
                        key_pem: cluster.serving.key_pem.clone(),
                        client_ca_pem: cluster.ca_pem.clone(),
                        clock: Arc::clone(&clock),
                    };
                    Some((endpoint.clone(), Arc::clone(&cluster.kube), settings))
                })
                .collect()
        })
    }
}

/// How to log in to the clouds, in the format of OpenStack's own tools.
fn clouds_yaml(world: &World, addresses: &SimAddresses) -> String {
    let mut clouds: BTreeMap<String, Value> = BTreeMap::new();
    for (name, url) in &addresses.clouds {
        let auth_url = format!("{url}/identity/v3");
        let with_password = |user: &str| {
            json!({"auth": {"auth_url": auth_url, "username": user, "password": PASSWORD,
                "project_name": user, "user_domain_id": "default", "project_domain_id": "default"},
                "region_name": name, "identity_api_version": 3})
        };
        clouds.insert(name.clone(), with_password("kaas"));
        clouds.insert(format!("{name}-admin"), with_password("admin"));
        let id = world.with_cloud(name, |cloud, _| {
            let credential = cloud.identity.users.first()?.credential.as_ref()?;
            Some(credential.id.clone())
        });
        clouds.insert(
            format!("{name}-app"),
            json!({"auth_type": "v3applicationcredential", "auth": {"auth_url": auth_url,
                "application_credential_id": id.flatten(),
                "application_credential_secret": CREDENTIAL_SECRET},
                "region_name": name, "identity_api_version": 3}),
        );
    }
    serde_saphyr::to_string(&json!({"clouds": clouds})).unwrap_or_default()
}
