//! The few fields of each kind that a survey reads.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Deserialize;

use super::survey::{is_host, is_zone, labels, required_keys};
use crate::domain::pod::DRAIN_LABEL;
use crate::domain::survey::{
    BudgetFacts, PodFacts, Selector, ServiceFacts, VolumeFacts, WebhookFacts, WorkloadFacts,
};

/// Annotation of pods that mirror a static pod.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Name of the volumes of the Cinder driver that was once built in.
const IN_TREE_CINDER: &str = "kubernetes.io/cinder";

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    namespace: String,
    name: String,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<Owner>>,
    deletion_timestamp: Option<String>,
}

#[derive(Deserialize)]
struct Owner {
    kind: String,
    #[serde(default)]
    controller: bool,
}

/// A pod.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct PodItem {
    metadata: Meta,
    spec: PodSpec,
    status: PodStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    node_name: Option<String>,
    node_selector: Option<BTreeMap<String, String>>,
    affinity: Option<core::Affinity>,
    topology_spread_constraints: Option<Vec<Spread>>,
    volumes: Option<Vec<core::Volume>>,
    termination_grace_period_seconds: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spread {
    topology_key: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodStatus {
    phase: String,
    conditions: Option<Vec<Condition>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Condition {
    r#type: String,
    status: String,
}

impl PodItem {
    /// The pod, unless it is finished.
    pub(super) fn facts(self) -> Option<PodFacts> {
        if matches!(self.status.phase.as_str(), "Succeeded" | "Failed") {
            return None;
        }
        let Self { metadata, spec, status } = self;
        let node = spec.node_name.clone().filter(|node| !node.is_empty());
        let volumes = spec.volumes.as_deref().unwrap_or_default();
        let pod_labels = labels(metadata.labels);
        let is_mirror = metadata.annotations.is_some_and(|all| all.contains_key(MIRROR));
        let owners = metadata.owner_references.unwrap_or_default();
        Some(PodFacts {
            stays: is_mirror || pod_labels.get(DRAIN_LABEL).is_some_and(|wish| wish == "skip"),
            controller: owners.into_iter().find(|owner| owner.controller).map(|owner| owner.kind),
            is_ready: status.conditions.is_some_and(|all| {
                all.iter().any(|one| one.r#type == "Ready" && one.status == "True")
            }),
            is_pending: node.is_none() && metadata.deletion_timestamp.is_none(),
            node,
            labels: pod_labels,
            claims: volumes.iter().filter_map(|one| claim(&metadata.name, one)).collect(),
            empty_dirs: volumes
                .iter()
                .filter_map(|one| one.empty_dir.as_ref())
                .filter(|one| one.medium.as_deref() != Some("Memory"))
                .map(|one| one.size_limit.as_ref().map(|limit| limit.0.clone()))
                .collect(),
            host_paths: volumes
                .iter()
                .filter_map(|one| one.host_path.as_ref())
                .map(|one| one.path.clone())
                .collect(),
            is_pinned: spec.keys().any(is_host),
            has_zones: spec.keys().any(is_zone) || spec.spreads().any(is_zone),
            grace_seconds: spec.termination_grace_period_seconds.unwrap_or(30),
            namespace: metadata.namespace,
            name: metadata.name,
        })
    }
}

impl PodSpec {
    /// Labels of nodes that decide where the pod may run.
    fn keys(&self) -> impl Iterator<Item = &str> {
        let selector = self.node_selector.iter().flat_map(|one| one.keys().map(String::as_str));
        let affinity = self.affinity.as_ref().and_then(|one| one.node_affinity.as_ref());
        let required = affinity
            .and_then(|one| one.required_during_scheduling_ignored_during_execution.as_ref());
        selector.chain(required_keys(required).map(|(key, _)| key))
    }

    /// Labels of nodes over which the pod is spread, or with which it goes together.
    fn spreads(&self) -> impl Iterator<Item = &str> {
        let spread = self.topology_spread_constraints.iter().flatten();
        let affinity = self.affinity.as_ref();
        let near = affinity
            .and_then(|one| one.pod_affinity.as_ref())
            .and_then(|one| one.required_during_scheduling_ignored_during_execution.as_deref());
        let far = affinity
            .and_then(|one| one.pod_anti_affinity.as_ref())
            .and_then(|one| one.required_during_scheduling_ignored_during_execution.as_deref());
        let terms = near.unwrap_or_default().iter().chain(far.unwrap_or_default());
        spread
            .map(|one| one.topology_key.as_str())
            .chain(terms.map(|term| term.topology_key.as_str()))
    }
}

fn claim(pod: &str, volume: &core::Volume) -> Option<String> {
    match &volume.persistent_volume_claim {
        Some(claim) => Some(claim.claim_name.clone()),
        None => volume.ephemeral.as_ref().map(|_| format!("{pod}-{}", volume.name)),
    }
}

/// A persistent volume.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct VolumeItem {
    metadata: Meta,
    spec: core::PersistentVolumeSpec,
}

impl VolumeItem {
    pub(super) fn facts(self) -> VolumeFacts {
        let required = self.spec.node_affinity.as_ref().and_then(|one| one.required.as_ref());
        let zones = required_keys(required).filter(|(key, _)| is_zone(key));
        let is_local = self.spec.local.is_some()
            || self.spec.host_path.is_some()
            || required_keys(required).any(|(key, _)| is_host(key));
        VolumeFacts {
            is_local,
            zones: zones.flat_map(|(_, values)| values.iter().cloned()).collect(),
            driver: match (&self.spec.csi, &self.spec.cinder) {
                (Some(csi), _) => Some(csi.driver.clone()),
                (None, Some(_)) => Some(IN_TREE_CINDER.to_owned()),
                (None, None) => None,
            },
            name: self.metadata.name,
        }
    }
}

/// A claim.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct ClaimItem {
    metadata: Meta,
    spec: ClaimSpec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClaimSpec {
    volume_name: Option<String>,
}

impl ClaimItem {
    pub(super) fn bound(self) -> Option<((String, String), String)> {
        let volume = self.spec.volume_name.filter(|name| !name.is_empty())?;
        Some(((self.metadata.namespace, self.metadata.name), volume))
    }
}

/// A disruption budget.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct BudgetItem {
    metadata: Meta,
    spec: BudgetSpec,
    status: BudgetStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct BudgetSpec {
    selector: Option<LabelSelector>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct BudgetStatus {
    disruptions_allowed: i32,
    current_healthy: i32,
    expected_pods: i32,
}

impl BudgetItem {
    pub(super) fn facts(self) -> BudgetFacts {
        BudgetFacts {
            namespace: self.metadata.namespace,
            name: self.metadata.name,
            selector: self.spec.selector.map_or_else(nothing, selector),
            allowed: self.status.disruptions_allowed,
            healthy: self.status.current_healthy,
            expected: self.status.expected_pods,
        }
    }
}

/// A budget without a selector protects nothing.
fn nothing() -> Selector {
    Selector {
        labels: BTreeMap::new(),
        expressions: vec![(String::new(), "Exists".to_owned(), Vec::new())],
    }
}

fn selector(of: LabelSelector) -> Selector {
    let expressions = of.match_expressions.unwrap_or_default().into_iter();
    Selector {
        labels: labels(of.match_labels),
        expressions: expressions
            .map(|one| (one.key, one.operator, one.values.unwrap_or_default()))
            .collect(),
    }
}

/// A Deployment, StatefulSet or DaemonSet.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct WorkloadItem {
    metadata: Meta,
    spec: WorkloadSpec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct WorkloadSpec {
    replicas: Option<u32>,
    template: Template,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Template {
    metadata: Meta,
    spec: TemplateSpec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TemplateSpec {
    containers: Vec<core::Container>,
}

impl WorkloadItem {
    pub(super) fn facts(self, kind: &str) -> WorkloadFacts {
        let containers = self.spec.template.spec.containers;
        let is_regional = |one: &core::Container| {
            one.env.iter().flatten().any(|variable| {
                variable.name == "OS_CCM_REGIONAL" && variable.value.as_deref() == Some("true")
            })
        };
        WorkloadFacts {
            kind: kind.to_owned(),
            namespace: self.metadata.namespace,
            name: self.metadata.name,
            replicas: if kind == "DaemonSet" { 0 } else { self.spec.replicas.unwrap_or(1) },
            labels: labels(self.spec.template.metadata.labels),
            is_regional: containers.iter().any(is_regional),
            images: containers.iter().filter_map(|one| one.image.clone()).collect(),
            args: containers
                .iter()
                .flat_map(|one| one.command.iter().chain(&one.args).flatten().cloned())
                .collect(),
        }
    }
}

/// A Service.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct ServiceItem {
    metadata: Meta,
    spec: ServiceSpec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ServiceSpec {
    r#type: String,
    selector: Option<BTreeMap<String, String>>,
}

impl ServiceItem {
    pub(super) fn facts(self) -> ServiceFacts {
        ServiceFacts {
            namespace: self.metadata.namespace,
            name: self.metadata.name,
            is_balanced: self.spec.r#type == "LoadBalancer",
            selector: self.spec.selector.filter(|selector| !selector.is_empty()),
        }
    }
}

/// A configuration of webhooks, validating or mutating.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct WebhooksItem {
    metadata: Meta,
    webhooks: Vec<WebhookItem>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WebhookItem {
    name: String,
    failure_policy: Option<String>,
    client_config: ClientConfig,
    rules: Vec<Rule>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ClientConfig {
    service: Option<ServiceRef>,
}

#[derive(Deserialize)]
struct ServiceRef {
    namespace: String,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Rule {
    operations: Vec<String>,
    resources: Vec<String>,
}

impl WebhooksItem {
    pub(super) fn facts(self) -> Vec<WebhookFacts> {
        let configuration = self.metadata.name;
        self.webhooks
            .into_iter()
            .map(|one| WebhookFacts {
                name: format!("{configuration}/{}", one.name),
                // Fail is the API server's default.
                must_answer: one.failure_policy.as_deref() != Some("Ignore"),
                judges_pods: one.rules.iter().any(Rule::judges_pods),
                service: one.client_config.service.map(|one| (one.namespace, one.name)),
            })
            .collect()
    }
}

impl Rule {
    fn judges_pods(&self) -> bool {
        let creates = self.operations.iter().any(|one| one == "*" || one == "CREATE");
        let pods = |one: &String| {
            matches!(one.as_str(), "*" | "*/*" | "pods" | "pods/*" | "pods/eviction")
        };
        creates && self.resources.iter().any(pods)
    }
}

/// A NetworkPolicy.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct PolicyItem {
    metadata: Meta,
    spec: PolicySpec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PolicySpec {
    ingress: Vec<PolicyRule>,
    egress: Vec<PolicyRule>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PolicyRule {
    from: Vec<Peer>,
    to: Vec<Peer>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Peer {
    ip_block: Option<Block>,
}

#[derive(Deserialize)]
struct Block {
    cidr: String,
}

impl PolicyItem {
    /// Full name of the policy with each range that it names.
    pub(super) fn addresses(&self) -> Vec<(String, String)> {
        let name = format!("{}/{}", self.metadata.namespace, self.metadata.name);
        let rules = self.spec.ingress.iter().chain(&self.spec.egress);
        let peers = rules.flat_map(|rule| rule.from.iter().chain(&rule.to));
        let blocks = peers.filter_map(|peer| peer.ip_block.as_ref());
        blocks.map(|block| (name.clone(), block.cidr.clone())).collect()
    }
}
