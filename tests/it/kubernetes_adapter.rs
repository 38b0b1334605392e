//! The Kubernetes adapter against a simulated cluster: what it says of nodes, drains and tokens.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use zcp::clock::{Clock as _, ManualClock, SharedClock};
use zcp::domain::bootstrap_token::BootstrapToken;
use zcp::domain::ids::ClusterId;
use zcp::domain::node_view::{Readiness, Taint, TaintEffect};
use zcp::domain::outside::OutsideKind;
use zcp::domain::pod::{PodClass, PodView, SkipReason, WaitReason, classify};
use zcp::kubernetes::drain::{Earnest, EvictionAnswer};
use zcp::kubernetes::nodes::{Cordon, DaemonRef, Uncordon};
use zcp::kubernetes::tokens::Health;
use zcp::kubernetes::{ClusterAccess, ClusterClient, Connector};
use zcp::sim::kubernetes::{
    KubeCluster, KubeSettings, NodeRegistration, PlannedAnswer, TokenError,
};

use crate::support::Result;

/// A simulated cluster of two workers, and the adapter that talks to it.
struct Bed {
    clock: Arc<ManualClock>,
    cluster: Arc<KubeCluster>,
    client: ClusterClient,
}

impl Bed {
    fn new() -> Result<Self> {
        let clock = Arc::new(ManualClock::new("2026-08-02T12:00:00Z".parse()?));
        let cluster = KubeCluster::new(KubeSettings::default(), clock.now());
        let router = cluster.router(Arc::clone(&clock) as SharedClock);
        let connector = Connector::in_process(Arc::new(move |_| Some(router.clone())));
        let access = ClusterAccess {
            endpoint: "https://127.10.0.5:6443".parse()?,
            ca_pem: String::new(),
            client_cert_pem: String::new(),
            client_key_pem: String::new().into(),
            proxy: None,
        };
        let client = connector.connect(ClusterId(uuid::Uuid::from_u128(1)), 1, &access)?;
        let bed = Self { clock, cluster, client };
        for name in ["n-1", "n-2"] {
            bed.join(name)?;
        }
        bed.pass(30);
        Ok(bed)
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn pass(&self, seconds: i64) {
        self.clock.advance(SignedDuration::from_secs(seconds));
        self.cluster.advance_to(self.now());
    }

    fn join(&self, name: &str) -> Result {
        let node = NodeRegistration {
            name: name.to_owned(),
            provider_id: format!("openstack:///server-of-{name}"),
            internal_ip: "10.0.0.7".to_owned(),
            cpu_milli: 4000,
            memory_bytes: 8 << 30,
            max_pods: 110,
            kubelet_version: "1.36.2".to_owned(),
            system_uuid: format!("server-of-{name}"),
            ..NodeRegistration::default()
        };
        Ok(self.cluster.register_node(node, self.now())?)
    }

    fn create(&self, object: &Value) -> Result<Value> {
        Ok(self.cluster.create(object, self.now())?)
    }

    /// A Deployment whose pods run, and a budget that lets at most `spare` of them go.
    fn deploy(&self, replicas: u32, spare: u32) -> Result {
        let labels = json!({"app": "web"});
        let template = json!({
            "metadata": {"labels": labels},
            "spec": {"containers": [{"name": "web", "image": "web"}]},
        });
        self.create(&json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"namespace": "default", "name": "web"},
            "spec": {
                "replicas": replicas, "selector": {"matchLabels": labels}, "template": template,
            },
        }))?;
        self.create(&json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": {"namespace": "default", "name": "web"},
            "spec": {"minAvailable": replicas - spare, "selector": {"matchLabels": labels}},
        }))?;
        self.pass(60);
        Ok(())
    }

    async fn evictable(&self, node: &str) -> Result<Vec<PodView>> {
        let mut pods = self.client.pods_on(node).await?;
        pods.retain(|pod| classify(pod) == PodClass::Evict);
        Ok(pods)
    }
}

#[tokio::test]
async fn nodes_are_seen_as_their_kubelets_report_them() -> Result {
    let bed = Bed::new()?;
    let nodes = bed.client.list_nodes().await?;
    let names: Vec<_> = nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["n-1", "n-2"]);
    assert_eq!(nodes[0].readiness, Readiness::Ready);
    assert_eq!(nodes[0].server_id(), Some("server-of-n-1"));
    assert_eq!(nodes[0].kubelet_version, "v1.36.2");
    assert!(nodes[0].pod_cidr.is_some());
    bed.cluster.stop_node("n-1", bed.now());
    bed.pass(120);
    let node = bed.client.node("n-1").await?.ok_or("n-1 is there")?;
    assert_eq!(node.readiness, Readiness::Unknown);
    assert!(node.has_taint("node.kubernetes.io/unreachable"));
    Ok(())
}

#[tokio::test]
async fn a_cordon_of_ours_is_told_from_one_of_others() -> Result {
    let bed = Bed::new()?;
    let nodes = bed.client.list_nodes().await?;
    let (ours, theirs) = (nodes[0].reference(), nodes[1].reference());
    assert_eq!(bed.client.cordon(&ours, "m-1").await?, Cordon::Cordoned);
    assert_eq!(bed.client.cordon(&ours, "m-1").await?, Cordon::AlreadyOurs);
    assert_eq!(bed.client.cordon(&ours, "m-2").await?, Cordon::AlreadyCordoned);
    let seen = bed.client.node("n-1").await?.ok_or("n-1 is there")?;
    assert!(seen.is_unschedulable && seen.cordoned_by.as_deref() == Some("m-1"));
    assert_eq!(bed.client.uncordon(&theirs, "m-1").await?, Uncordon::NotOurs);
    assert_eq!(bed.client.uncordon(&ours, "m-1").await?, Uncordon::Uncordoned);
    let seen = bed.client.node("n-1").await?.ok_or("n-1 is there")?;
    assert!(!seen.is_unschedulable && seen.cordoned_by.is_none());
    Ok(())
}

#[tokio::test]
async fn labels_and_taints_of_a_pool_come_and_go_and_others_stay() -> Result {
    let bed = Bed::new()?;
    let node = bed.client.list_nodes().await?[0].reference();
    bed.cluster.stop_node("n-1", bed.now());
    bed.pass(120);
    let labels = BTreeMap::from([("zcp.io/pool".to_owned(), "main".to_owned())]);
    let gpu = Taint { key: "gpu".into(), value: None, effect: TaintEffect::NoSchedule };
    bed.client.apply_labels_taints(&node, &labels, std::slice::from_ref(&gpu)).await?;
    let seen = bed.client.node("n-1").await?.ok_or("n-1 is there")?;
    assert_eq!(seen.labels["zcp.io/pool"], "main");
    assert!(seen.has_taint("gpu") && seen.has_taint("node.kubernetes.io/unreachable"));
    bed.client.apply_labels_taints(&node, &BTreeMap::new(), &[]).await?;
    let seen = bed.client.node("n-1").await?.ok_or("n-1 is there")?;
    assert!(!seen.labels.contains_key("zcp.io/pool") && seen.labels.len() > 1);
    assert!(!seen.has_taint("gpu") && seen.has_taint("node.kubernetes.io/unreachable"));
    Ok(())
}

#[tokio::test]
async fn a_budget_holds_a_drain_until_a_pod_is_ready_elsewhere() -> Result {
    let bed = Bed::new()?;
    bed.deploy(4, 1)?;
    let node = bed.client.list_nodes().await?[0].reference();
    bed.client.cordon(&node, "m-1").await?;
    let pods = bed.evictable("n-1").await?;
    assert_eq!(pods.len(), 2, "{pods:?}");
    let rehearsal = bed.client.evict(&pods[0].pod, None, Earnest::Rehearsal).await?;
    assert_eq!(rehearsal, EvictionAnswer::Accepted);
    let first = bed.client.evict(&pods[0].pod, None, Earnest::Real).await?;
    assert_eq!(first, EvictionAnswer::Accepted);
    let second = bed.client.evict(&pods[1].pod, None, Earnest::Real).await?;
    assert!(matches!(second, EvictionAnswer::Budget { .. }), "{second:?}");
    let stopping = bed.client.pods_on("n-1").await?;
    assert!(stopping.iter().any(|p| classify(p) == PodClass::Wait(WaitReason::Terminating)));
    bed.pass(60);
    let second = bed.client.evict(&pods[1].pod, None, Earnest::Real).await?;
    assert_eq!(second, EvictionAnswer::Accepted);
    bed.pass(60);
    assert_eq!(bed.evictable("n-1").await?.len(), 0);
    let gone = bed.client.evict(&pods[1].pod, None, Earnest::Real).await?;
    assert_eq!(gone, EvictionAnswer::Gone);
    let workloads = bed.client.workloads().await?;
    let web = workloads.iter().find(|one| one.name == "web").ok_or("web is there")?;
    assert_eq!((web.wanted, web.available), (4, 4));
    Ok(())
}

#[tokio::test]
async fn a_webhook_that_refuses_evictions_is_told_from_a_budget() -> Result {
    let bed = Bed::new()?;
    bed.deploy(2, 1)?;
    bed.cluster.set_faults(bed.now(), |faults| {
        faults.eviction_denied = Some("data is still moving".to_owned());
    });
    let pods = bed.evictable("n-1").await?;
    let answer = bed.client.evict(&pods[0].pod, None, Earnest::Real).await?;
    assert!(matches!(answer, EvictionAnswer::WebhookDenied { .. }), "{answer:?}");
    Ok(())
}

#[tokio::test]
async fn daemons_stay_in_a_drain_and_are_seen_where_they_are_ready() -> Result {
    let bed = Bed::new()?;
    let labels = json!({"app": "cni"});
    bed.create(&json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"namespace": "kube-system", "name": "cni"},
        "spec": {"selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels},
            "spec": {"containers": [{"name": "cni", "image": "cni"}]},
        }},
    }))?;
    bed.pass(60);
    let daemon = DaemonRef { namespace: "kube-system".into(), name: "cni".into() };
    let views = bed.client.ready_daemons(&[daemon]).await?;
    assert_eq!(views[0].ready_on, BTreeSet::from(["n-1".to_owned(), "n-2".to_owned()]));
    let pods = bed.client.pods_on("n-1").await?;
    let cni = pods.iter().find(|pod| pod.pod.name.starts_with("cni")).ok_or("cni is there")?;
    assert_eq!(classify(cni), PodClass::Skip(SkipReason::DaemonSet));
    Ok(())
}

#[tokio::test]
async fn a_bootstrap_token_opens_the_cluster_until_its_end() -> Result {
    let bed = Bed::new()?;
    let token: BootstrapToken = "abc123.0123456789abcdef".parse()?;
    let end = bed.now() + SignedDuration::from_mins(20);
    bed.client.ensure_bootstrap_token(&token, end, "for n-3").await?;
    bed.client.ensure_bootstrap_token(&token, end + SignedDuration::from_mins(20), "n-3").await?;
    bed.pass(30 * 60);
    bed.cluster.check_bootstrap_token(&token.reveal(), bed.now())?;
    bed.client.delete_bootstrap_token(token.id()).await?;
    bed.client.delete_bootstrap_token(token.id()).await?;
    let check = bed.cluster.check_bootstrap_token(&token.reveal(), bed.now());
    assert_eq!(check, Err(TokenError::Unknown));
    Ok(())
}

#[tokio::test]
async fn a_node_is_deleted_once_and_a_later_one_of_its_name_not_at_all() -> Result {
    let bed = Bed::new()?;
    let node = bed.client.list_nodes().await?[0].reference();
    bed.cluster.remove_node("n-1", bed.now());
    bed.client.delete_node(&node).await?;
    assert!(bed.client.delete_node(&node).await.unwrap_err().is_absent());
    bed.join("n-1")?;
    bed.pass(30);
    assert!(bed.client.delete_node(&node).await.unwrap_err().is_absent());
    assert!(bed.client.cordon(&node, "m-1").await.unwrap_err().is_absent());
    let labels = BTreeMap::from([("zcp.io/pool".to_owned(), "main".to_owned())]);
    let error = bed.client.apply_labels_taints(&node, &labels, &[]).await.unwrap_err();
    assert!(error.is_absent(), "{error}");
    assert!(bed.client.node("n-1").await?.is_some());
    Ok(())
}

#[tokio::test]
async fn an_api_server_in_trouble_says_so() -> Result {
    let bed = Bed::new()?;
    assert_eq!(bed.client.health().await?, Health::Ready);
    bed.cluster.set_faults(bed.now(), |faults| {
        faults.answers.push(PlannedAnswer::instead("list", "nodes", 500, 1));
        faults.answers.push(PlannedAnswer::instead("list", "nodes", 429, 1));
    });
    let error = bed.client.list_nodes().await.unwrap_err();
    assert_eq!(error.kind, OutsideKind::Transient);
    assert_eq!(bed.client.list_nodes().await.unwrap_err().kind, OutsideKind::Busy);
    assert_eq!(bed.client.list_nodes().await?.len(), 2);
    assert_eq!(bed.client.server_version().await?, "v1.36.2");
    Ok(())
}

#[tokio::test]
async fn a_manifest_is_applied_and_applied_again() -> Result {
    let bed = Bed::new()?;
    let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {on: 'yes'}\n\
                    ---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
    for _ in 0..2 {
        assert_eq!(bed.client.apply_manifest(manifest).await?.len(), 2);
    }
    let map = bed.cluster.object("configmaps", "default", "a").ok_or("it is there")?;
    assert_eq!(map["data"]["on"], "yes");
    Ok(())
}
