//! Nodes: list, cordon, labels and taints of the pool, deletion.
//!
//! A node may be cordoned by its owner too. We mark our own cordons by the annotation
//! [`CORDONED_BY`], change a cordon only together with that mark and under the resource version
//! that we read, and lift only what bears our mark.

use std::collections::{BTreeMap, BTreeSet};

use http::Method;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1 as core;
use serde_json::{Value, json};

use super::ClusterClient;
use super::call::{Call, is_other_object};
use super::pods::is_ready;
use crate::domain::node_view::{NodeRef, NodeView, Readiness, Taint, TaintEffect};
use crate::domain::outside::{OutsideError, OutsideKind};

/// Annotation that says who of us cordoned a node, such as a migration's id.
pub const CORDONED_BY: &str = "zcp.io/cordoned-by";
/// Annotation that lists the taints that we manage, so that one dropped from a pool is taken off
/// its nodes while taints of others stay.
pub const MANAGED_TAINTS: &str = "zcp.io/managed-taints";
/// Annotation by which a cluster autoscaler is told to leave a node alone.
const KEEP: &str = "cluster-autoscaler.kubernetes.io/scale-down-disabled";
/// Annotation that says that [`KEEP`] is ours: an owner's own stays.
const KEPT_BY: &str = "zcp.io/scale-down-disabled";
/// How often a change is tried when others write the node at the same time. Kubelets patch the
/// status every few seconds at most, so a second try nearly always passes.
const TRIES: u32 = 4;

/// What a cordon found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cordon {
    /// We cordoned it now.
    Cordoned,
    /// It bears this mark already.
    AlreadyOurs,
    /// It was cordoned before, by somebody else or under another mark: left as it was.
    AlreadyCordoned,
}

/// What lifting a cordon found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uncordon {
    /// Our cordon is lifted.
    Uncordoned,
    /// It does not bear this mark: left as it was.
    NotOurs,
}

/// A DaemonSet that every usable node must run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DaemonRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Where a DaemonSet is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonView {
    /// Which one.
    pub daemon: DaemonRef,
    /// Whether the cluster has it.
    pub exists: bool,
    /// Nodes on which one of its pods is Ready.
    pub ready_on: BTreeSet<String>,
}

impl ClusterClient {
    /// All nodes, from the API server's cache.
    pub async fn list_nodes(&self) -> Result<Vec<NodeView>, OutsideError> {
        let nodes: Vec<core::Node> =
            self.list_cached(Call::get("list nodes", "/api/v1/nodes")).await?;
        Ok(nodes.iter().filter_map(view).collect())
    }

    /// One node, as it is stored now.
    pub async fn node(&self, name: &str) -> Result<Option<NodeView>, OutsideError> {
        let node: Option<core::Node> = self.find(&Call::get("read node", path(name))).await?;
        Ok(node.as_ref().and_then(view))
    }

    /// Cordons a node under a mark, unless it is cordoned already.
    pub async fn cordon(&self, node: &NodeRef, mark: &str) -> Result<Cordon, OutsideError> {
        let result = self
            .change(node, "cordon node", |current| {
                let spec = current.spec.as_ref();
                if !spec.and_then(|spec| spec.unschedulable).unwrap_or(false) {
                    let patch = json!({
                        "metadata": {"annotations": {CORDONED_BY: mark}},
                        "spec": {"unschedulable": true},
                    });
                    return Change::Patch(patch, Cordon::Cordoned);
                }
                Change::Leave(if annotation(current, CORDONED_BY) == Some(mark) {
                    Cordon::AlreadyOurs
                } else {
                    Cordon::AlreadyCordoned
                })
            })
            .await?;
        Ok(result)
    }

    /// Lifts the cordon that bears this mark.
    pub async fn uncordon(&self, node: &NodeRef, mark: &str) -> Result<Uncordon, OutsideError> {
        self.change(node, "uncordon node", |current| {
            if annotation(current, CORDONED_BY) == Some(mark) {
                let patch = json!({
                    "metadata": {"annotations": {CORDONED_BY: null}},
                    "spec": {"unschedulable": null},
                });
                Change::Patch(patch, Uncordon::Uncordoned)
            } else {
                Change::Leave(Uncordon::NotOurs)
            }
        })
        .await
    }

    /// Gives a node exactly these labels and taints of ours; those of others stay.
    ///
    /// Labels are applied server-side, so one that is no longer wanted goes, unless the kubelet set
    /// it too when it registered.
    pub async fn apply_labels_taints(
        &self,
        node: &NodeRef,
        labels: &BTreeMap<String, String>,
        taints: &[Taint],
    ) -> Result<(), OutsideError> {
        // Without the uid an apply would create a node that is gone.
        let body = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": node.name, "uid": node.uid, "labels": labels},
        });
        let call = Call::new("label node", Method::PATCH, path(&node.name)).apply(body);
        self.expect(&call).await.map_err(other_node_is_absent)?;
        self.change(node, "taint node", |current| match taint_patch(current, taints) {
            Some(patch) => Change::Patch(patch, ()),
            None => Change::Leave(()),
        })
        .await
    }

    /// Has a cluster autoscaler leave a node alone.
    pub async fn keep_from_autoscaler(&self, node: &NodeRef) -> Result<(), OutsideError> {
        self.change(node, "keep node", |current| {
            if is_kept(current) {
                return Change::Leave(());
            }
            let annotations = json!({KEEP: "true", KEPT_BY: "true"});
            Change::Patch(json!({"metadata": {"annotations": annotations}}), ())
        })
        .await
    }

    /// Takes that back; what an owner set stays.
    pub async fn leave_to_autoscaler(&self, node: &NodeRef) -> Result<(), OutsideError> {
        self.change(node, "leave node", |current| {
            if annotation(current, KEPT_BY).is_none() {
                return Change::Leave(());
            }
            let annotations = json!({KEEP: null, KEPT_BY: null});
            Change::Patch(json!({"metadata": {"annotations": annotations}}), ())
        })
        .await
    }

    /// Deletes a Node object; `Absent` if it, or this one of its name, is gone.
    pub async fn delete_node(&self, node: &NodeRef) -> Result<(), OutsideError> {
        let call = Call::new("delete node", Method::DELETE, path(&node.name))
            .json(json!({"preconditions": {"uid": node.uid}}));
        match self.expect(&call).await {
            Ok(_) => Ok(()),
            Err(error) if error.status == Some(409) => {
                Err(OutsideError { kind: OutsideKind::Absent, ..error })
            }
            Err(error) => Err(error),
        }
    }

    /// On which nodes each of these DaemonSets has a Ready pod.
    pub async fn ready_daemons(
        &self,
        daemons: &[DaemonRef],
    ) -> Result<Vec<DaemonView>, OutsideError> {
        let mut views = vec![];
        for daemon in daemons {
            let ready_on = self.daemon_nodes(daemon).await?;
            views.push(DaemonView {
                daemon: daemon.clone(),
                exists: ready_on.is_some(),
                ready_on: ready_on.unwrap_or_default(),
            });
        }
        Ok(views)
    }

    async fn daemon_nodes(
        &self,
        daemon: &DaemonRef,
    ) -> Result<Option<BTreeSet<String>>, OutsideError> {
        let DaemonRef { namespace, name } = daemon;
        let path = format!("/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}");
        let found: Option<DaemonSet> = self.find(&Call::get("read daemon set", path)).await?;
        let Some(set) = found else { return Ok(None) };
        let selector = set.spec.map(|spec| spec.selector.match_labels.unwrap_or_default());
        let selector: Vec<String> = selector
            .unwrap_or_default()
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let call = Call::get("list daemon pods", format!("/api/v1/namespaces/{namespace}/pods"))
            .query("labelSelector", selector.join(","));
        let pods: Vec<core::Pod> = self.list_cached(call).await?;
        let owned = |pod: &core::Pod| {
            let owners = pod.metadata.owner_references.iter().flatten();
            owners.into_iter().any(|owner| Some(&owner.uid) == set.metadata.uid.as_ref())
        };
        let ready = pods.into_iter().filter(|pod| owned(pod) && is_ready(pod));
        Ok(Some(ready.filter_map(|pod| pod.spec?.node_name).collect()))
    }

    /// Reads a node, decides, and patches it under the version that was read.
    pub(super) async fn change<T>(
        &self,
        node: &NodeRef,
        operation: &'static str,
        decide: impl Fn(&core::Node) -> Change<T> + Send,
    ) -> Result<T, OutsideError> {
        let mut tries = 1;
        loop {
            let read = Call::get(operation, path(&node.name));
            let current: core::Node = self.read(&read).await?;
            if current.metadata.uid.as_deref() != Some(&node.uid) {
                return Err(read.error(OutsideKind::Absent, "another node bears this name now"));
            }
            let (mut patch, outcome) = match decide(&current) {
                Change::Leave(outcome) => return Ok(outcome),
                Change::Patch(patch, outcome) => (patch, outcome),
            };
            patch["metadata"]["resourceVersion"] = json!(current.metadata.resource_version);
            let call = Call::new(operation, Method::PATCH, path(&node.name)).merge_patch(patch);
            match self.expect(&call).await {
                Ok(_) => return Ok(outcome),
                Err(error) if error.status == Some(409) && tries < TRIES => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }
}

/// What comes of reading a node.
pub(super) enum Change<T> {
    /// Nothing is written.
    Leave(T),
    /// This is written over the version that was read.
    Patch(Value, T),
}

/// A refused apply that tells of another node (422) or of none (409).
fn other_node_is_absent(error: OutsideError) -> OutsideError {
    if is_other_object(&error.message) {
        OutsideError { kind: OutsideKind::Absent, ..error }
    } else {
        error
    }
}

fn path(node: &str) -> String {
    format!("/api/v1/nodes/{node}")
}

/// Whether we told an autoscaler to leave the node alone.
fn is_kept(node: &core::Node) -> bool {
    annotation(node, KEPT_BY).is_some() && annotation(node, KEEP) == Some("true")
}

fn annotation<'a>(node: &'a core::Node, key: &str) -> Option<&'a str> {
    node.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The patch that gives a node our taints; `None` if it has them.
fn taint_patch(node: &core::Node, wanted: &[Taint]) -> Option<Value> {
    let current: Vec<core::Taint> =
        node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let managed: BTreeSet<&str> =
        annotation(node, MANAGED_TAINTS).unwrap_or_default().split(',').collect();
    let wanted_names: BTreeSet<String> =
        wanted.iter().map(|taint| managed_name(&taint.key, taint.effect.as_str())).collect();
    let is_ours = |taint: &core::Taint| {
        let name = managed_name(&taint.key, &taint.effect);
        managed.contains(name.as_str()) || wanted_names.contains(&name)
    };
    let mut taints: Vec<core::Taint> =
        current.iter().filter(|taint| !is_ours(taint)).cloned().collect();
    taints.extend(wanted.iter().map(to_kubernetes));
    let names = wanted_names.iter().map(String::as_str).collect::<Vec<_>>().join(",");
    let names_stand = annotation(node, MANAGED_TAINTS).unwrap_or_default() == names;
    if names_stand && same_taints(&current, &taints) {
        return None;
    }
    let names = if names.is_empty() { Value::Null } else { json!(names) };
    Some(json!({
        "metadata": {"annotations": {MANAGED_TAINTS: names}},
        "spec": {"taints": taints},
    }))
}

/// A taint is known by key and effect; its value may change.
fn managed_name(key: &str, effect: &str) -> String {
    format!("{key}:{effect}")
}

pub(super) fn to_kubernetes(taint: &Taint) -> core::Taint {
    core::Taint {
        key: taint.key.clone(),
        value: taint.value.clone(),
        effect: taint.effect.as_str().to_owned(),
        time_added: None,
    }
}

/// Whether both hold the same taints, in any order and whenever they were added.
fn same_taints(a: &[core::Taint], b: &[core::Taint]) -> bool {
    let set = |taints: &[core::Taint]| -> BTreeSet<(String, String, String)> {
        let parts = |taint: &core::Taint| {
            (taint.key.clone(), taint.effect.clone(), taint.value.clone().unwrap_or_default())
        };
        taints.iter().map(parts).collect()
    };
    set(a) == set(b)
}

/// Our view of a node. One without a name or UID was not answered by an API server.
fn view(node: &core::Node) -> Option<NodeView> {
    let metadata = &node.metadata;
    let spec = node.spec.clone().unwrap_or_default();
    let status = node.status.clone().unwrap_or_default();
    let info = status.node_info.as_ref();
    let internal =
        |address: core::NodeAddress| (address.type_ == "InternalIP").then_some(address.address);
    Some(NodeView {
        name: metadata.name.clone()?,
        uid: metadata.uid.clone()?,
        provider_id: spec.provider_id.filter(|id| !id.is_empty()),
        system_uuid: info
            .map(|info| info.system_uuid.to_lowercase())
            .filter(|uuid| !uuid.is_empty()),
        readiness: readiness(status.conditions.as_deref().unwrap_or_default()),
        is_unschedulable: spec.unschedulable.unwrap_or(false),
        cordoned_by: annotation(node, CORDONED_BY).map(ToOwned::to_owned),
        labels: metadata.labels.clone().unwrap_or_default(),
        taints: spec.taints.unwrap_or_default().into_iter().filter_map(taint).collect(),
        annotations: metadata.annotations.clone().unwrap_or_default(),
        is_kept: is_kept(node),
        kubelet_version: info.map(|info| info.kubelet_version.clone()).unwrap_or_default(),
        addresses: status.addresses.unwrap_or_default().into_iter().filter_map(internal).collect(),
        pod_cidr: spec.pod_cidr.filter(|cidr| !cidr.is_empty()),
        created_at: metadata
            .creation_timestamp
            .as_ref()
            .map_or(Timestamp::UNIX_EPOCH, |time| time.0),
    })
}

fn taint(taint: core::Taint) -> Option<Taint> {
    Some(Taint {
        effect: TaintEffect::parse(&taint.effect)?,
        key: taint.key,
        value: taint.value.filter(|value| !value.is_empty()),
    })
}

fn readiness(conditions: &[core::NodeCondition]) -> Readiness {
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready");
    match ready.map(|condition| condition.status.as_str()) {
        Some("True") => Readiness::Ready,
        Some("False") => Readiness::NotReady,
        _ => Readiness::Unknown,
    }
}

#[cfg(test)]
#[path = "nodes_tests.rs"]
mod tests;
