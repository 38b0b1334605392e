//! Offerings: a Kubernetes version and an addon-manager version of one minor.
//!
//! This is the least of it: the catalog with verification, environments and expiry grows here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::canary::PortSpec;
use super::field::FieldErrors;
use super::version::Version;

/// What an operator offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OfferingSpec {
    /// Version of Kubernetes.
    #[schema(value_type = String, example = "1.36.2")]
    pub kubernetes_version: Version,
    /// Version of the addon manager; its minor is that of Kubernetes.
    #[schema(value_type = String, example = "1.36.0")]
    pub addon_manager_version: Version,
    /// Image by name of the cloud; a cloud without an entry is searched for the image whose
    /// property `kubernetes_version` is right.
    #[serde(default)]
    pub images: BTreeMap<String, String>,
    /// Manifests of the CNI (YAML, many documents), applied when a cluster is created.
    pub cni_manifest: String,
    /// Ports that the CNI needs from node to node, such as `udp/8472`; canaries try them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cni_ports: Vec<PortSpec>,
    /// DaemonSets (`namespace/name`) that must be Ready on a node before it counts as usable.
    #[serde(default)]
    pub node_daemons: Vec<String>,
}

/// Longest CNI manifest: a ConfigMap's worth.
const MANIFEST_MAX: usize = 1 << 20;

/// Most ports of a CNI: the busiest of them needs six.
const PORTS_MAX: usize = 20;

impl OfferingSpec {
    /// Checks all that can be known without a cloud.
    pub fn check(&self) -> FieldErrors {
        let mut errors = FieldErrors::default();
        if !self.kubernetes_version.pairs_with(self.addon_manager_version) {
            errors.push(
                "addon_manager_version",
                format!("must be a {} version, as Kubernetes is", self.kubernetes_version.series()),
            );
        }
        if self.cni_manifest.trim().is_empty() || self.cni_manifest.len() > MANIFEST_MAX {
            errors.push("cni_manifest", "must be YAML of at most 1 MiB, and not empty");
        }
        if self.cni_ports.len() > PORTS_MAX {
            errors.push("cni_ports", format!("must be at most {PORTS_MAX}"));
        }
        for (n, daemon) in self.node_daemons.iter().enumerate() {
            let good = daemon.split_once('/').is_some_and(|(ns, name)| {
                !ns.is_empty() && !name.is_empty() && !name.contains('/')
            });
            if !good {
                errors.push(format!("node_daemons[{n}]"), "must be NAMESPACE/NAME of a DaemonSet");
            }
        }
        errors
    }
}
