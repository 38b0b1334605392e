//! Faults that a test or an operator of the simulation switches on.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::autoscaler::Autoscaler;
use super::object;
use super::refusal::Refusal;
use super::selector::LabelSelector;

/// All faults of one cluster; everything is well by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Faults {
    /// The API server does not answer: connections are cut, in process the answer is 503.
    pub is_api_down: bool,
    /// Time (of the real clock) that each request takes longer.
    pub latency: Duration,
    /// Answers that replace the real ones.
    pub answers: Vec<PlannedAnswer>,
    /// A validating webhook refuses every eviction with these words.
    pub eviction_denied: Option<String>,
    /// Pods that run but never become ready.
    pub never_ready: Vec<PodMatch>,
    /// Pods that never finish terminating.
    pub stuck: Vec<PodMatch>,
    /// Nodes whose kubelets the API server does not reach.
    pub silent_kubelets: BTreeSet<String>,
    /// Pods that use up their whole grace period to stop.
    pub slow_to_stop: Vec<PodMatch>,
    /// The webhook that is asked about evictions does not answer, and its policy is to fail.
    pub is_eviction_webhook_down: bool,
    /// How long a volume takes to be detached, instead of the cluster's setting.
    pub detach_takes: Option<Duration>,
    /// An autoscaler runs in the cluster.
    pub autoscaler: Option<Autoscaler>,
}

/// An answer for the next few requests of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedAnswer {
    /// `list`, `patch` and so on; any verb when absent.
    pub verb: Option<String>,
    /// `nodes`, `pods/eviction` and so on; any resource when absent.
    pub resource: Option<String>,
    /// How many more requests get it.
    pub remaining: u32,
    /// The HTTP status to answer.
    pub status: u16,
    /// Seconds in `Retry-After`, if one shall be sent.
    pub retry_after: Option<u32>,
    /// Whether the request takes effect before it is answered like this.
    pub when: AnswerTime,
}

/// Whether a planned answer replaces the work or only its answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AnswerTime {
    /// Nothing is done.
    #[default]
    Instead,
    /// The work is done, and its answer is lost.
    After,
}

/// Which pods a fault is for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodMatch {
    /// Only in this namespace.
    pub namespace: Option<String>,
    /// Only those whose names begin like this.
    pub name_prefix: String,
    /// Only those with these labels, written like `app=web,tier!=front`.
    pub labels: String,
    /// Only those on this node.
    pub node: Option<String>,
}

impl PodMatch {
    fn matches(&self, pod: &Value) -> bool {
        self.namespace.as_deref().is_none_or(|namespace| namespace == object::namespace(pod))
            && object::name(pod).starts_with(&self.name_prefix)
            && self.node.as_deref().is_none_or(|node| node == object::text(pod, "/spec/nodeName"))
            && LabelSelector::parse(&self.labels)
                .is_ok_and(|selector| selector.matches(object::labels(pod)))
    }
}

impl Faults {
    pub(super) fn is_never_ready(&self, pod: &Value) -> bool {
        self.never_ready.iter().any(|which| which.matches(pod))
    }

    pub(super) fn is_stuck(&self, pod: &Value) -> bool {
        self.stuck.iter().any(|which| which.matches(pod))
    }

    pub(super) fn is_slow_to_stop(&self, pod: &Value) -> bool {
        self.slow_to_stop.iter().any(|which| which.matches(pod))
    }

    /// Takes the planned answer for this request, if there is one.
    pub(super) fn take_answer(&mut self, verb: &str, resource: &str) -> Option<PlannedAnswer> {
        let at = self.answers.iter().position(|answer| {
            answer.verb.as_deref().is_none_or(|wanted| wanted == verb)
                && answer.resource.as_deref().is_none_or(|wanted| wanted == resource)
        })?;
        self.answers[at].remaining = self.answers[at].remaining.saturating_sub(1);
        if self.answers[at].remaining == 0 {
            return Some(self.answers.remove(at));
        }
        Some(self.answers[at].clone())
    }
}

impl PlannedAnswer {
    /// The next `count` requests of this verb and resource are answered with `status`.
    pub fn instead(verb: &str, resource: &str, status: u16, count: u32) -> Self {
        Self {
            verb: Some(verb.to_owned()),
            resource: Some(resource.to_owned()),
            remaining: count,
            status,
            retry_after: None,
            when: AnswerTime::Instead,
        }
    }

    pub(super) fn refusal(&self) -> Refusal {
        let (reason, message) = match self.status {
            401 => ("Unauthorized", "Unauthorized"),
            403 => ("Forbidden", "forbidden: fault of the simulation"),
            408 | 504 => ("Timeout", "the request did not complete within the allotted timeout"),
            409 => ("Conflict", "Operation cannot be fulfilled: fault of the simulation"),
            429 => ("TooManyRequests", "the server has received too many requests"),
            503 => ("ServiceUnavailable", "the server is currently unable to handle the request"),
            _ => ("InternalError", "Internal error occurred: fault of the simulation"),
        };
        let mut refusal = Refusal::new(self.status, reason, message);
        if let Some(seconds) = self.retry_after {
            refusal.details = serde_json::json!({"retryAfterSeconds": seconds});
        }
        refusal
    }
}
