//! The files that a control-plane server fetches from the node listener.

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Serialize, Serializer};

use super::pki::{Authority, ClusterPki};

/// Where kubeadm looks for keys.
const FOLDER: &str = "/etc/kubernetes/pki";

/// Answer to a fetch: `{"files": [{"path", "mode", "content"}]}`.
#[derive(Debug, Clone, Serialize)]
pub struct Bundle {
    /// The files, each complete.
    pub files: Vec<BundleFile>,
}

/// One file of a bundle.
#[derive(Debug, Clone, Serialize)]
pub struct BundleFile {
    /// Absolute path, below `/etc/kubernetes/pki`.
    pub path: String,
    /// Octal, such as `0600`.
    pub mode: &'static str,
    /// The text of the file.
    #[serde(serialize_with = "expose")]
    pub content: SecretString,
}

impl Bundle {
    /// What kubeadm needs to set up a member of this cluster.
    pub fn new(pki: &ClusterPki) -> Self {
        let mut files = vec![];
        for (name, authority) in
            [("ca", &pki.cluster), ("front-proxy-ca", &pki.front_proxy), ("etcd/ca", &pki.etcd)]
        {
            files.extend(authority_files(name, authority));
        }
        let service_account = &pki.service_account;
        files.push(public("sa.pub", &service_account.public_pem));
        files.push(private("sa.key", &service_account.private_pem));
        Self { files }
    }
}

fn authority_files(name: &str, authority: &Authority) -> [BundleFile; 2] {
    [
        public(&format!("{name}.crt"), authority.cert_pem()),
        private(&format!("{name}.key"), authority.key_pem()),
    ]
}

fn public(name: &str, content: &str) -> BundleFile {
    BundleFile { path: format!("{FOLDER}/{name}"), mode: "0644", content: content.into() }
}

fn private(name: &str, content: &SecretString) -> BundleFile {
    BundleFile { path: format!("{FOLDER}/{name}"), mode: "0600", content: content.clone() }
}

fn expose<S: Serializer>(secret: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose_secret())
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn a_bundle_holds_what_kubeadm_looks_for() {
        let pki = ClusterPki::generate(Timestamp::UNIX_EPOCH).unwrap();
        let bundle = Bundle::new(&pki);
        let files: Vec<(&str, &str)> = bundle
            .files
            .iter()
            .map(|file| (file.path.strip_prefix("/etc/kubernetes/pki/").unwrap(), file.mode))
            .collect();
        assert_eq!(
            files,
            [
                ("ca.crt", "0644"),
                ("ca.key", "0600"),
                ("front-proxy-ca.crt", "0644"),
                ("front-proxy-ca.key", "0600"),
                ("etcd/ca.crt", "0644"),
                ("etcd/ca.key", "0600"),
                ("sa.pub", "0644"),
                ("sa.key", "0600"),
            ]
        );
        let json = serde_json::to_value(&bundle).unwrap();
        let content = json["files"][1]["content"].as_str().unwrap();
        assert!(content.starts_with("-----BEGIN PRIVATE KEY-----"));
        assert!(!format!("{bundle:?}").contains("PRIVATE"));
    }
}
