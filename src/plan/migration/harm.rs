//! The watch over what a wave may break: when to look, when to pause, what the soak waits for.

use jiff::SignedDuration;

use super::{Planner, Step};
use crate::domain::harm::Finding;
use crate::domain::migration::Phase;

/// Time between two looks while all is well. Who blocks and what breaks is told within 60 s.
const PERIOD: SignedDuration = SignedDuration::from_secs(20);
/// The same while a wave waits for pods to run again: it goes on as soon as its pods run again.
const PERIOD_UNWELL: SignedDuration = SignedDuration::from_secs(5);
/// How long something may be worse before the migration pauses: a pod's image must be pulled and
/// its application must start.
const PATIENCE: SignedDuration = SignedDuration::from_mins(5);
/// How long something may be worse before a soak begins anew: an owner's own rollout takes pods
/// away for a moment.
const FLUTTER: SignedDuration = SignedDuration::from_mins(1);

impl Planner<'_> {
    /// Whether the facts before this wave are known; plans to gather them if not.
    pub(super) fn has_baseline(&mut self) -> bool {
        let migration = &self.s.migration;
        if migration.harm.wave == Some(migration.wave) {
            return true;
        }
        self.plan.step(Step::TakeBaseline, "harm is what was not there before the wave");
        false
    }

    /// Looks when it is time, and says what is worse; pauses if that lasts too long. Whether the
    /// migration may go on.
    pub(super) fn watch(&mut self) -> bool {
        let (now, migration) = (self.s.now, &self.s.migration);
        for finding in &migration.harm.findings {
            let since = migration.resumed_at.map_or(finding.since, |at| at.max(finding.since));
            let is_old = now.duration_since(since) > PATIENCE;
            let was_seen = migration.resumed_at.is_some_and(|at| at >= finding.since);
            if is_old || (finding.is_grave && !was_seen) {
                let reason = format!("{} since {:.0}", finding.what, finding.since);
                self.stop(reason, "the wave does harm");
                return false;
            }
        }
        let waits = migration.phase != Phase::Draining && !migration.harm.findings.is_empty();
        let period = if waits { PERIOD_UNWELL } else { PERIOD };
        let looked = migration.harm.looked_at;
        if looked.is_none_or(|at| now.duration_since(at) >= period || at < migration.phase_since) {
            self.plan.step(Step::LookForHarm, "nodes were drained");
        }
        for finding in migration.harm.findings.iter().take(5) {
            self.plan.wait(format!("{} since {:.0}", finding.what, finding.since));
        }
        true
    }

    /// What is worse than before the wave and lasts, in words.
    pub(super) fn lasting_harm(&self) -> Vec<String> {
        let lasts = |finding: &&Finding| self.s.now.duration_since(finding.since) > FLUTTER;
        self.s.migration.harm.findings.iter().filter(lasts).map(|f| f.what.clone()).collect()
    }

    /// Whether somebody looked since this phase began, and nothing was worse.
    pub(super) fn is_unharmed(&self) -> bool {
        let migration = &self.s.migration;
        let looked = migration.harm.looked_at.is_some_and(|at| at >= migration.phase_since);
        looked && migration.harm.findings.is_empty()
    }
}
