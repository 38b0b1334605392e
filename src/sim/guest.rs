//! What happens inside servers: they boot, read their user data, fetch keys, and join.
//!
//! The steps and the words on the console are those of the boot script that the user data brings.
//! Everything that needs no answer from outside happens in world time by itself; fetching a bundle
//! needs one and happens in [`World::tick`](super::World::tick).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::agenda::Agenda;
use super::cloud::{Cloud, Happening};
use super::clusters::{ClusterCa, Member, TenantCluster};
use super::faults::Trouble;
use super::kubernetes::{KubeCluster, KubeSettings, NodeRegistration, RegisterError};
use super::node_facing::{Fetch, Fetched};
use super::probing::{self, Probing};
use super::reach::Reach;
use super::user_data::{self, Discovery, GuestPlan, GuestTask};
use crate::domain::canary::Targets;

/// How long a guest tries before it gives up; the boot script's own limit.
const PATIENCE: SignedDuration = SignedDuration::from_mins(30);
/// How long `kubeadm join` of a member waits for the cluster; kubeadm's own limit.
const MEMBER_PATIENCE: SignedDuration = SignedDuration::from_mins(5);

/// Everything that runs inside servers, and the clusters that they form.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Guests {
    /// Clusters by `address:port` of their API.
    pub clusters: BTreeMap<String, TenantCluster>,
    /// Guests by server.
    pub guests: BTreeMap<Uuid, Guest>,
    /// What they reach.
    #[serde(default)]
    pub reach: Reach,
    /// Servers whose guests may want to fetch their bundles: a few of a whole fleet.
    #[serde(default)]
    fetching: BTreeSet<Uuid>,
    pub(super) agenda: Agenda<GuestEvent>,
    settings: KubeSettings,
    seed: u64,
}

/// The inside of one server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Guest {
    /// Its cloud.
    pub cloud: String,
    /// How far it is.
    pub stage: Stage,
    /// Whether its server is switched on.
    pub is_on: bool,
    /// When it began to boot.
    since: Timestamp,
    /// What it is to become; dropped when it is that.
    plan: Option<Box<GuestPlan>>,
    ca: Option<ClusterCa>,
    /// Name of its node and endpoint of its cluster.
    pub(super) place: Option<(String, String)>,
    /// What a canary does after it has joined.
    #[serde(default)]
    pub(super) probing: Option<Box<Probing>>,
}

/// How far a guest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Starts.
    Booting,
    /// Fetches its bundle; may ask from that moment on.
    Fetching(Timestamp),
    /// Runs kubeadm.
    Joining,
    /// Is a node.
    Joined,
    /// Has given up.
    Failed,
}

/// Something due inside a server.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum GuestEvent {
    Booted(Uuid),
    Join(Uuid),
    /// A node that had joined is back after its server was switched on again.
    Back(Uuid),
    /// A canary looks around again.
    Probe(Uuid),
}

impl Guest {
    /// What a canary that has not joined is told to try.
    pub(super) fn targets(&self) -> Option<&Targets> {
        self.plan.as_ref()?.probe.as_ref()
    }
}

/// How a step ends that did not work.
enum Setback {
    /// Worth another try.
    Again(String),
    Final(String),
}

/// The clouds, as guests reach them.
type Clouds = BTreeMap<String, Cloud>;

impl Guests {
    pub(super) fn new(settings: KubeSettings, seed: u64) -> Self {
        Self {
            clusters: BTreeMap::new(),
            guests: BTreeMap::new(),
            reach: Reach::default(),
            fetching: BTreeSet::new(),
            agenda: Agenda::default(),
            settings,
            seed,
        }
    }

    /// When something happens next inside a server.
    pub(super) fn next_at(&self) -> Option<Timestamp> {
        self.agenda.next_at()
    }

    /// Tells a guest what happened to its server.
    pub(super) fn notice(&mut self, cloud: &mut Cloud, happening: Happening, at: Timestamp) {
        match happening {
            Happening::On(id) => self.switched_on(cloud, id, at),
            Happening::Off(id) => self.switched_off(id, at),
            Happening::Gone(id) => self.gone(id, at),
        }
    }

    fn switched_on(&mut self, cloud: &mut Cloud, id: Uuid, at: Timestamp) {
        let timing = &cloud.settings.timing;
        let boot = cloud.dice.around(timing.boot_ms, timing.jitter);
        let guest = self.guests.entry(id).or_insert_with(|| Guest {
            cloud: cloud.settings.name.clone(),
            stage: Stage::Booting,
            is_on: true,
            since: at,
            plan: None,
            ca: None,
            place: None,
            probing: None,
        });
        guest.is_on = true;
        match guest.stage {
            Stage::Joined => self.agenda.add(at + boot, GuestEvent::Back(id)),
            // cloud-init runs the script only once.
            Stage::Failed => {}
            Stage::Booting | Stage::Fetching(_) | Stage::Joining => {
                guest.stage = Stage::Booting;
                guest.since = at;
                self.agenda.add(at + boot, GuestEvent::Booted(id));
            }
        }
    }

    fn switched_off(&mut self, id: Uuid, at: Timestamp) {
        let Some(guest) = self.guests.get_mut(&id) else { return };
        guest.is_on = false;
        let Some((node, endpoint)) = guest.place.clone() else { return };
        let Some(cluster) = self.clusters.get_mut(&endpoint) else { return };
        cluster.kube.stop_node(&node, at);
        if let Some(member) = cluster.members.get_mut(&id) {
            member.is_on = false;
            cluster.follow_members(at);
        }
    }

    fn gone(&mut self, id: Uuid, at: Timestamp) {
        self.fetching.remove(&id);
        let Some(guest) = self.guests.remove(&id) else { return };
        let Some((node, endpoint)) = guest.place else { return };
        let Some(cluster) = self.clusters.get_mut(&endpoint) else { return };
        cluster.kube.remove_node(&node, at);
        if cluster.members.remove(&id).is_some() {
            cluster.follow_members(at);
            if cluster.members.is_empty() {
                self.clusters.remove(&endpoint);
            }
        }
    }

    /// Carries out what is due inside a server.
    pub(super) fn handle(&mut self, clouds: &mut Clouds, event: GuestEvent, at: Timestamp) {
        let (GuestEvent::Booted(id)
        | GuestEvent::Join(id)
        | GuestEvent::Back(id)
        | GuestEvent::Probe(id)) = event;
        let Some(guest) = self.guests.get(&id).filter(|guest| guest.is_on) else { return };
        let (stage, own) = (guest.stage, guest.cloud.clone());
        let reaches_api = self.reaches_api(clouds, id);
        let Some(cloud) = clouds.get_mut(&own) else { return };
        match (event, stage) {
            (GuestEvent::Booted(_), Stage::Booting) => {
                self.booted(cloud, id, at);
                self.say_first_words(clouds, id);
            }
            (GuestEvent::Join(_), Stage::Joining) => self.join(cloud, (id, reaches_api), at),
            (GuestEvent::Back(_), Stage::Joined) => self.back(id, at),
            (GuestEvent::Probe(_), Stage::Joined) => self.probe(clouds, id, at),
            _ => {}
        }
    }

    fn reaches_api(&self, clouds: &Clouds, id: Uuid) -> bool {
        let guest = self.guests.get(&id);
        let plan = guest.and_then(|guest| Some((guest.cloud.as_str(), guest.plan.as_ref()?)));
        plan.is_none_or(|(own, plan)| {
            plan.is_first() || probing::connects(&self.reach, clouds, own, &plan.endpoint)
        })
    }

    fn booted(&mut self, cloud: &mut Cloud, id: Uuid, at: Timestamp) {
        let Some(server) = cloud.compute.servers.get(id) else { return };
        let name = server.name.clone();
        let data = server.user_data.clone().unwrap_or_default();
        if cloud.faults.of_server(&name, &[Trouble::NeverBoots], &mut cloud.dice).is_some() {
            self.set_stage(id, Stage::Failed);
            cloud.print_on_console(id, "Kernel panic - not syncing: VFS: unable to mount".into());
            return;
        }
        cloud.print_on_console(id, format!("{name} login: cloud-init: running modules"));
        match user_data::read(&data) {
            Err(reason) => self.fail(cloud, id, &reason),
            Ok(plan) => {
                let stage = match plan.bundle() {
                    Some(_) => Stage::Fetching(at),
                    None => Stage::Joining,
                };
                if let Some(guest) = self.guests.get_mut(&id) {
                    guest.plan = Some(Box::new(plan));
                    guest.stage = stage;
                }
                if stage == Stage::Joining {
                    self.plan_join(cloud, id, at);
                } else {
                    self.fetching.insert(id);
                }
            }
        }
    }

    fn set_stage(&mut self, id: Uuid, stage: Stage) {
        if let Some(guest) = self.guests.get_mut(&id) {
            guest.stage = stage;
        }
    }

    fn plan_join(&mut self, cloud: &mut Cloud, id: Uuid, at: Timestamp) {
        let timing = &cloud.settings.timing;
        let wait = cloud.dice.around(timing.join_ms, timing.jitter);
        self.agenda.add(at + wait, GuestEvent::Join(id));
    }

    fn fail(&mut self, cloud: &mut Cloud, id: Uuid, reason: &str) {
        self.set_stage(id, Stage::Failed);
        cloud.print_on_console(id, format!("zcp: failed: {reason}"));
    }

    /// Calls that guests want to make now.
    pub(super) fn wanted_fetches(&self, clouds: &Clouds, now: Timestamp) -> Vec<Fetch> {
        let fetching = self.fetching.iter().filter_map(|id| Some((id, self.guests.get(id)?)));
        let wanted = fetching.filter_map(|(id, guest)| match guest.stage {
            Stage::Fetching(from) if from <= now && guest.is_on => {
                let bundle = guest.plan.as_ref()?.bundle()?;
                let from = address(clouds.get(&guest.cloud)?, *id)?;
                Some(Fetch {
                    url: bundle.url.clone(),
                    token: bundle.token.clone(),
                    ca: bundle.ca.clone(),
                    server_id: *id,
                    from: IpAddr::V4(from),
                })
            }
            _ => None,
        });
        wanted.collect()
    }

    /// Takes the answer to a call of a guest.
    pub(super) fn fetched(
        &mut self,
        clouds: &mut Clouds,
        (id, fetched): (Uuid, Fetched),
        now: Timestamp,
    ) {
        self.fetching.remove(&id);
        let Some(guest) = self.guests.get_mut(&id) else { return };
        let Stage::Fetching(_) = guest.stage else { return };
        let Some(cloud) = clouds.get_mut(&guest.cloud) else { return };
        let is_late = now.duration_since(guest.since) > PATIENCE;
        match keys(fetched) {
            Ok(ca) => {
                guest.ca = Some(ca);
                guest.stage = Stage::Joining;
                self.plan_join(cloud, id, now);
            }
            Err(Setback::Again(reason)) if !is_late => {
                cloud.print_on_console(id, format!("zcp: fetch keys ({reason}): trying again"));
                let wait = cloud.dice.around(cloud.settings.timing.retry_ms, 0.0);
                guest.stage = Stage::Fetching(now + wait);
                self.fetching.insert(id);
            }
            Err(Setback::Again(reason) | Setback::Final(reason)) => {
                self.fail(cloud, id, &format!("fetch keys: {reason}"));
            }
        }
    }

    fn join(&mut self, cloud: &mut Cloud, (id, reaches_api): (Uuid, bool), at: Timestamp) {
        let Some(server) = cloud.compute.servers.get(id) else { return };
        let name = server.name.clone();
        if cloud.faults.of_server(&name, &[Trouble::NeverJoins], &mut cloud.dice).is_some() {
            self.fail(cloud, id, "kubeadm join");
            return;
        }
        let Some(guest) = self.guests.get(&id) else { return };
        let Some(plan) = guest.plan.clone() else { return };
        let waited = at.duration_since(guest.since);
        let result = if reaches_api {
            self.kubeadm(cloud, (id, &plan), at)
        } else {
            Err(Setback::Again(format!("dial tcp {}: i/o timeout", plan.endpoint)))
        };
        match result {
            Ok(()) => {
                if let Some(guest) = self.guests.get_mut(&id) {
                    guest.probing = plan.probe.map(|targets| Box::new(Probing::new(targets)));
                    if guest.probing.is_some() {
                        self.agenda.add(at, GuestEvent::Probe(id));
                    }
                    guest.stage = Stage::Joined;
                    guest.plan = None;
                    guest.ca = None;
                    guest.place = Some((plan.node_name, plan.endpoint));
                }
                cloud.print_on_console(id, "zcp: joined".into());
            }
            Err(Setback::Again(reason)) if waited < patience(&plan.task) => {
                cloud.print_on_console(id, format!("zcp: kubeadm join ({reason}): trying again"));
                let wait = cloud.dice.around(cloud.settings.timing.retry_ms, 0.0);
                self.agenda.add(at + wait, GuestEvent::Join(id));
            }
            Err(Setback::Again(reason) | Setback::Final(reason)) => {
                self.fail(cloud, id, &format!("kubeadm: {reason}"));
            }
        }
    }

    /// What kubeadm does: checks, then makes or changes the cluster.
    fn kubeadm(
        &mut self,
        cloud: &Cloud,
        (id, plan): (Uuid, &GuestPlan),
        at: Timestamp,
    ) -> Result<(), Setback> {
        let gone = || Setback::Final("the server has no address".into());
        let own = address(cloud, id).ok_or_else(gone)?;
        let node = registration(cloud, (id, plan), own).ok_or_else(gone)?;
        let member =
            Member { is_on: true, version: node.kubelet_version.clone(), address: own.into() };
        match &plan.task {
            GuestTask::Init { names, pod_cidr, .. } => {
                let ca = self.guests.get(&id).and_then(|guest| guest.ca.clone());
                let ca = ca.ok_or_else(|| Setback::Final("there are no keys".into()))?;
                self.found_cluster(plan, (ca, names, pod_cidr.as_deref()), (&node, at))?;
            }
            GuestTask::JoinMember { discovery, .. } | GuestTask::JoinWorker { discovery } => {
                self.check_discovery(discovery, at)?;
            }
        }
        let cluster = self.clusters.get_mut(&plan.endpoint);
        let cluster =
            cluster.ok_or_else(|| Setback::Again(format!("no route to {}", plan.endpoint)))?;
        cluster.kube.register_node(node, at).map_err(|error| match error {
            RegisterError::NameTaken(_) => Setback::Again(error.to_string()),
            RegisterError::ForbiddenLabel(_) => Setback::Final(error.to_string()),
        })?;
        if plan.bundle().is_some() {
            cluster.add_member(id, member).map_err(Setback::Final)?;
            cluster.follow_members(at);
        }
        Ok(())
    }

    /// `kubeadm init`: a new cluster, unless one answers there already.
    fn found_cluster(
        &mut self,
        plan: &GuestPlan,
        (ca, names, pod_cidr): (ClusterCa, &[String], Option<&str>),
        (node, at): (&NodeRegistration, Timestamp),
    ) -> Result<(), Setback> {
        if self.clusters.get(&plan.endpoint).is_some_and(TenantCluster::answers) {
            return Err(Setback::Final(format!("{} answers already", plan.endpoint)));
        }
        let mut settings = self.settings.clone();
        settings.version.clone_from(&node.kubelet_version);
        settings.seed = plan
            .endpoint
            .bytes()
            .fold(self.seed, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
        if let Some(cidr) = pod_cidr {
            cidr.clone_into(&mut settings.pod_cidr);
        }
        let mut names = names.to_vec();
        names.extend(plan.vip().map(|vip| vip.to_string()));
        let cluster = TenantCluster::new(KubeCluster::new(settings, at), ca, names);
        self.clusters.insert(plan.endpoint.clone(), cluster.map_err(Setback::Final)?);
        Ok(())
    }

    /// What `kubeadm join` checks before it registers.
    fn check_discovery(&self, discovery: &Discovery, at: Timestamp) -> Result<(), Setback> {
        let endpoint = &discovery.api_server_endpoint;
        let cluster = self.clusters.get(endpoint).filter(|cluster| cluster.answers());
        let cluster = cluster
            .ok_or_else(|| Setback::Again(format!("dial tcp {endpoint}: connection refused")))?;
        if !cluster.is_trusted_by(&discovery.ca_cert_hashes) {
            return Err(Setback::Again("none of the public keys is pinned".into()));
        }
        cluster
            .kube
            .check_bootstrap_token(&discovery.token, at)
            .map_err(|error| Setback::Again(error.to_string()))
    }

    /// Puts a copy of the cluster at `endpoint` beside it; `rename` says what each text is there.
    pub(super) fn copy_cluster(
        &mut self,
        endpoint: &str,
        kube: Arc<KubeCluster>,
        rename: &dyn Fn(&str) -> String,
    ) -> Result<(), String> {
        let id = |id: &Uuid| rename(&id.to_string()).parse::<Uuid>().map_err(|e| e.to_string());
        let original = self.clusters.get(endpoint).ok_or("there is no such cluster")?;
        let copy = original.copy(kube, &id, rename)?;
        let mut guests = Vec::new();
        for (server, guest) in &self.guests {
            if let Some((node, place)) = guest.place.as_ref().filter(|(_, at)| at == endpoint) {
                let place = Some((rename(node), rename(place)));
                guests.push((id(server)?, Guest { place, ..guest.clone() }));
            }
        }
        self.guests.extend(guests);
        self.clusters.insert(rename(endpoint), copy);
        Ok(())
    }

    /// Servers of the cluster at `endpoint`.
    pub(super) fn servers_of(&self, endpoint: &str) -> Vec<Uuid> {
        let is_there = |guest: &Guest| guest.place.as_ref().is_some_and(|(_, at)| at == endpoint);
        self.guests.iter().filter(|(_, guest)| is_there(guest)).map(|(id, _)| *id).collect()
    }

    fn back(&mut self, id: Uuid, at: Timestamp) {
        let place = self.guests.get(&id).and_then(|guest| guest.place.clone());
        let Some((node, endpoint)) = place else { return };
        let Some(cluster) = self.clusters.get_mut(&endpoint) else { return };
        cluster.kube.start_node(&node, at);
        if let Some(member) = cluster.members.get_mut(&id) {
            member.is_on = true;
            cluster.follow_members(at);
        }
    }
}

fn patience(task: &GuestTask) -> SignedDuration {
    match task {
        GuestTask::JoinWorker { .. } => PATIENCE,
        GuestTask::Init { .. } | GuestTask::JoinMember { .. } => MEMBER_PATIENCE,
    }
}

#[derive(Deserialize)]
struct Bundle {
    files: Vec<BundleFile>,
}

#[derive(Deserialize)]
struct BundleFile {
    path: String,
    content: String,
}

/// The cluster's CA out of an answer.
fn keys(fetched: Fetched) -> Result<ClusterCa, Setback> {
    let body = match fetched {
        Fetched::Unreachable(reason) => return Err(Setback::Again(reason)),
        Fetched::Answer { status: 200, body } => body,
        Fetched::Answer { status: status @ (425 | 429 | 500..=599), .. } => {
            return Err(Setback::Again(format!("HTTP {status}")));
        }
        Fetched::Answer { status, .. } => return Err(Setback::Final(format!("HTTP {status}"))),
    };
    let bundle: Bundle = serde_json::from_str(&body)
        .map_err(|error| Setback::Final(format!("unpack keys: {error}")))?;
    let file = |path: &str| {
        let found = bundle.files.iter().find(|file| file.path == path);
        let text = found.map(|file| file.content.clone());
        text.ok_or_else(|| Setback::Final(format!("unpack keys: {path} is missing")))
    };
    for path in ["sa.key", "sa.pub", "front-proxy-ca.crt", "etcd/ca.crt", "etcd/ca.key"] {
        file(&format!("/etc/kubernetes/pki/{path}"))?;
    }
    Ok(ClusterCa {
        cert_pem: file("/etc/kubernetes/pki/ca.crt")?,
        key_pem: file("/etc/kubernetes/pki/ca.key")?,
    })
}

/// First address of a server's first port.
fn address(cloud: &Cloud, id: Uuid) -> Option<Ipv4Addr> {
    let server = cloud.compute.servers.get(id)?;
    let port = cloud.network.ports.get(server.ports.first()?)?;
    port.fixed_ips.first().map(|fixed| fixed.ip_address)
}

/// What the kubelet says of itself; its version is that of the image.
fn registration(
    cloud: &Cloud,
    (id, plan): (Uuid, &GuestPlan),
    own: Ipv4Addr,
) -> Option<NodeRegistration> {
    let server = cloud.compute.servers.get(id)?;
    let flavor = cloud.flavor(&server.flavor)?;
    let image = cloud.images.iter().find(|image| image.id == server.image);
    let version = image.and_then(|image| image.properties.get("kubernetes_version"));
    Some(NodeRegistration {
        name: plan.node_name.clone(),
        provider_id: format!("openstack:///{id}"),
        internal_ip: own.to_string(),
        labels: plan.labels.clone(),
        taints: plan.taints.clone(),
        cpu_milli: i64::from(flavor.vcpus) * 1000,
        memory_bytes: i64::from(flavor.memory_mb) * 1024 * 1024,
        max_pods: 110,
        kubelet_version: version.unwrap_or(&plan.version).clone(),
        system_uuid: id.to_string(),
        is_control_plane: plan.bundle().is_some(),
    })
}
