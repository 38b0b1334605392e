//! The migration worker: moves the phase, cordons and drains. Nodes are the cluster worker's.
//!
//! Each activation loads everything, plans (`plan::migration`), takes the steps, and plans anew.
//! A phase moves by compare-and-set on the phase that the plan saw, so a verb that came meanwhile
//! wins.

mod after;
mod drains;

use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use jiff::Timestamp;

use super::cluster::Done;
use super::cluster::load::{Loaded, load, plan_pool};
use super::context::Context;
use super::drain::{Force, Target};
use super::timeline::{NodeEvent, record_migration};
use super::{Next, Reconciler, WorkError};
use crate::domain::ids::{MigrationId, NodeId};
use crate::domain::insight::with_waivers;
use crate::domain::migration::{Event, Migration, Phase};
use crate::domain::node::{Drain, Node, Role};
use crate::plan::Plan;
use crate::plan::migration::{Snapshot, Step, conditions, plan};
use crate::plan::pool::Pool;
use crate::plan::preflight::{Verdict, verdict};
use crate::plan::resolve::Place;
use crate::store::events::EventType;
use crate::store::migration_progress::{self, PoolPlace};
use crate::store::nodes::heirs;
use crate::store::nodes::progress::{self, Change};
use crate::store::preflights::{self, PreflightRow};
use crate::store::work::{Lease, ResourceId, WorkKind, wake};

/// Rounds of planning in one activation.
const ROUNDS: usize = 12;
/// When to look again if nothing wakes us.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Reconciles migrations.
#[derive(Debug, Clone)]
pub struct MigrationWorker {
    context: Context,
}

struct Work<'a> {
    lease: &'a Lease,
    loaded: &'a Loaded,
    migration: &'a Migration,
}

impl MigrationWorker {
    /// A worker.
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    /// Every step that calls outside, by the name at which tests kill it.
    pub const STEPS: [&'static str; 5] =
        ["cordon node", "list pods", "evict pods", "uncordon node", "look for harm"];

    async fn act(&self, work: &Work<'_>, plan: &Plan<Step>) -> Result<Done, WorkError> {
        let mut steps: Vec<BoxFuture<'_, Result<Done, WorkError>>> = Vec::new();
        let mut passes = Vec::new();
        for planned in &plan.steps {
            match planned.step {
                Step::DrainPass(node) => passes.push((node, Force::Never)),
                Step::ForcePass(node) => passes.push((node, Force::Delete)),
                _ => steps.push(Box::pin(self.step(work, &planned.step, &planned.reason))),
            }
        }
        if !passes.is_empty() {
            steps.push(Box::pin(async move { self.drain_round(work, &passes).await }));
        }
        let parallel = self.context.settings.parallel_steps;
        let mut results = futures::stream::iter(steps).buffer_unordered(parallel);
        let longest = self.context.settings.drain_pass.max(LOOK_AGAIN).mul_f64(1.2);
        let (mut progress, mut wait, mut failure) = (false, longest, None);
        while let Some(result) = results.next().await {
            match result {
                Ok(Done::Progress) => progress = true,
                Ok(Done::Wait(time)) => wait = wait.min(time),
                Err(error @ (WorkError::LeaseLost | WorkError::Crashed(_))) => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "step did not succeed");
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

    async fn step(&self, work: &Work<'_>, step: &Step, why: &str) -> Result<Done, WorkError> {
        tracing::info!(
            migration.id = %work.migration.id, %step, why,
            "migration of {}: {step} ({why})", work.loaded.cluster.name
        );
        match step {
            Step::Move(event, wave) => self.move_phase(work, (*event, *wave), why).await,
            Step::SetHealthy(is_healthy) => {
                let since = is_healthy.then(|| self.context.now());
                let mut tx = self.context.fenced(work.lease).await?;
                migration_progress::set_healthy(&mut tx, work.migration.id, since).await?;
                tx.commit().await?;
                Ok(Done::Progress)
            }
            Step::Pause(reason) => self.pause(work, reason).await,
            Step::TurnBack(reason) => self.turn_back(work, reason).await,
            Step::Cordon(node) => {
                let client = self.context.cluster_client(&work.loaded.cluster).await?;
                let mark = mark(work.migration);
                let row = work.loaded.node(*node)?;
                let target = Target { row, mark: &mark };
                self.context.cordon(work.lease, &client, target).await?;
                Ok(Done::Progress)
            }
            Step::Uncordon(node) => {
                let client = self.context.cluster_client(&work.loaded.cluster).await?;
                let mark = mark(work.migration);
                let row = work.loaded.node(*node)?;
                let target = Target { row, mark: &mark };
                self.context.uncordon(work.lease, &client, target).await?;
                Ok(Done::Progress)
            }
            Step::DrainPass(node) => self.drain_round(work, &[(*node, Force::Never)]).await,
            Step::ForcePass(node) => self.drain_round(work, &[(*node, Force::Delete)]).await,
            Step::TakeBaseline => self.take_baseline(work).await,
            Step::LookForHarm => self.look_for_harm(work).await,
            Step::Skip(node) => self.settle(work, (*node, Drain::Skipped), why).await,
            Step::AssumeDrained(node) => self.settle(work, (*node, Drain::Drained), why).await,
            Step::Dismiss(node) => self.dismiss(work, *node, why).await,
        }
    }

    async fn settle(
        &self,
        work: &Work<'_>,
        (node, drain): (NodeId, Drain),
        why: &str,
    ) -> Result<Done, WorkError> {
        let row = work.loaded.node(node)?;
        let change = Change::Drain(drain, row.node.blockers.clone());
        let mut tx = self.context.fenced(work.lease).await?;
        let now = self.context.now();
        progress::write(&mut tx, node, change, now).await?;
        let event = NodeEvent::new(EventType::Warning, "NodeLeft", why);
        record_migration(&mut tx, (&work.loaded.cluster, work.migration), event, now).await?;
        tx.commit().await?;
        Ok(Done::Progress)
    }

    /// Wants a node absent; the cluster worker deletes it.
    async fn dismiss(&self, work: &Work<'_>, node: NodeId, why: &str) -> Result<Done, WorkError> {
        let now = self.context.now();
        let mut tx = self.context.fenced(work.lease).await?;
        progress::write(&mut tx, node, Change::Dismiss(why.to_owned()), now).await?;
        heirs::give_up(&mut tx, node).await?;
        wake(&mut tx, WorkKind::Cluster, work.loaded.cluster.id, now).await?;
        tx.commit().await?;
        Ok(Done::Progress)
    }

    async fn pause(&self, work: &Work<'_>, reason: &str) -> Result<Done, WorkError> {
        let now = self.context.now();
        let mut tx = self.context.fenced(work.lease).await?;
        migration_progress::pause(&mut tx, work.migration.id, reason).await?;
        let event = NodeEvent::new(EventType::Warning, "Paused", reason);
        record_migration(&mut tx, (&work.loaded.cluster, work.migration), event, now).await?;
        tx.commit().await?;
        Ok(Done::Progress)
    }

    async fn turn_back(&self, work: &Work<'_>, reason: &str) -> Result<Done, WorkError> {
        let now = self.context.now();
        let mut tx = self.context.fenced(work.lease).await?;
        migration_progress::turn_back(&mut tx, work.migration.id).await?;
        let said = format!("it turns back by itself: {reason}");
        let event = NodeEvent::new(EventType::Warning, "TurningBack", said);
        record_migration(&mut tx, (&work.loaded.cluster, work.migration), event, now).await?;
        tx.commit().await?;
        Ok(Done::Progress)
    }

    async fn move_phase(
        &self,
        work: &Work<'_>,
        (event, wave): (Event, Option<usize>),
        why: &str,
    ) -> Result<Done, WorkError> {
        let migration = work.migration;
        let to =
            migration.phase.after(event).map_err(|error| WorkError::internal(error.to_string()))?;
        let now = self.context.now();
        let wave = wave.unwrap_or(migration.wave);
        let mut tx = self.context.fenced(work.lease).await?;
        if !migration_progress::move_phase(&mut tx, migration, (event, to, wave), now).await? {
            // Somebody asked for something else meanwhile: plan anew.
            return Ok(Done::Progress);
        }
        if to == Phase::Committing {
            for pool in work.loaded.pools.iter().filter(|p| migration.pools.contains(&p.id)) {
                let place = work.loaded.place(pool, migration.target)?;
                let to = (migration.target, pool_place(&place));
                migration_progress::move_pool(&mut tx, pool.id, to).await?;
            }
        }
        if matches!(event, Event::Returned | Event::ForwardAnew) {
            let of = (migration.cluster_id, migration.id, migration.target);
            heirs::give_up_target(&mut tx, of).await?;
        }
        let message = match to {
            Phase::Provisioning => format!("wave {}: {why}", wave + 1),
            _ => why.to_owned(),
        };
        let event = NodeEvent::new(EventType::Normal, reason_of(to), message);
        record_migration(&mut tx, (&work.loaded.cluster, migration), event, now).await?;
        // What the pools want on which cloud has changed.
        wake(&mut tx, WorkKind::Cluster, work.loaded.cluster.id, now).await?;
        tx.commit().await?;
        Ok(Done::Progress)
    }

    /// Writes conditions and reasons, if they changed.
    async fn report(
        &self,
        work: &Work<'_>,
        (waiting, failure): (&[String], Option<&WorkError>),
    ) -> Result<(), WorkError> {
        let mut waiting = waiting.to_vec();
        waiting.extend(failure.map(super::describe));
        waiting.truncate(50);
        let mut tx = self.context.fenced(work.lease).await?;
        migration_progress::write_status(&mut tx, work.migration.id, &waiting).await?;
        let pools: Vec<Pool> = work.loaded.pools.iter().map(plan_pool).collect();
        let nodes: Vec<Node> = work.loaded.workers().cloned().collect();
        let judged = conditions(work.migration, (&pools, &nodes), self.context.now());
        self.judge(&mut tx, (&work.loaded.cluster, work.migration), judged).await?;
        Ok(tx.commit().await?)
    }

    fn snapshot(&self, loaded: &Loaded, (migration, preflight): (Migration, Verdict)) -> Snapshot {
        let workers = loaded.nodes.iter().filter(|row| row.node.role == Role::Worker);
        Snapshot {
            now: self.context.now(),
            preflight,
            migration,
            pools: loaded.pools.iter().map(plan_pool).collect(),
            nodes: workers.map(|row| row.node.clone()).collect(),
            cluster: loaded.cluster.desired,
        }
    }
}

/// What is written beside our cordons.
pub(super) fn mark(migration: &Migration) -> String {
    format!("migration-{}", migration.id)
}

/// The phase as the reason of an event.
fn reason_of(phase: Phase) -> &'static str {
    match phase {
        Phase::Pending => "Pending",
        Phase::Preflight => "Preflight",
        Phase::Provisioning => "Provisioning",
        Phase::Draining => "Draining",
        Phase::Soaking => "Soaking",
        Phase::Approval => "ApprovalNeeded",
        Phase::Holding => "Holding",
        Phase::Committing => "Committing",
        Phase::Succeeded => "Succeeded",
        Phase::RollingBack => "RollingBack",
        Phase::RolledBack => "RolledBack",
        Phase::Cancelled => "Cancelled",
    }
}

fn pool_place(place: &Place) -> PoolPlace<'_> {
    PoolPlace {
        flavor: &place.flavor,
        zone: place.zone.as_deref(),
        network: place.network.as_deref(),
        security_group: place.security_group.as_deref(),
        image: place.image.as_deref(),
    }
}

/// What the migration's preflight says now.
fn verdict_of(preflight: Option<&PreflightRow>, now: Timestamp) -> Verdict {
    let Some(row) = preflight else {
        return Verdict::Pending("it has no preflight".to_owned());
    };
    let insights = with_waivers(row.insights.clone(), &row.waivers, now);
    verdict(&insights, (row.is_done(), row.checked_at), now)
}

/// When to look again if nothing wakes us: not later than the clock alone moves it on.
fn look_again(migration: &Migration, now: Timestamp) -> Duration {
    let left = migration.next_moment().map(|at| at.duration_since(now));
    let left = left.and_then(|left| Duration::try_from(left).ok());
    // A moment that has passed without a step waits for something else.
    left.filter(|left| !left.is_zero()).map_or(LOOK_AGAIN, |left| left.min(LOOK_AGAIN))
}

impl Reconciler for MigrationWorker {
    const KIND: WorkKind = WorkKind::Migration;

    async fn reconcile(&self, id: ResourceId, lease: &Lease) -> Result<Next, WorkError> {
        let id = MigrationId::from(id);
        for _ in 0..ROUNDS {
            let mut tx = self.context.store.snapshot().await?;
            let Some(migration) = migration_progress::load(&mut tx, id).await? else {
                return Ok(Next::Gone);
            };
            let preflight = match migration.phase {
                Phase::Preflight => preflights::of_migration(&mut *tx, id).await?,
                _ => None,
            };
            drop(tx);
            if migration.phase.is_final() {
                return self.clean_up(lease, &migration).await;
            }
            let Some(loaded) = load(&self.context, migration.cluster_id).await? else {
                return Ok(Next::Gone);
            };
            let verdict = verdict_of(preflight.as_ref(), self.context.now());
            let plan = plan(&self.snapshot(&loaded, (migration.clone(), verdict)));
            let work = Work { lease, loaded: &loaded, migration: &migration };
            if plan.steps.is_empty() {
                self.report(&work, (&plan.waiting, None)).await?;
                return Ok(Next::After(look_again(&migration, self.context.now())));
            }
            match self.act(&work, &plan).await {
                Ok(Done::Progress) => {}
                Ok(Done::Wait(time)) => {
                    self.report(&work, (&plan.waiting, None)).await?;
                    return Ok(Next::After(time));
                }
                Err(error @ (WorkError::LeaseLost | WorkError::Crashed(_))) => return Err(error),
                Err(error) => {
                    self.report(&work, (&plan.waiting, Some(&error))).await?;
                    return Err(error);
                }
            }
        }
        Ok(Next::After(Duration::ZERO))
    }
}
