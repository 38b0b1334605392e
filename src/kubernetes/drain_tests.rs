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
async fn an_eviction_names_its_pod_by_uid_where_the_server_looks_for_it() {
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
        ok(json!({"metadata": {"name": "data-web-0"}, "spec": {"volumeName": "pv-1"}})),
        ok(local),
        status(404, "NotFound", "no such claim"),
    ]);
    let pods = script.client().pods_on("n-1").await.unwrap();
    let lines = script.lines();
    assert_eq!(lines[0], "GET /api/v1/pods?fieldSelector=spec.nodeName%3Dn-1&limit=100");
    assert_eq!(lines[4], "GET /api/v1/namespaces/shop/persistentvolumeclaims/web-0-cache");
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
            "annotations": {"kubernetes.io/config.mirror": "x"},
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
    assert_eq!((pod.phase, pod.priority), (PodPhase::Succeeded, 1000));
    assert!(pod.is_mirror && !pod.is_ready && pod.controller.is_none());
}
