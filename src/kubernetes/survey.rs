//! Reads what a preflight must know of a cluster: one paged and bounded list of each kind, read
//! into small values page by page. Of Secrets only the metadata is asked for.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::ClusterClient;
use super::call::Call;
use super::survey_items::{
    BudgetItem, ClaimItem, PodItem, PolicyItem, ServiceItem, VolumeItem, WebhooksItem, WorkloadItem,
};
use crate::domain::outside::OutsideError;
use crate::domain::survey::Survey;

/// Most objects of one kind that are read. Five times what the largest clusters of the field have.
const OBJECTS_MAX: usize = 50_000;

/// The metadata of an object, and nothing else of it.
#[derive(Deserialize)]
struct Named {
    #[serde(default)]
    metadata: NamedMeta,
}

#[derive(Default, Deserialize)]
struct NamedMeta {
    #[serde(default)]
    name: String,
}

impl ClusterClient {
    /// Reads the whole survey; fails as a whole.
    pub async fn survey(&self) -> Result<Survey, OutsideError> {
        let mut survey = Survey::default();
        let cut = &mut survey.cut;
        let pods: Vec<PodItem> = self.kind(cut, "pods", "/api/v1/pods").await?;
        survey.pods = pods.into_iter().filter_map(PodItem::facts).collect();
        let volumes: Vec<VolumeItem> =
            self.kind(cut, "persistent volumes", "/api/v1/persistentvolumes").await?;
        survey.volumes = volumes.into_iter().map(VolumeItem::facts).collect();
        let claims: Vec<ClaimItem> =
            self.kind(cut, "claims", "/api/v1/persistentvolumeclaims").await?;
        survey.claims = claims.into_iter().filter_map(ClaimItem::bound).collect();
        let budgets: Vec<BudgetItem> =
            self.kind(cut, "budgets", "/apis/policy/v1/poddisruptionbudgets").await?;
        survey.budgets = budgets.into_iter().map(BudgetItem::facts).collect();
        for (kind, plural) in [
            ("Deployment", "deployments"),
            ("StatefulSet", "statefulsets"),
            ("DaemonSet", "daemonsets"),
        ] {
            let found: Vec<WorkloadItem> =
                self.kind(cut, plural, &format!("/apis/apps/v1/{plural}")).await?;
            survey.workloads.extend(found.into_iter().map(|item| item.facts(kind)));
        }
        let services: Vec<ServiceItem> = self.kind(cut, "services", "/api/v1/services").await?;
        survey.services = services.into_iter().map(ServiceItem::facts).collect();
        for plural in ["validatingwebhookconfigurations", "mutatingwebhookconfigurations"] {
            let path = format!("/apis/admissionregistration.k8s.io/v1/{plural}");
            let found: Vec<WebhooksItem> = self.kind(cut, plural, &path).await?;
            survey.webhooks.extend(found.into_iter().flat_map(WebhooksItem::facts));
        }
        let path = "/apis/networking.k8s.io/v1/networkpolicies";
        let policies: Vec<PolicyItem> = self.kind(cut, "network policies", path).await?;
        survey.address_rules = policies.iter().flat_map(PolicyItem::addresses).collect();
        survey.has_cloud_config = self.has_secret("kube-system", "cloud-config").await?;
        Ok(survey)
    }

    /// One kind, read page by page. A kind that the cluster does not have is empty.
    async fn kind<T: DeserializeOwned>(
        &self,
        cut: &mut Vec<String>,
        what: &str,
        path: &str,
    ) -> Result<Vec<T>, OutsideError> {
        let call = Call::get("survey", path);
        match self.list_upto(&call, OBJECTS_MAX).await {
            Ok((items, is_whole)) => {
                if !is_whole {
                    cut.push(what.to_owned());
                }
                Ok(items)
            }
            Err(error) if error.is_absent() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Whether a Secret exists. Its content is neither asked for nor read.
    async fn has_secret(&self, namespace: &str, name: &str) -> Result<bool, OutsideError> {
        let path = format!("/api/v1/namespaces/{namespace}/secrets");
        let call = Call::get("look for secret", path)
            .query("fieldSelector", format!("metadata.name={name}"))
            .metadata_only();
        let found: Vec<Named> = self.list(&call).await?;
        Ok(found.iter().any(|secret| secret.metadata.name == name))
    }
}

/// The labels that a required affinity or a selector of a pod or volume speaks of, with values.
pub(super) fn required_keys(
    required: Option<&core::NodeSelector>,
) -> impl Iterator<Item = (&str, &[String])> {
    let terms = required.map(|required| required.node_selector_terms.as_slice());
    terms.unwrap_or_default().iter().flat_map(|term| {
        let labels = term.match_expressions.iter().flatten();
        let fields = term.match_fields.iter().flatten();
        labels
            .chain(fields)
            .map(|one| (one.key.as_str(), one.values.as_deref().unwrap_or_default()))
    })
}

/// Labels of zones and regions, the old words too.
pub(super) fn is_zone(key: &str) -> bool {
    key.starts_with("topology.kubernetes.io/")
        || key.starts_with("failure-domain.beta.kubernetes.io/")
        || key.ends_with(".csi.openstack.org/zone")
}

/// Labels and fields that name one node.
pub(super) fn is_host(key: &str) -> bool {
    matches!(key, "kubernetes.io/hostname" | "metadata.name")
}

/// Labels as they are, or none.
pub(super) fn labels(of: Option<BTreeMap<String, String>>) -> BTreeMap<String, String> {
    of.unwrap_or_default()
}
