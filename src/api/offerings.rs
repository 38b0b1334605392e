//! Offerings: a Kubernetes version and an addon-manager version of one minor.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::canary::PortSpec;
use crate::domain::ids::OfferingId;
use crate::domain::offering::OfferingSpec;
use crate::domain::version::Version;

/// Adds an offering.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewOffering {
    /// Name, unique; default: the version of Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 63)]
    pub name: Option<String>,
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
    /// Ports that the CNI needs from node to node, such as `udp/8472`: canaries try them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cni_ports: Vec<PortSpec>,
    /// DaemonSets (`namespace/name`) that must be Ready on a node before it counts as usable.
    #[serde(default)]
    pub node_daemons: Vec<String>,
}

impl NewOffering {
    /// What is offered.
    pub fn spec(&self) -> OfferingSpec {
        OfferingSpec {
            kubernetes_version: self.kubernetes_version,
            addon_manager_version: self.addon_manager_version,
            images: self.images.clone(),
            cni_manifest: self.cni_manifest.clone(),
            cni_ports: self.cni_ports.clone(),
            node_daemons: self.node_daemons.clone(),
        }
    }
}

/// An offering.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Offering {
    /// Its id.
    pub id: OfferingId,
    /// Its name.
    pub name: String,
    /// Version of Kubernetes.
    #[schema(value_type = String, example = "1.36.2")]
    pub kubernetes_version: Version,
    /// Version of the addon manager.
    #[schema(value_type = String, example = "1.36.0")]
    pub addon_manager_version: Version,
    /// Image by name of the cloud.
    pub images: BTreeMap<String, String>,
    /// Ports that the CNI needs from node to node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cni_ports: Vec<PortSpec>,
    /// DaemonSets that must be Ready on a node before it counts as usable.
    pub node_daemons: Vec<String>,
    /// Manifests of the CNI. Left out in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cni_manifest: Option<String>,
    /// When it was added.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}
