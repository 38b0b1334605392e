//! Work items: what the machine is about to do, and what it waits for.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// A work item: one resource that a worker looks at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkItem {
    /// Which worker looks at it, such as `cluster`.
    pub kind: String,
    /// The resource.
    pub id: Uuid,
    /// `leased`, `due`, `parked`, `paused` or `idle`.
    pub state: String,
    /// When it is, or was, due.
    #[schema(value_type = String, format = DateTime)]
    pub due_at: Timestamp,
    /// How often it was taken up.
    pub fence: i64,
    /// Failures in a row.
    pub attempts: u32,
    /// What went wrong last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// What it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parked_reason: Option<String>,
    /// Since when it waits for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub parked_at: Option<Timestamp>,
}

/// What an operator can do to a work item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WorkVerb {
    /// Forget failures and back-off, and look at it now.
    Retry,
    /// Take it up again.
    Enable,
    /// Leave it alone until it is enabled.
    Disable,
}
