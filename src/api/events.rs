//! Events: what happened, for timelines and streams.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::domain::ids::{ClusterId, ProjectId};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its place in the stream; give it as `Last-Event-ID` to go on after it.
    pub id: String,
    /// When it happened.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The project, if it concerns one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_id: Option<ProjectId>,
    /// The cluster, if it concerns one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<ClusterId>,
    /// What kind of thing it happened to, such as `migration`.
    pub resource_kind: String,
    /// The thing.
    pub resource_id: Uuid,
    /// `normal` or `warning`.
    #[serde(rename = "type")]
    pub kind: String,
    /// One CamelCase word for machines.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// Figures and names for machines.
    pub data: serde_json::Value,
}
