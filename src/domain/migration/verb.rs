//! What a user can ask of a migration, and what that means in each phase.
//!
//! Every verb may be repeated: asking for what already is so is accepted and changes nothing. A
//! refused verb says why. The whole table is checked in as `tests/golden/verbs.txt`.
//!
//! Turning round is possible both ways until the end: `rollback` from any phase before committing,
//! `forward` out of `rolling_back`. A node that is wanted absent stays so, whoever turns: what is
//! missing after turning forward is made anew.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Phase;

/// What a user can ask of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Take no further step until resumed.
    Pause,
    /// Go on.
    Resume,
    /// Let the wave that waits for approval pass.
    Approve,
    /// Wait no longer for the drain of one node.
    SkipNode,
    /// Turn back.
    Rollback,
    /// Turn forward again.
    Forward,
    /// End the hold and delete the old nodes.
    Commit,
    /// End it before the first server is made.
    Cancel,
    /// Forget back-off and attempts of what is parked.
    Retry,
}

/// All verbs, in the order in which they are listed to users.
pub const VERBS: [Verb; 9] = [
    Verb::Pause,
    Verb::Resume,
    Verb::Approve,
    Verb::SkipNode,
    Verb::Rollback,
    Verb::Forward,
    Verb::Commit,
    Verb::Cancel,
    Verb::Retry,
];

/// All of a migration that decides what a verb means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "wishes of users, each on its own")]
pub struct Standing {
    /// Where it is.
    pub phase: Phase,
    /// Somebody, or the migration itself, paused it.
    pub is_paused: bool,
    /// The present wave was approved.
    pub is_approved: bool,
    /// Somebody wants it back.
    pub wants_rollback: bool,
    /// Somebody wants it committed.
    pub wants_commit: bool,
    /// Somebody wants it cancelled.
    pub wants_cancel: bool,
}

impl Standing {
    /// A migration in `phase` of which nothing was asked but, on the way back, that.
    pub fn plain(phase: Phase) -> Self {
        Self {
            phase,
            is_paused: false,
            is_approved: false,
            wants_rollback: matches!(phase, Phase::RollingBack | Phase::RolledBack),
            wants_commit: false,
            wants_cancel: phase == Phase::Cancelled,
        }
    }

    /// Turning back was asked for and is not over.
    fn is_turning(self) -> bool {
        self.wants_rollback && !self.phase.is_final()
    }
}

/// What a verb comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// It changes something: what.
    Does(&'static str),
    /// It is so already; accepted, and nothing changes.
    IsSo(&'static str),
    /// It makes no sense: why.
    Refused(&'static str),
}

impl Meaning {
    /// Whether the verb is accepted.
    pub fn is_legal(self) -> bool {
        !matches!(self, Self::Refused(_))
    }
}

use Meaning::{Does, IsSo, Refused};

impl Verb {
    /// The word in API and command.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Approve => "approve",
            Self::SkipNode => "skip_node",
            Self::Rollback => "rollback",
            Self::Forward => "forward",
            Self::Commit => "commit",
            Self::Cancel => "cancel",
            Self::Retry => "retry",
        }
    }

    /// What the verb comes to where the migration stands.
    pub fn meaning(self, at: Standing) -> Meaning {
        match self {
            Self::Pause => pause(at),
            Self::Resume => resume(at),
            Self::Approve => approve(at),
            Self::SkipNode => skip_node(at.phase),
            Self::Rollback => rollback(at),
            Self::Forward => forward(at),
            Self::Commit => commit(at),
            Self::Cancel => cancel(at),
            Self::Retry if at.phase.is_final() => Refused("it is over"),
            Self::Retry => Does("back-off and attempts of what is parked are forgotten"),
        }
    }
}

fn pause(at: Standing) -> Meaning {
    if at.is_paused && !at.phase.is_final() {
        return IsSo("it is paused");
    }
    match at.phase {
        Phase::Pending | Phase::Preflight => Does("nothing is made until it is resumed"),
        Phase::Provisioning => Does("no more servers are asked for; those asked for come up"),
        Phase::Draining => Does("no node is cordoned, no pod evicted; cordons stay"),
        Phase::Soaking => Does("the wave does not pass when its soak is over"),
        Phase::Approval => Does("the wave does not pass when it is approved"),
        Phase::Holding => Does("the old nodes are kept beyond the hold"),
        Phase::Committing => Does("no more old nodes are given up; what is being deleted goes"),
        Phase::RollingBack => Does("nothing is uncordoned or drained; what is being deleted goes"),
        Phase::Succeeded | Phase::RolledBack | Phase::Cancelled => Refused("it is over"),
    }
}

fn resume(at: Standing) -> Meaning {
    if at.phase.is_final() {
        Refused("it is over")
    } else if at.is_paused {
        Does("it goes on where it stands; the time of each drain begins anew")
    } else {
        IsSo("it is not paused")
    }
}

fn approve(at: Standing) -> Meaning {
    match at.phase {
        Phase::Approval if at.is_turning() => Refused("turning back was asked for"),
        Phase::Approval if at.is_approved => IsSo("the wave is approved"),
        Phase::Approval => Does("the wave passes"),
        _ => Refused("no wave waits for approval"),
    }
}

fn skip_node(phase: Phase) -> Meaning {
    match phase {
        Phase::Provisioning | Phase::Draining | Phase::Soaking | Phase::Approval => {
            Does("an old node counts as drained once it is cordoned; its pods go with it at commit")
        }
        Phase::RollingBack => Does("a new node is drained no further; its pods go with it"),
        Phase::Pending | Phase::Preflight => Refused("no node is touched yet"),
        Phase::Holding | Phase::Committing => Refused("no drain is waited for"),
        Phase::Succeeded | Phase::RolledBack | Phase::Cancelled => Refused("it is over"),
    }
}

fn rollback(at: Standing) -> Meaning {
    match at.phase {
        Phase::Committing | Phase::Succeeded => {
            Refused("the old nodes are being deleted: there is no way back after committing")
        }
        Phase::Cancelled => Refused("nothing was done that could be undone"),
        Phase::RolledBack => IsSo("it was turned back"),
        _ if at.wants_rollback => IsSo("it is on its way back"),
        Phase::Pending | Phase::Preflight => Does("it ends; nothing was made"),
        Phase::RollingBack => Does("it turns back once more"),
        Phase::Provisioning
        | Phase::Draining
        | Phase::Soaking
        | Phase::Approval
        | Phase::Holding => {
            Does("old nodes are uncordoned, new ones drained and deleted; no server is made")
        }
    }
}

fn forward(at: Standing) -> Meaning {
    match at.phase {
        Phase::Succeeded | Phase::RolledBack | Phase::Cancelled => {
            Refused("it is over: start another migration")
        }
        Phase::RollingBack if at.wants_rollback => {
            Does("new nodes serve again, missing ones are made anew, old ones go through waves")
        }
        _ if at.wants_rollback => Does("the wish to turn back is taken back"),
        _ => IsSo("it goes forward"),
    }
}

fn commit(at: Standing) -> Meaning {
    match at.phase {
        Phase::Holding if at.is_turning() => Refused("turning back was asked for"),
        Phase::Holding if at.wants_commit => IsSo("it is asked for"),
        Phase::Holding => Does("the hold ends and the old nodes are deleted"),
        Phase::Committing | Phase::Succeeded => IsSo("it is committed"),
        Phase::RollingBack | Phase::RolledBack => Refused("it was turned back"),
        Phase::Cancelled => Refused("it is over"),
        Phase::Pending
        | Phase::Preflight
        | Phase::Provisioning
        | Phase::Draining
        | Phase::Soaking
        | Phase::Approval => Refused("not all waves are through"),
    }
}

fn cancel(at: Standing) -> Meaning {
    match at.phase {
        Phase::Cancelled => IsSo("it is cancelled"),
        Phase::Pending | Phase::Preflight if at.is_turning() => {
            Refused("turning back was asked for")
        }
        Phase::Pending | Phase::Preflight if at.wants_cancel => IsSo("it is asked for"),
        Phase::Pending | Phase::Preflight => Does("it ends; nothing was made"),
        Phase::Committing | Phase::Succeeded => Refused("it is committed"),
        Phase::RollingBack | Phase::RolledBack => Refused("it was turned back"),
        Phase::Provisioning
        | Phase::Draining
        | Phase::Soaking
        | Phase::Approval
        | Phase::Holding => Refused("servers may have been made: rollback is the way out"),
    }
}
