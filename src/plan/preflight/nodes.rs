//! The cluster itself: whether it answers, its nodes, its certificates, its other jobs.

use jiff::SignedDuration;

use super::facts::Facts;
use super::moves::plan_move;
use super::pods::count;
use crate::domain::insight::Insight;
use crate::domain::node::{Desired, Node};

/// A certificate that ends sooner is worth a word.
const SOON: SignedDuration = SignedDuration::from_hours(30 * 24);

/// The API answers, and all was read.
pub(super) fn reachable(facts: &Facts) -> Vec<Insight> {
    const ID: &str = "cluster_unreachable";
    let name = &facts.cluster.name;
    match &facts.survey {
        Err(problem) => {
            let reason =
                format!("the API of cluster {name} does not answer as it should: {problem}");
            let fix = "see whether its control plane runs; without it nothing can be drained";
            vec![facts.block(ID, reason).on([name]).fix(fix).and_final()]
        }
        Ok(survey) if !survey.cut.is_empty() => {
            let reason = format!("cluster {name} has more objects than are read");
            vec![facts.warn(ID, reason).on(&survey.cut)]
        }
        Ok(_) => vec![facts.pass(ID, format!("the API of cluster {name} answers"))],
    }
}

/// Nothing else is under way with the cluster.
pub(super) fn other_jobs(facts: &Facts) -> Vec<Insight> {
    const ID: &str = "other_job";
    if facts.other_jobs.is_empty() {
        return vec![facts.pass(ID, "nothing else is under way with the cluster")];
    }
    let reason =
        format!("{} under way with the cluster", count(facts.other_jobs.len(), "other job"));
    let fix = "wait for its end, or cancel it or turn it back";
    vec![facts.block(ID, reason).on(&facts.other_jobs).fix(fix).and_final()]
}

fn wanted_old(facts: &Facts) -> Vec<&Node> {
    let old = facts.pools.iter().flat_map(|pool| facts.old(pool));
    old.filter(|node| node.desired == Desired::Present).collect()
}

/// All nodes that move are well now, so that harm can be told from what was before.
pub(super) fn healthy(facts: &Facts) -> Vec<Insight> {
    const ID: &str = "unhealthy_nodes";
    let mut found = wanted_old(facts);
    found.retain(|node| !node.is_usable());
    if found.is_empty() {
        return vec![facts.pass(ID, "every node that moves is well")];
    }
    let described = found.iter().map(|node| match &node.trouble {
        Some(trouble) => format!("{}: {trouble}", node.name),
        None => format!("{}: {:?}", node.name, node.stage()).to_lowercase(),
    });
    let reason = format!(
        "{} that move are not well; they are replaced, not drained",
        count(found.len(), "node")
    );
    let fix = "wait until they are replaced, or see zcpctl cluster nodes";
    vec![facts.warn(ID, reason).on(described).fix(fix)]
}

/// Cordons of others, which are kept (F53).
pub(super) fn cordons(facts: &Facts) -> Vec<Insight> {
    const ID: &str = "foreign_cordons";
    let mut found = wanted_old(facts);
    found.retain(|node| node.kubelet.is_cordoned && node.kubelet.cordon_mark.is_none());
    if found.is_empty() {
        return vec![facts.pass(ID, "nobody else has cordoned a node that moves")];
    }
    let reason = format!(
        "{} cordoned by somebody else; the cordon stays on the way back",
        count(found.len(), "node")
    );
    let fix = "lift it if it is not meant any more: kubectl uncordon";
    vec![facts.warn(ID, reason).on(found.iter().map(|node| &node.name)).fix(fix)]
}

/// Certificates outlive the migration and its hold, so that the way back stays open.
pub(super) fn certificates(facts: &Facts) -> Vec<Insight> {
    const ID: &str = "certificates";
    let seconds = plan_move(facts)
        .map_or(0, |plan| plan.estimate.moving_seconds + plan.estimate.hold_seconds);
    let end = facts.now + SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(0));
    let describe = |(name, at): &(String, jiff::Timestamp)| format!("{name}: {at:.0}");
    let fix = "renew it first (kubeadm certs renew, or replace the member)";
    let early = facts.certificates.iter().filter(|(_, at)| *at <= end);
    let early: Vec<String> = early.map(describe).collect();
    if !early.is_empty() {
        let reason = format!(
            "{} before the migration and its hold, at {end:.0}",
            if early.len() == 1 {
                "1 certificate ends".to_owned()
            } else {
                format!("{} certificates end", early.len())
            }
        );
        return vec![facts.block(ID, reason).on(early).fix(fix)];
    }
    let soon = facts.certificates.iter().filter(|(_, at)| *at <= facts.now + SOON);
    let soon: Vec<String> = soon.map(describe).collect();
    if !soon.is_empty() {
        let reason = format!(
            "{} within 30 days",
            if soon.len() == 1 {
                "1 certificate ends".to_owned()
            } else {
                format!("{} certificates end", soon.len())
            }
        );
        return vec![facts.warn(ID, reason).on(soon).fix(fix)];
    }
    vec![facts.pass(ID, "every certificate outlives the migration and its hold by 30 days")]
}
