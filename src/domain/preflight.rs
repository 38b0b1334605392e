//! What a migration would do, as a preflight shows it before anything is touched.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::wave::Gate;

/// Waves, needs and time of a migration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MovePlan {
    /// Every wave that moves a node, with its nodes.
    pub waves: Vec<PlannedWave>,
    /// What all waves together need on the target.
    pub needs: Needs,
    /// How long it will take.
    pub estimate: Estimate,
}

/// One wave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedWave {
    /// Which one, from 1.
    pub number: u32,
    /// How far it goes, as asked for: `1` or `25%`.
    #[schema(example = "25%")]
    pub upto: String,
    /// Names of the nodes that it moves.
    pub nodes: Vec<String>,
    /// Seconds that must stay healthy after it.
    pub soak_seconds: u32,
    /// What must be true to go on after it.
    pub gate: Gate,
    /// About how many seconds it takes with its soak.
    pub seconds: u64,
}

/// What a migration needs on its target, the surge of its pools included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Needs {
    /// Servers.
    pub servers: u64,
    /// How many of them are surge: needed only while a new node that failed is replaced.
    pub surge: u64,
    /// Virtual CPUs.
    pub vcpus: u64,
    /// Memory in MiB.
    pub ram_mb: u64,
    /// Neutron ports.
    pub ports: u64,
    /// Addresses.
    pub addresses: u64,
    /// Server groups.
    pub server_groups: u64,
}

/// How long a migration takes when nobody has to wait for anything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Estimate {
    /// Seconds until the last wave is through: servers, drains and soaks.
    pub moving_seconds: u64,
    /// Seconds for which the old nodes are kept then.
    pub hold_seconds: u64,
    /// Whether somebody has to approve or commit on the way, which takes as long as it takes.
    pub waits_for_people: bool,
}

/// Servers that somebody else will still make on the target.
///
/// Two kinds: what an open migration to that cloud has not made yet, and nodes that exist in our
/// rows but not yet in the inventory, since it was read before they were made. Of migrations that
/// have not passed their own preflight only those that were accepted before this one count: so of
/// two that fit one by one but not together the earlier goes on, and the later waits for it. All of
/// it is read from rows in the transaction of the other facts; nothing is written down beside them,
/// so nothing has to be given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// Who, for people.
    pub by: String,
    /// Flavor, by the name that the row has.
    pub flavor: String,
    /// How many servers.
    pub servers: u64,
    /// Whether they count against the same quota.
    pub is_same_account: bool,
}
