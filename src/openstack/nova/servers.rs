//! Servers: create, find, read, delete.
//!
//! Nova answers a create with an id and nothing else, has no key against doing it twice, and does
//! not keep names unique. A server is ours by its metadata, never by its name.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::super::client::{Call, CloudClient, Service};
use super::super::discovery::Microversion;
use super::super::fault::Effect;
use crate::domain::inventory::ServerStatus;
use crate::domain::outside::{OutsideError, OutsideKind};

/// Most bytes of user data: Nova takes 65535 characters of base64.
pub const MAX_USER_DATA: usize = 49_151;

/// From here servers of a cell that is down are listed, with few fields; before, left out.
const DOWN_CELLS: Microversion = Microversion(2, 69);
/// From here servers carry tags, and lists can be filtered by them.
const TAGS: Microversion = Microversion(2, 26);
/// From here tags can be given at create.
const TAGS_AT_CREATE: Microversion = Microversion(2, 52);
/// From here networks must be named at create, which we always do.
const NETWORKS: Microversion = Microversion(2, 37);

/// What to make.
#[derive(Debug, Clone)]
pub struct CreateServer {
    /// Name; becomes the guest's host name.
    pub name: String,
    /// Size.
    pub flavor_id: String,
    /// What it boots.
    pub image_id: String,
    /// Its only port, made before. A second server on the same port is refused.
    pub port_id: String,
    /// What cloud-init reads, raw.
    pub user_data: Vec<u8>,
    /// Marks that say whose it is.
    pub metadata: BTreeMap<String, String>,
    /// Marks to filter lists by.
    pub tags: Vec<String>,
    /// Server group that keeps it apart from others.
    pub group_id: Option<String>,
    /// Availability zone.
    pub zone: Option<String>,
    /// Name of a key pair.
    pub key: Option<String>,
}

/// A server as Nova shows it. A server of a cell that is down has only an id and a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Nova's id.
    pub id: String,
    /// Name.
    pub name: Option<String>,
    /// State.
    pub status: ServerStatus,
    /// What Nova is doing with it now.
    pub task_state: Option<String>,
    /// Nova's inner state.
    pub vm_state: Option<String>,
    /// Marks; `None` if Nova did not show them.
    pub metadata: Option<BTreeMap<String, String>>,
    /// Tags; `None` if Nova did not show them.
    pub tags: Option<Vec<String>>,
    /// Addresses of all its ports.
    pub addresses: Vec<ServerAddress>,
    /// Size.
    pub flavor: Option<FlavorRef>,
    /// Id of the image.
    pub image_id: Option<String>,
    /// When it was asked for.
    pub created: Option<Timestamp>,
    /// Why it failed.
    pub fault: Option<ServerFault>,
    /// Hash of project and host: equal values mean the same host.
    pub host_id: Option<String>,
    /// Name of the host; only administrators see it.
    pub host: Option<String>,
    /// Availability zone.
    pub zone: Option<String>,
}

impl Server {
    /// Whether its cell is down, so that nothing else is known of it.
    pub fn is_minimal(&self) -> bool {
        self.name.is_none()
    }

    /// A mark of its metadata.
    pub fn mark(&self, key: &str) -> Option<&str> {
        self.metadata.as_ref()?.get(key).map(String::as_str)
    }
}

/// The size of a server. Newer clouds tell the name, older ones the id.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct FlavorRef {
    /// Nova's id.
    #[serde(default)]
    pub id: Option<String>,
    /// Name.
    #[serde(default, rename = "original_name")]
    pub name: Option<String>,
}

/// One address of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerAddress {
    /// Name of the network.
    pub network: String,
    /// The address.
    pub address: String,
    /// Whether it is a floating one, and not the server's own.
    pub is_floating: bool,
}

/// Why a server failed, in Nova's words.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ServerFault {
    /// Like an HTTP status.
    pub code: i64,
    /// Such as "No valid host was found."
    pub message: String,
}

/// Which servers to list. All conditions must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerFilter {
    /// Tags that a server must have, all of them.
    pub tags: Vec<String>,
    /// The exact name.
    pub name: Option<String>,
    /// Only those that changed at or after this moment of Nova's clock, with those deleted since;
    /// API reference, "changes-since".
    pub changed_since: Option<jiff::Timestamp>,
}

/// A list of servers. A server that is missing from it may still exist: a filtered list leaves
/// out the servers of cells that are down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerList {
    /// The servers.
    pub servers: Vec<Server>,
    /// Whether there was no sign of a cell that is down.
    pub is_complete: bool,
}

impl CloudClient {
    /// All servers of the project that match.
    pub async fn list_servers(&self, filter: &ServerFilter) -> Result<ServerList, OutsideError> {
        let mut servers = Vec::new();
        let is_complete = self.each_server(filter, |server| servers.push(server)).await?;
        Ok(ServerList { servers, is_complete })
    }

    /// Hands over each server of the project that matches, page by page; says whether there was no
    /// sign of a cell that is down. For accounts too large to be held at once.
    pub async fn each_server(
        &self,
        filter: &ServerFilter,
        mut take: impl FnMut(Server) + Send,
    ) -> Result<bool, OutsideError> {
        let version = self.choose(Service::Compute, DOWN_CELLS, TAGS).await?;
        let mut call = Call::get(Service::Compute, "nova list servers", "/servers/detail");
        if !filter.tags.is_empty() {
            call = call.query("tags", filter.tags.join(","));
        }
        if let Some(name) = &filter.name {
            call = call.query("name", exactly(name));
        }
        if let Some(since) = filter.changed_since {
            call = call.query("changes-since", since.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        }
        let mut is_complete = true;
        self.fetch_each(call.version(version), "servers", |row: ServerRow| {
            let server = Server::from(row);
            is_complete &= !server.is_minimal();
            // A cloud ignores filters that it does not know, so they are applied again here.
            if filter.matches(&server) {
                take(server);
            }
        })
        .await?;
        Ok(is_complete)
    }

    /// The servers called exactly `name`; there can be several.
    pub async fn find_servers(&self, name: &str) -> Result<Vec<Server>, OutsideError> {
        let filter = ServerFilter { name: Some(name.to_owned()), ..ServerFilter::default() };
        let list = self.list_servers(&filter).await?;
        Ok(list.servers.into_iter().filter(|server| !server.is_minimal()).collect())
    }

    /// One server, or `None` if Nova says that there is none.
    pub async fn server(&self, id: &str) -> Result<Option<Server>, OutsideError> {
        let version = self.choose(Service::Compute, DOWN_CELLS, TAGS).await?;
        let call = Call::get(Service::Compute, "nova show server", format!("/servers/{id}"));
        match self.fetch::<OneServer>(&call.version(version)).await {
            Ok(body) => Ok(Some(Server::from(body.server))),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks for a server and answers its id. It is not there yet: read it until it is.
    pub async fn create_server(&self, new: &CreateServer) -> Result<String, OutsideError> {
        let version = self.choose(Service::Compute, TAGS_AT_CREATE, NETWORKS).await?;
        let call = Call::post(Service::Compute, "nova create server", "/servers");
        if new.user_data.len() > MAX_USER_DATA {
            let message =
                format!("user data has {} bytes, Nova takes {MAX_USER_DATA}", new.user_data.len());
            return Err(call.error(OutsideKind::Invalid, message));
        }
        let has_tags = version >= TAGS_AT_CREATE;
        let call = call.version(version).body(new.body(has_tags));
        let made: MadeServer = self.fetch(&call).await?;
        let id = made.server.id;
        if !has_tags && let Err(error) = self.set_server_tags(&id, &new.tags).await {
            // The server exists and its metadata says whose it is; only a filter will miss it.
            tracing::warn!(cloud.name = self.cloud(), server.id = id, "tags were not set: {error}");
        }
        Ok(id)
    }

    /// Replaces all tags of a server.
    pub async fn set_server_tags(&self, id: &str, tags: &[String]) -> Result<(), OutsideError> {
        let path = format!("/servers/{id}/tags");
        let call = Call::put(Service::Compute, "nova set server tags", path)
            .version(TAGS)
            .body(json!({"tags": tags}));
        self.send(&call).await?;
        Ok(())
    }

    /// Asks that a server goes away. It is gone when it can no longer be read.
    pub async fn delete_server(&self, id: &str) -> Result<(), OutsideError> {
        let path = format!("/servers/{id}");
        self.send(&Call::delete(Service::Compute, "nova delete server", path)).await?;
        Ok(())
    }

    /// The last `lines` of what a server wrote to its console.
    pub async fn console_output(&self, id: &str, lines: u32) -> Result<String, OutsideError> {
        let body = json!({"os-getConsoleOutput": {"length": lines}});
        let call = action("nova show console output", id, body).with_effect(Effect::Read);
        let body: Console = self.fetch(&call).await?;
        Ok(body.output.unwrap_or_default())
    }

    /// Powers a server on.
    pub async fn start_server(&self, id: &str) -> Result<(), OutsideError> {
        self.send(&action("nova start server", id, json!({"os-start": null}))).await?;
        Ok(())
    }

    /// Powers a server off.
    pub async fn stop_server(&self, id: &str) -> Result<(), OutsideError> {
        self.send(&action("nova stop server", id, json!({"os-stop": null}))).await?;
        Ok(())
    }
}

impl CreateServer {
    fn body(&self, has_tags: bool) -> Value {
        let mut server = json!({
            "name": self.name,
            "flavorRef": self.flavor_id,
            "imageRef": self.image_id,
            "networks": [{"port": self.port_id}],
            "metadata": self.metadata,
            "user_data": STANDARD.encode(&self.user_data),
        });
        if has_tags {
            server["tags"] = json!(self.tags);
        }
        if let Some(zone) = &self.zone {
            server["availability_zone"] = json!(zone);
        }
        if let Some(key) = &self.key {
            server["key_name"] = json!(key);
        }
        let mut body = json!({"server": server});
        if let Some(group) = &self.group_id {
            body["os:scheduler_hints"] = json!({"group": group});
        }
        body
    }
}

impl ServerFilter {
    /// Rows of cells that are down pass: they could match.
    fn matches(&self, server: &Server) -> bool {
        if server.is_minimal() {
            return true;
        }
        let has_name = self.name.is_none() || self.name == server.name;
        let tags = server.tags.as_deref().unwrap_or_default();
        has_name && self.tags.iter().all(|tag| tags.contains(tag))
    }
}

fn action(operation: &'static str, id: &str, body: Value) -> Call {
    Call::post(Service::Compute, operation, format!("/servers/{id}/action"))
        .with_effect(Effect::Change)
        .body(body)
}

/// Nova's name filter is a regular expression that matches anywhere in the name.
fn exactly(name: &str) -> String {
    let mut pattern = String::from("^");
    for character in name.chars() {
        if !(character.is_alphanumeric() || matches!(character, '-' | '_')) {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern.push('$');
    pattern
}

#[derive(Deserialize)]
struct OneServer {
    server: ServerRow,
}

#[derive(Deserialize)]
struct MadeServer {
    server: MadeRow,
}

#[derive(Deserialize)]
struct MadeRow {
    id: String,
}

#[derive(Deserialize)]
struct Console {
    output: Option<String>,
}

#[derive(Deserialize)]
struct ServerRow {
    id: String,
    name: Option<String>,
    status: Option<ServerStatus>,
    #[serde(rename = "OS-EXT-STS:task_state")]
    task_state: Option<String>,
    #[serde(rename = "OS-EXT-STS:vm_state")]
    vm_state: Option<String>,
    metadata: Option<BTreeMap<String, String>>,
    tags: Option<Vec<String>>,
    #[serde(default)]
    addresses: BTreeMap<String, Vec<AddressRow>>,
    flavor: Option<FlavorRef>,
    #[serde(default, deserialize_with = "image_id")]
    image: Option<String>,
    created: Option<Timestamp>,
    fault: Option<ServerFault>,
    #[serde(rename = "hostId")]
    host_id: Option<String>,
    #[serde(rename = "OS-EXT-SRV-ATTR:host")]
    host: Option<String>,
    #[serde(rename = "OS-EXT-AZ:availability_zone")]
    zone: Option<String>,
}

#[derive(Deserialize)]
struct AddressRow {
    addr: String,
    #[serde(rename = "OS-EXT-IPS:type")]
    kind: Option<String>,
}

/// `{"id": ..}`, or an empty text for a server that boots from a volume.
fn image_id<'de, D: Deserializer<'de>>(source: D) -> Result<Option<String>, D::Error> {
    let image = Value::deserialize(source)?;
    Ok(image.get("id").and_then(Value::as_str).map(str::to_owned))
}

impl From<ServerRow> for Server {
    fn from(row: ServerRow) -> Self {
        let not_empty = |text: Option<String>| text.filter(|text| !text.is_empty());
        let addresses = row.addresses.into_iter().flat_map(|(network, rows)| {
            rows.into_iter().map(move |row| ServerAddress {
                network: network.clone(),
                address: row.addr,
                is_floating: row.kind.as_deref() == Some("floating"),
            })
        });
        Self {
            id: row.id,
            name: row.name,
            status: row.status.unwrap_or(ServerStatus::Unknown),
            task_state: row.task_state,
            vm_state: row.vm_state,
            metadata: row.metadata,
            tags: row.tags,
            addresses: addresses.collect(),
            flavor: row.flavor,
            image_id: row.image,
            created: row.created,
            fault: row.fault,
            host_id: not_empty(row.host_id),
            host: row.host,
            zone: not_empty(row.zone),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_escaped_and_anchored() {
        assert_eq!(exactly("np1-1"), "^np1-1$");
        assert_eq!(exactly("a.b*"), "^a\\.b\\*$");
    }

    #[test]
    fn a_row_of_a_cell_that_is_down_is_read() {
        let text = r#"{"id": "s1", "status": "UNKNOWN", "tenant_id": "p",
            "created": "2026-08-01T10:00:00Z", "links": []}"#;
        let server = Server::from(serde_json::from_str::<ServerRow>(text).expect("a row"));
        assert!(server.is_minimal());
        assert_eq!(server.status, ServerStatus::Unknown);
        let filter = ServerFilter { tags: vec!["x".to_owned()], ..ServerFilter::default() };
        assert!(filter.matches(&server), "it may be one of those");
    }

    #[test]
    fn a_whole_row_is_read() {
        let text = r#"{"id": "s1", "name": "n", "status": "ERROR", "hostId": "",
            "OS-EXT-STS:task_state": null, "OS-EXT-STS:vm_state": "error", "image": "",
            "metadata": {"zcp.node": "x"}, "tags": ["t"], "flavor": {"original_name": "m1"},
            "addresses": {"net": [{"addr": "10.0.0.3", "version": 4, "OS-EXT-IPS:type": "fixed"}]},
            "OS-EXT-AZ:availability_zone": "nova", "created": "2026-08-01T10:00:00Z",
            "fault": {"code": 500, "message": "No valid host was found.", "created": "x"}}"#;
        let server = Server::from(serde_json::from_str::<ServerRow>(text).expect("a row"));
        assert_eq!(server.mark("zcp.node"), Some("x"));
        assert_eq!(server.addresses[0].address, "10.0.0.3");
        assert_eq!((server.image_id, server.host_id), (None, None));
        assert_eq!(server.fault.map(|fault| fault.code), Some(500));
    }
}
