//! What ends: a cluster with all that it has, and server groups that nobody is in.

use super::{Planner, Step};
use crate::domain::node::Desired;

impl Planner<'_> {
    pub(super) fn delete_cluster(&mut self) {
        for node in &self.snapshot.nodes {
            if node.desired == Desired::Present {
                self.plan.step(Step::Dismiss(node.id), "the cluster is being deleted");
            }
        }
        if !self.snapshot.nodes.is_empty() {
            let names: Vec<&str> =
                self.snapshot.nodes.iter().take(5).map(|n| n.name.as_str()).collect();
            self.plan.wait(format!(
                "{} nodes are still being deleted ({}{})",
                self.snapshot.nodes.len(),
                names.join(", "),
                if self.snapshot.nodes.len() > 5 { ", ..." } else { "" }
            ));
        } else if self.snapshot.cluster.vip_port.may_exist() {
            self.plan.step(Step::DeleteVipPort, "no node is left");
        } else if self.snapshot.groups.iter().all(|g| !g.state.may_exist()) {
            self.plan.step(Step::CloseCluster, "nothing of the cluster is left on any cloud");
        }
    }

    pub(super) fn empty_groups(&mut self) {
        for group in &self.snapshot.groups {
            let is_planned = self.plan.steps.iter().any(|p| {
                matches!(&p.step, Step::AddNode(new)
                    if new.pool == group.pool && new.cloud == group.cloud && new.group == group.number)
            });
            if group.nodes == 0 && group.state.may_exist() && !is_planned {
                self.plan.step(Step::DeleteGroup(group.id), "no node is in it");
            }
        }
    }
}
