//! A cluster as its owner wants it, and where it is in its life.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::field::FieldErrors;
use super::name::{CLUSTER_NAME_MAX, POOL_NAME_MAX, check_labels, check_name, check_taints};
use super::node_view::Taint;

/// Most workers in one pool.
pub const POOL_COUNT_MAX: u32 = 1000;
/// Most pools in one cluster.
pub const POOLS_MAX: usize = 20;

/// What an owner asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterSpec {
    /// The servers that run the API and etcd.
    pub control_plane: ControlPlaneSpec,
    /// The workers.
    pub pools: Vec<PoolSpec>,
    /// Addresses and names inside the cluster.
    #[serde(default)]
    pub network: ClusterNetwork,
    /// Extra flags of the API server, by name without dashes.
    #[serde(default)]
    pub api_server_args: BTreeMap<String, String>,
}

/// The servers that run the API and etcd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ControlPlaneSpec {
    /// Name of the cloud.
    pub cloud: String,
    /// 1 or 3. Default 1.
    #[serde(default = "one")]
    pub count: u32,
    /// Flavor by name or id; default: the cloud's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flavor: Option<String>,
}

fn one() -> u32 {
    1
}

/// Workers that are alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolSpec {
    /// Name, unique in the cluster.
    pub name: String,
    /// Name of the cloud.
    pub cloud: String,
    /// How many workers, 0 to 1000.
    pub count: u32,
    /// Flavor by name or id; default: the cloud's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flavor: Option<String>,
    /// Availability zone; default: the cloud's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Labels that every node of the pool carries, kept applied.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Taints that every node of the pool carries, from its registration on.
    #[serde(default)]
    pub taints: Vec<Taint>,
    /// Nodes beyond `count` while some are replaced, 1 to 20. Default 1.
    #[serde(default = "one")]
    pub surge: u32,
}

/// Addresses and names inside the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterNetwork {
    /// Addresses of pods. Default 10.244.0.0/16.
    pub pod_cidr: String,
    /// Addresses of services. Default 10.96.0.0/12.
    pub service_cidr: String,
    /// A DNS name that points to the endpoint, put into the certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_name: Option<String>,
}

impl Default for ClusterNetwork {
    fn default() -> Self {
        Self {
            pod_cidr: "10.244.0.0/16".to_owned(),
            service_cidr: "10.96.0.0/12".to_owned(),
            dns_name: None,
        }
    }
}

/// Where a cluster is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClusterPhase {
    /// Its API was never reached yet.
    Creating,
    /// Its API was reached; pools may still be on their way, see the conditions.
    Running,
    /// It is being deleted; conditions say what could not be deleted yet.
    Deleting,
    /// Nothing of it is left on any cloud. Only its row remains, for the history.
    Deleted,
}

impl ClusterSpec {
    /// Checks all that can be known without a cloud.
    pub fn check(&self, name: &str) -> FieldErrors {
        let mut errors = check_name("name", name, CLUSTER_NAME_MAX);
        if !matches!(self.control_plane.count, 1 | 3) {
            errors.push("control_plane.count", "must be 1 or 3: etcd needs an odd number");
        }
        if self.pools.len() > POOLS_MAX {
            errors.push("pools", format!("at most {POOLS_MAX} pools"));
        }
        let mut seen = BTreeSet::new();
        for (n, pool) in self.pools.iter().enumerate() {
            errors.extend(pool.check(&format!("pools[{n}]")));
            if !seen.insert(pool.name.as_str()) {
                errors.push(format!("pools[{n}].name"), "another pool has this name");
            }
        }
        errors.extend(self.network.check());
        errors.extend(check_api_server_args(&self.api_server_args));
        errors
    }
}

impl PoolSpec {
    /// Checks one pool; `path` is where it stands in the request.
    pub fn check(&self, path: &str) -> FieldErrors {
        let at = |field: &str| {
            if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
        };
        let mut errors = check_name(&at("name"), &self.name, POOL_NAME_MAX);
        if self.name == "cp" {
            errors.push(at("name"), "\"cp\" is the control plane's");
        }
        if self.count > POOL_COUNT_MAX {
            errors.push(at("count"), format!("must be 0 to {POOL_COUNT_MAX}"));
        }
        if !(1..=20).contains(&self.surge) {
            errors.push(at("surge"), "must be 1 to 20");
        }
        errors.extend(check_labels(&at("labels"), &self.labels));
        errors.extend(check_taints(&at("taints"), &self.taints));
        errors
    }
}

impl ClusterNetwork {
    fn check(&self) -> FieldErrors {
        let mut errors = FieldErrors::default();
        let pod = Cidr::parse(&self.pod_cidr);
        let service = Cidr::parse(&self.service_cidr);
        if pod.is_none_or(|c| !(8..=22).contains(&c.prefix)) {
            errors.push(
                "network.pod_cidr",
                "must be an IPv4 range from /8 to /22, such as 10.244.0.0/16",
            );
        }
        if service.is_none_or(|c| !(8..=24).contains(&c.prefix)) {
            errors.push(
                "network.service_cidr",
                "must be an IPv4 range from /8 to /24, such as 10.96.0.0/12",
            );
        }
        if let (Some(pod), Some(service)) = (pod, service)
            && pod.overlaps(service)
        {
            errors.push("network.service_cidr", "must not overlap network.pod_cidr");
        }
        if let Some(name) = &self.dns_name {
            let label = |l: &str| {
                !l.is_empty()
                    && l.len() <= 63
                    && !l.starts_with('-')
                    && !l.ends_with('-')
                    && l.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            };
            if name.len() > 253 || !name.split('.').all(label) {
                errors.push("network.dns_name", "must be a lower-case DNS name");
            }
        }
        errors
    }
}

/// An IPv4 range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    base: u32,
    prefix: u8,
}

impl Cidr {
    /// Reads `10.0.0.0/8`; `None` if it is not one, or has bits set beyond the prefix.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let base = u32::from(address.parse::<std::net::Ipv4Addr>().ok()?);
        let prefix: u8 = prefix.parse().ok().filter(|p| (1..=32).contains(p))?;
        (base & !mask(prefix) == 0).then_some(Self { base, prefix })
    }

    /// Whether the two share an address.
    pub fn overlaps(self, other: Self) -> bool {
        let shorter = self.prefix.min(other.prefix);
        (self.base ^ other.base) & mask(shorter) == 0
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX << (32 - u32::from(prefix))
}

/// Flags that zcpd itself sets, or that would open the cluster; an owner may not.
const RESERVED_ARGS: [&str; 9] = [
    "advertise-address",
    "anonymous-auth",
    "authorization-mode",
    "bind-address",
    "client-ca-file",
    "enable-bootstrap-token-auth",
    "etcd-servers",
    "secure-port",
    "service-cluster-ip-range",
];

fn check_api_server_args(args: &BTreeMap<String, String>) -> FieldErrors {
    let mut errors = FieldErrors::default();
    if args.len() > 50 {
        errors.push("api_server_args", "at most 50 flags");
    }
    for (name, value) in args {
        let path = format!("api_server_args[{name}]");
        let good = name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if !good {
            errors.push(
                &path,
                "must be the name of a flag without dashes in front, such as audit-log-maxage",
            );
        } else if RESERVED_ARGS.contains(&name.as_str()) {
            errors.push(&path, "is set by the system");
        }
        if value.len() > 1024 || value.chars().any(char::is_control) {
            errors.push(&path, "the value must be one line of at most 1024 characters");
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> ClusterSpec {
        ClusterSpec {
            control_plane: ControlPlaneSpec { cloud: "east".into(), count: 1, flavor: None },
            pools: vec![PoolSpec {
                name: "web".into(),
                cloud: "east".into(),
                count: 3,
                flavor: None,
                zone: None,
                labels: BTreeMap::new(),
                taints: vec![],
                surge: 1,
            }],
            network: ClusterNetwork::default(),
            api_server_args: BTreeMap::new(),
        }
    }

    fn fields(spec: &ClusterSpec) -> Vec<String> {
        spec.check("shop").0.into_iter().map(|e| e.field).collect()
    }

    #[test]
    fn a_plain_spec_is_fine() {
        assert_eq!(fields(&spec()), Vec::<String>::new());
    }

    #[test]
    fn every_wrong_field_is_named_at_once() {
        let mut wrong = spec();
        wrong.control_plane.count = 2;
        wrong.pools[0].count = 1001;
        wrong.pools[0].surge = 0;
        wrong.pools.push(PoolSpec { count: 1, surge: 1, ..wrong.pools[0].clone() });
        wrong.network.service_cidr = "10.244.8.0/24".into();
        wrong.network.dns_name = Some("Shop".into());
        wrong.api_server_args.insert("profiling".into(), "false\nevil: true".into());
        wrong.api_server_args.insert("bind-address".into(), "0.0.0.0".into());
        assert_eq!(
            fields(&wrong),
            [
                "control_plane.count",
                "pools[0].count",
                "pools[0].surge",
                "pools[1].name",
                "network.service_cidr",
                "network.dns_name",
                "api_server_args[bind-address]",
                "api_server_args[profiling]",
            ]
        );
    }

    #[test]
    fn ranges_overlap_when_one_holds_the_other() {
        let cidr = |text| Cidr::parse(text).unwrap();
        assert!(cidr("10.0.0.0/8").overlaps(cidr("10.96.0.0/12")));
        assert!(!cidr("10.244.0.0/16").overlaps(cidr("10.96.0.0/12")));
        assert_eq!(Cidr::parse("10.0.0.1/8"), None);
        assert_eq!(Cidr::parse("10.0.0.0"), None);
    }
}
