//! User data: the first and only thing that a server is told.
//!
//! Everybody in the cloud's project can read it, and so can every pod that reaches the metadata
//! service. It holds public settings and tokens that are used up by the time pods run.

use std::fmt;
use std::net::IpAddr;

use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde_json::json;
use url::Url;

use super::kube_vip::KubeVip;
use super::kubeadm::endpoint;
use super::probe::PROBE;
use super::yaml;
use crate::domain::canary::Targets;
use crate::domain::ids::ClusterId;
use crate::domain::version::Version;

/// Nova takes 65,535 bytes of base64.
pub const LIMIT: usize = 49_151;
/// Runs once, at the first boot.
const BOOT: &str = include_str!("boot.sh");
/// Where the boot script lies.
const BOOT_PATH: &str = "/usr/local/lib/zcp/boot";

/// The user data does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("user data is {size} bytes long; Nova takes {LIMIT}")]
pub struct TooLarge {
    /// Its length.
    pub size: usize,
}

/// Rendered user data. Never log it.
#[derive(Clone, PartialEq, Eq)]
pub struct UserData(String);

impl UserData {
    /// The text, as the guest reads it. Nova wants it in base64.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for UserData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserData({} bytes)", self.0.len())
    }
}

/// What every server is told about itself.
#[derive(Debug, Clone, Copy)]
pub struct ServerParts<'a> {
    /// Name of the server and of its node.
    pub node_name: &'a str,
    /// Its cluster.
    pub cluster: ClusterId,
    /// The version its image must have.
    pub version: Version,
    /// The API's virtual address.
    pub vip: IpAddr,
}

/// Where a control-plane server fetches its keys.
#[derive(Debug, Clone, Copy)]
pub struct BundleSource<'a> {
    /// `https://ADDRESS:PORT/node/v1/bundle`.
    pub url: &'a Url,
    /// The server's own, single use.
    pub token: &'a SecretString,
    /// The authority of the listener.
    pub ca_pem: &'a str,
}

/// What only a control-plane server is told.
#[derive(Debug, Clone, Copy)]
pub struct ControlPlaneParts<'a> {
    /// Configuration for `kubeadm init` or `kubeadm join`.
    pub kubeadm: &'a SecretString,
    /// Where its keys are.
    pub bundle: BundleSource<'a>,
    /// What announces the virtual address.
    pub kube_vip: KubeVip<'a>,
}

/// User data of a worker. `kubeadm` is its join configuration.
pub fn worker_user_data(
    server: ServerParts<'_>,
    kubeadm: &SecretString,
) -> Result<UserData, TooLarge> {
    render(vec![about("worker", server), kubeadm_file(kubeadm), boot_file()])
}

/// User data of a canary: that of a worker, and what it tries.
pub fn canary_user_data(
    server: ServerParts<'_>,
    kubeadm: &SecretString,
    targets: &Targets,
) -> Result<UserData, TooLarge> {
    let targets = serde_json::json!(targets).to_string();
    render(vec![
        about("canary", server),
        kubeadm_file(kubeadm),
        File::new("/etc/zcp/probe.json", "0644", targets),
        File::new("/usr/local/lib/zcp/probe", "0755", PROBE.to_owned()),
        boot_file(),
    ])
}

/// User data of a control-plane member.
pub fn control_plane_user_data(
    server: ServerParts<'_>,
    parts: ControlPlaneParts<'_>,
) -> Result<UserData, TooLarge> {
    let bundle = json!({
        "url": parts.bundle.url.as_str(),
        "token": parts.bundle.token.expose_secret(),
        "ca": parts.bundle.ca_pem,
    });
    render(vec![
        about("control-plane", server),
        kubeadm_file(parts.kubeadm),
        File::new("/etc/zcp/bundle.json", "0600", bundle.to_string()),
        File::new("/etc/kubernetes/manifests/kube-vip.yaml", "0600", parts.kube_vip.manifest()),
        boot_file(),
    ])
}

fn about(role: &str, server: ServerParts<'_>) -> File {
    let about = json!({
        "role": role,
        "node_name": server.node_name,
        "cluster": server.cluster,
        "kubernetes_version": server.version.to_string(),
        "endpoint": endpoint(server.vip),
    });
    File::new("/etc/zcp/server.json", "0644", about.to_string())
}

fn kubeadm_file(configuration: &SecretString) -> File {
    File::new("/etc/zcp/kubeadm.yaml", "0600", configuration.expose_secret().to_owned())
}

fn boot_file() -> File {
    File::new(BOOT_PATH, "0755", BOOT.to_owned())
}

fn render(write_files: Vec<File>) -> Result<UserData, TooLarge> {
    let config = CloudConfig { write_files, runcmd: [[BOOT_PATH]] };
    let text = format!("#cloud-config\n{}", yaml(&config));
    if text.len() > LIMIT { Err(TooLarge { size: text.len() }) } else { Ok(UserData(text)) }
}

#[derive(Serialize)]
struct CloudConfig {
    write_files: Vec<File>,
    runcmd: [[&'static str; 1]; 1],
}

#[derive(Serialize)]
struct File {
    path: &'static str,
    permissions: &'static str,
    content: String,
}

impl File {
    fn new(path: &'static str, permissions: &'static str, content: String) -> Self {
        Self { path, permissions, content }
    }
}

#[cfg(test)]
#[path = "user_data_tests.rs"]
mod tests;
