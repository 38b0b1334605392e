//! Clouds and the credentials with which they are used.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::cloud::{
    CloudCheck, CloudDefaults, CloudLimits, CloudPhase, CloudSpec, Interface,
};
use crate::domain::credential::Credential;
use crate::domain::ids::CloudId;
use crate::domain::inventory::Inventory;

/// Registers a cloud.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCloud {
    /// Name, unique; 1 to 63 lower-case letters, digits or `-`.
    #[schema(example = "east", max_length = 63)]
    pub name: String,
    /// Keystone's address, with its `/v3`.
    #[schema(example = "https://keystone.east.example/v3")]
    pub auth_url: String,
    /// Region in the catalog.
    pub region: String,
    /// Which endpoint of the catalog is used.
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
    /// HTTP proxy through which the cluster API servers on this cloud are reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_proxy: Option<String>,
    /// Login of the account that all projects share on this cloud.
    pub credential: Credential,
}

impl NewCloud {
    /// The part that is not secret.
    pub fn spec(&self) -> CloudSpec {
        CloudSpec {
            auth_url: self.auth_url.clone(),
            region: self.region.clone(),
            interface: self.interface,
            ca_pem: self.ca_pem.clone(),
            environment: self.environment.clone(),
            limits: self.limits,
            defaults: self.defaults.clone(),
            api_proxy: self.api_proxy.clone(),
        }
    }
}

/// Changes a cloud. What is left out stays as it is; the cloud is checked again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CloudPatch {
    /// All settings anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spec: Option<CloudSpec>,
    /// Another login for the shared account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<Credential>,
}

/// A cloud.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Cloud {
    /// Its id.
    pub id: CloudId,
    /// Its name.
    pub name: String,
    /// Where it is in its life.
    pub phase: CloudPhase,
    /// Number of the settings; for `If-Match`.
    pub generation: i64,
    /// Number of the settings that were checked last.
    pub observed_generation: i64,
    /// Whether a check that was asked for is still to come.
    pub check_pending: bool,
    /// Its settings; only operators see them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<CloudSpec>,
    /// What clusters get there when they do not choose.
    pub defaults: CloudDefaults,
    /// What the last check found; only operators see it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CloudCheck>,
    /// What there is. Left out in lists; projects see flavors, images and zones only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<Inventory>,
    /// When the inventory was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub inventory_at: Option<Timestamp>,
    /// When it was registered.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}
