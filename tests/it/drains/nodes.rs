//! Nodes that fall silent, servers that go, API servers that are away.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use http::Method;
use serde_json::json;
use zcp::domain::migration::{Phase, Verb};

use super::{Bed, deployment, node_of};

#[tokio::test]
async fn f45_a_node_that_falls_silent_is_not_waited_for() {
    let bed = Bed::new(1).await;
    bed.world.deploy(bed.cluster, (2, 2)).await;
    bed.ready("web", 2).await;
    let name = bed.on("east").remove(0);
    let migration = bed.migrate(json!({"timeout_seconds": 7200})).await;
    bed.blocked().await;
    let kube = bed.world.kube_of(bed.cluster).expect("an API");
    kube.stop_node(&name, bed.world.db.now());
    bed.world.until(&bed.driver, migration, Phase::Soaking).await;
    let still = bed.pods("web").iter().filter(|pod| node_of(pod) == name).count();
    assert_eq!(still, 2, "nobody can end them there, and nobody waits");
    let budget = "/apis/policy/v1/namespaces/default/poddisruptionbudgets/web";
    bed.patch(budget, json!({"spec": {"minAvailable": 0}})).await;
    kube.start_node(&name, bed.world.db.now());
    bed.settle("the way back is open again", async |bed| {
        bed.world.try_steer(migration, Verb::Rollback).await.is_ok()
    })
    .await;
    bed.world.until(&bed.driver, migration, Phase::RolledBack).await;
}

/// Lets time pass until `done`; no Node object may go before its server.
async fn in_order(bed: &Bed, seen: &mut BTreeMap<String, String>, done: impl AsyncFn() -> bool) {
    for _ in 0..3_000 {
        bed.world.tick(&bed.driver).await;
        let there: Vec<String> = bed
            .objects("nodes")
            .iter()
            .map(|node| node["metadata"]["name"].as_str().unwrap_or_default().to_owned())
            .collect();
        let truth = bed.world.sim.truth();
        for (name, server) in seen.iter().filter(|(name, _)| !there.contains(name)) {
            let lives = truth.servers.iter().any(|one| one.id.to_string() == *server);
            assert!(!lives || there.is_empty(), "the Node of {name} went before its server");
        }
        for server in truth.servers.iter().filter(|server| there.contains(&server.name)) {
            seen.insert(server.name.clone(), server.id.to_string());
        }
        if done().await {
            return;
        }
        bed.world.pass_time().await;
    }
    panic!("it does not end");
}

#[tokio::test]
async fn f46_the_server_is_gone_before_its_node_object_on_every_path() {
    let bed = Bed::new(2).await;
    let mut seen = BTreeMap::new();
    bed.world.scale(bed.cluster, 1).await;
    in_order(&bed, &mut seen, async || bed.world.is_ready(bed.cluster).await).await;
    let migration = bed.migrate(json!({})).await;
    let reached = async |id, phase| bed.world.phase(id).await == phase;
    in_order(&bed, &mut seen, async || reached(migration, Phase::Holding).await).await;
    bed.world.steer(migration, Verb::Rollback).await;
    in_order(&bed, &mut seen, async || {
        reached(migration, Phase::RolledBack).await && bed.world.is_ready(bed.cluster).await
    })
    .await;
    let migration = bed.migrate(json!({})).await;
    in_order(&bed, &mut seen, async || reached(migration, Phase::Holding).await).await;
    bed.world.steer(migration, Verb::Commit).await;
    in_order(&bed, &mut seen, async || reached(migration, Phase::Succeeded).await).await;
    let deleted = zcp::app::clusters::delete(&bed.world.app, &bed.world.ask, bed.cluster, None);
    deleted.await.expect("deletable");
    in_order(&bed, &mut seen, async || bed.world.is_deleted(bed.cluster).await).await;
    assert!(seen.len() >= 5, "{seen:?}");
}

#[tokio::test]
async fn f53_pods_that_came_back_to_a_drained_node_leave_before_its_server_goes() {
    let bed = Bed::new(1).await;
    let name = bed.on("east").remove(0);
    let migration = bed.migrate(json!({})).await;
    bed.world.until(&bed.driver, migration, Phase::Holding).await;
    let path = format!("/api/v1/nodes/{name}");
    bed.patch(&path, json!({"spec": {"unschedulable": null}})).await;
    bed.create(&deployment("web", 2, |_| {}));
    let on_old = |bed: &Bed| bed.pods("web").iter().filter(|pod| node_of(pod) == name).count();
    bed.ready("web", 2).await;
    assert_eq!(on_old(&bed), 1, "the scheduler took the open node");
    bed.world.steer(migration, Verb::Commit).await;
    bed.settle("the server goes", async |bed| {
        let goes = !bed.on("east").contains(&name);
        assert!(!goes || on_old(bed) == 0, "a pod dies with the server");
        goes
    })
    .await;
    bed.world.until(&bed.driver, migration, Phase::Succeeded).await;
}

#[tokio::test]
async fn f56_a_drain_outlasts_an_api_server_that_is_away() {
    let bed = Bed::new(1).await;
    bed.create(&deployment("web", 2, |_| {}));
    bed.ready("web", 2).await;
    let migration = bed.migrate(json!({})).await;
    bed.world.until(&bed.driver, migration, Phase::Draining).await;
    // One of three API servers is bad: every third call is refused.
    bed.world.bad_backend.store(3, Ordering::Relaxed);
    bed.pass(30).await;
    bed.world.bad_backend.store(1, Ordering::Relaxed);
    let before = bed.world.phase(migration).await;
    bed.pass(200).await;
    assert_eq!(bed.world.phase(migration).await, before, "no good look, no step");
    bed.world.bad_backend.store(0, Ordering::Relaxed);
    bed.world.until(&bed.driver, migration, Phase::Holding).await;
    bed.world.bad_backend.store(1, Ordering::Relaxed);
    bed.world.steer(migration, Verb::Commit).await;
    bed.pass(200).await;
    assert_eq!(bed.on("east").len(), 1, "no server goes without a fresh good look");
    bed.world.bad_backend.store(0, Ordering::Relaxed);
    bed.world.until(&bed.driver, migration, Phase::Succeeded).await;
}

#[tokio::test]
async fn f42_a_pod_in_a_namespace_that_goes_is_waited_for() {
    let bed = Bed::new(1).await;
    bed.create(&json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "going"},
    }));
    let mut web = deployment("web", 1, |set| {
        set["spec"]["template"]["metadata"]["finalizers"] = json!(["example/hold"]);
    });
    web["metadata"]["namespace"] = json!("going");
    bed.create(&web);
    bed.ready("web", 1).await;
    let pod = bed.pods("web")[0]["metadata"]["name"].as_str().expect("a name").to_owned();
    let delete = (Method::DELETE, "/api/v1/namespaces/going", json!({}));
    bed.world.ask_kube(bed.cluster, delete).await;
    let migration = bed.migrate(json!({})).await;
    bed.world.until(&bed.driver, migration, Phase::Draining).await;
    bed.pass(60).await;
    assert!(bed.paused(migration).await.is_empty(), "it goes with its namespace");
    let path = format!("/api/v1/namespaces/going/pods/{pod}");
    bed.patch(&path, json!({"metadata": {"finalizers": null}})).await;
    bed.world.until(&bed.driver, migration, Phase::Holding).await;
}
