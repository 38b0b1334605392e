//! Cordon, evict, see that it is empty: for migrations and for pools that shrink.
//!
//! Everything here may be repeated after a crash: a cordon under our mark is recognised, evictions
//! name their pod by UID, and what is left is read from the cluster each time. What is done in a
//! pass is decided by `plan::drain`; a node counts as empty only after a good and complete list.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::WorkError;
use super::context::Context;
use super::evict::{self, Asked};
use crate::domain::blocker::{Blocker, keep_since};
use crate::domain::harm::Facts;
use crate::domain::node::{Drain, Node};
use crate::domain::node_view::NodeRef;
use crate::domain::outside::OutsideError;
use crate::domain::pod::{PodClass, PodView, WorkloadView, classify};
use crate::kubernetes::client::ClusterClient;
use crate::kubernetes::nodes::Cordon;
use crate::plan::drain::{NodePass, Pass, Round, round};
use crate::store::nodes::NodeRow;
use crate::store::nodes::progress::{self, Change};
use crate::store::work::Lease;

/// Most blockers of a node that are kept for people to read.
const BLOCKERS: usize = 20;

/// The node to be drained.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    /// Its row.
    pub row: &'a NodeRow,
    /// Who drains: written beside the cordon, so that it is given back by whom it belongs to.
    pub mark: &'a str,
}

impl Target<'_> {
    fn reference(&self) -> Result<NodeRef, WorkError> {
        let uid = self.row.object_uid.clone();
        let uid = uid.ok_or_else(|| WorkError::internal("a node without Node object"))?;
        Ok(NodeRef { name: self.row.node.name.clone(), uid })
    }
}

/// What happens to pods that refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Force {
    /// They stay.
    Never,
    /// They are deleted: somebody chose that, and the choice is recorded.
    Delete,
}

/// What holds for every node of a round.
#[derive(Clone, Copy)]
pub(super) struct Rules<'a> {
    /// Pods that are not Ready are deleted when a budget keeps them.
    pub evict_unhealthy: bool,
    /// What was not well before anybody drained.
    pub before: &'a Facts,
}

/// What a pass over one node came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Nothing that should leave is left.
    pub is_done: bool,
    /// Something is on its way out.
    pub is_moving: bool,
    /// Pods that were deleted by force.
    pub forced: usize,
}

/// What a round looks at, each kind listed once.
struct Seen {
    pods: BTreeMap<String, Vec<PodView>>,
    attached: BTreeMap<String, BTreeSet<String>>,
    workloads: Vec<WorkloadView>,
}

impl Context {
    /// Cordons a node under our mark.
    pub(super) async fn cordon(
        &self,
        lease: &Lease,
        client: &ClusterClient,
        target: Target<'_>,
    ) -> Result<(), WorkError> {
        let id = target.row.node.id;
        self.write_drain(lease, target, (Drain::Cordoning, vec![])).await?;
        let node = target.reference()?;
        let cordon = client.cordon(&node, target.mark);
        let found = self.call(lease, "cordon node", cordon).await??;
        let was_cordoned = match found {
            // Somebody may have lifted a cordon that was there before us; its owner wanted it.
            Cordon::Cordoned | Cordon::AlreadyOurs => target.row.node.was_cordoned,
            Cordon::AlreadyCordoned => true,
        };
        let mut tx = self.fenced(lease).await?;
        progress::write(&mut tx, id, Change::Cordoned(was_cordoned), self.now()).await?;
        Ok(tx.commit().await?)
    }

    /// Takes our cordon back. A cordon of somebody else stays.
    pub(super) async fn uncordon(
        &self,
        lease: &Lease,
        client: &ClusterClient,
        target: Target<'_>,
    ) -> Result<(), WorkError> {
        let node = &target.row.node;
        if !node.was_cordoned
            && let Ok(reference) = target.reference()
        {
            self.write_drain(lease, target, (Drain::Uncordoning, vec![])).await?;
            let uncordon = client.uncordon(&reference, target.mark);
            match self.call(lease, "uncordon node", uncordon).await? {
                Ok(_) => {}
                Err(error) if error.is_absent() => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut tx = self.fenced(lease).await?;
        progress::uncordoned(&mut tx, node.id).await?;
        Ok(tx.commit().await?)
    }

    /// One pass over nodes that are being drained: asks for what can go now, writes who blocks.
    /// The outcomes are in the order of `targets`.
    pub(super) async fn drain_round(
        &self,
        lease: &Lease,
        client: &ClusterClient,
        (targets, rules): (&[(Target<'_>, Force)], Rules<'_>),
    ) -> Result<Vec<Outcome>, WorkError> {
        for (target, _) in targets {
            if !target.row.node.kubelet.is_cordoned {
                // Others uncordon too (kubereboot/kured #314).
                self.cordon(lease, client, *target).await?;
            }
        }
        let names: Vec<&str> = targets.iter().map(|(of, _)| of.row.node.name.as_str()).collect();
        let mut seen = self.call(lease, "list pods", Box::pin(look(client, &names))).await??;
        for work in &mut seen.workloads {
            if rules.before.was_short(work) {
                // It was down before anybody drained: nobody waits for it.
                work.available = work.available.max(1);
            }
        }
        let passes = plan_round(self.now(), targets, &seen);
        let asked = evict::asks(targets, &seen.pods, &passes);
        let mut answers = vec![Vec::new(); targets.len()];
        if !asked.is_empty() {
            let ask = evict::ask_all(client, &asked, rules);
            answers = evict::by_node(
                targets.len(),
                self.call(lease, "evict pods", Box::pin(ask)).await??,
            );
        }
        let mut outcomes = Vec::new();
        for ((target, force), (pass, refused)) in targets.iter().zip(passes.iter().zip(answers)) {
            let forced = match force {
                Force::Never => 0,
                Force::Delete => pass.asks.len(),
            };
            self.write_pass(lease, *target, (pass, refused)).await?;
            let (is_done, is_moving) = (pass.is_done, pass.is_moving);
            outcomes.push(Outcome { is_done, is_moving, forced });
        }
        Ok(outcomes)
    }

    /// Writes how far a node is and who blocks it, if that changed.
    async fn write_pass(
        &self,
        lease: &Lease,
        target: Target<'_>,
        (pass, refused): (&Pass, Vec<Blocker>),
    ) -> Result<(), WorkError> {
        let node = &target.row.node;
        let mut blockers = pass.blockers.clone();
        blockers.extend(refused);
        // A volume goes by two names: that of its PersistentVolume, which says more, and the
        // kubelet's, `kubernetes.io/csi/driver^handle`.
        blockers.sort_by_key(|blocker| (blocker.pod.contains('^'), blocker.pod.clone()));
        blockers.truncate(BLOCKERS);
        let blockers = keep_since(blockers, &node.blockers, self.now());
        let drain = if pass.is_done { Drain::Drained } else { Drain::Evicting };
        if blockers != node.blockers || drain != node.drain {
            self.write_drain(lease, target, (drain, blockers)).await?;
        }
        Ok(())
    }

    /// Whether the cluster says, right now, that a drained node is cordoned and empty: others
    /// uncordon, and pods come back (kubereboot/kured #314). If not, its drain goes on.
    pub(super) async fn is_still_drained(
        &self,
        lease: &Lease,
        client: &ClusterClient,
        target: Target<'_>,
    ) -> Result<bool, WorkError> {
        let node = &target.row.node;
        let look = async {
            let view = client.node(&node.name).await?;
            Ok((view, client.pods_on(&node.name).await?))
        };
        let (view, pods) = self.call(lease, "check drained", Box::pin(look)).await??;
        let Some(view) = view else { return Ok(true) };
        let stays = |pod: &PodView| matches!(classify(pod), PodClass::Skip(_));
        if view.is_unschedulable && pods.iter().all(stays) {
            return Ok(true);
        }
        tracing::warn!(node.name = %node.name, "pods came back to a drained node, or its cordon is gone");
        // Its time begins anew: it may have been drained hours ago.
        self.write_drain(lease, target, (Drain::Idle, vec![])).await?;
        self.cordon(lease, client, target).await?;
        Ok(false)
    }

    async fn write_drain(
        &self,
        lease: &Lease,
        target: Target<'_>,
        (drain, blockers): (Drain, Vec<Blocker>),
    ) -> Result<(), WorkError> {
        let mut tx = self.fenced(lease).await?;
        let change = Change::Drain(drain, blockers);
        progress::write(&mut tx, target.row.node.id, change, self.now()).await?;
        Ok(tx.commit().await?)
    }

    /// When to pass again: soon while pods stop, else after the usual time, spread so that many
    /// clusters do not come together.
    pub(super) fn next_pass(&self, outcomes: &[Outcome]) -> Duration {
        let settings = &self.settings;
        if outcomes.iter().any(|outcome| outcome.is_moving) {
            return settings.busy_period.min(settings.drain_pass);
        }
        settings.drain_pass.mul_f64(0.8 + self.ids.fraction() * 0.4)
    }
}

/// Lists what a round needs. Attachments matter when a pod has a volume or no pod is left;
/// workloads when there is somebody to evict.
async fn look(client: &ClusterClient, names: &[&str]) -> Result<Seen, OutsideError> {
    let pods = client.pods_of(names).await?;
    let leaves = |pod: &&PodView| !matches!(classify(pod), PodClass::Skip(_));
    let with_volumes: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| {
            let pods = &pods[*name];
            pods.iter().any(|pod| !pod.claims.is_empty()) || !pods.iter().any(|pod| leaves(&pod))
        })
        .collect();
    let mut attached = BTreeMap::new();
    if !with_volumes.is_empty() {
        attached = client.attached_to(&with_volumes).await?;
    }
    let mut workloads = vec![];
    if pods.values().flatten().any(|pod| classify(pod) == PodClass::Evict) {
        workloads = client.workloads().await?;
    }
    Ok(Seen { pods, attached, workloads })
}

fn plan_round(now: jiff::Timestamp, targets: &[(Target<'_>, Force)], seen: &Seen) -> Vec<Pass> {
    let nothing = BTreeSet::new();
    let node_pass = |node: &Node, force: Force| NodePass {
        node: node.id,
        is_unreachable: node.kubelet.is_unreachable,
        is_forced: force == Force::Delete,
        pods: seen.pods.get(&node.name).map_or(&[], Vec::as_slice),
        attached: seen.attached.get(&node.name).unwrap_or(&nothing),
    };
    let nodes = targets.iter().map(|(of, force)| node_pass(&of.row.node, *force)).collect();
    round(&Round { now, nodes, workloads: &seen.workloads })
}

impl Asked<'_> {
    /// The pod by its reference.
    pub(super) fn reference(&self) -> &crate::domain::pod::PodRef {
        &self.pod.pod
    }
}
