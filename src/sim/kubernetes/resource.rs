//! The kinds that the simulated API server knows: one table, read by routing and by discovery.

use serde::{Deserialize, Serialize};

macro_rules! kinds {
    ($($name:ident),+ $(,)?) => {
        /// A kind of stored object.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub(super) enum Kind { $($name),+ }

        impl Kind {
            /// The word in an object's `kind` field.
            pub(super) fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),+ }
            }
        }
    };
}

kinds! {
    Node, Pod, Namespace, Secret, ConfigMap, Service, ServiceAccount, Event, PersistentVolume,
    PersistentVolumeClaim, Deployment, ReplicaSet, DaemonSet, StatefulSet, PodDisruptionBudget,
    Lease, Role, RoleBinding, ClusterRole, ClusterRoleBinding, StorageClass, CSINode,
    VolumeAttachment, CertificateSigningRequest, ValidatingWebhookConfiguration,
    MutatingWebhookConfiguration, CustomResourceDefinition, NetworkPolicy, PriorityClass,
    ClusterMigration,
}

/// Where a kind lives, and what its endpoint offers.
#[derive(Debug)]
pub(super) struct Resource {
    pub kind: Kind,
    /// Empty for the core group.
    pub group: &'static str,
    /// The one version that is served.
    pub version: &'static str,
    pub plural: &'static str,
    pub short: &'static [&'static str],
    pub is_namespaced: bool,
    /// Subresources besides the object itself.
    pub subresources: &'static [&'static str],
    /// Whether `metadata.generation` follows the spec.
    pub has_generation: bool,
}

impl Resource {
    /// `v1` or `group/version`.
    pub(super) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Whether it is served only while a CustomResourceDefinition of its name is there.
    pub(super) fn is_custom(&self) -> bool {
        self.group == CUSTOM
    }

    /// The word in `kubectl get <singular>`.
    pub(super) fn singular(&self) -> String {
        self.kind.name().to_ascii_lowercase()
    }

    pub(super) fn has_status(&self) -> bool {
        self.subresources.contains(&"status")
    }
}

impl Kind {
    pub(super) fn resource(self) -> &'static Resource {
        RESOURCES
            .iter()
            .find(|resource| resource.kind == self)
            .expect("the table has a row for every kind, a test says so")
    }

    /// Whether a change to such an object can move a controller.
    pub(super) fn moves_controllers(self) -> bool {
        matches!(
            self,
            Self::Node
                | Self::Pod
                | Self::Namespace
                | Self::Deployment
                | Self::ReplicaSet
                | Self::DaemonSet
                | Self::StatefulSet
                | Self::PodDisruptionBudget
                | Self::PersistentVolumeClaim
                | Self::PersistentVolume
                | Self::StorageClass
        )
    }
}

/// The resource at a path of the API.
pub(super) fn by_plural(group: &str, plural: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|resource| resource.group == group && resource.plural == plural)
}

/// The resource with this plural in any group: plurals are unique here.
pub(super) fn by_any_plural(plural: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|resource| resource.plural == plural)
}

/// The resource of an object, by its own `apiVersion` and `kind`.
pub(super) fn by_type(api_version: &str, kind: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|resource| {
        resource.kind.name() == kind
            && match api_version.split_once('/') {
                None => resource.group.is_empty() && api_version == resource.version,
                Some((group, version)) => resource.group == group && version == resource.version,
            }
    })
}

/// The version of a group: each has one.
pub(super) fn version_of(group: &str) -> &'static str {
    RESOURCES.iter().find(|resource| resource.group == group).map_or("v1", |found| found.version)
}

/// Every group but the core one, in the order of discovery.
pub(super) fn groups() -> Vec<&'static str> {
    let mut seen = Vec::new();
    for resource in RESOURCES {
        if !resource.group.is_empty() && !seen.contains(&resource.group) {
            seen.push(resource.group);
        }
    }
    seen
}

const STATUS: &[&str] = &["status"];
const SCALED: &[&str] = &["status", "scale"];

const fn stored(
    kind: Kind,
    group: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
) -> Resource {
    Resource {
        kind,
        group,
        version: "v1",
        plural,
        short,
        is_namespaced: true,
        subresources: &[],
        has_generation: false,
    }
}

const fn global(resource: Resource) -> Resource {
    Resource { is_namespaced: false, ..resource }
}

const fn with(subresources: &'static [&'static str], resource: Resource) -> Resource {
    Resource { subresources, ..resource }
}

const fn counted(resource: Resource) -> Resource {
    Resource { has_generation: true, ..resource }
}

const fn custom(resource: Resource) -> Resource {
    Resource { version: "v1alpha1", ..resource }
}

/// The group of custom resources. Their kinds are in the table like all others, so that a kind
/// stays a word; whether they are there is the definition's business.
const CUSTOM: &str = "zcp.io";
const RBAC: &str = "rbac.authorization.k8s.io";
const STORAGE: &str = "storage.k8s.io";
const ADMISSION: &str = "admissionregistration.k8s.io";

/// Every resource of the simulated API server.
pub(super) static RESOURCES: &[Resource] = &[
    global(with(STATUS, stored(Kind::Node, "", "nodes", &["no"]))),
    with(&["status", "eviction", "binding"], stored(Kind::Pod, "", "pods", &["po"])),
    global(with(&["status", "finalize"], stored(Kind::Namespace, "", "namespaces", &["ns"]))),
    stored(Kind::Secret, "", "secrets", &[]),
    stored(Kind::ConfigMap, "", "configmaps", &["cm"]),
    with(STATUS, stored(Kind::Service, "", "services", &["svc"])),
    stored(Kind::ServiceAccount, "", "serviceaccounts", &["sa"]),
    stored(Kind::Event, "", "events", &["ev"]),
    global(with(STATUS, stored(Kind::PersistentVolume, "", "persistentvolumes", &["pv"]))),
    with(STATUS, stored(Kind::PersistentVolumeClaim, "", "persistentvolumeclaims", &["pvc"])),
    counted(with(SCALED, stored(Kind::Deployment, "apps", "deployments", &["deploy"]))),
    counted(with(SCALED, stored(Kind::ReplicaSet, "apps", "replicasets", &["rs"]))),
    counted(with(STATUS, stored(Kind::DaemonSet, "apps", "daemonsets", &["ds"]))),
    counted(with(SCALED, stored(Kind::StatefulSet, "apps", "statefulsets", &["sts"]))),
    counted(with(
        STATUS,
        stored(Kind::PodDisruptionBudget, "policy", "poddisruptionbudgets", &["pdb"]),
    )),
    stored(Kind::Lease, "coordination.k8s.io", "leases", &[]),
    stored(Kind::Role, RBAC, "roles", &[]),
    stored(Kind::RoleBinding, RBAC, "rolebindings", &[]),
    global(stored(Kind::ClusterRole, RBAC, "clusterroles", &[])),
    global(stored(Kind::ClusterRoleBinding, RBAC, "clusterrolebindings", &[])),
    global(stored(Kind::StorageClass, STORAGE, "storageclasses", &["sc"])),
    global(stored(Kind::CSINode, STORAGE, "csinodes", &[])),
    global(with(STATUS, stored(Kind::VolumeAttachment, STORAGE, "volumeattachments", &[]))),
    global(with(
        &["status", "approval"],
        stored(
            Kind::CertificateSigningRequest,
            "certificates.k8s.io",
            "certificatesigningrequests",
            &["csr"],
        ),
    )),
    global(counted(stored(
        Kind::ValidatingWebhookConfiguration,
        ADMISSION,
        "validatingwebhookconfigurations",
        &[],
    ))),
    global(counted(stored(
        Kind::MutatingWebhookConfiguration,
        ADMISSION,
        "mutatingwebhookconfigurations",
        &[],
    ))),
    global(counted(with(
        STATUS,
        stored(
            Kind::CustomResourceDefinition,
            "apiextensions.k8s.io",
            "customresourcedefinitions",
            &["crd", "crds"],
        ),
    ))),
    counted(stored(Kind::NetworkPolicy, "networking.k8s.io", "networkpolicies", &["netpol"])),
    global(counted(stored(Kind::PriorityClass, "scheduling.k8s.io", "priorityclasses", &["pc"]))),
    custom(counted(with(
        STATUS,
        stored(Kind::ClusterMigration, CUSTOM, "clustermigrations", &["clm"]),
    ))),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_path_and_by_type() {
        for resource in RESOURCES {
            assert!(std::ptr::eq(resource.kind.resource(), resource));
            assert!(by_plural(resource.group, resource.plural).is_some());
            assert!(by_type(&resource.api_version(), resource.kind.name()).is_some());
        }
        assert_eq!(RESOURCES.len(), Kind::ClusterMigration as usize + 1);
    }
}
