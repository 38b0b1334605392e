//! Who keeps a node from being drained: for people to read, and for the planner to judge.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What keeps a node from being drained.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Blocker {
    /// `namespace/name` of the pod; of a volume that is still attached, its name.
    pub pod: String,
    /// Why it is still there, in words.
    pub reason: String,
    /// The reason's class.
    #[serde(default)]
    pub kind: BlockerKind,
    /// Kind and name of the pod's controller, such as `ReplicaSet/web-5d8f`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The disruption budget that refuses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pdb: Option<BudgetNumbers>,
    /// Since when it blocks for this reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
}

/// A PodDisruptionBudget and what it counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BudgetNumbers {
    /// Its name, in the pod's namespace.
    pub name: String,
    /// Healthy pods that it wants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<u32>,
    /// Healthy pods that there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<u32>,
}

/// Classes of reasons, by what ends them.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum BlockerKind {
    /// A disruption budget allows nothing now.
    Budget,
    /// More than one budget selects the pod: its owner must mend that, waiting does not.
    TwoBudgets,
    /// A webhook refuses on purpose: waited for as for a budget.
    WebhookDenied,
    /// A webhook of the cluster does not answer.
    WebhookBroken,
    /// It is stopping, within its grace period.
    Stopping,
    /// It should have stopped three minutes ago: a finalizer, a hung unmount, a dead runtime.
    Overdue,
    /// Its owner wants it to finish by itself.
    Completion,
    /// It waits for its turn: another single replica of its namespace, or another volume.
    Turn,
    /// A volume is still attached to the node.
    Volume,
    /// Anything else.
    #[default]
    Other,
}

/// Carries over since when each blocker has blocked for the same reason.
pub fn keep_since(mut now: Vec<Blocker>, before: &[Blocker], at: Timestamp) -> Vec<Blocker> {
    for blocker in &mut now {
        let same = |old: &&Blocker| old.pod == blocker.pod && old.kind == blocker.kind;
        let known = before.iter().find(same).and_then(|old| old.since);
        blocker.since = Some(known.unwrap_or(at));
    }
    now
}

/// Reads a budget's name and numbers from the API server's words.
///
/// `The disruption budget web needs 3 healthy pods and has 2 currently`; while it is being
/// computed, only its name is told.
pub fn budget_of(message: &str) -> Option<BudgetNumbers> {
    let mut words = message.strip_prefix("The disruption budget ")?.split_whitespace();
    let name = words.next()?.to_owned();
    let mut numbers = words.filter_map(|word| word.parse().ok());
    Some(BudgetNumbers { name, wanted: numbers.next(), current: numbers.next() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budgets_numbers_are_read_from_the_api_servers_words() {
        let words = "The disruption budget web needs 3 healthy pods and has 2 currently";
        let expected = BudgetNumbers { name: "web".into(), wanted: Some(3), current: Some(2) };
        assert_eq!(budget_of(words), Some(expected));
        let words = "The disruption budget web is still being processed by the server.";
        let expected = BudgetNumbers { name: "web".into(), wanted: None, current: None };
        assert_eq!(budget_of(words), Some(expected));
        assert_eq!(budget_of("Cannot evict pod"), None);
    }

    #[test]
    fn a_blocker_keeps_its_age_while_its_reason_is_the_same() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let blocker = |kind| Blocker { pod: "a/b".into(), kind, ..Blocker::default() };
        let first = keep_since(vec![blocker(BlockerKind::Budget)], &[], at(1));
        let second = keep_since(vec![blocker(BlockerKind::Budget)], &first, at(2));
        assert_eq!(second[0].since, Some(at(1)));
        let third = keep_since(vec![blocker(BlockerKind::Overdue)], &second, at(3));
        assert_eq!(third[0].since, Some(at(3)));
    }
}
