//! Nodes: the workers and control-plane members of a cluster.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::ids::{MigrationId, NodeId};
use crate::domain::node::{Blocker, Desired, Drain, NodeStage, Role};

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Name of server and Node object.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Name of its pool; absent for the control plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Name of its cloud.
    pub cloud: String,
    /// What it is doing.
    pub stage: NodeStage,
    /// Whether it is wanted.
    pub desired: Desired,
    /// Flavor of its server.
    pub flavor: String,
    /// Nova's id of its server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_id: Option<String>,
    /// What Nova says of its server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_status: Option<String>,
    /// Its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Whether its kubelet says it can run pods.
    pub ready: bool,
    /// Whether the scheduler leaves it alone.
    pub cordoned: bool,
    /// Version of its kubelet, once it registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubelet_version: Option<String>,
    /// What keeps it from coming up or going away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// How far its drain is.
    pub drain: Drain,
    /// Who keeps it from being drained.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blockers: Vec<Blocker>,
    /// The migration that moves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<MigrationId>,
    /// Its wave in that migration, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wave: Option<u32>,
    /// When it was wanted first.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it served first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub usable_at: Option<Timestamp>,
}
