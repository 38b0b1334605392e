//! An object as it was listed. Read leniently: one that makes no sense is one object's trouble.

use serde_json::Value;
use uuid::Uuid;

use crate::crd::wishes::Agreed;
use crate::crd::{
    AGREED_ANNOTATION, ClusterMigrationSpec, ClusterMigrationStatus, FINALIZER, MIGRATION_LABEL,
};
use crate::kubernetes::management::ObjectName;

/// An object of the management cluster.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub uid: Uuid,
    pub namespace: String,
    pub name: String,
    pub generation: i64,
    pub revision: String,
    pub is_leaving: bool,
    pub finalizers: Vec<String>,
    /// The migration whose object zcpd made it as.
    pub label: Option<String>,
    /// What the annotation says was agreed.
    pub agreed: Agreed,
    /// The wish, or what is wrong with it.
    pub spec: Result<ClusterMigrationSpec, String>,
    pub status: ClusterMigrationStatus,
}

impl Object {
    /// None if it is no object at all.
    pub fn read(value: &Value) -> Option<Self> {
        let metadata = &value["metadata"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let finalizers = metadata["finalizers"].as_array().into_iter().flatten();
        let spec: Result<ClusterMigrationSpec, _> =
            serde_path_to_error::deserialize(&value["spec"]);
        Some(Self {
            uid: metadata["uid"].as_str()?.parse().ok()?,
            namespace: text(&metadata["namespace"]),
            name: text(&metadata["name"]),
            generation: metadata["generation"].as_i64().unwrap_or(0),
            revision: text(&metadata["resourceVersion"]),
            is_leaving: !metadata["deletionTimestamp"].is_null(),
            finalizers: finalizers.map(text).collect(),
            label: metadata["labels"][MIGRATION_LABEL].as_str().map(str::to_owned),
            agreed: Agreed::of_annotation(metadata["annotations"][AGREED_ANNOTATION].as_str()),
            spec: spec.map_err(|error| format!("spec.{}: {}", error.path(), error.inner())),
            status: serde_json::from_value(value["status"].clone()).unwrap_or_default(),
        })
    }

    pub fn place(&self) -> ObjectName<'_> {
        ObjectName { namespace: &self.namespace, name: &self.name }
    }

    pub fn is_at(&self, namespace: &str, name: &str) -> bool {
        self.namespace == namespace && self.name == name
    }

    pub fn is_held(&self) -> bool {
        self.finalizers.iter().any(|one| one == FINALIZER)
    }
}
