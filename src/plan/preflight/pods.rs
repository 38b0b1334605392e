//! What happens to pods when their nodes are drained.

use super::facts::Facts;
use crate::domain::canary::PROBE_LABEL;
use crate::domain::insight::Insight;
use crate::domain::survey::{BudgetFacts, PodFacts, Survey};

/// Pods on the nodes that are to be drained, of those that a drain asks to go. A canary's own pod on
/// an old node is gone before a drain.
pub(super) fn moved<'a>(facts: &'a Facts, survey: &'a Survey) -> Vec<&'a PodFacts> {
    let old = facts.old_names();
    let is_moved = |pod: &&PodFacts| {
        pod.is_moved()
            && !pod.labels.contains_key(PROBE_LABEL)
            && pod.node.as_deref().is_some_and(|n| old.contains(n))
    };
    survey.pods.iter().filter(is_moved).collect()
}

fn names(pods: &[&PodFacts]) -> Vec<String> {
    pods.iter().map(|pod| pod.full_name()).collect()
}

fn budgets_of<'a>(survey: &'a Survey, pod: &PodFacts) -> Vec<&'a BudgetFacts> {
    let all = survey.budgets.iter();
    all.filter(|one| one.namespace == pod.namespace && one.selector.matches(&pod.labels)).collect()
}

/// Pods that nobody makes anew (F49).
pub(super) fn bare(facts: &Facts) -> Vec<Insight> {
    const ID: &str = "bare_pods";
    let Ok(survey) = &facts.survey else { return Vec::new() };
    let mut found = moved(facts, survey);
    found.retain(|pod| pod.controller.is_none());
    if found.is_empty() {
        return vec![facts.pass(ID, "every pod that moves has a controller that makes it anew")];
    }
    let reason = format!("{} no controller: an eviction is the end", have(found.len(), "pod"));
    let fix = "their owner gives them a controller or deletes them, or agrees to lose them (waive)";
    vec![facts.block(ID, reason).on(names(&found)).fix(fix)]
}

/// Data that goes with its pod (F49).
pub(super) fn empty_dirs(facts: &Facts) -> Vec<Insight> {
    const ID: &str = "empty_dirs";
    let Ok(survey) = &facts.survey else { return Vec::new() };
    let mut found = moved(facts, survey);
    found.retain(|pod| !pod.empty_dirs.is_empty());
    if found.is_empty() {
        return vec![facts.pass(ID, "no pod that moves keeps data in an emptyDir")];
    }
    let described = found.iter().map(|pod| {
        let limits: Vec<&str> = pod.empty_dirs.iter().flatten().map(String::as_str).collect();
        match limits.as_slice() {
            [] => pod.full_name(),
            limits => format!("{} (up to {})", pod.full_name(), limits.join(" + ")),
        }
    });
    let reason = format!("{} data in an emptyDir, which is lost", have(found.len(), "pod"));
    let fix = "their owner makes sure that nothing but caches is in there";
    vec![facts.warn(ID, reason).on(described).fix(fix)]
}

/// Pods that read their node's own disk.
pub(super) fn host_paths(facts: &Facts) -> Vec<Insight> {
    const ID: &str = "host_paths";
    let Ok(survey) = &facts.survey else { return Vec::new() };
    let mut found = moved(facts, survey);
    found.retain(|pod| !pod.host_paths.is_empty());
    if found.is_empty() {
        return vec![facts.pass(ID, "no pod that moves mounts a path of its node")];
    }
    let described =
        found.iter().map(|pod| format!("{}: {}", pod.full_name(), pod.host_paths.join(", ")));
    let reason = format!("{} a path of the node mounted", have(found.len(), "pod"));
    let fix =
        "their owner makes sure that the new nodes have what is there, or that it may be lost";
    vec![facts.warn(ID, reason).on(described).fix(fix)]
}

/// Pods that may only run on a node that goes (F48).
pub(super) fn pinned(facts: &Facts) -> Vec<Insight> {
    const ID: &str = "pinned_pods";
    let Ok(survey) = &facts.survey else { return Vec::new() };
    let mut found = moved(facts, survey);
    found.retain(|pod| pod.is_pinned);
    if found.is_empty() {
        return vec![facts.pass(ID, "no pod that moves is bound to a node by its name")];
    }
    let reason = format!(
        "{} may only run on a node of a certain name, and would stay Pending for ever",
        count(found.len(), "pod")
    );
    let fix = "their owner selects nodes by another label than kubernetes.io/hostname";
    vec![facts.block(ID, reason).on(names(&found)).fix(fix)]
}

/// Budgets that allow nothing now.
pub(super) fn budgets(facts: &Facts) -> Vec<Insight> {
    const ID: &str = "budgets";
    let Ok(survey) = &facts.survey else { return Vec::new() };
    let pods = moved(facts, survey);
    let mut found: Vec<&BudgetFacts> =
        pods.iter().flat_map(|pod| budgets_of(survey, pod)).filter(|one| one.allowed < 1).collect();
    found.sort_by_key(|one| (&one.namespace, &one.name));
    found.dedup_by_key(|one| (&one.namespace, &one.name));
    if found.is_empty() {
        return vec![facts.pass(ID, "every disruption budget allows a disruption now")];
    }
    let described = found.iter().map(|one| {
        format!("{}/{} ({} of {} healthy)", one.namespace, one.name, one.healthy, one.expected)
    });
    let reason = format!(
        "{} no disruption now; the drain waits for that at most {} s a node",
        if found.len() == 1 {
            "1 budget allows".to_owned()
        } else {
            format!("{} budgets allow", found.len())
        },
        facts.spec.drain.timeout_seconds
    );
    let fix = "their owner adds a replica or lowers minAvailable";
    vec![facts.warn(ID, reason).on(described).fix(fix)]
}

/// Pods whose eviction fails for ever, since two budgets select them (F36).
pub(super) fn two_budgets(facts: &Facts) -> Vec<Insight> {
    const ID: &str = "two_budgets";
    let Ok(survey) = &facts.survey else { return Vec::new() };
    let mut found = moved(facts, survey);
    found.retain(|pod| budgets_of(survey, pod).len() > 1);
    if found.is_empty() {
        return vec![facts.pass(ID, "no pod has more than one disruption budget")];
    }
    let described = found.iter().map(|pod| {
        let of: Vec<&str> = budgets_of(survey, pod).iter().map(|one| one.name.as_str()).collect();
        format!("{}: {}", pod.full_name(), of.join(", "))
    });
    let reason = format!(
        "{} more than one disruption budget: Kubernetes refuses every eviction",
        have(found.len(), "pod")
    );
    let fix = "their owner deletes a budget or narrows its selector";
    vec![facts.block(ID, reason).on(described).fix(fix)]
}

/// Workloads that are away while their one pod moves (F51).
pub(super) fn single_replicas(facts: &Facts) -> Vec<Insight> {
    const ID: &str = "single_replicas";
    let Ok(survey) = &facts.survey else { return Vec::new() };
    let pods = moved(facts, survey);
    let is_alone = |namespace: &str, labels: &std::collections::BTreeMap<String, String>| {
        !survey.budgets.iter().any(|one| one.namespace == namespace && one.selector.matches(labels))
    };
    let moves = |namespace: &str, labels: &std::collections::BTreeMap<String, String>| {
        !labels.is_empty()
            && pods.iter().any(|pod| {
                pod.namespace == namespace
                    && labels.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
            })
    };
    let found: Vec<String> = survey
        .workloads
        .iter()
        .filter(|one| one.replicas == 1)
        .filter(|one| is_alone(&one.namespace, &one.labels) && moves(&one.namespace, &one.labels))
        .map(|one| format!("{} {}", one.kind, one.full_name()))
        .collect();
    if found.is_empty() {
        return vec![facts.pass(ID, "every workload that moves has a second replica or a budget")];
    }
    let reason = format!(
        "{} with one replica and no budget: away from the eviction until the new pod is Ready",
        count(found.len(), "workload")
    );
    let fix = "their owner runs two replicas for the time, or takes the short outage";
    vec![facts.warn(ID, reason).on(found).fix(fix)]
}

/// Pods that may take longer to stop than a node may take to drain (F55).
pub(super) fn long_grace(facts: &Facts) -> Vec<Insight> {
    const ID: &str = "long_grace";
    let Ok(survey) = &facts.survey else { return Vec::new() };
    let deadline = u64::from(facts.spec.drain.timeout_seconds);
    let mut found = moved(facts, survey);
    found.retain(|pod| pod.grace_seconds >= deadline);
    if found.is_empty() {
        let reason = format!("every pod that moves stops within the drain's {deadline} s");
        return vec![facts.pass(ID, reason)];
    }
    let longest = found.iter().map(|pod| pod.grace_seconds).max().unwrap_or(deadline);
    let described =
        found.iter().map(|pod| format!("{} ({} s)", pod.full_name(), pod.grace_seconds));
    let reason = format!(
        "{} may take longer to stop than a node's drain may take ({deadline} s)",
        count(found.len(), "pod")
    );
    let fix = format!("start the migration with --drain-timeout {}m", longest / 60 + 10);
    vec![facts.warn(ID, reason).on(described).fix(fix)]
}

/// Pods whose place depends on zones, which the target names otherwise or not at all.
pub(super) fn zones(facts: &Facts) -> Vec<Insight> {
    const ID: &str = "zones";
    let Ok(survey) = &facts.survey else { return Vec::new() };
    let mut found = moved(facts, survey);
    found.retain(|pod| pod.has_zones);
    if found.is_empty() {
        return vec![facts.pass(ID, "no pod that moves depends on zones or regions")];
    }
    let reason = format!(
        "{} a place that depends on zones or regions, whose labels differ on cloud {}",
        have(found.len(), "pod"),
        facts.target.name
    );
    let fix = "their owner compares the labels of the new nodes with selectors and constraints";
    vec![facts.warn(ID, reason).on(names(&found)).fix(fix)]
}

/// Pods that have no node already: harm that is not the migration's.
pub(super) fn pending(facts: &Facts) -> Vec<Insight> {
    const ID: &str = "pending_pods";
    let Ok(survey) = &facts.survey else { return Vec::new() };
    let found: Vec<&PodFacts> = survey.pods.iter().filter(|pod| pod.is_pending).collect();
    if found.is_empty() {
        return vec![facts.pass(ID, "every pod has a node")];
    }
    let reason = format!("{} without a node before anything began", count(found.len(), "pod"));
    let fix = "their owner finds out why first: kubectl describe pod";
    vec![facts.warn(ID, reason).on(names(&found)).fix(fix)]
}

/// `1 pod has`, `2 pods have`.
pub(super) fn have(number: usize, what: &str) -> String {
    format!("{} {}", count(number, what), if number == 1 { "has" } else { "have" })
}

/// `1 pod`, `2 pods`.
pub(super) fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}
