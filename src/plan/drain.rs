//! One pass over the nodes of one cluster that are being drained: who is asked to go now, who
//! waits for what, and whether a node is done.
//!
//! Pods go in the order that their owners gave them. Of those whose turn it is, pods without
//! volumes go side by side, pods with volumes one by one (each volume must be detached before the
//! next is), and single replicas one at a time in a namespace, whatever nodes they are on.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use crate::domain::blocker::{Blocker, BlockerKind};
use crate::domain::ids::NodeId;
use crate::domain::pod::{
    PodClass, PodView, WaitReason, WorkloadView, classify, classify_unreachable,
};

/// Most pods of one node that stop at once. Machine Controller Manager asks all at once and Cluster
/// API as many as fit into 10 s; this many start elsewhere without a stampede on the registry.
const IN_FLIGHT: usize = 20;
/// How long a pod may take beyond its own grace period, as Machine Controller Manager has it: for
/// its volumes to be unmounted and its object to go.
const PATIENCE: SignedDuration = SignedDuration::from_mins(3);
/// The grace period of pods whose kubelet is silent: nobody would use a longer one.
pub const UNREACHABLE_GRACE: u32 = 1;
/// A pod that stops within this is not worth telling.
const SOON: SignedDuration = SignedDuration::from_mins(1);

/// All nodes of a cluster that have a pass now.
#[derive(Debug, Clone)]
pub struct Round<'a> {
    /// The moment.
    pub now: Timestamp,
    /// The nodes, each with what is on it.
    pub nodes: Vec<NodePass<'a>>,
    /// Deployments and StatefulSets: which pods are the only ones of their kind.
    pub workloads: &'a [WorkloadView],
}

/// One node in a round.
#[derive(Debug, Clone)]
pub struct NodePass<'a> {
    /// Which one.
    pub node: NodeId,
    /// Its kubelet is silent.
    pub is_unreachable: bool,
    /// Whether pods that refuse are deleted: somebody chose that, and the choice is recorded.
    pub is_forced: bool,
    /// Its pods, from a good and complete list.
    pub pods: &'a [PodView],
    /// Names of volumes that the cluster says are attached to it.
    pub attached: &'a BTreeSet<String>,
}

/// What is done about one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pass {
    /// Pods that are asked to go now.
    pub asks: Vec<Ask>,
    /// Who keeps it, as far as no answer is needed to know.
    pub blockers: Vec<Blocker>,
    /// Something is on its way out, so a look soon is worth it.
    pub is_moving: bool,
    /// Nothing that should leave is left on it.
    pub is_done: bool,
}

/// A request about one pod, by its index into the node's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// Which pod.
    pub pod: usize,
    /// How it is asked.
    pub how: How,
}

/// How a pod is asked to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// By eviction: budgets and webhooks have their say.
    Evict {
        /// Instead of its own grace period.
        grace_seconds: Option<u32>,
    },
    /// By deletion: it has finished, or somebody chose force.
    Delete {
        /// Instead of its own grace period.
        grace_seconds: Option<u32>,
    },
}

/// Plans a round: one pass for each node, in their order.
pub fn round(round: &Round<'_>) -> Vec<Pass> {
    let mut busy: BTreeSet<&str> = round
        .workloads
        .iter()
        .filter(|work| work.wanted == 1 && work.available == 0)
        .map(|work| work.namespace.as_str())
        .collect();
    round
        .nodes
        .iter()
        .map(|node| Planner { round, node, busy: &mut busy, pass: Pass::default() }.run())
        .collect()
}

struct Planner<'a, 'b> {
    round: &'a Round<'a>,
    node: &'a NodePass<'a>,
    /// Namespaces in which a single replica is away or is about to go.
    busy: &'b mut BTreeSet<&'a str>,
    pass: Pass,
}

impl Planner<'_, '_> {
    fn run(mut self) -> Pass {
        let left: Vec<(usize, PodClass)> = (0..self.node.pods.len())
            .map(|at| (at, self.class(&self.node.pods[at])))
            .filter(|(at, class)| {
                !matches!(class, PodClass::Skip(_)) && !self.is_dead(&self.node.pods[*at])
            })
            .collect();
        let Some(order) = left.iter().map(|(at, _)| self.node.pods[*at].order).min() else {
            self.volumes();
            return self.pass;
        };
        let turn: Vec<(usize, PodClass)> =
            left.into_iter().filter(|(at, _)| self.node.pods[*at].order == order).collect();
        let mut in_flight = 0;
        let mut volume_moves = self.volume_is_detaching();
        for (at, class) in &turn {
            let pod = &self.node.pods[*at];
            match class {
                PodClass::Wait(WaitReason::Terminating) => {
                    in_flight += 1;
                    volume_moves |= !pod.claims.is_empty();
                    self.terminating(*at);
                }
                PodClass::Wait(WaitReason::Completion) if !self.node.is_forced => {
                    self.block(
                        pod,
                        BlockerKind::Completion,
                        "is to finish by itself, by its label",
                    );
                }
                PodClass::Delete => self.ask(*at, How::Delete { grace_seconds: None }),
                PodClass::Wait(WaitReason::Completion) | PodClass::Evict | PodClass::Skip(_) => {}
            }
        }
        for (at, class) in turn {
            let is_held = class == PodClass::Wait(WaitReason::Completion) && self.node.is_forced;
            if class == PodClass::Evict || is_held {
                self.evict(at, (&mut in_flight, &mut volume_moves));
            }
        }
        self.pass
    }

    fn class(&self, pod: &PodView) -> PodClass {
        if self.node.is_unreachable {
            classify_unreachable(pod, self.round.now)
        } else {
            classify(pod)
        }
    }

    /// Whether only finalizers are left of a pod after a deletion without grace: no container runs
    /// any more, and no request of ours would end it. Only a forced drain passes over it.
    fn is_dead(&self, pod: &PodView) -> bool {
        self.node.is_forced
            && pod.grace_seconds == 0
            && pod.deletion_at.is_some_and(|at| at <= self.round.now)
            && !pod.finalizers.is_empty()
    }

    fn terminating(&mut self, at: usize) {
        self.pass.is_moving = true;
        let pod = &self.node.pods[at];
        let (now, Some(until)) = (self.round.now, pod.deletion_at) else { return };
        if now > until + PATIENCE {
            let held = if pod.finalizers.is_empty() {
                "its kubelet has not ended it".to_owned()
            } else {
                format!("finalizers: {}", pod.finalizers.join(", "))
            };
            let why = format!("should have stopped at {until:.0}; {held}");
            self.block(pod, BlockerKind::Overdue, &why);
            if self.node.is_forced {
                self.ask(at, How::Delete { grace_seconds: Some(0) });
            }
        } else if until.duration_since(now) > SOON {
            let why = format!("has until {until:.0} to stop ({} s of grace)", pod.grace_seconds);
            self.block(pod, BlockerKind::Stopping, &why);
        }
    }

    fn evict(&mut self, at: usize, (in_flight, volume_moves): (&mut usize, &mut bool)) {
        let pod = &self.node.pods[at];
        if self.node.is_forced {
            return self.ask(at, How::Delete { grace_seconds: None });
        }
        if self.node.is_unreachable {
            return self.ask(at, How::Evict { grace_seconds: Some(UNREACHABLE_GRACE) });
        }
        let has_volume = !pod.claims.is_empty();
        if has_volume && *volume_moves {
            let why = "waits until the volume of another pod is detached";
            return self.block(pod, BlockerKind::Turn, why);
        }
        if *in_flight >= IN_FLIGHT {
            return;
        }
        if self.is_single(pod) && !self.busy.insert(&pod.pod.namespace) {
            let why = "waits until another single replica of its namespace runs again";
            return self.block(pod, BlockerKind::Turn, why);
        }
        *in_flight += 1;
        *volume_moves |= has_volume;
        self.ask(at, How::Evict { grace_seconds: None });
    }

    /// Whether it is the only pod that its owner wants.
    fn is_single(&self, pod: &PodView) -> bool {
        let Some(owner) = &pod.controller else { return false };
        let (kind, name) = match owner.kind.as_str() {
            // A ReplicaSet is named after its Deployment, with a hash behind.
            "ReplicaSet" => {
                ("Deployment", owner.name.rsplit_once('-').map_or("", |(name, _)| name))
            }
            kind => (kind, owner.name.as_str()),
        };
        self.round.workloads.iter().any(|work| {
            work.wanted == 1
                && work.kind == kind
                && work.name == name
                && work.namespace == pod.pod.namespace
        })
    }

    /// Whether a volume is still attached that no pod of the node uses: its pod has just gone.
    fn volume_is_detaching(&self) -> bool {
        !self.node.is_unreachable
            && self.node.attached.iter().any(|volume| !uses(self.node.pods.iter(), volume))
    }

    /// The pods are gone; what is attached for pods that stay does not count. A silent kubelet
    /// detaches nothing, so there it is not waited for.
    fn volumes(&mut self) {
        let staying = || self.node.pods.iter();
        let left = self.node.attached.iter().filter(|volume| !uses(staying(), volume));
        if !self.node.is_unreachable && !self.node.is_forced {
            self.pass.blockers = left
                .map(|volume| Blocker {
                    pod: volume.clone(),
                    reason: "is still attached; its server is not given up before".to_owned(),
                    kind: BlockerKind::Volume,
                    ..Blocker::default()
                })
                .collect();
        }
        self.pass.is_done = self.pass.blockers.is_empty();
        self.pass.is_moving = !self.pass.is_done;
    }

    fn ask(&mut self, pod: usize, how: How) {
        self.pass.is_moving = true;
        self.pass.asks.push(Ask { pod, how });
    }

    fn block(&mut self, pod: &PodView, kind: BlockerKind, why: &str) {
        self.pass.blockers.push(blocker(pod, kind, why));
    }
}

/// Whether one of the pods has this volume, by any of its names.
fn uses<'a>(mut pods: impl Iterator<Item = &'a PodView>, volume: &str) -> bool {
    pods.any(|pod| {
        pod.claims.iter().any(|claim| {
            let unique = || {
                let (driver, handle) = (claim.driver.as_ref()?, claim.handle.as_ref()?);
                Some(format!("kubernetes.io/csi/{driver}^{handle}"))
            };
            claim.volume.as_deref() == Some(volume) || unique().as_deref() == Some(volume)
        })
    })
}

/// A blocker that names a pod and its owner.
pub fn blocker(pod: &PodView, kind: BlockerKind, why: &str) -> Blocker {
    Blocker {
        pod: pod.pod.to_string(),
        reason: why.chars().take(300).collect(),
        kind,
        owner: pod.controller.as_ref().map(|owner| format!("{}/{}", owner.kind, owner.name)),
        ..Blocker::default()
    }
}

#[cfg(test)]
#[path = "drain_tests.rs"]
mod tests;
