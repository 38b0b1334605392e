//! The requests of a pass, and what the API server's answers mean for who blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;

use super::drain::{Force, Rules, Target};
use crate::domain::blocker::{Blocker, BlockerKind, budget_of};
use crate::domain::outside::{OutsideError, OutsideKind};
use crate::domain::pod::{BudgetView, PodView};
use crate::kubernetes::client::ClusterClient;
use crate::kubernetes::drain::{Earnest, EvictionAnswer};
use crate::plan::drain::{How, Pass, blocker};

/// Requests at once; each may cost the API server a look at every budget of the namespace.
const PARALLEL: usize = 5;

/// One request of a round.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    /// Which node of the round.
    node: usize,
    /// Which pod.
    pub pod: &'a PodView,
    how: How,
}

/// The requests of all passes of a round.
pub(super) fn asks<'a>(
    targets: &[(Target<'_>, Force)],
    pods: &'a BTreeMap<String, Vec<PodView>>,
    passes: &[Pass],
) -> Vec<Asked<'a>> {
    let mut all = Vec::new();
    for (node, ((target, _), pass)) in targets.iter().zip(passes).enumerate() {
        let Some(pods) = pods.get(&target.row.node.name) else { continue };
        all.extend(pass.asks.iter().map(|ask| Asked { node, pod: &pods[ask.pod], how: ask.how }));
    }
    all
}

/// The blockers of each node.
pub(super) fn by_node(nodes: usize, answers: Vec<(usize, Blocker)>) -> Vec<Vec<Blocker>> {
    let mut by_node = vec![Vec::new(); nodes];
    for (node, blocker) in answers {
        by_node[node].push(blocker);
    }
    by_node
}

/// Sends the requests; gives who refuses, by node of the round. An API server that has too much to
/// do ends the round: it is about us, not about a pod.
pub(super) async fn ask_all(
    client: &ClusterClient,
    asked: &[Asked<'_>],
    rules: Rules<'_>,
) -> Result<Vec<(usize, Blocker)>, OutsideError> {
    type Answer<'a> = BoxFuture<'a, Result<Option<(usize, Blocker)>, OutsideError>>;
    let mut answers: Vec<Answer<'_>> = vec![];
    for one in asked {
        answers.push(Box::pin(async move {
            Ok(ask(client, one, rules).await?.map(|blocker| (one.node, blocker)))
        }));
    }
    let mut answers = futures::stream::iter(answers).buffered(PARALLEL);
    let mut refused = Vec::new();
    while let Some(answer) = answers.next().await {
        refused.extend(answer?);
    }
    name_budgets(client, asked, &mut refused).await?;
    Ok(refused)
}

async fn ask(
    client: &ClusterClient,
    asked: &Asked<'_>,
    rules: Rules<'_>,
) -> Result<Option<Blocker>, OutsideError> {
    let seconds = |grace: Option<u32>| grace.map(|n| Duration::from_secs(n.into()));
    let pod = asked.pod;
    let grace = match asked.how {
        How::Evict { grace_seconds } => seconds(grace_seconds),
        How::Delete { grace_seconds } => {
            client.delete_pod(&pod.pod, seconds(grace_seconds)).await?;
            return Ok(None);
        }
    };
    let answer = client.evict(&pod.pod, grace, Earnest::Real).await?;
    let is_budget =
        matches!(answer, EvictionAnswer::Budget { .. } | EvictionAnswer::TwoBudgets { .. });
    if is_budget && !pod.is_ready && rules.evict_unhealthy {
        client.delete_pod(&pod.pod, None).await?;
        return Ok(None);
    }
    refusal(pod, answer, &rules.before.weak_budgets)
}

/// Who blocks, by the API server's answer; `None` for a pod that goes or has gone.
fn refusal(
    pod: &PodView,
    answer: EvictionAnswer,
    weak: &BTreeSet<String>,
) -> Result<Option<Blocker>, OutsideError> {
    let (kind, reason) = match answer {
        EvictionAnswer::Accepted | EvictionAnswer::Gone | EvictionAnswer::OtherPod => {
            return Ok(None);
        }
        EvictionAnswer::RateLimited { retry_after } => {
            let busy = OutsideError::new(
                OutsideKind::Busy,
                "kubernetes evict pod",
                "the API server has too much to do and asked us to slow down",
            );
            return Err(OutsideError { retry_after, ..busy });
        }
        EvictionAnswer::Budget { message, .. } => {
            return Ok(Some(kept_by_budget(pod, &message, weak)));
        }
        EvictionAnswer::TwoBudgets { message } => (BlockerKind::TwoBudgets, message),
        EvictionAnswer::NamespaceTerminating => {
            (BlockerKind::Other, "its namespace is being deleted, and it with it".to_owned())
        }
        EvictionAnswer::WebhookDenied { message } => (BlockerKind::WebhookDenied, message),
        EvictionAnswer::WebhookBroken { message } => (BlockerKind::WebhookBroken, message),
        EvictionAnswer::Retry { message } => (BlockerKind::Other, message),
    };
    Ok(Some(blocker(pod, kind, &reason)))
}

fn kept_by_budget(pod: &PodView, message: &str, weak: &BTreeSet<String>) -> Blocker {
    let pdb = budget_of(message);
    let name = pdb.as_ref().map(|pdb| format!("{}/{}", pod.pod.namespace, pdb.name));
    let was_weak = name.is_some_and(|name| weak.contains(&name));
    let lacks = pdb.as_ref().is_some_and(|pdb| pdb.wanted > pdb.current && pdb.wanted.is_some());
    let note = match (was_weak, lacks) {
        (true, true) => ": the application was unhealthy before the drain came",
        _ => "",
    };
    Blocker { pdb, ..blocker(pod, BlockerKind::Budget, &format!("{message}{note}")) }
}

/// Two budgets on one pod: the API server does not say which, its owner must know.
async fn name_budgets(
    client: &ClusterClient,
    asked: &[Asked<'_>],
    refused: &mut [(usize, Blocker)],
) -> Result<(), OutsideError> {
    let mut known: BTreeMap<String, Vec<BudgetView>> = BTreeMap::new();
    for (_, blocker) in refused.iter_mut().filter(|(_, b)| b.kind == BlockerKind::TwoBudgets) {
        let of = |one: &&Asked<'_>| one.reference().to_string() == blocker.pod;
        let Some(pod) = asked.iter().find(of).map(|one| one.pod) else { continue };
        let namespace = &pod.pod.namespace;
        if !known.contains_key(namespace) {
            known.insert(namespace.clone(), client.budgets(Some(namespace)).await?);
        }
        let selecting = known[namespace].iter().filter(|budget| budget.selects(&pod.labels));
        let names: Vec<&str> = selecting.map(|budget| budget.name.as_str()).collect();
        blocker.reason = format!(
            "its owner must mend this: more than one PodDisruptionBudget selects it ({})",
            names.join(", ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::blocker::BudgetNumbers;

    fn pod() -> PodView {
        PodView { controller: None, ..PodView::example() }
    }

    #[test]
    fn f37_a_budget_of_an_application_that_was_down_before_is_told_as_such() {
        let words = |current| {
            format!("The disruption budget web needs 3 healthy pods and has {current} currently")
        };
        let weak = BTreeSet::from(["shop/web".to_owned()]);
        let blocker = |current, weak: &BTreeSet<String>| {
            let answer = EvictionAnswer::Budget { message: words(current), retry_after: None };
            refusal(&pod(), answer, weak).unwrap().unwrap()
        };
        let before = "the application was unhealthy before the drain came";
        assert!(blocker(2, &weak).reason.contains(before));
        assert!(!blocker(3, &weak).reason.contains(before), "it has healed");
        assert!(!blocker(2, &BTreeSet::new()).reason.contains(before), "it was well before");
        let numbers = BudgetNumbers { name: "web".into(), wanted: Some(3), current: Some(2) };
        assert_eq!(blocker(2, &weak).pdb, Some(numbers));
    }

    #[test]
    fn each_answer_has_its_class() {
        let class = |answer| refusal(&pod(), answer, &BTreeSet::new()).map(|b| b.map(|b| b.kind));
        let message = String::new;
        let cases = [
            (EvictionAnswer::Accepted, None),
            (EvictionAnswer::Gone, None),
            (EvictionAnswer::OtherPod, None),
            (EvictionAnswer::TwoBudgets { message: message() }, Some(BlockerKind::TwoBudgets)),
            (EvictionAnswer::NamespaceTerminating, Some(BlockerKind::Other)),
            (
                EvictionAnswer::WebhookDenied { message: message() },
                Some(BlockerKind::WebhookDenied),
            ),
            (
                EvictionAnswer::WebhookBroken { message: message() },
                Some(BlockerKind::WebhookBroken),
            ),
            (EvictionAnswer::Retry { message: message() }, Some(BlockerKind::Other)),
        ];
        for (answer, expected) in cases {
            assert_eq!(class(answer), Ok(expected));
        }
        let limited = class(EvictionAnswer::RateLimited { retry_after: None }).unwrap_err();
        assert_eq!(limited.kind, OutsideKind::Busy, "it is no budget, and no pod blocks");
    }
}
