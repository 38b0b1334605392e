//! kubeadm's configuration: for the first control-plane member, for further ones, for workers.
//!
//! `v1beta4` is spoken since 1.31 and takes extra arguments as a list; `v1beta3` before, as a map.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use secrecy::SecretString;
use serde::Serialize;
use serde::ser::{SerializeSeq as _, Serializer};

use super::yaml;
use crate::domain::bootstrap_token::BootstrapToken;
use crate::domain::node_view::Taint;
use crate::domain::version::Version;

/// Port of every API server.
pub const API_PORT: u16 = 6443;
/// kubeadm makes a token of its own at `init` whatever we say; it ends soon, and its group, which
/// nothing is granted to, lets nobody join.
const UNUSED_TOKEN: UnusedToken = UnusedToken {
    ttl: "15m0s",
    usages: ["authentication", "signing"],
    groups: ["system:bootstrappers:zcp:unused"],
};
/// kube-vip's manifest lies there before kubeadm runs.
const IGNORED_AT_JOIN: &str = "DirAvailable--etc-kubernetes-manifests";

/// What kubeadm must know of a cluster to start it.
#[derive(Debug, Clone, Copy)]
pub struct ClusterParts<'a> {
    /// The cluster's name.
    pub name: &'a str,
    /// The Kubernetes version.
    pub version: Version,
    /// The API's virtual address.
    pub vip: IpAddr,
    /// Further names and addresses in the API server's certificate: the DNS name, all members.
    pub names: &'a [String],
    /// Range of pods.
    pub pod_cidr: &'a str,
    /// Range of services.
    pub service_cidr: &'a str,
    /// Extra arguments of the API server, by name without dashes.
    pub api_server_args: &'a BTreeMap<String, String>,
    /// Where images come from, if not from registry.k8s.io.
    pub image_repository: Option<&'a str>,
}

/// What kubeadm must know of one server.
#[derive(Debug, Clone, Copy)]
pub struct NodeParts<'a> {
    /// Name of the node.
    pub name: &'a str,
    /// Labels that the kubelet may set itself.
    pub labels: &'a BTreeMap<String, String>,
    /// Taints from its registration on. A control-plane member always has kubeadm's own.
    pub taints: &'a [Taint],
}

/// How a server finds its cluster and proves that it belongs there.
#[derive(Debug, Clone, Copy)]
pub struct Discovery<'a> {
    /// The Kubernetes version: decides how kubeadm is spoken to.
    pub version: Version,
    /// The API's virtual address.
    pub vip: IpAddr,
    /// Hashes of the CA: several while it is being replaced.
    pub ca_cert_hashes: &'a [String],
    /// The server's own token.
    pub token: &'a BootstrapToken,
}

/// Configuration of `kubeadm init` on the first member, which listens on `address`.
pub fn init_configuration(
    cluster: ClusterParts<'_>,
    node: NodeParts<'_>,
    address: IpAddr,
) -> SecretString {
    let api = ApiVersion::of(cluster.version);
    let init = Init {
        api_version: api,
        kind: "InitConfiguration",
        bootstrap_tokens: [UNUSED_TOKEN],
        local_api_endpoint: ApiEndpoint { advertise_address: address, bind_port: API_PORT },
        node_registration: registration(api, node, &[]),
    };
    let mut names = vec![cluster.vip.to_string(), address.to_string()];
    names.extend(cluster.names.iter().cloned());
    names.sort();
    names.dedup();
    let configuration = Cluster {
        api_version: api,
        kind: "ClusterConfiguration",
        cluster_name: cluster.name,
        kubernetes_version: format!("v{}", cluster.version),
        control_plane_endpoint: endpoint(cluster.vip),
        certificates_dir: "/etc/kubernetes/pki",
        encryption_algorithm: (api == ApiVersion::V1Beta4).then_some("ECDSA-P256"),
        image_repository: cluster.image_repository,
        networking: Networking {
            dns_domain: "cluster.local",
            pod_subnet: cluster.pod_cidr,
            service_subnet: cluster.service_cidr,
        },
        api_server: ApiServer {
            cert_sans: names,
            extra_args: Arguments { api, all: cluster.api_server_args.clone() },
        },
        etcd: Etcd { local: LocalEtcd { data_dir: "/var/lib/etcd" } },
    };
    format!("{}---\n{}", yaml(&init), yaml(&configuration)).into()
}

/// Configuration of `kubeadm join` on a worker.
pub fn worker_configuration(discovery: Discovery<'_>, node: NodeParts<'_>) -> SecretString {
    yaml(&join(discovery, node, None)).into()
}

/// Configuration of `kubeadm join` on a further member, which listens on `address`.
pub fn member_configuration(
    discovery: Discovery<'_>,
    node: NodeParts<'_>,
    address: IpAddr,
) -> SecretString {
    yaml(&join(discovery, node, Some(address))).into()
}

/// `VIP:6443`, with brackets where the address needs them.
pub fn endpoint(vip: IpAddr) -> String {
    SocketAddr::new(vip, API_PORT).to_string()
}

fn join<'a>(
    discovery: Discovery<'a>,
    node: NodeParts<'a>,
    member_address: Option<IpAddr>,
) -> Join<'a> {
    let api = ApiVersion::of(discovery.version);
    let ignored: &[&str] = if member_address.is_some() { &[IGNORED_AT_JOIN] } else { &[] };
    Join {
        api_version: api,
        kind: "JoinConfiguration",
        discovery: JoinDiscovery {
            bootstrap_token: TokenDiscovery {
                token: discovery.token.reveal(),
                api_server_endpoint: endpoint(discovery.vip),
                ca_cert_hashes: discovery.ca_cert_hashes,
            },
        },
        control_plane: member_address.map(|address| ControlPlane {
            local_api_endpoint: ApiEndpoint { advertise_address: address, bind_port: API_PORT },
        }),
        node_registration: registration(api, node, ignored),
    }
}

fn registration<'a>(
    api: ApiVersion,
    node: NodeParts<'a>,
    ignored: &'static [&'static str],
) -> Registration<'a> {
    let labels: Vec<String> =
        node.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut arguments = BTreeMap::new();
    if !labels.is_empty() {
        arguments.insert("node-labels".to_owned(), labels.join(","));
    }
    Registration {
        name: node.name,
        kubelet_extra_args: Arguments { api, all: arguments },
        taints: node.taints,
        ignore_preflight_errors: ignored,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
enum ApiVersion {
    #[serde(rename = "kubeadm.k8s.io/v1beta3")]
    V1Beta3,
    #[serde(rename = "kubeadm.k8s.io/v1beta4")]
    V1Beta4,
}

impl ApiVersion {
    fn of(version: Version) -> Self {
        if (version.major, version.minor) >= (1, 31) { Self::V1Beta4 } else { Self::V1Beta3 }
    }
}

/// Arguments of a component, in the shape of their API version.
struct Arguments {
    api: ApiVersion,
    all: BTreeMap<String, String>,
}

impl Arguments {
    fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

impl Serialize for Arguments {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.api {
            ApiVersion::V1Beta3 => self.all.serialize(serializer),
            ApiVersion::V1Beta4 => {
                let mut list = serializer.serialize_seq(Some(self.all.len()))?;
                for (name, value) in &self.all {
                    list.serialize_element(&Argument { name, value })?;
                }
                list.end()
            }
        }
    }
}

#[derive(Serialize)]
struct Argument<'a> {
    name: &'a str,
    value: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Init<'a> {
    api_version: ApiVersion,
    kind: &'a str,
    bootstrap_tokens: [UnusedToken; 1],
    #[serde(rename = "localAPIEndpoint")]
    local_api_endpoint: ApiEndpoint,
    node_registration: Registration<'a>,
}

#[derive(Serialize)]
struct UnusedToken {
    ttl: &'static str,
    usages: [&'static str; 2],
    groups: [&'static str; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ApiEndpoint {
    advertise_address: IpAddr,
    bind_port: u16,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Registration<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Arguments::is_empty")]
    kubelet_extra_args: Arguments,
    #[serde(skip_serializing_if = "<[Taint]>::is_empty")]
    taints: &'a [Taint],
    #[serde(skip_serializing_if = "<[&str]>::is_empty")]
    ignore_preflight_errors: &'static [&'static str],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Cluster<'a> {
    api_version: ApiVersion,
    kind: &'a str,
    cluster_name: &'a str,
    kubernetes_version: String,
    control_plane_endpoint: String,
    certificates_dir: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    encryption_algorithm: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_repository: Option<&'a str>,
    networking: Networking<'a>,
    api_server: ApiServer,
    etcd: Etcd<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Networking<'a> {
    dns_domain: &'a str,
    pod_subnet: &'a str,
    service_subnet: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ApiServer {
    #[serde(rename = "certSANs")]
    cert_sans: Vec<String>,
    #[serde(skip_serializing_if = "Arguments::is_empty")]
    extra_args: Arguments,
}

#[derive(Serialize)]
struct Etcd<'a> {
    local: LocalEtcd<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LocalEtcd<'a> {
    data_dir: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Join<'a> {
    api_version: ApiVersion,
    kind: &'a str,
    discovery: JoinDiscovery<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    control_plane: Option<ControlPlane>,
    node_registration: Registration<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JoinDiscovery<'a> {
    bootstrap_token: TokenDiscovery<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TokenDiscovery<'a> {
    token: String,
    api_server_endpoint: String,
    ca_cert_hashes: &'a [String],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ControlPlane {
    #[serde(rename = "localAPIEndpoint")]
    local_api_endpoint: ApiEndpoint,
}

#[cfg(test)]
#[path = "kubeadm_tests.rs"]
pub(super) mod tests;
