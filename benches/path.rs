//! A migration of 41 nodes in world time, over the critical path under the same limits.
//!
//! The whole installation runs in this process with a clock that the bench moves, and with the
//! periods that are the defaults in production. The critical path is what nobody could be faster
//! than: for each wave the builds in their slots, one boot and join, the drains at once that the
//! rules allow one after the other, and the soak.

use std::time::Duration;

use http::Method;
use jiff::SignedDuration;
use serde_json::json;
use zcp::domain::ids::ClusterId;
use zcp::domain::migration::Phase;
use zcp::sim::{Timing, WorldSettings};
use zcp::worker::context::Settings;
use zcp::worker::crash::CrashPoints;

use crate::support::world::{TestWorld, WorldOptions};
use crate::{Figure, Size};

/// From the accepted create to ACTIVE.
const BUILD: u64 = 15;
const BOOT: u64 = 90;
/// kubeadm; the kubelet's start to Ready; the CNI's pod.
const JOIN: u64 = 12;
const READY: u64 = 10;
const POD_READY: u64 = 5;
/// Pods take their whole grace period to stop.
const DRAIN: u64 = 120;
const SOAK: u64 = 180;
/// The world's clouds build so many at once.
const BUILDS: u64 = 100;
/// Pods of the tenant on each node, and how many of all may be down.
const PODS_PER_NODE: u32 = 2;
const DOWN_AT_ONCE: u32 = 20;

fn tune(world: &mut WorldSettings) {
    for cloud in &mut world.clouds {
        cloud.timing = Timing {
            schedule_ms: 1_000,
            build_ms: (BUILD - 1) * 1_000,
            boot_ms: BOOT * 1_000,
            join_ms: JOIN * 1_000,
            ..Timing::steady()
        };
    }
    world.kubernetes.node_ready_delay = Duration::from_secs(READY);
    world.kubernetes.pod_ready_delay = Duration::from_secs(POD_READY);
    world.kubernetes.pod_stop_delay = Duration::from_secs(DRAIN);
}

/// Makes the cluster, fills it with pods, and moves it.
pub async fn run(size: Size) -> anyhow::Result<Vec<Figure>> {
    let nodes = size.pick(41, 5);
    let options = WorldOptions { parallel_steps: 8, tune, ..WorldOptions::default() };
    let mut world = TestWorld::new(options).await;
    world.settings = Settings::default();
    let driver = world.replica(CrashPoints::none());
    let cluster = world.cluster(&driver, "path", nodes).await;
    deploy(&world, cluster, nodes).await;
    world
        .settle(&driver, "the tenant's pods are ready", async |world| {
            world.ready_pods(cluster) == (nodes * PODS_PER_NODE) as usize
        })
        .await;
    let accepted = world.db.now();
    let spec = json!({"target": "west", "canary": "off", "commit": "manual"});
    let id = world.migrate(cluster, spec).await;
    let mut steps = Vec::new();
    let mut phase = Phase::Pending;
    while phase != Phase::Holding {
        world.tick(&driver).await;
        let now = world.phase(id).await;
        if now != phase {
            steps.push((now, world.db.now().duration_since(accepted)));
            phase = now;
        }
        if phase != Phase::Holding {
            world.pass_time().await;
        }
    }
    for (phase, at) in &steps {
        println!("path: {at:#} {}", phase.as_str());
    }
    let took = world.db.now().duration_since(accepted).as_secs_f64();
    let path = critical_path(u64::from(nodes)).as_secs_f64();
    println!("path: took {took:.0} s, critical path {path:.0} s");
    Ok(vec![
        Figure::most("41-node migration", (took / 60.0, 60.0), "min"),
        Figure::plain("41-node migration, critical path", path / 60.0, "min"),
        Figure::most("41-node migration over critical path", (took / path, 1.10), "ratio"),
    ])
}

/// Pods with a grace period of their own, with a budget.
async fn deploy(world: &TestWorld, cluster: ClusterId, nodes: u32) {
    let replicas = nodes * PODS_PER_NODE;
    let labels = json!({"app": "web"});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels},
            "spec": {"terminationGracePeriodSeconds": 2 * DRAIN,
                "containers": [{"name": "web", "image": "web:1"}]},
        }},
    });
    let path = "/apis/apps/v1/namespaces/default/deployments";
    world.ask_kube(cluster, (Method::POST, path, deployment)).await;
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"maxUnavailable": DOWN_AT_ONCE, "selector": {"matchLabels": labels}},
    });
    let path = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    world.ask_kube(cluster, (Method::POST, path, budget)).await;
}

/// The default waves: one node, a quarter, all.
fn critical_path(nodes: u64) -> SignedDuration {
    let mut sum = 0;
    let mut done = 0;
    for (number, upto) in [1, nodes.div_ceil(4), nodes].into_iter().enumerate() {
        let new = upto.saturating_sub(done);
        if new == 0 {
            continue;
        }
        done = upto;
        // One node at first, then a tenth of the pool.
        let at_once = if number == 0 { 1 } else { nodes.div_ceil(10) };
        let by_budget = u64::from(DOWN_AT_ONCE / PODS_PER_NODE);
        let builds = new.div_ceil(BUILDS) * BUILD;
        // The CNI's pod starts while the kubelet gets ready.
        let boot = BOOT + JOIN + READY.max(POD_READY);
        let drains = new.div_ceil(at_once.min(by_budget)) * DRAIN;
        println!(
            "path: wave {}: {new} nodes: builds {builds} s ({BUILDS} at once), boot and join \
             {boot} s, drains {drains} s ({at_once} at once by the rules, {by_budget} by the \
             budget), soak {SOAK} s",
            number + 1
        );
        sum += builds + boot + drains + SOAK;
    }
    SignedDuration::from_secs(i64::try_from(sum).unwrap_or(i64::MAX))
}
