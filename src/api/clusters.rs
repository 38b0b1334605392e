//! Clusters and their pools.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::cluster::{
    ClusterNetwork, ClusterPhase, ClusterSpec, ControlPlaneSpec, PoolSpec,
};
use crate::domain::condition::Condition;
use crate::domain::ids::{ClusterId, MigrationId, PoolId, ProjectId};
use crate::domain::node::Desired;
use crate::domain::node_view::Taint;

/// Makes a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCluster {
    /// Name, unique in its project; 1 to 32 lower-case letters, digits or `-`.
    #[schema(example = "shop", max_length = 32)]
    pub name: String,
    /// Name of the project; default: the caller's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Name of the offering.
    #[schema(example = "1.36.2")]
    pub offering: String,
    /// The servers that run the API and etcd.
    pub control_plane: ControlPlaneSpec,
    /// The workers.
    pub pools: Vec<PoolSpec>,
    /// Addresses and names inside the cluster.
    #[serde(default)]
    pub network: ClusterNetwork,
    /// Extra flags of the API server, by name without dashes.
    #[serde(default)]
    pub api_server_args: BTreeMap<String, String>,
}

impl NewCluster {
    /// The part that describes the cluster itself.
    pub fn spec(&self) -> ClusterSpec {
        ClusterSpec {
            control_plane: self.control_plane.clone(),
            pools: self.pools.clone(),
            network: self.network.clone(),
            api_server_args: self.api_server_args.clone(),
        }
    }
}

/// A cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Cluster {
    /// Its id.
    pub id: ClusterId,
    /// Its name.
    pub name: String,
    /// Id of its project.
    pub project_id: ProjectId,
    /// Name of its project.
    pub project: String,
    /// Name of its offering.
    pub offering: String,
    /// Version of Kubernetes that the offering names.
    pub kubernetes_version: String,
    /// The servers that run the API and etcd.
    pub control_plane: ControlPlane,
    /// The workers.
    pub pools: Vec<Pool>,
    /// Addresses and names inside the cluster.
    pub network: ClusterNetwork,
    /// Extra flags of the API server.
    pub api_server_args: BTreeMap<String, String>,
    /// Where it is in its life.
    pub phase: ClusterPhase,
    /// Whether it is wanted; `absent` once somebody deleted it.
    pub desired: Desired,
    /// Number of the wish; for `If-Match`.
    pub generation: i64,
    /// Number of the wish that is fulfilled.
    pub observed_generation: i64,
    /// Finer truths than the phase.
    pub conditions: Vec<Condition>,
    /// Why it is not going on right now; empty when nothing is waited for.
    pub waiting: Vec<String>,
    /// Address of its API, once it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "https://10.10.0.5:6443")]
    pub endpoint: Option<String>,
    /// The migration that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<MigrationId>,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When its wish or its phase last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
    /// When nothing of it was left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub deleted_at: Option<Timestamp>,
}

/// The servers that run a cluster's API and etcd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ControlPlane {
    /// Name of the cloud.
    pub cloud: String,
    /// How many, 1 or 3.
    pub count: u32,
    /// Flavor.
    pub flavor: String,
    /// How many of them serve.
    pub usable: u32,
}

/// Workers that are alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pool {
    /// Its id.
    pub id: PoolId,
    /// Its name.
    pub name: String,
    /// Name of the cloud.
    pub cloud: String,
    /// Flavor.
    pub flavor: String,
    /// Availability zone; absent: the cloud chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// How many workers are wanted.
    pub count: u32,
    /// Labels of every node.
    pub labels: BTreeMap<String, String>,
    /// Taints of every node.
    pub taints: Vec<Taint>,
    /// Nodes beyond `count` while some are replaced.
    pub surge: u32,
    /// How many workers there are, in any state.
    pub nodes: u32,
    /// How many of them serve.
    pub usable: u32,
}

/// Changes a pool. What is left out stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PoolPatch {
    /// How many workers, 0 to 1000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(maximum = 1000)]
    pub count: Option<u32>,
    /// All labels anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// All taints anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taints: Option<Vec<Taint>>,
    /// Nodes beyond `count` while some are replaced, 1 to 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 20)]
    pub surge: Option<u32>,
}

/// Asks for a kubeconfig.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KubeconfigRequest {
    /// Seconds for which it is good, 300 to 86400. Default 3600.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 300, maximum = 86_400)]
    pub lifetime_seconds: Option<u32>,
}

/// A kubeconfig with a client certificate of its own. It can't be taken back; it ends by itself.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Kubeconfig {
    /// The file, as `kubectl` reads it.
    pub kubeconfig: String,
    /// When it ends.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
}
