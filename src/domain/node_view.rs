//! What a tenant cluster says about one of its nodes.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Start of every provider id that we give: `openstack:///<server uuid>`.
const PROVIDER_PREFIX: &str = "openstack:///";

/// One node as its API server shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeView {
    /// Name of the Node object.
    pub name: String,
    /// UID of the Node object; another node of the same name has another one.
    pub uid: String,
    /// `spec.providerID`; it never changes once set.
    pub provider_id: Option<String>,
    /// `status.nodeInfo.systemUUID`, in lower case: the DMI uuid, which is the server's id.
    pub system_uuid: Option<String>,
    /// The Ready condition.
    pub readiness: Readiness,
    /// Whether the scheduler leaves it alone.
    pub is_unschedulable: bool,
    /// Who of us cordoned it (annotation `zcp.io/cordoned-by`); absent if somebody else did.
    pub cordoned_by: Option<String>,
    /// All labels.
    pub labels: BTreeMap<String, String>,
    /// All taints.
    pub taints: Vec<Taint>,
    /// All annotations.
    pub annotations: BTreeMap<String, String>,
    /// We told an autoscaler to leave it alone.
    pub is_kept: bool,
    /// Such as `v1.36.2`.
    pub kubelet_version: String,
    /// InternalIP addresses.
    pub addresses: Vec<String>,
    /// Range of its pods, once it was given one.
    pub pod_cidr: Option<String>,
    /// When the Node object was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

impl NodeView {
    /// Uuid of the server behind this node: by provider id, else by system uuid, never by name.
    pub fn server_id(&self) -> Option<&str> {
        match &self.provider_id {
            Some(id) => id.strip_prefix(PROVIDER_PREFIX),
            None => self.system_uuid.as_deref(),
        }
    }

    /// Name and UID, for calls that must not touch a later node of the same name.
    pub fn reference(&self) -> NodeRef {
        NodeRef { name: self.name.clone(), uid: self.uid.clone() }
    }

    /// Whether a taint with this key is on the node.
    pub fn has_taint(&self, key: &str) -> bool {
        self.taints.iter().any(|taint| taint.key == key)
    }
}

/// The provider id of a server, as the boot script hands it to the kubelet.
pub fn provider_id(server: &str) -> String {
    format!("{PROVIDER_PREFIX}{server}")
}

/// One particular Node object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeRef {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// The Ready condition of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Readiness {
    /// The kubelet says it can run pods.
    Ready,
    /// The kubelet says it cannot.
    NotReady,
    /// Nobody has heard of the kubelet lately, or it never spoke.
    Unknown,
}

/// A taint of a node or of a pool.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Taint {
    /// Label key grammar.
    pub key: String,
    /// Label value grammar; may be left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// What it does to pods that do not tolerate it.
    pub effect: TaintEffect,
}

impl fmt::Display for Taint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value}:{}", self.key, self.effect.as_str()),
            None => write!(f, "{}:{}", self.key, self.effect.as_str()),
        }
    }
}

/// What a taint does.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
pub enum TaintEffect {
    /// New pods stay away.
    NoSchedule,
    /// New pods stay away if they can.
    PreferNoSchedule,
    /// Running pods leave too.
    NoExecute,
}

impl TaintEffect {
    /// As Kubernetes spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoSchedule => "NoSchedule",
            Self::PreferNoSchedule => "PreferNoSchedule",
            Self::NoExecute => "NoExecute",
        }
    }

    /// Reads Kubernetes' spelling; `None` for an effect that we do not know.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::NoSchedule, Self::PreferNoSchedule, Self::NoExecute]
            .into_iter()
            .find(|effect| effect.as_str() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(provider: Option<&str>, system: Option<&str>) -> NodeView {
        NodeView {
            name: "n".into(),
            uid: "u".into(),
            provider_id: provider.map(Into::into),
            system_uuid: system.map(Into::into),
            readiness: Readiness::Ready,
            is_unschedulable: false,
            cordoned_by: None,
            labels: BTreeMap::new(),
            taints: vec![],
            annotations: BTreeMap::new(),
            is_kept: false,
            kubelet_version: "v1.36.2".into(),
            addresses: vec![],
            pod_cidr: None,
            created_at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_node_belongs_to_the_server_of_its_provider_id_before_its_system_uuid() {
        assert_eq!(node(Some("openstack:///a"), Some("b")).server_id(), Some("a"));
        assert_eq!(node(None, Some("b")).server_id(), Some("b"));
        assert_eq!(node(Some("aws:///x"), Some("b")).server_id(), None);
        assert_eq!(node(None, None).server_id(), None);
    }

    #[test]
    fn taints_print_as_kubectl_writes_them() {
        let mut taint =
            Taint { key: "gpu".into(), value: Some("yes".into()), effect: TaintEffect::NoExecute };
        assert_eq!(taint.to_string(), "gpu=yes:NoExecute");
        taint.value = None;
        assert_eq!(taint.to_string(), "gpu:NoExecute");
        assert_eq!(TaintEffect::parse("PreferNoSchedule"), Some(TaintEffect::PreferNoSchedule));
        assert_eq!(TaintEffect::parse("noschedule"), None);
    }
}
