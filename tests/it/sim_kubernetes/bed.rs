//! A simulated cluster under a manual clock, and the objects that tests put into it.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, ListParams};
use serde_json::{Value, json};
use tower::ServiceExt as _;
use zcp::clock::{Clock as _, ManualClock};
use zcp::sim::kubernetes::{KubeCluster, KubeSettings, NodeRegistration};

/// A cluster with a clock that stands still until the test moves it.
pub struct Bed {
    pub cluster: Arc<KubeCluster>,
    pub clock: Arc<ManualClock>,
    pub router: Router,
}

impl Bed {
    pub fn new() -> Self {
        let clock = Arc::new(ManualClock::new("2026-03-01T12:00:00Z".parse().expect("a time")));
        let cluster = KubeCluster::new(KubeSettings::default(), clock.now());
        let router = cluster.router(clock.clone());
        Self { cluster, clock, router }
    }

    /// A cluster with this many nodes that are Ready.
    pub fn with_nodes(count: u32) -> Self {
        let bed = Self::new();
        for number in 0..count {
            bed.cluster
                .register_node(registration(&format!("n{number}")), bed.clock.now())
                .expect("a working bed");
        }
        bed.pass(11);
        bed
    }

    pub fn pass(&self, seconds: i64) {
        self.clock.advance(SignedDuration::from_secs(seconds));
        self.cluster.advance_to(self.clock.now());
    }

    pub fn client(&self) -> Client {
        Client::new(self.router.clone(), "default")
    }

    pub async fn send(&self, method: &str, path: &str, body: Value) -> (StatusCode, Value) {
        self.send_as(method, path, ("application/json", body)).await
    }

    pub async fn send_as(
        &self,
        method: &str,
        path: &str,
        body: (&str, Value),
    ) -> (StatusCode, Value) {
        let (content_type, body) = body;
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content_type)
            .header("user-agent", "test/1")
            .body(body)
            .expect("a working bed");
        let response = self.router.clone().oneshot(request).await.expect("a working bed");
        let status = response.status();
        let bytes =
            axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("a working bed");
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    pub async fn pods(&self) -> Vec<Pod> {
        let pods: Api<Pod> = Api::default_namespaced(self.client());
        pods.list(&ListParams::default()).await.expect("a list of pods").items
    }

    pub async fn ready_pods(&self) -> usize {
        self.pods().await.iter().filter(|pod| is_ready(pod)).count()
    }

    pub async fn evict(&self, pod: &str, options: Value) -> (StatusCode, Value) {
        let body = json!({
            "apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": pod, "namespace": "default"}, "deleteOptions": options,
        });
        let path = format!("/api/v1/namespaces/default/pods/{pod}/eviction");
        self.send("POST", &path, body).await
    }
}

pub fn registration(name: &str) -> NodeRegistration {
    NodeRegistration {
        name: name.to_owned(),
        provider_id: format!("openstack:///{name}"),
        internal_ip: "127.10.0.7".to_owned(),
        labels: vec![("pool".to_owned(), "a".to_owned())],
        cpu_milli: 4000,
        memory_bytes: 8 << 30,
        max_pods: 110,
        kubelet_version: "1.36.2".to_owned(),
        system_uuid: name.to_owned(),
        ..NodeRegistration::default()
    }
}

pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions
            .is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

pub fn node_of(pod: &Pod) -> String {
    pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default()
}

pub fn template(app: &str, image: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": app}},
        "spec": {"containers": [{"name": "main", "image": image}]},
    })
}

pub fn workload(kind: &str, app: &str, replicas: u32) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": app, "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": app}}, "template": template(app, "web:1")},
    });
    if kind != "DaemonSet" {
        object["spec"]["replicas"] = replicas.into();
    }
    object
}

pub fn budget(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["selector"] = json!({"matchLabels": {"app": "web"}});
    json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": name, "namespace": "default"}, "spec": spec,
    })
}

pub fn create(bed: &Bed, object: Value) {
    bed.cluster.create(&object, bed.clock.now()).expect("a working bed");
}

pub fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}
