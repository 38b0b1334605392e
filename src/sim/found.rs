//! A new cloud, as an operator hands it over: users, flavors, images, hosts, one network.

use std::net::Ipv4Addr;

use jiff::Timestamp;

use super::agenda::{Agenda, Dice};
use super::cloud::{
    Cloud, Compute, Credential, Flavor, Host, Identity, Image, Net, Network, SecurityGroup, Subnet,
    User,
};
use super::faults::{Counters, Faults};
use super::settings::CloudSettings;

/// Password of every user of a simulated cloud.
pub const PASSWORD: &str = "lab";
/// Secret of the application credential of `kaas`.
pub const CREDENTIAL_SECRET: &str = "lab-application-credential";

impl Cloud {
    /// A cloud with nothing in it but what its operator provides.
    pub fn found(settings: CloudSettings, seed: u64, now: Timestamp) -> Self {
        let mut dice = Dice::new(seed, &settings.name);
        let identity = identity(&mut dice);
        let project = identity.users[0].project_id.clone();
        Self {
            compute: compute(&settings, &mut dice),
            network: network(&settings, &mut dice, &project, now),
            images: images(&settings, &mut dice, now),
            identity,
            agenda: Agenda::default(),
            faults: Faults::default(),
            counters: Counters::default(),
            happenings: Vec::new(),
            dice,
            settings,
        }
    }
}

fn identity(dice: &mut Dice) -> Identity {
    let mut user = |name: &str, is_admin: bool| User {
        id: dice.uuid().simple().to_string(),
        name: name.into(),
        password: PASSWORD.into(),
        project_id: dice.uuid().simple().to_string(),
        project: name.into(),
        is_admin,
        credential: None,
    };
    let mut users = vec![user("kaas", false), user("admin", true)];
    users[0].credential = Some(Credential {
        id: dice.uuid().simple().to_string(),
        name: "kaas".into(),
        secret: CREDENTIAL_SECRET.into(),
    });
    Identity { users, ..Identity::default() }
}

fn compute(settings: &CloudSettings, dice: &mut Dice) -> Compute {
    let host = |number: u32, dice: &mut Dice| Host {
        id: dice.uuid(),
        name: format!("{}-hv{number}", settings.name),
        disabled: false,
        down: false,
        vcpus_used: 0,
        memory_used_mb: 0,
        servers: 0,
        building: 0,
        waiting: std::collections::VecDeque::new(),
    };
    let flavors = settings.flavors.iter().map(|wanted| Flavor {
        id: dice.uuid().to_string(),
        name: wanted.name.clone(),
        vcpus: wanted.vcpus,
        memory_mb: wanted.memory_mb,
        disk_gb: wanted.disk_gb,
    });
    Compute {
        flavors: flavors.collect(),
        hosts: (1..=settings.hosts).map(|number| host(number, dice)).collect(),
        ..Compute::default()
    }
}

fn images(settings: &CloudSettings, dice: &mut Dice, now: Timestamp) -> Vec<Image> {
    let image = |version: &String| Image {
        id: dice.uuid(),
        name: format!("zcp-node-{version}"),
        status: "active".into(),
        properties: [("kubernetes_version".to_owned(), version.clone())].into(),
        created: now,
    };
    settings.kubernetes_versions.iter().map(image).collect()
}

fn network(settings: &CloudSettings, dice: &mut Dice, project: &str, now: Timestamp) -> Network {
    let prefix: Vec<u8> =
        settings.subnet_prefix.split('.').filter_map(|part| part.parse().ok()).collect();
    let (a, b) = match prefix[..] {
        [a, b] => (a, b),
        _ => (127, 10),
    };
    let net =
        Net { id: dice.uuid(), name: "kaas".into(), project_id: project.into(), created: now };
    let first = Ipv4Addr::new(a, b, 0, 2);
    let last = Ipv4Addr::from(u32::from(first) + settings.addresses.saturating_sub(1));
    let subnet = Subnet {
        id: dice.uuid(),
        network_id: net.id,
        name: "kaas".into(),
        project_id: project.into(),
        cidr: format!("{a}.{b}.0.0/16"),
        first,
        last: last.min(Ipv4Addr::new(a, b, 255, 254)),
        created: now,
    };
    let mut group = |name: &str| SecurityGroup {
        id: dice.uuid(),
        name: name.into(),
        project_id: project.into(),
        created: now,
    };
    Network {
        security_groups: vec![group("default"), group("kaas-nodes")],
        networks: vec![net],
        subnets: vec![subnet],
        ..Network::default()
    }
}
