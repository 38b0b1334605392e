//! What work is about.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use uuid::Uuid;

use crate::domain::ids::{AccountId, CloudId, ClusterId, InstallId, MigrationId, PreflightId};

/// What a work item is about, and so which reconciler looks at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkKind {
    /// Inventory and health of one cloud.
    Cloud,
    /// The servers of one account on one cloud, by full listing.
    ObserveServers,
    /// The nodes of one cluster, by full listing.
    ObserveNodes,
    /// One cluster: control plane and pools.
    Cluster,
    /// What is to be known before a migration.
    Preflight,
    /// One migration.
    Migration,
    /// What nobody owns.
    Sweep,
    /// Migrations as objects of the management cluster.
    Management,
}

impl WorkKind {
    /// Every kind, in the order in which a tick runs them: look first, then act.
    pub const ALL: [Self; 8] = [
        Self::Cloud,
        Self::ObserveServers,
        Self::ObserveNodes,
        Self::Cluster,
        Self::Preflight,
        Self::Migration,
        Self::Sweep,
        Self::Management,
    ];

    /// The name, as in the database and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cloud => "cloud",
            Self::ObserveServers => "observe_servers",
            Self::ObserveNodes => "observe_nodes",
            Self::Cluster => "cluster",
            Self::Preflight => "preflight",
            Self::Migration => "migration",
            Self::Sweep => "sweep",
            Self::Management => "management",
        }
    }
}

impl fmt::Display for WorkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no kind or state of work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no such kind or state of work: {0}")]
pub struct UnknownWord(pub String);

impl FromStr for WorkKind {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        found.ok_or_else(|| UnknownWord(text.to_owned()))
    }
}

/// What a work item is about: a cloud, an account, a cluster ... by its kind.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    serde::Deserialize,
    sqlx::Type,
)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct ResourceId(pub Uuid);

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! resource_ids {
    ($($id:ident),+) => {$(
        impl From<$id> for ResourceId {
            fn from(id: $id) -> Self {
                Self(id.0)
            }
        }

        impl From<ResourceId> for $id {
            fn from(id: ResourceId) -> Self {
                Self(id.0)
            }
        }
    )+};
}
resource_ids!(InstallId, CloudId, AccountId, ClusterId, PreflightId, MigrationId);

impl From<Uuid> for ResourceId {
    fn from(id: Uuid) -> Self {
        Self(id)
    }
}
