//! What reaches what: which flows between the clouds are closed, how large a packet may be, and
//! which services of the surroundings are away.
//!
//! Only what nodes say of it is played: canaries and the pods that try the way back, joins (a
//! closed `tcp/6443` keeps every server out), and the API server's way to a canary's kubelet.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::domain::canary::{PortSpec, Protocol};

/// What reaches what; everything does by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reach {
    /// Flows that are dropped.
    pub closed: Vec<Flow>,
    /// MTU of a cloud's node network, by its name; 1450 where none is named.
    pub mtu: BTreeMap<String, u32>,
    /// Largest packet that passes between two clouds; longer ones vanish. As the links are, if not
    /// given.
    pub path_mtu: Option<u32>,
    /// Services that are away, by the cloud from which they are.
    pub away: BTreeMap<String, BTreeSet<Service>>,
}

/// A direction between two clouds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flow {
    /// Cloud of the sender.
    pub from: String,
    /// Cloud of the receiver.
    pub to: String,
    /// Port of the receiver.
    pub port: PortSpec,
}

/// Something that nodes need besides their cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Service {
    /// Images.
    Registry,
    /// Names.
    Dns,
    /// Time.
    Ntp,
}

/// MTU of an overlay network on a 1500 byte underlay.
const MTU: u32 = 1450;
/// A datagram that passes everywhere.
const SMALL: u32 = 100;

impl Reach {
    /// Drops a flow, such as from `east` to `west`, `udp/8472`.
    pub fn close(&mut self, from: &str, to: &str, port: PortSpec) {
        self.closed.push(Flow { from: from.to_owned(), to: to.to_owned(), port });
    }

    /// Takes a service away from a cloud.
    pub fn take_away(&mut self, cloud: &str, service: Service) {
        self.away.entry(cloud.to_owned()).or_default().insert(service);
    }

    /// Whether a packet to the port passes.
    pub fn is_open(&self, from: &str, to: &str, port: PortSpec) -> bool {
        !self.closed.iter().any(|flow| flow.from == from && flow.to == to && flow.port == port)
    }

    /// Whether a connection comes about: what comes back belongs to it and passes.
    pub fn connects(&self, from: &str, to: &str, port: u16) -> bool {
        self.is_open(from, to, PortSpec { protocol: Protocol::Tcp, port })
    }

    /// MTU of a cloud's links.
    pub fn link(&self, cloud: &str) -> u32 {
        self.mtu.get(cloud).copied().unwrap_or(MTU)
    }

    /// Whether a full packet of the sender's link arrives.
    pub fn carries_full(&self, from: &str, to: &str) -> bool {
        let path = self.path_mtu.filter(|_| from != to).unwrap_or(u32::MAX);
        self.link(from) <= path.min(self.link(to))
    }

    /// The largest datagram of a sender that is heard, when it sends a small and a full one.
    pub fn heard(&self, from: &str, to: &str, port: PortSpec) -> Option<u32> {
        let full = || if self.carries_full(from, to) { self.link(from) } else { SMALL };
        self.is_open(from, to, port).then(full)
    }

    /// Whether a service is there for a cloud's nodes.
    pub fn has(&self, cloud: &str, service: Service) -> bool {
        !self.away.get(cloud).is_some_and(|away| away.contains(&service))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_closed_one_way_and_a_small_path_takes_only_full_packets() {
        let mut reach = Reach::default();
        let vxlan: PortSpec = "udp/8472".parse().expect("a port");
        reach.close("east", "west", vxlan);
        assert_eq!(reach.heard("east", "west", vxlan), None);
        assert_eq!(reach.heard("west", "east", vxlan), Some(MTU));
        reach.path_mtu = Some(1400);
        assert_eq!(reach.heard("west", "east", vxlan), Some(SMALL));
        assert!(reach.carries_full("east", "east"));
        reach.path_mtu = None;
        reach.mtu.insert("west".into(), 1400);
        assert!(reach.carries_full("west", "east") && !reach.carries_full("east", "west"));
    }
}
