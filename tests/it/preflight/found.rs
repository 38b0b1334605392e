//! Trouble that is there in cluster and cloud, each found and named.

use serde_json::{Value, json};
use tokio::sync::OnceCell;
use zcp::domain::ids::ClusterId;
use zcp::domain::insight::Level;
use zcp::worker::Driver;
use zcp::worker::crash::CrashPoints;

use super::{again, insight, level, plan};
use crate::support::world::{Prepared, TestWorld, WorldOptions};

/// A cluster of two workers, made once for all tests here.
static START: OnceCell<(Prepared, ClusterId)> = OnceCell::const_new();

async fn start() -> (TestWorld, Driver, ClusterId) {
    let make = async || {
        let world = TestWorld::new(WorldOptions::default()).await;
        let driver = world.replica(CrashPoints::none());
        let cluster = world.cluster(&driver, "alpha", 2).await;
        (world.prepare().await, cluster)
    };
    let (prepared, cluster) = START.get_or_init(make).await;
    let world = TestWorld::resume(prepared, 3).await;
    let driver = world.replica(CrashPoints::none());
    (world, driver, *cluster)
}

fn west() -> Value {
    json!({"target": "west", "drain": {"timeout_seconds": 600}, "canary": "off"})
}

/// Puts objects into the cluster, and waits until `pods` pods of namespace `default` are Ready.
async fn given(world: &TestWorld, driver: &Driver, of: (ClusterId, &[Value]), pods: usize) {
    let kube = world.kube_of(of.0).expect("an API");
    for object in of.1 {
        kube.create(object, world.db.now()).expect("it can be made");
    }
    let is_ready = |pod: &&Value| {
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        pod["metadata"]["namespace"] == "default"
            && conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    world
        .settle(driver, "pods are Ready", async |_| {
            kube.objects("pods").iter().filter(is_ready).count() >= pods
        })
        .await;
}

fn pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {"containers": [{"name": "main", "image": "app:1"}]},
    });
    for (key, value) in spec.as_object().cloned().unwrap_or_default() {
        pod["spec"][key] = value;
    }
    pod
}

fn workload(kind: &str, name: &str, (image, spec): (&str, Value)) -> Value {
    let labels = json!({"app": name});
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": kind,
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "main", "image": image}]},
            },
        },
    });
    for (key, value) in spec.as_object().cloned().unwrap_or_default() {
        object["spec"]["template"]["spec"][key] = value;
    }
    object
}

fn volume(name: &str, source: &Value, (key, value): (&str, &str)) -> [Value; 2] {
    let term = json!({"matchExpressions": [{"key": key, "operator": "In", "values": [value]}]});
    let mut spec = json!({
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
        "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
    });
    for (key, value) in source.as_object().cloned().unwrap_or_default() {
        spec[key] = value;
    }
    let claim = json!({
        "accessModes": ["ReadWriteOnce"], "volumeName": name,
        "resources": {"requests": {"storage": "1Gi"}},
    });
    [
        json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
               "spec": spec}),
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
               "metadata": {"name": name, "namespace": "default"}, "spec": claim}),
    ]
}

fn with_claim(name: &str) -> Value {
    json!({"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": name}}]})
}

#[tokio::test]
async fn f48_pods_bound_to_a_node_block_before_it_is_touched() {
    let (world, driver, cluster) = start().await;
    let worker = world.worker_names(cluster).pop().expect("a worker");
    let [pv, claim] =
        volume("disk", &json!({"local": {"path": "/d"}}), ("kubernetes.io/hostname", &worker));
    let pinned = json!({"nodeSelector": {"kubernetes.io/hostname": worker}});
    let objects = [pv, claim, pod("db", with_claim("disk")), pod("agent", pinned)];
    given(&world, &driver, (cluster, &objects), 2).await;
    let before = (world.sim.truth().servers.len(), world.cordons(cluster));
    let view = plan(&world, &driver, (cluster, west())).await;
    assert_eq!(level(&view, "local_volumes"), (Level::Block, true));
    assert_eq!(insight(&view, "local_volumes").resources, ["default/db: disk"]);
    assert_eq!(level(&view, "pinned_pods"), (Level::Block, true));
    assert_eq!(insight(&view, "pinned_pods").resources, ["default/agent"]);
    assert!(view.blocking >= 2);
    assert_eq!((world.sim.truth().servers.len(), world.cordons(cluster)), before);
    let planned = view.row.plan.expect("a plan");
    let nodes: Vec<usize> = planned.waves.iter().map(|wave| wave.nodes.len()).collect();
    assert_eq!(nodes, [1, 1]);
    assert_eq!((planned.needs.servers, planned.needs.surge), (3, 1));
}

#[tokio::test]
async fn f49_bare_pods_block_and_empty_dirs_are_listed() {
    let (world, driver, cluster) = start().await;
    let cache = json!({"volumes": [{"name": "c", "emptyDir": {"sizeLimit": "20Gi"}}]});
    let objects = [pod("lonely", json!({})), workload("Deployment", "shop", ("shop:1", cache))];
    given(&world, &driver, (cluster, &objects), 2).await;
    let view = plan(&world, &driver, (cluster, west())).await;
    assert_eq!(level(&view, "bare_pods"), (Level::Block, true));
    assert_eq!(insight(&view, "bare_pods").resources, ["default/lonely"]);
    let dirs = insight(&view, "empty_dirs");
    assert_eq!(dirs.level, Level::Warn);
    assert!(dirs.resources[0].contains("(up to 20Gi)"), "{:?}", dirs.resources);
    // Mended, it passes at the next look.
    let path = "/api/v1/namespaces/default/pods/lonely";
    world.ask_kube(cluster, (http::Method::DELETE, path, json!({}))).await;
    let kube = world.kube_of(cluster).expect("an API");
    let is_gone = async |_: &TestWorld| kube.object("pods", "default", "lonely").is_none();
    world.settle(&driver, "the pod is gone", is_gone).await;
    let view = again(&world, &driver, view.row.id).await;
    assert_eq!(level(&view, "bare_pods"), (Level::Pass, false));
    assert_eq!(view.blocking, 0, "{:#?}", view.insights);
}

#[tokio::test]
async fn f51_single_replicas_without_a_budget_are_listed() {
    let (world, driver, cluster) = start().await;
    let objects = [workload("Deployment", "shop", ("shop:1", json!({})))];
    given(&world, &driver, (cluster, &objects), 1).await;
    let view = plan(&world, &driver, (cluster, west())).await;
    assert_eq!(insight(&view, "single_replicas").level, Level::Warn);
    assert_eq!(insight(&view, "single_replicas").resources, ["Deployment default/shop"]);
    assert_eq!(view.blocking, 0, "an outage of seconds is the owner's to judge");
}

#[tokio::test]
async fn f55_a_grace_longer_than_the_drain_is_said() {
    let (world, driver, cluster) = start().await;
    let slow = json!({"terminationGracePeriodSeconds": 7200});
    let objects = [workload("Deployment", "queue", ("queue:1", slow))];
    given(&world, &driver, (cluster, &objects), 1).await;
    let view = plan(&world, &driver, (cluster, west())).await;
    let found = insight(&view, "long_grace");
    assert_eq!(found.level, Level::Warn);
    assert!(found.fix.contains("--drain-timeout 130m"), "{}", found.fix);
    let mut patient = west();
    patient["drain"]["timeout_seconds"] = json!(7800);
    let view = plan(&world, &driver, (cluster, patient)).await;
    assert_eq!(insight(&view, "long_grace").level, Level::Pass);
}

#[tokio::test]
async fn f70_a_cloud_controller_of_one_cloud_blocks_until_it_leaves_nodes_alone() {
    let (world, driver, cluster) = start().await;
    let image = "registry.k8s.io/provider-os/openstack-cloud-controller-manager:v1.36.0";
    let objects = [workload("DaemonSet", "ccm", (image, json!({})))];
    given(&world, &driver, (cluster, &objects), 2).await;
    let view = plan(&world, &driver, (cluster, west())).await;
    assert_eq!(level(&view, "ccm"), (Level::Block, true));
    assert!(insight(&view, "ccm").reason.contains("knows cloud east only"));
    let args = json!(["--controllers=*,-cloud-node-lifecycle"]);
    let container = json!({"name": "main", "image": image, "args": args});
    let patch = json!({"spec": {"template": {"spec": {"containers": [container]}}}});
    let path = "/apis/apps/v1/namespaces/default/daemonsets/ccm";
    world.ask_kube(cluster, (http::Method::PATCH, path, patch)).await;
    let view = again(&world, &driver, view.row.id).await;
    assert_eq!(insight(&view, "ccm").level, Level::Pass);
}

#[tokio::test]
async fn f71_volumes_of_the_old_cloud_block_though_the_zone_has_the_same_name() {
    let (world, driver, cluster) = start().await;
    let zone = "topology.cinder.csi.openstack.org/zone";
    for worker in world.worker_names(cluster) {
        let path = format!("/api/v1/nodes/{worker}");
        let body = json!({"metadata": {"labels": {zone: "west-a"}}});
        world.ask_kube(cluster, (http::Method::PATCH, &path, body)).await;
    }
    let csi = json!({"csi": {"driver": "cinder.csi.openstack.org", "volumeHandle": "v-1"}});
    let [pv, claim] = volume("pvc-1", &csi, (zone, "west-a"));
    let database = workload("Deployment", "db", ("db:1", with_claim("pvc-1")));
    given(&world, &driver, (cluster, &[pv, claim, database]), 1).await;
    let view = plan(&world, &driver, (cluster, west())).await;
    assert_eq!(level(&view, "cloud_volumes"), (Level::Block, true));
    let reason = &insight(&view, "cloud_volumes").reason;
    assert!(reason.contains("west has a zone west-a too"), "{reason}");
    assert!(insight(&view, "cloud_volumes").resources[0].ends_with(": pvc-1"));
}

#[tokio::test]
async fn f27_servers_are_packed_host_by_host() {
    let (world, driver, cluster) = start().await;
    let hosts = |vcpus: u32, disabled: usize| {
        let changed = world.sim.with_cloud("west", |cloud, _| {
            for user in &mut cloud.identity.users {
                user.is_admin = true;
            }
            cloud.settings.cpu_allocation_ratio = 1.0;
            cloud.settings.host_vcpus = vcpus;
            for (n, host) in cloud.compute.hosts.iter_mut().enumerate() {
                host.disabled = n < disabled;
            }
        });
        changed.expect("a cloud called west");
    };
    hosts(64, 0);
    let view = plan(&world, &driver, (cluster, west())).await;
    assert_eq!(insight(&view, "capacity").level, Level::Pass, "{:#?}", view.insights);
    // Eight hosts with one free core each: as many cores as four servers have, and room for none.
    hosts(1, 0);
    let view = again(&world, &driver, view.row.id).await;
    assert_eq!(level(&view, "capacity"), (Level::Block, true));
    assert!(insight(&view, "capacity").resources[0].contains("0 of 2 servers fit"));
    // One host that takes one server; the others are out of scheduling.
    hosts(2, 7);
    let view = again(&world, &driver, view.row.id).await;
    assert!(insight(&view, "capacity").resources[0].contains("1 of 2 servers fit"));
    hosts(4, 7);
    let view = again(&world, &driver, view.row.id).await;
    assert_eq!(level(&view, "capacity"), (Level::Warn, false), "it fits, and nothing is left");
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one list of objects, and what is said of each")]
async fn what_else_acts_in_the_cluster_is_listed() {
    let (world, driver, cluster) = start().await;
    let two = |name: &str| {
        json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
               "metadata": {"name": name, "namespace": "default"},
               "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "shop"}}}})
    };
    let balanced = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "shop", "namespace": "default"},
        "spec": {"type": "LoadBalancer", "selector": {"app": "shop"}, "ports": [{"port": 80}]}});
    let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "office", "namespace": "default"},
        "spec": {"podSelector": {}, "ingress": [{"from": [
            {"ipBlock": {"cidr": "127.0.0.0/8"}}]}]}});
    let webhook = json!({"apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration", "metadata": {"name": "policy"},
        "webhooks": [{"name": "pods.policy.io", "failurePolicy": "Fail", "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "clientConfig": {"service": {"namespace": "policy", "name": "gone"}},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"],
                       "resources": ["pods"]}]}]});
    let spread = json!({"topologySpreadConstraints": [{"maxSkew": 1,
        "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app": "shop"}}}]});
    let objects = [
        workload("Deployment", "shop", ("shop:1", spread)),
        workload(
            "DaemonSet",
            "csi",
            ("registry.k8s.io/provider-os/cinder-csi-plugin:v1", json!({})),
        ),
        workload("Deployment", "kured", ("ghcr.io/kubereboot/kured:1", json!({}))),
        two("one"),
        two("other"),
        balanced,
        policy,
        webhook,
    ];
    given(&world, &driver, (cluster, &objects), 3).await;
    let view = plan(&world, &driver, (cluster, west())).await;
    let levels: Vec<(&str, Level)> = [
        "two_budgets",
        "webhooks",
        "budgets",
        "load_balancers",
        "network_policies",
        "actors",
        "csi",
        "zones",
    ]
    .map(|id| (id, insight(&view, id).level))
    .into();
    assert_eq!(
        levels,
        [
            ("two_budgets", Level::Block),
            ("webhooks", Level::Block),
            ("budgets", Level::Warn),
            ("load_balancers", Level::Warn),
            ("network_policies", Level::Warn),
            ("actors", Level::Warn),
            ("csi", Level::Warn),
            ("zones", Level::Warn),
        ]
    );
}
