//! What zcp relies on of a cloud, asked through its own client.
//!
//! The same questions go to the simulated clouds and, when `ZCP_LAB_CLOUDS` is the path of a
//! `clouds.yaml`, to each of its clouds that is called `*-app` (an ordinary credential) with the
//! `*-admin` beside it. This is what keeps the simulation honest.
//!
//! A question makes its own servers and ports, with names that nobody else has, and takes them
//! away again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use zcp::clock::{ManualClock, SharedClock, SystemClock, SystemIds};
use zcp::domain::inventory::{Inventory, ServerStatus};
use zcp::domain::outside::{OutsideError, OutsideKind};
use zcp::openstack::neutron::{AddressPair, CreatePort, Port, PortFilter};
use zcp::openstack::nova::{CreateServer, Server, ServerFilter};
use zcp::openstack::{
    Budget, CloudAuth, CloudClient, Credential, Limits, Timeouts, Transport, Wiring, clouds_yaml,
};
use zcp::sim::found::PASSWORD;
use zcp::sim::{Timing, World, WorldSettings};

/// How often a question looks again before it gives up; a second apart on a real cloud.
const LOOKS: u32 = 120;
const NOBODY: &str = "00000000-0000-4000-8000-000000000000";

/// How time passes on a cloud.
pub(crate) enum Time {
    Manual(Arc<ManualClock>),
    Real,
}

/// A cloud that is asked.
pub(crate) struct Subject {
    pub(crate) client: CloudClient,
    pub(crate) admin: CloudClient,
    pub(crate) auth: CloudAuth,
    pub(crate) wiring: Wiring,
    pub(crate) time: Time,
    pub(crate) names: AtomicU32,
}

impl Subject {
    /// A simulated cloud, in its world.
    pub(crate) fn simulated(name: &str, settings: WorldSettings) -> (Self, Arc<World>) {
        let start: Timestamp = "2026-08-01T12:00:00Z".parse().expect("a time");
        let clock = Arc::new(ManualClock::new(start));
        let world = World::new(settings, clock.clone());
        let wiring = wiring(Transport::in_process(world.cloud_router(name)), clock.clone());
        let auth = |user: &str| {
            let text = format!(
                "clouds: {{sim: {{region_name: {name}, auth: {{auth_url: 'http://{name}.test/identity', \
                 username: {user}, password: {PASSWORD}, project_name: {user}, domain_id: default}}}}}}"
            );
            clouds_yaml::parse(&text, None, None).expect("a good entry")
        };
        let subject = Self {
            client: CloudClient::new(name, auth("kaas"), wiring.clone()),
            admin: CloudClient::new(name, auth("admin"), wiring.clone()),
            auth: auth("kaas"),
            wiring,
            time: Time::Manual(clock),
            names: AtomicU32::new(1),
        };
        (subject, world)
    }

    fn real(text: &str, name: &str) -> Self {
        let entry = |kind: &str| {
            let entry = format!("{name}-{kind}");
            clouds_yaml::parse(text, Some(&entry), None).expect("a good entry")
        };
        let (auth, admin) = (entry("app"), entry("admin"));
        let transport = Transport::network(auth.ca_pem.as_deref(), Timeouts::default());
        let wiring = wiring(transport.expect("a transport"), Arc::new(SystemClock));
        let client = |auth| {
            let client = CloudClient::new(name, auth, wiring.clone());
            client.with_deadline(Duration::from_mins(1))
        };
        Self {
            client: client(auth.clone()),
            admin: client(admin),
            auth,
            time: Time::Real,
            names: AtomicU32::new(std::process::id()),
            wiring,
        }
    }

    /// A name that nobody had before.
    fn name(&self, what: &str) -> String {
        format!("contract-{what}-{:x}", self.names.fetch_add(1, Ordering::Relaxed))
    }

    async fn pass(&self) {
        match &self.time {
            Time::Manual(clock) => clock.advance(SignedDuration::from_secs(3)),
            Time::Real => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }

    pub(crate) async fn port(&self, name: &str) -> Port {
        let offers = Offers::of(self).await;
        let new = CreatePort {
            network_id: offers.network_id,
            name: name.to_owned(),
            description: format!("contract={name}"),
            ..CreatePort::default()
        };
        self.client.create_port(&new).await.expect("a port")
    }

    pub(crate) async fn wanted(&self, name: &str, port: &Port) -> CreateServer {
        let offers = Offers::of(self).await;
        CreateServer {
            name: name.to_owned(),
            flavor_id: offers.flavor_id,
            image_id: offers.image_id,
            port_id: port.id.clone(),
            user_data: b"#cloud-config\n".to_vec(),
            metadata: BTreeMap::from([("zcp.node".to_owned(), name.to_owned())]),
            tags: vec!["zcp:contract".to_owned(), format!("zcp-c:{name}")],
            group_id: None,
            zone: None,
            key: None,
        }
    }

    /// A server that is ACTIVE, and its port.
    async fn active(&self, name: &str) -> (Server, Port) {
        let port = self.port(name).await;
        let wanted = self.wanted(name, &port).await;
        let id = self.client.create_server(&wanted).await.expect("accepted");
        (self.settled(&id, &ServerStatus::Active).await, port)
    }

    /// The server, once it has that status and nothing is under way.
    pub(crate) async fn settled(&self, id: &str, status: &ServerStatus) -> Server {
        let mut last = None;
        for _ in 0..LOOKS {
            let server = self.client.server(id).await.expect("readable").expect("it is there");
            if server.status == *status && server.task_state.is_none() {
                return server;
            }
            last = Some(server);
            self.pass().await;
        }
        panic!("{id} did not become {status}: {last:?}");
    }

    async fn gone(&self, id: &str) {
        for _ in 0..LOOKS {
            if self.client.server(id).await.expect("readable").is_none() {
                return;
            }
            self.pass().await;
        }
        panic!("{id} did not go away");
    }

    async fn remove(&self, server: &Server, port: &Port) {
        self.client.delete_server(&server.id).await.expect("accepted");
        self.gone(&server.id).await;
        self.client.delete_port(&port.id).await.expect("it stayed behind");
    }
}

/// What a cloud has that a server can be made of.
struct Offers {
    flavor_id: String,
    image_id: String,
    network_id: String,
}

impl Offers {
    async fn of(subject: &Subject) -> Self {
        let client = &subject.client;
        let flavors = client.list_flavors().await.expect("flavors");
        let images = client.list_images().await.expect("images");
        let networks = client.list_networks().await.expect("networks");
        let smallest = flavors.into_iter().min_by_key(|flavor| flavor.vcpus).expect("a flavor");
        let image = images.into_iter().find(|image| image.status == "active").expect("an image");
        let inside = |network: &zcp::domain::inventory::Network| {
            !network.is_external && !network.subnets.is_empty()
        };
        // The project's own one. Others come and go while a cloud is used for other things, too.
        let (ours, others): (Vec<_>, Vec<_>) =
            networks.into_iter().filter(inside).partition(|network| network.name == "kaas");
        let network = ours.into_iter().chain(others).next().expect("a network");
        Self { flavor_id: smallest.id, image_id: image.id, network_id: network.id }
    }
}

fn wiring(transport: Transport, clock: SharedClock) -> Wiring {
    let budget = Budget::new(Limits::unlimited(), clock.clone());
    Wiring { transport, budget, clock, ids: Arc::new(SystemIds), observer: None }
}

#[expect(clippy::disallowed_methods, reason = "the path of the lab is the runner's to give")]
fn lab() -> Option<String> {
    let path = std::env::var("ZCP_LAB_CLOUDS").ok()?;
    Some(std::fs::read_to_string(&path).expect("ZCP_LAB_CLOUDS is a readable file"))
}

/// All clouds that can be asked here: two simulated, and those of the lab if there is one.
fn subjects() -> Vec<Subject> {
    let settings = || WorldSettings::with_timing(Timing::steady());
    let mut subjects: Vec<Subject> =
        ["east", "west"].map(|name| Subject::simulated(name, settings()).0).into();
    if let Some(text) = lab() {
        let names = clouds_yaml::names(&text).expect("a clouds.yaml");
        let apps = names.iter().filter_map(|name| name.strip_suffix("-app"));
        subjects.extend(apps.map(|name| Subject::real(&text, name)));
    }
    subjects
}

#[track_caller]
fn kind<T: std::fmt::Debug>(result: Result<T, OutsideError>) -> OutsideKind {
    result.expect_err("it must be refused").kind
}

#[test]
#[expect(clippy::print_stderr, reason = "a runner must see that the real clouds were left out")]
fn real_clouds_are_asked_when_they_are_given() {
    if lab().is_none() {
        eprintln!(
            "SKIPPED for real clouds: ZCP_LAB_CLOUDS is not set; only the simulation is asked"
        );
    }
}

#[tokio::test]
async fn a_login_says_who_we_are() {
    for subject in subjects() {
        let identity = subject.client.check().await.expect("a good credential");
        assert_eq!(identity.project_name, "kaas");
        assert!(identity.roles.iter().any(|role| role == "member"), "{:?}", identity.roles);
        let types: Vec<&str> = identity.services.iter().map(|(kind, _)| kind.as_str()).collect();
        for kind in ["compute", "network", "image", "placement"] {
            assert!(types.contains(&kind), "{types:?}");
        }
    }
}

#[tokio::test]
async fn a_wrong_secret_is_denied() {
    for subject in subjects() {
        let mut auth = subject.auth.clone();
        let wrong = SecretString::from("wrong");
        match &mut auth.credential {
            Credential::Password { password, .. } => *password = wrong,
            Credential::ApplicationCredential { secret, .. }
            | Credential::NamedApplicationCredential { secret, .. } => *secret = wrong,
        }
        let client = CloudClient::new("wrong", auth, subject.wiring.clone());
        let error = client.check().await.expect_err("a wrong secret");
        assert_eq!((error.kind, error.status), (OutsideKind::Denied, Some(401)));
        assert!(error.message.contains("refuses"), "{error}");
    }
}

#[tokio::test]
async fn an_inventory_has_all_that_a_plan_needs() {
    for subject in subjects() {
        let inventory: Inventory = subject.client.inventory().await.expect("an inventory");
        assert!(inventory.flavors.iter().all(|flavor| flavor.vcpus > 0 && flavor.ram_mb > 0));
        assert!(inventory.images.iter().any(|image| image.status == "active"));
        let networks = &inventory.networks;
        let inside = networks.iter().find(|network| !network.is_external).expect("a network");
        assert!(inside.mtu.is_some_and(|mtu| mtu >= 1280), "{inside:?}");
        let subnet = inside.subnets.first().expect("a subnet");
        assert!(subnet.cidr.contains('/') && !subnet.pools.is_empty(), "{subnet:?}");
        assert_eq!(subnet.free_addresses, None, "an ordinary credential does not see it");
        assert!(inventory.security_groups.iter().any(|group| group.name == "default"));
        assert!(inventory.zones.iter().any(|zone| zone.is_available));
        let quotas = inventory.quotas;
        for quota in [quotas.instances, quotas.cores, quotas.ram_mb, quotas.ports] {
            assert!(quota.used.is_some(), "{quotas:?}");
        }
        assert!(quotas.server_group_members.limit.is_some_and(|limit| limit > 0), "{quotas:?}");
        assert_eq!(inventory.versions["compute"].min, "2.1");
        let minor: u32 = inventory.versions["compute"].max[2..].parse().expect("a minor");
        assert!(minor >= 93, "{:?}", inventory.versions);
    }
}

#[tokio::test]
async fn an_administrator_sees_free_addresses_and_hosts() {
    for subject in subjects() {
        let networks = subject.admin.list_networks().await.expect("networks");
        let subnets = || networks.iter().flat_map(|network| &network.subnets);
        assert!(subnets().any(|subnet| subnet.free_addresses.is_some_and(|free| free > 0)));
        let hosts = subject.admin.host_capacity().await.expect("readable").expect("allowed");
        assert!(hosts.iter().all(|host| host.classes["VCPU"].total > 0), "{hosts:?}");
        let room = subject.admin.allocation_candidates(&[("VCPU", 1)], 2).await;
        let room = room.expect("readable").expect("allowed").provider_ids;
        assert!(!room.is_empty() && room.len() <= 2, "{room:?}");
        assert_eq!(subject.client.host_capacity().await.expect("readable"), None);
    }
}

#[tokio::test]
async fn a_server_lives_and_its_port_outlives_it() {
    for subject in subjects() {
        let client = &subject.client;
        let name = subject.name("life");
        let (server, port) = subject.active(&name).await;
        assert_eq!(server.name.as_deref(), Some(name.as_str()));
        assert_eq!(server.mark("zcp.node"), Some(name.as_str()));
        assert_eq!(server.addresses[0].address, port.address().expect("an address"));
        assert!(server.host_id.is_some() && server.zone.is_some() && server.created.is_some());
        let flavor = server.flavor.clone().expect("a size");
        assert!(flavor.id.is_some() || flavor.name.is_some(), "{flavor:?}");
        let bound = client.port(&port.id).await.expect("readable").expect("there");
        assert_eq!(bound.device_id, server.id);

        let second = subject.wanted(&subject.name("second"), &port).await;
        assert_eq!(kind(client.create_server(&second).await), OutsideKind::Exists);

        client.delete_server(&server.id).await.expect("accepted");
        subject.gone(&server.id).await;
        assert_eq!(kind(client.delete_server(&server.id).await), OutsideKind::Absent);
        let left = client.port(&port.id).await.expect("readable").expect("it stays");
        assert_eq!((left.device_id.as_str(), left.device_owner.as_str()), ("", ""));
        client.delete_port(&port.id).await.expect("removed");
        assert_eq!(client.port(&port.id).await.expect("readable"), None);
        assert_eq!(kind(client.delete_port(&port.id).await), OutsideKind::Absent);
    }
}

#[tokio::test]
async fn f04_servers_are_found_by_tags_and_exact_names() {
    for subject in subjects() {
        let client = &subject.client;
        let name = subject.name("find");
        let longer = format!("{name}0");
        let (first, first_port) = subject.active(&name).await;
        let (second, second_port) = subject.active(&longer).await;
        let found = client.find_servers(&name).await.expect("a list");
        assert_eq!(found.iter().map(|server| &server.id).collect::<Vec<_>>(), [&first.id]);
        let by = |tags: &[&str]| ServerFilter {
            tags: tags.iter().map(ToString::to_string).collect(),
            ..ServerFilter::default()
        };
        let own = format!("zcp-c:{name}");
        let both = client.list_servers(&by(&["zcp:contract", &own])).await.expect("a list");
        assert!(both.is_complete);
        assert_eq!(both.servers.len(), 1, "all tags must match");
        assert_eq!(both.servers[0].metadata, first.metadata, "a list shows metadata");
        let none = client.list_servers(&by(&["zcp:nobody"])).await.expect("a list");
        assert_eq!(none.servers, []);
        client.set_server_tags(&second.id, &["zcp:other".to_owned()]).await.expect("set");
        let other = client.list_servers(&by(&["zcp:other"])).await.expect("a list");
        assert!(other.servers.iter().any(|server| server.id == second.id));
        subject.remove(&first, &first_port).await;
        subject.remove(&second, &second_port).await;
    }
}

#[tokio::test]
async fn servers_are_found_by_when_they_changed() {
    for subject in subjects() {
        let client = &subject.client;
        let (server, port) = subject.active(&subject.name("changed")).await;
        let made = server.created.expect("Nova tells when");
        let shows = async |since| {
            let filter = ServerFilter { changed_since: Some(since), ..ServerFilter::default() };
            let list = client.list_servers(&filter).await.expect("a list");
            list.servers.iter().any(|one| one.id == server.id)
        };
        assert!(shows(made).await);
        assert!(!shows(made + jiff::SignedDuration::from_hours(1)).await);
        subject.remove(&server, &port).await;
    }
}

#[tokio::test]
async fn a_server_stops_and_starts() {
    for subject in subjects() {
        let client = &subject.client;
        let (server, port) = subject.active(&subject.name("power")).await;
        client.stop_server(&server.id).await.expect("accepted");
        subject.settled(&server.id, &ServerStatus::Shutoff).await;
        assert_eq!(kind(client.stop_server(&server.id).await), OutsideKind::Busy);
        client.start_server(&server.id).await.expect("accepted");
        subject.settled(&server.id, &ServerStatus::Active).await;
        subject.remove(&server, &port).await;
    }
}

#[tokio::test]
async fn a_port_keeps_what_it_was_given_and_is_found_by_it() {
    for subject in subjects() {
        let client = &subject.client;
        let name = subject.name("port");
        let port = subject.port(&name).await;
        let tags = ["zcp:contract".to_owned(), format!("zcp-c:{name}")];
        client.set_port_tags(&port.id, &tags).await.expect("set");
        let by_description =
            PortFilter { description: Some(format!("contract={name}")), ..PortFilter::default() };
        let by_name = PortFilter { name: Some(name.clone()), ..PortFilter::default() };
        let by_tag = PortFilter { tags: tags.to_vec(), ..PortFilter::default() };
        let unused = PortFilter { device_id: Some(String::new()), ..by_name.clone() };
        for filter in [by_description, by_name, by_tag, unused] {
            let found = client.list_ports(&filter).await.expect("a list");
            assert_eq!(found.len(), 1, "{filter:?}");
            assert_eq!((&found[0].id, found[0].tags.len()), (&port.id, 2));
        }
        let taken = CreatePort {
            network_id: port.network_id.clone(),
            fixed_ip: port.address().map(str::to_owned),
            ..CreatePort::default()
        };
        assert_eq!(kind(client.create_port(&taken).await), OutsideKind::Exists);
        client.delete_port(&port.id).await.expect("removed");
    }
}

#[tokio::test]
async fn f33_a_port_takes_address_pairs_and_counts_its_revisions() {
    for subject in subjects() {
        let client = &subject.client;
        let port = subject.port(&subject.name("pairs")).await;
        let pods = || vec![AddressPair::new("10.244.0.0/16")];
        let changed = client.update_port_address_pairs(&port.id, |_| pods()).await;
        let changed = changed.expect("changed");
        assert_eq!(changed.allowed_address_pairs[0].ip_address, "10.244.0.0/16");
        assert!(changed.revision_number > port.revision_number, "{changed:?}");
        let kept = |pairs: &[AddressPair]| pairs.to_vec();
        let same = client.update_port_address_pairs(&port.id, kept).await.expect("read");
        assert_eq!(same.revision_number, changed.revision_number, "nothing was written");
        client.delete_port(&port.id).await.expect("removed");
    }
}

#[tokio::test]
async fn nonsense_is_invalid_and_makes_nothing() {
    for subject in subjects() {
        let client = &subject.client;
        let name = subject.name("nonsense");
        let port = subject.port(&name).await;
        let good = subject.wanted(&name, &port).await;
        let nobody = || NOBODY.to_owned();
        for bad in [
            CreateServer { flavor_id: nobody(), ..good.clone() },
            CreateServer { image_id: nobody(), ..good.clone() },
            CreateServer { port_id: nobody(), ..good.clone() },
            CreateServer { group_id: Some(nobody()), ..good.clone() },
        ] {
            let error = client.create_server(&bad).await.expect_err("nonsense");
            assert_eq!(error.kind, OutsideKind::Invalid, "{error}");
            assert!(error.request_id.is_some() && !error.message.is_empty(), "{error:?}");
        }
        let nowhere = CreatePort { network_id: nobody(), ..CreatePort::default() };
        assert_eq!(kind(client.create_port(&nowhere).await), OutsideKind::Invalid);
        assert_eq!(client.find_servers(&name).await.expect("a list"), []);
        client.delete_port(&port.id).await.expect("removed");
    }
}

#[tokio::test]
async fn what_never_was_is_absent() {
    for subject in subjects() {
        let client = &subject.client;
        assert_eq!(client.server(NOBODY).await.expect("readable"), None);
        assert_eq!(client.port(NOBODY).await.expect("readable"), None);
        assert_eq!(client.image(NOBODY).await.expect("readable"), None);
        assert_eq!(kind(client.delete_server(NOBODY).await), OutsideKind::Absent);
        assert_eq!(kind(client.delete_port(NOBODY).await), OutsideKind::Absent);
        assert_eq!(kind(client.delete_server_group(NOBODY).await), OutsideKind::Absent);
        assert_eq!(kind(client.stop_server(NOBODY).await), OutsideKind::Absent);
    }
}

#[tokio::test]
async fn a_server_group_holds_its_servers() {
    for subject in subjects() {
        let client = &subject.client;
        let name = subject.name("group");
        let group_id = client.create_server_group(&name).await.expect("made");
        let port = subject.port(&name).await;
        let wanted = subject.wanted(&name, &port).await;
        let wanted = CreateServer { group_id: Some(group_id.clone()), ..wanted };
        let id = client.create_server(&wanted).await.expect("accepted");
        let server = subject.settled(&id, &ServerStatus::Active).await;
        let groups = client.list_server_groups().await.expect("a list");
        let group = groups.iter().find(|group| group.id == group_id).expect("it is listed");
        assert_eq!((group.name.as_str(), group.policy.as_str()), (&*name, "soft-anti-affinity"));
        assert_eq!(group.members, [id]);
        subject.remove(&server, &port).await;
        client.delete_server_group(&group_id).await.expect("removed");
        assert_eq!(kind(client.delete_server_group(&group_id).await), OutsideKind::Absent);
    }
}

#[tokio::test]
async fn an_image_is_found_by_its_exact_name() {
    for subject in subjects() {
        let client = &subject.client;
        let images = client.list_images().await.expect("images");
        let image = images.first().expect("an image");
        let found = client.find_images(&image.name).await.expect("a list");
        assert!(found.contains(image));
        let prefix = &image.name[..image.name.len() - 1];
        assert_eq!(client.find_images(prefix).await.expect("a list"), []);
        assert_eq!(client.image(&image.id).await.expect("readable").as_ref(), Some(image));
    }
}
