//! ClusterMigration: a cluster's workers move from one cloud to another, wave by wave.
//!
//! ```text
//! pending > preflight > [ provisioning > draining > soaking > (approval) ] per wave
//!         > holding > committing > succeeded
//! any phase before committing > rolling_back > rolled_back
//! rolling_back > provisioning (turned forward again; > preflight if nothing was made)
//! before the first server was made, or with its cluster: cancelled
//! ```
//!
//! Who writes: `app` sets wishes (`paused`, `approved_wave`, `wants_*`, nodes to skip; what each verb
//! means in each phase is `verb`'s), the migration worker moves
//! the phase under its lease, the cluster worker makes and deletes nodes by what
//! `plan::pool::wanted` says for the phase.
//!
//! Invariants: new nodes are usable before old ones are cordoned; old servers exist until
//! `committing`; rolling back makes no server and calls nothing on the target cloud except to
//! delete; a node wanted absent is never revived.
//!
//! After a crash: the phase is still right, since it only moves when what it waits for is recorded.
//! A cordon or an eviction that was not recorded is repeated, and both are idempotent.

mod verb;

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::field::FieldErrors;
use super::harm::Harm;
use super::ids::{CloudId, ClusterId, MigrationId, NodeId, PoolId};
use super::wave::{WaveSpec, check_waves, default_waves};

pub use verb::{Meaning, Standing, VERBS, Verb};

/// What an owner asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MigrationSpec {
    /// Cloud that the workers leave, by name; default: the one cloud on which the pools are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Cloud that they move to, by name.
    pub target: String,
    /// Pools by name; default: all on the source.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<String>,
    /// Default `1, 25%, 100%` with a soak of 180 s.
    #[serde(default = "default_waves")]
    pub waves: Vec<WaveSpec>,
    /// How nodes are drained.
    #[serde(default)]
    pub drain: DrainSpec,
    /// Seconds for which the old nodes are kept, cordoned, after the last wave. Default 24 h.
    #[serde(default = "hold_default")]
    pub hold_seconds: u32,
    /// What ends the hold. Default: its end.
    #[serde(default)]
    pub commit: CommitPolicy,
    /// Whether a canary tries the target before a node is touched. Default: unless one did within
    /// a day.
    #[serde(default)]
    pub canary: CanaryPolicy,
    /// Whether it turns back by itself where it would pause because something suffers. Default no.
    #[serde(default)]
    pub auto_rollback: bool,
}

/// Whether a canary tries the target: a server like those that the pools get, which reports what
/// it reaches and is deleted.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum CanaryPolicy {
    /// One is made for every flavor that has no result younger than a day.
    #[default]
    Auto,
    /// None is made, and what only a canary can see is not known.
    Off,
}

fn hold_default() -> u32 {
    24 * 3600
}

/// How nodes are drained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DrainSpec {
    /// Seconds that one node may take, 10 to 86400. Default 3600.
    pub timeout_seconds: u32,
    /// What happens then. Default: pause.
    pub at_deadline: AtDeadline,
    /// Seconds that the volumes of a node may take to be detached once its pods are gone, 0 to
    /// 86400; then the migration pauses. Default 600.
    pub volume_timeout_seconds: u32,
    /// Whether pods that are not Ready are deleted when a budget refuses to let them go: a broken
    /// application's budget never allows it. Default false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub evict_unhealthy: bool,
    /// Nodes drained at once, 1 to 20; default: one in the first wave, then a tenth of the wave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallel: Option<u32>,
}

impl Default for DrainSpec {
    fn default() -> Self {
        Self {
            timeout_seconds: 3600,
            at_deadline: AtDeadline::Pause,
            volume_timeout_seconds: 600,
            evict_unhealthy: false,
            parallel: None,
        }
    }
}

/// What happens when a node is not drained in time.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum AtDeadline {
    /// The migration pauses and says who blocks.
    #[default]
    Pause,
    /// The node is left as it is, cordoned; the migration goes on without it. Its server is
    /// deleted at commit like any other.
    SkipNode,
    /// Pods that could not be evicted are deleted. An explicit choice, recorded with its author.
    Force,
}

/// What ends the hold.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum CommitPolicy {
    /// The end of the hold.
    #[default]
    AutoAfterHold,
    /// Only the verb `commit`.
    Manual,
}

impl MigrationSpec {
    /// Checks all that can be known without the database.
    pub fn check(&self) -> FieldErrors {
        let mut errors = check_waves(&self.waves);
        if !(10..=86_400).contains(&self.drain.timeout_seconds) {
            errors.push("drain.timeout_seconds", "must be 10 to 86400");
        }
        if self.drain.volume_timeout_seconds > 86_400 {
            errors.push("drain.volume_timeout_seconds", "must be 0 to 86400");
        }
        if self.drain.parallel.is_some_and(|n| !(1..=20).contains(&n)) {
            errors.push("drain.parallel", "must be 1 to 20");
        }
        if self.hold_seconds > 30 * 86_400 {
            errors.push("hold_seconds", "must be 0 to 2592000 (30 days)");
        }
        if self.source.as_deref() == Some(self.target.as_str()) {
            errors.push("target", "must be another cloud than the source");
        }
        errors
    }
}

/// Where a migration is.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    ToSchema,
    JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Accepted; nothing looked at yet.
    Pending,
    /// Target and nodes are looked at; nothing is touched.
    Preflight,
    /// The wave's new nodes are made.
    Provisioning,
    /// The wave's old nodes are cordoned and drained.
    Draining,
    /// All must stay healthy for the wave's soak.
    Soaking,
    /// The wave's gate wants somebody's approval.
    Approval,
    /// All waves are through; old nodes are kept, cordoned.
    Holding,
    /// Old nodes are deleted. The point of no return.
    Committing,
    /// Done.
    Succeeded,
    /// Old nodes are uncordoned, new ones drained and deleted.
    RollingBack,
    /// The source serves and the target is drained.
    RolledBack,
    /// Ended before the first server was made, or by the deletion of its cluster.
    Cancelled,
}

/// Every phase, in the order of a migration's life.
pub const PHASES: [Phase; 12] = [
    Phase::Pending,
    Phase::Preflight,
    Phase::Provisioning,
    Phase::Draining,
    Phase::Soaking,
    Phase::Approval,
    Phase::Holding,
    Phase::Committing,
    Phase::Succeeded,
    Phase::RollingBack,
    Phase::RolledBack,
    Phase::Cancelled,
];

/// What moves a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// A worker took it up.
    Taken,
    /// Preflight found nothing that blocks.
    Passed,
    /// The wave's new nodes are usable.
    Provisioned,
    /// The wave's old nodes are drained.
    Drained,
    /// The soak is over and the wave's gate wants approval.
    SoakedNeedsApproval,
    /// The soak is over, or the wave was approved, and there is another wave.
    NextWave,
    /// The soak is over, or the wave was approved, and it was the last.
    LastWave,
    /// The hold is over, or somebody committed.
    Commit,
    /// The old nodes are gone.
    Committed,
    /// Somebody wants the way back.
    Rollback,
    /// The target is drained and the source uncordoned.
    Returned,
    /// Somebody cancelled before a server was made.
    Cancel,
    /// Somebody wants it forward again.
    Forward,
    /// The same, and nothing of it was ever made.
    ForwardAnew,
    /// Its cluster is being deleted, with all nodes on both clouds.
    ClusterDeleted,
}

/// The event makes no sense in the phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} is not possible in phase {phase:?}")]
pub struct IllegalTransition {
    /// Where it is.
    pub phase: Phase,
    /// What was asked.
    pub event: Event,
}

impl Phase {
    /// The phase that follows when `event` happens.
    pub fn after(self, event: Event) -> Result<Self, IllegalTransition> {
        use Event as E;
        use Phase as P;
        match (self, event) {
            (P::Pending, E::Taken) | (P::RollingBack, E::ForwardAnew) => Ok(P::Preflight),
            (P::Preflight, E::Passed)
            | (P::Soaking | P::Approval, E::NextWave)
            | (P::RollingBack, E::Forward) => Ok(P::Provisioning),
            (P::Provisioning, E::Provisioned) => Ok(P::Draining),
            (P::Draining, E::Drained) => Ok(P::Soaking),
            (P::Soaking, E::SoakedNeedsApproval) => Ok(P::Approval),
            (P::Soaking | P::Approval, E::LastWave) => Ok(P::Holding),
            (P::Holding, E::Commit) => Ok(P::Committing),
            (P::Committing, E::Committed) => Ok(P::Succeeded),
            (P::RollingBack, E::Returned) => Ok(P::RolledBack),
            (P::Pending | P::Preflight, E::Cancel) => Ok(P::Cancelled),
            (phase, E::ClusterDeleted) if !phase.is_final() => Ok(P::Cancelled),
            (
                P::Pending
                | P::Preflight
                | P::Provisioning
                | P::Draining
                | P::Soaking
                | P::Approval
                | P::Holding,
                E::Rollback,
            ) => Ok(P::RollingBack),
            (phase, event) => Err(IllegalTransition { phase, event }),
        }
    }

    /// Whether nothing will happen any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::RolledBack | Self::Cancelled)
    }

    /// Whether the way back is still open.
    pub fn can_roll_back(self) -> bool {
        self.after(Event::Rollback).is_ok()
    }

    /// The word in API, database and command.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Preflight => "preflight",
            Self::Provisioning => "provisioning",
            Self::Draining => "draining",
            Self::Soaking => "soaking",
            Self::Approval => "approval",
            Self::Holding => "holding",
            Self::Committing => "committing",
            Self::Succeeded => "succeeded",
            Self::RollingBack => "rolling_back",
            Self::RolledBack => "rolled_back",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Which way a migration goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// To the target.
    Forward,
    /// Back to the source.
    Back,
}

impl Direction {
    /// The direction of a migration in `phase`; a wish to turn counts before it is taken up.
    pub fn of(phase: Phase, wants_rollback: bool) -> Self {
        if phase == Phase::RolledBack || (wants_rollback && !phase.is_final()) {
            Self::Back
        } else {
            Self::Forward
        }
    }
}

/// A migration as the planner sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Migration {
    /// Its id.
    pub id: MigrationId,
    /// Which cluster.
    pub cluster_id: ClusterId,
    /// Cloud that the workers leave.
    pub source: CloudId,
    /// Cloud that they move to.
    pub target: CloudId,
    /// What was asked.
    pub spec: MigrationSpec,
    /// Where it is.
    pub phase: Phase,
    /// When the phase began.
    pub phase_since: Timestamp,
    /// Index of the wave into `spec.waves`.
    pub wave: usize,
    /// Why it is paused, if it is.
    pub paused: Option<String>,
    /// When it last went on after a pause.
    pub resumed_at: Option<Timestamp>,
    /// The wave that somebody approved last.
    pub approved_wave: Option<usize>,
    /// Somebody wants it committed.
    pub wants_commit: bool,
    /// Somebody wants it back.
    pub wants_rollback: bool,
    /// Somebody wants it ended before it began.
    pub wants_cancel: bool,
    /// Since when everything that the soak asks for has been true.
    pub healthy_since: Option<Timestamp>,
    /// What its waves may have broken.
    pub harm: Harm,
    /// Pools that move.
    pub pools: Vec<PoolId>,
    /// The old nodes and their waves.
    pub nodes: Vec<MigrationNode>,
    /// How many of those each pool has, with lost ones and without those that its owner gave up.
    pub sizes: BTreeMap<PoolId, u32>,
    /// Nodes whose drain nobody wants to wait for.
    pub skips: BTreeSet<NodeId>,
}

/// An old node of a migration, with the wave that was fixed when the migration was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MigrationNode {
    /// Which node.
    pub node_id: NodeId,
    /// Index of its wave into `spec.waves`.
    pub wave: usize,
}

impl Migration {
    /// Which way it goes.
    pub fn direction(&self) -> Direction {
        Direction::of(self.phase, self.wants_rollback)
    }

    /// All that decides what a verb means now.
    pub fn standing(&self) -> Standing {
        Standing {
            phase: self.phase,
            is_paused: self.paused.is_some(),
            is_approved: self.approved_wave == Some(self.wave),
            wants_rollback: self.wants_rollback,
            wants_commit: self.wants_commit,
            wants_cancel: self.wants_cancel,
        }
    }

    /// The wave after the present one that has nodes.
    pub fn next_wave(&self) -> Option<usize> {
        self.nodes.iter().map(|n| n.wave).filter(|wave| *wave > self.wave).min()
    }

    /// The first wave that has nodes; 0 if there is none.
    pub fn first_wave(&self) -> usize {
        self.nodes.iter().map(|n| n.wave).min().unwrap_or(0)
    }

    /// The wave of an old node. One that came after the migration was accepted (a replacement, a
    /// scale-up) belongs to the last wave.
    pub fn wave_of(&self, node: NodeId) -> usize {
        let assigned = self.nodes.iter().find(|n| n.node_id == node).map(|n| n.wave);
        assigned.unwrap_or(self.spec.waves.len().saturating_sub(1))
    }

    /// When the clock alone moves it on: the end of a soak that stays healthy, or of the hold.
    pub fn next_moment(&self) -> Option<Timestamp> {
        let seconds = |n: u32| SignedDuration::from_secs(i64::from(n));
        match self.phase {
            Phase::Soaking => {
                let soak = self.spec.waves.get(self.wave)?.soak_seconds;
                Some(self.healthy_since? + seconds(soak))
            }
            Phase::Holding => Some(self.phase_since + seconds(self.spec.hold_seconds)),
            _ => None,
        }
    }

    /// When a drain that began at `since` must be over. What was paused begins anew.
    pub fn drain_deadline(&self, since: Timestamp) -> Timestamp {
        let since = self.resumed_at.map_or(since, |resumed| since.max(resumed));
        since + SignedDuration::from_secs(i64::from(self.spec.drain.timeout_seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [Event; 15] = [
        Event::Taken,
        Event::Passed,
        Event::Provisioned,
        Event::Drained,
        Event::SoakedNeedsApproval,
        Event::NextWave,
        Event::LastWave,
        Event::Commit,
        Event::Committed,
        Event::Rollback,
        Event::Returned,
        Event::Cancel,
        Event::Forward,
        Event::ForwardAnew,
        Event::ClusterDeleted,
    ];

    #[test]
    fn exactly_the_drawn_transitions_exist() {
        let mut drawn = Vec::new();
        for phase in PHASES {
            for event in EVENTS {
                if let Ok(next) = phase.after(event) {
                    drawn.push(format!("{} {event:?} {}", phase.as_str(), next.as_str()));
                }
            }
        }
        assert_eq!(
            drawn,
            [
                "pending Taken preflight",
                "pending Rollback rolling_back",
                "pending Cancel cancelled",
                "pending ClusterDeleted cancelled",
                "preflight Passed provisioning",
                "preflight Rollback rolling_back",
                "preflight Cancel cancelled",
                "preflight ClusterDeleted cancelled",
                "provisioning Provisioned draining",
                "provisioning Rollback rolling_back",
                "provisioning ClusterDeleted cancelled",
                "draining Drained soaking",
                "draining Rollback rolling_back",
                "draining ClusterDeleted cancelled",
                "soaking SoakedNeedsApproval approval",
                "soaking NextWave provisioning",
                "soaking LastWave holding",
                "soaking Rollback rolling_back",
                "soaking ClusterDeleted cancelled",
                "approval NextWave provisioning",
                "approval LastWave holding",
                "approval Rollback rolling_back",
                "approval ClusterDeleted cancelled",
                "holding Commit committing",
                "holding Rollback rolling_back",
                "holding ClusterDeleted cancelled",
                "committing Committed succeeded",
                "committing ClusterDeleted cancelled",
                "rolling_back Returned rolled_back",
                "rolling_back Forward provisioning",
                "rolling_back ForwardAnew preflight",
                "rolling_back ClusterDeleted cancelled",
            ]
        );
    }

    #[test]
    fn every_phase_that_is_not_final_can_be_left() {
        for phase in PHASES {
            let left = EVENTS.iter().any(|event| phase.after(*event).is_ok());
            assert_eq!(left, !phase.is_final(), "{phase:?}");
        }
    }

    #[test]
    fn source_equal_to_target_is_named() {
        let spec: MigrationSpec =
            serde_json::from_str(r#"{"source":"west","target":"west"}"#).unwrap();
        assert_eq!(spec.check().0[0].field, "target");
        assert!(serde_json::from_str::<MigrationSpec>(r#"{"target":"w","wave":[]}"#).is_err());
    }
}
