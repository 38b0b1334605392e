//! What Nova offers to a project: flavors, zones, limits.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::super::client::{Call, CloudClient, Service};
use super::super::discovery::Microversion;
use crate::domain::inventory::{Flavor, Quota, Zone};
use crate::domain::outside::OutsideError;

/// From here a flavor carries its extra specs.
const EXTRA_SPECS: Microversion = Microversion(2, 61);

/// Nova's part of the quotas.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ComputeLimits {
    /// Servers.
    pub instances: Quota,
    /// Virtual CPUs.
    pub cores: Quota,
    /// Memory in MiB.
    pub ram_mb: Quota,
    /// Server groups.
    pub server_groups: Quota,
    /// Servers in one group.
    pub server_group_members: Quota,
}

impl CloudClient {
    /// All flavors that the project may use.
    pub async fn list_flavors(&self) -> Result<Vec<Flavor>, OutsideError> {
        let version = self.choose(Service::Compute, EXTRA_SPECS, Microversion(2, 1)).await?;
        let call = Call::get(Service::Compute, "nova list flavors", "/flavors/detail");
        let rows: Vec<FlavorRow> = self.fetch_list(call.version(version), "flavors").await?;
        Ok(rows.into_iter().map(Flavor::from).collect())
    }

    /// All availability zones for servers.
    pub async fn list_zones(&self) -> Result<Vec<Zone>, OutsideError> {
        let call = Call::get(Service::Compute, "nova list zones", "/os-availability-zone");
        let rows: Vec<ZoneRow> = self.fetch_list(call, "availabilityZoneInfo").await?;
        let zone = |row: ZoneRow| Zone { name: row.zone_name, is_available: row.state.available };
        Ok(rows.into_iter().map(zone).collect())
    }

    /// Nova's quotas of the project and what is used of them.
    pub async fn compute_limits(&self) -> Result<ComputeLimits, OutsideError> {
        let call = Call::get(Service::Compute, "nova show limits", "/limits");
        let body: LimitsBody = self.fetch(&call).await?;
        let absolute = body.limits.absolute;
        let count = |name: &str| absolute.get(name).copied().and_then(|n| u64::try_from(n).ok());
        // A negative limit is no limit; `count` makes it `None`.
        let quota = |limit: &str, used: &str| Quota { limit: count(limit), used: count(used) };
        Ok(ComputeLimits {
            instances: quota("maxTotalInstances", "totalInstancesUsed"),
            cores: quota("maxTotalCores", "totalCoresUsed"),
            ram_mb: quota("maxTotalRAMSize", "totalRAMUsed"),
            server_groups: quota("maxServerGroups", "totalServerGroupsUsed"),
            server_group_members: quota("maxServerGroupMembers", ""),
        })
    }
}

#[derive(Deserialize)]
struct FlavorRow {
    id: String,
    name: String,
    vcpus: u32,
    ram: u64,
    disk: u64,
    #[serde(default)]
    extra_specs: BTreeMap<String, String>,
}

impl From<FlavorRow> for Flavor {
    fn from(row: FlavorRow) -> Self {
        Self {
            id: row.id,
            name: row.name,
            vcpus: row.vcpus,
            ram_mb: row.ram,
            disk_gb: row.disk,
            extra_specs: row.extra_specs,
        }
    }
}

#[derive(Deserialize)]
struct ZoneRow {
    #[serde(rename = "zoneName")]
    zone_name: String,
    #[serde(rename = "zoneState")]
    state: ZoneState,
}

#[derive(Deserialize)]
struct ZoneState {
    available: bool,
}

#[derive(Deserialize)]
struct LimitsBody {
    limits: LimitsRow,
}

#[derive(Deserialize)]
struct LimitsRow {
    absolute: BTreeMap<String, i64>,
}
