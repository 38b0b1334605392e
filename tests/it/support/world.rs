//! A whole installation in one process: real reconcilers on a real database, simulated clouds and
//! clusters behind their real APIs, one clock that the test moves.
//!
//! The limits of the design are checked after every tick, so a test only says what should come
//! about. Replicas are drivers of their own; a test may crash or freeze one at any step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use jiff::SignedDuration;
use serde_json::Value;
use sqlx::Row;
use zcp::app::authz::Caller;
use zcp::app::clouds::NewCloud;
use zcp::app::clusters::{NewCluster, PoolChange};
use zcp::app::migrations::Steer;
use zcp::app::{App, Ask};
use zcp::bootstrap::pki::Authority;
use zcp::clock::{Ids, SharedClock, SharedIds};
use zcp::domain::access::Role;
use zcp::domain::cloud::{CloudDefaults, CloudLimits, CloudSpec, Interface};
use zcp::domain::cluster::{ClusterNetwork, ClusterPhase, ClusterSpec, ControlPlaneSpec, PoolSpec};
use zcp::domain::credential::Credential;
use zcp::domain::ids::{ClusterId, InstallId, MigrationId, TokenId};
use zcp::domain::migration::{MigrationSpec, Phase, Verb};
use zcp::domain::offering::OfferingSpec;
use zcp::kubernetes::Connector;
use zcp::openstack::{Limits, Transport};
use zcp::sim::kubernetes::{KubeCluster, KubeSettings, KubeSnapshot};
use zcp::sim::{Fetched, NodeFacing, Timing, World, WorldSettings};
use zcp::store::seal::KeyRing;
use zcp::worker::clients::{CloudClients, MakeTransport};
use zcp::worker::context::{Context, Installation, Settings};
use zcp::worker::crash::CrashPoints;
use zcp::worker::{Driver, DriverParts, DriverSettings, KindSettings, Kinds};

use super::TestDb;

/// World time that anything may take. Far above what the slowest scenario needs.
const PATIENCE: SignedDuration = SignedDuration::from_hours(6);
/// Ticks that anything may take.
const TICKS: usize = 6_000;

/// The CNI that every cluster of a test gets.
const CNI: &str = r"
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: zcp-cni, namespace: kube-system}
spec:
  selector: {matchLabels: {app: zcp-cni}}
  template:
    metadata: {labels: {app: zcp-cni}}
    spec:
      hostNetwork: true
      tolerations: [{operator: Exists}]
      containers: [{name: cni, image: cni:1}]
";

/// What differs between worlds.
#[derive(Debug, Clone)]
pub struct WorldOptions {
    /// Seed of the clouds.
    pub seed: u64,
    /// Steps side by side.
    pub parallel_steps: usize,
    /// How the workers' settings are changed.
    pub settings: fn(&mut Settings),
    /// How the simulation is changed before it starts.
    pub tune: fn(&mut WorldSettings),
}

impl Default for WorldOptions {
    fn default() -> Self {
        Self { seed: 1, parallel_steps: 1, settings: |_| {}, tune: |_| {} }
    }
}

/// An installation that was put away, to be gone on with any number of times.
pub struct Prepared {
    template: String,
    sim: Vec<u8>,
    now: jiff::Timestamp,
    keys: String,
    install: InstallId,
    node_ca: String,
    options: WorldOptions,
    management: Option<KubeSnapshot>,
}

/// An installation with two clouds, ready to make clusters.
pub struct TestWorld {
    /// Its database.
    pub db: TestDb,
    /// The clouds and clusters as they really are.
    pub sim: Arc<World>,
    /// What users ask.
    pub app: App,
    /// The operator who asks.
    pub ask: Ask,
    /// The management cluster, in worlds that have one.
    pub management: Option<Arc<KubeCluster>>,
    pub(super) given: Given,
    /// How replicas behave that are made from now on.
    pub settings: Settings,
    /// Every so many calls to an API server are refused; 0 for none.
    pub bad_backend: Arc<AtomicU32>,
    /// Most workers that may exist at once, per cluster.
    pub ceiling: usize,
    /// Fewest workers that must serve, once so many did.
    pub floor: BTreeMap<ClusterId, usize>,
}

/// What an installation is given once.
pub(super) struct Given {
    keys: String,
    pub(super) install: InstallId,
    node_ca: String,
    options: WorldOptions,
}

/// Nothing takes long, nothing takes no time.
fn timing() -> Timing {
    Timing {
        schedule_ms: 300,
        build_ms: 2_000,
        boot_ms: 2_000,
        join_ms: 1_000,
        delete_ms: 1_500,
        power_ms: 1_000,
        retry_ms: 1_000,
        jitter: 0.0,
    }
}

fn settings(parallel_steps: usize) -> Settings {
    Settings {
        busy_period: Duration::from_secs(1),
        servers_period: Duration::from_secs(20),
        nodes_period: Duration::from_secs(20),
        inventory_period: Duration::from_mins(10),
        sweep_period: Duration::from_mins(1),
        sweep_age: Duration::from_mins(2),
        drain_pass: Duration::from_secs(1),
        parallel_steps,
        ..Settings::default()
    }
}

impl TestWorld {
    /// An installation as it is by default, and one replica.
    pub async fn started() -> (Self, Driver) {
        let world = Self::new(WorldOptions::default()).await;
        let driver = world.replica(CrashPoints::none());
        (world, driver)
    }

    /// A world with clouds east and west, checked and ready.
    pub async fn new(options: WorldOptions) -> Self {
        Self::on(TestDb::new().await, options).await
    }

    /// The same on this database.
    pub async fn on(db: TestDb, options: WorldOptions) -> Self {
        let mut sim_settings = WorldSettings::with_timing(timing());
        sim_settings.seed = options.seed;
        sim_settings.kubernetes =
            KubeSettings { pod_ready_delay: Duration::from_secs(2), ..sim_settings.kubernetes };
        (options.tune)(&mut sim_settings);
        let clock: SharedClock = db.clock.clone();
        let sim = World::new(sim_settings, clock.clone());
        let ids: SharedIds = db.ids.clone();
        let keys = KeyRing::generate("test", ids.as_ref()).to_string();
        let node_ca = Authority::generate("zcp", db.now()).expect("an authority");
        let node_ca = node_ca.cert_pem().to_owned();
        let install = InstallId(ids.uuid());
        let world = Self::of(db, sim, Given { keys, install, node_ca, options });
        world.register().await;
        world
    }

    fn of(db: TestDb, sim: Arc<World>, given: Given) -> Self {
        let ids: SharedIds = db.ids.clone();
        let ring = Arc::new(KeyRing::parse(&given.keys).expect("a key ring"));
        let app =
            App { store: db.store.clone(), clock: db.clock.clone(), ids: ids.clone(), keys: ring };
        sim.set_node_facing(node_facing(app.clone()));
        let mut settings = settings(given.options.parallel_steps);
        (given.options.settings)(&mut settings);
        Self {
            ask: Ask::from(operator(ids.as_ref())),
            settings,
            management: None,
            given,
            bad_backend: Arc::default(),
            ceiling: usize::MAX,
            floor: BTreeMap::new(),
            db,
            sim,
            app,
        }
    }

    /// Puts everything away.
    pub async fn prepare(self) -> Prepared {
        let (now, sim) = (self.db.now(), self.sim.snapshot().expect("a snapshot"));
        let management = self.management.as_ref().map(|kube| kube.to_snapshot());
        let Self { db, given, app, .. } = self;
        drop(app);
        let template = db.into_template().await;
        let Given { keys, install, node_ca, options } = given;
        Prepared { template, sim, now, keys, install, node_ca, options, management }
    }

    /// Goes on from what was put away, with other ids than any other copy.
    pub async fn resume(from: &Prepared, seed: u64) -> Self {
        let db = TestDb::copy_of(&from.template, from.now, seed).await;
        let sim = World::restore(&from.sim, db.clock.clone()).expect("a snapshot");
        let given = Given {
            keys: from.keys.clone(),
            install: from.install,
            node_ca: from.node_ca.clone(),
            options: from.options.clone(),
        };
        let management = from.management.clone().map(KubeCluster::from_snapshot);
        Self { management, ..Self::of(db, sim, given) }
    }

    async fn register(&self) {
        zcp::app::projects::create(&self.app, &self.ask, "shop").await.expect("a project");
        for (name, flavor, zone) in
            [("east", "k8s.2c4g", "nova"), ("west", "m1.k8s-2c4g", "west-a")]
        {
            let new = NewCloud {
                name: name.to_owned(),
                spec: spec(name, flavor, zone),
                credential: login(),
            };
            zcp::app::clouds::create(&self.app, &self.ask, &new).await.expect("a cloud");
        }
        let offering = OfferingSpec {
            kubernetes_version: "1.36.2".parse().expect("a version"),
            addon_manager_version: "1.36.0".parse().expect("a version"),
            images: BTreeMap::new(),
            cni_manifest: CNI.to_owned(),
            cni_ports: vec!["udp/8472".parse().expect("a port")],
            node_daemons: vec!["kube-system/zcp-cni".to_owned()],
        };
        zcp::app::offerings::create(&self.app, &self.ask, (None, offering))
            .await
            .expect("offering");
        let driver = self.replica(CrashPoints::none());
        self.settle(&driver, "clouds are ready", async |world| {
            let row = sqlx::query("SELECT count(*) FROM clouds WHERE phase = 'ready'");
            let row = row.fetch_one(world.db.store.pool()).await.expect("clouds");
            row.get::<i64, _>(0) == 2
        })
        .await;
    }

    /// A replica of zcpd's workers.
    pub fn replica(&self, crash: CrashPoints) -> Driver {
        let ids: SharedIds = self.db.ids.clone();
        let clock: SharedClock = self.db.clock.clone();
        let sim = Arc::clone(&self.sim);
        let transport: MakeTransport =
            Arc::new(move |cloud| Ok(Transport::in_process(sim.cloud_router(&cloud.name))));
        let sim = Arc::clone(&self.sim);
        let (every, calls) = (Arc::clone(&self.bad_backend), AtomicU32::new(1));
        let connector = Connector::in_process(Arc::new(move |access| {
            let every = every.load(Ordering::Relaxed);
            if every > 0 && calls.fetch_add(1, Ordering::Relaxed).is_multiple_of(every) {
                return None;
            }
            let host = access.endpoint.host_str()?;
            sim.kube_router(&format!("{host}:6443"))
        }))
        .with_clock(clock.clone());
        let keys = Arc::clone(&self.app.keys);
        let context = Context {
            store: self.db.store.clone(),
            clouds: CloudClients::new(
                (clock.clone(), ids.clone()),
                keys.clone(),
                (transport, Some(Limits::unlimited())),
                None,
            ),
            clock: clock.clone(),
            ids: ids.clone(),
            keys,
            connector,
            management: self.management_client(),
            crash,
            installation: Arc::new(Installation {
                id: self.given.install,
                bundle_url: "https://zcp.test:8443/node/v1/bundle".parse().expect("a URL"),
                node_ca_pem: self.given.node_ca.clone(),
            }),
            settings: Arc::new(self.settings.clone()),
        };
        let parts = DriverParts {
            store: self.db.store.clone(),
            clock,
            ids,
            settings: DriverSettings {
                lease: Duration::from_hours(1),
                ..DriverSettings::default()
            },
        };
        let kind = || KindSettings::new(Duration::from_mins(10), 4);
        zcp::worker::build(&context, parts, Kinds(std::array::from_fn(|_| kind())))
    }

    /// Ticks and moves the clock until `done`, checking the limits after each tick.
    pub async fn settle(&self, driver: &Driver, what: &str, done: impl AsyncFn(&Self) -> bool) {
        let end = self.db.now() + PATIENCE;
        for _ in 0..TICKS {
            self.tick(driver).await;
            if done(self).await {
                return;
            }
            assert!(self.db.now() < end, "{what}: not after {PATIENCE:#}\n{}", self.report().await);
            self.pass_time().await;
        }
        panic!("{what}: not after {TICKS} ticks\n{}", self.report().await);
    }

    /// Everything that is due now, in the clouds and in zcpd.
    pub async fn tick(&self, driver: &Driver) {
        while self.sim.tick().await {}
        let _ran = driver.tick().await.expect("the database answers");
        self.check();
    }

    /// Moves the clock to the next moment at which something is due.
    pub async fn pass_time(&self) {
        let row = sqlx::query(
            "SELECT min(due_at) AS due FROM work_items WHERE enabled AND holder IS NULL",
        );
        let row = row.fetch_one(self.db.store.pool()).await.expect("work items");
        let work: Option<zcp::store::Ts> = row.get("due");
        let now = self.db.now();
        let next = [work.map(zcp::store::Ts::to_jiff), self.sim.next_due()];
        let next = next.into_iter().flatten().min().unwrap_or(now);
        let least = now + SignedDuration::from_millis(100);
        let most = now + SignedDuration::from_mins(10);
        self.db.clock.advance(next.clamp(least, most).duration_since(now));
    }

    /// Lets world time pass, at least `seconds`.
    pub async fn pass(&self, driver: &Driver, seconds: i64) {
        let end = self.db.now() + SignedDuration::from_secs(seconds);
        while self.db.now() < end {
            self.tick(driver).await;
            self.pass_time().await;
        }
    }

    /// Lets every cloud build so many servers at once.
    pub async fn limit_builds(&self, slots: u32) {
        sqlx::query(
            "UPDATE clouds SET generation = generation + 1,
                 spec = jsonb_set(spec, '{limits,builds_in_flight}', to_jsonb($1::integer))",
        )
        .bind(i32::try_from(slots).expect("a few"))
        .execute(self.db.store.pool())
        .await
        .expect("limits");
    }

    /// Changes a cloud.
    pub fn change(&self, cloud: &str, change: impl FnOnce(&mut zcp::sim::cloud::Cloud)) {
        self.sim.with_cloud(cloud, |cloud, _| change(cloud)).expect("a cloud");
    }

    /// The limits that hold at every moment.
    pub fn check(&self) {
        let truth = self.sim.truth();
        let mut of_cluster: BTreeMap<&str, usize> = BTreeMap::new();
        let mut living: BTreeMap<&str, &str> = BTreeMap::new();
        for server in truth.servers.iter().filter(|s| s.status != "ERROR") {
            let mark = |key: &str| server.metadata.get(key).map_or("", String::as_str);
            if !mark("zcp.pool").is_empty() {
                *of_cluster.entry(mark("zcp.cluster")).or_default() += 1;
            }
            let twin = living.insert(mark("zcp.node"), &server.name);
            assert!(twin.is_none(), "two living servers for node {}", mark("zcp.node"));
        }
        for (cluster, servers) in of_cluster {
            assert!(servers <= self.ceiling, "cluster {cluster} has {servers} workers");
        }
        for (cluster, floor) in &self.floor {
            let serving = self.serving(*cluster);
            assert!(serving >= *floor, "{serving} workers serve, {floor} must");
        }
    }

    /// Makes a cluster on east and waits until it is as wanted.
    pub async fn cluster(&self, driver: &Driver, name: &str, workers: u32) -> ClusterId {
        let id = self.wish_cluster(name, (1, workers)).await;
        self.settle(driver, "the cluster is ready", async |world| world.is_ready(id).await).await;
        id
    }

    /// Asks for a cluster on east.
    pub async fn wish_cluster(&self, name: &str, (members, workers): (u32, u32)) -> ClusterId {
        let new = NewCluster {
            name: name.to_owned(),
            project: Some("shop".to_owned()),
            offering: "1.36.2".to_owned(),
            spec: ClusterSpec {
                control_plane: ControlPlaneSpec {
                    cloud: "east".into(),
                    count: members,
                    flavor: None,
                },
                pools: vec![PoolSpec {
                    name: "web".into(),
                    cloud: "east".into(),
                    count: workers,
                    flavor: None,
                    zone: None,
                    labels: BTreeMap::from([("team".to_owned(), "shop".to_owned())]),
                    taints: vec![],
                    surge: 1,
                }],
                network: ClusterNetwork::default(),
                api_server_args: BTreeMap::new(),
            },
        };
        let view = zcp::app::clusters::create(&self.app, &self.ask, &new).await;
        view.expect("a cluster").cluster.id
    }

    /// Whether the condition Ready of a cluster holds and no node is on its way.
    pub async fn is_ready(&self, id: ClusterId) -> bool {
        let row = sqlx::query(
            "SELECT phase = 'running'
                    AND conditions @> '[{\"type\": \"Ready\", \"status\": true}]'
                    AND observed_generation = generation
                    AND (SELECT sum(count) FROM pools WHERE cluster_id = c.id)
                        = (SELECT count(*) FROM nodes
                           WHERE cluster_id = c.id AND role = 'worker' AND closed_at IS NULL)
             FROM clusters c WHERE id = $1",
        );
        let row = row.bind(id).fetch_one(self.db.store.pool()).await.expect("a cluster");
        row.get::<Option<bool>, _>(0) == Some(true)
    }

    /// Whether nothing is left of a cluster by its own row.
    pub async fn is_deleted(&self, id: ClusterId) -> bool {
        let view = zcp::app::clusters::show(&self.app, &self.ask.caller, id).await;
        view.is_ok_and(|view| view.cluster.phase == ClusterPhase::Deleted)
    }

    /// Changes the size of the cluster's pool.
    pub async fn scale(&self, cluster: ClusterId, count: u32) {
        let wish = PoolChange { count: Some(count), ..PoolChange::default() };
        let pool = (cluster, "web");
        let view = zcp::app::clusters::change_pool(&self.app, &self.ask, pool, &wish).await;
        view.expect("a size");
    }

    /// Starts a migration to west, without a canary unless `spec` says so.
    pub async fn migrate(&self, cluster: ClusterId, mut spec: Value) -> MigrationId {
        if spec["canary"].is_null() {
            spec["canary"] = "off".into();
        }
        let spec: MigrationSpec = serde_json::from_value(spec).expect("a migration");
        let view = zcp::app::migrations::create(&self.app, &self.ask, cluster, &spec).await;
        view.expect("a migration").row.id
    }

    /// Asks something of a migration.
    pub async fn steer(&self, id: MigrationId, verb: Verb) {
        self.try_steer(id, verb).await.expect("a legal verb");
    }

    /// Asks something of a migration that may be refused.
    pub async fn try_steer(&self, id: MigrationId, verb: Verb) -> Result<(), zcp::app::Error> {
        let steer = Steer::new(verb, Some("a test wants it"));
        zcp::app::migrations::steer(&self.app, &self.ask, id, steer).await.map(|_| ())
    }

    /// Where a migration is.
    pub async fn phase(&self, id: MigrationId) -> Phase {
        let mut tx = self.db.store.snapshot().await.expect("a transaction");
        let found = zcp::store::migration_progress::load(&mut tx, id).await.expect("a migration");
        found.expect("it exists").phase
    }

    /// Waits until a migration is in `phase`.
    pub async fn until(&self, driver: &Driver, id: MigrationId, phase: Phase) {
        let what = format!("the migration is {}", phase.as_str());
        self.settle(driver, &what, async |world| world.phase(id).await == phase).await;
    }

    /// Deletes a cluster and waits until the clouds hold nothing of it, sweeps included.
    pub async fn delete(&self, driver: &Driver, id: ClusterId) {
        zcp::app::clusters::delete(&self.app, &self.ask, id, None).await.expect("deletable");
        self.settle(driver, "the cluster is deleted", async |world| world.is_deleted(id).await)
            .await;
    }

    /// Lets sweeps pass until the clouds hold nothing that nobody owns.
    pub async fn sweep(&self, driver: &Driver) {
        self.settle(driver, "nothing is left in the clouds", async |world| {
            let truth = world.sim.truth();
            truth.servers.is_empty() && truth.ports.is_empty() && truth.groups.is_empty()
        })
        .await;
    }
}

/// Who asks in tests.
fn operator(ids: &dyn Ids) -> Caller {
    Caller {
        token_id: TokenId(ids.uuid()),
        name: "test".to_owned(),
        role: Role::Operator,
        project: None,
    }
}

/// The node listener without its HTTP: what it answers is `app::bundle`'s.
fn node_facing(app: App) -> NodeFacing {
    NodeFacing::new(move |fetch| {
        let app = app.clone();
        Box::pin(async move {
            let server_id = fetch.server_id.to_string();
            let request = zcp::app::bundle::Request {
                token: &fetch.token,
                server_id: &server_id,
                peer: fetch.from,
            };
            let (status, body) = match zcp::app::bundle::fetch(&app, request).await {
                Ok(bundle) => (200, serde_json::to_string(&bundle).unwrap_or_default()),
                Err(zcp::app::Error::TooEarly(why)) => (425, why.to_owned()),
                Err(error) => (403, error.to_string()),
            };
            Fetched::Answer { status, body }
        })
    })
}

fn spec(name: &str, flavor: &str, zone: &str) -> CloudSpec {
    CloudSpec {
        auth_url: "http://cloud.test/identity/v3".to_owned(),
        region: name.to_owned(),
        interface: Interface::Public,
        ca_pem: None,
        environment: None,
        limits: CloudLimits { calls_per_second: 1000, builds_in_flight: 100 },
        defaults: CloudDefaults {
            network: "kaas".to_owned(),
            security_group: "kaas-nodes".to_owned(),
            flavor: flavor.to_owned(),
            control_plane_flavor: None,
            zone: Some(zone.to_owned()),
            image: None,
        },
        api_proxy: None,
    }
}

fn login() -> Credential {
    Credential::Password {
        username: "kaas".to_owned(),
        user_domain: "Default".to_owned(),
        password: "lab".to_owned(),
        project: "kaas".to_owned(),
        project_domain: "Default".to_owned(),
    }
}
