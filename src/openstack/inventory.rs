//! All that a project can see and use of a cloud, in one value.

use super::client::CloudClient;
use crate::domain::inventory::{Inventory, Quotas};
use crate::domain::outside::OutsideError;

impl CloudClient {
    /// Reads everything anew, one call after the other: an inventory is never urgent, and must
    /// not crowd out the calls that are.
    pub async fn inventory(&self) -> Result<Inventory, OutsideError> {
        let versions = self.version_ranges().await?;
        let limits = self.compute_limits().await?;
        Ok(Inventory {
            flavors: self.list_flavors().await?,
            images: self.list_images().await?,
            networks: self.list_networks().await?,
            security_groups: self.list_security_groups().await?,
            zones: self.list_zones().await?,
            quotas: Quotas {
                instances: limits.instances,
                cores: limits.cores,
                ram_mb: limits.ram_mb,
                server_groups: limits.server_groups,
                server_group_members: limits.server_group_members,
                ports: self.port_quota().await?,
            },
            versions,
        })
    }
}
