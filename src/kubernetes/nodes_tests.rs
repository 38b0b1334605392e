use super::*;
use crate::kubernetes::call::tests::{Script, ok, status};

fn node(spec: Value, annotations: Value) -> Value {
    json!({
        "kind": "Node", "apiVersion": "v1",
        "metadata": {
            "name": "n-1", "uid": "u-1", "resourceVersion": "7", "annotations": annotations,
        },
        "spec": spec,
    })
}

fn reference() -> NodeRef {
    NodeRef { name: "n-1".into(), uid: "u-1".into() }
}

#[tokio::test]
async fn nodes_are_listed_at_once_from_the_cache() {
    let full = json!({
        "metadata": {
            "name": "n-1", "uid": "u-1", "creationTimestamp": "2026-08-02T12:00:00Z",
            "labels": {"zone": "a"}, "annotations": {CORDONED_BY: "m-1"},
        },
        "spec": {
            "providerID": "openstack:///s-1", "unschedulable": true, "podCIDR": "10.244.1.0/24",
            "taints": [
                {"key": "gpu", "value": "", "effect": "NoSchedule"},
                {"key": "odd", "effect": "Unheard"},
            ],
        },
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [
                {"type": "Hostname", "address": "n-1"},
                {"type": "InternalIP", "address": "10.0.0.7"},
            ],
            "nodeInfo": {
                "systemUUID": "ABC", "kubeletVersion": "v1.36.2", "machineID": "", "bootID": "",
                "kernelVersion": "", "osImage": "", "containerRuntimeVersion": "",
                "kubeProxyVersion": "", "operatingSystem": "", "architecture": "",
            },
        },
    });
    let bare = json!({"metadata": {"name": "n-2", "uid": "u-2"}});
    let script = Script::new(vec![ok(json!({"items": [full, bare]}))]);
    let nodes = script.client().list_nodes().await.unwrap();
    assert_eq!(script.lines(), ["GET /api/v1/nodes?resourceVersion=0"]);
    let [first, second] = nodes.as_slice() else { panic!("{nodes:?}") };
    assert_eq!(first.server_id(), Some("s-1"));
    assert_eq!(first.system_uuid.as_deref(), Some("abc"));
    assert_eq!(first.readiness, Readiness::Ready);
    assert!(first.is_unschedulable);
    assert_eq!(first.cordoned_by.as_deref(), Some("m-1"));
    assert_eq!(
        first.taints.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["gpu:NoSchedule"]
    );
    assert_eq!(first.addresses, ["10.0.0.7"]);
    assert_eq!(first.pod_cidr.as_deref(), Some("10.244.1.0/24"));
    assert_eq!(first.created_at.to_string(), "2026-08-02T12:00:00Z");
    assert_eq!((second.readiness, second.server_id()), (Readiness::Unknown, None));
}

#[tokio::test]
async fn a_cordon_says_whether_the_node_was_cordoned_before() {
    let cordoned = json!({"unschedulable": true});
    let cases = [
        (node(cordoned.clone(), json!({CORDONED_BY: "m-1"})), Cordon::AlreadyOurs),
        (node(cordoned.clone(), json!({CORDONED_BY: "m-0"})), Cordon::AlreadyCordoned),
        (node(cordoned, Value::Null), Cordon::AlreadyCordoned),
    ];
    for (found, expected) in cases {
        let script = Script::new(vec![ok(found)]);
        assert_eq!(script.client().cordon(&reference(), "m-1").await.unwrap(), expected);
        assert_eq!(script.asked().len(), 1);
    }
}

#[tokio::test]
async fn a_cordon_and_its_mark_are_written_together_under_the_version_that_was_read() {
    let open = node(json!({}), Value::Null);
    let script = Script::new(vec![
        ok(open.clone()),
        status(409, "Conflict", "the object has been modified"),
        ok(open.clone()),
        ok(open),
    ]);
    let outcome = script.client().cordon(&reference(), "m-1").await.unwrap();
    assert_eq!(outcome, Cordon::Cordoned);
    let asked = script.asked();
    assert_eq!(asked[3].line, "PATCH /api/v1/nodes/n-1");
    assert_eq!(asked[3].content_type, "application/merge-patch+json");
    let expected = json!({
        "metadata": {"annotations": {CORDONED_BY: "m-1"}, "resourceVersion": "7"},
        "spec": {"unschedulable": true},
    });
    assert_eq!(asked[3].body, expected);
}

#[tokio::test]
async fn endless_conflicts_are_handed_back_as_busy() {
    let open = || ok(node(json!({}), Value::Null));
    let conflict = || status(409, "Conflict", "the object has been modified");
    let rounds = (0..TRIES).flat_map(|_| [open(), conflict()]).collect();
    let script = Script::new(rounds);
    let error = script.client().cordon(&reference(), "m-1").await.unwrap_err();
    assert_eq!(error.kind, OutsideKind::Busy);
    script.asked();
}

#[tokio::test]
async fn only_our_own_cordon_is_lifted() {
    let ours = node(json!({"unschedulable": true}), json!({CORDONED_BY: "m-1"}));
    let script = Script::new(vec![ok(ours.clone()), ok(ours)]);
    let outcome = script.client().uncordon(&reference(), "m-1").await.unwrap();
    assert_eq!(outcome, Uncordon::Uncordoned);
    let expected = json!({
        "metadata": {"annotations": {CORDONED_BY: null}, "resourceVersion": "7"},
        "spec": {"unschedulable": null},
    });
    assert_eq!(script.asked()[1].body, expected);

    let theirs = node(json!({"unschedulable": true}), Value::Null);
    let script = Script::new(vec![ok(theirs)]);
    assert_eq!(script.client().uncordon(&reference(), "m-1").await.unwrap(), Uncordon::NotOurs);
}

#[tokio::test]
async fn a_later_node_of_the_same_name_is_not_touched() {
    let later = NodeRef { name: "n-1".into(), uid: "u-0".into() };
    let script = Script::new(vec![
        ok(node(json!({}), Value::Null)),
        status(409, "Conflict", "Precondition failed: UID in precondition: u-0"),
    ]);
    let client = script.client();
    assert!(client.cordon(&later, "m-1").await.unwrap_err().is_absent());
    assert!(client.delete_node(&later).await.unwrap_err().is_absent());
    let asked = script.asked();
    assert_eq!(asked[1].line, "DELETE /api/v1/nodes/n-1");
    assert_eq!(asked[1].body, json!({"preconditions": {"uid": "u-0"}}));
}

#[tokio::test]
async fn labels_are_not_applied_to_another_node_and_make_none() {
    let answers = [
        (422, "Invalid", "metadata.uid: Invalid value: \"u-1\": field is immutable"),
        (409, "Conflict", "uid mismatch: … no existing object was found"),
    ];
    for (code, reason, message) in answers {
        let client = Script::new(vec![status(code, reason, message)]).client();
        let result = client.apply_labels_taints(&reference(), &BTreeMap::new(), &[]).await;
        assert!(result.unwrap_err().is_absent(), "{message}");
    }
}

fn taint(text: &str) -> Taint {
    let (key, effect) = text.split_once(':').unwrap();
    Taint { key: key.into(), value: None, effect: TaintEffect::parse(effect).unwrap() }
}

#[tokio::test]
async fn taints_of_others_stay_and_dropped_ones_of_ours_go() {
    let found = node(
        json!({"taints": [
            {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute",
             "timeAdded": "2026-08-02T12:00:00Z"},
            {"key": "old", "effect": "NoSchedule"},
            {"key": "gpu", "value": "stale", "effect": "NoSchedule"},
        ]}),
        json!({MANAGED_TAINTS: "gpu:NoSchedule,old:NoSchedule"}),
    );
    let script = Script::new(vec![ok(json!({})), ok(found), ok(json!({}))]);
    let labels = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
    let client = script.client();
    let wanted = [taint("gpu:NoSchedule")];
    client.apply_labels_taints(&reference(), &labels, &wanted).await.unwrap();
    let asked = script.asked();
    assert_eq!(asked[0].line, "PATCH /api/v1/nodes/n-1?fieldManager=zcpd&force=true");
    assert_eq!(asked[0].content_type, "application/apply-patch+yaml");
    assert_eq!(
        asked[0].body["metadata"],
        json!({"name": "n-1", "uid": "u-1", "labels": {"zone": "a"}})
    );
    let expected = json!({
        "metadata": {
            "annotations": {MANAGED_TAINTS: "gpu:NoSchedule"}, "resourceVersion": "7",
        },
        "spec": {"taints": [
            {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute",
             "timeAdded": "2026-08-02T12:00:00Z"},
            {"key": "gpu", "effect": "NoSchedule"},
        ]},
    });
    assert_eq!(asked[2].body, expected);
}

#[test]
fn taints_that_stand_are_not_written_again() {
    let stands = |spec: Value, annotations: Value, wanted: &[Taint]| {
        let node = serde_json::from_value(node(spec, annotations)).unwrap();
        taint_patch(&node, wanted).is_none()
    };
    assert!(stands(json!({}), Value::Null, &[]));
    let taints = json!({"taints": [
        {"key": "b", "effect": "NoExecute"},
        {"key": "a", "effect": "NoSchedule"},
    ]});
    let names = json!({MANAGED_TAINTS: "a:NoSchedule,b:NoExecute"});
    let wanted = [taint("a:NoSchedule"), taint("b:NoExecute")];
    assert!(stands(taints.clone(), names.clone(), &wanted));
    // The kubelet registered with them: they become ours only once they are listed.
    assert!(!stands(taints.clone(), Value::Null, &wanted));
    assert!(!stands(taints, names, &wanted[..1]));
}

#[tokio::test]
async fn daemons_count_where_a_pod_of_theirs_is_ready() {
    let pod = |node: &str, owner: &str, ready: &str| {
        json!({
            "metadata": {"name": node, "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "cni", "uid": owner},
            ]},
            "spec": {"nodeName": node, "containers": []},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        })
    };
    let set = json!({
        "metadata": {"name": "cni", "uid": "ds"},
        "spec": {
            "selector": {"matchLabels": {"app": "cni", "part": "agent"}},
            "template": {"metadata": {}, "spec": {"containers": []}},
        },
    });
    let pods = [pod("n-1", "ds", "True"), pod("n-2", "ds", "False"), pod("n-3", "x", "True")];
    let script =
        Script::new(vec![ok(set), ok(json!({"items": pods})), status(404, "NotFound", "no")]);
    let daemon = |name: &str| DaemonRef { namespace: "kube-system".into(), name: name.into() };
    let views = script.client().ready_daemons(&[daemon("cni"), daemon("csi")]).await.unwrap();
    assert!(views[0].exists && !views[1].exists);
    assert_eq!(views[0].ready_on, BTreeSet::from(["n-1".to_owned()]));
    assert_eq!(
        script.lines()[1],
        "GET /api/v1/namespaces/kube-system/pods\
         ?labelSelector=app%3Dcni%2Cpart%3Dagent&resourceVersion=0"
    );
}
