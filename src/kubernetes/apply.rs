//! Server-side apply of manifests in our name (`zcpd`).

use std::collections::BTreeMap;

use http::Method;
use serde::Deserialize;
use serde_json::Value;

use super::ClusterClient;
use super::call::Call;
use crate::domain::outside::{OutsideError, OutsideKind};

/// What a kind is called in paths. Kinds of every cluster, so that the common ones cost no look-up.
const KNOWN: &[(&str, &str, &str, Scope)] = &[
    ("v1", "Namespace", "namespaces", Scope::Cluster),
    ("v1", "Node", "nodes", Scope::Cluster),
    ("v1", "PersistentVolume", "persistentvolumes", Scope::Cluster),
    ("v1", "ConfigMap", "configmaps", Scope::Namespaced),
    ("v1", "Secret", "secrets", Scope::Namespaced),
    ("v1", "Service", "services", Scope::Namespaced),
    ("v1", "ServiceAccount", "serviceaccounts", Scope::Namespaced),
    ("v1", "Pod", "pods", Scope::Namespaced),
    ("v1", "PersistentVolumeClaim", "persistentvolumeclaims", Scope::Namespaced),
    ("apps/v1", "Deployment", "deployments", Scope::Namespaced),
    ("apps/v1", "DaemonSet", "daemonsets", Scope::Namespaced),
    ("apps/v1", "StatefulSet", "statefulsets", Scope::Namespaced),
    ("batch/v1", "Job", "jobs", Scope::Namespaced),
    ("batch/v1", "CronJob", "cronjobs", Scope::Namespaced),
    ("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", Scope::Namespaced),
    ("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", Scope::Namespaced),
    ("rbac.authorization.k8s.io/v1", "Role", "roles", Scope::Namespaced),
    ("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings", Scope::Namespaced),
    ("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", Scope::Cluster),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings", Scope::Cluster),
    ("storage.k8s.io/v1", "StorageClass", "storageclasses", Scope::Cluster),
    ("storage.k8s.io/v1", "CSIDriver", "csidrivers", Scope::Cluster),
    ("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", Scope::Cluster),
    (
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        Scope::Cluster,
    ),
];

/// Whether objects of a kind live in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Cluster,
    Namespaced,
}

/// An object that was applied.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Applied {
    /// Such as `apps/v1`.
    pub api_version: String,
    /// Such as `Deployment`.
    pub kind: String,
    /// Absent for kinds without namespaces.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

/// A kind's place in the API.
#[derive(Debug, Clone)]
struct Resource {
    plural: String,
    scope: Scope,
}

#[derive(Deserialize)]
struct Resources {
    resources: Vec<ListedResource>,
}

#[derive(Deserialize)]
struct ListedResource {
    name: String,
    kind: String,
    namespaced: bool,
}

#[derive(Debug)]
struct Identity {
    api_version: String,
    kind: String,
    name: String,
    namespace: Option<String>,
}

impl ClusterClient {
    /// Applies every document of a YAML text, in order; stops at the first that is refused.
    ///
    /// The text is read completely before anything is sent.
    pub async fn apply_manifest(&self, yaml: &str) -> Result<Vec<Applied>, OutsideError> {
        let mut found: BTreeMap<(String, String), Resource> = BTreeMap::new();
        let mut applied = vec![];
        for (identity, document) in documents(yaml)? {
            let key = (identity.api_version.clone(), identity.kind.clone());
            let resource = match found.get(&key) {
                Some(resource) => resource.clone(),
                None => self.resource(&identity).await?,
            };
            found.insert(key, resource.clone());
            let namespace = match resource.scope {
                Scope::Cluster => None,
                Scope::Namespaced => {
                    Some(identity.namespace.clone().unwrap_or_else(|| "default".to_owned()))
                }
            };
            let path = object_path(&identity, &resource, namespace.as_deref());
            let call = Call::new("apply manifest", Method::PATCH, path).apply(document);
            self.expect(&call).await.map_err(|error| OutsideError {
                message: format!("{} {}: {}", identity.kind, identity.name, error.message),
                ..error
            })?;
            let Identity { api_version, kind, name, .. } = identity;
            applied.push(Applied { api_version, kind, namespace, name });
        }
        Ok(applied)
    }

    /// Where a kind lives: from the table, else from the API server.
    async fn resource(&self, wanted: &Identity) -> Result<Resource, OutsideError> {
        let known = KNOWN.iter().find(|(api_version, kind, ..)| {
            *api_version == wanted.api_version && *kind == wanted.kind
        });
        if let Some((_, _, plural, scope)) = known {
            return Ok(Resource { plural: (*plural).to_owned(), scope: *scope });
        }
        let call = Call::get("look up kind", group_path(&wanted.api_version));
        let listed: Resources = self.read(&call).await?;
        let matches = |resource: &ListedResource| {
            // `deployments/scale` has a kind too.
            resource.kind == wanted.kind && !resource.name.contains('/')
        };
        let resource = listed.resources.into_iter().find(matches).ok_or_else(|| {
            let Identity { api_version, kind, .. } = wanted;
            call.error(OutsideKind::Absent, format!("the cluster has no {api_version} {kind}"))
        })?;
        let scope = if resource.namespaced { Scope::Namespaced } else { Scope::Cluster };
        Ok(Resource { plural: resource.name, scope })
    }
}

fn group_path(api_version: &str) -> String {
    if api_version.contains('/') {
        format!("/apis/{api_version}")
    } else {
        format!("/api/{api_version}")
    }
}

fn object_path(identity: &Identity, resource: &Resource, namespace: Option<&str>) -> String {
    let group = group_path(&identity.api_version);
    let (plural, name) = (&resource.plural, &identity.name);
    match namespace {
        Some(namespace) => format!("{group}/namespaces/{namespace}/{plural}/{name}"),
        None => format!("{group}/{plural}/{name}"),
    }
}

/// The documents of a manifest with what names them; empty ones are left out.
fn documents(yaml: &str) -> Result<Vec<(Identity, Value)>, OutsideError> {
    let invalid = |message: String| {
        OutsideError::new(OutsideKind::Invalid, "kubernetes apply manifest", message)
    };
    let all: Vec<Value> =
        serde_saphyr::from_multiple(yaml).map_err(|error| invalid(error.to_string()))?;
    let mut documents = vec![];
    for (index, document) in all.into_iter().enumerate().filter(|(_, value)| !value.is_null()) {
        let identity = identity(&document).ok_or_else(|| {
            invalid(format!("document {} lacks apiVersion, kind or metadata.name", index + 1))
        })?;
        documents.push((identity, document));
    }
    Ok(documents)
}

fn identity(document: &Value) -> Option<Identity> {
    let text = |value: &Value| {
        let text = value.as_str()?;
        is_path_segment(text).then(|| text.to_owned())
    };
    let metadata = &document["metadata"];
    Some(Identity {
        api_version: document["apiVersion"].as_str()?.to_owned(),
        kind: text(&document["kind"])?,
        name: text(&metadata["name"])?,
        namespace: match &metadata["namespace"] {
            Value::Null => None,
            other => Some(text(other)?),
        },
    })
}

/// Whether a name can stand in a path without changing it. RBAC names may hold colons.
fn is_path_segment(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    !text.is_empty() && text != "." && text != ".." && text.chars().all(fits)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kubernetes::call::tests::{Script, ok, status};

    const MANIFEST: &str = "\
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {on: \"yes\"}
---
# nothing here
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: 'zcp:reader'}
---
apiVersion: cilium.io/v2
kind: CiliumConfig
metadata: {name: main, namespace: kube-system}
";

    #[tokio::test]
    async fn each_document_goes_to_its_own_path() {
        let discovery = json!({"resources": [
            {"name": "ciliumconfigs/status", "kind": "CiliumConfig", "namespaced": true},
            {"name": "ciliumconfigs", "kind": "CiliumConfig", "namespaced": true},
        ]});
        let script = Script::new(vec![ok(json!({})), ok(json!({})), ok(discovery), ok(json!({}))]);
        let applied = script.client().apply_manifest(MANIFEST).await.unwrap();
        assert_eq!(applied.len(), 3);
        assert_eq!(applied[0].namespace.as_deref(), Some("default"));
        assert_eq!(applied[1].namespace, None);
        let asked = script.asked();
        assert_eq!(asked[0].content_type, "application/apply-patch+yaml");
        assert_eq!(asked[0].body["data"]["on"], "yes");
        let rbac = "/apis/rbac.authorization.k8s.io/v1/clusterroles/zcp:reader";
        assert_eq!(
            script.lines(),
            [
                "PATCH /api/v1/namespaces/default/configmaps/settings?fieldManager=zcpd&force=true"
                    .to_owned(),
                format!("PATCH {rbac}?fieldManager=zcpd&force=true"),
                "GET /apis/cilium.io/v2".to_owned(),
                "PATCH /apis/cilium.io/v2/namespaces/kube-system/ciliumconfigs/main\
                 ?fieldManager=zcpd&force=true"
                    .to_owned(),
            ]
        );
    }

    #[tokio::test]
    async fn a_refusal_names_the_object() {
        let script = Script::new(vec![status(422, "Invalid", "data is wrong")]);
        let error = script.client().apply_manifest(MANIFEST).await.unwrap_err();
        assert_eq!(error.kind, OutsideKind::Invalid);
        assert_eq!(error.message, "ConfigMap settings: data is wrong");
    }

    #[tokio::test]
    async fn nothing_is_sent_of_a_manifest_that_cannot_be_read() {
        let broken = [
            "apiVersion: v1\nkind: [",
            "just text",
            "{apiVersion: v1, kind: Secret, metadata: {name: ../../nodes/x}}",
            "{apiVersion: v1, kind: Secret, metadata: {name: a, namespace: a/b}}",
        ];
        for text in broken {
            let script = Script::new(vec![]);
            let manifest = format!("{MANIFEST}---\n{text}\n");
            let error = script.client().apply_manifest(&manifest).await.unwrap_err();
            assert_eq!(error.kind, OutsideKind::Invalid, "{text}");
            assert!(script.asked().is_empty());
        }
    }
}
