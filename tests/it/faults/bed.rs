//! Two clusters, put away once; each test goes on from a copy with its own fault.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::Row;
use tokio::sync::OnceCell;
use zcp::domain::ids::ClusterId;
use zcp::sim::cloud::Cloud;
use zcp::sim::faults::{Chance, Effect, Mishap, Rule, Trouble};
use zcp::sim::truth::ServerTruth;
use zcp::worker::Driver;
use zcp::worker::crash::CrashPoints;

use crate::support::world::{Prepared, TestWorld, WorldOptions};

struct Start {
    world: Prepared,
    clusters: [ClusterId; 2],
}

static START: OnceCell<Start> = OnceCell::const_new();
static SEED: AtomicU64 = AtomicU64::new(1000);

async fn start() -> Start {
    let world = TestWorld::new(WorldOptions::default()).await;
    let driver = world.replica(CrashPoints::none());
    let clusters =
        [world.cluster(&driver, "shop", 2).await, world.cluster(&driver, "shop-a", 1).await];
    Start { world: world.prepare().await, clusters }
}

/// A world in which something goes wrong for the cluster `shop`, and nothing for `shop-a`.
pub(super) struct Bed {
    pub world: TestWorld,
    pub driver: Driver,
    /// Two workers on east.
    pub shop: ClusterId,
    /// One worker on east, and nothing that happens to `shop` is its business.
    pub other: ClusterId,
    theirs: BTreeSet<String>,
}

impl Bed {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut TestWorld)) -> Self {
        let start = START.get_or_init(start).await;
        let seed = SEED.fetch_add(1, Ordering::Relaxed);
        let mut world = TestWorld::resume(&start.world, seed).await;
        change(&mut world);
        let driver = world.replica(CrashPoints::none());
        let [shop, other] = start.clusters;
        let theirs = things(&world, other);
        Self { world, driver, shop, other, theirs }
    }

    /// Changes the cloud east.
    pub fn east(&self, change: impl FnOnce(&mut Cloud)) {
        self.world.change("east", change);
    }

    /// Spoils calls of east's Nova or Neutron.
    pub fn spoil(&self, (service, operation): (&str, &str), effect: Effect, chance: Chance) {
        let rule = Rule::new(service, operation, effect, chance);
        self.east(|cloud| cloud.faults.rules.push(rule));
    }

    /// Spoils the next new or deleted workers of `shop`.
    pub fn mishap(&self, what: Trouble, times: u32) {
        let mishap = Mishap { name: Some("shop-web-".to_owned()), ..Mishap::next(what, times) };
        self.east(|cloud| cloud.faults.mishaps.push(mishap));
    }

    /// Makes all calls and servers of east good again.
    pub fn heal(&self) {
        self.east(|cloud| cloud.faults = zcp::sim::faults::Faults::default());
    }

    /// How often east was asked for this, such as `nova.create_server`.
    pub fn calls(&self, operation: &str) -> u64 {
        self.world.sim.with_cloud("east", |cloud, _| cloud.counters.of(operation)).expect("east")
    }

    /// Workers of `shop` as the clouds have them.
    pub fn workers(&self) -> Vec<ServerTruth> {
        let id = self.shop.to_string();
        let mark = |server: &ServerTruth, key: &str| server.metadata.get(key).cloned();
        let mut servers = self.world.sim.truth().servers;
        servers.retain(|one| {
            mark(one, "zcp.cluster") == Some(id.clone()) && mark(one, "zcp.pool").is_some()
        });
        servers
    }

    /// Lets world time pass.
    pub async fn pass(&self, minutes: i64) {
        self.world.pass(&self.driver, minutes * 60).await;
    }

    /// Waits until so many workers of `shop` serve and all is as wanted.
    pub async fn ready(&self, workers: usize) {
        self.world
            .settle(&self.driver, "the cluster is as wanted", async |world| {
                world.serving(self.shop) == workers && world.is_ready(self.shop).await
            })
            .await;
    }

    /// The answer to a question that has one: text of one column, all rows in one.
    pub async fn ask(&self, sql: &'static str) -> String {
        let rows = sqlx::query(sql).fetch_all(self.world.db.store.pool()).await.expect("rows");
        let texts: Vec<String> =
            rows.iter().map(|row| row.get::<Option<String>, _>(0).unwrap_or_default()).collect();
        texts.join("\n")
    }

    /// What keeps `shop` waiting, in words.
    pub async fn waiting(&self) -> String {
        self.ask("SELECT waiting::text FROM clusters WHERE name = 'shop'").await
            + &self.ask("SELECT conditions::text FROM clusters WHERE name = 'shop'").await
    }

    /// Events for people, oldest first.
    pub async fn warnings(&self) -> String {
        self.ask("SELECT reason || ': ' || message FROM events WHERE type = 'warning' ORDER BY id")
            .await
    }

    /// Nothing is left in the clouds without a row, nor in the cluster, and nobody else was hurt.
    pub async fn is_clean(&self) {
        self.world
            .settle(&self.driver, "nothing is left that nobody owns", async |world| {
                unowned(world).await.is_empty()
            })
            .await;
        let kube = self.world.kube_of(self.shop).expect("an API");
        let secrets = kube.objects("secrets");
        let tokens = secrets.iter().filter_map(|one| one["metadata"]["name"].as_str());
        let tokens: Vec<&str> =
            tokens.filter(|name| name.starts_with("bootstrap-token-")).collect();
        assert!(tokens.is_empty(), "tokens are left: {tokens:?}");
        assert_eq!(kube.objects("nodes").len(), self.workers().len() + 1, "Node objects");
        assert_eq!(self.world.cordons(self.shop), 0, "cordons");
        assert_eq!(things(&self.world, self.other), self.theirs, "another cluster was hurt");
        assert!(self.world.is_ready(self.other).await);
    }
}

/// Ids of all servers, ports and groups that bear a cluster's id.
pub(super) fn things(world: &TestWorld, cluster: ClusterId) -> BTreeSet<String> {
    let (id, truth) = (cluster.to_string(), world.sim.truth());
    let servers = truth.servers.iter().filter(|one| one.metadata.get("zcp.cluster") == Some(&id));
    let ports = truth.ports.iter().filter(|one| one.description.contains(&id));
    let groups = truth.groups.iter().filter(|one| one.name.contains(&id));
    let mut found: BTreeSet<String> = servers.map(|one| one.id.to_string()).collect();
    found.extend(ports.map(|one| one.id.to_string()));
    found.extend(groups.map(|one| one.id.to_string()));
    found
}

/// What the clouds hold and no open row claims.
async fn unowned(world: &TestWorld) -> BTreeSet<String> {
    let rows = sqlx::query(
        "SELECT unnest(ARRAY[server_id, port_id]) FROM nodes WHERE closed_at IS NULL
         UNION SELECT vip_port_id FROM clusters WHERE phase <> 'deleted'
         UNION SELECT server_group_id FROM server_groups WHERE state <> 'gone'",
    );
    let rows = rows.fetch_all(world.db.store.pool()).await.expect("rows");
    let owned: BTreeSet<String> =
        rows.iter().filter_map(|row| row.get::<Option<String>, _>(0)).collect();
    let truth = world.sim.truth();
    let servers = truth.servers.iter().filter(|one| one.status != "SOFT_DELETED");
    let mut all: BTreeSet<String> = servers.map(|one| one.id.to_string()).collect();
    all.extend(truth.ports.iter().map(|one| one.id.to_string()));
    all.extend(truth.groups.iter().map(|one| one.id.to_string()));
    all.difference(&owned).cloned().collect()
}

/// A client for east as the service itself has it.
pub(super) fn client(world: &TestWorld) -> zcp::openstack::CloudClient {
    let text = format!(
        "clouds: {{sim: {{region_name: east, auth: {{auth_url: 'http://east.test/identity', \
         username: kaas, password: {}, project_name: kaas, domain_id: default}}}}}}",
        zcp::sim::found::PASSWORD
    );
    let clock: zcp::clock::SharedClock = world.db.clock.clone();
    let wiring = zcp::openstack::Wiring {
        transport: zcp::openstack::Transport::in_process(world.sim.cloud_router("east")),
        budget: zcp::openstack::Budget::new(zcp::openstack::Limits::unlimited(), clock.clone()),
        clock,
        ids: Arc::new(zcp::clock::SystemIds),
        observer: None,
    };
    let auth = zcp::openstack::clouds_yaml::parse(&text, None, None).expect("a good entry");
    zcp::openstack::CloudClient::new("east", auth, wiring)
}
