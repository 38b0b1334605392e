//! The simulated tenant cluster, through its HTTP face and through a real client.

mod adapter;
mod bed;
mod tls;

use std::time::Duration;

use axum::http::StatusCode;
use bed::{Bed, budget, create, is_terminating, node_of, registration, template, workload};
use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Node, Pod, Secret};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use serde_json::{Value, json};
use zcp::clock::Clock as _;
use zcp::sim::kubernetes::{
    AnswerTime, KubeCluster, KubeSettings, PlannedAnswer, PodMatch, RegisterError, TokenError,
};

#[tokio::test]
async fn a_rollout_replaces_every_pod_and_keeps_enough_of_them() {
    let bed = Bed::with_nodes(3);
    create(&bed, workload("Deployment", "web", 4));
    bed.pass(6);
    assert_eq!(bed.ready_pods().await, 4);
    let deployments: Api<Deployment> = Api::default_namespaced(bed.client());
    let patch = json!({"spec": {"template": template("web", "web:2")}});
    deployments.patch("web", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    let mut seconds = 0;
    loop {
        assert!(bed.ready_pods().await >= 3, "a rollout may lose one of four");
        assert!(bed.pods().await.iter().filter(|pod| !is_terminating(pod)).count() <= 5);
        let status = deployments.get("web").await.unwrap().status.unwrap();
        if (status.updated_replicas, status.replicas, status.available_replicas)
            == (Some(4), Some(4), Some(4))
        {
            break;
        }
        seconds += 1;
        assert!(seconds < 120, "{status:?}");
        bed.pass(1);
    }
    bed.pass(10);
    let images: Vec<_> = bed
        .pods()
        .await
        .iter()
        .map(|pod| pod.spec.as_ref().unwrap().containers[0].image.clone().unwrap())
        .collect();
    assert_eq!(images, vec!["web:2"; 4]);
}

#[tokio::test]
async fn a_budget_blocks_a_drain_until_the_replacement_is_ready() {
    let bed = Bed::with_nodes(2);
    create(&bed, workload("Deployment", "web", 2));
    create(&bed, budget("web", json!({"maxUnavailable": 1})));
    bed.pass(6);
    let nodes: Api<Node> = Api::all(bed.client());
    let cordon = json!({"spec": {"unschedulable": true}});
    for node in ["n0", "n1"] {
        nodes.patch(node, &PatchParams::default(), &Patch::Strategic(&cordon)).await.unwrap();
    }
    let node = nodes.get("n0").await.unwrap();
    let taints = node.spec.unwrap().taints.unwrap();
    assert_eq!(taints[0].key, "node.kubernetes.io/unschedulable");

    let pods = bed.pods().await;
    let (status, body) = bed.evict(&pods[0].name_any(), json!({})).await;
    assert_eq!((status, body["status"].as_str()), (StatusCode::CREATED, Some("Success")));
    let (status, body) = bed.evict(&pods[1].name_any(), json!({})).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(body["details"]["causes"][0]["reason"], "DisruptionBudget");
    assert_eq!(
        body["details"]["causes"][0]["message"],
        "The disruption budget web needs 1 healthy pods and has 1 currently"
    );

    // Nothing is schedulable: the replacement waits, and so does the budget.
    bed.pass(60);
    assert_eq!(bed.evict(&pods[1].name_any(), json!({})).await.0, StatusCode::TOO_MANY_REQUESTS);
    let pending: Vec<Pod> =
        bed.pods().await.into_iter().filter(|pod| node_of(pod).is_empty()).collect();
    let conditions = pending[0].status.as_ref().unwrap().conditions.as_ref().unwrap();
    assert_eq!(conditions[0].reason.as_deref(), Some("Unschedulable"));
    assert_eq!(
        conditions[0].message.as_deref(),
        Some("0/2 nodes are available: 2 node(s) were unschedulable.")
    );

    let uncordon = json!({"spec": {"unschedulable": null}});
    nodes.patch("n1", &PatchParams::default(), &Patch::Strategic(&uncordon)).await.unwrap();
    bed.pass(6);
    assert_eq!(bed.evict(&pods[1].name_any(), json!({})).await.0, StatusCode::CREATED);
    let counters = bed.cluster.counters();
    assert_eq!((counters.evictions_accepted, counters.evictions_refused), (2, 2));
}

#[tokio::test]
async fn an_eviction_is_answered_like_a_real_server_does() {
    let bed = Bed::with_nodes(2);
    create(&bed, workload("Deployment", "web", 2));
    bed.pass(6);
    let pods = bed.pods().await;
    let (first, uid) = (pods[0].name_any(), pods[0].uid().unwrap());

    assert_eq!(bed.evict("nobody", json!({})).await.0, StatusCode::NOT_FOUND);
    let (status, body) = bed.evict(&first, json!({"preconditions": {"uid": "other"}})).await;
    assert_eq!((status, body["reason"].as_str()), (StatusCode::CONFLICT, Some("Conflict")));
    let dry = json!({"dryRun": ["All"], "preconditions": {"uid": uid}});
    assert_eq!(bed.evict(&first, dry).await.0, StatusCode::CREATED);
    assert_eq!(bed.ready_pods().await, 2);

    create(&bed, budget("one", json!({"minAvailable": 2})));
    assert_eq!(bed.evict(&first, json!({})).await.0, StatusCode::TOO_MANY_REQUESTS);
    create(&bed, budget("two", json!({"minAvailable": "50%"})));
    let (status, body) = bed.evict(&first, json!({})).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(body["message"].as_str().unwrap().contains("more than one PodDisruptionBudget"));

    bed.cluster.set_faults(bed.clock.now(), |faults| {
        faults.eviction_denied = Some("data is being moved".to_owned());
    });
    let (status, body) = bed.evict(&first, json!({})).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(body["message"].as_str().unwrap().contains("denied the request"));
}

#[tokio::test]
async fn unhealthy_pods_are_held_by_the_default_policy_only() {
    let bed = Bed::with_nodes(2);
    bed.cluster.set_faults(bed.clock.now(), |faults| {
        faults.never_ready.push(PodMatch { labels: "app=web".into(), ..PodMatch::default() });
    });
    create(&bed, workload("Deployment", "web", 2));
    create(&bed, budget("web", json!({"minAvailable": 1})));
    bed.pass(6);
    let pods = bed.pods().await;
    assert_eq!(bed.ready_pods().await, 0);
    let first = pods[0].name_any();
    assert_eq!(bed.evict(&first, json!({})).await.0, StatusCode::TOO_MANY_REQUESTS);
    let budgets: Api<PodDisruptionBudget> = Api::default_namespaced(bed.client());
    let policy = json!({"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}});
    budgets.patch("web", &PatchParams::default(), &Patch::Merge(&policy)).await.unwrap();
    assert_eq!(bed.evict(&first, json!({})).await.0, StatusCode::CREATED);
}

#[tokio::test]
async fn a_daemon_runs_on_every_node_cordoned_or_new() {
    let bed = Bed::with_nodes(2);
    create(&bed, workload("DaemonSet", "agent", 0));
    let cordon = json!({"spec": {"unschedulable": true}});
    let nodes: Api<Node> = Api::all(bed.client());
    nodes.patch("n0", &PatchParams::default(), &Patch::Merge(&cordon)).await.unwrap();
    bed.cluster.register_node(registration("n2"), bed.clock.now()).unwrap();
    bed.pass(11);
    let mut on: Vec<String> = bed.pods().await.iter().map(node_of).collect();
    on.sort();
    assert_eq!(on, ["n0", "n1", "n2"]);
    let sets: Api<DaemonSet> = Api::default_namespaced(bed.client());
    let status = sets.get("agent").await.unwrap().status.unwrap();
    assert_eq!((status.desired_number_scheduled, status.number_ready), (3, 3));
}

#[tokio::test]
async fn a_silent_node_loses_its_pods_after_the_toleration_and_finishes_them_when_it_is_back() {
    let bed = Bed::with_nodes(2);
    create(&bed, workload("Deployment", "web", 2));
    bed.pass(6);
    bed.cluster.stop_node("n0", bed.clock.now());
    bed.pass(30);
    assert_eq!(bed.ready_pods().await, 2, "within the grace nobody notices");
    bed.pass(21);
    let nodes: Api<Node> = Api::all(bed.client());
    let node = nodes.get("n0").await.unwrap();
    let conditions = node.status.unwrap().conditions.unwrap();
    assert!(conditions.iter().any(|c| c.type_ == "Ready" && c.status == "Unknown"));
    assert_eq!(bed.ready_pods().await, 1);
    bed.pass(298);
    assert_eq!(bed.pods().await.len(), 2);
    bed.pass(10);
    let pods = bed.pods().await;
    assert_eq!(bed.ready_pods().await, 2, "the replacement runs on the other node");
    assert_eq!(pods.iter().filter(|pod| is_terminating(pod)).count(), 1);
    bed.pass(3600);
    assert_eq!(bed.pods().await.len(), 3, "a silent kubelet ends nothing");
    bed.cluster.start_node("n0", bed.clock.now());
    bed.pass(12);
    assert_eq!(bed.pods().await.len(), 2);
    let taints = nodes.get("n0").await.unwrap().spec.unwrap().taints;
    assert!(taints.is_none_or(|taints| taints.is_empty()));
}

#[tokio::test]
async fn pods_of_a_deleted_node_are_collected() {
    let bed = Bed::with_nodes(2);
    create(&bed, workload("Deployment", "web", 2));
    bed.pass(6);
    bed.cluster.remove_node("n0", bed.clock.now());
    let (status, body) = bed.send("DELETE", "/api/v1/nodes/n0", Value::Null).await;
    assert_eq!((status, body["status"].as_str()), (StatusCode::OK, Some("Success")));
    bed.pass(41);
    bed.pass(6);
    let pods = bed.pods().await;
    assert!(pods.iter().all(|pod| node_of(pod) == "n1" && bed::is_ready(pod)), "{pods:?}");
    assert_eq!(pods.len(), 2);
}

#[tokio::test]
async fn a_bootstrap_token_is_good_until_it_ends() {
    let bed = Bed::new();
    let secrets: Api<Secret> = Api::namespaced(bed.client(), "kube-system");
    let token: Secret = serde_json::from_value(json!({
        "metadata": {"name": "bootstrap-token-abcdef"},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "token-id": "abcdef",
            "token-secret": "0123456789abcdef",
            "expiration": "2026-03-01T12:15:00Z",
            "usage-bootstrap-authentication": "true",
        },
    }))
    .unwrap();
    secrets.create(&PostParams::default(), &token).await.unwrap();
    let check = |token: &str| bed.cluster.check_bootstrap_token(token, bed.clock.now());
    assert_eq!(check("abcdef.0123456789abcdef"), Ok(()));
    assert_eq!(check("abcdef.0123456789abcdeX"), Err(TokenError::Unknown));
    let stored = bed.cluster.secret("kube-system", "bootstrap-token-abcdef").unwrap();
    assert_eq!(stored["token-id"], b"abcdef");
    bed.pass(15 * 60);
    assert_eq!(check("abcdef.0123456789abcdef"), Err(TokenError::Expired));
}

#[tokio::test]
async fn an_apply_owns_its_fields_and_no_others() {
    let bed = Bed::with_nodes(1);
    let nodes: Api<Node> = Api::all(bed.client());
    let ours = PatchParams::apply("zcp");
    let labels = |labels: Value| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n0", "labels": labels}});
    let node = nodes.patch("n0", &ours, &Patch::Apply(labels(json!({"a": "1", "b": "1"})))).await;
    assert_eq!(node.unwrap().labels()["b"], "1");
    let theirs = PatchParams::apply("tenant");
    let refused = nodes.patch("n0", &theirs, &Patch::Apply(labels(json!({"a": "2"})))).await;
    match refused.unwrap_err() {
        kube::Error::Api(status) => {
            assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
            let details = status.details.unwrap();
            assert_eq!(details.causes[0].reason, "FieldManagerConflict");
            assert_eq!(details.causes[0].field, ".metadata.labels.a");
        }
        other => panic!("{other}"),
    }
    let forced = nodes.patch("n0", &theirs.force(), &Patch::Apply(labels(json!({"a": "2"})))).await;
    assert_eq!(forced.unwrap().labels()["a"], "2");
    // What is no longer applied goes; what another manager took stays; so does the kubelet's own.
    let node = nodes.patch("n0", &ours, &Patch::Apply(labels(json!({"c": "1"})))).await.unwrap();
    assert_eq!(node.labels()["a"], "2");
    assert!(!node.labels().contains_key("b"));
    assert_eq!(node.labels()["pool"], "a");
    assert_eq!(node.labels()["c"], "1");
}

#[tokio::test]
async fn an_apply_creates_what_is_missing_and_repeating_it_changes_nothing() {
    let bed = Bed::new();
    let deployments: Api<Deployment> = Api::default_namespaced(bed.client());
    let object = workload("Deployment", "web", 1);
    let params = PatchParams::apply("zcp");
    let first = deployments.patch("web", &params, &Patch::Apply(&object)).await.unwrap();
    let again = deployments.get("web").await.unwrap().resource_version();
    bed.pass(5);
    let second = deployments.patch("web", &params, &Patch::Apply(&object)).await.unwrap();
    assert_eq!(first.uid(), second.uid());
    assert_eq!(again, second.resource_version());
    assert_eq!(second.metadata.generation, Some(1));
}

#[tokio::test]
async fn a_watch_tells_what_happened_and_what_happens() {
    use futures::TryStreamExt as _;
    let bed = Bed::with_nodes(1);
    let pods: Api<Pod> = Api::default_namespaced(bed.client());
    let list = pods.list(&ListParams::default()).await.unwrap();
    create(&bed, workload("Deployment", "web", 1));
    let version = list.metadata.resource_version.unwrap();
    let params = WatchParams::default().labels("app=web").timeout(60);
    let stream = pods.watch(&params, &version).await.unwrap();
    let mut stream = std::pin::pin!(stream);
    let first = stream.try_next().await.unwrap().unwrap();
    assert!(matches!(&first, WatchEvent::Added(pod) if pod.labels()["app"] == "web"), "{first:?}");
    bed.pass(6);
    let is_running = |pod: &Pod| {
        pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
    };
    loop {
        match stream.try_next().await.unwrap().unwrap() {
            WatchEvent::Modified(pod) if is_running(&pod) => break,
            WatchEvent::Modified(_) => {}
            other => panic!("{other:?}"),
        }
    }
    let (status, _) =
        bed.send("DELETE", "/apis/apps/v1/namespaces/default/deployments/web", Value::Null).await;
    assert_eq!(status, StatusCode::OK);
    bed.pass(5);
    loop {
        match stream.try_next().await.unwrap().unwrap() {
            WatchEvent::Deleted(_) => break,
            WatchEvent::Modified(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_stale_write_is_a_conflict_and_a_second_creation_too() {
    let bed = Bed::with_nodes(1);
    let path = "/api/v1/nodes/n0";
    let (_, mut node) = bed.send("GET", path, Value::Null).await;
    node["metadata"]["labels"]["x"] = "1".into();
    assert_eq!(bed.send("PUT", path, node.clone()).await.0, StatusCode::OK);
    let (status, body) = bed.send("PUT", path, node).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(body["reason"], "Conflict");
    assert_eq!(
        body["message"],
        "Operation cannot be fulfilled on nodes \"n0\": the object has been modified; please \
         apply your changes to the latest version and try again"
    );
    let space = json!({"metadata": {"name": "default"}});
    let (status, body) = bed.send("POST", "/api/v1/namespaces", space).await;
    assert_eq!((status, body["reason"].as_str()), (StatusCode::CONFLICT, Some("AlreadyExists")));
    let (status, body) = bed.send("GET", "/api/v1/nodes/nobody", Value::Null).await;
    assert_eq!((status, body["code"].as_i64()), (StatusCode::NOT_FOUND, Some(404)));
    assert_eq!(body["message"], "nodes \"nobody\" not found");
    let moved = ("application/merge-patch+json", json!({"spec": {"providerID": "other"}}));
    assert_eq!(bed.send_as("PATCH", path, moved).await.0, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn a_list_is_paged_and_selected() {
    let bed = Bed::with_nodes(5);
    let (_, page) = bed.send("GET", "/api/v1/nodes?limit=2", Value::Null).await;
    assert_eq!(page["items"].as_array().unwrap().len(), 2);
    assert_eq!(page["metadata"]["remainingItemCount"], 3);
    let next = page["metadata"]["continue"].as_str().unwrap();
    let path = format!("/api/v1/nodes?limit=3&continue={next}");
    let (_, page) = bed.send("GET", &path, Value::Null).await;
    assert_eq!(page["items"][0]["metadata"]["name"], "n2");
    assert!(page["metadata"]["continue"].is_null());
    let path = "/api/v1/nodes?labelSelector=pool%3Da&fieldSelector=metadata.name%3Dn1";
    let (_, page) = bed.send("GET", path, Value::Null).await;
    assert_eq!(page["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_stateful_set_keeps_its_names_in_order() {
    let bed = Bed::with_nodes(2);
    let mut set = workload("StatefulSet", "db", 3);
    set["spec"]["serviceName"] = "db".into();
    create(&bed, set);
    assert_eq!(bed.pods().await.len(), 1);
    bed.pass(20);
    let names: Vec<String> = bed.pods().await.iter().map(kube::ResourceExt::name_any).collect();
    assert_eq!(names, ["db-0", "db-1", "db-2"]);
    let before = bed.pods().await[1].uid();
    bed.evict("db-1", json!({})).await;
    bed.pass(10);
    let after = &bed.pods().await[1];
    assert_eq!(after.name_any(), "db-1");
    assert_ne!(after.uid(), before);
}

#[tokio::test]
async fn planned_answers_replace_the_work_or_only_its_answer() {
    let bed = Bed::with_nodes(1);
    let patch =
        |name: &str| ("application/merge-patch+json", json!({"metadata": {"labels": {name: "1"}}}));
    bed.cluster.set_faults(bed.clock.now(), |faults| {
        faults.answers.push(PlannedAnswer::instead("patch", "nodes", 503, 1));
        let lost = PlannedAnswer::instead("patch", "nodes", 504, 1);
        faults.answers.push(PlannedAnswer { when: AnswerTime::After, ..lost });
    });
    let path = "/api/v1/nodes/n0";
    assert_eq!(bed.send_as("PATCH", path, patch("a")).await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(bed.send_as("PATCH", path, patch("b")).await.0, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(bed.send_as("PATCH", path, patch("c")).await.0, StatusCode::OK);
    let node = bed.cluster.object("nodes", "", "n0").unwrap();
    let labels = &node["metadata"]["labels"];
    assert_eq!((labels["a"].as_str(), labels["b"].as_str()), (None, Some("1")));
    bed.cluster.set_faults(bed.clock.now(), |faults| faults.is_api_down = true);
    assert_eq!(bed.send("GET", path, Value::Null).await.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_stuck_pod_stays_until_its_fault_is_gone() {
    let bed = Bed::with_nodes(1);
    create(&bed, workload("Deployment", "web", 1));
    bed.pass(6);
    bed.cluster.set_faults(bed.clock.now(), |faults| {
        faults.stuck.push(PodMatch { name_prefix: "web".into(), ..PodMatch::default() });
    });
    let name = bed.pods().await[0].name_any();
    bed.evict(&name, json!({})).await;
    bed.pass(600);
    assert!(bed.pods().await.iter().any(|pod| pod.name_any() == name && is_terminating(pod)));
    bed.cluster.set_faults(bed.clock.now(), |faults| faults.stuck.clear());
    assert!(bed.pods().await.iter().all(|pod| pod.name_any() != name));
}

#[tokio::test]
async fn a_node_name_is_not_taken_twice_and_labels_are_checked() {
    let bed = Bed::with_nodes(1);
    let now = bed.clock.now();
    let again = bed.cluster.register_node(registration("n0"), now);
    assert_eq!(again, Err(RegisterError::NameTaken("n0".to_owned())));
    let mut proud = registration("n9");
    proud.labels.push(("node-role.kubernetes.io/worker".to_owned(), String::new()));
    let refused = bed.cluster.register_node(proud, now);
    assert!(matches!(refused, Err(RegisterError::ForbiddenLabel(_))), "{refused:?}");
}

#[tokio::test]
async fn a_snapshot_and_a_sleep_change_nothing() {
    let bed = Bed::with_nodes(2);
    create(&bed, workload("Deployment", "web", 3));
    let text = serde_json::to_string(&bed.cluster.to_snapshot()).unwrap();
    let copy = KubeCluster::from_snapshot(serde_json::from_str(&text).unwrap());
    bed.pass(3600);
    bed.pass(3600);
    copy.advance_to(bed.clock.now());
    assert_eq!(bed.ready_pods().await, 3);
    let (ours, theirs) = (bed.cluster.objects("pods"), copy.objects("pods"));
    assert_eq!(ours, theirs);
    assert_eq!(bed.cluster.objects("nodes"), copy.objects("nodes"));
}

#[tokio::test]
async fn a_deleted_namespace_takes_its_content_along() {
    let bed = Bed::with_nodes(1);
    let (status, _) =
        bed.send("POST", "/api/v1/namespaces", json!({"metadata": {"name": "shop"}})).await;
    assert_eq!(status, StatusCode::CREATED);
    let mut deployment = workload("Deployment", "web", 2);
    deployment["metadata"]["namespace"] = "shop".into();
    create(&bed, deployment.clone());
    bed.pass(6);
    let (_, body) = bed.send("DELETE", "/api/v1/namespaces/shop", Value::Null).await;
    assert_eq!(body["status"]["phase"], "Terminating");
    let path = "/apis/apps/v1/namespaces/shop/deployments";
    let (status, body) = bed.send("POST", path, deployment).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(body["details"]["causes"][0]["reason"], "NamespaceTerminating");
    bed.pass(5);
    assert_eq!(
        bed.send("GET", "/api/v1/namespaces/shop", Value::Null).await.0,
        StatusCode::NOT_FOUND
    );
    assert!(bed.cluster.objects("pods").is_empty());
}

#[tokio::test]
async fn an_idle_fleet_costs_next_to_nothing() {
    let now = "2026-03-01T12:00:00Z".parse().unwrap();
    let cluster = KubeCluster::new(KubeSettings::default(), now);
    for number in 0..40 {
        cluster.register_node(registration(&format!("n{number}")), now).unwrap();
    }
    let settled = now + SignedDuration::from_mins(5);
    cluster.advance_to(settled);
    assert_eq!(cluster.next_due(), None);
    let start = std::time::Instant::now();
    for second in 0..10_000 {
        cluster.advance_to(settled + SignedDuration::from_secs(second));
    }
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
}
