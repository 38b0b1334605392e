//! Pods that take their time: volumes, finalizers, long grace periods, single replicas.

use std::time::Duration;

use serde_json::{Value, json};
use zcp::domain::blocker::BlockerKind;
use zcp::domain::migration::{Phase, Verb};
use zcp::sim::kubernetes::PodMatch;

use super::{Bed, deployment, is_ready, node_of, workload};

/// A storage class, and a StatefulSet whose pods have a volume each.
fn database(bed: &Bed, replicas: u32) {
    bed.create(&json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": "disk"}, "provisioner": "csi.test",
    }));
    bed.create(&workload(
        ("StatefulSet", "db"),
        ("app", "db"),
        (replicas, |set: &mut Value| {
            set["spec"]["serviceName"] = json!("db");
            set["spec"]["volumeClaimTemplates"] = json!([{
                "metadata": {"name": "data"},
                "spec": {
                    "accessModes": ["ReadWriteOnce"], "storageClassName": "disk",
                    "resources": {"requests": {"storage": "1Gi"}},
                },
            }]);
        }),
    ));
}

#[tokio::test]
async fn f41_a_pod_that_is_back_under_its_name_elsewhere_is_left_alone() {
    let bed = Bed::new(1).await;
    database(&bed, 2);
    bed.ready("db", 2).await;
    let old = bed.on("east");
    let migration = bed.migrate(json!({})).await;
    bed.settle("all of it moves", async |bed| {
        let pods = bed.pods("db");
        let moved: Vec<&Value> = pods.iter().filter(|p| !old.contains(&node_of(p))).collect();
        assert!(pods.iter().filter(|p| !is_ready(p)).count() <= 1, "one volume at a time");
        moved.len() == 2 && moved.iter().all(|pod| is_ready(pod))
    })
    .await;
    bed.world.until(&bed.driver, migration, Phase::Holding).await;
    let uids: Vec<Value> = bed.pods("db").iter().map(|p| p["metadata"]["uid"].clone()).collect();
    bed.pass(120).await;
    let later: Vec<Value> = bed.pods("db").iter().map(|p| p["metadata"]["uid"].clone()).collect();
    assert_eq!(later, uids, "nobody evicts it there");
}

#[tokio::test]
async fn f47_a_server_is_not_given_up_while_volumes_are_attached() {
    let bed = Bed::new(1).await;
    database(&bed, 1);
    let logs = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "logs", "namespace": "default"},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "disk",
            "resources": {"requests": {"storage": "1Gi"}},
        },
    });
    bed.create(&logs);
    bed.create(&workload(
        ("DaemonSet", "logs"),
        ("app", "logs"),
        (1, |set: &mut Value| {
            set["spec"].as_object_mut().expect("a spec").remove("replicas");
            let volume = json!({"name": "d", "persistentVolumeClaim": {"claimName": "logs"}});
            set["spec"]["template"]["spec"]["volumes"] = json!([volume]);
            set["spec"]["template"]["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
        }),
    ));
    bed.ready("db", 1).await;
    bed.faults(|faults| faults.detach_takes = Some(Duration::from_mins(30)));
    let migration = bed.migrate(json!({"volume_timeout_seconds": 60})).await;
    bed.settle("only volumes are left", async |bed| {
        bed.blockers().await.iter().any(|blocker| blocker.kind == BlockerKind::Volume)
    })
    .await;
    let since = bed.world.db.now();
    let why = bed.pauses(migration).await;
    let waited = bed.world.db.now().duration_since(since).as_secs();
    assert!((55..=80).contains(&waited), "paused after {waited} s");
    assert!(why.contains("pvc-") && why.contains("still attached"), "{why}");
    bed.faults(|faults| faults.detach_takes = None);
    bed.world.steer(migration, Verb::Resume).await;
    bed.world.until(&bed.driver, migration, Phase::Holding).await;
    let attached = bed.objects("volumeattachments");
    let old = bed.on("east");
    let left: Vec<&Value> = attached
        .iter()
        .filter(|one| old.iter().any(|name| one["spec"]["nodeName"] == *name))
        .collect();
    assert_eq!(left.len(), 1, "the daemon's own volume does not block");
}

#[tokio::test]
async fn f44_a_pod_that_does_not_stop_is_told_with_its_finalizers() {
    let bed = Bed::new(1).await;
    bed.create(&deployment("db", 1, |set| {
        set["spec"]["template"]["metadata"]["finalizers"] = json!(["backup.example/wait"]);
    }));
    bed.ready("db", 1).await;
    let pod = bed.pods("db")[0]["metadata"]["name"].as_str().expect("a name").to_owned();
    let migration = bed.migrate(json!({})).await;
    bed.settle("it stops", async |bed| {
        bed.pods("db").iter().any(|pod| !pod["metadata"]["deletionTimestamp"].is_null())
    })
    .await;
    let since = bed.world.db.now();
    let why = bed.pauses(migration).await;
    assert!(why.contains(&pod) && why.contains("finalizers: backup.example/wait"), "{why}");
    let waited = bed.world.db.now().duration_since(since).as_secs();
    assert!((180..=280).contains(&waited), "paused after {waited} s: grace and three minutes");
    let there = |bed: &Bed| bed.pods("db").iter().any(|one| one["metadata"]["name"] == *pod);
    assert!(there(&bed), "nobody forces it");
    let path = format!("/api/v1/namespaces/default/pods/{pod}");
    bed.patch(&path, json!({"metadata": {"finalizers": null}})).await;
    bed.world.steer(migration, Verb::Resume).await;
    bed.world.until(&bed.driver, migration, Phase::Holding).await;
}

#[tokio::test]
async fn f44_force_is_an_explicit_choice_and_says_whose() {
    let bed = Bed::new(1).await;
    bed.world.deploy(bed.cluster, (1, 1)).await;
    bed.ready("web", 1).await;
    let migration = bed.migrate(json!({"timeout_seconds": 60, "at_deadline": "force"})).await;
    bed.world.until(&bed.driver, migration, Phase::Holding).await;
    let row = sqlx::query("SELECT message FROM events WHERE reason = 'PodsForced'");
    let row = row.fetch_one(bed.world.db.store.pool()).await.expect("an event");
    let words: String = sqlx::Row::get(&row, 0);
    assert!(words.contains("test chose force"), "{words}");
}

#[tokio::test]
async fn f55_a_drain_follows_a_long_grace_period_up_to_the_nodes_own_deadline() {
    let bed = Bed::new(1).await;
    let slow = PodMatch { name_prefix: "db-".into(), ..PodMatch::default() };
    bed.faults(|faults| faults.slow_to_stop.push(slow));
    bed.create(&deployment("db", 1, |set| {
        set["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(600);
    }));
    bed.ready("db", 1).await;
    let migration = bed.migrate(json!({"timeout_seconds": 320})).await;
    let blocker = bed.blocked().await;
    assert_eq!(blocker.kind, BlockerKind::Stopping);
    assert!(blocker.reason.contains("(600 s of grace)"), "{}", blocker.reason);
    let why = bed.pauses(migration).await;
    assert!(why.contains("not drained after 320 s") && why.contains("600 s of grace"), "{why}");
    bed.world.steer(migration, Verb::Resume).await;
    bed.world.until(&bed.driver, migration, Phase::Holding).await;
}

#[tokio::test]
async fn f51_of_single_replicas_in_a_namespace_only_one_is_away_at_any_time() {
    let bed = Bed::new(2).await;
    let names = ["one", "two", "three", "four"];
    for name in names {
        bed.create(&deployment(name, 1, |_| {}));
    }
    for name in names {
        bed.ready(name, 1).await;
    }
    let migration = bed.migrate(json!({"parallel": 2})).await;
    bed.settle("all have moved", async |bed| {
        let away = names.iter().filter(|name| !bed.pods(name).iter().any(is_ready)).count();
        assert!(away <= 1, "{away} single replicas are away");
        bed.world.phase(migration).await == Phase::Holding
    })
    .await;
}
