//! What a migration does in its cluster: rounds of passes over nodes, and looks for harm.

use std::collections::BTreeSet;

use super::{MigrationWorker, Work, mark};
use crate::domain::harm::{Facts, Harm};
use crate::domain::ids::NodeId;
use crate::kubernetes::client::ClusterClient;
use crate::store::events::EventType;
use crate::store::migration_progress;
use crate::worker::WorkError;
use crate::worker::cluster::Done;
use crate::worker::drain::{Force, Outcome, Rules, Target};
use crate::worker::timeline::{NodeEvent, record_migration};

impl MigrationWorker {
    /// One round over all nodes that are being drained: each kind is listed once.
    pub(super) async fn drain_round(
        &self,
        work: &Work<'_>,
        passes: &[(NodeId, Force)],
    ) -> Result<Done, WorkError> {
        let client = self.context.cluster_client(&work.loaded.cluster).await?;
        let mark = mark(work.migration);
        let mut targets = Vec::new();
        for (node, force) in passes {
            targets.push((Target { row: work.loaded.node(*node)?, mark: &mark }, *force));
        }
        let rules = Rules {
            evict_unhealthy: work.migration.spec.drain.evict_unhealthy,
            before: &work.migration.harm.baseline,
        };
        let outcomes = self.context.drain_round(work.lease, &client, (&targets, rules)).await?;
        for ((target, _), outcome) in targets.iter().zip(&outcomes) {
            self.tell_outcome(work, &target.row.node.name, *outcome).await?;
        }
        if outcomes.iter().any(|outcome| outcome.is_done) {
            return Ok(Done::Progress);
        }
        Ok(Done::Wait(self.context.next_pass(&outcomes)))
    }

    async fn tell_outcome(
        &self,
        work: &Work<'_>,
        node: &str,
        outcome: Outcome,
    ) -> Result<(), WorkError> {
        if outcome.forced == 0 && !outcome.is_done {
            return Ok(());
        }
        let now = self.context.now();
        let of = (&work.loaded.cluster, work.migration);
        let mut tx = self.context.fenced(work.lease).await?;
        if outcome.forced > 0 {
            let author = migration_progress::author(&mut tx, work.migration.id).await?;
            let words = format!(
                "{} pods of {node} are deleted: {author} chose force at the drain's deadline",
                outcome.forced
            );
            let event = NodeEvent::new(EventType::Warning, "PodsForced", words);
            record_migration(&mut tx, of, event, now).await?;
        }
        if outcome.is_done {
            let event =
                NodeEvent::new(EventType::Normal, "NodeDrained", format!("{node} is drained"));
            record_migration(&mut tx, of, event, now).await?;
        }
        Ok(tx.commit().await?)
    }

    /// Writes down what the cluster lacks before the wave touches anything.
    pub(super) async fn take_baseline(&self, work: &Work<'_>) -> Result<Done, WorkError> {
        let client = self.context.cluster_client(&work.loaded.cluster).await?;
        let facts = self.facts(work, &client).await?;
        let harm = Harm::baseline(work.migration.wave, facts, self.context.now());
        self.write_harm(work, &harm).await?;
        Ok(Done::Progress)
    }

    /// Compares with the baseline.
    pub(super) async fn look_for_harm(&self, work: &Work<'_>) -> Result<Done, WorkError> {
        let client = self.context.cluster_client(&work.loaded.cluster).await?;
        let facts = self.facts(work, &client).await?;
        let before = &work.migration.harm;
        let harm = before.after_look(&facts, self.context.now());
        self.write_harm(work, &harm).await?;
        let is_new = harm.findings != before.findings
            || before.looked_at.is_none_or(|at| at < work.migration.phase_since);
        Ok(if is_new { Done::Progress } else { Done::Wait(super::LOOK_AGAIN) })
    }

    async fn write_harm(&self, work: &Work<'_>, harm: &Harm) -> Result<(), WorkError> {
        let mut tx = self.context.fenced(work.lease).await?;
        migration_progress::write_harm(&mut tx, work.migration.id, harm).await?;
        Ok(tx.commit().await?)
    }

    /// What the cluster lacks now; each kind is listed once, page by page.
    async fn facts(&self, work: &Work<'_>, client: &ClusterClient) -> Result<Facts, WorkError> {
        let look = async {
            let pending = client.pending_pods().await?;
            let workloads = client.workloads().await?;
            let budgets = client.budgets(None).await?;
            Ok((pending, workloads, budgets, client.list_nodes().await?))
        };
        let seen = self.context.call(work.lease, "look for harm", Box::pin(look)).await??;
        let (pending, workloads, budgets, nodes) = seen;
        let ours: BTreeSet<&str> =
            work.loaded.nodes.iter().map(|row| row.node.name.as_str()).collect();
        let foreign = nodes.into_iter().map(|node| node.name);
        let foreign = foreign.filter(|name| !ours.contains(name.as_str())).collect();
        Ok(Facts::of(&pending, &workloads, &budgets, foreign))
    }
}
