//! What a cluster needs next: addresses, servers, members, workers, and their going.
//!
//! Every node walks its own row of steps; nodes do not wait for each other except where the
//! words below say so:
//! - all control-plane ports come before the first server, since every address is in the
//!   certificate; members after the first join an API that answers;
//! - workers come when the API answers, since their bootstrap token must be in it;
//! - a node that goes is drained, then its server is deleted, then port and Node object. Never the
//!   other way round: the pod garbage collector would free the names of StatefulSet pods that still
//!   run (kubernetes-sigs/cluster-api #2565).

mod canary;
mod ending;
mod health;
mod heirs;
mod nodes;

use std::collections::BTreeMap;
use std::fmt;

use jiff::{SignedDuration, Timestamp};

pub use canary::Canary;
pub use health::STUCK;

use super::Plan;
use super::pool::{Pool, Wanted, wanted};
use crate::domain::canary::Outcome;
use crate::domain::cluster::ClusterPhase;
use crate::domain::ids::{CanaryId, CloudId, NodeId, PoolId};
use crate::domain::inventory::ServerStatus;
use crate::domain::migration::Migration;
use crate::domain::node::{Desired, Node, Outside, Role};

pub use heirs::{Heritage, Lost};

/// Everything the planner may know.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The moment of the snapshot.
    pub now: Timestamp,
    /// The cluster itself.
    pub cluster: Cluster,
    /// Its pools.
    pub pools: Vec<Pool>,
    /// Its open nodes, by name.
    pub nodes: Vec<Node>,
    /// The migration that is not over, if there is one.
    pub migration: Option<Migration>,
    /// Its canaries that are under way or have left something behind.
    pub canaries: Vec<Canary>,
    /// Lost nodes in whose place nobody stands.
    pub lost: Vec<Lost>,
    /// Its server groups that may exist.
    pub groups: Vec<Group>,
    /// The clouds that it uses.
    pub clouds: BTreeMap<CloudId, Cloud>,
    /// How long a server may take from the first call to a usable node.
    pub join_deadline: SignedDuration,
}

/// The cluster's own row.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Whether it is wanted.
    pub desired: Desired,
    /// Where it is in its life.
    pub phase: ClusterPhase,
    /// How many control-plane members.
    pub members: u16,
    /// Where they are.
    pub control_plane_cloud: CloudId,
    /// The port of the endpoint's address.
    pub vip_port: Outside,
    /// The API has answered.
    pub has_api: bool,
    /// The CNI was applied.
    pub has_base: bool,
    /// When its Node objects were last listed.
    pub listed_at: Option<Timestamp>,
}

/// What matters of a cloud.
#[derive(Debug, Clone)]
pub struct Cloud {
    /// Its name.
    pub name: String,
    /// Whether it was checked and found good.
    pub is_ready: bool,
    /// Most servers in one server group.
    pub group_size: u32,
    /// When all its servers were last listed; `None` while a part of it is down.
    pub listed_at: Option<Timestamp>,
}

/// A server group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its row.
    pub id: uuid::Uuid,
    /// Pool; none for the control plane.
    pub pool: Option<PoolId>,
    /// Where it is.
    pub cloud: CloudId,
    /// Number within pool and cloud, from 0.
    pub number: u32,
    /// Whether Nova has it.
    pub state: Outside,
    /// Open nodes that belong to it.
    pub nodes: u32,
}

/// A node to be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewNode {
    /// Pool; none for the control plane.
    pub pool: Option<PoolId>,
    /// Member of the control plane.
    pub member: Option<u16>,
    /// Where.
    pub cloud: CloudId,
    /// Number of its server group within pool and cloud.
    pub group: u32,
    /// How many rows failed before in its place.
    pub attempt: u32,
    /// Nothing is tried before.
    pub not_before: Option<Timestamp>,
    /// In whose place it stands.
    pub heritage: Option<Heritage>,
}

/// One step. Those marked *row* change only our database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// *row* Adds a node that is wanted.
    AddNode(NewNode),
    /// *row* The node is not wanted any more.
    Dismiss(NodeId),
    /// *row* The node cannot serve any more: another takes its place.
    Replace(NodeId),
    /// Makes the port of the endpoint's address.
    EnsureVipPort,
    /// Makes the server group.
    EnsureGroup(uuid::Uuid),
    /// Makes the node's port.
    EnsurePort(NodeId),
    /// Makes the node's server, or finds the one that an unclear call made.
    EnsureServer(NodeId),
    /// Asks the API server whether it serves.
    CheckApi,
    /// Applies the CNI.
    ApplyBase,
    /// Makes the node's bootstrap token in the cluster.
    EnsureToken(NodeId),
    /// Puts the pool's labels and taints on the Node object.
    ApplyLabels(NodeId),
    /// Puts on it what owners had put on the node in whose place it stands.
    CarryLedger(NodeId),
    /// Takes back a cordon of ours that nobody of us wants: a frozen replica's call landed late.
    LiftCordon(NodeId),
    /// Removes the bootstrap token of a node that has joined or goes.
    RevokeToken(NodeId),
    /// Cordons the node and evicts its pods, one pass.
    DrainNode(NodeId),
    /// Keeps the console of a server that did not become a node, and wants the node no more.
    FailNode(NodeId),
    /// Deletes the node's server.
    DeleteServer(NodeId),
    /// Starts a server that has stopped.
    StartServer(NodeId),
    /// Asks whether a server that lists do not show is gone.
    ConfirmServer(NodeId),
    /// Deletes the node's port.
    DeletePort(NodeId),
    /// Deletes the Node object.
    DeleteObject(NodeId),
    /// *row* Nothing is left of the node.
    CloseNode(NodeId),
    /// *row* Adds the node of a canary.
    AddCanary(CanaryId),
    /// Asks a canary and its peer what they reach.
    Probe(CanaryId),
    /// Keeps the console of a canary that did not join, and dismisses it.
    FailCanary(CanaryId),
    /// *row* The canary ends like this, and its node is not wanted any more.
    EndCanary(CanaryId, Outcome),
    /// Deletes the pod on a canary's peer.
    DeleteProbe(CanaryId),
    /// Deletes a server group that nobody is in.
    DeleteGroup(uuid::Uuid),
    /// Deletes the port of the endpoint's address.
    DeleteVipPort,
    /// *row* Nothing is left of the cluster.
    CloseCluster,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Plans what can be done now.
pub fn plan(snapshot: &Snapshot) -> Plan<Step> {
    let mut planner = Planner { snapshot, plan: Plan::default() };
    if snapshot.cluster.desired == Desired::Absent {
        planner.delete_cluster();
    } else {
        planner.control_plane();
        planner.pools();
        planner.canaries();
    }
    for node in &snapshot.nodes {
        planner.node(node);
    }
    planner.empty_groups();
    planner.plan
}

/// Where a node is missing.
#[derive(Clone, Copy)]
struct Place {
    pool: Option<PoolId>,
    member: Option<u16>,
    cloud: CloudId,
}

/// More groups than the largest pool can fill one by one.
const GROUPS_MAX: u32 = 2000;

struct Planner<'a> {
    snapshot: &'a Snapshot,
    plan: Plan<Step>,
}

impl Planner<'_> {
    fn control_plane(&mut self) {
        let cluster = &self.snapshot.cluster;
        if cluster.vip_port != Outside::Present && self.cloud_is_ready(cluster.control_plane_cloud)
        {
            self.plan.step(Step::EnsureVipPort, "the endpoint has no address");
        }
        for member in 0..cluster.members {
            let taken = |n: &&Node| n.member == Some(member) && n.desired == Desired::Present;
            if self.snapshot.nodes.iter().any(|n| taken(&n)) {
                continue;
            }
            let attempt = self.last_attempt(|n| n.member == Some(member));
            let cloud = cluster.control_plane_cloud;
            self.add(Place { pool: None, member: Some(member), cloud }, attempt);
        }
        if !cluster.has_api {
            if self.members().any(|n| n.server_status == Some(ServerStatus::Active)) {
                self.plan.step(Step::CheckApi, "a control-plane server is up");
            } else {
                self.plan.wait("the first control-plane server is not up");
            }
        } else if !cluster.has_base {
            self.plan.step(Step::ApplyBase, "the API answers and has no CNI yet");
        }
    }

    fn members(&self) -> impl Iterator<Item = &Node> {
        self.snapshot
            .nodes
            .iter()
            .filter(|n| n.role == Role::ControlPlane && n.desired == Desired::Present)
    }

    fn pools(&mut self) {
        for pool in &self.snapshot.pools {
            let nodes: Vec<&Node> =
                self.snapshot.nodes.iter().filter(|n| n.pool_id == Some(pool.id)).collect();
            let goals = wanted(pool, self.snapshot.migration.as_ref(), &nodes);
            for (cloud, goal) in &goals {
                let here: Vec<&Node> =
                    nodes.iter().copied().filter(|n| n.cloud_id == *cloud).collect();
                match goal {
                    Wanted::Exactly(count) => {
                        self.shrink(pool, *count, &here);
                        self.grow(pool, (*cloud, *count), &here);
                    }
                    Wanted::AtLeast(count) => self.grow(pool, (*cloud, *count), &here),
                    Wanted::AsIs => {}
                }
            }
            for node in &nodes {
                let is_named = goals.iter().any(|(cloud, _)| *cloud == node.cloud_id);
                if node.desired == Desired::Present && !is_named {
                    self.plan.step(
                        Step::Dismiss(node.id),
                        format!("pool {} has left the node's cloud", pool.name),
                    );
                }
            }
        }
    }

    /// Removes nodes until `count` are left. One that serves stays as long as the pool would have
    /// fewer than it wants without it: the other side of a migration may still be coming up.
    fn shrink(&mut self, pool: &Pool, count: u32, here: &[&Node]) {
        let mut present: Vec<&&Node> =
            here.iter().filter(|n| n.desired == Desired::Present).collect();
        let surplus = present.len().saturating_sub(count as usize);
        let has = present.len();
        present.sort_by_key(|n| self.worth(n));
        let all = self.snapshot.nodes.iter().filter(|n| n.pool_id == Some(pool.id));
        let mut serving = all.filter(|n| n.is_serving()).count();
        for node in &present[..surplus] {
            let why = format!("pool {} wants {count} nodes and has {has}", pool.name);
            if node.is_serving() {
                if serving <= pool.count as usize {
                    self.plan.wait(format!("{}: {why}, of which {serving} serve", node.name));
                    continue;
                }
                serving -= 1;
            }
            self.plan.step(Step::Dismiss(node.id), why);
        }
    }

    /// Adds nodes until there are `count`. What is on its way out counts for the surge as long as
    /// it may exist.
    fn grow(&mut self, pool: &Pool, (cloud, count): (CloudId, u32), here: &[&Node]) {
        let present = here.iter().filter(|n| n.desired == Desired::Present).count();
        let leaving = here.iter().filter(|n| n.desired == Desired::Absent && n.may_exist()).count();
        let missing = (count as usize).saturating_sub(present);
        let room = (count as usize + pool.surge as usize).saturating_sub(present + leaving);
        if missing > room {
            self.plan.wait(format!(
                "pool {}: surge {} is in use by nodes that are being deleted",
                pool.name, pool.surge
            ));
        }
        let id = pool.id;
        let attempt = self.last_attempt(|n| n.pool_id == Some(id) && n.cloud_id == cloud);
        for _ in 0..missing.min(room) {
            self.add(Place { pool: Some(id), member: None, cloud }, attempt);
        }
    }

    /// Which node goes first when a pool shrinks: smallest first. Nodes that a wave has touched
    /// stay, so that the way back keeps its size; then the useless go, then the youngest.
    fn worth(&self, node: &Node) -> (bool, bool, std::cmp::Reverse<Timestamp>, NodeId) {
        let is_touched = self
            .snapshot
            .migration
            .as_ref()
            .is_some_and(|m| node.cloud_id == m.source && m.wave_of(node.id) <= m.wave);
        (is_touched, node.is_serving(), std::cmp::Reverse(node.created_at), node.id)
    }

    /// The attempt number for a successor of nodes that are on their way out and never came up.
    fn last_attempt(&self, mut is_place: impl FnMut(&Node) -> bool) -> u32 {
        let failed = self.snapshot.nodes.iter().filter(|n| {
            is_place(n)
                && n.desired == Desired::Absent
                && n.usable_at.is_none()
                && n.trouble.is_some()
        });
        failed.map(|n| n.attempt + 1).max().unwrap_or(0)
    }

    fn add(&mut self, place: Place, attempt: u32) {
        let Place { pool, member, cloud } = place;
        let group = self.free_group(pool, cloud);
        let not_before = (attempt > 0).then(|| self.snapshot.now + retry_delay(attempt));
        let heritage = pool.and_then(|pool| self.heritage(pool, cloud));
        let new = NewNode { pool, member, cloud, group, attempt, not_before, heritage };
        let why = if attempt == 0 {
            "fewer nodes than wanted".to_owned()
        } else {
            format!("attempt {attempt} failed")
        };
        self.plan.step(Step::AddNode(new), why);
    }

    /// The first group with room, counting what this plan adds.
    fn free_group(&self, pool: Option<PoolId>, cloud: CloudId) -> u32 {
        let size = self.snapshot.clouds.get(&cloud).map_or(1, |c| c.group_size.max(1));
        let planned = |number: u32| {
            let same =
                |new: &NewNode| new.pool == pool && new.cloud == cloud && new.group == number;
            let added = self
                .plan
                .steps
                .iter()
                .filter(|p| matches!(&p.step, Step::AddNode(new) if same(new)));
            u32::try_from(added.count()).unwrap_or(u32::MAX)
        };
        let there = |number: u32| {
            let found = self
                .snapshot
                .groups
                .iter()
                .find(|g| g.pool == pool && g.cloud == cloud && g.number == number);
            found.map_or(0, |g| if g.state == Outside::Deleting { size } else { g.nodes })
        };
        (0..GROUPS_MAX).find(|n| there(*n) + planned(*n) < size).unwrap_or(0)
    }

    fn cloud_is_ready(&mut self, cloud: CloudId) -> bool {
        match self.snapshot.clouds.get(&cloud) {
            Some(cloud) if cloud.is_ready => true,
            Some(cloud) => {
                self.plan.wait(format!("cloud {} is not ready, see its check", cloud.name));
                false
            }
            None => false,
        }
    }
}

/// How long a place that failed `attempt` times waits: 1, 2, 4 ... 30 minutes. A cloud that is
/// full stays full for a while, and every try costs it a scheduler run.
fn retry_delay(attempt: u32) -> SignedDuration {
    let minutes = 1_i64 << attempt.saturating_sub(1).min(5);
    SignedDuration::from_mins(minutes.min(30))
}
