//! What there is to know before a migration.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::ids::{ClusterId, MigrationId, PreflightId};
use crate::domain::insight::{Insight, InsightId};
use crate::domain::preflight::MovePlan;

pub use crate::domain::migration::MigrationSpec as NewPreflight;

/// What there is to know before a migration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Preflight {
    /// Its id.
    pub id: PreflightId,
    /// The cluster that is asked about.
    pub cluster_id: ClusterId,
    /// Its name.
    pub cluster: String,
    /// Name of its project.
    pub project: String,
    /// Name of the cloud that the workers would leave.
    pub source: String,
    /// Name of the cloud that they would move to.
    pub target: String,
    /// The migration that it belongs to; absent when it only plans one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration_id: Option<MigrationId>,
    /// Whether the last wish for a look is still to be fulfilled.
    pub check_pending: bool,
    /// When it was last looked at; absent before the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub checked_at: Option<Timestamp>,
    /// How many insights stand against the migration now.
    pub blocking: u32,
    /// What was found, the worst first; what is well too.
    pub insights: Vec<Insight>,
    /// What the migration would do; absent while the target can't be looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<MovePlan>,
    /// Who asked for it.
    pub created_by: String,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// A wish to go on in spite of an insight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewWaiver {
    /// Which insight, by its id.
    pub insight: InsightId,
    /// Why, for whoever reads it later; at most 200 characters.
    #[schema(min_length = 1, max_length = 200)]
    pub reason: String,
    /// Until when it counts; at most 30 days from now.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
}
