//! What people ask in the middle: turning forward again, skipping a node; and what is made good when
//! somebody else, or a call that landed late, touched a node.

use jiff::Timestamp;

use super::super::pool::Pool;
use super::draining::is_gone;
use super::{Planner, Step, way_back};
use crate::domain::condition::Condition;
use crate::domain::migration::{Event, Migration};
use crate::domain::node::{Desired, Drain, Node};

impl<'a> Planner<'a> {
    /// Why the way back is closed, if it is.
    pub(super) fn way_back_closed(&self) -> Option<String> {
        way_back::closed(&self.s.migration, &self.s.pools, &self.s.nodes)
    }

    /// Something suffers: the migration pauses, or turns back if its owner chose that and the way
    /// back is open.
    pub(super) fn stop(&mut self, reason: String, why: &str) {
        let migration = &self.s.migration;
        let turns = migration.spec.auto_rollback
            && migration.phase.can_roll_back()
            && self.way_back_closed().is_none();
        let step = if turns { Step::TurnBack(reason) } else { Step::Pause(reason) };
        self.plan.step(step, why);
    }

    /// Out of the way back. The waves begin again with the first that has a node to drain.
    pub(super) fn turn_forward(&mut self) {
        let migration = &self.s.migration;
        let is_untouched =
            self.new_nodes().next().is_none() && self.old().all(|node| node.drain == Drain::Idle);
        if is_untouched {
            let first = migration.first_wave();
            let step = Step::Move(Event::ForwardAnew, Some(first));
            return self.plan.step(step, "somebody wants it forward; nothing was made yet");
        }
        let open = |node: &&Node| node.desired == Desired::Present && !node.drain.is_over();
        let undrained = self.old().filter(open).map(|node| migration.wave_of(node.id)).min();
        let wave = undrained.unwrap_or(migration.wave).min(migration.wave);
        self.plan.step(Step::Move(Event::Forward, Some(wave)), "somebody wants it forward again");
    }

    /// New nodes that the way back had cordoned serve again, and old ones that it had not given
    /// back yet and whose wave has still to come again. Returns whether there were any.
    pub(super) fn give_back(&mut self) -> bool {
        let migration = &self.s.migration;
        let is_later = |n: &&Node| migration.wave_of(n.id) > migration.wave;
        let cordoned = |n: &&Node| n.desired == Desired::Present && n.drain.may_be_cordoned();
        let cordoned: Vec<&Node> =
            self.new_nodes().chain(self.old().filter(is_later)).filter(cordoned).collect();
        for node in &cordoned {
            self.plan.step(Step::Uncordon(node.id), format!("{} is to serve again", node.name));
        }
        !cordoned.is_empty()
    }

    /// Old nodes that were drained and serve again, because somebody uncordoned them or an old call
    /// landed late.
    pub(super) fn reopened(&self) -> Vec<&'a Node> {
        let migration = &self.s.migration;
        self.old()
            .filter(|n| n.desired == Desired::Present && migration.wave_of(n.id) <= migration.wave)
            .filter(|n| {
                n.drain == Drain::Drained
                    && !is_gone(n)
                    && n.kubelet.is_ready
                    && !n.kubelet.is_cordoned
            })
            .collect()
    }

    /// Cordons and drains those once more. Returns whether any are left.
    pub(super) fn catch_up(&mut self) -> bool {
        let reopened = self.reopened();
        for node in &reopened {
            let why = format!("{} was drained and then uncordoned", node.name);
            self.plan.step(Step::Cordon(node.id), why);
        }
        let under_way: Vec<&Node> =
            self.due().into_iter().filter(|n| n.drain != Drain::Idle).collect();
        for node in &under_way {
            self.go_on(node);
        }
        !reopened.is_empty() || !under_way.is_empty()
    }

    /// Whether nobody waits for the node's drain any more.
    pub(super) fn is_skipped(&self, node: &Node) -> bool {
        self.s.migration.skips.contains(&node.id)
    }
}

/// What owners are told beside the phase. `nodes` are the cluster's open workers.
pub fn conditions(
    migration: &Migration,
    (pools, nodes): (&[Pool], &[Node]),
    now: Timestamp,
) -> Vec<Condition> {
    let closed = way_back::closed(migration, pools, nodes);
    vec![way_back::condition(migration, closed.as_deref(), now)]
}
