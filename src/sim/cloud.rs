//! What is in one simulated cloud. Plain data: the services under `openstack` show and change it,
//! [`super::compute`] and [`super::network`] move it on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::agenda::{Agenda, Dice};
use super::faults::{Counters, Faults};
use super::settings::CloudSettings;

/// One cloud.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cloud {
    /// What it was made with; times, quotas and sizes may be changed while it runs.
    pub settings: CloudSettings,
    /// Its randomness.
    pub dice: Dice,
    /// What will happen in it.
    pub agenda: Agenda<CloudEvent>,
    /// Users, projects, tokens.
    pub identity: Identity,
    /// Servers and all that Nova knows.
    pub compute: Compute,
    /// Networks, subnets, ports.
    pub network: Network,
    /// Glance's images, oldest first.
    pub images: Vec<Image>,
    /// What goes wrong.
    pub faults: Faults,
    /// What was called, and how often.
    pub counters: Counters,
    /// What guests have to be told; emptied after each request and each event.
    #[serde(skip)]
    pub happenings: Vec<Happening>,
}

/// Something due in a cloud.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum CloudEvent {
    /// The scheduler looks at a new server.
    Schedule(Uuid),
    /// A build is done.
    Built(Uuid),
    /// A server is gone.
    Deleted(Uuid),
    /// A server has stopped.
    Stopped(Uuid),
    /// A server runs again.
    Started(Uuid),
}

/// What the inside of a server notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happening {
    /// It was switched on.
    On(Uuid),
    /// It was switched off.
    Off(Uuid),
    /// It was deleted.
    Gone(Uuid),
}

/// Keystone's rows.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Identity {
    /// Everybody who can log in.
    pub users: Vec<User>,
    /// Tokens by their text.
    pub tokens: BTreeMap<String, Token>,
}

/// A user with the one project that it works in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct User {
    /// Its id: 32 hex digits, as Keystone makes them.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its password.
    pub password: String,
    /// Id of its project.
    pub project_id: String,
    /// Name of its project.
    pub project: String,
    /// Whether it has the role `admin`.
    pub is_admin: bool,
    /// Its application credential.
    pub credential: Option<Credential>,
}

/// An application credential.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Credential {
    /// Its id.
    pub id: String,
    /// Its name, unique for its user.
    pub name: String,
    /// Its secret.
    pub secret: String,
}

/// A token that was given out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Token {
    /// Whose it is.
    pub user_id: String,
    /// From when on it is refused.
    pub expires_at: Timestamp,
}

/// Nova's rows.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Compute {
    /// Servers that exist.
    pub servers: Servers,
    /// Servers that existed, for `changes-since` and for counting.
    pub deleted: Vec<Server>,
    /// Server groups, in order of creation.
    pub groups: Vec<Group>,
    /// Hypervisors.
    pub hosts: Vec<Host>,
    /// Flavors.
    pub flavors: Vec<Flavor>,
    /// What each project uses.
    pub usage: BTreeMap<String, Usage>,
    /// Builds under way now.
    pub building: u32,
    /// Most builds that were under way at one time.
    pub most_building: u32,
}

/// What a project uses of its quota.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Servers.
    pub instances: u32,
    /// Virtual cores.
    pub cores: u32,
    /// Memory in MiB.
    pub ram: u32,
}

/// Servers in order of creation, found by id.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Servers {
    rows: BTreeMap<u64, Server>,
    numbers: BTreeMap<Uuid, u64>,
    last: u64,
}

impl Servers {
    /// Adds a server as the newest.
    pub fn add(&mut self, server: Server) {
        self.last += 1;
        self.numbers.insert(server.id, self.last);
        self.rows.insert(self.last, server);
    }

    /// The server of that id.
    pub fn get(&self, id: Uuid) -> Option<&Server> {
        self.rows.get(self.numbers.get(&id)?)
    }

    /// The server of that id, to be changed.
    pub fn get_mut(&mut self, id: Uuid) -> Option<&mut Server> {
        self.rows.get_mut(self.numbers.get(&id)?)
    }

    /// Takes a server out.
    pub fn remove(&mut self, id: Uuid) -> Option<Server> {
        self.rows.remove(&self.numbers.remove(&id)?)
    }

    /// All, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Server> {
        self.rows.values()
    }

    /// Those older than `id`, newest first; all when there is no `id`; None when it is unknown.
    pub fn older_than(&self, id: Option<Uuid>) -> Option<impl Iterator<Item = &Server>> {
        let end = match id {
            Some(id) => *self.numbers.get(&id)?,
            None => u64::MAX,
        };
        Some(self.rows.range(..end).rev().map(|(_, server)| server))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// Nova's word for the state of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ServerStatus {
    /// Being made.
    Build,
    /// Runs.
    Active,
    /// Switched off.
    Shutoff,
    /// Failed.
    Error,
    /// Deleted, but kept for a while.
    SoftDeleted,
    /// Gone; only `changes-since` shows it.
    Deleted,
}

impl ServerStatus {
    /// As the API writes it.
    pub fn text(self) -> &'static str {
        match self {
            Self::Build => "BUILD",
            Self::Active => "ACTIVE",
            Self::Shutoff => "SHUTOFF",
            Self::Error => "ERROR",
            Self::SoftDeleted => "SOFT_DELETED",
            Self::Deleted => "DELETED",
        }
    }

    /// Nova's internal state.
    pub fn vm_state(self) -> &'static str {
        match self {
            Self::Build => "building",
            Self::Active => "active",
            Self::Shutoff => "stopped",
            Self::Error => "error",
            Self::SoftDeleted => "soft-delete",
            Self::Deleted => "deleted",
        }
    }
}

/// A server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Server {
    /// Its id.
    pub id: Uuid,
    /// Its name; Nova allows twins.
    pub name: String,
    /// Project it belongs to.
    pub project_id: String,
    /// User that made it.
    pub user_id: String,
    /// Id of its flavor.
    pub flavor: String,
    /// Id of its image.
    pub image: Uuid,
    /// Its state.
    pub status: ServerStatus,
    /// What is being done to it.
    pub task: Option<String>,
    /// When it was asked for.
    pub created: Timestamp,
    /// When it last changed.
    pub updated: Timestamp,
    /// When it first ran.
    pub launched: Option<Timestamp>,
    /// When it was gone.
    pub terminated: Option<Timestamp>,
    /// Why it is in ERROR.
    pub fault: Option<ServerFault>,
    /// Its hypervisor, once chosen.
    pub host: Option<String>,
    /// Zone that was asked for.
    pub zone: Option<String>,
    /// Its metadata.
    pub metadata: BTreeMap<String, String>,
    /// Its tags, sorted.
    pub tags: Vec<String>,
    /// User data in base64, as it was sent.
    pub user_data: Option<String>,
    /// Its ports; the first is its address.
    pub ports: Vec<Uuid>,
    /// Its server group.
    pub group: Option<Uuid>,
    /// Key pair's name.
    pub key_name: Option<String>,
    /// Whether an operator locked it.
    pub locked: bool,
    /// Whether it has a config drive.
    pub config_drive: bool,
    /// Lines of its console, the last few hundred.
    pub console: Vec<String>,
    /// What was done to it, oldest first.
    pub actions: Vec<Action>,
}

/// Why a server failed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServerFault {
    /// 500 when no host took it.
    pub code: u16,
    /// Nova's sentence.
    pub message: String,
    /// When.
    pub created: Timestamp,
}

/// An entry of `os-instance-actions`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Action {
    /// `create`, `delete`, `stop`, `start` ...
    pub action: String,
    /// Request that asked for it.
    pub request_id: String,
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub finish: Option<Timestamp>,
    /// `Error` when it failed.
    pub message: Option<String>,
}

/// A server group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Group {
    /// Its id.
    pub id: Uuid,
    /// Its name; Nova allows twins.
    pub name: String,
    /// `soft-anti-affinity` and so on.
    pub policy: String,
    /// For `anti-affinity` only.
    pub max_server_per_host: Option<u32>,
    /// Project it belongs to.
    pub project_id: String,
    /// User that made it.
    pub user_id: String,
    /// Servers in it.
    pub members: Vec<Uuid>,
}

/// A hypervisor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Host {
    /// Its id, in Nova and in Placement.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// Whether an operator disabled it.
    pub disabled: bool,
    /// Whether its nova-compute is down.
    pub down: bool,
    /// Cores in use.
    pub vcpus_used: u32,
    /// Memory in use, MiB.
    pub memory_used_mb: u32,
    /// Servers on it.
    pub servers: u32,
    /// Builds it is doing.
    pub building: u32,
    /// Servers whose builds wait for one of those to end.
    pub waiting: VecDeque<Uuid>,
}

/// A flavor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Flavor {
    /// Its id; a text in Nova.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Virtual cores.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// Root disk in GiB.
    pub disk_gb: u32,
}

/// Neutron's rows.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Network {
    /// Networks.
    pub networks: Vec<Net>,
    /// Subnets.
    pub subnets: Vec<Subnet>,
    /// Ports; pages of them are in order of id.
    pub ports: BTreeMap<Uuid, Port>,
    /// Security groups.
    pub security_groups: Vec<SecurityGroup>,
    /// Addresses in use.
    pub taken: BTreeSet<Ipv4Addr>,
}

/// A network.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Net {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// Project it belongs to.
    pub project_id: String,
    /// When it was made.
    pub created: Timestamp,
}

/// A subnet.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Subnet {
    /// Its id.
    pub id: Uuid,
    /// Its network.
    pub network_id: Uuid,
    /// Its name.
    pub name: String,
    /// Project it belongs to.
    pub project_id: String,
    /// Its range.
    pub cidr: String,
    /// First address that may be given out.
    pub first: Ipv4Addr,
    /// Last address that may be given out.
    pub last: Ipv4Addr,
    /// When it was made.
    pub created: Timestamp,
}

/// A port.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Port {
    /// Its id.
    pub id: Uuid,
    /// Its name; Neutron allows twins.
    pub name: String,
    /// Free text.
    pub description: String,
    /// Project it belongs to.
    pub project_id: String,
    /// Its network.
    pub network_id: Uuid,
    /// Its addresses.
    pub fixed_ips: Vec<FixedIp>,
    /// Hardware address.
    pub mac_address: String,
    /// Server it is bound to; empty when none.
    pub device_id: String,
    /// `compute:<zone>` when bound; empty when not.
    pub device_owner: String,
    /// Whether Nova made it, and deletes it with the server.
    pub made_by_nova: bool,
    /// Addresses it may send from besides its own, as they were sent.
    pub allowed_address_pairs: Vec<serde_json::Value>,
    /// Security groups.
    pub security_groups: Vec<Uuid>,
    /// Tags, sorted.
    pub tags: Vec<String>,
    /// Whether port security is on.
    pub port_security_enabled: bool,
    /// Counts changes.
    pub revision: u64,
    /// When it was made.
    pub created: Timestamp,
    /// When it last changed.
    pub updated: Timestamp,
}

/// An address of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FixedIp {
    /// Where it is from.
    pub subnet_id: Uuid,
    /// The address.
    pub ip_address: Ipv4Addr,
}

/// A security group; its rules are not simulated.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SecurityGroup {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// Project it belongs to.
    pub project_id: String,
    /// When it was made.
    pub created: Timestamp,
}

/// An image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Image {
    /// Its id.
    pub id: Uuid,
    /// Its name; Glance allows twins.
    pub name: String,
    /// `active`, `deactivated` ...
    pub status: String,
    /// Custom properties.
    pub properties: BTreeMap<String, String>,
    /// When it was made.
    pub created: Timestamp,
}
