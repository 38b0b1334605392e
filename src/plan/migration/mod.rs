//! What a migration does next, and why not more.
//!
//! Nodes are made and deleted by the cluster planner, by [`super::pool::wanted`]. Here the phase
//! moves ([`Planner`]), old nodes are cordoned and drained ([`draining`]), and on the way back new
//! ones ([`back`]). People may turn it round in the middle ([`turn`]), as long as the way back is
//! open ([`way_back`]). What a wave breaks is watched ([`harm`]).

mod back;
mod draining;
mod harm;
mod turn;
pub mod way_back;

use std::fmt;

use jiff::{SignedDuration, Timestamp};

use super::Plan;
use super::pool::{Pool, goal};
use super::preflight::Verdict;
use crate::domain::ids::NodeId;
use crate::domain::migration::{CommitPolicy, Event, Migration, Phase};
use crate::domain::node::{Desired, Node};
use crate::domain::wave::Gate;

pub use turn::conditions;

/// Everything the planner may know.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The moment of the snapshot.
    pub now: Timestamp,
    /// The migration.
    pub migration: Migration,
    /// The cluster's pools.
    pub pools: Vec<Pool>,
    /// The open workers of the cluster, by name.
    pub nodes: Vec<Node>,
    /// What its preflight says.
    pub preflight: Verdict,
    /// Whether the cluster itself is wanted.
    pub cluster: Desired,
}

/// One step. Those marked *row* change only our database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// *row* The phase moves; `NextWave` goes to that wave.
    Move(Event, Option<usize>),
    /// *row* The soak begins anew, or stops because something is not well.
    SetHealthy(bool),
    /// Writes down what the cluster lacks before the wave.
    TakeBaseline,
    /// Looks what the cluster lacks now.
    LookForHarm,
    /// *row* The migration pauses by itself.
    Pause(String),
    /// *row* The migration turns back by itself.
    TurnBack(String),
    /// Cordons the node.
    Cordon(NodeId),
    /// Evicts what can be evicted now, and sees whether the node is drained.
    DrainPass(NodeId),
    /// The same, but pods that are refused are deleted.
    ForcePass(NodeId),
    /// *row* The drain policy leaves the node as it is.
    Skip(NodeId),
    /// Takes our cordon back.
    Uncordon(NodeId),
    /// *row* There is nothing to drain: the node's kubelet is silent or its server is gone.
    AssumeDrained(NodeId),
    /// *row* The node is not wanted any more.
    Dismiss(NodeId),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Servers that may fail in one place before a person should look: each costs a join deadline.
const TRIES: u32 = 3;
/// The same where the cloud has no room. That comes back by itself, and with the back-off between
/// tries this is an hour and a half.
const TRIES_FOR_ROOM: u32 = 8;
/// Nova's fault of a server for which no host has room.
const NO_ROOM: &str = "No valid host";

/// Plans what can be done now.
pub fn plan(snapshot: &Snapshot) -> Plan<Step> {
    let mut planner = Planner { s: snapshot, plan: Plan::default() };
    planner.run();
    planner.plan
}

struct Planner<'a> {
    s: &'a Snapshot,
    plan: Plan<Step>,
}

impl<'a> Planner<'a> {
    fn run(&mut self) {
        let migration = &self.s.migration;
        if self.s.cluster == Desired::Absent && !migration.phase.is_final() {
            let why = "its cluster is being deleted";
            return self.plan.step(Step::Move(Event::ClusterDeleted, None), why);
        }
        if migration.wants_cancel && migration.phase.after(Event::Cancel).is_ok() {
            return self.plan.step(Step::Move(Event::Cancel, None), "somebody cancelled it");
        }
        if migration.wants_rollback && migration.phase.can_roll_back() {
            return self.plan.step(Step::Move(Event::Rollback, None), "somebody wants it back");
        }
        if let Some(reason) = &migration.paused {
            return self.plan.wait(format!("paused: {reason}"));
        }
        match migration.phase {
            Phase::Pending => self.plan.step(Step::Move(Event::Taken, None), "it was accepted"),
            Phase::Preflight => self.preflight(),
            Phase::Provisioning => self.provision(),
            Phase::Draining if self.watch() => self.drain(),
            Phase::Soaking if self.watch() => self.soak(),
            Phase::Approval if self.watch() => self.approval(),
            Phase::Holding => self.hold(),
            Phase::Committing => self.commit(),
            Phase::RollingBack if migration.wants_rollback => self.roll_back(),
            Phase::RollingBack => self.turn_forward(),
            Phase::Draining
            | Phase::Soaking
            | Phase::Approval
            | Phase::Succeeded
            | Phase::RolledBack
            | Phase::Cancelled => {}
        }
    }

    /// Open nodes of the pools that move.
    fn moving(&self) -> impl Iterator<Item = &'a Node> {
        let pools = &self.s.migration.pools;
        self.s.nodes.iter().filter(|n| n.pool_id.is_some_and(|pool| pools.contains(&pool)))
    }

    fn old(&self) -> impl Iterator<Item = &'a Node> {
        let source = self.s.migration.source;
        self.moving().filter(move |n| n.cloud_id == source)
    }

    fn new_nodes(&self) -> impl Iterator<Item = &'a Node> {
        let target = self.s.migration.target;
        self.moving().filter(move |n| n.cloud_id == target)
    }

    fn preflight(&mut self) {
        match &self.s.preflight {
            Verdict::Pending(why) => self.plan.wait(format!("preflight: {why}")),
            Verdict::Blocked(reasons) => {
                for reason in reasons {
                    self.plan.wait(format!("preflight: {reason}"));
                }
            }
            Verdict::Clear => {
                let first = self.s.migration.first_wave();
                let why = "preflight found nothing that blocks";
                self.plan.step(Step::Move(Event::Passed, Some(first)), why);
            }
        }
    }

    /// What the target still lacks for the present wave, in words.
    fn lacking(&self) -> Vec<String> {
        let mut lacking = Vec::new();
        for pool in self.s.pools.iter().filter(|p| self.s.migration.pools.contains(&p.id)) {
            let nodes: Vec<&Node> =
                self.s.nodes.iter().filter(|n| n.pool_id == Some(pool.id)).collect();
            let goal = goal(pool, &self.s.migration, &nodes);
            let target = self.s.migration.target;
            let usable = nodes.iter().filter(|n| n.cloud_id == target && n.is_serving()).count();
            if usable < goal as usize {
                lacking.push(format!("pool {}: {usable} of {goal} new nodes serve", pool.name));
            }
        }
        lacking
    }

    fn provision(&mut self) {
        if self.give_back() || !self.has_baseline() {
            return;
        }
        let lacking = self.lacking();
        if lacking.is_empty() {
            self.plan.step(Step::Move(Event::Provisioned, None), "the wave's new nodes serve");
        }
        for reason in lacking {
            self.plan.wait(reason);
        }
        let resumed = self.s.migration.resumed_at;
        let tries = |node: &Node| match &node.signs.failed {
            Some(why) if why.contains(NO_ROOM) => TRIES_FOR_ROOM,
            _ => TRIES,
        };
        let worn = self.new_nodes().find(|node| {
            node.attempt >= tries(node) && resumed.is_none_or(|at| node.created_at > at)
        });
        if let Some(node) = worn {
            let why = node.signs.failed.as_deref().unwrap_or("see the cluster's events");
            let reason = format!("{} servers in a row came to nothing: {why}", node.attempt);
            self.plan.step(Step::Pause(reason.clone()), reason);
        }
    }

    fn soak(&mut self) {
        let mut lacking = self.lacking();
        if self.catch_up() {
            lacking.push("a drained node was uncordoned".to_owned());
        }
        lacking.extend(self.lasting_harm());
        let migration = &self.s.migration;
        if !lacking.is_empty() {
            if migration.healthy_since.is_some() {
                self.plan.step(Step::SetHealthy(false), lacking.join("; "));
            }
            for reason in lacking {
                self.plan.wait(format!("the soak begins again when all is well: {reason}"));
            }
            return;
        }
        let Some(since) = migration.healthy_since else {
            if !self.is_unharmed() {
                return self.plan.wait("the soak begins when evicted pods run again");
            }
            return self.plan.step(Step::SetHealthy(true), "all is well");
        };
        let wave = &migration.spec.waves[migration.wave];
        let end = since + SignedDuration::from_secs(i64::from(wave.soak_seconds));
        if self.s.now < end {
            return self.plan.wait(format!("soaking until {end:.0}"));
        }
        match wave.gate {
            _ if !self.is_unharmed() => {
                self.plan.wait("the wave ends when evicted pods run again");
            }
            Gate::Approval => {
                self.plan.step(Step::Move(Event::SoakedNeedsApproval, None), "the soak is over");
            }
            Gate::Auto => self.pass_wave("the soak is over"),
        }
    }

    fn pass_wave(&mut self, why: &str) {
        if !self.is_unharmed() {
            return self.plan.wait("the next wave waits until evicted pods run again");
        }
        match self.s.migration.next_wave() {
            Some(next) => self.plan.step(Step::Move(Event::NextWave, Some(next)), why),
            None => self.plan.step(Step::Move(Event::LastWave, None), why),
        }
    }

    fn approval(&mut self) {
        let migration = &self.s.migration;
        if self.catch_up() {
            self.plan.wait("a drained node was uncordoned");
        } else if migration.approved_wave == Some(migration.wave) {
            self.pass_wave("the wave was approved");
        } else {
            self.plan.wait(format!("wave {} waits for approval", migration.wave + 1));
        }
    }

    fn hold(&mut self) {
        let migration = &self.s.migration;
        if migration.wants_commit {
            return self.plan.step(Step::Move(Event::Commit, None), "somebody committed");
        }
        if self.catch_up() {
            return self.plan.wait("a drained node was uncordoned");
        }
        let end = migration.phase_since
            + SignedDuration::from_secs(i64::from(migration.spec.hold_seconds));
        match migration.spec.commit {
            CommitPolicy::Manual => self.plan.wait("waits for commit"),
            CommitPolicy::AutoAfterHold if self.s.now < end => {
                self.plan.wait(format!("holding the old nodes until {end:.0}"));
            }
            CommitPolicy::AutoAfterHold => {
                let lacking = self.lacking();
                if lacking.is_empty() {
                    self.plan.step(Step::Move(Event::Commit, None), "the hold is over");
                }
                for reason in lacking {
                    self.plan.wait(format!("not committed while {reason}"));
                }
            }
        }
    }

    fn commit(&mut self) {
        let left = self.old().count();
        if left == 0 {
            self.plan.step(Step::Move(Event::Committed, None), "the old nodes are gone");
        } else {
            self.plan.wait(format!("{left} old nodes are being deleted"));
        }
    }
}
