//! A new cluster as it is typed, or read from a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Failure;
use crate::api::clusters::NewCluster;
use crate::domain::cluster::{ClusterNetwork, ControlPlaneSpec, PoolSpec};
use crate::domain::node_view::{Taint, TaintEffect};

#[derive(Debug, clap::Args)]
pub(super) struct CreateArgs {
    /// Its name.
    #[arg(required_unless_present = "file")]
    name: Option<String>,
    /// A file (YAML or JSON) with the whole request; nothing else is given then.
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["name", "cloud", "offering",
        "pools", "control_plane", "control_plane_flavor", "pod_cidr", "service_cidr", "dns_name"])]
    file: Option<PathBuf>,
    /// Cloud of the control plane, and of pools that name none.
    #[arg(long, required_unless_present = "file")]
    cloud: Option<String>,
    /// Offering, such as 1.36.2.
    #[arg(long, required_unless_present = "file")]
    offering: Option<String>,
    /// Servers of the control plane: 1 or 3.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    control_plane: u32,
    /// Flavor of the control plane; default: the cloud's.
    #[arg(long, value_name = "FLAVOR")]
    control_plane_flavor: Option<String>,
    /// Workers: name=workers,count=4[,cloud=..][,flavor=..][,zone=..][,surge=..][,label=KEY=VALUE]
    /// [,taint=KEY[=VALUE]:EFFECT]; repeatable, as are label and taint.
    #[arg(long = "pool", value_name = "POOL")]
    pools: Vec<String>,
    /// Addresses of pods.
    #[arg(long, value_name = "CIDR")]
    pod_cidr: Option<String>,
    /// Addresses of services.
    #[arg(long, value_name = "CIDR")]
    service_cidr: Option<String>,
    /// DNS name that points to the endpoint, put into its certificate.
    #[arg(long, value_name = "NAME")]
    dns_name: Option<String>,
}

impl CreateArgs {
    /// The request.
    pub(super) fn request(self, project: Option<String>) -> Result<NewCluster, Failure> {
        if let Some(file) = &self.file {
            let mut request = read(file)?;
            request.project = request.project.or(project);
            return Ok(request);
        }
        // The parser has seen to it that both are there.
        let (cloud, name) = (self.cloud.unwrap_or_default(), self.name.unwrap_or_default());
        let parse = |text: &String| {
            pool(text, &cloud).map_err(|error| Failure::input(format!("--pool {text}: {error}")))
        };
        let defaults = ClusterNetwork::default();
        Ok(NewCluster {
            name,
            project,
            offering: self.offering.unwrap_or_default(),
            pools: self.pools.iter().map(parse).collect::<Result<_, _>>()?,
            control_plane: ControlPlaneSpec {
                cloud,
                count: self.control_plane,
                flavor: self.control_plane_flavor,
            },
            network: ClusterNetwork {
                pod_cidr: self.pod_cidr.unwrap_or(defaults.pod_cidr),
                service_cidr: self.service_cidr.unwrap_or(defaults.service_cidr),
                dns_name: self.dns_name,
            },
            api_server_args: BTreeMap::new(),
        })
    }
}

fn read(file: &Path) -> Result<NewCluster, Failure> {
    let wrong = |error: String| Failure::input(format!("{}: {error}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    // JSON is YAML.
    serde_saphyr::from_str(&text).map_err(|error| wrong(error.to_string()))
}

/// Reads `name=workers,count=4,label=team=shop`.
fn pool(text: &str, cloud: &str) -> Result<PoolSpec, String> {
    let mut pool = PoolSpec {
        name: String::new(),
        cloud: cloud.to_owned(),
        count: 0,
        flavor: None,
        zone: None,
        labels: BTreeMap::new(),
        taints: Vec::new(),
        surge: 1,
    };
    let mut counted = false;
    for part in text.split(',') {
        let (key, value) = part.split_once('=').ok_or("each part must be KEY=VALUE")?;
        let number = || value.parse().map_err(|_| format!("{key} must be a number"));
        match key {
            "name" => value.clone_into(&mut pool.name),
            "count" => (pool.count, counted) = (number()?, true),
            "cloud" => value.clone_into(&mut pool.cloud),
            "flavor" => pool.flavor = Some(value.to_owned()),
            "zone" => pool.zone = Some(value.to_owned()),
            "surge" => pool.surge = number()?,
            "label" => {
                let (key, value) = value.split_once('=').ok_or("a label must be KEY=VALUE")?;
                pool.labels.insert(key.to_owned(), value.to_owned());
            }
            "taint" => pool.taints.push(taint(value)?),
            _ => {
                return Err(format!(
                    "{key} is not known; there is: name, count, cloud, flavor, zone, surge, label, \
                     taint"
                ));
            }
        }
    }
    match (pool.name.is_empty(), counted) {
        (true, _) => Err("name=NAME is missing".to_owned()),
        (false, false) => Err("count=NUMBER is missing".to_owned()),
        (false, true) => Ok(pool),
    }
}

/// Reads `key=value:NoSchedule` or `key:NoSchedule`, as kubectl writes taints.
fn taint(text: &str) -> Result<Taint, String> {
    let shape = "a taint must be KEY[=VALUE]:EFFECT";
    let (rest, effect) = text.rsplit_once(':').ok_or(shape)?;
    let effect = match effect {
        "NoSchedule" => TaintEffect::NoSchedule,
        "PreferNoSchedule" => TaintEffect::PreferNoSchedule,
        "NoExecute" => TaintEffect::NoExecute,
        _ => return Err(format!("{effect} is not NoSchedule, PreferNoSchedule or NoExecute")),
    };
    let (key, value) = match rest.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (rest, None),
    };
    Ok(Taint { key: key.to_owned(), value, effect })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_read_with_labels_and_taints() {
        let pool = pool(
            "name=web,count=4,flavor=k8s.4c8g,label=team=shop,label=a=,taint=gpu=yes:NoSchedule,\
             taint=x:NoExecute",
            "east",
        )
        .unwrap();
        assert_eq!((pool.name.as_str(), pool.cloud.as_str(), pool.count), ("web", "east", 4));
        assert_eq!(pool.labels["team"], "shop");
        assert_eq!(pool.labels["a"], "");
        let taints: Vec<_> = pool.taints.iter().map(|t| (t.key.as_str(), t.effect)).collect();
        assert_eq!(taints, [("gpu", TaintEffect::NoSchedule), ("x", TaintEffect::NoExecute)]);
    }

    #[test]
    fn a_wrong_pool_says_what_is_wrong() {
        for (text, part) in [
            ("workers", "KEY=VALUE"),
            ("count=4", "name=NAME"),
            ("name=a", "count=NUMBER"),
            ("name=a,count=x", "count must be a number"),
            ("name=a,count=1,colour=red", "there is: name"),
            ("name=a,count=1,taint=x:Sometimes", "Sometimes is not"),
            ("name=a,count=1,label=x", "a label must be"),
        ] {
            let error = pool(text, "east").unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
