//! Harm: what a cluster lacks that it did not lack before a wave touched it.
//!
//! The migration worker writes down the facts before each wave (the baseline) and compares while
//! nodes are drained and the wave soaks. What was broken before does not count against us, and is
//! said.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::pod::{BudgetView, PendingPod, WorkloadView};

/// Most findings that are kept: a cluster that is down does not fill the row.
const FINDINGS: usize = 50;

/// The watch over one migration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Harm {
    /// The wave before which the baseline was taken.
    pub wave: Option<usize>,
    /// What was so before.
    pub baseline: Facts,
    /// When somebody looked last.
    pub looked_at: Option<Timestamp>,
    /// What is worse than before.
    pub findings: Vec<Finding>,
}

/// What can be worse than before. Only what is not well is kept, so a sound cluster's facts are
/// short.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// Pods without a node, by namespace and owner.
    pub pending: BTreeMap<String, Pending>,
    /// Workloads under their number.
    pub short: BTreeMap<String, Short>,
    /// Nodes that we did not make.
    pub foreign_nodes: BTreeSet<String>,
    /// Budgets whose applications have fewer healthy pods than they want, `namespace/name`.
    pub weak_budgets: BTreeSet<String>,
}

/// Pods of one owner that have no node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// How many.
    pub pods: u32,
    /// The scheduler's words about one of them.
    pub message: Option<String>,
}

/// A workload under its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Short {
    /// Wanted replicas.
    pub wanted: u32,
    /// Available replicas.
    pub available: u32,
}

/// One thing that is worse than before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What stays the same while the words change, such as `workload Deployment shop/web`.
    pub key: String,
    /// What is wrong, for people.
    pub what: String,
    /// Since when.
    pub since: Timestamp,
    /// Nothing that time heals: pauses at once.
    pub is_grave: bool,
}

impl Facts {
    /// The facts from what a cluster lists. `foreign_nodes` are those that none of our rows names.
    pub fn of(
        pending: &[PendingPod],
        workloads: &[WorkloadView],
        budgets: &[BudgetView],
        foreign_nodes: BTreeSet<String>,
    ) -> Self {
        let mut facts = Self { foreign_nodes, ..Self::default() };
        for pod in pending {
            let owner = pod.owner.as_deref().unwrap_or(&pod.pod.name);
            let key = format!("{} {owner}", pod.pod.namespace);
            let entry = facts.pending.entry(key).or_default();
            entry.pods += 1;
            entry.message = entry.message.take().or_else(|| pod.message.clone());
        }
        for work in workloads.iter().filter(|work| work.available < work.wanted) {
            let short = Short { wanted: work.wanted, available: work.available };
            facts.short.insert(workload_key(work), short);
        }
        facts.weak_budgets = budgets
            .iter()
            .filter(|budget| budget.current < budget.wanted)
            .map(|budget| format!("{}/{}", budget.namespace, budget.name))
            .collect();
        facts
    }

    /// Whether a workload was under its number already.
    pub fn was_short(&self, work: &WorkloadView) -> bool {
        self.short.contains_key(&workload_key(work))
    }

    /// What is worse now than it was then, by key, in words, and whether that is grave.
    pub fn worse(&self, now: &Self) -> Vec<(String, String, bool)> {
        let mut worse = Vec::new();
        for node in now.foreign_nodes.difference(&self.foreign_nodes) {
            let what = format!(
                "node {node} joined that zcp did not make: something in the cluster, such as an \
                 autoscaler, works against the migration"
            );
            worse.push((format!("node {node}"), what, true));
        }
        for (key, short) in &now.short {
            let before = self.short.get(key).map(|before| before.available);
            if before.is_some_and(|before| short.available >= before) {
                continue;
            }
            let had = before.map_or("all", |_| "more");
            let (available, wanted) = (short.available, short.wanted);
            let what = format!("{key}: {available} of {wanted} available, before the wave {had}");
            worse.push((format!("workload {key}"), what, false));
        }
        for (key, pending) in &now.pending {
            let before = self.pending.get(key).map_or(0, |before| before.pods);
            if pending.pods > before {
                let why = pending.message.as_deref().unwrap_or("the scheduler says nothing yet");
                let why: String = why.chars().take(200).collect();
                let what =
                    format!("{key}: {} more pods find no node ({why})", pending.pods - before);
                worse.push((format!("pending {key}"), what, false));
            }
        }
        worse.truncate(FINDINGS);
        worse
    }
}

fn workload_key(work: &WorkloadView) -> String {
    format!("{} {}/{}", work.kind, work.namespace, work.name)
}

impl Harm {
    /// The watch after a look: what is still wrong keeps its age.
    #[must_use]
    pub fn after_look(&self, now: &Facts, at: Timestamp) -> Self {
        let findings = self.baseline.worse(now).into_iter().map(|(key, what, is_grave)| {
            let known = self.findings.iter().find(|old| old.key == key);
            Finding { since: known.map_or(at, |old| old.since), key, what, is_grave }
        });
        Self { looked_at: Some(at), findings: findings.collect(), ..self.clone() }
    }

    /// The watch at the begin of a wave.
    pub fn baseline(wave: usize, facts: Facts, at: Timestamp) -> Self {
        Self { wave: Some(wave), baseline: facts, looked_at: Some(at), findings: vec![] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::pod::PodRef;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn work(name: &str, wanted: u32, available: u32) -> WorkloadView {
        let (kind, namespace) = ("Deployment".to_owned(), "shop".to_owned());
        WorkloadView { kind, namespace, name: name.to_owned(), wanted, available }
    }

    fn waiting(name: &str) -> PendingPod {
        PendingPod {
            pod: PodRef { namespace: "shop".into(), name: name.into(), uid: name.into() },
            owner: Some("ReplicaSet/web-1".into()),
            created_at: at(0),
            message: Some("0/3 nodes are available".into()),
        }
    }

    fn facts(pending: &[PendingPod], workloads: &[WorkloadView], foreign: &[&str]) -> Facts {
        let foreign = foreign.iter().map(|name| (*name).to_owned()).collect();
        Facts::of(pending, workloads, &[], foreign)
    }

    fn words(before: &Facts, now: &Facts) -> Vec<String> {
        before.worse(now).into_iter().map(|(_, what, _)| what).collect()
    }

    #[test]
    fn f37_what_was_broken_before_does_not_count_and_more_of_it_does() {
        let before = facts(&[waiting("a")], &[work("web", 3, 2)], &["byo"]);
        let cases: [(Facts, &[&str]); 6] = [
            (before.clone(), &[]),
            (facts(&[], &[work("web", 3, 3)], &[]), &[]),
            (
                facts(&[], &[work("web", 3, 1)], &["byo"]),
                &["Deployment shop/web: 1 of 3 available, before the wave more"],
            ),
            (
                facts(&[], &[work("api", 2, 1)], &["byo"]),
                &["Deployment shop/api: 1 of 2 available, before the wave all"],
            ),
            (
                facts(&[waiting("b"), waiting("c")], &[], &["byo"]),
                &["shop ReplicaSet/web-1: 1 more pods find no node (0/3 nodes are available)"],
            ),
            (
                facts(&[], &[], &["byo", "auto-1"]),
                &["node auto-1 joined that zcp did not make: something in the cluster, such as \
                   an autoscaler, works against the migration"],
            ),
        ];
        for (now, expected) in cases {
            assert_eq!(words(&before, &now), expected);
        }
    }

    #[test]
    fn a_finding_keeps_its_age_while_its_words_change() {
        let harm = Harm::baseline(0, Facts::default(), at(0));
        let first = harm.after_look(&facts(&[], &[work("web", 3, 1)], &[]), at(10));
        let second = first.after_look(&facts(&[], &[work("web", 3, 2)], &[]), at(20));
        assert_eq!(second.findings[0].since, at(10));
        assert!(second.findings[0].what.contains("2 of 3"));
        let healed = second.after_look(&Facts::default(), at(30));
        assert_eq!(healed.findings, []);
    }

    #[test]
    fn weak_budgets_are_those_whose_application_is_not_well() {
        let budget = |name: &str, current| BudgetView {
            namespace: "shop".into(),
            name: name.into(),
            wanted: 3,
            current,
            allowed: 0,
            selects: None,
        };
        let facts = Facts::of(&[], &[], &[budget("web", 2), budget("db", 3)], BTreeSet::new());
        assert_eq!(facts.weak_budgets, BTreeSet::from(["shop/web".to_owned()]));
    }
}
