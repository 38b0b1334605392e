//! Cordon, evict, see that it is empty: for migrations and for pools that shrink.
//!
//! Everything here may be repeated after a crash: a cordon under our mark is recognised, evictions
//! name their pod by UID, and what is left is read from the cluster each time.

use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;

use super::WorkError;
use super::context::Context;
use crate::domain::node::{Blocker, Drain};
use crate::domain::node_view::NodeRef;
use crate::domain::outside::OutsideError;
use crate::domain::pod::{PodClass, PodView, WaitReason, classify, classify_unreachable};
use crate::kubernetes::client::ClusterClient;
use crate::kubernetes::drain::{Earnest, EvictionAnswer};
use crate::kubernetes::nodes::Cordon;
use crate::store::nodes::NodeRow;
use crate::store::nodes::progress::{self, Change};
use crate::store::work::Lease;

/// Evictions of one pass. Cluster API takes 10 s for a pass; so many fit into that.
const EVICTIONS: usize = 20;
/// Evictions at once; each may cost the API server a look at every budget of the namespace.
const PARALLEL: usize = 5;
/// Most blockers that are kept for people to read.
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
            Cordon::Cordoned => false,
            Cordon::AlreadyOurs => target.row.node.was_cordoned,
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

    /// One pass: asks for the eviction of what is left. `Drained` when nothing is.
    pub(super) async fn drain_pass(
        &self,
        lease: &Lease,
        client: &ClusterClient,
        (target, force): (Target<'_>, Force),
    ) -> Result<Drain, WorkError> {
        let node = &target.row.node;
        if !node.kubelet.is_cordoned {
            // Others uncordon too (kubereboot/kured #314).
            self.cordon(lease, client, target).await?;
        }
        let list = client.pods_on(&node.name);
        let pods = self.call(lease, "list pods", list).await??;
        let now = self.now();
        let class = |pod: &PodView| {
            if node.kubelet.is_ready { classify(pod) } else { classify_unreachable(pod, now) }
        };
        let left: Vec<(PodView, PodClass)> = pods
            .into_iter()
            .map(|pod| (class(&pod), pod))
            .filter(|(class, _)| !matches!(class, PodClass::Skip(_)))
            .map(|(class, pod)| (pod, class))
            .collect();
        if left.is_empty() {
            self.write_drain(lease, target, (Drain::Drained, vec![])).await?;
            return Ok(Drain::Drained);
        }
        let evict = evict(client, &left, force);
        let blockers = self.call(lease, "evict pods", evict).await??;
        if blockers != node.blockers || node.drain != Drain::Evicting {
            self.write_drain(lease, target, (Drain::Evicting, blockers)).await?;
        }
        Ok(Drain::Evicting)
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
}

/// Asks for the going of pods; returns who refuses. Pods with volumes go one by one: each detach
/// must end before the volume can be attached elsewhere.
async fn evict(
    client: &ClusterClient,
    left: &[(PodView, PodClass)],
    force: Force,
) -> Result<Vec<Blocker>, OutsideError> {
    let leaving_volume = left
        .iter()
        .any(|(pod, class)| !pod.claims.is_empty() && matches!(class, PodClass::Wait(_)));
    let mut volume_turn = !leaving_volume;
    let mut asked = Vec::new();
    let mut blockers = Vec::new();
    for (pod, class) in left {
        let has_volume = !pod.claims.is_empty();
        match class {
            PodClass::Wait(WaitReason::Completion) => {
                blockers.push(blocker(pod, "waits until it has finished, as its label asks"));
            }
            PodClass::Evict if has_volume && !volume_turn => {
                blockers.push(blocker(pod, "waits for another pod's volume to be detached"));
            }
            PodClass::Evict | PodClass::Delete if asked.len() < EVICTIONS => {
                volume_turn &= !has_volume;
                asked.push((pod, *class));
            }
            _ => {}
        }
    }
    let mut answers: Vec<BoxFuture<'_, Result<Option<Blocker>, OutsideError>>> = Vec::new();
    for (pod, class) in asked {
        answers.push(Box::pin(ask(client, pod, (class, force))));
    }
    let mut answers = futures::stream::iter(answers).buffered(PARALLEL);
    while let Some(answer) = answers.next().await {
        blockers.extend(answer?);
    }
    blockers.sort_by(|a, b| a.pod.cmp(&b.pod));
    blockers.truncate(BLOCKERS);
    Ok(blockers)
}

async fn ask(
    client: &ClusterClient,
    pod: &PodView,
    (class, force): (PodClass, Force),
) -> Result<Option<Blocker>, OutsideError> {
    if class == PodClass::Delete || force == Force::Delete {
        client.delete_pod(&pod.pod, None).await?;
        return Ok(None);
    }
    let reason = match client.evict(&pod.pod, None, Earnest::Real).await? {
        EvictionAnswer::Accepted | EvictionAnswer::Gone | EvictionAnswer::OtherPod => {
            return Ok(None);
        }
        EvictionAnswer::RateLimited { retry_after } => {
            let wait = retry_after.unwrap_or(Duration::from_secs(1));
            format!("the API server asks to wait {} s", wait.as_secs())
        }
        EvictionAnswer::TwoBudgets { message } => {
            format!(
                "more than one PodDisruptionBudget selects it, its owner must mend that: {message}"
            )
        }
        EvictionAnswer::NamespaceTerminating => "its namespace is being deleted".to_owned(),
        EvictionAnswer::WebhookDenied { message } => format!("a webhook refuses: {message}"),
        EvictionAnswer::WebhookBroken { message } => {
            format!("a webhook of the cluster does not answer: {message}")
        }
        EvictionAnswer::Budget { message, .. } | EvictionAnswer::Retry { message } => message,
    };
    Ok(Some(blocker(pod, &reason)))
}

fn blocker(pod: &PodView, reason: &str) -> Blocker {
    Blocker {
        pod: format!("{}/{}", pod.pod.namespace, pod.pod.name),
        reason: reason.chars().take(300).collect(),
    }
}
