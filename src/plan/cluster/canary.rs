//! The steps of canaries: made, asked, and always taken away again.
//!
//! A canary's node is wanted as long as its canary is open. Whatever ends the canary (it told, it
//! did not join, nobody wants to know, the cluster goes) dismisses the node in the same
//! transaction, and from there it goes like every other node.

use jiff::Timestamp;

use super::{Planner, Step};
use crate::domain::canary::Outcome;
use crate::domain::ids::{CanaryId, CloudId, NodeId};
use crate::domain::inventory::ServerStatus;
use crate::domain::node::{Desired, Node, Outside};

/// A canary as the planner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canary {
    /// Its id.
    pub id: CanaryId,
    /// Where it tries.
    pub cloud: CloudId,
    /// Whether somebody still wants to know.
    pub is_wanted: bool,
    /// Its node, once it has one.
    pub node: Option<NodeId>,
    /// The pod on an old node.
    pub probe: Outside,
    /// That pod is done.
    pub has_peer_report: bool,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// When it was first wanted.
    pub created_at: Timestamp,
}

/// Whether a canary's server is a node of its cluster. Its daemons are of no matter: it is asked
/// from outside of any pod.
fn has_joined(node: &Node) -> bool {
    node.server == Outside::Present
        && node.server_status == Some(ServerStatus::Active)
        && node.object == Outside::Present
        && node.kubelet.is_ready
        && node.kubelet.is_ours
}

impl Planner<'_> {
    pub(super) fn canaries(&mut self) {
        for canary in &self.snapshot.canaries {
            if canary.probe.may_exist() && (canary.has_peer_report || canary.outcome.is_some()) {
                let why = "the pod on an old node has done its work";
                self.plan.step(Step::DeleteProbe(canary.id), why);
            }
            if canary.outcome.is_none() {
                self.canary(canary);
            }
        }
    }

    fn canary(&mut self, canary: &Canary) {
        if !canary.is_wanted {
            let why = "nobody wants to know any more what it finds";
            self.plan.step(Step::EndCanary(canary.id, Outcome::GivenUp), why);
            return;
        }
        let node = self.snapshot.nodes.iter().find(|node| Some(node.id) == canary.node);
        match node {
            None if canary.node.is_none() => self.new_canary(canary),
            Some(node) if node.desired == Desired::Present => self.ask_canary(canary, node),
            _ => {
                let why = "its node was dismissed before it told anything";
                self.plan.step(Step::EndCanary(canary.id, Outcome::GivenUp), why);
            }
        }
    }

    fn new_canary(&mut self, canary: &Canary) {
        if self.snapshot.now > canary.created_at + self.snapshot.join_deadline {
            self.plan.step(Step::FailCanary(canary.id), "its cloud took no server in time");
        } else if !self.snapshot.cluster.has_api {
            self.plan.wait("a canary waits for the API server");
        } else if self.cloud_is_ready(canary.cloud) {
            self.plan.step(Step::AddCanary(canary.id), "the target is to be tried");
        }
    }

    fn ask_canary(&mut self, canary: &Canary, node: &Node) {
        if has_joined(node) {
            self.plan.step(Step::Probe(canary.id), format!("{} has joined", node.name));
            return;
        }
        // Without a server the time runs from the wish: a cloud that is full stays so.
        let since = node.server_intent_at.unwrap_or(canary.created_at);
        let is_late = self.snapshot.now > since + self.snapshot.join_deadline;
        let late = || format!("not joined {} s later", self.snapshot.join_deadline.as_secs());
        if let Some(why) = Self::broken(node).or_else(|| is_late.then(late)) {
            self.plan.step(Step::FailCanary(canary.id), why);
        }
    }

    /// A canary's node that is wanted: on its way in, unless its canary is over.
    pub(super) fn coming_canary(&mut self, node: &Node) {
        let mut canaries = self.snapshot.canaries.iter();
        let open = canaries.find(|one| one.node == Some(node.id) && one.outcome.is_none());
        let Some(open) = open else {
            self.plan.step(Step::Dismiss(node.id), "its canary is over");
            return;
        };
        let is_failing = self.plan.steps.iter().any(|planned| {
            matches!(&planned.step, Step::FailCanary(id) | Step::EndCanary(id, _) if *id == open.id)
        });
        if !is_failing {
            self.coming(node);
        }
    }
}
