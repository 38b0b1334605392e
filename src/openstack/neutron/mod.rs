//! Neutron: ports, networks, security groups, its part of the quotas.

mod networks;
mod ports;

pub use ports::{AddressPair, CreatePort, FixedIp, Port, PortFilter};
