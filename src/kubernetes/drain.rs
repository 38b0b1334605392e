//! Emptying a node: its pods, and what the API server says to an eviction.
//!
//! The body of an eviction is our own: kube 5 writes the options under `delete_options`, which the
//! API server ignores, and with them the UID that protects a later pod of the same name.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{StreamExt as _, TryStreamExt as _};
use http::Method;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::core::Status;
use serde_json::json;

use super::ClusterClient;
use super::call::{Answer, Call, is_other_object};
use super::pods;
use crate::domain::outside::{OutsideError, absent_is_done};
use crate::domain::pod::{BudgetView, ClaimView, PodRef, PodView};

/// Pods asked for in one page. A node runs 110 by default.
const PAGE: &str = "100";
/// Nodes whose pods are listed at once.
const PARALLEL: usize = 5;
/// Label by which volumes of one node name it.
const HOSTNAME: &str = "kubernetes.io/hostname";

/// What the API server said to an eviction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EvictionAnswer {
    /// The pod is terminating now.
    Accepted,
    /// There is no such pod.
    Gone,
    /// Another pod bears the name by now: ours is gone.
    OtherPod,
    /// A disruption budget forbids it for the time being.
    Budget {
        /// The API server's words, with the budget's name.
        message: String,
        /// Given only while the budget is still being computed.
        retry_after: Option<Duration>,
    },
    /// The API server has too much to do.
    RateLimited {
        /// How long it asks us to wait.
        retry_after: Option<Duration>,
    },
    /// More than one budget selects the pod: no retry heals that, its owner must.
    TwoBudgets {
        /// The API server's words.
        message: String,
    },
    /// The namespace is being deleted: the pod goes with it, wait.
    NamespaceTerminating,
    /// A webhook refused, perhaps on purpose (it moves data first): wait as for a budget.
    WebhookDenied {
        /// The webhook's words.
        message: String,
    },
    /// A webhook did not answer: a fault of the cluster, which its owner must see.
    WebhookBroken {
        /// The API server's words.
        message: String,
    },
    /// Nothing is known against a repetition.
    Retry {
        /// The API server's words.
        message: String,
    },
}

/// Whether an eviction is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Earnest {
    /// It is carried out.
    Real,
    /// The API server only says what it would do now.
    Rehearsal,
}

impl ClusterClient {
    /// Asks the API server to evict one pod. `grace` overrides the pod's own grace period.
    ///
    /// An error is a failure of the call itself; an eviction names its pod by UID, so it may be
    /// repeated after `Unclear`.
    pub async fn evict(
        &self,
        pod: &PodRef,
        grace: Option<Duration>,
        earnest: Earnest,
    ) -> Result<EvictionAnswer, OutsideError> {
        let mut options = json!({"preconditions": {"uid": pod.uid}});
        if let Some(grace) = grace {
            options["gracePeriodSeconds"] = json!(grace.as_secs());
        }
        let body = json!({
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"namespace": pod.namespace, "name": pod.name},
            "deleteOptions": options,
        });
        let path = format!("{}/eviction", path(pod));
        let mut call = Call::new("evict pod", Method::POST, path).json(body);
        if earnest == Earnest::Rehearsal {
            call = call.query("dryRun", "All");
        }
        let answer = self.send(&call).await?;
        read_answer(&answer).ok_or_else(|| call.refusal(&answer))
    }

    /// Deletes one pod without asking its budget: for finished pods and forced drains.
    ///
    /// A pod that is gone, or whose name another bears, is success.
    pub async fn delete_pod(
        &self,
        pod: &PodRef,
        grace: Option<Duration>,
    ) -> Result<(), OutsideError> {
        let mut options = json!({"preconditions": {"uid": pod.uid}});
        if let Some(grace) = grace {
            options["gracePeriodSeconds"] = json!(grace.as_secs());
        }
        let call = Call::new("delete pod", Method::DELETE, path(pod)).json(options);
        match self.expect(&call).await {
            Err(error) if error.status == Some(409) => Ok(()),
            other => absent_is_done(other.map(|_| ())),
        }
    }

    /// All pods of a node, with what a drain must know about them.
    pub async fn pods_on(&self, node: &str) -> Result<Vec<PodView>, OutsideError> {
        Ok(self.pods_of(&[node]).await?.remove(node).unwrap_or_default())
    }

    /// All pods of each of these nodes. Besides the pods of each node, each kind is listed once.
    pub async fn pods_of(
        &self,
        nodes: &[&str],
    ) -> Result<BTreeMap<String, Vec<PodView>>, OutsideError> {
        type List<'a> = BoxFuture<'a, Result<(&'a str, Vec<core::Pod>), OutsideError>>;
        let mut lists: Vec<List<'_>> = vec![];
        for node in nodes {
            let call = Call::get("list pods of node", "/api/v1/pods")
                .query("fieldSelector", format!("spec.nodeName={node}"))
                .query("limit", PAGE);
            lists.push(Box::pin(async move { Ok((*node, self.list(&call).await?)) }));
        }
        let found: Vec<(&str, Vec<core::Pod>)> =
            futures::stream::iter(lists).buffered(PARALLEL).try_collect().await?;
        let pods = || found.iter().flat_map(|(_, pods)| pods);
        let mut living = BTreeSet::new();
        if pods().any(pods::is_daemon) {
            living = self.daemon_set_uids().await?;
        }
        let mut claims = BTreeMap::new();
        if pods().any(|pod| !pods::claim_names(pod).is_empty()) {
            claims = self.claims().await?;
        }
        let view = |pod: &core::Pod| {
            let mut view = pods::view(pod, &living)?;
            view.claims = pods::claim_names(pod)
                .into_iter()
                .map(|name| {
                    let key = (view.pod.namespace.clone(), name.clone());
                    claims.get(&key).cloned().unwrap_or_else(|| unbound(name))
                })
                .collect();
            Some(view)
        };
        let views = found
            .iter()
            .map(|(node, pods)| ((*node).to_owned(), pods.iter().filter_map(view).collect()));
        Ok(views.collect())
    }

    async fn daemon_set_uids(&self) -> Result<BTreeSet<String>, OutsideError> {
        let call = Call::get("list daemon sets", "/apis/apps/v1/daemonsets");
        let sets: Vec<DaemonSet> = self.list_cached(call).await?;
        Ok(sets.into_iter().filter_map(|set| set.metadata.uid).collect())
    }

    /// Every claim with its volume, by namespace and name.
    async fn claims(&self) -> Result<BTreeMap<(String, String), ClaimView>, OutsideError> {
        let call = Call::get("list volumes", "/api/v1/persistentvolumes");
        let volumes: Vec<core::PersistentVolume> = self.list(&call).await?;
        let volumes: BTreeMap<String, core::PersistentVolumeSpec> = volumes
            .into_iter()
            .filter_map(|volume| Some((volume.metadata.name?, volume.spec?)))
            .collect();
        let call = Call::get("list claims", "/api/v1/persistentvolumeclaims");
        let claims: Vec<core::PersistentVolumeClaim> = self.list(&call).await?;
        let view = |claim: core::PersistentVolumeClaim| {
            let (namespace, name) = (claim.metadata.namespace?, claim.metadata.name?);
            let bound =
                claim.spec.and_then(|spec| spec.volume_name).filter(|name| !name.is_empty());
            let spec = bound.as_ref().and_then(|name| volumes.get(name));
            let csi = spec.and_then(|spec| spec.csi.as_ref());
            let view = ClaimView {
                driver: csi.map(|csi| csi.driver.clone()),
                handle: csi.map(|csi| csi.volume_handle.clone()),
                is_node_bound: spec.is_some_and(is_node_bound),
                volume: bound,
                name: name.clone(),
            };
            Some(((namespace, name), view))
        };
        Ok(claims.into_iter().filter_map(view).collect())
    }

    /// Names of the volumes that are attached to each of these nodes: by VolumeAttachment, listed
    /// once, and by the status of each node.
    pub async fn attached_to(
        &self,
        nodes: &[&str],
    ) -> Result<BTreeMap<String, BTreeSet<String>>, OutsideError> {
        let call = Call::get("list attachments", "/apis/storage.k8s.io/v1/volumeattachments");
        let attachments: Vec<VolumeAttachment> = self.list(&call).await?;
        let mut found = BTreeMap::new();
        for node in nodes {
            let path = format!("/api/v1/nodes/{node}");
            let object: Option<core::Node> = self.find(&Call::get("read node", path)).await?;
            let status = object.and_then(|node| node.status);
            let by_status = status.and_then(|status| status.volumes_attached).unwrap_or_default();
            let mut volumes: BTreeSet<String> =
                by_status.into_iter().map(|volume| volume.name).collect();
            for attachment in attachments.iter().filter(|one| one.spec.node_name == *node) {
                let volume = attachment.spec.source.persistent_volume_name.clone();
                volumes.extend(volume.or_else(|| attachment.metadata.name.clone()));
            }
            found.insert((*node).to_owned(), volumes);
        }
        Ok(found)
    }

    /// The disruption budgets of a namespace, or of all.
    pub async fn budgets(&self, namespace: Option<&str>) -> Result<Vec<BudgetView>, OutsideError> {
        let path = match namespace {
            Some(namespace) => {
                format!("/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets")
            }
            None => "/apis/policy/v1/poddisruptionbudgets".to_owned(),
        };
        let found: Vec<PodDisruptionBudget> = self.list(&Call::get("list budgets", path)).await?;
        Ok(found.into_iter().map(budget).collect())
    }
}

fn unbound(name: String) -> ClaimView {
    ClaimView { name, volume: None, driver: None, handle: None, is_node_bound: false }
}

fn budget(found: PodDisruptionBudget) -> BudgetView {
    let status = found.status.unwrap_or_default();
    let count = |number: i32| u32::try_from(number).unwrap_or(0);
    let selector = found.spec.and_then(|spec| spec.selector);
    let plain =
        selector.filter(|selector| selector.match_expressions.as_ref().is_none_or(Vec::is_empty));
    BudgetView {
        namespace: found.metadata.namespace.unwrap_or_default(),
        name: found.metadata.name.unwrap_or_default(),
        wanted: count(status.desired_healthy),
        current: count(status.current_healthy),
        allowed: count(status.disruptions_allowed),
        selects: plain.map(|selector| selector.match_labels.unwrap_or_default()),
    }
}

fn path(pod: &PodRef) -> String {
    format!("/api/v1/namespaces/{}/pods/{}", pod.namespace, pod.name)
}

/// Whether a volume names its node by hostname, as local volumes do.
fn is_node_bound(volume: &core::PersistentVolumeSpec) -> bool {
    let required = volume.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref());
    let terms = required.map(|required| required.node_selector_terms.as_slice());
    let named = terms.unwrap_or_default().iter().any(|term| {
        let expressions = term.match_expressions.iter().flatten();
        expressions.into_iter().any(|expression| expression.key == HOSTNAME)
    });
    named || volume.local.is_some() || volume.host_path.is_some()
}

/// What an answer to an eviction means; `None` for refusals that have nothing to do with it.
fn read_answer(answer: &Answer) -> Option<EvictionAnswer> {
    if answer.status.is_success() {
        return Some(EvictionAnswer::Accepted);
    }
    let status = answer.kubernetes_status().unwrap_or_default();
    let message = status.message.clone();
    // Webhooks answer with any status they like, so they are told by the API server's words.
    if message.contains("failed calling webhook") {
        return Some(EvictionAnswer::WebhookBroken { message });
    }
    if message.contains("admission webhook") && message.contains("denied the request") {
        return Some(EvictionAnswer::WebhookDenied { message });
    }
    let retry_after = answer.retry_after();
    match answer.status.as_u16() {
        404 => Some(EvictionAnswer::Gone),
        409 if is_other_object(&message) => Some(EvictionAnswer::OtherPod),
        429 if has_cause(&status, "DisruptionBudget") => {
            Some(EvictionAnswer::Budget { message: budget_words(&status), retry_after })
        }
        429 => Some(EvictionAnswer::RateLimited { retry_after }),
        403 if has_cause(&status, "NamespaceTerminating") => {
            Some(EvictionAnswer::NamespaceTerminating)
        }
        500 if message.contains("more than one PodDisruptionBudget") => {
            Some(EvictionAnswer::TwoBudgets { message })
        }
        409 | 500.. => Some(EvictionAnswer::Retry { message }),
        _ => None,
    }
}

fn causes(status: &Status) -> &[kube::core::response::StatusCause] {
    status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default()
}

fn has_cause(status: &Status, reason: &str) -> bool {
    causes(status).iter().any(|cause| cause.reason == reason)
}

/// The message of the budget's own cause says which budget and by how much.
fn budget_words(status: &Status) -> String {
    let cause = causes(status).iter().find(|cause| cause.reason == "DisruptionBudget");
    match cause {
        Some(cause) if !cause.message.is_empty() => cause.message.clone(),
        _ => status.message.clone(),
    }
}

#[cfg(test)]
#[path = "drain_tests.rs"]
mod tests;
