//! What canaries do inside their servers, and the pods that try the way back to them.
//!
//! The words are those of the real probe. A canary's round drives both: first the pods for it that
//! run by then come to their end, then it writes what it found on its Node.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::cloud::Cloud;
use super::guest::{GuestEvent, Guests};
use super::reach::{Reach, Service};
use crate::domain::canary::{
    Check, KUBELET, PROBE_ENV, PROBE_LABEL, Protocol, REPORT, Report, Targets,
};

/// A canary that has joined.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Probing {
    targets: Targets,
    round: u32,
    heard: BTreeMap<String, u32>,
}

/// The clouds, as canaries reach them.
type Clouds = BTreeMap<String, Cloud>;

impl Probing {
    pub(super) fn new(targets: Targets) -> Self {
        Self { targets, round: 0, heard: BTreeMap::new() }
    }
}

/// The cloud that an address lies in.
pub(super) fn cloud_of(clouds: &Clouds, address: IpAddr) -> Option<&str> {
    let text = address.to_string();
    let is_in = |cloud: &&Cloud| text.starts_with(&format!("{}.", cloud.settings.subnet_prefix));
    clouds.values().find(is_in).map(|cloud| cloud.settings.name.as_str())
}

/// Whether a server in a cloud gets a connection to an endpoint.
pub(super) fn connects(reach: &Reach, clouds: &Clouds, from: &str, endpoint: &str) -> bool {
    let Ok(endpoint) = endpoint.parse::<SocketAddr>() else { return false };
    cloud_of(clouds, endpoint.ip()).is_none_or(|to| reach.connects(from, to, endpoint.port()))
}

/// What a node in the cloud `from` finds out.
fn tried(reach: &Reach, clouds: &Clouds, (from, targets): (&str, &Targets)) -> Report {
    let cloud = |address: &str| address.parse().ok().and_then(|ip| cloud_of(clouds, ip));
    let mut report = Report { round: 1, ..Report::default() };
    let mut check = |what: &str, ok: bool, detail: &str| {
        let detail = if ok { "" } else { detail };
        report.checks.push(Check { what: what.to_owned(), ok, detail: detail.to_owned() });
    };
    if let Some(to) = cloud(&targets.peer) {
        for port in targets.ports.iter().filter(|port| port.protocol == Protocol::Tcp) {
            check(&port.to_string(), reach.is_open(from, to, *port), "timed out");
        }
    }
    if let Ok(api) = targets.api.parse::<SocketAddr>() {
        check("api", connects(reach, clouds, from, &targets.api), "timed out");
        let to = cloud_of(clouds, api.ip()).unwrap_or(from);
        check("download", reach.carries_full(to, from), "The read operation timed out");
    }
    if !targets.registry.is_empty() {
        check("registry", reach.has(from, Service::Registry), "timed out");
    }
    for name in &targets.names {
        let failed = "Temporary failure in name resolution";
        check(&format!("dns {name}"), reach.has(from, Service::Dns), failed);
    }
    if !targets.time.is_empty() {
        check("ntp", reach.has(from, Service::Ntp), "timed out");
    }
    if !targets.peer.is_empty() {
        report.mtu = reach.link(from);
    }
    report
}

/// What one side hears when the other side speaks.
fn heard(
    reach: &Reach,
    (speaker, listener): (&str, &str),
    targets: &Targets,
) -> BTreeMap<String, u32> {
    let udp = targets.ports.iter().filter(|port| port.protocol == Protocol::Udp);
    udp.filter_map(|port| Some((port.to_string(), reach.heard(speaker, listener, *port)?)))
        .collect()
}

impl Guests {
    /// What a canary's console shows before it joins.
    pub(super) fn say_first_words(&self, clouds: &mut Clouds, id: Uuid) {
        let Some(guest) = self.guests.get(&id) else { return };
        let Some(targets) = guest.targets() else { return };
        let mut report = tried(&self.reach, clouds, (&guest.cloud, targets));
        report.checks.retain(|check| check.what != "download");
        report.mtu = 0;
        let said = format!("zcp: probe: {}", serde_json::to_string(&report).unwrap_or_default());
        if let Some(cloud) = clouds.get_mut(&guest.cloud) {
            cloud.print_on_console(id, said);
        }
    }

    /// One round of a canary that has joined.
    pub(super) fn probe(&mut self, clouds: &Clouds, id: Uuid, at: Timestamp) {
        let Self { clusters, guests, reach, agenda, .. } = self;
        let Some(guest) = guests.get_mut(&id) else { return };
        let (Some(probing), Some((node, endpoint))) = (&mut guest.probing, &guest.place) else {
            return;
        };
        let Some(cluster) = clusters.get_mut(endpoint) else { return };
        let own = guest.cloud.as_str();
        let pause = clouds.get(own).map_or(5_000, |cloud| cloud.settings.timing.retry_ms);
        let pause = SignedDuration::from_millis(i64::try_from(pause).unwrap_or(i64::MAX));
        agenda.add(at + pause, GuestEvent::Probe(id));
        let api = endpoint.parse::<SocketAddr>().ok();
        let from_api = api.and_then(|api| cloud_of(clouds, api.ip())).unwrap_or(own);
        let is_open = reach.is_open(from_api, own, KUBELET);
        cluster.kube.set_kubelet_reached(node, is_open, at);
        let from = probing.targets.from.clone();
        cluster.kube.end_pods(PROBE_LABEL, at, |pod| {
            let targets = pod_targets(pod).filter(|targets| targets.peer == from)?;
            let peer = targets.from.parse().ok().and_then(|ip| cloud_of(clouds, ip))?;
            probing.heard.extend(heard(reach, (peer, own), &targets));
            let mut report = tried(reach, clouds, (peer, &targets));
            report.heard = heard(reach, (own, peer), &targets);
            serde_json::to_string(&report).ok()
        });
        if !connects(reach, clouds, own, endpoint) {
            return;
        }
        probing.round += 1;
        let mut report = tried(reach, clouds, (own, &probing.targets));
        report.round = probing.round;
        report.heard.clone_from(&probing.heard);
        let text = serde_json::to_string(&report).unwrap_or_default();
        cluster.kube.annotate_node(node, (REPORT, &text), at);
    }
}

/// What a pod was told to try.
fn pod_targets(pod: &serde_json::Value) -> Option<Targets> {
    let env = pod["spec"]["containers"][0]["env"].as_array()?;
    let told = env.iter().find(|variable| variable["name"] == PROBE_ENV)?;
    serde_json::from_str(told["value"].as_str()?).ok()
}
