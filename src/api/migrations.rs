//! Moving a cluster's workers from cloud to cloud.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::condition::Condition;
use crate::domain::explanation::Reason;
use crate::domain::ids::{ClusterId, MigrationId, NodeId, PreflightId};
use crate::domain::insight::Insight;
use crate::domain::ledger::LedgerDiff;
use crate::domain::migration::{CommitPolicy, Direction, DrainSpec, Phase, Verb};
use crate::domain::node::{Blocker, Drain, NodeStage};
use crate::domain::wave::Gate;

pub use crate::domain::migration::MigrationSpec as NewMigration;

/// A migration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Migration {
    /// Its id.
    pub id: MigrationId,
    /// Its cluster.
    pub cluster_id: ClusterId,
    /// Name of its cluster.
    pub cluster: String,
    /// Name of the cluster's project.
    pub project: String,
    /// Name of the cloud that the workers leave.
    pub source: String,
    /// Name of the cloud that they move to.
    pub target: String,
    /// Names of the pools that move.
    pub pools: Vec<String>,
    /// Where it is.
    pub phase: Phase,
    /// When the phase began.
    #[schema(value_type = String, format = DateTime)]
    pub phase_since: Timestamp,
    /// Which way it goes.
    pub direction: Direction,
    /// Why it is paused; absent when it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<String>,
    /// The wave that it is in, from 1; absent before the first and after the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wave: Option<u32>,
    /// All waves, also those that add no node and are left out.
    pub waves: Vec<Wave>,
    /// How nodes are drained.
    pub drain: DrainSpec,
    /// Seconds for which old nodes are kept after the last wave.
    pub hold_seconds: u32,
    /// What ends the hold.
    pub commit: CommitPolicy,
    /// Whether it turns back by itself where it would pause because something suffers.
    #[serde(default)]
    pub auto_rollback: bool,
    /// Every node of both sides. Left out in lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<MigrationNode>,
    /// How many nodes of each side stand where.
    pub progress: Progress,
    /// Finer truths than the phase.
    pub conditions: Vec<Condition>,
    /// What was looked at before it; absent for migrations of old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preflight_id: Option<PreflightId>,
    /// What its preflight found that is not well, the worst first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub insights: Vec<Insight>,
    /// Why it is not going on right now; empty when nothing is waited for.
    pub waiting: Vec<String>,
    /// Verbs that would change something now.
    pub legal: Vec<Verb>,
    /// When it will probably be over (without waiting for people); absent when nobody can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub estimated_end: Option<Timestamp>,
    /// Number of the wish; for `If-Match`.
    pub generation: i64,
    /// Who asked for it.
    pub created_by: String,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<Timestamp>,
}

/// One wave of a migration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Wave {
    /// Which one, from 1.
    pub number: u32,
    /// How far it goes, as asked for: `1` or `25%`.
    #[schema(example = "25%")]
    pub upto: String,
    /// Seconds that must stay healthy after it.
    pub soak_seconds: u32,
    /// What must be true to go on after it.
    pub gate: Gate,
    /// Old nodes that it moves.
    pub nodes: u32,
    /// How many of them are drained.
    pub drained: u32,
    /// Where it stands.
    pub state: WaveState,
}

/// Where a wave stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WaveState {
    /// Adds no node beyond the wave before it, so it is left out.
    Skipped,
    /// Still to come.
    Waiting,
    /// The present one.
    Running,
    /// Through.
    Done,
}

/// Which side of a migration a node is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// On the source: leaves when all goes well.
    Old,
    /// On the target: leaves on the way back.
    New,
}

/// One node of a migration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MigrationNode {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Name of its pool.
    pub pool: String,
    /// Which side it is on.
    pub side: Side,
    /// Its wave, from 1; only old nodes have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wave: Option<u32>,
    /// What it is doing.
    pub stage: NodeStage,
    /// How far its drain is.
    pub drain: Drain,
    /// Who keeps it from being drained.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blockers: Vec<Blocker>,
    /// What keeps it from coming up or going away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Name of the node in whose place it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
    /// What became of the labels, taints and annotations that owners had put on that node, beyond
    /// those of its pool; absent if there were none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<LedgerDiff>,
}

/// How many nodes stand where.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// Old nodes that the migration moves.
    pub old: u32,
    /// Old nodes that are drained (or skipped).
    pub drained: u32,
    /// New nodes, in any state.
    pub new: u32,
    /// New nodes that serve.
    pub usable: u32,
}

/// Why a migration is where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// The migration.
    pub id: MigrationId,
    /// Name of its cluster.
    pub cluster: String,
    /// Where it is.
    pub phase: Phase,
    /// When the phase began.
    #[schema(value_type = String, format = DateTime)]
    pub phase_since: Timestamp,
    /// The wave that it is in, from 1; absent before the first and after the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wave: Option<u32>,
    /// Whether it goes on without anybody doing something.
    pub is_going: bool,
    /// Why it is where it is; what needs somebody comes first. Never empty.
    pub reasons: Vec<Reason>,
}

/// What goes with a verb.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VerbRequest {
    /// Why, for whoever reads the timeline; at most 200 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 200)]
    pub reason: Option<String>,
    /// Which node, by name or id; only with `skip_node`, and needed there: an old node on the way
    /// forward, a new one on the way back.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 100)]
    pub node: Option<String>,
}
