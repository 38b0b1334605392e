//! What a preflight knows.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::canary::CanaryFacts;
use crate::domain::cloud::{CloudPhase, CloudSpec};
use crate::domain::cloud_pair::CloudPairSpec;
use crate::domain::cluster::ClusterNetwork;
use crate::domain::ids::{CloudId, PoolId};
use crate::domain::inventory::{HostRoom, Inventory};
use crate::domain::migration::{MigrationNode, MigrationSpec};
use crate::domain::node::{Desired, Node, Outside};
use crate::domain::offering::OfferingSpec;
use crate::domain::preflight::Reservation;
use crate::domain::survey::Survey;

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
    /// What an operator mapped between the two, if anything.
    pub pair: Option<CloudPairSpec>,
    /// Pools that move.
    pub pools: Vec<PoolFacts>,
    /// The cluster's open nodes, members of the control plane too, by name.
    pub nodes: Vec<Node>,
    /// Old nodes with their waves.
    pub waves: Vec<MigrationNode>,
    /// What the cluster holds, or why it could not be read.
    pub survey: Result<Survey, String>,
    /// Hosts of the target with room for one server of a flavor, by the flavor's name. Flavors of
    /// which the cloud does not tell us are left out.
    pub rooms: BTreeMap<String, Vec<HostRoom>>,
    /// What others will still make on the target.
    pub reserved: Vec<Reservation>,
    /// Certificates of the cluster by name, with their ends.
    pub certificates: Vec<(String, Timestamp)>,
    /// Bytes of user data of a new node, by pool.
    pub user_data: Vec<(String, usize)>,
    /// Most bytes that Nova takes.
    pub user_data_max: usize,
    /// What else is under way with the cluster.
    pub other_jobs: Vec<String>,
    /// Canaries on the target, as far as they are.
    pub canaries: Vec<CanaryFacts>,
}

/// A cluster.
#[derive(Debug, Clone)]
pub struct ClusterFacts {
    /// Its name.
    pub name: String,
    /// `address:port` of its API.
    pub endpoint: String,
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
    /// Network on the source; none: the cloud's default.
    pub network: Option<String>,
    /// Security group on the source; none: the cloud's default.
    pub security_group: Option<String>,
    /// Image on the source, if a mapping chose one.
    pub image: Option<String>,
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

    /// Names of the nodes that are to be drained.
    pub fn old_names(&self) -> BTreeSet<&str> {
        let old = self.pools.iter().flat_map(|pool| self.old(pool));
        old.filter(|node| node.desired == Desired::Present).map(|n| n.name.as_str()).collect()
    }

    /// Addresses of the nodes that are to be drained.
    pub fn old_addresses(&self) -> Vec<String> {
        let old = self.pools.iter().flat_map(|pool| self.old(pool));
        old.filter_map(|node| node.address.clone()).collect()
    }

    /// How many servers of a pool are on the target already.
    pub fn already_of(&self, pool: &PoolFacts) -> u64 {
        let is_there = |node: &&Node| {
            node.pool_id == Some(pool.id)
                && node.cloud_id == self.target.id
                && node.desired == Desired::Present
                && node.server == Outside::Present
        };
        self.nodes.iter().filter(is_there).count() as u64
    }

    /// How many servers of the pools that move are on the target already.
    pub fn already_there(&self) -> u64 {
        self.pools.iter().map(|pool| self.already_of(pool)).sum()
    }

    /// How many servers others will still make there.
    pub fn reserved_servers(&self) -> u64 {
        self.reserved.iter().map(|one| one.servers).sum()
    }
}
