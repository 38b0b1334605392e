//! What things of one cloud are called on another.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::field::FieldError;
use crate::domain::ids::CloudPairId;

pub use crate::domain::cloud_pair::CloudPairSpec as CloudPairMaps;

/// A cloud pair: names (or ids) on the source, each with its name (or id) on the target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CloudPair {
    /// Its id.
    pub id: CloudPairId,
    /// Name of the cloud that nodes leave.
    pub source: String,
    /// Name of the cloud that they move to.
    pub target: String,
    /// Sizes of servers.
    pub flavors: BTreeMap<String, String>,
    /// Networks of nodes.
    pub networks: BTreeMap<String, String>,
    /// Security groups of nodes.
    pub security_groups: BTreeMap<String, String>,
    /// Availability zones.
    pub zones: BTreeMap<String, String>,
    /// Images.
    pub images: BTreeMap<String, String>,
    /// Number of the mapping; for `If-Match`.
    pub generation: i64,
    /// What of it means nothing, or not one thing, by the inventories of now. A migration that
    /// needs it is refused, or waits until it is put right.
    pub problems: Vec<FieldError>,
    /// What works but may surprise, such as a smaller flavor.
    pub warnings: Vec<FieldError>,
    /// When the older of the two inventories was read; absent when one is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub checked_at: Option<Timestamp>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

impl CloudPair {
    /// The mapping, as it is written.
    pub fn maps(&self) -> CloudPairMaps {
        CloudPairMaps {
            flavors: self.flavors.clone(),
            networks: self.networks.clone(),
            security_groups: self.security_groups.clone(),
            zones: self.zones.clone(),
            images: self.images.clone(),
        }
    }
}
