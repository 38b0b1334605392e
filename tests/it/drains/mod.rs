//! Drains against everything that a tenant's cluster does to them, in whole installations on the
//! simulation. What a pass decides is tested with `plan::drain`, what answers mean with the
//! adapter; here the cluster, the workers and the clock play together.

mod harm;
mod nodes;
mod pods;
mod refusals;

use http::Method;
use serde_json::{Value, json};
use sqlx::Row;
use zcp::domain::blocker::Blocker;
use zcp::domain::ids::{ClusterId, MigrationId};
use zcp::sim::kubernetes::Faults;
use zcp::worker::Driver;
use zcp::worker::crash::CrashPoints;

use crate::support::world::{TestWorld, WorldOptions};

/// One cluster that is about to move.
struct Bed {
    world: TestWorld,
    driver: Driver,
    cluster: ClusterId,
}

impl Bed {
    async fn new(workers: u32) -> Self {
        let world = TestWorld::new(WorldOptions::default()).await;
        let driver = world.replica(CrashPoints::none());
        let cluster = world.cluster(&driver, "alpha", workers).await;
        Self { world, driver, cluster }
    }

    /// Creates an object as the tenant.
    fn create(&self, object: &Value) {
        let kube = self.world.kube_of(self.cluster).expect("an API");
        kube.create(object, self.world.db.now()).expect("a valid object");
    }

    fn faults(&self, change: impl FnOnce(&mut Faults)) {
        let kube = self.world.kube_of(self.cluster).expect("an API");
        kube.set_faults(self.world.db.now(), change);
    }

    async fn patch(&self, path: &str, body: Value) {
        self.world.ask_kube(self.cluster, (Method::PATCH, path, body)).await;
    }

    async fn settle(&self, what: &str, done: impl AsyncFn(&Self) -> bool) {
        self.world.settle(&self.driver, what, async |_| done(self).await).await;
    }

    /// Waits until so many pods with this label `app` are Ready.
    async fn ready(&self, app: &str, count: usize) {
        let what = format!("{count} pods of {app} are ready");
        self.settle(&what, async |bed| {
            bed.pods(app).iter().filter(|p| is_ready(p)).count() == count
        })
        .await;
    }

    fn objects(&self, plural: &str) -> Vec<Value> {
        self.world.kube_of(self.cluster).map(|kube| kube.objects(plural)).unwrap_or_default()
    }

    fn pods(&self, app: &str) -> Vec<Value> {
        let mut pods = self.objects("pods");
        pods.retain(|pod| pod["metadata"]["labels"]["app"] == app);
        pods
    }

    /// Starts a migration of all nodes in one wave, which is held until somebody commits.
    async fn migrate(&self, drain: Value) -> MigrationId {
        let spec = json!({
            "target": "west",
            "waves": [{"upto": "100%", "soak_seconds": 1}],
            "drain": drain,
            "hold_seconds": 3,
            "commit": "manual",
        });
        self.world.migrate(self.cluster, spec).await
    }

    /// Lets world time pass.
    async fn pass(&self, seconds: i64) {
        self.world.pass(&self.driver, seconds).await;
    }

    async fn blockers(&self) -> Vec<Blocker> {
        let rows = sqlx::query("SELECT blockers FROM nodes WHERE cluster_id = $1 ORDER BY name")
            .bind(self.cluster)
            .fetch_all(self.world.db.store.pool())
            .await
            .expect("nodes");
        let read = |row: &sqlx::postgres::PgRow| -> Vec<Blocker> {
            serde_json::from_value(row.get(0)).expect("blockers")
        };
        rows.iter().flat_map(read).collect()
    }

    /// Waits until something blocks, and gives it.
    async fn blocked(&self) -> Blocker {
        self.settle("a pod blocks", async |bed| !bed.blockers().await.is_empty()).await;
        self.blockers().await.remove(0)
    }

    /// Why the migration is paused; empty while it is not.
    async fn paused(&self, id: MigrationId) -> String {
        let row = sqlx::query("SELECT coalesce(paused, '') FROM migrations WHERE id = $1").bind(id);
        row.fetch_one(self.world.db.store.pool()).await.expect("a migration").get(0)
    }

    /// Waits until the migration pauses by itself, and gives the reason.
    async fn pauses(&self, id: MigrationId) -> String {
        self.settle("it pauses", async |bed| !bed.paused(id).await.is_empty()).await;
        self.paused(id).await
    }

    /// Nodes of one cloud, by the word in their server's record.
    fn on(&self, cloud: &str) -> Vec<String> {
        let truth = self.world.sim.truth();
        let servers = truth
            .servers
            .iter()
            .filter(|server| server.cloud == cloud && server.metadata.contains_key("zcp.pool"));
        servers.map(|server| server.name.clone()).collect()
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

fn node_of(pod: &Value) -> String {
    pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned()
}

/// A Deployment whose pods bear the label `app` of its name, changed as the test needs it.
fn deployment(name: &str, replicas: u32, change: impl FnOnce(&mut Value)) -> Value {
    workload(("Deployment", name), ("app", name), (replicas, change))
}

fn workload(
    (kind, name): (&str, &str),
    (key, label): (&str, &str),
    (replicas, change): (u32, impl FnOnce(&mut Value)),
) -> Value {
    let labels = json!({key: label});
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": kind,
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "one", "image": "one:1"}]},
            },
        },
    });
    change(&mut object);
    object
}

fn budget(name: &str, app: &str, available: u32) -> Value {
    json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"minAvailable": available, "selector": {"matchLabels": {"app": app}}},
    })
}
