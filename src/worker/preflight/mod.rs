//! The preflight worker: gathers facts, has them checked (`plan::preflight`), stores what came out.
//!
//! A look begins with a check of the target cloud by its own worker, so that any number of
//! preflights for one cloud cost one reading of its inventory. Then the cluster is read. Nothing is
//! changed anywhere but in our own rows, so a look that was cut off is simply made anew.
//!
//! A preflight of a migration that has not begun is looked at again and again, first every 30 s and
//! later every 5 min, so what its owner mends is seen without a word. One that nobody waits for is
//! looked at once for each wish.

mod canary;
mod gather;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::context::Context;
use super::timeline::{NodeEvent, record_migration_id};
use super::{Next, Reconciler, WorkError};
use crate::domain::ids::{MigrationId, PreflightId};
use crate::domain::insight::{Insight, with_waivers};
use crate::domain::migration::Phase;
use crate::plan::preflight::{CanaryFacts, CanaryState, check, plan_move};
use crate::store::events::EventType;
use crate::store::preflights::{self, Found, PreflightRow};
use crate::store::work::{Lease, ResourceId, WorkKind, wake};
use crate::store::{clouds, cluster_progress};

/// An inventory that is not older than this needs no other reading for a look.
const INVENTORY_FRESH: SignedDuration = SignedDuration::from_secs(10);
/// How long a look waits for the check of its target cloud before it goes on without.
const CLOUD_PATIENCE: SignedDuration = SignedDuration::from_secs(30);
/// How often it is seen whether that check is over.
const CLOUD_POLL: Duration = Duration::from_secs(1);
/// Time between two looks while a migration waits: from the first to the longest.
const LOOK_MIN: SignedDuration = SignedDuration::from_secs(30);
const LOOK_MAX: SignedDuration = SignedDuration::from_mins(5);

/// When a look that waits for a canary looks again at the latest; its end wakes it.
const CANARY_WAIT: Duration = Duration::from_secs(30);

/// Looks at what is to be known before migrations.
#[derive(Debug, Clone)]
pub struct PreflightWorker {
    context: Context,
}

impl PreflightWorker {
    /// A worker.
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    /// Sees to it that the target cloud was checked for this look. `None` when it was.
    async fn await_cloud(
        &self,
        lease: &Lease,
        row: &PreflightRow,
    ) -> Result<Option<Duration>, WorkError> {
        let now = self.context.now();
        let pool = self.context.store.pool();
        let Some(cloud) = clouds::find(pool, row.target).await? else { return Ok(None) };
        if let (Some(number), Some(asked)) = (row.cloud_check, row.cloud_asked_at) {
            let is_over = cloud.check_done >= number || now.duration_since(asked) > CLOUD_PATIENCE;
            return Ok((!is_over).then_some(CLOUD_POLL));
        }
        // Whoever asks again has mended something: that must be seen.
        let is_asked_again = row.wanted > 1 && !row.is_done();
        let is_fresh = |at: Timestamp| now.duration_since(at) <= INVENTORY_FRESH;
        if !is_asked_again && cloud.inventory_at.is_some_and(is_fresh) {
            return Ok(None);
        }
        let mut tx = self.context.fenced(lease).await?;
        let number = if cloud.check_done < cloud.check_wanted {
            cloud.check_wanted
        } else {
            clouds::want_check(&mut tx, cloud.id, now).await?;
            cloud.check_wanted + 1
        };
        wake(&mut tx, WorkKind::Cloud, cloud.id, now).await?;
        preflights::set_cloud_check(&mut tx, row.id, Some((number, now))).await?;
        tx.commit().await?;
        Ok(Some(CLOUD_POLL))
    }

    /// Looks, and writes what was found.
    async fn look(
        &self,
        lease: &Lease,
        row: &PreflightRow,
        waiting: Option<MigrationId>,
    ) -> Result<Option<Vec<Insight>>, WorkError> {
        let gathered = gather::facts(&self.context, lease, row).await?;
        let Some(mut facts) = gathered else { return Ok(None) };
        facts.canaries = canary::canaries(&self.context, lease, (row, &facts)).await?;
        let is_running = |one: &CanaryFacts| matches!(one.state, CanaryState::Running { .. });
        let is_done = !facts.canaries.iter().any(is_running);
        let found = Found {
            // A look that waits for a canary has not answered yet.
            wanted: if is_done { row.wanted } else { row.done },
            insights: check(&facts),
            plan: plan_move(&facts),
            at: facts.now,
        };
        let mut tx = self.context.fenced(lease).await?;
        preflights::write_check(&mut tx, row.id, &found).await?;
        if let Some(migration) = waiting {
            let (before, after) = (blocking(row, &row.insights), blocking(row, &found.insights));
            if before != after
                && let Some(cluster) = cluster_progress::load(&mut **tx, row.cluster_id).await?
            {
                let event = told(&after);
                record_migration_id(&mut tx, (&cluster, migration), event, found.at).await?;
            }
            wake(&mut tx, WorkKind::Migration, migration, found.at).await?;
        }
        tx.commit().await?;
        Ok(Some(found.insights))
    }
}

/// The lines of what blocks until somebody does something, waivers considered.
fn blocking(row: &PreflightRow, insights: &[Insight]) -> Vec<String> {
    let Some(now) = insights.first().map(|one| one.checked_at) else { return Vec::new() };
    let all = with_waivers(insights.to_vec(), &row.waivers, now);
    let stays = |one: &&Insight| one.blocks(now) && !one.awaits_canary();
    all.iter().filter(stays).map(Insight::line).collect()
}

fn told(blocking: &[String]) -> NodeEvent {
    if blocking.is_empty() {
        let message = "nothing stands against it any more";
        return NodeEvent::new(EventType::Normal, "PreflightClear", message);
    }
    NodeEvent::new(EventType::Warning, "PreflightBlocked", blocking.join("; "))
}

/// When a migration's preflight is looked at again.
fn next_look(row: &PreflightRow, checked_at: Timestamp) -> Timestamp {
    let waited = checked_at.duration_since(row.created_at) / 2;
    checked_at + waited.clamp(LOOK_MIN, LOOK_MAX)
}

impl Reconciler for PreflightWorker {
    const KIND: WorkKind = WorkKind::Preflight;

    async fn reconcile(&self, id: ResourceId, lease: &Lease) -> Result<Next, WorkError> {
        let id = PreflightId::from(id);
        let pool = self.context.store.pool();
        let Some(row) = preflights::find(pool, id).await? else { return Ok(Next::Gone) };
        let owner = preflights::owner(pool, id).await?;
        let is_over = owner
            .as_ref()
            .is_some_and(|owner| !matches!(owner.phase, Phase::Pending | Phase::Preflight));
        if is_over {
            canary::give_up(&self.context, lease, &row).await?;
            return Ok(Next::Gone);
        }
        let waiting = owner
            .filter(|owner| matches!(owner.phase, Phase::Pending | Phase::Preflight))
            .map(|owner| owner.migration);
        if row.is_done() {
            if waiting.is_none() {
                return Ok(Next::Gone);
            }
            let at = next_look(&row, row.checked_at.unwrap_or(row.created_at));
            let left = at.duration_since(self.context.now());
            if let Ok(left) = Duration::try_from(left)
                && !left.is_zero()
            {
                return Ok(Next::After(left));
            }
        }
        if let Some(wait) = self.await_cloud(lease, &row).await? {
            return Ok(Next::After(wait));
        }
        match self.look(lease, &row, waiting).await? {
            None => Ok(Next::Gone),
            Some(insights) if insights.iter().any(Insight::awaits_canary) => {
                Ok(Next::After(CANARY_WAIT))
            }
            Some(_) if waiting.is_none() => Ok(Next::Gone),
            Some(_) => {
                let now = self.context.now();
                let wait = next_look(&row, now).duration_since(now);
                Ok(Next::After(Duration::try_from(wait).unwrap_or(CLOUD_POLL)))
            }
        }
    }
}
