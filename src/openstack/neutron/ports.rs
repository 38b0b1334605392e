//! Ports. Ours are made before their server and stay when it goes, so they are deleted by id.

use http::header::IF_MATCH;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::client::{Call, CloudClient, PAGE, Service};
use crate::domain::outside::OutsideError;

/// How often a change is tried again when somebody else changed the port meanwhile.
const MAX_CONFLICTS: u32 = 3;

/// What to make.
#[derive(Debug, Clone, Default)]
pub struct CreatePort {
    /// Network to attach to.
    pub network_id: String,
    /// Name.
    pub name: String,
    /// Marks that say whose it is; the only mark that a create can set.
    pub description: String,
    /// Ids of security groups; empty takes the project's default group.
    pub security_groups: Vec<String>,
    /// Further addresses that may send from this port.
    pub allowed_address_pairs: Vec<AddressPair>,
    /// A certain address, instead of any.
    pub fixed_ip: Option<String>,
}

/// A port as Neutron shows it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Port {
    /// Neutron's id.
    pub id: String,
    /// Name.
    #[serde(default)]
    pub name: String,
    /// Marks that say whose it is.
    #[serde(default)]
    pub description: String,
    /// Its network.
    pub network_id: String,
    /// `ACTIVE`, `DOWN` or `BUILD`.
    #[serde(default)]
    pub status: String,
    /// Id of the server that uses it; empty when none does.
    #[serde(default)]
    pub device_id: String,
    /// What uses it, such as `compute:nova`; empty when nothing does.
    #[serde(default)]
    pub device_owner: String,
    /// Hardware address.
    #[serde(default)]
    pub mac_address: String,
    /// Its addresses.
    #[serde(default)]
    pub fixed_ips: Vec<FixedIp>,
    /// Further addresses that may send from it.
    #[serde(default)]
    pub allowed_address_pairs: Vec<AddressPair>,
    /// Ids of its security groups.
    #[serde(default)]
    pub security_groups: Vec<String>,
    /// Tags.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Grows with each change; for `If-Match`.
    pub revision_number: Option<u64>,
    /// When it was made.
    pub created_at: Option<Timestamp>,
}

impl Port {
    /// Its first address.
    pub fn address(&self) -> Option<&str> {
        self.fixed_ips.first().map(|ip| ip.ip_address.as_str())
    }
}

/// One address of a port.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct FixedIp {
    /// Its subnet.
    pub subnet_id: String,
    /// The address.
    pub ip_address: String,
}

/// A further address that may send from a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AddressPair {
    /// An address, or a range such as `10.244.0.0/16`.
    pub ip_address: String,
    /// Hardware address; the port's own when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac_address: Option<String>,
}

impl AddressPair {
    /// A pair with the port's own hardware address.
    pub fn new(ip_address: impl Into<String>) -> Self {
        Self { ip_address: ip_address.into(), mac_address: None }
    }
}

/// Which ports to list. All conditions must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortFilter {
    /// The exact name.
    pub name: Option<String>,
    /// The exact description.
    pub description: Option<String>,
    /// Tags that a port must have, all of them.
    pub tags: Vec<String>,
    /// The server that uses it; empty text for ports that nothing uses.
    pub device_id: Option<String>,
    /// Its network.
    pub network_id: Option<String>,
}

impl PortFilter {
    /// Neutron filters exactly, but a cloud without the tag extension ignores `tags`.
    fn matches(&self, port: &Port) -> bool {
        let is = |wanted: &Option<String>, value: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == value)
        };
        is(&self.name, &port.name)
            && is(&self.description, &port.description)
            && is(&self.device_id, &port.device_id)
            && is(&self.network_id, &port.network_id)
            && self.tags.iter().all(|tag| port.tags.contains(tag))
    }
}

impl CloudClient {
    /// Makes a port. Tags come by a second call, [`CloudClient::set_port_tags`].
    pub async fn create_port(&self, new: &CreatePort) -> Result<Port, OutsideError> {
        let call = Call::post(Service::Network, "neutron create port", "/ports");
        let body: OnePort = self.fetch(&call.body(new.body())).await?;
        Ok(body.port)
    }

    /// One port, or `None` if Neutron says that there is none.
    pub async fn port(&self, id: &str) -> Result<Option<Port>, OutsideError> {
        match self.fetch_port(id).await {
            Ok(port) => Ok(Some(port)),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All ports that match.
    pub async fn list_ports(&self, filter: &PortFilter) -> Result<Vec<Port>, OutsideError> {
        let mut ports = Vec::new();
        self.each_port(filter, |port| ports.push(port)).await?;
        Ok(ports)
    }

    /// Hands over each port that matches, page by page.
    pub async fn each_port(
        &self,
        filter: &PortFilter,
        mut take: impl FnMut(Port) + Send,
    ) -> Result<(), OutsideError> {
        let mut call = Call::get(Service::Network, "neutron list ports", "/ports")
            .query("limit", PAGE.to_string());
        let conditions = [
            ("name", &filter.name),
            ("description", &filter.description),
            ("device_id", &filter.device_id),
            ("network_id", &filter.network_id),
        ];
        for (name, value) in conditions {
            if let Some(value) = value {
                call = call.query(name, value);
            }
        }
        if !filter.tags.is_empty() {
            call = call.query("tags", filter.tags.join(","));
        }
        self.fetch_each(call, "ports", |port: Port| {
            if filter.matches(&port) {
                take(port);
            }
        })
        .await
    }

    /// Changes the allowed address pairs of a port: `change` gets those that are there and answers
    /// those that shall be. It is asked again when somebody else changed the port meanwhile.
    pub async fn update_port_address_pairs(
        &self,
        id: &str,
        change: impl Fn(&[AddressPair]) -> Vec<AddressPair>,
    ) -> Result<Port, OutsideError> {
        let has_if_match = self.has_extension("revision-if-match").await?;
        let mut conflicts = 0;
        loop {
            let port = self.fetch_port(id).await?;
            let wanted = change(&port.allowed_address_pairs);
            if wanted == port.allowed_address_pairs {
                return Ok(port);
            }
            let body = json!({"port": {"allowed_address_pairs": wanted}});
            let path = format!("/ports/{id}");
            let mut call = Call::put(Service::Network, "neutron update port", path).body(body);
            if let Some(revision) = port.revision_number.filter(|_| has_if_match) {
                call.headers.push((IF_MATCH, format!("revision_number={revision}")));
            }
            match self.fetch::<OnePort>(&call).await {
                Ok(body) => return Ok(body.port),
                Err(error) if error.status == Some(412) && conflicts < MAX_CONFLICTS => {
                    conflicts += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Replaces all tags of a port.
    pub async fn set_port_tags(&self, id: &str, tags: &[String]) -> Result<(), OutsideError> {
        let path = format!("/ports/{id}/tags");
        let call = Call::put(Service::Network, "neutron set port tags", path);
        self.send(&call.body(json!({"tags": tags}))).await?;
        Ok(())
    }

    /// Removes a port.
    pub async fn delete_port(&self, id: &str) -> Result<(), OutsideError> {
        let path = format!("/ports/{id}");
        self.send(&Call::delete(Service::Network, "neutron delete port", path)).await?;
        Ok(())
    }

    async fn fetch_port(&self, id: &str) -> Result<Port, OutsideError> {
        let path = format!("/ports/{id}");
        let call = Call::get(Service::Network, "neutron show port", path);
        let body: OnePort = self.fetch(&call).await?;
        Ok(body.port)
    }
}

impl CreatePort {
    fn body(&self) -> Value {
        let mut port = json!({
            "network_id": self.network_id,
            "name": self.name,
            "description": self.description,
        });
        if !self.security_groups.is_empty() {
            port["security_groups"] = json!(self.security_groups);
        }
        if !self.allowed_address_pairs.is_empty() {
            port["allowed_address_pairs"] = json!(self.allowed_address_pairs);
        }
        if let Some(address) = &self.fixed_ip {
            port["fixed_ips"] = json!([{"ip_address": address}]);
        }
        json!({"port": port})
    }
}

#[derive(Deserialize)]
struct OnePort {
    port: Port,
}
