//! Conditions, and what is left of a migration that turned back: servers on a target that was dead.

use std::time::Duration;

use super::MigrationWorker;
use crate::domain::condition::Condition;
use crate::domain::migration::{Migration, Phase};
use crate::plan::migration::way_back::{TARGET_CLEANUP, WAY_BACK};
use crate::store::cluster_progress::ClusterWork;
use crate::store::events::EventType;
use crate::store::migration_progress;
use crate::store::work::Lease;
use crate::store::{StoreError, Tx};
use crate::worker::cluster::load::{Loaded, load};
use crate::worker::timeline::{NodeEvent, record_migration};
use crate::worker::{Next, WorkError};

/// The cluster worker deletes what is left and wakes us with the last of it; this is the net.
const LOOK_AGAIN: Duration = Duration::from_mins(2);

impl MigrationWorker {
    /// A migration that turned back is not over for its operator while servers of it are left on
    /// the target: the condition says so until they are gone.
    pub(super) async fn clean_up(
        &self,
        lease: &Lease,
        migration: &Migration,
    ) -> Result<Next, WorkError> {
        if migration.phase != Phase::RolledBack {
            return Ok(Next::Gone);
        }
        let Some(loaded) = load(&self.context, migration.cluster_id).await? else {
            return Ok(Next::Gone);
        };
        let left = left_on_target(&loaded, migration);
        let judged = Condition {
            kind: TARGET_CLEANUP.to_owned(),
            status: !left.is_empty(),
            reason: if left.is_empty() { "Clean" } else { "ServersLeft" }.to_owned(),
            message: match left.len() {
                0 => "nothing of it is left on the target".to_owned(),
                n => format!("{n} nodes are left on the target, such as {}", left[0]),
            },
            last_transition: self.context.now(),
        };
        let mut tx = self.context.fenced(lease).await?;
        self.judge(&mut tx, (&loaded.cluster, migration), vec![judged]).await?;
        tx.commit().await?;
        Ok(if left.is_empty() { Next::Gone } else { Next::After(LOOK_AGAIN) })
    }

    /// Writes conditions; the timeline tells of those that turned and that people wait for.
    pub(super) async fn judge(
        &self,
        tx: &mut Tx,
        about: (&ClusterWork, &Migration),
        judged: Vec<Condition>,
    ) -> Result<(), StoreError> {
        for turned in migration_progress::set_conditions(tx, about.1.id, judged).await? {
            let (kind, reason) = match (turned.kind.as_str(), turned.status) {
                (WAY_BACK, true) => (EventType::Normal, "WayBackOpen"),
                (WAY_BACK, false) => (EventType::Warning, "WayBackClosed"),
                (TARGET_CLEANUP, true) => (EventType::Warning, "TargetCleanup"),
                (TARGET_CLEANUP, false) => (EventType::Normal, "TargetClean"),
                _ => continue,
            };
            let event = NodeEvent::new(kind, reason, turned.message);
            record_migration(tx, about, event, self.context.now()).await?;
        }
        Ok(())
    }
}

/// Names of the nodes made for the migration of which something may still be on the target.
fn left_on_target<'a>(loaded: &'a Loaded, migration: &Migration) -> Vec<&'a str> {
    loaded
        .nodes
        .iter()
        .filter(|row| row.job_id == Some(migration.id) && row.node.cloud_id == migration.target)
        .map(|row| row.node.name.as_str())
        .collect()
}
