//! Server groups. A group cannot be changed, and a server cannot move from one to another.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::json;

use super::super::client::{Call, CloudClient, Service};
use super::super::discovery::Microversion;
use crate::domain::outside::OutsideError;

/// Spread as well as the hosts allow. The strict policy would refuse the last server of a pool
/// on a small cloud.
const POLICY: &str = "soft-anti-affinity";
/// From here a group has one `policy`; before, a list.
const ONE_POLICY: Microversion = Microversion(2, 64);
/// From here the soft policies exist.
const SOFT_POLICIES: Microversion = Microversion(2, 15);

/// Servers that should be on different hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerGroup {
    /// Nova's id.
    pub id: String,
    /// Name; Nova does not keep it unique.
    pub name: String,
    /// Its policy.
    pub policy: String,
    /// Ids of its servers.
    pub members: Vec<String>,
}

impl CloudClient {
    /// All server groups of the project.
    pub async fn list_server_groups(&self) -> Result<Vec<ServerGroup>, OutsideError> {
        let version = self.choose(Service::Compute, ONE_POLICY, Microversion(2, 1)).await?;
        let mut groups: Vec<ServerGroup> = Vec::new();
        let mut seen = BTreeSet::new();
        // This list has no links to its next page, and ends silently at the cloud's page size.
        loop {
            let call = Call::get(Service::Compute, "nova list server groups", "/os-server-groups")
                .query("offset", groups.len().to_string())
                .version(version);
            let page: Groups = self.fetch(&call).await?;
            let before = groups.len();
            let new = page.server_groups.into_iter().filter(|row| seen.insert(row.id.clone()));
            groups.extend(new.map(ServerGroup::from));
            if groups.len() == before {
                return Ok(groups);
            }
        }
    }

    /// Makes a group with the soft anti-affinity policy; answers its id.
    pub async fn create_server_group(&self, name: &str) -> Result<String, OutsideError> {
        let version = self.choose(Service::Compute, ONE_POLICY, SOFT_POLICIES).await?;
        let group = if version >= ONE_POLICY {
            json!({"name": name, "policy": POLICY})
        } else {
            json!({"name": name, "policies": [POLICY]})
        };
        let call = Call::post(Service::Compute, "nova create server group", "/os-server-groups")
            .version(version)
            .body(json!({"server_group": group}));
        let made: Made = self.fetch(&call).await?;
        Ok(made.server_group.id)
    }

    /// Removes a group; its servers stay.
    pub async fn delete_server_group(&self, id: &str) -> Result<(), OutsideError> {
        let path = format!("/os-server-groups/{id}");
        self.send(&Call::delete(Service::Compute, "nova delete server group", path)).await?;
        Ok(())
    }
}

#[derive(Deserialize)]
struct Groups {
    server_groups: Vec<Row>,
}

#[derive(Deserialize)]
struct Made {
    server_group: Row,
}

#[derive(Deserialize)]
struct Row {
    id: String,
    name: String,
    policy: Option<String>,
    #[serde(default)]
    policies: Vec<String>,
    #[serde(default)]
    members: Vec<String>,
}

impl From<Row> for ServerGroup {
    fn from(row: Row) -> Self {
        let policy = row.policy.or_else(|| row.policies.into_iter().next()).unwrap_or_default();
        Self { id: row.id, name: row.name, policy, members: row.members }
    }
}
