//! What a cluster holds, as far as moving its workers may break it. Names and numbers only: nothing
//! of a Secret is in here but that it exists.

use std::collections::BTreeMap;

/// Everything that a preflight reads of a cluster.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Survey {
    /// Pods that are not finished.
    pub pods: Vec<PodFacts>,
    /// Persistent volumes.
    pub volumes: Vec<VolumeFacts>,
    /// Which volume a claim is bound to, by namespace and name of the claim.
    pub claims: BTreeMap<(String, String), String>,
    /// Disruption budgets.
    pub budgets: Vec<BudgetFacts>,
    /// Deployments, StatefulSets and DaemonSets.
    pub workloads: Vec<WorkloadFacts>,
    /// Services.
    pub services: Vec<ServiceFacts>,
    /// Webhooks of admission.
    pub webhooks: Vec<WebhookFacts>,
    /// NetworkPolicies that name addresses, with those.
    pub address_rules: Vec<(String, String)>,
    /// Whether kube-system has a Secret `cloud-config`.
    pub has_cloud_config: bool,
    /// Kinds of which there are more than are read.
    pub cut: Vec<String>,
}

/// A pod.
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "facts of a pod, independent of each other")]
pub struct PodFacts {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its node, once it has one.
    pub node: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Kind of its controller, if any.
    pub controller: Option<String>,
    /// Whether a drain leaves it alone: it mirrors a static pod, or its owner said so by label.
    pub stays: bool,
    /// Whether its Ready condition is true.
    pub is_ready: bool,
    /// Whether it waits for a node.
    pub is_pending: bool,
    /// Names of its claims.
    pub claims: Vec<String>,
    /// Its emptyDirs with their limits of size, as written.
    pub empty_dirs: Vec<Option<String>>,
    /// Paths of its node that it mounts.
    pub host_paths: Vec<String>,
    /// Whether it may only run on a node of a certain name.
    pub is_pinned: bool,
    /// Whether zones or regions decide where it may run.
    pub has_zones: bool,
    /// How long it may take to stop.
    pub grace_seconds: u64,
}

impl PodFacts {
    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Whether a drain asks for its going.
    pub fn is_moved(&self) -> bool {
        !self.stays && self.controller.as_deref() != Some("DaemonSet")
    }
}

/// A persistent volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeFacts {
    /// Its name.
    pub name: String,
    /// Its CSI driver; `kubernetes.io/cinder` for those of the driver that was built in.
    pub driver: Option<String>,
    /// Whether it can only be reached from one node.
    pub is_local: bool,
    /// Zones that its affinity names.
    pub zones: Vec<String>,
}

/// A disruption budget.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BudgetFacts {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Which pods it protects.
    pub selector: Selector,
    /// How many of them may be evicted now.
    pub allowed: i32,
    /// How many are healthy.
    pub healthy: i32,
    /// How many there should be.
    pub expected: i32,
}

/// A Deployment, StatefulSet or DaemonSet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkloadFacts {
    /// Its kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Wanted replicas; 0 for a DaemonSet.
    pub replicas: u32,
    /// Labels of its pods.
    pub labels: BTreeMap<String, String>,
    /// Images of its containers.
    pub images: Vec<String>,
    /// Commands and arguments of its containers.
    pub args: Vec<String>,
    /// Whether it is told to give providerIDs with their region (`OS_CCM_REGIONAL`).
    pub is_regional: bool,
}

impl WorkloadFacts {
    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// A Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceFacts {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Whether it has a load balancer outside.
    pub is_balanced: bool,
    /// Labels of its pods; none if somebody else writes its endpoints.
    pub selector: Option<BTreeMap<String, String>>,
}

/// A webhook of admission.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WebhookFacts {
    /// Name of its configuration, and its own.
    pub name: String,
    /// Whether what it is asked about is refused when it does not answer.
    pub must_answer: bool,
    /// Whether it is asked about new pods or evictions.
    pub judges_pods: bool,
    /// Namespace and name of the Service behind it; none if it is a URL.
    pub service: Option<(String, String)>,
}

/// A label selector.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Selector {
    /// Labels that must be there.
    pub labels: BTreeMap<String, String>,
    /// Further demands: key, operator, values.
    pub expressions: Vec<(String, String, Vec<String>)>,
}

impl Selector {
    /// Whether something with these labels is selected. An empty selector selects all.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let has = |(key, value): (&String, &String)| labels.get(key) == Some(value);
        self.labels.iter().all(has)
            && self.expressions.iter().all(|(key, operator, values)| {
                let value = labels.get(key);
                match operator.as_str() {
                    "In" => value.is_some_and(|value| values.contains(value)),
                    "NotIn" => value.is_none_or(|value| !values.contains(value)),
                    "Exists" => value.is_some(),
                    "DoesNotExist" => value.is_none(),
                    _ => false,
                }
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_select_as_kubernetes_does() {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let expression = |operator: &str, values: &[&str]| Selector {
            labels: BTreeMap::new(),
            expressions: vec![(
                "app".into(),
                operator.into(),
                values.iter().map(ToString::to_string).collect(),
            )],
        };
        for (selector, selects) in [
            (Selector::default(), true),
            (Selector { labels: labels.clone(), ..Selector::default() }, true),
            (expression("In", &["web", "db"]), true),
            (expression("NotIn", &["web"]), false),
            (expression("Exists", &[]), true),
            (expression("DoesNotExist", &[]), false),
            (expression("Near", &[]), false),
        ] {
            assert_eq!(selector.matches(&labels), selects, "{selector:?}");
        }
    }
}
