use axum::response::{IntoResponse as _, Response};
use serde_json::Value;

use super::*;
use crate::domain::outside::OutsideKind;
use crate::domain::pod::{DaemonSetOwner, DrainWish, PodPhase};
use crate::kubernetes::call::tests::{Script, ok, status};

fn pod() -> PodRef {
    PodRef { namespace: "shop".into(), name: "web-0".into(), uid: "p-1".into() }
}

fn refusal(code: u16, reason: &str, message: &str, cause: &str) -> Response {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "reason": reason, "message": message,
        "details": {"causes": [{"reason": cause, "message": "The budget web needs 3"}]},
    });
    (http::StatusCode::from_u16(code).unwrap(), axum::Json(body)).into_response()
}

async fn answer(response: Response) -> Result<EvictionAnswer, OutsideError> {
    Script::new(vec![response]).client().evict(&pod(), None, Earnest::Real).await
}

#[tokio::test]
async fn f39_an_eviction_names_its_pod_by_uid_where_the_server_looks_for_it() {
    let script = Script::new(vec![ok(json!({})), ok(json!({}))]);
    let client = script.client();
    let grace = Some(Duration::from_secs(5));
    client.evict(&pod(), grace, Earnest::Real).await.unwrap();
    client.evict(&pod(), None, Earnest::Rehearsal).await.unwrap();
    let asked = script.asked();
    assert_eq!(asked[0].line, "POST /api/v1/namespaces/shop/pods/web-0/eviction");
    let expected = json!({
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"namespace": "shop", "name": "web-0"},
        "deleteOptions": {"gracePeriodSeconds": 5, "preconditions": {"uid": "p-1"}},
    });
    assert_eq!(asked[0].body, expected);
    assert_eq!(asked[1].line, "POST /api/v1/namespaces/shop/pods/web-0/eviction?dryRun=All");
    assert_eq!(asked[1].body["deleteOptions"], json!({"preconditions": {"uid": "p-1"}}));
}

#[tokio::test]
async fn each_answer_to_an_eviction_has_its_meaning() {
    let two = "This pod has more than one PodDisruptionBudget, which the eviction subresource \
               does not support.";
    let denied = "admission webhook \"db.example\" denied the request: data is still moving";
    let broken = "Internal error occurred: failed calling webhook \"db.example\": timeout";
    let cases = [
        (ok(json!({"kind": "Status", "status": "Success"})), EvictionAnswer::Accepted),
        (status(404, "NotFound", "gone"), EvictionAnswer::Gone),
        (
            status(409, "Conflict", "Precondition failed: UID in precondition: p-1, UID in …"),
            EvictionAnswer::OtherPod,
        ),
        (
            status(409, "Conflict", "the UID in the precondition (p-1) does not match the UID …"),
            EvictionAnswer::OtherPod,
        ),
        (
            status(409, "Conflict", "the object has been modified"),
            EvictionAnswer::Retry { message: "the object has been modified".into() },
        ),
        (
            refusal(429, "TooManyRequests", "Cannot evict pod", "DisruptionBudget"),
            EvictionAnswer::Budget { message: "The budget web needs 3".into(), retry_after: None },
        ),
        (
            status(429, "TooManyRequests", "too many requests"),
            EvictionAnswer::RateLimited { retry_after: None },
        ),
        (status(500, "InternalError", two), EvictionAnswer::TwoBudgets { message: two.into() }),
        (
            refusal(403, "Forbidden", "being terminated", "NamespaceTerminating"),
            EvictionAnswer::NamespaceTerminating,
        ),
        (
            status(403, "Forbidden", denied),
            EvictionAnswer::WebhookDenied { message: denied.into() },
        ),
        (
            status(500, "InternalError", broken),
            EvictionAnswer::WebhookBroken { message: broken.into() },
        ),
        (
            status(504, "Timeout", "couldn't update PodDisruptionBudget"),
            EvictionAnswer::Retry { message: "couldn't update PodDisruptionBudget".into() },
        ),
    ];
    for (response, expected) in cases {
        assert_eq!(answer(response).await.unwrap(), expected);
    }
}

#[tokio::test]
async fn a_budget_still_being_computed_says_when_to_ask_again() {
    let mut response = refusal(429, "TooManyRequests", "wait", "DisruptionBudget");
    response.headers_mut().insert("retry-after", "10".parse().unwrap());
    let answer = answer(response).await.unwrap();
    let EvictionAnswer::Budget { retry_after, .. } = answer else { panic!("{answer:?}") };
    assert_eq!(retry_after, Some(Duration::from_secs(10)));
}

#[tokio::test]
async fn a_refusal_that_is_no_answer_to_the_eviction_is_an_error() {
    for (code, kind) in
        [(401, OutsideKind::Denied), (403, OutsideKind::Denied), (400, OutsideKind::Invalid)]
    {
        let error = answer(status(code, "", "no")).await.unwrap_err();
        assert_eq!(error.kind, kind);
    }
}

#[tokio::test]
async fn a_finished_pod_is_deleted_once() {
    let script = Script::new(vec![
        ok(json!({})),
        status(404, "NotFound", "gone"),
        status(409, "Conflict", "Precondition failed: UID in precondition"),
        status(503, "ServiceUnavailable", "no"),
    ]);
    let client = script.client();
    for _ in 0..3 {
        client.delete_pod(&pod(), None).await.unwrap();
    }
    let error = client.delete_pod(&pod(), Some(Duration::ZERO)).await.unwrap_err();
    assert_eq!(error.kind, OutsideKind::Unclear);
    let asked = script.asked();
    assert_eq!(asked[0].body, json!({"preconditions": {"uid": "p-1"}}));
    assert_eq!(asked[3].body["gracePeriodSeconds"], 0);
}

fn found(name: &str, owner: Value, spec: Value) -> Value {
    json!({
        "metadata": {
            "namespace": "shop", "name": name, "uid": name,
            "creationTimestamp": "2026-08-02T12:00:00Z", "ownerReferences": [owner],
        },
        "spec": spec,
        "status": {"phase": "Running"},
    })
}

fn owner(kind: &str, uid: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": kind, "name": "o", "uid": uid, "controller": true})
}

#[tokio::test]
async fn pods_of_a_node_come_with_owners_and_volumes() {
    let spec = |volumes: Value| json!({"nodeName": "n-1", "containers": [], "volumes": volumes});
    let volumes = json!([
        {"name": "tmp", "emptyDir": {}},
        {"name": "data", "persistentVolumeClaim": {"claimName": "data-web-0"}},
        {"name": "cache", "ephemeral": {}},
    ]);
    let items = [
        found("web-0", owner("StatefulSet", "s"), spec(volumes)),
        found("cni-1", owner("DaemonSet", "living"), spec(json!([]))),
        found("old-1", owner("DaemonSet", "dead"), spec(json!([]))),
    ];
    let local = json!({"metadata": {"name": "pv-1"}, "spec": {
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n-1"]},
        ]}]}},
        "csi": {"driver": "local.csi", "volumeHandle": "x"},
    }});
    let script = Script::new(vec![
        ok(json!({"items": items})),
        ok(json!({"items": [{"metadata": {"name": "cni", "uid": "living"}}]})),
        ok(json!({"items": [local]})),
        ok(json!({"items": [{
            "metadata": {"name": "data-web-0", "namespace": "shop"},
            "spec": {"volumeName": "pv-1"},
        }]})),
    ]);
    let pods = script.client().pods_on("n-1").await.unwrap();
    let lines = script.lines();
    assert_eq!(lines[0], "GET /api/v1/pods?fieldSelector=spec.nodeName%3Dn-1&limit=100");
    assert_eq!(lines[2], "GET /api/v1/persistentvolumes?limit=500");
    assert_eq!(lines[3], "GET /api/v1/persistentvolumeclaims?limit=500");
    assert!(pods[0].has_empty_dir);
    assert_eq!(pods[0].claims[0].driver.as_deref(), Some("local.csi"));
    assert!(pods[0].claims[0].is_node_bound);
    assert_eq!(pods[0].claims[1].volume, None);
    let owners: Vec<_> =
        pods.iter().map(|pod| pod.controller.as_ref().unwrap().daemon_set).collect();
    assert_eq!(owners, [DaemonSetOwner::No, DaemonSetOwner::Living, DaemonSetOwner::Gone]);
}

#[tokio::test]
async fn what_a_pod_says_about_its_end_is_read() {
    let item = json!({
        "metadata": {
            "namespace": "shop", "name": "a", "uid": "a",
            "deletionTimestamp": "2026-08-02T12:01:00Z", "deletionGracePeriodSeconds": 60,
            "labels": {"zcp.io/drain": "wait-completed"},
            "annotations": {"kubernetes.io/config.mirror": "x", "zcp.io/drain-order": "-7"},
            "finalizers": ["backup/wait"],
        },
        "spec": {"nodeName": "n-1", "containers": [], "priority": 1000,
                 "terminationGracePeriodSeconds": 5},
        "status": {"phase": "Succeeded", "conditions": [{"type": "Ready", "status": "False"}]},
    });
    let script = Script::new(vec![ok(json!({"items": [item]}))]);
    let pods = script.client().pods_on("n-1").await.unwrap();
    let pod = &pods[0];
    assert_eq!(pod.terminating_since().unwrap().to_string(), "2026-08-02T12:00:00Z");
    assert_eq!(pod.drain_wish, Some(DrainWish::WaitCompleted));
    assert_eq!((pod.phase, pod.priority, pod.order), (PodPhase::Succeeded, 1000, -7));
    assert_eq!(pod.finalizers, ["backup/wait"]);
    assert!(pod.is_mirror && !pod.is_ready && pod.controller.is_none());
}

#[tokio::test]
async fn volumes_are_attached_by_status_or_by_attachment() {
    let with_status = json!({
        "metadata": {"name": "n-1", "uid": "n"},
        "status": {"volumesAttached": [{"name": "csi^v-1", "devicePath": "/dev/vdb"}]},
    });
    let attachment = |node: &str, volume: &str| {
        json!({
            "metadata": {"name": volume},
            "spec": {"attacher": "x", "nodeName": node,
                     "source": {"persistentVolumeName": volume}},
        })
    };
    let list = json!({"items": [attachment("n-1", "pv-1"), attachment("n-2", "pv-2")]});
    let script = Script::new(vec![ok(list), ok(with_status)]);
    let volumes = script.client().attached_to(&["n-1"]).await.unwrap();
    assert_eq!(volumes["n-1"], BTreeSet::from(["csi^v-1".to_owned(), "pv-1".to_owned()]));
}

#[tokio::test]
async fn f38_an_eviction_is_asked_once_and_answered_at_once() {
    let script = Script::new(vec![
        refusal(429, "TooManyRequests", "Cannot evict pod", "DisruptionBudget"),
        status(503, "ServiceUnavailable", "no"),
        status(504, "Timeout", "no"),
    ]);
    let client = script.client();
    let began = std::time::Instant::now();
    for _ in 0..3 {
        client.evict(&pod(), None, Earnest::Real).await.unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(5), "no retries inside the call");
    assert_eq!(script.asked().len(), 3);
}

#[tokio::test]
async fn f40_a_limit_of_the_api_server_slows_every_call_to_its_cluster() {
    let limit = || {
        let mut answer = status(429, "TooManyRequests", "too many requests");
        answer.headers_mut().insert("retry-after", "7".parse().unwrap());
        answer
    };
    let clock = std::sync::Arc::new(crate::clock::ManualClock::new(jiff::Timestamp::UNIX_EPOCH));
    let script = Script::new(vec![
        refusal(429, "TooManyRequests", "Cannot evict pod", "DisruptionBudget"),
        limit(),
        ok(json!({"items": []})),
    ]);
    let client = script.paced_client(clock.clone());
    let budget = client.evict(&pod(), None, Earnest::Real).await.unwrap();
    assert!(matches!(budget, EvictionAnswer::Budget { .. }), "a budget slows nothing");
    let limited = client.evict(&pod(), None, Earnest::Real).await.unwrap();
    assert_eq!(limited, EvictionAnswer::RateLimited { retry_after: Some(Duration::from_secs(7)) });
    clock.advance(jiff::SignedDuration::from_secs(5));
    let error = client.pending_pods().await.unwrap_err();
    assert_eq!(error.kind, OutsideKind::Busy);
    assert_eq!(error.retry_after, Some(Duration::from_secs(2)));
    clock.advance(jiff::SignedDuration::from_secs(2));
    client.pending_pods().await.unwrap();
    assert_eq!(script.asked().len(), 3);
}

#[tokio::test]
async fn f42_an_eviction_in_a_namespace_that_goes_is_waited_for() {
    let gone = refusal(403, "Forbidden", "it is being terminated", "NamespaceTerminating");
    assert_eq!(answer(gone).await.unwrap(), EvictionAnswer::NamespaceTerminating);
    let rights = answer(status(403, "Forbidden", "pods is forbidden")).await.unwrap_err();
    assert_eq!(rights.kind, OutsideKind::Denied);
}

#[tokio::test]
async fn f43_a_webhook_that_refuses_and_one_that_is_broken_are_told_apart() {
    let denied = "admission webhook \"drain.strimzi.io\" denied the request: moving data";
    let broken = "Internal error occurred: failed calling webhook \"drain.strimzi.io\": refused";
    // Webhooks answer with any status they like.
    for code in [400, 403, 429, 500] {
        let said = answer(status(code, "", denied)).await.unwrap();
        assert_eq!(said, EvictionAnswer::WebhookDenied { message: denied.into() }, "{code}");
    }
    let said = answer(status(500, "InternalError", broken)).await.unwrap();
    assert_eq!(said, EvictionAnswer::WebhookBroken { message: broken.into() });
}

#[tokio::test]
async fn budgets_come_with_their_numbers_and_what_they_select() {
    let of = |selector: Value| {
        json!({
            "metadata": {"namespace": "shop", "name": "web"},
            "spec": {"selector": selector},
            "status": {"desiredHealthy": 3, "currentHealthy": 2, "disruptionsAllowed": 0,
                       "expectedPods": 3},
        })
    };
    let plain = of(json!({"matchLabels": {"app": "web"}}));
    let rich = of(json!({"matchExpressions": [{"key": "app", "operator": "Exists"}]}));
    let script = Script::new(vec![ok(json!({"items": [plain, rich]}))]);
    let budgets = script.client().budgets(Some("shop")).await.unwrap();
    assert_eq!((budgets[0].wanted, budgets[0].current, budgets[0].allowed), (3, 2, 0));
    let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
    assert!(budgets[0].selects(&labels) && !budgets[1].selects(&labels));
    assert_eq!(
        script.lines(),
        ["GET /apis/policy/v1/namespaces/shop/poddisruptionbudgets?limit=500"]
    );
}
