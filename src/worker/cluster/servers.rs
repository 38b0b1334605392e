//! Ports, server groups and servers: made so that a killed call is found again.

use std::collections::BTreeMap;
use std::net::IpAddr;

use secrecy::SecretString;

use super::load::Loaded;
use super::rows::Secrets;
use super::{ClusterWorker, Done};
use crate::bootstrap::kube_vip::{KubeVip, Member};
use crate::bootstrap::kubeadm::{
    ClusterParts, Discovery, NodeParts, init_configuration, member_configuration,
    worker_configuration,
};
use crate::bootstrap::pki::ca_cert_hash;
use crate::bootstrap::user_data::{
    BundleSource, ControlPlaneParts, ServerParts, UserData, canary_user_data,
    control_plane_user_data, worker_user_data,
};
use crate::domain::bootstrap_token::BootstrapToken;
use crate::domain::canary;
use crate::domain::ids::CloudId;
use crate::domain::inventory::{Inventory, ServerStatus};
use crate::domain::node::{Node, Outside, Role};
use crate::domain::node_view::Taint;
use crate::domain::outside::{OutsideError, OutsideKind};
use crate::openstack::neutron::{AddressPair, CreatePort, Port, PortFilter};
use crate::openstack::nova::{CreateServer, Server};
use crate::plan::resolve;
use crate::store::cloud_progress::CloudWork;
use crate::store::events::EventType;
use crate::store::nodes::progress::{self, Change};
use crate::store::nodes::{NodeRow, slots};
use crate::store::seal::Place;
use crate::store::work::{Lease, WorkKind, wake_at};
use crate::store::{cluster_progress, groups};
use crate::worker::WorkError;
use crate::worker::timeline::{NodeEvent, record_node};

/// Life of a bundle token, from the moment its server is ordered.
const BUNDLE_LIFE: jiff::SignedDuration = jiff::SignedDuration::from_mins(20);
/// How long a node waits after its cloud had no room for it.
const NO_ROOM_WAIT: jiff::SignedDuration = jiff::SignedDuration::from_mins(5);
/// Calls that one server may cost: each was sent, answered unclearly, and nothing was found. More
/// would be a loop that only the quota ends.
const CREATES: u32 = 3;
/// How long a step waits for what another step is about to record.
const SOON: std::time::Duration = std::time::Duration::from_secs(5);

/// A port that is to be.
struct NewPort<'a> {
    cloud: CloudId,
    name: String,
    description: String,
    pairs: Vec<AddressPair>,
    /// The node that it is for; none for the endpoint's.
    row: Option<&'a NodeRow>,
    /// What was known before the intent: `never` says that there is nothing to look for.
    state: Outside,
}

impl ClusterWorker {
    pub(super) async fn ensure_vip_port(
        &self,
        lease: &Lease,
        loaded: &Loaded,
    ) -> Result<Done, WorkError> {
        let cluster = &loaded.cluster;
        let cloud = cluster.control_plane_cloud;
        let description = format!(
            "zcp.install={} zcp.cluster={} zcp.role=vip",
            self.context.installation.id, cluster.id
        );
        let short = cluster.id.0.simple().to_string();
        let name = format!("{}-{}-vip", cluster.name, &short[short.len() - 8..]);
        let mut tx = self.context.fenced(lease).await?;
        let change = cluster_progress::Change::VipPort(Outside::Unknown);
        cluster_progress::write(&mut tx, cluster.id, change, self.context.now()).await?;
        tx.commit().await?;
        let state = cluster.vip_port;
        let wanted = NewPort { cloud, name, description, pairs: vec![], row: None, state };
        let port = self.port(lease, loaded, wanted).await?;
        let address = address_of(&port)?;
        let mut tx = self.context.fenced(lease).await?;
        let change = cluster_progress::Change::VipMade(port.id, address);
        cluster_progress::write(&mut tx, cluster.id, change, self.context.now()).await?;
        tx.commit().await?;
        Ok(Done::Progress)
    }

    pub(super) async fn ensure_port(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        row: &NodeRow,
    ) -> Result<Done, WorkError> {
        let node = &row.node;
        let mut pairs = Vec::new();
        if node.role == Role::ControlPlane {
            let Some(vip) = &loaded.cluster.vip_address else {
                return Ok(Done::Wait(SOON));
            };
            pairs.push(AddressPair::new(vip));
        } else {
            // Pods speak with their own addresses; port security would drop them.
            pairs.push(AddressPair::new(&loaded.cluster.network.pod_cidr));
        }
        self.write(lease, node, Change::PortIntent).await?;
        let description = format!(
            "zcp.install={} zcp.cluster={} zcp.node={}",
            self.context.installation.id, node.cluster_id, node.id
        );
        let (cloud, name, state) = (node.cloud_id, node.name.clone(), node.port);
        let wanted = NewPort { cloud, name, description, pairs, row: Some(row), state };
        match self.port(lease, loaded, wanted).await {
            Ok(port) => {
                let address = address_of(&port)?;
                self.write(lease, node, Change::PortMade(port.id, address)).await?;
                Ok(Done::Progress)
            }
            Err(error) => self.refused(lease, node, error).await,
        }
    }

    /// Finds our port by its description, or makes it. Two of one description (a frozen replica
    /// made the second) are one too many; the first by id is ours for ever, the sweep takes the
    /// other.
    async fn port(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        new: NewPort<'_>,
    ) -> Result<Port, WorkError> {
        let NewPort { cloud, name, description, pairs, row, state } = new;
        let client = loaded.client(&self.context, cloud)?;
        let found = if state == Outside::Never {
            Vec::new()
        } else {
            let description = Some(description.clone());
            let filter = PortFilter { description, ..PortFilter::default() };
            self.context.call(lease, "list ports", client.list_ports(&filter)).await??
        };
        let mut ours: Vec<Port> =
            found.into_iter().filter(|port| port.description == description).collect();
        ours.sort_by(|a, b| a.id.cmp(&b.id));
        let port = if let Some(port) = ours.into_iter().next() {
            port
        } else {
            let (cloud, inventory) = facts(loaded, cloud)?;
            let defaults = &cloud.spec.defaults;
            let network = row.and_then(|row| row.network.as_ref()).unwrap_or(&defaults.network);
            let network = named("network", resolve::network(inventory, network))?;
            let group = row.and_then(|row| row.security_group.as_ref());
            let group = group.unwrap_or(&defaults.security_group);
            let group = named("security_group", resolve::security_group(inventory, group))?;
            let new = CreatePort {
                network_id: network.id.clone(),
                name,
                description,
                security_groups: vec![group.id.clone()],
                allowed_address_pairs: pairs,
                fixed_ip: None,
            };
            let made = self.context.call(lease, "create port", client.create_port(&new)).await?;
            if let (Some(row), true) = (row, made.as_ref().is_err_and(is_refusal)) {
                self.write(lease, &row.node, Change::PortRefused).await?;
            }
            made?
        };
        let tags = self.tags(loaded);
        if !tags.iter().all(|tag| port.tags.contains(tag)) {
            self.context.call(lease, "tag port", client.set_port_tags(&port.id, &tags)).await??;
        }
        Ok(port)
    }

    fn tags(&self, loaded: &Loaded) -> Vec<String> {
        vec![
            format!("zcp:{}", self.context.installation.id),
            format!("zcp-c:{}", loaded.cluster.id),
        ]
    }

    pub(super) async fn ensure_group(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        id: uuid::Uuid,
    ) -> Result<Done, WorkError> {
        let Some(group) = loaded.groups.iter().find(|group| group.id == id) else {
            return Ok(Done::Progress);
        };
        let client = loaded.client(&self.context, group.cloud_id)?;
        let mut tx = self.context.fenced(lease).await?;
        groups::write(&mut tx, id, Outside::Unknown, None).await?;
        tx.commit().await?;
        let all = if group.state == Outside::Never {
            Vec::new()
        } else {
            let list = client.list_server_groups();
            self.context.call(lease, "find server group", list).await??
        };
        let mut named: Vec<_> = all.into_iter().filter(|one| one.name == group.name).collect();
        named.sort_by(|a, b| a.id.cmp(&b.id));
        let outside = if let Some(found) = named.into_iter().next() {
            found.id
        } else {
            let create = client.create_server_group(&group.name);
            let made = self.context.call(lease, "create server group", create).await?;
            if made.as_ref().is_err_and(is_refusal) {
                let mut tx = self.context.fenced(lease).await?;
                groups::write(&mut tx, id, Outside::Never, None).await?;
                tx.commit().await?;
            }
            made?
        };
        let mut tx = self.context.fenced(lease).await?;
        groups::write(&mut tx, id, Outside::Present, Some(&outside)).await?;
        tx.commit().await?;
        Ok(Done::Progress)
    }

    pub(super) async fn ensure_server(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        row: &NodeRow,
    ) -> Result<Done, WorkError> {
        let node = &row.node;
        if node.server == Outside::Unknown {
            return self.look_for_server(lease, loaded, row).await;
        }
        let (cloud, _) = loaded.cloud(node.cloud_id)?;
        let (whose, limit) = ((node.cloud_id, node.cluster_id), cloud.spec.limits.builds_in_flight);
        let now = self.context.now();
        // Most find none: they must not stand in the way of those that do.
        if !slots::is_free(self.context.store.pool(), whose, limit, now).await? {
            return Ok(Done::Wait(slots::LONGEST_WAIT));
        }
        let new = self.new_server(loaded, row).await?;
        let mut tx = self.context.fenced(lease).await?;
        if !slots::take(&mut tx, whose, limit, now).await? {
            return Ok(Done::Wait(slots::LONGEST_WAIT));
        }
        let intent = Change::ServerIntent(now, now + BUNDLE_LIFE);
        progress::write(&mut tx, node.id, intent, now).await?;
        tx.commit().await?;
        self.create_server(lease, loaded, (row, new)).await
    }

    /// After an unclear call: a server is looked for twice, `unclear_wait` apart, before it is
    /// made again.
    async fn look_for_server(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        row: &NodeRow,
    ) -> Result<Done, WorkError> {
        let node = &row.node;
        let client = loaded.client(&self.context, node.cloud_id)?;
        let find = client.find_servers(&node.name);
        let found = self.context.call(lease, "find server", find).await??;
        let id = node.id.to_string();
        let install = self.context.installation.id.to_string();
        let ours: Vec<&Server> = found
            .iter()
            .filter(|s| s.mark("zcp.node") == Some(&id) && s.mark("zcp.install") == Some(&install))
            .filter(|s| !s.status.is_gone())
            .collect();
        // A second boot on the same port ends in ERROR: the living one is ours, and the dead one
        // is the sweep's.
        let best = ours.iter().find(|s| s.status != ServerStatus::Error).or(ours.first());
        if let Some(server) = best {
            return self.made(lease, loaded, (row, server.id.clone())).await;
        }
        let is_foreign = |s: &&Server| s.mark("zcp.node") != Some(&id) && !s.status.is_gone();
        if let Some(twin) = found.iter().find(is_foreign) {
            let text = format!("server {} of the same name is not ours: nothing is made", twin.id);
            return self.give_up(lease, loaded, (row, text)).await;
        }
        let now = self.context.now();
        let wait = self.context.settings.unclear_wait;
        let until = row
            .server_looked_at
            .map(|at| at + jiff::SignedDuration::try_from(wait).unwrap_or_default());
        match until {
            None => {
                self.write(lease, node, Change::ServerLookedFor(now)).await?;
                Ok(Done::Wait(wait))
            }
            Some(until) if now < until => Ok(Done::Wait(until.duration_since(now).unsigned_abs())),
            Some(_) if node.signs.creates >= CREATES => {
                let text = format!("asked for {CREATES} times, and no server is to be found");
                self.give_up(lease, loaded, (row, text)).await
            }
            Some(_) => {
                let new = self.new_server(loaded, row).await?;
                self.write(lease, node, Change::ServerAgain).await?;
                self.create_server(lease, loaded, (row, new)).await
            }
        }
    }

    /// Nothing more is tried for a node until its row is replaced; somebody must look.
    async fn give_up(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        (row, text): (&NodeRow, String),
    ) -> Result<Done, WorkError> {
        let node = &row.node;
        if node.trouble.as_ref() != Some(&text) {
            let now = self.context.now();
            tracing::error!(node.name = %node.name, "{}: {text}; somebody must look", node.name);
            let mut tx = self.context.fenced(lease).await?;
            progress::write(&mut tx, node.id, Change::Trouble(text.clone(), None), now).await?;
            let said = format!("{}: {text}", node.name);
            let event = NodeEvent::new(EventType::Warning, "ServerGivenUp", said);
            record_node(&mut tx, (&loaded.cluster, node.id), event, now).await?;
            tx.commit().await?;
        }
        Ok(Done::Wait(self.context.settings.unclear_wait))
    }

    /// The call itself; `server` is `unknown` from before it until its answer is recorded.
    async fn create_server(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        (row, new): (&NodeRow, CreateServer),
    ) -> Result<Done, WorkError> {
        let client = loaded.client(&self.context, row.node.cloud_id)?;
        let create = client.create_server(&new);
        match self.context.call(lease, "create server", create).await? {
            Ok(id) => self.made(lease, loaded, (row, id)).await,
            Err(error) if error.kind == OutsideKind::Unclear => {
                // Stays unknown: the next activation looks for it.
                Ok(Done::Wait(std::time::Duration::from_secs(1)))
            }
            // The port is taken: an earlier call of ours got through after all.
            Err(error) if error.kind == OutsideKind::Exists => {
                tracing::warn!(node.name = %row.node.name, %error, "an earlier call made it");
                Ok(Done::Wait(std::time::Duration::from_secs(1)))
            }
            Err(error) => {
                self.write(lease, &row.node, Change::ServerRefused).await?;
                self.refused(lease, &row.node, error.into()).await
            }
        }
    }

    /// Starts a server that has stopped. It is done if it runs already.
    pub(super) async fn start_server(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        row: &NodeRow,
    ) -> Result<Done, WorkError> {
        let node = &row.node;
        let Some(id) = &node.server_id else { return Ok(Done::Wait(SOON)) };
        let client = loaded.client(&self.context, node.cloud_id)?;
        match self.context.call(lease, "start server", client.start_server(id)).await? {
            Err(error) if error.kind != OutsideKind::Busy => return Err(error.into()),
            _ => {}
        }
        let now = self.context.now();
        let mut tx = self.context.fenced(lease).await?;
        progress::write(&mut tx, node.id, Change::ServerStarted, now).await?;
        let text = format!("server {id} of {} had stopped and is started", node.name);
        let event = NodeEvent::new(EventType::Warning, "ServerStarted", text);
        record_node(&mut tx, (&loaded.cluster, node.id), event, now).await?;
        tx.commit().await?;
        Ok(Done::Progress)
    }

    async fn made(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        (row, id): (&NodeRow, String),
    ) -> Result<Done, WorkError> {
        let node = &row.node;
        let now = self.context.now();
        let soon = now
            + jiff::SignedDuration::try_from(self.context.settings.busy_period).unwrap_or_default();
        let mut tx = self.context.fenced(lease).await?;
        progress::write(&mut tx, node.id, Change::ServerMade(id.clone()), now).await?;
        let event = NodeEvent::new(
            EventType::Normal,
            "ServerMade",
            format!("server {id} of {} was made", node.name),
        );
        record_node(&mut tx, (&loaded.cluster, node.id), event, now).await?;
        wake_at(&mut tx, WorkKind::ObserveServers, row.account_id, soon).await?;
        tx.commit().await?;
        Ok(Done::Progress)
    }

    /// Records why a node can't come up now. A cloud without room makes the node wait and costs
    /// the cluster nothing else; any other refusal is an error of the activation.
    async fn refused(
        &self,
        lease: &Lease,
        node: &Node,
        error: WorkError,
    ) -> Result<Done, WorkError> {
        let WorkError::Outside(outside) = &error else { return Err(error) };
        if outside.kind != OutsideKind::NoCapacity {
            return Err(error);
        }
        let until = self.context.now() + NO_ROOM_WAIT;
        self.write(lease, node, Change::Trouble(outside.to_string(), Some(until))).await?;
        Ok(Done::Wait(NO_ROOM_WAIT.unsigned_abs()))
    }

    /// Writes one change of a node in a transaction of its own.
    pub(super) async fn write(
        &self,
        lease: &Lease,
        node: &Node,
        change: Change,
    ) -> Result<(), WorkError> {
        let mut tx = self.context.fenced(lease).await?;
        progress::write(&mut tx, node.id, change, self.context.now()).await?;
        Ok(tx.commit().await?)
    }

    async fn new_server(&self, loaded: &Loaded, row: &NodeRow) -> Result<CreateServer, WorkError> {
        let node = &row.node;
        let (cloud, inventory) = facts(loaded, node.cloud_id)?;
        let offering = &loaded.cluster.offering;
        let flavor = named("flavor", resolve::flavor(inventory, &row.flavor))?;
        let of_cloud = (cloud.name.as_str(), &cloud.spec);
        let image = resolve::chosen_image(inventory, offering, of_cloud, row.image.as_deref());
        let image = named("image", image)?;
        let group = loaded.groups.iter().find(|group| Some(group.id) == row.group_id);
        let mut metadata = BTreeMap::from([
            ("zcp.install".to_owned(), self.context.installation.id.to_string()),
            ("zcp.cluster".to_owned(), node.cluster_id.to_string()),
            ("zcp.node".to_owned(), node.id.to_string()),
        ]);
        metadata.extend(node.pool_id.map(|pool| ("zcp.pool".to_owned(), pool.to_string())));
        metadata.extend(row.job_id.map(|job| ("zcp.job".to_owned(), job.to_string())));
        let user_data = self.user_data(loaded, row).await?;
        let port_id = node.port_id.clone();
        Ok(CreateServer {
            name: node.name.clone(),
            flavor_id: flavor.id.clone(),
            image_id: image.id.clone(),
            port_id: port_id.ok_or_else(|| WorkError::internal("a server without a port"))?,
            user_data: user_data.reveal().as_bytes().to_vec(),
            metadata,
            tags: self.tags(loaded),
            group_id: group.and_then(|group| group.server_group_id.clone()),
            zone: row.zone.clone(),
            key: None,
        })
    }

    /// A node's secrets, opened.
    pub(super) fn secrets(
        &self,
        row: &NodeRow,
    ) -> Result<(BootstrapToken, Option<SecretString>), WorkError> {
        let place = Place::new("nodes", row.node.id.0, "secret");
        let opened = self
            .context
            .keys
            .open(place, &row.secret)
            .map_err(|error| WorkError::internal(format!("open a node's secrets: {error}")))?;
        let secrets: Secrets = serde_json::from_slice(&opened)
            .map_err(|error| WorkError::internal(format!("read a node's secrets: {error}")))?;
        let token = secrets
            .bootstrap
            .parse()
            .map_err(|error| WorkError::internal(format!("read a bootstrap token: {error}")))?;
        Ok((token, secrets.bundle.map(SecretString::from)))
    }

    async fn user_data(&self, loaded: &Loaded, row: &NodeRow) -> Result<UserData, WorkError> {
        let (cluster, node) = (&loaded.cluster, &row.node);
        let version = cluster.offering.kubernetes_version;
        let vip = parse_address(cluster.vip_address.as_deref())?;
        let (token, bundle) = self.secrets(row)?;
        let pki = self.context.pki(cluster.id).await?;
        let hash = ca_cert_hash(pki.cluster.cert_pem())
            .map_err(|error| WorkError::internal(format!("hash of the CA: {error}")))?;
        let hashes = [hash];
        let discovery = Discovery { version, vip, ca_cert_hashes: &hashes, token: &token };
        let server = ServerParts { node_name: &node.name, cluster: cluster.id, version, vip };
        let pool = loaded.pool(node);
        let empty = BTreeMap::new();
        // A dedicated node is dedicated from the moment it registers.
        let inherited = row.heritage.iter().flat_map(|ledger| &ledger.taints);
        let taints: Vec<Taint> = match node.role {
            Role::Canary => vec![canary::taint()],
            Role::Worker | Role::ControlPlane => {
                pool.iter().flat_map(|pool| &pool.taints).chain(inherited).cloned().collect()
            }
        };
        let parts = NodeParts { name: &node.name, labels: &empty, taints: &taints };
        let too_large = |error| WorkError::internal(format!("user data of {}: {error}", node.name));
        if node.role.joins() {
            let kubeadm = worker_configuration(discovery, parts);
            let targets = self.canary_targets(loaded, row);
            let data = match node.role {
                Role::Canary => canary_user_data(server, &kubeadm, &targets),
                Role::Worker | Role::ControlPlane => worker_user_data(server, &kubeadm),
            };
            return data.map_err(too_large);
        }
        let address = parse_address(node.address.as_deref())?;
        let is_first = node.member == Some(0) && cluster.api_reached_at.is_none();
        let kubeadm = if is_first {
            init_configuration(cluster_parts(loaded, vip, &names(loaded)), parts, address)
        } else {
            member_configuration(discovery, parts, address)
        };
        let token = bundle.ok_or_else(|| WorkError::internal("a member without bundle token"))?;
        let kube_vip = KubeVip {
            vip,
            image: &self.context.settings.kube_vip_image,
            version,
            member: if is_first { Member::First } else { Member::Further },
        };
        let installation = &self.context.installation;
        let source = BundleSource {
            url: &installation.bundle_url,
            token: &token,
            ca_pem: &installation.node_ca_pem,
        };
        let parts = ControlPlaneParts { kubeadm: &kubeadm, bundle: source, kube_vip };
        control_plane_user_data(server, parts).map_err(too_large)
    }
}

fn cluster_parts<'a>(loaded: &'a Loaded, vip: IpAddr, names: &'a [String]) -> ClusterParts<'a> {
    let cluster = &loaded.cluster;
    ClusterParts {
        name: &cluster.name,
        version: cluster.offering.kubernetes_version,
        vip,
        names,
        pod_cidr: &cluster.network.pod_cidr,
        service_cidr: &cluster.network.service_cidr,
        api_server_args: &cluster.api_server_args,
        image_repository: None,
    }
}

/// Further names in the API server's certificate: the DNS name and every member's address.
fn names(loaded: &Loaded) -> Vec<String> {
    let members = loaded.nodes.iter().filter(|row| row.node.role == Role::ControlPlane);
    let mut names: Vec<String> = members.filter_map(|row| row.node.address.clone()).collect();
    names.extend(loaded.cluster.network.dns_name.clone());
    names
}

/// A cloud and what it has.
fn facts(loaded: &Loaded, cloud: CloudId) -> Result<(&CloudWork, &Inventory), WorkError> {
    let (cloud, _) = loaded.cloud(cloud)?;
    let inventory = cloud.inventory.as_ref();
    let inventory = inventory.ok_or_else(|| {
        WorkError::internal(format!("the inventory of cloud {} is not known yet", cloud.name))
    })?;
    Ok((cloud, inventory))
}

/// Whether a create was refused, so that nothing came of it and nothing has to be looked for.
fn is_refusal(error: &OutsideError) -> bool {
    !matches!(error.kind, OutsideKind::Unclear | OutsideKind::Exists)
}

/// What an owner or operator named does not resolve any more: parked until somebody mends it.
fn named<T>(field: &str, found: Result<T, String>) -> Result<T, WorkError> {
    found.map_err(|problem| {
        let operation = format!("resolve {field}");
        WorkError::Outside(OutsideError::new(OutsideKind::Invalid, operation, problem))
    })
}

fn address_of(port: &Port) -> Result<String, WorkError> {
    let address = port.address().map(str::to_owned);
    address.ok_or_else(|| WorkError::internal(format!("port {} has no address", port.id)))
}

fn parse_address(text: Option<&str>) -> Result<IpAddr, WorkError> {
    let text = text.ok_or_else(|| WorkError::internal("an address is not known yet"))?;
    text.parse().map_err(|_| WorkError::internal(format!("{text} is no address")))
}
