//! A cloud: one OpenStack deployment, as an operator registered it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where a cloud is and what zcp uses there. Credentials are kept apart, sealed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CloudSpec {
    /// Keystone's address, with its `/v3`.
    pub auth_url: String,
    /// Region in the catalog.
    pub region: String,
    /// Which endpoint of the catalog: `public` (default), `internal` or `admin`.
    #[serde(default)]
    pub interface: Interface,
    /// PEM certificates that sign this cloud's endpoints, if the system's do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
    /// Environment it belongs to, such as `production-1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// How hard the cloud may be driven.
    #[serde(default)]
    pub limits: CloudLimits,
    /// What a cluster gets there when it does not choose.
    pub defaults: CloudDefaults,
    /// HTTP proxy through which the cluster API servers on this cloud are reached; none = directly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_proxy: Option<String>,
}

/// An endpoint's interface in Keystone's catalog.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Interface {
    /// For everybody.
    #[default]
    Public,
    /// Inside the cloud's own network.
    Internal,
    /// For administrators.
    Admin,
}

impl Interface {
    /// The word in the catalog.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Internal => "internal",
            Self::Admin => "admin",
        }
    }
}

/// How hard a cloud may be driven, by all replicas together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CloudLimits {
    /// API calls per second, 1 to 1000. Default 20.
    pub calls_per_second: u32,
    /// Servers that may be in BUILD at once, 1 to 1000. Default 20: two hosts' worth of Nova's
    /// `max_concurrent_builds`.
    pub builds_in_flight: u32,
}

impl Default for CloudLimits {
    fn default() -> Self {
        Self { calls_per_second: 20, builds_in_flight: 20 }
    }
}

/// What a cluster gets on a cloud when it does not choose; names or ids as that cloud has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CloudDefaults {
    /// Tenant network of the nodes.
    pub network: String,
    /// Security group of the nodes' ports.
    pub security_group: String,
    /// Flavor of workers.
    pub flavor: String,
    /// Flavor of control-plane servers; default: that of workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_plane_flavor: Option<String>,
    /// Availability zone; default: the cloud chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Image; default: the active image whose property `kubernetes_version` is the offering's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

/// Where a cloud is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CloudPhase {
    /// A worker has yet to look at it (or at its new settings).
    Checking,
    /// It was reached and everything that its settings name is there.
    Ready,
    /// It can't be used; its check says why.
    Unusable,
}

/// One line of a cloud's check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CloudCheck {
    /// What was looked at, by the field of the request that it proves, such as `defaults.network`.
    pub field: String,
    /// Whether it is right.
    pub ok: bool,
    /// What was found, or what is wrong and what there is instead.
    pub message: String,
}
