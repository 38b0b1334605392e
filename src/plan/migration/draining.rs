//! Old nodes are cordoned and drained: which is next, and why not more of them.

use jiff::{SignedDuration, Timestamp};

use super::{Planner, Step};
use crate::domain::blocker::BlockerKind;
use crate::domain::ids::NodeId;
use crate::domain::migration::{AtDeadline, Event};
use crate::domain::node::{Desired, Drain, Node, Outside};

/// Most nodes drained at once without a wish for more: what Cluster API's and Machine Controller
/// Manager's users settle on for one cluster.
pub(super) const PARALLEL_MAX: usize = 20;

/// How long a webhook of the cluster may fail before the migration pauses: its own pod may be the
/// one that moves.
const WEBHOOK_PATIENCE: SignedDuration = SignedDuration::from_mins(1);
/// How much longer a pod that is overdue is waited for when somebody has resumed the migration.
const OVERDUE_AGAIN: SignedDuration = SignedDuration::from_mins(3);

impl<'a> Planner<'a> {
    /// The old nodes of the present wave and of earlier ones that still have to be drained.
    pub(super) fn due(&self) -> Vec<&'a Node> {
        let migration = &self.s.migration;
        self.old()
            .filter(|n| n.desired == Desired::Present)
            .filter(|n| migration.wave_of(n.id) <= migration.wave && !n.drain.is_over())
            .collect()
    }

    pub(super) fn drain(&mut self) {
        let due = self.due();
        let reopened = self.reopened();
        for node in &reopened {
            let why = format!("{} was drained and then uncordoned", node.name);
            self.plan.step(Step::Cordon(node.id), why);
        }
        if due.is_empty() && !reopened.is_empty() {
            return;
        }
        if due.is_empty() {
            return self
                .plan
                .step(Step::Move(Event::Drained, None), "the wave's old nodes are drained");
        }
        let counts = |n: &&&Node| n.drain != Drain::Idle && !waits_for_its_owner(n);
        let mut active = due.iter().filter(counts).count();
        let parallel = self.parallel();
        for node in due {
            match node.drain {
                Drain::Idle if active >= parallel => {
                    self.plan.wait(format!("{}: {parallel} drains at once", node.name));
                }
                Drain::Idle => {
                    if self.begin(node) {
                        active += 1;
                    }
                }
                _ => self.go_on(node),
            }
        }
    }

    /// How many nodes may be drained at once: a tenth of all that move. Not of those that are left:
    /// the last ten of a wave would go one by one.
    fn parallel(&self) -> usize {
        match self.s.migration.spec.drain.parallel {
            Some(wish) => wish as usize,
            None if self.s.migration.wave == self.s.migration.first_wave() => 1,
            None => self.s.migration.nodes.len().div_ceil(10).clamp(1, PARALLEL_MAX),
        }
    }

    /// Begins a drain, if the pool keeps enough nodes that serve. A cordon that was planned here
    /// counts at once.
    fn begin(&mut self, node: &Node) -> bool {
        if is_gone(node) {
            let why = format!("nothing runs on {}", node.name);
            self.plan.step(Step::AssumeDrained(node.id), why);
            return false;
        }
        let Some(pool) = self.s.pools.iter().find(|p| Some(p.id) == node.pool_id) else {
            return false;
        };
        let cordoned_now = |id: NodeId| self.plan.steps.iter().any(|p| p.step == Step::Cordon(id));
        let serving = self
            .moving()
            .filter(|n| n.pool_id == Some(pool.id) && n.is_serving() && !cordoned_now(n.id))
            .count();
        let heir = self.s.nodes.iter().find(|n| Some(n.id) == node.lineage.heir);
        if let Some(heir) = heir.filter(|n| n.desired == Desired::Present && n.lineage.needs_carry)
        {
            let why = "is not on its successor yet";
            self.plan.wait(format!("{}: what owners put on it {why} ({})", node.name, heir.name));
            return false;
        }
        let after = serving - usize::from(node.is_serving());
        if after < pool.count as usize {
            self.plan.wait(format!(
                "{}: pool {} would have {after} of {} nodes that serve",
                node.name, pool.name, pool.count
            ));
            return false;
        }
        self.plan.step(
            Step::Cordon(node.id),
            format!("{after} of {} nodes serve without it", pool.count),
        );
        true
    }

    /// A drain that has begun.
    pub(super) fn go_on(&mut self, node: &Node) {
        if is_gone(node) {
            let why = format!("nothing runs on {}", node.name);
            return self.plan.step(Step::AssumeDrained(node.id), why);
        }
        if matches!(node.drain, Drain::Cordoning | Drain::Uncordoning) {
            let why = format!("{} may not be cordoned", node.name);
            return self.plan.step(Step::Cordon(node.id), why);
        }
        if self.is_skipped(node) {
            let why = format!("{}: somebody chose not to wait for it", node.name);
            return self.plan.step(Step::Skip(node.id), why);
        }
        if let Some(why) = self.must_pause(node) {
            return self.plan.step(Step::Pause(why), "this is not for a drain to mend");
        }
        let Some(why) = self.is_late(node) else { return self.pass(node) };
        match self.s.migration.spec.drain.at_deadline {
            AtDeadline::Pause => {
                let reason = format!("{why}; {}", blocked_by(node));
                self.stop(reason, "the drain's deadline has passed");
            }
            AtDeadline::SkipNode => self.plan.step(Step::Skip(node.id), why),
            AtDeadline::Force => self.plan.step(Step::ForcePass(node.id), why),
        }
    }

    /// Since when a blocker counts: a migration that was resumed gives it its time again.
    fn counts_since(&self, since: Option<Timestamp>) -> Timestamp {
        let since = since.unwrap_or(self.s.now);
        self.s.migration.resumed_at.map_or(since, |resumed| since.max(resumed))
    }

    /// What no waiting of a drain mends: a webhook that does not answer, a volume that is not
    /// detached.
    fn must_pause(&self, node: &Node) -> Option<String> {
        let volumes = i64::from(self.s.migration.spec.drain.volume_timeout_seconds);
        let blocker = node.blockers.iter().find(|blocker| {
            let age = self.s.now.duration_since(self.counts_since(blocker.since));
            match blocker.kind {
                BlockerKind::WebhookBroken => age >= WEBHOOK_PATIENCE,
                BlockerKind::Volume => age >= SignedDuration::from_secs(volumes),
                _ => false,
            }
        })?;
        Some(format!("{}: {} {}", node.name, blocker.pod, blocker.reason))
    }

    /// Why the node's time is over: its own deadline, or that of a pod which does not stop.
    fn is_late(&self, node: &Node) -> Option<String> {
        let migration = &self.s.migration;
        let started = node.drain_started_at.unwrap_or(self.s.now);
        if self.s.now >= migration.drain_deadline(started) {
            let seconds = migration.spec.drain.timeout_seconds;
            return Some(format!("{} is not drained after {seconds} s", node.name));
        }
        let overdue = node.blockers.iter().find(|blocker| {
            let again = migration.resumed_at.map(|resumed| resumed + OVERDUE_AGAIN);
            blocker.kind == BlockerKind::Overdue && again.is_none_or(|again| self.s.now >= again)
        })?;
        Some(format!("{}: {} does not stop", node.name, overdue.pod))
    }

    fn pass(&mut self, node: &Node) {
        self.plan.step(Step::DrainPass(node.id), format!("{} has pods to move", node.name));
        for blocker in node.blockers.iter().take(5) {
            self.plan.wait(format!("{}: {} ({})", node.name, blocker.pod, blocker.reason));
        }
    }
}

/// Whether there is nothing to evict: it never joined, or its server is gone.
pub(super) fn is_gone(node: &Node) -> bool {
    node.object != Outside::Present || node.server == Outside::Gone
}

/// Whether only its owner can end what blocks the node: others go on meanwhile.
fn waits_for_its_owner(node: &Node) -> bool {
    let of_owner =
        |blocker: &crate::domain::blocker::Blocker| blocker.kind == BlockerKind::TwoBudgets;
    !node.blockers.is_empty() && node.blockers.iter().all(of_owner)
}

/// Who blocks a node, in words.
fn blocked_by(node: &Node) -> String {
    if node.blockers.is_empty() {
        return "no pod refuses, but some are still there".to_owned();
    }
    let list: Vec<String> =
        node.blockers.iter().take(3).map(|b| format!("{} ({})", b.pod, b.reason)).collect();
    format!("blocked by {}", list.join(", "))
}
