//! What a preflight knows.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::domain::cloud::{CloudPhase, CloudSpec};
use crate::domain::cluster::ClusterNetwork;
use crate::domain::ids::{CloudId, PoolId};
use crate::domain::inventory::Inventory;
use crate::domain::migration::{MigrationNode, MigrationSpec};
use crate::domain::node::Node;
use crate::domain::offering::OfferingSpec;

/// Everything that checks may know.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The moment of the look.
    pub now: Timestamp,
    /// The migration that is asked about.
    pub spec: MigrationSpec,
    /// Whose workers move.
    pub cluster: ClusterFacts,
    /// Where they are.
    pub source: CloudFacts,
    /// Where they go.
    pub target: CloudFacts,
    /// Pools that move.
    pub pools: Vec<PoolFacts>,
    /// The cluster's open nodes, members of the control plane too, by name.
    pub nodes: Vec<Node>,
    /// Old nodes with their waves.
    pub waves: Vec<MigrationNode>,
}

/// A cluster.
#[derive(Debug, Clone)]
pub struct ClusterFacts {
    /// Its name.
    pub name: String,
    /// What it runs.
    pub offering: OfferingSpec,
    /// Addresses and names inside.
    pub network: ClusterNetwork,
}

/// A cloud.
#[derive(Debug, Clone)]
pub struct CloudFacts {
    /// Its id.
    pub id: CloudId,
    /// Its name.
    pub name: String,
    /// How an operator registered it.
    pub spec: CloudSpec,
    /// Whether it can be used.
    pub phase: CloudPhase,
    /// What its last check complained about.
    pub complaints: Vec<String>,
    /// Whether the cluster's project has a login there.
    pub has_account: bool,
    /// What it has, when last read.
    pub inventory: Option<Inventory>,
    /// When that was.
    pub inventory_at: Option<Timestamp>,
}

/// A pool that moves.
#[derive(Debug, Clone)]
pub struct PoolFacts {
    /// Its id.
    pub id: PoolId,
    /// Its name.
    pub name: String,
    /// Flavor on the source.
    pub flavor: String,
    /// Zone on the source.
    pub zone: Option<String>,
    /// How many nodes its owner wants.
    pub count: u32,
    /// How many more may exist while some are replaced.
    pub surge: u32,
    /// Labels of every node.
    pub labels: BTreeMap<String, String>,
}

impl Facts {
    /// Open nodes of a pool that moves, on the source.
    pub fn old<'a>(&'a self, pool: &'a PoolFacts) -> impl Iterator<Item = &'a Node> {
        self.nodes
            .iter()
            .filter(|node| node.pool_id == Some(pool.id) && node.cloud_id == self.source.id)
    }
}
