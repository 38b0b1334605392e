//! Signs of harm while nodes are drained: pods without a node, workloads below their number.

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1 as core;

use super::ClusterClient;
use super::call::Call;
use super::pods;
use crate::domain::outside::OutsideError;
use crate::domain::pod::{PendingPod, WorkloadView};

impl ClusterClient {
    /// Pods that have found no node.
    pub async fn pending_pods(&self) -> Result<Vec<PendingPod>, OutsideError> {
        let call = Call::get("list pending pods", "/api/v1/pods")
            .query("fieldSelector", "status.phase=Pending");
        let found: Vec<core::Pod> = self.list(&call).await?;
        Ok(found.iter().filter_map(pending).collect())
    }

    /// Wanted and available replicas of all Deployments and StatefulSets.
    pub async fn workloads(&self) -> Result<Vec<WorkloadView>, OutsideError> {
        let call = Call::get("list deployments", "/apis/apps/v1/deployments");
        let deployments: Vec<Deployment> = self.list(&call).await?;
        let call = Call::get("list stateful sets", "/apis/apps/v1/statefulsets");
        let sets: Vec<StatefulSet> = self.list(&call).await?;
        let mut views: Vec<WorkloadView> = deployments.into_iter().map(deployment).collect();
        views.extend(sets.into_iter().map(stateful_set));
        Ok(views)
    }
}

fn pending(pod: &core::Pod) -> Option<PendingPod> {
    let spec = pod.spec.as_ref()?;
    if spec.node_name.as_deref().is_some_and(|node| !node.is_empty()) {
        return None;
    }
    Some(PendingPod {
        pod: pods::reference(pod)?,
        owner: pods::owner_name(pod),
        created_at: pods::created_at(pod),
        message: pods::condition(pod, "PodScheduled")
            .and_then(|condition| condition.message.clone()),
    })
}

fn deployment(found: Deployment) -> WorkloadView {
    WorkloadView {
        kind: "Deployment".to_owned(),
        namespace: found.metadata.namespace.unwrap_or_default(),
        name: found.metadata.name.unwrap_or_default(),
        wanted: count(Some(found.spec.and_then(|spec| spec.replicas).unwrap_or(1))),
        available: count(found.status.and_then(|status| status.available_replicas)),
    }
}

fn stateful_set(found: StatefulSet) -> WorkloadView {
    WorkloadView {
        kind: "StatefulSet".to_owned(),
        namespace: found.metadata.namespace.unwrap_or_default(),
        name: found.metadata.name.unwrap_or_default(),
        wanted: count(Some(found.spec.and_then(|spec| spec.replicas).unwrap_or(1))),
        available: count(found.status.and_then(|status| status.available_replicas)),
    }
}

fn count(number: Option<i32>) -> u32 {
    u32::try_from(number.unwrap_or(0)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::kubernetes::call::tests::{Script, ok};

    #[tokio::test]
    async fn only_pods_without_a_node_are_pending() {
        let waiting = json!({
            "metadata": {"namespace": "shop", "name": "a", "uid": "a"},
            "spec": {"containers": []},
            "status": {"phase": "Pending", "conditions": [
                {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"},
            ]},
        });
        let starting = json!({
            "metadata": {"namespace": "shop", "name": "b", "uid": "b"},
            "spec": {"containers": [], "nodeName": "n-1"},
        });
        let script = Script::new(vec![ok(json!({"items": [waiting, starting]}))]);
        let pending = script.client().pending_pods().await.unwrap();
        assert_eq!(
            script.lines(),
            ["GET /api/v1/pods?fieldSelector=status.phase%3DPending&limit=500"]
        );
        assert_eq!(pending.len(), 1);
        assert_eq!(pending[0].message.as_deref(), Some("0/3 nodes are available"));
    }

    #[tokio::test]
    async fn a_workload_that_does_not_say_wants_one_replica() {
        let template = json!({"metadata": {}, "spec": {"containers": []}});
        let deployment = json!({
            "metadata": {"namespace": "shop", "name": "web"},
            "spec": {"selector": {}, "template": template},
            "status": {},
        });
        let set = json!({
            "metadata": {"namespace": "shop", "name": "db"},
            "spec": {"replicas": 3, "selector": {}, "template": template, "serviceName": "db"},
            "status": {"replicas": 3, "availableReplicas": 2},
        });
        let script =
            Script::new(vec![ok(json!({"items": [deployment]})), ok(json!({"items": [set]}))]);
        let views = script.client().workloads().await.unwrap();
        let counts: Vec<_> = views.iter().map(|view| (view.wanted, view.available)).collect();
        assert_eq!(counts, [(1, 0), (3, 2)]);
    }
}
