//! A node: one worker or control-plane member, wanted and observed.
//!
//! A node owns at most four things outside: a Neutron port, a Nova server booted with it, a
//! bootstrap token in the cluster (workers only) and the Node object that the kubelet registers.
//! What we make goes through [`Outside`]: `Unknown` is written before the call that makes it, so
//! whoever reads the row after a crash knows that something may be there.
//!
//! A row is never used twice: when its server can't be used, the row is wanted absent and another
//! row with another name takes its place.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use super::blocker::Blocker;
use super::ids::{CloudId, ClusterId, NodeId, PoolId};
use super::inventory::ServerStatus;

/// What a node is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// API server, etcd and controllers.
    ControlPlane,
    /// Runs the tenant's pods.
    Worker,
    /// Joins like a worker, tells what it reaches, and goes again. No pod of the tenant runs on it.
    Canary,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::ControlPlane, Self::Worker, Self::Canary];

    /// The word in API and database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ControlPlane => "control_plane",
            Self::Worker => "worker",
            Self::Canary => "canary",
        }
    }

    /// Whether it joins a cluster that answers, with a token of its own.
    pub fn joins(self) -> bool {
        match self {
            Self::Worker | Self::Canary => true,
            Self::ControlPlane => false,
        }
    }
}

/// Whether a node is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// It should serve.
    Present,
    /// It should go. One way: a node is never revived.
    Absent,
}

impl Desired {
    /// The word in API and database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Absent => "absent",
        }
    }
}

/// What we know of a thing that we make outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outside {
    /// No call that could make it was ever sent.
    Never,
    /// A call was sent and its result was not recorded: it may be there, once.
    Unknown,
    /// It is there, and we know its id.
    Present,
    /// A call to delete it was sent; it may still be there.
    Deleting,
    /// It was there, or may have been, and is surely gone.
    Gone,
}

impl Outside {
    /// Every state.
    pub const ALL: [Self; 5] =
        [Self::Never, Self::Unknown, Self::Present, Self::Deleting, Self::Gone];

    /// The word in API and database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Unknown => "unknown",
            Self::Present => "present",
            Self::Deleting => "deleting",
            Self::Gone => "gone",
        }
    }

    /// Whether it may exist; this is what counts in limits.
    pub fn may_exist(self) -> bool {
        matches!(self, Self::Unknown | Self::Present | Self::Deleting)
    }
}

/// Our word for a server whose task is its deletion; Nova's status says ACTIVE or ERROR then.
pub const SERVER_DELETING: &str = "DELETING";

/// A node with everything that the planner may know.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Our id; it marks server and port.
    pub id: NodeId,
    /// Its cluster.
    pub cluster_id: ClusterId,
    /// Its pool; only workers have one.
    pub pool_id: Option<PoolId>,
    /// What it is for.
    pub role: Role,
    /// Which member of the control plane it is, from 0.
    pub member: Option<u16>,
    /// Name of server and Node object.
    pub name: String,
    /// Where it is.
    pub cloud_id: CloudId,
    /// Whether it is wanted.
    pub desired: Desired,
    /// How many rows before it failed to come up in its place.
    pub attempt: u32,
    /// Nothing is tried before this moment (back-off).
    pub not_before: Option<Timestamp>,
    /// When the row was made.
    pub created_at: Timestamp,
    /// The Neutron port.
    pub port: Outside,
    /// Its id.
    pub port_id: Option<String>,
    /// Its address.
    pub address: Option<String>,
    /// The Nova server.
    pub server: Outside,
    /// Its id.
    pub server_id: Option<String>,
    /// When the call that makes it was first about to be sent.
    pub server_intent_at: Option<Timestamp>,
    /// What Nova says of it; `None` until it was listed.
    pub server_status: Option<ServerStatus>,
    /// Nova's fault, if it has one.
    pub server_fault: Option<String>,
    /// Since when complete lists have not shown it, though it should be there.
    pub server_missing_since: Option<Timestamp>,
    /// The bootstrap token in the cluster.
    pub token: Outside,
    /// The Node object.
    pub object: Outside,
    /// The Node object's view, when `object` is `Present`.
    pub kubelet: Kubelet,
    /// How far its drain is.
    pub drain: Drain,
    /// When its drain began.
    pub drain_started_at: Option<Timestamp>,
    /// It was cordoned by somebody else before us; then it stays so on the way back.
    pub was_cordoned: bool,
    /// Who keeps it from being drained.
    pub blockers: Vec<Blocker>,
    /// When it was first usable (domain rule: [`Node::is_usable`]).
    pub usable_at: Option<Timestamp>,
    /// What keeps it from coming up or going away, in words.
    pub trouble: Option<String>,
    /// Whose place it takes, and who takes its.
    pub lineage: Lineage,
    /// What goes wrong with its things, and since when.
    pub signs: Signs,
}

/// Whose place a node takes. Decided once, when the row of the heir is made, and stored: the heir
/// is given what owners put on the other ([`super::ledger`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lineage {
    /// The node whose ledger it is given.
    pub predecessor: Option<NodeId>,
    /// The node that was last made in its place.
    pub heir: Option<NodeId>,
    /// Its predecessor's ledger is not on it yet, or has changed since.
    pub needs_carry: bool,
}

/// What goes wrong with the things of a node, and since when.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signs {
    /// Calls that may have made its server.
    pub creates: u32,
    /// Since when its server is being deleted.
    pub deleting_since: Option<Timestamp>,
    /// When the last call to delete it was sent.
    pub delete_sent_at: Option<Timestamp>,
    /// When its server was last found by its id although lists do not show it.
    pub hidden_at: Option<Timestamp>,
    /// When its server was last started because it had stopped.
    pub started_at: Option<Timestamp>,
    /// Since when it is not Ready, after it served.
    pub unready_since: Option<Timestamp>,
    /// When its bootstrap token ends.
    pub token_until: Option<Timestamp>,
    /// Why the one before failed in its place.
    pub failed: Option<String>,
}

/// How far the drain of a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Drain {
    /// Not touched, or given back.
    Idle,
    /// A cordon may have been set.
    Cordoning,
    /// Cordoned; its pods are being evicted.
    Evicting,
    /// Only pods that stay on every node are left; the cluster said so.
    Drained,
    /// Left as it is by the drain policy; cordoned.
    Skipped,
    /// The cordon is being taken back.
    Uncordoning,
}

impl Drain {
    /// Every state.
    pub const ALL: [Self; 6] = [
        Self::Idle,
        Self::Cordoning,
        Self::Evicting,
        Self::Drained,
        Self::Skipped,
        Self::Uncordoning,
    ];

    /// The word in API and database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Cordoning => "cordoning",
            Self::Evicting => "evicting",
            Self::Drained => "drained",
            Self::Skipped => "skipped",
            Self::Uncordoning => "uncordoning",
        }
    }

    /// Whether we may have cordoned the node.
    pub fn may_be_cordoned(self) -> bool {
        self != Self::Idle
    }

    /// Whether the node counts as done for its wave.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Drained | Self::Skipped)
    }
}

/// What the Node object says, as last listed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_excessive_bools, reason = "facts of a Node object, independent")]
pub struct Kubelet {
    /// Condition Ready is True.
    pub is_ready: bool,
    /// Condition Ready is Unknown: its kubelet is silent, nobody there would stop a pod.
    pub is_unreachable: bool,
    /// `spec.unschedulable`.
    pub is_cordoned: bool,
    /// Our mark beside the cordon, if it is ours: who of us set it.
    pub cordon_mark: Option<String>,
    /// The providerID is that of our server.
    pub is_ours: bool,
    /// Labels and taints of the pool are on it.
    pub is_labelled: bool,
    /// An autoscaler is told to leave it alone though nothing moves, or is not told though it does.
    pub is_kept_wrongly: bool,
    /// The daemons that the offering names are Ready on it.
    pub has_daemons: bool,
    /// Version of the kubelet.
    pub version: String,
}

impl Node {
    /// Whether pods may be moved onto it: server ACTIVE, Node Ready, right providerID, labels and
    /// taints of the pool, daemons Ready. Rule: the checklist of Cluster API's machine health and
    /// kubeadm's join, put together. A cordon does not make a node unusable.
    pub fn is_usable(&self) -> bool {
        self.desired == Desired::Present
            && self.server == Outside::Present
            && self.server_status == Some(ServerStatus::Active)
            && self.object == Outside::Present
            && self.kubelet.is_ready
            && self.kubelet.is_ours
            && self.kubelet.is_labelled
            && self.kubelet.has_daemons
    }

    /// Whether a list that began after the intent to delete shows its server as if nobody deleted
    /// it: the call was never sent, or Nova gave up on it.
    pub fn lives_on(&self) -> bool {
        let shown = |status: &ServerStatus| !status.is_gone() && status.as_str() != SERVER_DELETING;
        self.server == Outside::Deleting && self.server_status.as_ref().is_some_and(shown)
    }

    /// What its Node object lacks of ours.
    pub fn lacks(&self) -> Option<&'static str> {
        if self.object != Outside::Present || !self.kubelet.is_ours {
            return None;
        }
        match (self.kubelet.is_labelled, self.kubelet.is_kept_wrongly) {
            (false, _) => Some("its pool's labels or taints"),
            (true, true) => Some("the right word to an autoscaler"),
            (true, false) => None,
        }
    }

    /// Whether new pods are put on it.
    pub fn is_serving(&self) -> bool {
        self.is_usable() && !self.kubelet.is_cordoned
    }

    /// Whether anything of it may exist outside.
    pub fn may_exist(&self) -> bool {
        self.port.may_exist()
            || self.server.may_exist()
            || self.token.may_exist()
            || self.object.may_exist()
    }

    /// What a person is told it is doing.
    pub fn stage(&self) -> NodeStage {
        if self.desired == Desired::Absent {
            return if self.may_exist() { NodeStage::Deleting } else { NodeStage::Gone };
        }
        match (self.server, &self.server_status) {
            (Outside::Never, _) => NodeStage::Wanted,
            (Outside::Present, Some(ServerStatus::Active)) if self.is_usable() => NodeStage::Usable,
            (Outside::Present, Some(ServerStatus::Active)) if self.usable_at.is_none() => {
                NodeStage::Joining
            }
            (Outside::Present | Outside::Unknown, None | Some(ServerStatus::Build)) => {
                NodeStage::Building
            }
            _ => NodeStage::Unhealthy,
        }
    }
}

/// What a node is doing, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeStage {
    /// Nothing of it was made yet.
    Wanted,
    /// Nova builds its server.
    Building,
    /// The server runs; the kubelet is on its way.
    Joining,
    /// It serves.
    Usable,
    /// It served, or its server failed; it does not serve now.
    Unhealthy,
    /// It is being deleted.
    Deleting,
    /// Nothing is left of it.
    Gone,
}
