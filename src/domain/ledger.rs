//! The ledger of a node: labels, taints and annotations that owners put on it, beyond its pool's.
//!
//! A node that takes another's place is given what the other had, so that nothing vanishes when
//! nodes are re-created. What the system writes on nodes is not carried, since it is about the
//! machine, and the new machine is given its own:
//!
//! - everything in the domains `kubernetes.io`, `k8s.io` (kubelet, controllers, CSI, kubeadm),
//!   `zcp.io` (ours), and of the common CNIs ([`SYSTEM_DOMAINS`]), but not what owners write there:
//!   `node-role.kubernetes.io`, `node-restriction.kubernetes.io` and [`OWNERS_KEYS`];
//! - what discovers hardware writes ([`SYSTEM_PREFIXES`]), and the autoscaler's marks of deletion;
//! - labels and taints of the pool, which every node of it has anyway.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::node_view::{NodeView, Taint};

/// Domains in which the system writes; subdomains too.
const SYSTEM_DOMAINS: [&str; 10] = [
    "kubernetes.io",
    "k8s.io",
    "zcp.io",
    "projectcalico.org",
    "coreos.com",
    "cilium.io",
    "ovn.org",
    "weave.works",
    "antrea.io",
    "node.openstack.org",
];
/// Domains within those in which owners write.
const OWNERS_DOMAINS: [&str; 2] = ["node-role.kubernetes.io", "node-restriction.kubernetes.io"];
/// Keys within those that owners write.
const OWNERS_KEYS: [&str; 3] = [
    "node.kubernetes.io/exclude-from-external-load-balancers",
    "node.kubernetes.io/exclude-disruption",
    "cluster-autoscaler.kubernetes.io/scale-down-disabled",
];
/// How keys begin that discovery of hardware and a CNI write.
const SYSTEM_PREFIXES: [&str; 6] = [
    "nvidia.com/gpu.",
    "nvidia.com/cuda",
    "nvidia.com/gfd",
    "io.cilium.",
    "ToBeDeletedByClusterAutoscaler",
    "DeletionCandidateOfClusterAutoscaler",
];
/// Most entries of a kind; more than any node was seen with.
const ENTRIES_MAX: usize = 100;
/// Longest value of an annotation; what is longer is a program's state and not an owner's word.
const VALUE_MAX: usize = 4096;
/// How much of a value people are shown.
const SHOWN_MAX: usize = 80;

/// What owners put on one node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ledger {
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Taints.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<Taint>,
    /// Annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Entries that are too many or too long to be carried.
    #[serde(skip_serializing_if = "is_zero")]
    pub left_out: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// What became of a ledger on the node that was given it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LedgerDiff {
    /// What is on the new node as it was on the old one.
    pub carried: Vec<String>,
    /// What is not there: not carried yet, or taken off since, or too long.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// What is there with another value, which was left as it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<String>,
}

impl Ledger {
    /// What owners put on a node, beyond these labels and taints of its pool.
    pub fn of(view: &NodeView, (labels, taints): (&BTreeMap<String, String>, &[Taint])) -> Self {
        let is_pools = |taint: &Taint| {
            taints.iter().any(|one| one.key == taint.key && one.effect == taint.effect)
        };
        let mut ledger = Self {
            labels: view.labels.clone(),
            taints: view.taints.iter().filter(|taint| !is_pools(taint)).cloned().collect(),
            annotations: view.annotations.clone(),
            left_out: 0,
        };
        ledger.labels.retain(|key, _| is_owners(key) && !labels.contains_key(key));
        ledger.taints.retain(|taint| is_owners(&taint.key));
        ledger.taints.sort();
        ledger.annotations.retain(|key, _| is_owners(key));
        ledger.cut();
        ledger
    }

    fn cut(&mut self) {
        let before = self.labels.len() + self.taints.len() + self.annotations.len();
        self.annotations.retain(|_, value| value.len() <= VALUE_MAX);
        for map in [&mut self.labels, &mut self.annotations] {
            while map.len() > ENTRIES_MAX {
                map.pop_last();
            }
        }
        self.taints.truncate(ENTRIES_MAX);
        let after = self.labels.len() + self.taints.len() + self.annotations.len();
        self.left_out = u32::try_from(before - after).unwrap_or(u32::MAX);
    }

    /// Whether there is nothing to carry.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.taints.is_empty() && self.annotations.is_empty()
    }

    /// What became of this ledger, seen what owners' entries the new node has.
    pub fn diff(&self, on: &Self) -> LedgerDiff {
        let mut diff = LedgerDiff::default();
        for (word, mine, there) in [
            ("label", &self.labels, &on.labels),
            ("annotation", &self.annotations, &on.annotations),
        ] {
            for (key, value) in mine {
                let line = format!("{word} {key}={}", shown(value));
                match there.get(key) {
                    Some(same) if same == value => diff.carried.push(line),
                    Some(other) => diff.conflicts.push(format!("{line}, there {}", shown(other))),
                    None => diff.missing.push(line),
                }
            }
        }
        for taint in &self.taints {
            let line = format!("taint {taint}");
            let there = on.taints.iter().find(|t| t.key == taint.key && t.effect == taint.effect);
            match there {
                Some(same) if same == taint => diff.carried.push(line),
                Some(other) => diff.conflicts.push(format!("{line}, there {other}")),
                None => diff.missing.push(line),
            }
        }
        if self.left_out > 0 {
            diff.missing.push(format!("{} entries that are too many or too long", self.left_out));
        }
        diff
    }
}

/// Whether an owner wrote a key, and not the system.
fn is_owners(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let within = |outer: &str| {
        domain == outer || domain.strip_suffix(outer).is_some_and(|rest| rest.ends_with('.'))
    };
    if OWNERS_KEYS.contains(&key) || OWNERS_DOMAINS.iter().any(|outer| within(outer)) {
        return true;
    }
    !SYSTEM_DOMAINS.iter().any(|outer| within(outer))
        && !SYSTEM_PREFIXES.iter().any(|prefix| key.starts_with(prefix))
}

fn shown(value: &str) -> String {
    if value.chars().count() <= SHOWN_MAX {
        return value.to_owned();
    }
    format!("{}...", value.chars().take(SHOWN_MAX).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::node_view::TaintEffect;

    #[test]
    fn what_owners_write_is_told_from_what_the_system_writes() {
        for owners in [
            "team",
            "disk",
            "shop.example/rack",
            "node-role.kubernetes.io/ingress",
            "node-restriction.kubernetes.io/tenant",
            "node.kubernetes.io/exclude-from-external-load-balancers",
            "cluster-autoscaler.kubernetes.io/scale-down-disabled",
            "mykubernetes.io/x",
        ] {
            assert!(is_owners(owners), "{owners}");
        }
        for systems in [
            "kubernetes.io/hostname",
            "beta.kubernetes.io/arch",
            "topology.kubernetes.io/zone",
            "node.kubernetes.io/instance-type",
            "node.kubernetes.io/not-ready",
            "csi.volume.kubernetes.io/nodeid",
            "volumes.kubernetes.io/controller-managed-attach-detach",
            "kubeadm.alpha.kubernetes.io/cri-socket",
            "zcp.io/pool",
            "projectcalico.org/IPv4Address",
            "flannel.alpha.coreos.com/backend-data",
            "network.cilium.io/ipv4-pod-cidr",
            "feature.node.kubernetes.io/cpu-cpuid.AVX",
            "nvidia.com/gpu.product",
            "ToBeDeletedByClusterAutoscaler",
        ] {
            assert!(!is_owners(systems), "{systems}");
        }
    }

    #[test]
    fn a_diff_names_what_was_carried_what_is_missing_and_what_stood_there() {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let taint = |value: &str| Taint {
            key: "gpu".into(),
            value: Some(value.into()),
            effect: TaintEffect::NoSchedule,
        };
        let old = Ledger {
            labels: map(&[("disk", "ssd"), ("rack", "7"), ("team", "a")]),
            taints: vec![taint("yes")],
            ..Ledger::default()
        };
        let new = Ledger {
            labels: map(&[("rack", "9"), ("team", "a")]),
            taints: vec![taint("yes")],
            ..Ledger::default()
        };
        let diff = old.diff(&new);
        assert_eq!(diff.carried, ["label team=a", "taint gpu=yes:NoSchedule"]);
        assert_eq!(diff.missing, ["label disk=ssd"]);
        assert_eq!(diff.conflicts, ["label rack=7, there 9"]);
    }
}
