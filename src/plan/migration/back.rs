//! The way back: no server is made, the source serves again, the target is emptied.

use super::draining::{PARALLEL_MAX, is_gone};
use super::{Planner, Step};
use crate::domain::migration::Event;
use crate::domain::node::{Desired, Drain, Node};

impl Planner<'_> {
    /// The way back: the source serves again, then the target is drained and given up.
    pub(super) fn roll_back(&mut self) {
        let cordoned: Vec<&Node> = self
            .old()
            .filter(|n| n.desired == Desired::Present && n.drain.may_be_cordoned())
            .collect();
        if !cordoned.is_empty() {
            for node in cordoned {
                self.plan.step(Step::Uncordon(node.id), format!("{} serves again", node.name));
            }
            return;
        }
        let left: Vec<&Node> = self.new_nodes().filter(|n| n.desired == Desired::Present).collect();
        if left.is_empty() {
            return self.plan.step(Step::Move(Event::Returned, None), "the target is drained");
        }
        let mut active =
            left.iter().filter(|n| n.drain != Drain::Idle && !n.drain.is_over()).count();
        let parallel = self.s.migration.spec.drain.parallel.map_or(PARALLEL_MAX, |n| n as usize);
        let closed = self.way_back_closed();
        for node in left {
            if node.drain.is_over() || is_gone(node) || node.kubelet.is_unreachable {
                let why = format!("nothing of the tenant's is on {}", node.name);
                self.plan.step(Step::Dismiss(node.id), why);
            } else if let Some(why) = &closed {
                self.plan.wait(format!("{}: the way back is closed: {why}", node.name));
            } else if node.drain != Drain::Idle {
                self.go_on(node);
            } else if active < parallel {
                active += 1;
                self.plan.step(
                    Step::Cordon(node.id),
                    format!("the source serves without {}", node.name),
                );
            }
        }
    }
}
