//! What tenants do in their clusters, and what the clusters say of themselves.

use std::sync::Arc;

use axum::body::Body;
use http::{Method, Request};
use serde_json::{Value, json};
use sqlx::Row as _;
use tower::ServiceExt as _;
use zcp::app::preflights::NewWaiver;
use zcp::clock::Ids as _;
use zcp::domain::ids::{ClusterId, MigrationId, PreflightId};
use zcp::domain::insight::{InsightId, Level};
use zcp::sim::kubernetes::KubeCluster;
use zcp::worker::Driver;

use super::world::TestWorld;

impl TestWorld {
    /// Workers that are Ready and not cordoned, as the cluster itself says.
    pub fn serving(&self, cluster: ClusterId) -> usize {
        let Some(kube) = self.kube_of(cluster) else { return 0 };
        let nodes = kube.objects("nodes");
        let serves = |node: &&Value| {
            let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let is_ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
            is_ready
                && node["spec"]["unschedulable"] != json!(true)
                && !node["metadata"]["labels"]["zcp.io/pool"].is_null()
        };
        nodes.iter().filter(serves).count()
    }

    /// Nodes that bear a cordon.
    pub fn cordons(&self, cluster: ClusterId) -> usize {
        let Some(kube) = self.kube_of(cluster) else { return 0 };
        let nodes = kube.objects("nodes");
        nodes.iter().filter(|node| node["spec"]["unschedulable"] == json!(true)).count()
    }

    /// The simulated cluster behind one of ours, found by its servers' marks.
    pub fn kube_of(&self, cluster: ClusterId) -> Option<Arc<KubeCluster>> {
        let id = cluster.to_string();
        let truth = self.sim.truth();
        let vip = truth.ports.iter().find(|port| {
            port.description.contains(&id) && port.description.contains("zcp.role=vip")
        })?;
        self.sim.kube(&format!("{}:6443", vip.addresses.first()?))
    }

    /// Sends a request to the cluster's API as its administrator; it must succeed.
    pub async fn ask_kube(&self, cluster: ClusterId, (method, path, body): (Method, &str, Value)) {
        let status = self.try_kube(cluster, (method, path, body)).await;
        assert!(status.is_success(), "{path}: {status}");
    }

    /// Sends a request to the cluster's API as its administrator.
    pub async fn try_kube(
        &self,
        cluster: ClusterId,
        (method, path, body): (Method, &str, Value),
    ) -> http::StatusCode {
        let kube = self.kube_of(cluster).expect("an API");
        let content_type = match method {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content_type)
            .body(Body::from(body.to_string()))
            .expect("a request");
        let clock: zcp::clock::SharedClock = self.db.clock.clone();
        let answer = kube.router(clock).oneshot(request).await.expect("an answer");
        answer.status()
    }

    /// A Deployment with a budget, as a tenant has it.
    pub async fn deploy(&self, cluster: ClusterId, (replicas, available): (u32, u32)) {
        let labels = json!({"app": "web"});
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {"containers": [{"name": "web", "image": "web:1"}]},
                },
            },
        });
        let path = "/apis/apps/v1/namespaces/default/deployments";
        self.ask_kube(cluster, (Method::POST, path, deployment)).await;
        let budget = json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"minAvailable": available, "selector": {"matchLabels": labels}},
        });
        let path = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
        self.ask_kube(cluster, (Method::POST, path, budget)).await;
    }

    /// Waits until the preflight of a migration names `insight` as a BLOCK, and waives it.
    pub async fn waive(&self, driver: &Driver, (id, insight): (MigrationId, &str)) {
        let row = sqlx::query("SELECT preflight_id FROM migrations WHERE id = $1").bind(id);
        let row = row.fetch_one(self.db.store.pool()).await.expect("a migration");
        let preflight: PreflightId = row.get(0);
        let insight: InsightId = insight.into();
        let what = format!("{insight} is found");
        self.settle(driver, &what, async |world| {
            let row = zcp::store::preflights::find(world.db.store.pool(), preflight).await;
            let row = row.expect("the database answers").expect("a preflight");
            row.insights.iter().any(|one| one.id == insight && one.level == Level::Block)
        })
        .await;
        let new = NewWaiver {
            insight: &insight,
            reason: "a test wants it",
            expires_at: self.db.now() + jiff::SignedDuration::from_hours(24),
        };
        let waived = zcp::app::preflights::waive(&self.app, &self.ask, preflight, new).await;
        waived.expect("it can be waived");
    }

    /// Pods of [`Self::deploy`] that are Ready.
    pub fn ready_pods(&self, cluster: ClusterId) -> usize {
        let Some(kube) = self.kube_of(cluster) else { return 0 };
        let is_ready = |pod: &&Value| {
            let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
            pod["metadata"]["labels"]["app"] == "web"
                && conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
        };
        kube.objects("pods").iter().filter(is_ready).count()
    }

    /// An owner puts a label on one worker; it is known when this returns.
    pub async fn label_one(&self, driver: &Driver, cluster: ClusterId) {
        let name = self.worker_names(cluster).pop().expect("a worker");
        let path = format!("/api/v1/nodes/{name}");
        let body = json!({"metadata": {"labels": {"disk": "ssd"}}});
        self.ask_kube(cluster, (Method::PATCH, &path, body)).await;
        self.settle(driver, "the label is known", async |world| {
            let row = sqlx::query("SELECT count(*) FROM nodes WHERE ledger <> '{}'");
            let row = row.fetch_one(world.db.store.pool()).await.expect("nodes");
            sqlx::Row::get::<i64, _>(&row, 0) == 1
        })
        .await;
    }

    /// How many nodes bear that label.
    pub fn labelled(&self, cluster: ClusterId) -> usize {
        let nodes = self.kube_of(cluster).expect("an API").objects("nodes");
        nodes.iter().filter(|node| node["metadata"]["labels"]["disk"] == "ssd").count()
    }

    /// Names of the cluster's workers, as it says itself.
    pub fn worker_names(&self, cluster: ClusterId) -> Vec<String> {
        let nodes = self.kube_of(cluster).map(|kube| kube.objects("nodes")).unwrap_or_default();
        let is_worker = |node: &&Value| !node["metadata"]["labels"]["zcp.io/pool"].is_null();
        let name = |node: &Value| node["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        nodes.iter().filter(is_worker).map(name).collect()
    }

    /// Makes a port with our marks that belongs to no node, as a replica's late call does.
    pub fn plant_orphan_port(&self, cluster: ClusterId) {
        let description = format!(
            "zcp.install={} zcp.cluster={cluster} zcp.node={}",
            self.given.install,
            self.db.ids.uuid()
        );
        let planted = self.sim.with_cloud("east", |cloud, now| {
            let network = cloud.network.networks.iter().find(|one| one.name == "kaas");
            let network = network.expect("the tenant network").id;
            let project = cloud.network.ports.values().next().expect("a port").project_id.clone();
            let port = cloud.make_port(network, &project, now).expect("a free address");
            cloud.network.ports.get_mut(&port).expect("just made").description = description;
        });
        planted.expect("a cloud called east");
    }
}
