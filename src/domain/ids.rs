//! Typed ids. Every id is a UUID chosen by us before the row is inserted.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
            sqlx::Type, ToSchema,
        )]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }
    )+};
}

ids! {
    /// This installation of zcp; it marks everything that we make outside.
    InstallId,
    /// A tenant.
    ProjectId,
    /// One OpenStack deployment.
    CloudId,
    /// A mapping of names from one cloud to another.
    CloudPairId,
    /// A project and its credential on one cloud.
    AccountId,
    /// A Kubernetes version paired with an addon-manager version.
    OfferingId,
    /// A Kubernetes cluster.
    ClusterId,
    /// Workers that are alike.
    PoolId,
    /// One worker or control-plane member.
    NodeId,
    /// A ClusterMigration.
    MigrationId,
    /// What was looked at before a ClusterMigration.
    PreflightId,
    /// One try of a target by a server made for it.
    CanaryId,
    /// An API token.
    TokenId,
}
