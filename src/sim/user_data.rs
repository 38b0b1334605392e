//! What a guest reads in its user data: cloud-init's document and the files in it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::kubernetes::Taint;
use crate::domain::canary::Targets;

/// What a server is to become.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestPlan {
    /// Name of its node.
    pub node_name: String,
    /// `address:port` of its cluster's API.
    pub endpoint: String,
    /// Kubernetes version it was told.
    pub version: String,
    /// What it does.
    pub task: GuestTask,
    /// Labels that the kubelet gives itself.
    pub labels: Vec<(String, String)>,
    /// Taints that the kubelet registers with.
    pub taints: Vec<Taint>,
    /// What a canary tries: `/etc/zcp/probe.json`.
    #[serde(default)]
    pub probe: Option<Targets>,
}

/// What a guest does with kubeadm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuestTask {
    /// `kubeadm init`: the first control-plane member.
    Init {
        /// Where its keys are.
        bundle: BundleSource,
        /// Names and addresses for the API's certificate.
        names: Vec<String>,
        /// Range of pods.
        pod_cidr: Option<String>,
    },
    /// `kubeadm join` as a control-plane member.
    JoinMember {
        /// Where its keys are.
        bundle: BundleSource,
        /// How it finds its cluster.
        discovery: Discovery,
    },
    /// `kubeadm join` as a worker.
    JoinWorker {
        /// How it finds its cluster.
        discovery: Discovery,
    },
}

/// `/etc/zcp/bundle.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleSource {
    /// Where to ask.
    pub url: String,
    /// With what.
    pub token: String,
    /// Who must have signed the answerer's certificate, as PEM.
    pub ca: String,
}

/// How a node finds and trusts its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Discovery {
    /// Bootstrap token.
    pub token: String,
    /// `address:port` of the API.
    pub api_server_endpoint: String,
    /// `sha256:...` of the CA's public key; one must fit.
    pub ca_cert_hashes: Vec<String>,
}

#[derive(Deserialize)]
struct CloudConfig {
    #[serde(default)]
    write_files: Vec<WriteFile>,
    #[serde(default)]
    runcmd: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct WriteFile {
    path: String,
    content: String,
}

#[derive(Deserialize)]
struct About {
    role: String,
    node_name: String,
    kubernetes_version: String,
    endpoint: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    kind: String,
    node_registration: Option<Registration>,
    discovery: Option<DiscoveryField>,
    control_plane: Option<serde_json::Value>,
    api_server: Option<ApiServer>,
    networking: Option<Networking>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DiscoveryField {
    bootstrap_token: Discovery,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Registration {
    name: Option<String>,
    kubelet_extra_args: Option<Arguments>,
    #[serde(default)]
    taints: Vec<Taint>,
}

/// A list since `v1beta4`, a map before.
#[derive(Deserialize)]
#[serde(untagged)]
enum Arguments {
    List(Vec<Argument>),
    Map(BTreeMap<String, String>),
}

#[derive(Deserialize)]
struct Argument {
    name: String,
    value: String,
}

#[derive(Deserialize)]
struct ApiServer {
    #[serde(rename = "certSANs", default)]
    names: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Networking {
    pod_subnet: Option<String>,
}

/// Reads user data in base64. The error is what cloud-init or the boot script would complain of.
pub fn read(user_data: &str) -> Result<GuestPlan, String> {
    let bytes = STANDARD.decode(user_data).map_err(|error| format!("user data: {error}"))?;
    let text = String::from_utf8(bytes).map_err(|error| format!("user data: {error}"))?;
    let body = text.strip_prefix("#cloud-config\n").ok_or("user data is not a cloud-config")?;
    let config: CloudConfig = yaml(body, "cloud-config")?;
    if config.runcmd.is_empty() {
        return Err("nothing to run".into());
    }
    let files: BTreeMap<&str, &str> =
        config.write_files.iter().map(|file| (file.path.as_str(), file.content.as_str())).collect();
    let file = |path: &str| files.get(path).copied().ok_or_else(|| format!("{path} is missing"));
    let about: About = json(file("/etc/zcp/server.json")?, "/etc/zcp/server.json")?;
    let documents: Vec<Document> = serde_saphyr::from_multiple(file("/etc/zcp/kubeadm.yaml")?)
        .map_err(|error| format!("/etc/zcp/kubeadm.yaml: {error}"))?;
    let bundle = match files.get("/etc/zcp/bundle.json") {
        Some(text) => Some(json(text, "/etc/zcp/bundle.json")?),
        None => None,
    };
    let probe = match files.get("/etc/zcp/probe.json") {
        Some(text) => Some(json(text, "/etc/zcp/probe.json")?),
        None => None,
    };
    if probe.is_some() {
        file("/usr/local/lib/zcp/probe")?;
    }
    plan(about, &documents, (bundle, probe))
}

fn plan(
    about: About,
    documents: &[Document],
    (bundle, probe): (Option<BundleSource>, Option<Targets>),
) -> Result<GuestPlan, String> {
    let of_kind = |kind: &str| documents.iter().find(|document| document.kind == kind);
    let main = of_kind("InitConfiguration").or_else(|| of_kind("JoinConfiguration"));
    let main = main.ok_or("kubeadm.yaml has neither an init nor a join configuration")?;
    let task = task(main, of_kind("ClusterConfiguration"), bundle)?;
    let is_worker = matches!(task, GuestTask::JoinWorker { .. });
    if is_worker != matches!(about.role.as_str(), "worker" | "canary") {
        return Err(format!("role {} does not fit kubeadm.yaml", about.role));
    }
    let registration = main.node_registration.as_ref();
    let node_name = registration.and_then(|node| node.name.clone());
    let arguments = registration.and_then(|node| node.kubelet_extra_args.as_ref());
    Ok(GuestPlan {
        node_name: node_name.unwrap_or(about.node_name),
        endpoint: about.endpoint,
        version: about.kubernetes_version,
        task,
        labels: arguments.map(Arguments::labels).unwrap_or_default(),
        taints: registration.map(|node| node.taints.clone()).unwrap_or_default(),
        probe,
    })
}

fn task(
    main: &Document,
    cluster: Option<&Document>,
    bundle: Option<BundleSource>,
) -> Result<GuestTask, String> {
    let no_bundle = || "a control-plane server has no /etc/zcp/bundle.json".to_owned();
    if main.kind == "InitConfiguration" {
        let api_server = cluster.and_then(|document| document.api_server.as_ref());
        let networking = cluster.and_then(|document| document.networking.as_ref());
        return Ok(GuestTask::Init {
            bundle: bundle.ok_or_else(no_bundle)?,
            names: api_server.map(|server| server.names.clone()).unwrap_or_default(),
            pod_cidr: networking.and_then(|networking| networking.pod_subnet.clone()),
        });
    }
    let discovery = main.discovery.as_ref().ok_or("the join configuration has no discovery")?;
    let discovery = discovery.bootstrap_token.clone();
    if main.control_plane.is_none() {
        return Ok(GuestTask::JoinWorker { discovery });
    }
    Ok(GuestTask::JoinMember { bundle: bundle.ok_or_else(no_bundle)?, discovery })
}

impl GuestPlan {
    /// Whether it makes a cluster, so that there is no API to be reached before.
    pub fn is_first(&self) -> bool {
        matches!(self.task, GuestTask::Init { .. })
    }

    /// Where the keys of a control-plane server are.
    pub fn bundle(&self) -> Option<&BundleSource> {
        match &self.task {
            GuestTask::Init { bundle, .. } | GuestTask::JoinMember { bundle, .. } => Some(bundle),
            GuestTask::JoinWorker { .. } => None,
        }
    }

    /// Address of the API.
    pub fn vip(&self) -> Option<IpAddr> {
        self.endpoint.parse::<std::net::SocketAddr>().ok().map(|address| address.ip())
    }
}

impl Arguments {
    fn labels(&self) -> Vec<(String, String)> {
        let text = match self {
            Self::List(list) => {
                list.iter().find(|argument| argument.name == "node-labels").map(|a| &a.value)
            }
            Self::Map(map) => map.get("node-labels"),
        };
        let pairs = text.into_iter().flat_map(|text| text.split(','));
        pairs
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }
}

fn yaml<T: serde::de::DeserializeOwned>(text: &str, what: &str) -> Result<T, String> {
    serde_saphyr::from_str(text).map_err(|error| format!("{what}: {error}"))
}

fn json<T: serde::de::DeserializeOwned>(text: &str, what: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| format!("{what}: {error}"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A worker's user data, with `arguments` as the kubelet's.
    pub(crate) fn worker(name: &str, arguments: &str, discovery: &Discovery) -> String {
        let about = serde_json::json!({"role": "worker", "node_name": name, "cluster": "c",
            "kubernetes_version": "1.36.2", "endpoint": discovery.api_server_endpoint});
        let kubeadm = format!(
            "apiVersion: kubeadm.k8s.io/v1beta4\nkind: JoinConfiguration\ndiscovery: \
             {{bootstrapToken: {}}}\nnodeRegistration: {{name: {name}, kubeletExtraArgs: \
             {arguments}, taints: [{{key: a, effect: NoSchedule}}]}}\n",
            serde_json::to_string(discovery).expect("plain data")
        );
        cloud_config(&[
            ("/etc/zcp/server.json", &about.to_string()),
            ("/etc/zcp/kubeadm.yaml", &kubeadm),
        ])
    }

    /// User data with these files.
    pub(crate) fn cloud_config(files: &[(&str, &str)]) -> String {
        let files: Vec<_> = files
            .iter()
            .map(|(path, content)| serde_json::json!({"path": path, "content": content}))
            .collect();
        // JSON is YAML.
        let config = serde_json::json!({"write_files": files, "runcmd": [["boot"]]});
        STANDARD.encode(format!("#cloud-config\n{config}"))
    }

    pub(crate) fn discovery() -> Discovery {
        Discovery {
            token: "abcdef.0123456789abcdef".into(),
            api_server_endpoint: "127.10.0.9:6443".into(),
            ca_cert_hashes: vec!["sha256:00".into()],
        }
    }

    #[test]
    fn arguments_are_read_as_a_list_and_as_a_map() {
        for arguments in ["[{name: node-labels, value: 'a=b,c=d'}]", "{node-labels: 'a=b,c=d'}"] {
            let plan = read(&worker("w1", arguments, &discovery())).expect("a plan");
            assert_eq!(plan.labels, [("a".into(), "b".into()), ("c".into(), "d".into())]);
            assert_eq!(plan.taints[0].effect, "NoSchedule");
            assert_eq!(plan.task, GuestTask::JoinWorker { discovery: discovery() });
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let text = cloud_config(&[("/etc/zcp/server.json", "{}")]);
        let error = read(&text).expect_err("an error");
        assert!(error.starts_with("/etc/zcp/server.json: missing field"), "{error}");
    }
}
