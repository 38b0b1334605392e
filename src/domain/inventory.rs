//! What a cloud offers to one of its projects, as it was last read, and the states of its servers.
//!
//! Inventory is advice: a quota or a free address can be gone in the next second. Fields that an
//! ordinary credential may not read are `None`, which means "not known" and never "none left".

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// Everything that plans and forms need to know of a cloud before they use it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Inventory {
    /// Sizes of servers.
    pub flavors: Vec<Flavor>,
    /// Images that the project can see.
    pub images: Vec<Image>,
    /// Networks with their subnets.
    pub networks: Vec<Network>,
    /// Security groups of the project.
    pub security_groups: Vec<SecurityGroup>,
    /// Availability zones of servers.
    pub zones: Vec<Zone>,
    /// What the project may still make.
    pub quotas: Quotas,
    /// Range of microversions by service type (`compute`, `placement`).
    pub versions: BTreeMap<String, VersionRange>,
}

/// A size of server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Flavor {
    /// Nova's id; operators may choose it, so it need not be a UUID.
    pub id: String,
    /// Name, unique in a cloud.
    pub name: String,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory in MiB.
    pub ram_mb: u64,
    /// Root disk in GiB; 0 means as large as the image.
    pub disk_gb: u64,
    /// Scheduling hints such as `hw:cpu_policy`; empty on clouds before microversion 2.61.
    pub extra_specs: BTreeMap<String, String>,
}

/// An image that servers can boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Image {
    /// Glance's id.
    pub id: String,
    /// Name; Glance does not keep it unique.
    pub name: String,
    /// `active` when it can be booted.
    pub status: String,
    /// The image's own property `kubernetes_version`, such as `1.36.2`.
    pub kubernetes_version: Option<String>,
    /// Bytes, once it is uploaded.
    pub size: Option<u64>,
    /// Smallest root disk in GiB.
    pub min_disk_gb: u64,
    /// Smallest memory in MiB.
    pub min_ram_mb: u64,
    /// All other properties that are text.
    pub properties: BTreeMap<String, String>,
}

/// A network that nodes can be attached to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Network {
    /// Neutron's id.
    pub id: String,
    /// Name; Neutron does not keep it unique.
    pub name: String,
    /// Largest packet, where the cloud tells.
    pub mtu: Option<u32>,
    /// Whether it leads out of the cloud (`router:external`).
    pub is_external: bool,
    /// Its subnets.
    pub subnets: Vec<Subnet>,
}

/// A range of addresses on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Subnet {
    /// Neutron's id.
    pub id: String,
    /// Name; often empty.
    pub name: String,
    /// The range, such as `10.0.0.0/24`.
    pub cidr: String,
    /// Address of the router, when there is one.
    pub gateway: Option<String>,
    /// 4 or 6.
    pub ip_version: u8,
    /// Parts of the range that Neutron hands out.
    pub pools: Vec<AddressPool>,
    /// Addresses still free; only known to administrators.
    pub free_addresses: Option<u64>,
}

/// First and last address of a pool, both part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AddressPool {
    /// First address.
    pub start: String,
    /// Last address.
    pub end: String,
}

/// A set of firewall rules for ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecurityGroup {
    /// Neutron's id.
    pub id: String,
    /// Name; Neutron does not keep it unique.
    pub name: String,
}

/// An availability zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Zone {
    /// Name; `nova` is the default on every cloud.
    pub name: String,
    /// Whether any of its hosts takes servers.
    pub is_available: bool,
}

/// The limits that a cluster can run into.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Quotas {
    /// Servers.
    pub instances: Quota,
    /// Virtual CPUs.
    pub cores: Quota,
    /// Memory in MiB.
    pub ram_mb: Quota,
    /// Server groups.
    pub server_groups: Quota,
    /// Servers in one group; has no use count of its own.
    pub server_group_members: Quota,
    /// Neutron ports.
    pub ports: Quota,
}

/// One limit and how much of it is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Quota {
    /// The limit; `None` is no limit.
    pub limit: Option<u64>,
    /// In use; `None` where the cloud does not tell.
    pub used: Option<u64>,
}

impl Quota {
    /// How many more fit; `None` when there is no limit.
    pub fn free(self) -> Option<u64> {
        self.limit.map(|limit| limit.saturating_sub(self.used.unwrap_or(0)))
    }
}

/// Oldest and newest microversion of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VersionRange {
    /// Oldest, such as `2.1`.
    pub min: String,
    /// Newest, such as `2.93`.
    pub max: String,
}

impl Flavor {
    /// What one server of it takes, by Placement's resource classes.
    pub fn resources(&self) -> Vec<(&str, u64)> {
        let spec = |key: &str| self.extra_specs.get(key).map(String::as_str);
        let is_dedicated = spec("hw:cpu_policy") == Some("dedicated");
        let cpu = if is_dedicated { "PCPU" } else { "VCPU" };
        let mut all = vec![(cpu, u64::from(self.vcpus)), ("MEMORY_MB", self.ram_mb)];
        all.push(("DISK_GB", self.disk_gb));
        for (key, value) in &self.extra_specs {
            let class = key.strip_prefix("resources:");
            if let (Some(class), Ok(amount)) = (class, value.parse()) {
                all.retain(|(known, _)| *known != class);
                all.push((class, amount));
            }
        }
        all.retain(|(_, amount)| *amount > 0);
        all
    }
}

/// What a host that could take one more server now has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRoom {
    /// Id of the resource provider.
    pub id: String,
    /// What is left, by resource class.
    pub free: BTreeMap<String, u64>,
}

/// What one hypervisor holds, as Placement counts it. Only administrators can read it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HostCapacity {
    /// Id of the resource provider.
    pub id: String,
    /// Host name.
    pub name: String,
    /// Whether an operator took the host out of scheduling (`COMPUTE_STATUS_DISABLED`).
    pub is_disabled: bool,
    /// By resource class, such as `VCPU` or `MEMORY_MB`.
    pub classes: BTreeMap<String, ClassCapacity>,
}

/// One resource class of one host.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClassCapacity {
    /// Physical amount.
    pub total: u64,
    /// Kept back for the host itself.
    pub reserved: u64,
    /// Overcommit; read, never assumed.
    pub allocation_ratio: f64,
    /// Allocated now; too high after evacuations and resizes.
    pub used: u64,
    /// Most that one server can get.
    pub max_unit: u64,
}

impl ClassCapacity {
    /// What Placement would still hand out: `int((total - reserved) * ratio) - used`.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the same arithmetic as Placement's; amounts are far below 2^53 and not negative"
    )]
    pub fn free(self) -> u64 {
        let usable = self.total.saturating_sub(self.reserved) as f64 * self.allocation_ratio;
        (usable as u64).saturating_sub(self.used)
    }
}

/// What Nova says about a server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum ServerStatus {
    /// Runs, as far as Nova knows.
    Active,
    /// Is being made; can stay so for ever.
    Build,
    /// Failed; the fault says why.
    Error,
    /// Is gone, or about to be.
    Deleted,
    /// Gone for us, but keeps its quota and ports until it is reclaimed.
    SoftDeleted,
    /// Powered off.
    Shutoff,
    /// Its cell does not answer: no decision can rest on this row.
    Unknown,
    /// Any other state, in Nova's own word.
    Other(String),
}

impl ServerStatus {
    /// Nova's word for it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Active => "ACTIVE",
            Self::Build => "BUILD",
            Self::Error => "ERROR",
            Self::Deleted => "DELETED",
            Self::SoftDeleted => "SOFT_DELETED",
            Self::Shutoff => "SHUTOFF",
            Self::Unknown => "UNKNOWN",
            Self::Other(word) => word,
        }
    }

    /// Whether the server no longer counts as part of a cluster.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Deleted | Self::SoftDeleted)
    }
}

impl PartialSchema for ServerStatus {
    /// Text, since a cloud may have states that we do not know.
    fn schema() -> RefOr<Schema> {
        String::schema()
    }
}

impl ToSchema for ServerStatus {}

impl From<String> for ServerStatus {
    fn from(word: String) -> Self {
        match word.as_str() {
            "ACTIVE" => Self::Active,
            "BUILD" => Self::Build,
            "ERROR" => Self::Error,
            "DELETED" => Self::Deleted,
            "SOFT_DELETED" => Self::SoftDeleted,
            "SHUTOFF" => Self::Shutoff,
            "UNKNOWN" => Self::Unknown,
            _ => Self::Other(word),
        }
    }
}

impl From<ServerStatus> for String {
    fn from(status: ServerStatus) -> Self {
        status.as_str().to_owned()
    }
}

impl FromStr for ServerStatus {
    type Err = Infallible;

    fn from_str(word: &str) -> Result<Self, Infallible> {
        Ok(Self::from(word.to_owned()))
    }
}

impl fmt::Display for ServerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_survives_json_even_when_nova_invents_one() {
        for word in ["ACTIVE", "SOFT_DELETED", "VERIFY_RESIZE", "BRAND_NEW"] {
            let json = format!("\"{word}\"");
            let status: ServerStatus = serde_json::from_str(&json).expect("a word");
            assert_eq!(serde_json::to_string(&status).expect("prints"), json);
        }
        assert!(ServerStatus::SoftDeleted.is_gone());
        assert!(!ServerStatus::Unknown.is_gone(), "unknown decides nothing");
    }

    #[test]
    fn free_capacity_is_counted_as_placement_counts_it() {
        let class =
            ClassCapacity { total: 10, reserved: 1, allocation_ratio: 1.5, used: 12, max_unit: 10 };
        assert_eq!(class.free(), 1, "int(13.5) - 12");
        assert_eq!(ClassCapacity { used: 40, ..class }.free(), 0);
    }

    #[test]
    fn a_quota_without_limit_has_no_free_count() {
        assert_eq!(Quota { limit: None, used: Some(3) }.free(), None);
        assert_eq!(Quota { limit: Some(2), used: Some(3) }.free(), Some(0));
    }
}
