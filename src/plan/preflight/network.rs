//! Addresses: of nodes, pods and services.

use super::facts::Facts;
use super::moves::needs;
use crate::domain::cluster::Cidr;
use crate::domain::insight::Insight;
use crate::domain::inventory::Network;
use crate::domain::node::{Desired, Role};

/// Prefix of the range of pods that every node gets: the controller manager's default.
const NODE_PREFIX: u8 = 24;

/// The networks that new nodes get a port on, with the number of servers that each pool still needs.
fn target_networks(facts: &Facts) -> Vec<(&Network, u64)> {
    let Some(way) = facts.way() else { return Vec::new() };
    let mut found: Vec<(&Network, u64)> = Vec::new();
    for pool in &facts.pools {
        let Ok((network, _)) = way.network(pool.network.as_deref()) else { continue };
        let wanted = u64::from(pool.count).saturating_sub(facts.already_of(pool));
        match found.iter_mut().find(|(known, _)| known.id == network.id) {
            Some((_, sum)) => *sum += wanted,
            None => found.push((network, wanted)),
        }
    }
    found
}

/// Addresses of new nodes are not addresses of pods or services.
pub(super) fn overlap(facts: &Facts) -> Vec<Insight> {
    const ID: &str = "network_overlap";
    let networks = target_networks(facts);
    let cluster = &facts.cluster.network;
    let inside = [("pods", &cluster.pod_cidr), ("services", &cluster.service_cidr)];
    let mut found = Vec::new();
    let subnets = networks.iter().flat_map(|(network, _)| &network.subnets);
    for subnet in subnets.filter(|subnet| subnet.ip_version == 4) {
        for (what, range) in &inside {
            let overlaps = match (Cidr::parse(&subnet.cidr), Cidr::parse(range)) {
                (Some(a), Some(b)) => a.overlaps(b),
                _ => false,
            };
            if overlaps {
                found.push(format!("subnet {} and {what} {range}", subnet.cidr));
            }
        }
    }
    let target = &facts.target.name;
    if found.is_empty() {
        let reason = format!("subnets of cloud {target} overlap neither pods nor services");
        return vec![facts.pass(ID, reason)];
    }
    let reason = format!("addresses of nodes on cloud {target} overlap the cluster's own");
    let fix = "an operator gives the cloud a network with other addresses";
    vec![facts.block(ID, reason).on(found).fix(fix).and_final()]
}

/// There is a range of pods for each old and new node at the same time.
pub(super) fn pod_ranges(facts: &Facts) -> Vec<Insight> {
    const ID: &str = "pod_cidr_room";
    let Some(needs) = needs(facts) else { return Vec::new() };
    let range = &facts.cluster.network.pod_cidr;
    let prefix = range.rsplit_once('/').and_then(|(_, prefix)| prefix.parse::<u8>().ok());
    let Some(prefix) = prefix else { return Vec::new() };
    let room = NODE_PREFIX.checked_sub(prefix).map_or(0, |bits| 1_u64 << bits.min(63));
    let is_there = |node: &&crate::domain::node::Node| {
        node.desired == Desired::Present
            && (node.role == Role::ControlPlane || node.cloud_id != facts.target.id)
    };
    let at_once = facts.nodes.iter().filter(is_there).count() as u64 + needs.servers;
    if at_once <= room {
        let reason = format!("{range} has {room} ranges for {at_once} nodes at once");
        return vec![facts.pass(ID, reason)];
    }
    let reason =
        format!("{range} has {room} ranges for pods, but old and new nodes together are {at_once}");
    let fix = "move in several migrations by pool, or make a new cluster with a larger range";
    vec![facts.block(ID, reason).fix(fix).and_final()]
}

/// There is an address for each new node.
pub(super) fn addresses(facts: &Facts) -> Vec<Insight> {
    const ID: &str = "addresses";
    let found = target_networks(facts);
    found.into_iter().map(|(network, wanted)| on_network(facts, (ID, network), wanted)).collect()
}

fn on_network(facts: &Facts, (id, network): (&str, &Network), wanted: u64) -> Insight {
    let subnets = || network.subnets.iter().filter(|subnet| subnet.ip_version == 4);
    let name = &network.name;
    let (free, is_known) = match subnets().map(|one| one.free_addresses).sum::<Option<u64>>() {
        Some(free) => (free.saturating_sub(facts.reserved_servers()), true),
        None => (subnets().flat_map(|one| &one.pools).map(size).sum(), false),
    };
    let has_pools = subnets().any(|one| !one.pools.is_empty());
    if !is_known && (!has_pools || wanted <= free) {
        let reason = format!("how many addresses of network {name} are free is not told to us");
        return facts.pass(id, reason);
    }
    if wanted <= free {
        let reason = format!("network {name} has {free} free addresses for {wanted} servers");
        return facts.pass(id, reason);
    }
    let reason = format!(
        "{wanted} addresses are needed on network {name}, but {free} are {}",
        if is_known { "free" } else { "there at all" }
    );
    let fix = "an operator adds a subnet, or frees addresses";
    facts.block(id, reason).on([name]).fix(fix).and_final()
}

/// How many addresses a pool of a subnet has.
fn size(pool: &crate::domain::inventory::AddressPool) -> u64 {
    let number = |text: &str| text.parse::<std::net::Ipv4Addr>().ok().map(u32::from);
    match (number(&pool.start), number(&pool.end)) {
        (Some(start), Some(end)) => u64::from(end.saturating_sub(start)) + 1,
        _ => 0,
    }
}

/// Whether a range, as a person wrote it, holds one of the addresses.
pub(super) fn holds_any(range: &str, addresses: &[String]) -> bool {
    let Some(range) = Cidr::parse(range) else { return false };
    let single = |address: &String| Cidr::parse(&format!("{address}/32"));
    addresses.iter().filter_map(single).any(|address| address.overlaps(range))
}
