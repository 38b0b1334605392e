//! Placement: what the hosts hold. Read only, and for administrators; others get `None`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::client::{Call, CloudClient, Service};
use super::discovery::Microversion;
use crate::domain::inventory::{ClassCapacity, HostCapacity, HostRoom};
use crate::domain::outside::{OutsideError, OutsideKind};

/// From here errors carry a code; everything else we use is older.
const WANTED: Microversion = Microversion(1, 23);
/// From here traits can be forbidden, and hosts of candidates have traits (and a limit before).
const NEEDED: Microversion = Microversion(1, 22);
/// The trait of hosts that an operator took out of scheduling.
const DISABLED: &str = "COMPUTE_STATUS_DISABLED";

/// Hosts that could take one more server now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidates {
    /// Ids of the resource providers.
    pub provider_ids: Vec<String>,
    /// What each of them has left.
    pub rooms: Vec<HostRoom>,
}

impl CloudClient {
    /// What every host holds; `None` if we may not know.
    pub async fn host_capacity(&self) -> Result<Option<Vec<HostCapacity>>, OutsideError> {
        let providers: Providers =
            match self.placement("placement list hosts", "/resource_providers").await? {
                Some(providers) => providers,
                None => return Ok(None),
            };
        let mut hosts = Vec::new();
        for provider in providers.resource_providers {
            match self.one_host(provider).await {
                Ok(Some(host)) => hosts.push(host),
                Ok(None) => return Ok(None),
                // Taken away between the list and the look.
                Err(error) if error.is_absent() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Some(hosts))
    }

    /// Hosts with room for `resources` (such as `VCPU` 4), at most `limit`; `None` if we may not
    /// know. Hosts that an operator took out of scheduling are none.
    pub async fn allocation_candidates(
        &self,
        resources: &[(&str, u64)],
        limit: u32,
    ) -> Result<Option<Candidates>, OutsideError> {
        let wanted: Vec<String> =
            resources.iter().map(|(class, amount)| format!("{class}:{amount}")).collect();
        let path = format!(
            "/allocation_candidates?resources={}&required=!{DISABLED}&limit={limit}",
            wanted.join(",")
        );
        let found: Option<CandidateRows> =
            self.placement("placement list candidates", &path).await?;
        Ok(found.map(|found| {
            let rooms = found.provider_summaries.into_iter().map(|(id, row)| row.room(id));
            let rooms: Vec<HostRoom> = rooms.collect();
            Candidates { provider_ids: rooms.iter().map(|room| room.id.clone()).collect(), rooms }
        }))
    }

    async fn one_host(&self, provider: Provider) -> Result<Option<HostCapacity>, OutsideError> {
        let path = format!("/resource_providers/{}", provider.uuid);
        let inventories: Option<Inventories> =
            self.placement("placement show inventories", &format!("{path}/inventories")).await?;
        let usages: Option<Usages> =
            self.placement("placement show usages", &format!("{path}/usages")).await?;
        let traits: Option<Traits> =
            self.placement("placement show traits", &format!("{path}/traits")).await?;
        let (Some(inventories), Some(usages), Some(traits)) = (inventories, usages, traits) else {
            return Ok(None);
        };
        let class = |(class, row): (String, InventoryRow)| {
            let used = usages.usages.get(&class).copied().unwrap_or(0);
            (class, row.with_used(used))
        };
        Ok(Some(HostCapacity {
            id: provider.uuid,
            name: provider.name,
            is_disabled: traits.traits.iter().any(|name| name == DISABLED),
            classes: inventories.inventories.into_iter().map(class).collect(),
        }))
    }

    /// Reads from Placement; `None` where it refuses us, or is not offered to us.
    async fn placement<T: DeserializeOwned>(
        &self,
        operation: &'static str,
        path: &str,
    ) -> Result<Option<T>, OutsideError> {
        let version = match self.choose(Service::Placement, WANTED, NEEDED).await {
            Ok(version) => version,
            Err(error) if is_not_for_us(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let call = Call::get(Service::Placement, operation, path).version(version);
        match self.fetch(&call).await {
            Ok(body) => Ok(Some(body)),
            Err(error) if is_not_for_us(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Refused by policy (403), or missing from the catalog (no status at all).
fn is_not_for_us(error: &OutsideError) -> bool {
    let is_refused = error.kind == OutsideKind::Denied && error.status == Some(403);
    let is_missing = error.kind == OutsideKind::Invalid && error.operation.ends_with("catalog");
    is_refused || is_missing
}

#[derive(Deserialize)]
struct Providers {
    resource_providers: Vec<Provider>,
}

#[derive(Deserialize)]
struct Provider {
    uuid: String,
    name: String,
}

#[derive(Deserialize)]
struct Inventories {
    inventories: BTreeMap<String, InventoryRow>,
}

#[derive(Deserialize)]
struct InventoryRow {
    total: u64,
    #[serde(default)]
    reserved: u64,
    allocation_ratio: f64,
    max_unit: u64,
}

impl InventoryRow {
    fn with_used(self, used: u64) -> ClassCapacity {
        ClassCapacity {
            total: self.total,
            reserved: self.reserved,
            allocation_ratio: self.allocation_ratio,
            used,
            max_unit: self.max_unit,
        }
    }
}

#[derive(Deserialize)]
struct Usages {
    usages: BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct Traits {
    traits: Vec<String>,
}

#[derive(Deserialize)]
struct CandidateRows {
    #[serde(default)]
    provider_summaries: BTreeMap<String, SummaryRow>,
}

#[derive(Deserialize)]
struct SummaryRow {
    #[serde(default)]
    resources: BTreeMap<String, SummaryClass>,
}

impl SummaryRow {
    fn room(self, id: String) -> HostRoom {
        let left = |one: SummaryClass| one.capacity.saturating_sub(one.used);
        HostRoom {
            id,
            free: self.resources.into_iter().map(|(class, one)| (class, left(one))).collect(),
        }
    }
}

#[derive(Deserialize)]
struct SummaryClass {
    capacity: u64,
    used: u64,
}
