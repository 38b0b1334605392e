//! How ports get addresses and servers: the part of Neutron behind its API.

use std::net::Ipv4Addr;

use jiff::Timestamp;
use uuid::Uuid;

use super::agenda::Dice;
use super::cloud::{Cloud, FixedIp, Network, Port, Subnet};

impl Network {
    /// The first subnet of a network.
    pub fn subnet_of(&self, network: Uuid) -> Option<&Subnet> {
        self.subnets.iter().find(|subnet| subnet.network_id == network)
    }

    /// How many addresses a subnet may give out, and how many it has given out.
    pub fn addresses(&self, subnet: &Subnet) -> (u64, u64) {
        let total = u64::from(u32::from(subnet.last) - u32::from(subnet.first)) + 1;
        let used = self.taken.range(subnet.first..=subnet.last).count();
        (total, u64::try_from(used).unwrap_or(u64::MAX))
    }

    /// Takes a free address of a subnet: the first one from a random place on.
    pub fn take_any(&mut self, subnet: Uuid, dice: &mut Dice) -> Option<FixedIp> {
        let subnet = self.subnets.iter().find(|row| row.id == subnet)?;
        let (first, last) = (u32::from(subnet.first), u32::from(subnet.last));
        let size = u64::from(last - first) + 1;
        let start = first + u32::try_from(dice.bits() % size).unwrap_or(0);
        let free = |address: &u32| !self.taken.contains(&Ipv4Addr::from(*address));
        let address = (start..=last).chain(first..start).find(free)?;
        let fixed = FixedIp { subnet_id: subnet.id, ip_address: address.into() };
        self.taken.insert(fixed.ip_address);
        Some(fixed)
    }

    /// Takes that address; false when somebody has it.
    pub fn take(&mut self, address: Ipv4Addr) -> bool {
        self.taken.insert(address)
    }

    /// The subnet of a network that holds an address.
    pub fn subnet_with(&self, network: Uuid, address: Ipv4Addr) -> Option<&Subnet> {
        let holds = |subnet: &&Subnet| {
            let [a, b, ..] = address.octets();
            let [c, d, ..] = subnet.first.octets();
            subnet.network_id == network && (a, b) == (c, d)
        };
        self.subnets.iter().find(holds)
    }

    /// Removes a port and gives its addresses back.
    pub fn remove_port(&mut self, id: Uuid) -> Option<Port> {
        let port = self.ports.remove(&id)?;
        for fixed in &port.fixed_ips {
            self.taken.remove(&fixed.ip_address);
        }
        Some(port)
    }
}

impl Cloud {
    /// Gives a port to a device, which is an id and a kind of owner.
    pub fn bind_port(&mut self, id: Uuid, (device, owner): (&str, &str), now: Timestamp) {
        if let Some(port) = self.network.ports.get_mut(&id) {
            port.device_id = device.into();
            port.device_owner = owner.into();
            port.revision += 1;
            port.updated = now;
        }
    }

    /// Takes a port away from a device; deletes it when Nova had made it.
    pub fn unbind_port(&mut self, id: Uuid, device: &str, now: Timestamp) {
        let Some(port) = self.network.ports.get(&id).filter(|port| port.device_id == device) else {
            return;
        };
        if port.made_by_nova {
            self.network.remove_port(id);
        } else {
            self.bind_port(id, ("", ""), now);
        }
    }

    /// Makes a port as Nova does for a server that names only a network; None without addresses.
    pub fn make_port(&mut self, network: Uuid, project: &str, now: Timestamp) -> Option<Uuid> {
        let subnet = self.network.subnet_of(network)?.id;
        let fixed = self.network.take_any(subnet, &mut self.dice)?;
        let port = Port {
            made_by_nova: true,
            fixed_ips: vec![fixed],
            ..self.blank_port(network, project, now)
        };
        let id = port.id;
        self.network.ports.insert(id, port);
        Some(id)
    }

    /// A port without addresses, not yet in the cloud.
    pub fn blank_port(&mut self, network: Uuid, project: &str, now: Timestamp) -> Port {
        let id = self.dice.uuid();
        let [a, b, c, ..] = self.dice.bits().to_be_bytes();
        let default_group = self.network.security_groups.first().map(|group| group.id);
        Port {
            id,
            name: String::new(),
            description: String::new(),
            project_id: project.into(),
            network_id: network,
            fixed_ips: Vec::new(),
            mac_address: format!("fa:16:3e:{a:02x}:{b:02x}:{c:02x}"),
            device_id: String::new(),
            device_owner: String::new(),
            made_by_nova: false,
            allowed_address_pairs: Vec::new(),
            security_groups: default_group.into_iter().collect(),
            tags: Vec::new(),
            port_security_enabled: true,
            revision: 1,
            created: now,
            updated: now,
        }
    }
}
