//! What a wave breaks, and who works against it.

use std::time::Duration;

use serde_json::{Value, json};
use zcp::domain::migration::{Phase, Verb};
use zcp::sim::kubernetes::{Autoscaler, PodMatch};

use super::{Bed, deployment};

/// A Deployment that only the old nodes can run.
fn tied(bed: &Bed) -> Value {
    let nodes = bed.objects("nodes");
    let old = nodes.iter().find(|node| !node["metadata"]["labels"]["zcp.io/pool"].is_null());
    let cloud = old.expect("a worker")["metadata"]["labels"]["zcp.io/cloud"].clone();
    deployment("tied", 2, |set| {
        set["spec"]["template"]["spec"]["nodeSelector"] = json!({"zcp.io/cloud": cloud});
    })
}

#[tokio::test]
async fn f52_pods_that_do_not_fit_the_new_nodes_pause_it_and_old_trouble_does_not() {
    let bed = Bed::new(2).await;
    let sick = PodMatch { name_prefix: "sick-".into(), ..PodMatch::default() };
    bed.faults(|faults| faults.never_ready.push(sick));
    bed.create(&deployment("sick", 1, |_| {}));
    bed.create(&deployment("lost", 1, |set| {
        set["spec"]["template"]["spec"]["nodeSelector"] = json!({"no": "where"});
    }));
    bed.create(&tied(&bed));
    bed.ready("tied", 2).await;
    let waves = json!([{"upto": 1, "soak_seconds": 1}, {"upto": "100%", "soak_seconds": 1}]);
    let spec = json!({"target": "west", "waves": waves, "commit": "manual"});
    let free = bed.world.migrate(bed.cluster, spec).await;
    bed.world.until(&bed.driver, free, Phase::Soaking).await;
    // The first old node's pod went to the other old node, so that wave does no harm.
    bed.settle("the second wave drains", async |bed| {
        bed.world.phase(free).await == Phase::Draining && bed.world.cordons(bed.cluster) == 2
    })
    .await;
    let since = bed.world.db.now();
    let why = bed.pauses(free).await;
    assert!(why.contains("tied"), "{why}");
    assert!(!why.contains("sick") && !why.contains("lost"), "that was so before: {why}");
    let waited = bed.world.db.now().duration_since(since).as_secs();
    assert!((300..=400).contains(&waited), "paused after {waited} s");
    bed.world.steer(free, Verb::Rollback).await;
    bed.world.until(&bed.driver, free, Phase::RolledBack).await;
    bed.ready("tied", 2).await;
}

#[tokio::test]
async fn f57_an_autoscaler_neither_takes_new_nodes_nor_grows_the_old_side_unseen() {
    let bed = Bed::new(1).await;
    bed.create(&tied(&bed));
    bed.ready("tied", 2).await;
    bed.faults(|faults| {
        let unneeded = Duration::from_mins(1);
        faults.autoscaler = Some(Autoscaler { unneeded, adds: 1 });
    });
    let migration = bed.migrate(json!({})).await;
    let why = bed.pauses(migration).await;
    assert!(why.contains("autoscaled-0") && why.contains("autoscaler"), "{why}");
    bed.pass(180).await;
    let empty = bed.on("west");
    assert_eq!(empty.len(), 1);
    let nodes = bed.objects("nodes");
    let node = nodes.iter().find(|node| node["metadata"]["name"] == *empty[0]);
    let node = node.expect("the empty new node is still there");
    let keep = "cluster-autoscaler.kubernetes.io/scale-down-disabled";
    assert_eq!(node["metadata"]["annotations"][keep], "true");
    bed.world.steer(migration, Verb::Rollback).await;
    bed.world.until(&bed.driver, migration, Phase::RolledBack).await;
    bed.settle("the autoscaler has its way again", async |bed| {
        bed.objects("nodes").iter().all(|node| node["metadata"]["annotations"][keep].is_null())
    })
    .await;
}
