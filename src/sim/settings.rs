//! What a simulated world is made of: clouds, sizes, quotas and times.

use serde::{Deserialize, Serialize};

use super::kubernetes::KubeSettings;

/// A whole simulated world.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorldSettings {
    /// Everything random follows from this number.
    pub seed: u64,
    /// The clouds; names must differ.
    pub clouds: Vec<CloudSettings>,
    /// How tenant clusters behave; version, seed and pod range are each cluster's own.
    pub kubernetes: KubeSettings,
}

impl Default for WorldSettings {
    fn default() -> Self {
        let clouds = vec![CloudSettings::east(), CloudSettings::west()];
        Self { seed: 1, clouds, kubernetes: KubeSettings::default() }
    }
}

impl WorldSettings {
    /// Two clouds in which nothing takes time but what `timing` says.
    pub fn with_timing(timing: Timing) -> Self {
        let mut settings = Self::default();
        for cloud in &mut settings.clouds {
            cloud.timing = timing.clone();
        }
        settings
    }
}

/// Which OpenStack release a cloud plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Generation {
    /// Zed: compute microversions up to 2.93.
    Zed,
    /// 2026.2: compute microversions up to 2.104.
    Y2026_2,
}

impl Generation {
    /// Highest minor of compute API 2.
    pub fn nova_max(self) -> u32 {
        match self {
            Self::Zed => 93,
            Self::Y2026_2 => 104,
        }
    }

    /// Highest minor of image API 2.
    pub fn glance_max(self) -> u32 {
        match self {
            Self::Zed => 15,
            Self::Y2026_2 => 17,
        }
    }
}

/// One simulated OpenStack deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CloudSettings {
    /// Its name and its region.
    pub name: String,
    /// Which release it plays.
    pub generation: Generation,
    /// TCP port of its API when served; 0 for any free one.
    pub port: u16,
    /// First two numbers of its node network, such as `127.10`.
    pub subnet_prefix: String,
    /// How many addresses of it may be given out.
    pub addresses: u32,
    /// Availability zone of all its hosts.
    pub zone: String,
    /// Flavors.
    pub flavors: Vec<FlavorSettings>,
    /// Kubernetes versions for which there is an image `zcp-node-<version>`.
    pub kubernetes_versions: Vec<String>,
    /// Number of hypervisors.
    pub hosts: u32,
    /// Cores of each.
    pub host_vcpus: u32,
    /// Memory of each, in MiB.
    pub host_memory_mb: u32,
    /// How many times a core is sold.
    pub cpu_allocation_ratio: f64,
    /// Builds that one host does at a time; more wait in BUILD.
    pub max_concurrent_builds: u32,
    /// Most rows in one page of servers.
    pub max_limit: u32,
    /// Life of a token, in seconds.
    pub token_seconds: i64,
    /// Quotas of the project `kaas`.
    pub quota: Quota,
    /// How long things take.
    pub timing: Timing,
}

impl Default for CloudSettings {
    fn default() -> Self {
        Self {
            name: "east".into(),
            generation: Generation::Zed,
            port: 0,
            subnet_prefix: "127.10".into(),
            addresses: 65_533,
            zone: "nova".into(),
            flavors: Vec::new(),
            kubernetes_versions: ["1.34.4", "1.35.3", "1.36.1", "1.36.2"].map(Into::into).into(),
            hosts: 8,
            host_vcpus: 64,
            host_memory_mb: 524_288,
            cpu_allocation_ratio: 4.0,
            max_concurrent_builds: 10,
            max_limit: 1000,
            token_seconds: 3600,
            quota: Quota::default(),
            timing: Timing::default(),
        }
    }
}

impl CloudSettings {
    /// The older cloud of the default world.
    pub fn east() -> Self {
        let flavors = vec![
            FlavorSettings::new("k8s.2c4g", 2, 4096),
            FlavorSettings::new("k8s.4c8g", 4, 8192),
            FlavorSettings::new("k8s.8c16g", 8, 16384),
        ];
        Self { flavors, ..Self::default() }
    }

    /// The newer cloud of the default world: other flavor names, another zone.
    pub fn west() -> Self {
        Self {
            name: "west".into(),
            generation: Generation::Y2026_2,
            subnet_prefix: "127.20".into(),
            zone: "west-a".into(),
            flavors: vec![
                FlavorSettings::new("m1.k8s-2c4g", 2, 4096),
                FlavorSettings::new("m1.k8s-4c8g", 4, 8192),
                FlavorSettings::new("m1.k8s-8c16g", 8, 16384),
            ],
            ..Self::default()
        }
    }
}

/// A size of server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlavorSettings {
    /// Its name; the id is made from it.
    pub name: String,
    /// Virtual cores.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// Root disk in GiB.
    #[serde(default = "FlavorSettings::default_disk")]
    pub disk_gb: u32,
}

impl FlavorSettings {
    /// A flavor with a root disk of 40 GiB.
    pub fn new(name: &str, vcpus: u32, memory_mb: u32) -> Self {
        Self { name: name.into(), vcpus, memory_mb, disk_gb: Self::default_disk() }
    }

    fn default_disk() -> u32 {
        40
    }
}

/// What the project may have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quota {
    /// Servers.
    pub instances: u32,
    /// Virtual cores.
    pub cores: u32,
    /// Memory in MiB.
    pub ram: u32,
    /// Server groups.
    pub server_groups: u32,
    /// Servers in one group.
    pub server_group_members: u32,
    /// Ports.
    pub ports: u32,
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            instances: 100_000,
            cores: 400_000,
            ram: 1_000_000_000,
            server_groups: 10_000,
            server_group_members: 10,
            ports: 100_000,
        }
    }
}

/// How long things take, in milliseconds of world time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timing {
    /// From the accepted create to a chosen host.
    pub schedule_ms: u64,
    /// From the chosen host to ACTIVE.
    pub build_ms: u64,
    /// From ACTIVE to the first line of user data being carried out.
    pub boot_ms: u64,
    /// From booted to a joined node, or to an API server that answers.
    pub join_ms: u64,
    /// From an accepted delete to 404.
    pub delete_ms: u64,
    /// From an accepted stop or start to its end.
    pub power_ms: u64,
    /// Between two tries of a guest to fetch its bundle or to reach the API server.
    pub retry_ms: u64,
    /// Every time above varies by this part of it, up and down.
    pub jitter: f64,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            schedule_ms: 1_000,
            build_ms: 14_000,
            boot_ms: 20_000,
            join_ms: 12_000,
            delete_ms: 4_000,
            power_ms: 3_000,
            retry_ms: 5_000,
            jitter: 0.2,
        }
    }
}

impl Timing {
    /// Everything happens as soon as it is due; for tests that only count calls and rows.
    pub fn instant() -> Self {
        Self {
            schedule_ms: 0,
            build_ms: 0,
            boot_ms: 0,
            join_ms: 0,
            delete_ms: 0,
            power_ms: 0,
            retry_ms: 1_000,
            jitter: 0.0,
        }
    }

    /// The default times without variation.
    pub fn steady() -> Self {
        Self { jitter: 0.0, ..Self::default() }
    }
}
