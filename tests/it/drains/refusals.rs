//! Pods that may not go: budgets and webhooks.

use serde_json::json;
use zcp::domain::blocker::{BlockerKind, BudgetNumbers};
use zcp::domain::migration::{Phase, Verb};
use zcp::sim::kubernetes::PodMatch;

use super::{Bed, budget, deployment, node_of};

const PDB: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets/web";

#[tokio::test]
async fn f35_a_budget_that_says_no_pauses_with_its_numbers_and_goes_on_when_it_allows() {
    let bed = Bed::new(1).await;
    bed.world.deploy(bed.cluster, (1, 1)).await;
    bed.ready("web", 1).await;
    let migration = bed.migrate(json!({"timeout_seconds": 90})).await;
    bed.world.until(&bed.driver, migration, Phase::Draining).await;
    let began = bed.world.db.now();
    let blocker = bed.blocked().await;
    let told = bed.world.db.now().duration_since(began);
    assert!(told.as_secs() <= 60, "who blocks is told after {told:#}");
    let numbers = BudgetNumbers { name: "web".into(), wanted: Some(1), current: Some(1) };
    assert_eq!((blocker.kind, blocker.pdb), (BlockerKind::Budget, Some(numbers)));
    assert!(blocker.pod.starts_with("default/web-"), "{}", blocker.pod);
    assert!(blocker.owner.expect("an owner").starts_with("ReplicaSet/web-"));
    let why = bed.pauses(migration).await;
    assert!(why.contains("not drained after 90 s") && why.contains("web needs 1"), "{why}");
    assert_eq!(bed.world.cordons(bed.cluster), 1, "the node stays cordoned");
    let uid = bed.pods("web")[0]["metadata"]["uid"].clone();
    bed.pass(120).await;
    assert_eq!(bed.pods("web")[0]["metadata"]["uid"], uid, "nothing is deleted");
    bed.patch(PDB, json!({"spec": {"minAvailable": 0}})).await;
    bed.world.steer(migration, Verb::Resume).await;
    bed.world.until(&bed.driver, migration, Phase::Holding).await;
}

#[tokio::test]
async fn f54_a_drain_that_is_turned_back_leaves_no_cordon() {
    let bed = Bed::new(1).await;
    bed.world.deploy(bed.cluster, (1, 1)).await;
    bed.ready("web", 1).await;
    let migration = bed.migrate(json!({})).await;
    bed.blocked().await;
    assert_eq!(bed.world.cordons(bed.cluster), 1);
    bed.world.steer(migration, Verb::Rollback).await;
    bed.world.until(&bed.driver, migration, Phase::RolledBack).await;
    // The new node keeps its cordon until it is gone.
    bed.settle("no cordon is left", async |bed| bed.world.cordons(bed.cluster) == 0).await;
    assert_eq!(bed.world.serving(bed.cluster), 1);
}

#[tokio::test]
async fn f36_two_budgets_on_one_pod_are_named_and_other_nodes_go_on() {
    let bed = Bed::new(2).await;
    bed.create(&deployment("web", 1, |_| {}));
    bed.ready("web", 1).await;
    let stuck = node_of(&bed.pods("web")[0]);
    let migration = bed.migrate(json!({"timeout_seconds": 7200})).await;
    // The preflight would have found them.
    bed.world.until(&bed.driver, migration, Phase::Provisioning).await;
    for name in ["web", "twin"] {
        bed.create(&budget(name, "web", 0));
    }
    let blocker = bed.blocked().await;
    assert_eq!(blocker.kind, BlockerKind::TwoBudgets);
    assert!(blocker.reason.contains("(twin, web)"), "{}", blocker.reason);
    bed.settle("the other node is drained", async |bed| {
        let drained = sqlx::query("SELECT 1 FROM nodes WHERE drain = 'drained' AND name != $1");
        let drained = drained.bind(&stuck).fetch_optional(bed.world.db.store.pool()).await;
        drained.expect("nodes").is_some()
    })
    .await;
    let twin = PDB.replace("/web", "/twin");
    bed.world.ask_kube(bed.cluster, (http::Method::DELETE, &twin, json!({}))).await;
    bed.world.until(&bed.driver, migration, Phase::Holding).await;
}

#[tokio::test]
async fn f37_an_application_that_was_down_before_is_told_as_such_and_may_be_evicted() {
    let bed = Bed::new(1).await;
    let sick = PodMatch { name_prefix: "sick-".into(), ..PodMatch::default() };
    bed.faults(|faults| faults.never_ready.push(sick));
    bed.create(&deployment("web", 2, |_| {}));
    bed.create(&super::workload(
        ("Deployment", "sick"),
        ("app", "web"),
        (1, |set| {
            set["spec"]["selector"]["matchLabels"]["is"] = json!("sick");
            set["spec"]["template"]["metadata"]["labels"]["is"] = json!("sick");
        }),
    ));
    bed.create(&budget("web", "web", 3));
    bed.ready("web", 2).await;
    let old = |bed: &Bed| -> Vec<String> {
        let sick = |pod: &&serde_json::Value| pod["metadata"]["labels"]["is"] == "sick";
        bed.pods("web").iter().filter(sick).map(node_of).collect()
    };
    let before = old(&bed);
    let migration = bed.migrate(json!({"evict_unhealthy": true, "timeout_seconds": 7200})).await;
    bed.settle("the sick pod moves", async |bed| {
        let now = old(bed);
        !now.is_empty() && now.iter().all(|node| !before.contains(node) && !node.is_empty())
    })
    .await;
    let blocker = bed.blocked().await;
    assert!(blocker.reason.contains("unhealthy before the drain came"), "{}", blocker.reason);
    assert!(bed.paused(migration).await.is_empty(), "harm that was there before does not count");
    bed.patch(PDB, json!({"spec": {"minAvailable": 1}})).await;
    bed.world.until(&bed.driver, migration, Phase::Holding).await;
}

#[tokio::test]
async fn f43_a_webhook_that_refuses_is_waited_for_and_a_broken_one_pauses() {
    let bed = Bed::new(1).await;
    bed.create(&deployment("web", 2, |_| {}));
    bed.ready("web", 2).await;
    bed.faults(|faults| faults.eviction_denied = Some("the data is still moving".into()));
    let migration = bed.migrate(json!({})).await;
    let blocker = bed.blocked().await;
    assert_eq!(blocker.kind, BlockerKind::WebhookDenied);
    assert!(blocker.reason.contains("the data is still moving"), "{}", blocker.reason);
    bed.pass(120).await;
    assert!(bed.paused(migration).await.is_empty());
    bed.faults(|faults| {
        faults.eviction_denied = None;
        faults.is_eviction_webhook_down = true;
    });
    let why = bed.pauses(migration).await;
    assert!(why.contains("failed calling webhook \"evictions.example.com\""), "{why}");
    bed.faults(|faults| faults.is_eviction_webhook_down = false);
    bed.world.steer(migration, Verb::Resume).await;
    bed.world.until(&bed.driver, migration, Phase::Holding).await;
}
