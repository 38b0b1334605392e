//! Emptying a node: its pods, and what the API server says to an eviction.
//!
//! The body of an eviction is our own: kube 5 writes the options under `delete_options`, which the
//! API server ignores, and with them the UID that protects a later pod of the same name.

use std::collections::BTreeSet;
use std::time::Duration;

use http::Method;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1 as core;
use kube::core::Status;
use serde_json::json;

use super::ClusterClient;
use super::call::{Answer, Call, is_other_object};
use super::pods;
use crate::domain::outside::{OutsideError, absent_is_done};
use crate::domain::pod::{ClaimView, PodRef, PodView};

/// Pods asked for in one page. A node runs 110 by default.
const PAGE: &str = "100";
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
        let call = Call::get("list pods of node", "/api/v1/pods")
            .query("fieldSelector", format!("spec.nodeName={node}"))
            .query("limit", PAGE);
        let found: Vec<core::Pod> = self.list(&call).await?;
        let living = if found.iter().any(pods::is_daemon) {
            self.daemon_set_uids().await?
        } else {
            BTreeSet::new()
        };
        let mut views = vec![];
        for pod in &found {
            if let Some(mut view) = pods::view(pod, &living) {
                view.claims = self.claims(&view.pod.namespace, pods::claim_names(pod)).await?;
                views.push(view);
            }
        }
        Ok(views)
    }

    async fn daemon_set_uids(&self) -> Result<BTreeSet<String>, OutsideError> {
        let call = Call::get("list daemon sets", "/apis/apps/v1/daemonsets");
        let sets: Vec<DaemonSet> = self.list_cached(call).await?;
        Ok(sets.into_iter().filter_map(|set| set.metadata.uid).collect())
    }

    async fn claims(
        &self,
        namespace: &str,
        names: Vec<String>,
    ) -> Result<Vec<ClaimView>, OutsideError> {
        let mut views = vec![];
        for name in names {
            let path = format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}");
            let claim: Option<core::PersistentVolumeClaim> =
                self.find(&Call::get("read claim", path)).await?;
            let bound = claim.and_then(|claim| claim.spec?.volume_name);
            let volume = match &bound {
                Some(volume) => self.volume(volume).await?,
                None => None,
            };
            views.push(ClaimView {
                name,
                volume: bound,
                driver: volume
                    .as_ref()
                    .and_then(|spec| spec.csi.as_ref())
                    .map(|csi| csi.driver.clone()),
                is_node_bound: volume.as_ref().is_some_and(is_node_bound),
            });
        }
        Ok(views)
    }

    async fn volume(&self, name: &str) -> Result<Option<core::PersistentVolumeSpec>, OutsideError> {
        let path = format!("/api/v1/persistentvolumes/{name}");
        let volume: Option<core::PersistentVolume> =
            self.find(&Call::get("read volume", path)).await?;
        Ok(volume.and_then(|volume| volume.spec))
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
