//! Old nodes are cordoned and drained: which is next, and why not more of them.

use super::{Planner, Step};
use crate::domain::ids::NodeId;
use crate::domain::migration::{AtDeadline, Event};
use crate::domain::node::{Desired, Drain, Node, Outside};

/// Most nodes drained at once without a wish for more: what Cluster API's and Machine Controller
/// Manager's users settle on for one cluster.
pub(super) const PARALLEL_MAX: usize = 20;

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
        let mut active = due.iter().filter(|n| n.drain != Drain::Idle).count();
        let parallel = self.parallel(due.len());
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

    /// How many nodes may be drained at once.
    fn parallel(&self, due: usize) -> usize {
        match self.s.migration.spec.drain.parallel {
            Some(wish) => wish as usize,
            None if self.s.migration.wave == self.s.migration.first_wave() => 1,
            None => due.div_ceil(10).clamp(1, PARALLEL_MAX),
        }
    }

    /// Begins a drain, if the pool keeps enough nodes that serve. A cordon that was planned here
    /// counts at once.
    fn begin(&mut self, node: &Node) -> bool {
        if is_silent(node) {
            self.plan.step(Step::AssumeDrained(node.id), format!("{} does not answer", node.name));
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
        if is_silent(node) {
            let why = format!("{} does not answer", node.name);
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
        let started = node.drain_started_at.unwrap_or(self.s.now);
        if self.s.now < self.s.migration.drain_deadline(started) {
            return self.pass(node);
        }
        let why = format!(
            "{} is not drained after {} s",
            node.name, self.s.migration.spec.drain.timeout_seconds
        );
        match self.s.migration.spec.drain.at_deadline {
            AtDeadline::Pause => {
                let reason = format!("{why}; {}", blocked_by(node));
                self.stop(reason, "the drain's deadline has passed");
            }
            AtDeadline::SkipNode => self.plan.step(Step::Skip(node.id), why),
            AtDeadline::Force => self.plan.step(Step::ForcePass(node.id), why),
        }
    }

    fn pass(&mut self, node: &Node) {
        self.plan.step(Step::DrainPass(node.id), format!("{} has pods to move", node.name));
        for blocker in node.blockers.iter().take(5) {
            self.plan.wait(format!("{}: {} ({})", node.name, blocker.pod, blocker.reason));
        }
    }
}

/// Whether nothing can be evicted from the node, since nobody there would stop a pod: it never
/// joined, its server is gone, or its kubelet is silent. The cluster itself moves the pods of a
/// silent node.
pub(super) fn is_silent(node: &Node) -> bool {
    node.object != Outside::Present || node.server == Outside::Gone || !node.kubelet.is_ready
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
