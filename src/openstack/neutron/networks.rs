//! Networks, subnets, security groups, quota, free addresses.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use super::super::client::{Call, CloudClient, PAGE, Service};
use crate::domain::inventory::{AddressPool, Network, Quota, SecurityGroup, Subnet};
use crate::domain::outside::{OutsideError, OutsideKind};

impl CloudClient {
    /// All networks that the project can see, with their subnets.
    pub async fn list_networks(&self) -> Result<Vec<Network>, OutsideError> {
        let networks: Vec<NetworkRow> =
            self.fetch_list(list("neutron list networks", "/networks"), "networks").await?;
        let subnets: Vec<SubnetRow> =
            self.fetch_list(list("neutron list subnets", "/subnets"), "subnets").await?;
        let free = self.free_addresses().await?;
        let mut by_network: BTreeMap<String, Vec<Subnet>> = BTreeMap::new();
        for row in subnets {
            let network_id = row.network_id.clone();
            by_network.entry(network_id).or_default().push(row.with_free(&free));
        }
        let network = |row: NetworkRow| Network {
            subnets: by_network.remove(&row.id).unwrap_or_default(),
            id: row.id,
            name: row.name,
            mtu: row.mtu,
            is_external: row.is_external,
        };
        Ok(networks.into_iter().map(network).collect())
    }

    /// All security groups of the project.
    pub async fn list_security_groups(&self) -> Result<Vec<SecurityGroup>, OutsideError> {
        let call = list("neutron list security groups", "/security-groups");
        let rows: Vec<GroupRow> = self.fetch_list(call, "security_groups").await?;
        Ok(rows.into_iter().map(|row| SecurityGroup { id: row.id, name: row.name }).collect())
    }

    /// The project's quota of ports.
    pub async fn port_quota(&self) -> Result<Quota, OutsideError> {
        let session = self.session(None, Instant::now() + self.deadline()).await?;
        let path = format!("/quotas/{}/details.json", session.project_id());
        let call = Call::get(Service::Network, "neutron show quota", path);
        let body: QuotaBody = self.fetch(&call).await?;
        let row = body.quota.port;
        let count = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok());
        Ok(Quota { limit: count(row.limit), used: count(row.used) })
    }

    /// Free addresses by subnet; empty where we may not know.
    async fn free_addresses(&self) -> Result<BTreeMap<String, u64>, OutsideError> {
        let path = "/network-ip-availabilities";
        let call = list("neutron list free addresses", path);
        let rows: Vec<Availability> = match self.fetch_list(call, "network_ip_availabilities").await
        {
            Ok(rows) => rows,
            Err(error)
                if matches!(error.kind, OutsideKind::Denied | OutsideKind::Absent)
                    && error.status != Some(401) =>
            {
                return Ok(BTreeMap::new());
            }
            Err(error) => return Err(error),
        };
        let subnets = rows.into_iter().flat_map(|row| row.subnet_ip_availability);
        Ok(subnets.map(|row| (row.subnet_id.clone(), row.free())).collect())
    }
}

fn list(operation: &'static str, path: &str) -> Call {
    Call::get(Service::Network, operation, path).query("limit", PAGE.to_string())
}

#[derive(Deserialize)]
struct NetworkRow {
    id: String,
    name: String,
    mtu: Option<u32>,
    #[serde(rename = "router:external", default)]
    is_external: bool,
}

#[derive(Deserialize)]
struct SubnetRow {
    id: String,
    name: String,
    network_id: String,
    cidr: String,
    gateway_ip: Option<String>,
    ip_version: u8,
    #[serde(default)]
    allocation_pools: Vec<AddressPool>,
}

impl SubnetRow {
    fn with_free(self, free: &BTreeMap<String, u64>) -> Subnet {
        Subnet {
            free_addresses: free.get(&self.id).copied(),
            id: self.id,
            name: self.name,
            cidr: self.cidr,
            gateway: self.gateway_ip,
            ip_version: self.ip_version,
            pools: self.allocation_pools,
        }
    }
}

#[derive(Deserialize)]
struct GroupRow {
    id: String,
    name: String,
}

#[derive(Deserialize)]
struct QuotaBody {
    quota: QuotaRows,
}

#[derive(Deserialize)]
struct QuotaRows {
    port: QuotaRow,
}

#[derive(Deserialize)]
struct QuotaRow {
    limit: Option<i64>,
    used: Option<i64>,
}

#[derive(Deserialize)]
struct Availability {
    #[serde(default)]
    subnet_ip_availability: Vec<SubnetAvailability>,
}

#[derive(Deserialize)]
struct SubnetAvailability {
    subnet_id: String,
    /// An IPv6 subnet has more addresses than 64 bits can count.
    total_ips: Value,
    used_ips: Value,
}

impl SubnetAvailability {
    fn free(&self) -> u64 {
        let count = |value: &Value| value.as_u64().unwrap_or(u64::MAX);
        count(&self.total_ips).saturating_sub(count(&self.used_ips))
    }
}
