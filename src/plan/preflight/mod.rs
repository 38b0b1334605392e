//! Everything that can be known before a node is touched: facts in, insights out.
//!
//! A check is a function from [`Facts`] to insights, and stands in the list [`CHECKS`]; it says PASS
//! too, so that an owner sees what was looked at. What could not be read is a fact as well, and an
//! insight of its own. The worker gathers the facts (`worker::preflight`) and stores what comes out.
//!
//! Which level: BLOCK if the move cannot work, or would break or lose something, and a person did
//! not agree. Final (not to be waived) if it cannot work at all. WARN if the migration copes by
//! itself, by waiting, and the owner should know beforehand.

mod canary;
mod capacity;
mod facts;
mod moves;
mod network;
mod nodes;
mod pods;
mod system;
mod target;
mod volumes;

use jiff::{SignedDuration, Timestamp};

use crate::domain::insight::{Insight, Level};

pub use canary::{CanaryEnd, CanaryFacts, CanaryState, is_bad};
pub use facts::{CloudFacts, ClusterFacts, Facts, PoolFacts};
pub use moves::{assign_waves, plan_move};
pub use target::target_flavors;

/// A look that is older than this says nothing any more. Twice the longest time between two looks.
const FRESH: SignedDuration = SignedDuration::from_mins(10);

/// One check.
type Check = fn(&Facts) -> Vec<Insight>;

/// Every check, in the order in which a person would make them.
const CHECKS: &[Check] = &[
    target::is_ready,
    nodes::reachable,
    nodes::other_jobs,
    target::flavors,
    target::image,
    target::network,
    target::security_group,
    target::zones,
    capacity::quota,
    capacity::hosts,
    capacity::server_groups,
    capacity::user_data,
    network::addresses,
    network::overlap,
    network::pod_ranges,
    nodes::healthy,
    nodes::cordons,
    nodes::certificates,
    volumes::cloud,
    volumes::local,
    pods::pinned,
    pods::bare,
    pods::empty_dirs,
    pods::host_paths,
    pods::budgets,
    pods::two_budgets,
    pods::single_replicas,
    pods::long_grace,
    pods::zones,
    pods::pending,
    system::cloud_controller,
    system::storage,
    system::load_balancers,
    system::webhooks,
    system::network_policies,
    system::actors,
    canary::canaries,
];

/// What there is to say, in the order of the checks.
pub fn check(facts: &Facts) -> Vec<Insight> {
    CHECKS.iter().flat_map(|check| check(facts)).collect()
}

impl Facts {
    fn pass(&self, id: &str, reason: impl Into<String>) -> Insight {
        Insight::new(self.now, Level::Pass, id, reason)
    }

    fn warn(&self, id: &str, reason: impl Into<String>) -> Insight {
        Insight::new(self.now, Level::Warn, id, reason)
    }

    fn block(&self, id: &str, reason: impl Into<String>) -> Insight {
        Insight::new(self.now, Level::Block, id, reason)
    }
}

/// What a migration may conclude from its preflight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody looked yet, or too long ago.
    Pending(String),
    /// Something stands against it.
    Blocked(Vec<String>),
    /// Nothing stands against it that nobody waived.
    Clear,
}

/// What follows from insights (with their waivers) of a look at `checked_at`, if the look fulfilled
/// the last wish for one.
pub fn verdict(
    insights: &[Insight],
    (is_done, checked_at): (bool, Option<Timestamp>),
    now: Timestamp,
) -> Verdict {
    let Some(checked_at) = checked_at.filter(|_| is_done) else {
        let canary = insights.iter().find(|one| one.id.as_str() == "canary" && one.blocks(now));
        let looking = || "clouds and cluster are being looked at".to_owned();
        return Verdict::Pending(canary.map_or_else(looking, Insight::line));
    };
    if now.duration_since(checked_at) > FRESH {
        return Verdict::Pending(format!("what was seen at {checked_at:.0} is too old"));
    }
    let blocking: Vec<String> =
        insights.iter().filter(|one| one.blocks(now)).map(Insight::line).collect();
    if blocking.is_empty() { Verdict::Clear } else { Verdict::Blocked(blocking) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_fresh_look_without_an_open_block_lets_a_migration_go_on() {
        let then: Timestamp = "2026-11-01T12:00:00Z".parse().unwrap();
        let now = then + SignedDuration::from_mins(5);
        let late = then + SignedDuration::from_mins(11);
        let warn = Insight::new(then, Level::Warn, "empty_dirs", "one");
        let block = Insight::new(then, Level::Block, "bare_pods", "one");
        let is_pending = |verdict| matches!(verdict, Verdict::Pending(_));
        assert!(is_pending(verdict(&[], (true, None), now)));
        assert!(is_pending(verdict(&[], (false, Some(then)), now)));
        assert!(is_pending(verdict(&[], (true, Some(then)), late)));
        let look = (true, Some(then));
        assert_eq!(verdict(std::slice::from_ref(&warn), look, now), Verdict::Clear);
        assert_eq!(
            verdict(&[warn, block], look, now),
            Verdict::Blocked(vec!["bare_pods: one".to_owned()])
        );
    }
}
