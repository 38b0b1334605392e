//! What really is in the clouds: for tests that count what was made, doubled or left behind.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::cloud::{Cloud, Server};
use super::world::World;

/// Everything with its marks, over all clouds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truth {
    /// Servers that exist.
    pub servers: Vec<ServerTruth>,
    /// Servers that existed.
    pub deleted_servers: Vec<ServerTruth>,
    /// Ports that exist.
    pub ports: Vec<PortTruth>,
    /// Server groups that exist.
    pub groups: Vec<GroupTruth>,
}

/// A server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerTruth {
    /// Its cloud.
    pub cloud: String,
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// `ACTIVE` and so on.
    pub status: String,
    /// Its hypervisor.
    pub host: Option<String>,
    /// Its metadata: `zcp.install`, `zcp.cluster`, `zcp.pool`, `zcp.node`, `zcp.job`.
    pub metadata: BTreeMap<String, String>,
    /// Its tags.
    pub tags: Vec<String>,
    /// Its ports.
    pub ports: Vec<Uuid>,
    /// When it was asked for.
    pub created: Timestamp,
    /// When it first ran.
    pub launched: Option<Timestamp>,
    /// When it was gone.
    pub terminated: Option<Timestamp>,
}

/// A port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortTruth {
    /// Its cloud.
    pub cloud: String,
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// Its description, which holds the marks.
    pub description: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Server that it is bound to; empty when none.
    pub device_id: String,
    /// Its addresses.
    pub addresses: Vec<std::net::Ipv4Addr>,
}

/// A server group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupTruth {
    /// Its cloud.
    pub cloud: String,
    /// Its id.
    pub id: Uuid,
    /// Its name, which holds the marks.
    pub name: String,
    /// Servers in it.
    pub members: Vec<Uuid>,
}

impl World {
    /// What really is there now.
    pub fn truth(&self) -> Truth {
        let mut truth = Truth::default();
        for name in self.clouds() {
            let _known = self.with_cloud(&name, |cloud, _| truth.add(&name, cloud));
        }
        truth
    }
}

impl Truth {
    /// Servers of one name; more than one is a double.
    pub fn servers_named(&self, name: &str) -> impl Iterator<Item = &ServerTruth> {
        self.servers.iter().filter(move |server| server.name == name)
    }

    /// Values of `zcp.node` that more than one server carries.
    pub fn doubled_nodes(&self) -> Vec<String> {
        let mut seen: BTreeMap<&String, u32> = BTreeMap::new();
        for node in self.servers.iter().filter_map(|server| server.metadata.get("zcp.node")) {
            *seen.entry(node).or_default() += 1;
        }
        seen.into_iter().filter(|(_, times)| *times > 1).map(|(node, _)| node.clone()).collect()
    }

    fn add(&mut self, name: &str, cloud: &Cloud) {
        let server = |row: &Server| server_truth(name, row);
        self.servers.extend(cloud.compute.servers.iter().map(server));
        self.deleted_servers.extend(cloud.compute.deleted.iter().map(server));
        self.ports.extend(cloud.network.ports.values().map(|port| PortTruth {
            cloud: name.into(),
            id: port.id,
            name: port.name.clone(),
            description: port.description.clone(),
            tags: port.tags.clone(),
            device_id: port.device_id.clone(),
            addresses: port.fixed_ips.iter().map(|fixed| fixed.ip_address).collect(),
        }));
        self.groups.extend(cloud.compute.groups.iter().map(|group| GroupTruth {
            cloud: name.into(),
            id: group.id,
            name: group.name.clone(),
            members: group.members.clone(),
        }));
    }
}

fn server_truth(cloud: &str, row: &Server) -> ServerTruth {
    ServerTruth {
        cloud: cloud.into(),
        id: row.id,
        name: row.name.clone(),
        status: row.status.text().into(),
        host: row.host.clone(),
        metadata: row.metadata.clone(),
        tags: row.tags.clone(),
        ports: row.ports.clone(),
        created: row.created,
        launched: row.launched,
        terminated: row.terminated,
    }
}
