//! The cluster worker: control plane and pools, from wish to servers and back.
//!
//! Each activation loads everything, plans (`plan::cluster`), takes the steps that the plan has for
//! different nodes side by side, and plans anew. Every step follows one order: intent recorded
//! under the lease, call, result recorded under the lease. Nothing is looked for before the first
//! call, or after one that was refused: there is nothing. What a crash leaves:
//!
//! | step | killed before the call | killed after it, before its record |
//! |---|---|---|
//! | port | looked for by our id in its description, none: made | the same: found and adopted |
//! | server group | looked for by name | the same |
//! | server | looked for by name and metadata for `unclear_wait` and twice, none: made on the same port, so a late first call cannot make a second node | found and adopted |
//! | bootstrap token | made again under the same id | exists: its end is moved |
//! | labels, deletes | repeated | repeated: absent is done |
//!
//! What a frozen replica makes after it lost its lease (a second port) nobody owns; the sweep
//! finds it.

mod canary;
mod going;
pub(super) mod load;
mod members;
mod rows;
mod servers;

use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;

use super::context::Context;
use super::{Next, Reconciler, WorkError};
use crate::domain::cluster::ClusterPhase;
use crate::domain::condition::{self, Condition};
use crate::domain::ids::ClusterId;
use crate::domain::node::{Desired, NodeStage};
use crate::plan::cluster::{Step, plan};
use crate::plan::{Plan, Planned};
use crate::store::cluster_progress;
use crate::store::work::{Lease, ResourceId, WorkKind};
use load::Loaded;

/// Rounds of planning in one activation. A node's way in has five steps; more rounds than that
/// belong to the next activation, so that clusters take turns.
const ROUNDS: usize = 12;
/// When to look again if nothing wakes us: lists wake us sooner.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// What a step came to.
pub(super) enum Done {
    /// Something changed: plan anew.
    Progress,
    /// Nothing to do until this time has passed or a list wakes us.
    Wait(Duration),
}

/// A step and what it came to.
type Taken<'a> = (&'a Planned<Step>, Result<Done, WorkError>);

/// Reconciles clusters.
#[derive(Debug, Clone)]
pub struct ClusterWorker {
    context: Context,
}

impl ClusterWorker {
    /// A worker.
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    async fn act(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        plan: &Plan<Step>,
    ) -> Result<Done, WorkError> {
        let mut steps: Vec<BoxFuture<'_, Taken<'_>>> = Vec::new();
        for planned in &plan.steps {
            steps.push(Box::pin(async move { (planned, self.step(lease, loaded, planned).await) }));
        }
        let mut results =
            futures::stream::iter(steps).buffer_unordered(self.context.settings.parallel_steps);
        let mut progress = false;
        let mut wait = LOOK_AGAIN;
        let mut failure = None;
        while let Some((planned, result)) = results.next().await {
            match result {
                Ok(Done::Progress) => progress = true,
                Ok(Done::Wait(time)) => wait = wait.min(time),
                Err(error @ (WorkError::LeaseLost | WorkError::Crashed(_))) => return Err(error),
                Err(error) => {
                    tracing::warn!(step = %planned.step, %error, "step did not succeed");
                    failure = failure.or(Some(error));
                }
            }
        }
        match failure {
            _ if progress => Ok(Done::Progress),
            Some(error) => Err(error),
            None => Ok(Done::Wait(wait)),
        }
    }

    async fn step(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        planned: &Planned<Step>,
    ) -> Result<Done, WorkError> {
        let Planned { step, reason } = planned;
        tracing::info!(
            cluster.name = %loaded.cluster.name, %step, reason,
            "cluster {}: {step} ({reason})", loaded.cluster.name
        );
        match step {
            Step::AddNode(new) => self.add_node(lease, loaded, new).await,
            Step::Dismiss(node) => self.dismiss(lease, loaded, (loaded.node(*node)?, reason)).await,
            Step::Replace(node) => self.replace(lease, loaded, (loaded.node(*node)?, reason)).await,
            Step::EnsureVipPort => self.ensure_vip_port(lease, loaded).await,
            Step::EnsureGroup(group) => self.ensure_group(lease, loaded, *group).await,
            Step::EnsurePort(node) => self.ensure_port(lease, loaded, loaded.node(*node)?).await,
            Step::EnsureServer(node) => {
                self.ensure_server(lease, loaded, loaded.node(*node)?).await
            }
            Step::StartServer(node) => self.start_server(lease, loaded, loaded.node(*node)?).await,
            Step::CheckApi => self.check_api(lease, loaded).await,
            Step::ApplyBase => self.apply_base(lease, loaded).await,
            Step::EnsureToken(node) => self.ensure_token(lease, loaded, loaded.node(*node)?).await,
            Step::ApplyLabels(node) => self.apply_labels(lease, loaded, loaded.node(*node)?).await,
            Step::CarryLedger(node) => self.carry_ledger(lease, loaded, loaded.node(*node)?).await,
            Step::LiftCordon(node) => self.lift_cordon(lease, loaded, loaded.node(*node)?).await,
            Step::RevokeToken(node) => self.revoke_token(lease, loaded, loaded.node(*node)?).await,
            Step::DrainNode(node) => self.drain_node(lease, loaded, loaded.node(*node)?).await,
            Step::FailNode(node) => {
                self.fail_node(lease, loaded, (loaded.node(*node)?, reason)).await
            }
            Step::DeleteServer(node) => {
                self.delete_server(lease, loaded, loaded.node(*node)?).await
            }
            Step::ConfirmServer(node) => {
                self.confirm_server(lease, loaded, loaded.node(*node)?).await
            }
            Step::DeletePort(node) => self.delete_port(lease, loaded, loaded.node(*node)?).await,
            Step::DeleteObject(node) => {
                self.delete_object(lease, loaded, loaded.node(*node)?).await
            }
            Step::CloseNode(node) => self.close_node(lease, loaded.node(*node)?).await,
            Step::AddCanary(id) => self.add_canary(lease, loaded, loaded.canary(*id)?).await,
            Step::Probe(id) => self.probe(lease, loaded, loaded.canary(*id)?).await,
            Step::FailCanary(id) => {
                self.fail_canary(lease, loaded, (loaded.canary(*id)?, reason)).await
            }
            Step::EndCanary(id, outcome) => {
                self.end_canary(lease, loaded, (loaded.canary(*id)?, *outcome)).await
            }
            Step::DeleteProbe(id) => self.delete_probe(lease, loaded, loaded.canary(*id)?).await,
            Step::DeleteGroup(group) => self.delete_group(lease, loaded, *group).await,
            Step::DeleteVipPort => self.delete_vip_port(lease, loaded).await,
            Step::CloseCluster => self.close_cluster(lease, loaded).await,
        }
    }

    /// Writes conditions and reasons, if they changed.
    async fn report(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        (waiting, failure): (&[String], Option<&WorkError>),
    ) -> Result<(), WorkError> {
        let cluster = &loaded.cluster;
        let mut waiting = waiting.to_vec();
        waiting.extend(failure.map(super::describe));
        waiting.truncate(50);
        let mut conditions = cluster.conditions.clone();
        let mut changed = waiting != cluster.waiting;
        for condition in self.judge(loaded) {
            changed |= condition::set(&mut conditions, condition);
        }
        if changed || loaded.is_unobserved {
            let mut tx = self.context.fenced(lease).await?;
            cluster_progress::write_status(&mut tx, cluster, (&conditions, &waiting)).await?;
            tx.commit().await?;
        }
        Ok(())
    }

    fn judge(&self, loaded: &Loaded) -> Vec<Condition> {
        let now = self.context.now();
        let condition = |kind: &str, status, reason: &str, message: String| Condition {
            kind: kind.to_owned(),
            status,
            reason: reason.to_owned(),
            message,
            last_transition: now,
        };
        let wanted: usize = loaded.pools.iter().map(|pool| pool.count as usize).sum();
        let serving = loaded.workers().filter(|node| node.is_serving()).count();
        let is_ready = loaded.cluster.desired == Desired::Present
            && loaded.cluster.base_applied_at.is_some()
            && serving >= wanted;
        let no_room = loaded.nodes.iter().find_map(|row| {
            let trouble = row.node.trouble.as_ref()?;
            (row.node.stage() == NodeStage::Wanted && row.node.not_before.is_some())
                .then(|| format!("{}: {trouble}", row.node.name))
        });
        let reason = if is_ready { "AllServing" } else { "NodesMissing" };
        let full = no_room.is_some();
        vec![
            condition("Ready", is_ready, reason, format!("{serving} of {wanted} workers serve")),
            condition(
                "CapacityUnavailable",
                full,
                if full { "Refused" } else { "NotRefused" },
                no_room.unwrap_or_else(|| "no cloud refuses".to_owned()),
            ),
        ]
    }
}

impl Reconciler for ClusterWorker {
    const KIND: WorkKind = WorkKind::Cluster;

    async fn reconcile(&self, id: ResourceId, lease: &Lease) -> Result<Next, WorkError> {
        let id = ClusterId::from(id);
        for _ in 0..ROUNDS {
            let Some(loaded) = load::load(&self.context, id).await? else { return Ok(Next::Gone) };
            if loaded.cluster.phase == ClusterPhase::Deleted {
                self.context.connector.forget(id);
                return Ok(Next::Gone);
            }
            let plan = plan(&loaded.snapshot);
            if plan.steps.is_empty() {
                self.report(lease, &loaded, (&plan.waiting, None)).await?;
                let is_settled = plan.waiting.is_empty();
                return Ok(if is_settled { Next::Settled } else { Next::After(LOOK_AGAIN) });
            }
            match self.act(lease, &loaded, &plan).await {
                Ok(Done::Progress) => {}
                Ok(Done::Wait(time)) => {
                    self.report(lease, &loaded, (&plan.waiting, None)).await?;
                    return Ok(Next::After(time));
                }
                Err(error @ (WorkError::LeaseLost | WorkError::Crashed(_))) => return Err(error),
                Err(error) => {
                    self.report(lease, &loaded, (&plan.waiting, Some(&error))).await?;
                    let clouds: Vec<_> = loaded.clouds.keys().copied().collect();
                    self.context.doubt(lease, &clouds, &error).await?;
                    return Err(error);
                }
            }
        }
        Ok(Next::After(Duration::ZERO))
    }
}
