//! Conditions: the fine-grained truths about a resource, beside its one coarse phase.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One truth about a resource, in the shape that Kubernetes made common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Condition {
    /// What is judged, such as `CapacityUnavailable`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it holds.
    pub status: bool,
    /// One CamelCase word for machines.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// When `status` last changed.
    #[schema(value_type = String, format = DateTime)]
    pub last_transition: Timestamp,
}

/// Sets the condition `kind`; keeps the time of transition when `status` stays as it was.
/// Returns whether anything changed.
pub fn set(conditions: &mut Vec<Condition>, new: Condition) -> bool {
    let Some(old) = conditions.iter_mut().find(|c| c.kind == new.kind) else {
        conditions.push(new);
        return true;
    };
    let since = if old.status == new.status { old.last_transition } else { new.last_transition };
    let new = Condition { last_transition: since, ..new };
    let changed = *old != new;
    *old = new;
    changed
}

/// Whether the condition `kind` is there and holds.
pub fn holds(conditions: &[Condition], kind: &str) -> bool {
    conditions.iter().any(|c| c.kind == kind && c.status)
}
