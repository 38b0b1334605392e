//! What canaries try.

use serde::{Deserialize, Serialize};

/// What canaries try besides their cluster; empty: it is not tried.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Canary {
    /// URL of the registry that images come from. Default: that of kubeadm's own images.
    pub registry: Option<String>,
    /// Names that every node must resolve, with commas between. Default: that registry's.
    pub names: Option<String>,
    /// Time server, or `local`: whether the node's clock is in step with any. Default `local`.
    pub time: Option<String>,
    /// Image, with a shell and `chroot`, of the pod that tries the way back from an old node.
    /// Default: agnhost of the Kubernetes project.
    pub probe_image: Option<String>,
}

impl Canary {
    /// The names, one by one.
    pub fn names(&self) -> Option<Vec<String>> {
        let names = self.names.as_ref()?.split(',').map(str::trim);
        Some(names.filter(|name| !name.is_empty()).map(str::to_owned).collect())
    }
}
