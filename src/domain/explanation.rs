//! Why a migration is not going on: reasons, who can do something about each, and what.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::migration::Verb;

/// One reason why a migration is where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reason {
    /// What kind of reason it is.
    pub kind: ReasonKind,
    /// Who has to do something, if anybody.
    pub needs: Needs,
    /// The reason, in a sentence.
    pub text: String,
    /// Pods, nodes, flavors: what it is about, at most 20 of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// What can be done about it, in words; empty when a verb says it all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fix: String,
    /// Verbs of the migration that help, all of them legal now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verbs: Vec<Verb>,
    /// Name of the node that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The insight that blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub insight: Option<InsightRef>,
    /// The work item that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<WorkRef>,
}

/// An insight by its word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InsightRef {
    /// Its word, such as `quota`.
    pub id: String,
    /// Whether a person may decide to go on in spite of it.
    pub is_waivable: bool,
}

/// A work item by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkRef {
    /// Which worker looks at it, such as `cluster`.
    pub kind: String,
    /// The resource.
    pub id: Uuid,
    /// Whether an operator stopped it.
    pub is_disabled: bool,
}

/// What kind of reason it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReasonKind {
    /// It is over.
    Over,
    /// A person or a policy paused it.
    Paused,
    /// A wave's gate wants somebody's approval.
    Approval,
    /// The hold ends only by a commit.
    Commit,
    /// Preflight found something that blocks.
    Insight,
    /// A worker failed or waits, and says for what.
    Work,
    /// A pod can't be evicted.
    Blocker,
    /// A node does not come up, or does not go away.
    Node,
    /// The planner waits for something else.
    Waiting,
    /// A soak or a hold has to pass.
    Time,
}

/// Who has to do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Needs {
    /// It goes on by itself.
    Nobody,
    /// The cluster's owner.
    Owner,
    /// Whoever runs the service.
    Operator,
}
