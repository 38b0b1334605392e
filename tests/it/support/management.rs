//! A management cluster beside the clouds, and what people do in it with kubectl.

use std::sync::Arc;

use axum::body::Body;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt as _;
use zcp::app::{MAX_LIMIT, PageRequest};
use zcp::domain::migration::Phase;
use zcp::kubernetes::ManagementClient;
use zcp::sim::kubernetes::{KubeCluster, KubeSettings};
use zcp::store::work::{self, WorkKind};

use super::world::TestWorld;

const DEFINITION: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/crd/clustermigrations.zcp.io.yaml"));
const BASE: &str = "/apis/zcp.io/v1alpha1/namespaces";

/// A cluster that knows ClusterMigration, with the namespace `team-shop` of project `shop`.
pub fn cluster(now: jiff::Timestamp) -> Arc<KubeCluster> {
    let kube = KubeCluster::new(KubeSettings { seed: 77, ..KubeSettings::default() }, now);
    let definition: Value = serde_saphyr::from_str(DEFINITION).expect("YAML");
    kube.create(&definition, now).expect("a definition");
    for (name, labels) in
        [("team-shop", json!({"zcp.io/project": "shop"})), ("stranger", json!({}))]
    {
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": labels},
        });
        kube.create(&namespace, now).expect("a namespace");
    }
    kube
}

impl TestWorld {
    /// Gives zcpd a management cluster.
    pub async fn with_management(mut self) -> Self {
        self.management = Some(cluster(self.db.now()));
        self.wake_management().await;
        self
    }

    /// The client of the management cluster, if there is one.
    pub(super) fn management_client(&self) -> Option<ManagementClient> {
        let kube = self.management.as_ref()?;
        Some(ManagementClient::in_process(kube.router(self.db.clock.clone())))
    }

    /// What the watch does when somebody changed an object.
    pub async fn wake_management(&self) {
        let mut tx = self.db.store.begin().await.expect("a transaction");
        let install = self.given.install;
        work::wake(&mut tx, WorkKind::Management, install, self.db.now()).await.expect("woken");
        tx.commit().await.expect("committed");
    }

    /// The management cluster.
    pub fn kube(&self) -> &Arc<KubeCluster> {
        self.management.as_ref().expect("a management cluster")
    }

    /// The id of the installation.
    pub fn install(&self) -> zcp::domain::ids::InstallId {
        self.given.install
    }

    /// A request of an administrator's to the management cluster.
    pub async fn ask_management(&self, (method, path, body): (Method, &str, Value)) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", "application/merge-patch+json")
            .body(Body::from(body.to_string()))
            .expect("a request");
        let router = self.kube().router(self.db.clock.clone());
        let answer = router.oneshot(request).await.expect("an answer");
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
    }

    /// A request of kubectl's to the collection or an object of a namespace.
    pub async fn kubectl(
        &self,
        method: Method,
        (namespace, name): (&str, &str),
        body: Value,
    ) -> (StatusCode, Value) {
        let kind = match method {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let name = if name.is_empty() { String::new() } else { format!("/{name}") };
        let request = Request::builder()
            .method(method)
            .uri(format!("{BASE}/{namespace}/clustermigrations{name}?fieldManager=kubectl"))
            .header("content-type", kind)
            .body(Body::from(body.to_string()))
            .expect("a request");
        let router = self.kube().router(self.db.clock.clone());
        let answer = router.oneshot(request).await.expect("an answer");
        let status = answer.status();
        let bytes = axum::body::to_bytes(answer.into_body(), usize::MAX).await.expect("a body");
        self.wake_management().await;
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// `kubectl apply` of a new object in `team-shop`.
    pub async fn apply(&self, name: &str, spec: Value) {
        self.apply_in(("team-shop", name), spec).await;
    }

    /// `kubectl apply` of a new object.
    pub async fn apply_in(&self, (namespace, name): (&str, &str), spec: Value) {
        let body = json!({
            "apiVersion": "zcp.io/v1alpha1", "kind": "ClusterMigration",
            "metadata": {"name": name}, "spec": spec,
        });
        let (status, answer) = self.kubectl(Method::POST, (namespace, ""), body).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
    }

    /// `kubectl patch` of an object's spec in `team-shop`.
    pub async fn patch(&self, name: &str, spec: Value) {
        let place = ("team-shop", name);
        let (status, answer) = self.kubectl(Method::PATCH, place, json!({"spec": spec})).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }

    /// `kubectl delete --wait=false` of an object in `team-shop`.
    pub async fn kubectl_delete(&self, name: &str) {
        let (status, answer) = self.kubectl(Method::DELETE, ("team-shop", name), json!({})).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }

    /// An object of `team-shop`; null if there is none.
    pub fn object(&self, name: &str) -> Value {
        self.kube().object("clustermigrations", "team-shop", name).unwrap_or_default()
    }

    /// All objects of all namespaces.
    pub fn objects(&self) -> Vec<Value> {
        self.kube().objects("clustermigrations")
    }

    /// Where each migration is.
    pub async fn phases(&self) -> Vec<Phase> {
        let page = PageRequest::new(Some(MAX_LIMIT), None);
        let caller = &self.ask.caller;
        let found = zcp::app::migrations::list(&self.app, caller, (None, None), &page).await;
        found.expect("migrations").items.iter().map(|view| view.row.phase).collect()
    }

    /// Status and reason of a condition of an object, and its message.
    pub fn condition(&self, (namespace, name): (&str, &str), kind: &str) -> [String; 3] {
        let found = self.kube().object("clustermigrations", namespace, name).unwrap_or_default();
        let conditions = found["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let one = conditions.into_iter().find(|one| one["type"] == kind).unwrap_or_default();
        ["status", "reason", "message"]
            .map(|field| one[field].as_str().unwrap_or_default().to_owned())
    }
}
