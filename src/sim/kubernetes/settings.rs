//! How a simulated cluster behaves.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::state;

/// Settings of one cluster; they do not change while it lives, except for its version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KubeSettings {
    /// The API server's version, without the `v`.
    pub version: String,
    /// What makes uids, names and tie-breaks of this cluster its own.
    pub seed: u64,
    /// From a kubelet's start to Ready.
    pub node_ready_delay: Duration,
    /// From a pod's binding to Ready.
    pub pod_ready_delay: Duration,
    /// From a pod's deletion to its end, if its grace period is not shorter.
    pub pod_stop_delay: Duration,
    /// From a pod's end to the detaching of its volumes.
    pub detach_delay: Duration,
    /// Silence after which a node is Unknown. 50 s is the node lifecycle controller's default.
    pub node_grace: Duration,
    /// How long pods tolerate an unreachable node unless they say otherwise (300 s by default).
    pub unreachable_toleration_seconds: i64,
    /// The range that nodes get their pod ranges from.
    pub pod_cidr: String,
    /// Idle time after which the state is kept in its compact form.
    pub sleep_after: Duration,
    /// Container images that each kubelet reports; they are most of a real Node object.
    pub node_images: u32,
}

impl Default for KubeSettings {
    fn default() -> Self {
        Self {
            version: "1.36.2".to_owned(),
            seed: 1,
            node_ready_delay: Duration::from_secs(10),
            pod_ready_delay: Duration::from_secs(5),
            pod_stop_delay: Duration::from_secs(3),
            detach_delay: Duration::from_secs(2),
            node_grace: Duration::from_secs(50),
            unreachable_toleration_seconds: 300,
            pod_cidr: "10.244.0.0/16".to_owned(),
            sleep_after: Duration::from_mins(2),
            node_images: 0,
        }
    }
}

impl KubeSettings {
    /// The first address of the pod range.
    pub(super) fn pod_network(&self) -> Ipv4Addr {
        let network = self.pod_cidr.split('/').next().unwrap_or("");
        network.parse().unwrap_or(Ipv4Addr::new(10, 244, 0, 0))
    }

    /// How long a pod with this grace period takes to stop.
    pub(super) fn stop_within(&self, grace: i64) -> jiff::SignedDuration {
        state::span(self.pod_stop_delay).min(jiff::SignedDuration::from_secs(grace))
    }

    /// Major and minor version, as `/version` tells them.
    pub(super) fn minor(&self) -> (&str, &str) {
        let mut parts = self.version.split('.');
        (parts.next().unwrap_or("1"), parts.next().unwrap_or("0"))
    }
}
