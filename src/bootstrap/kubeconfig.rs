//! Kubeconfigs with a client certificate inside: no files, no programs, no tokens.

use base64::Engine as _;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;

use super::pki::Certified;
use super::yaml;

/// What a kubeconfig says.
#[derive(Debug, Clone, Copy)]
pub struct KubeconfigParts<'a> {
    /// Name of the cluster.
    pub cluster: &'a str,
    /// Name of the user.
    pub user: &'a str,
    /// `https://VIP:6443`.
    pub server: &'a str,
    /// The cluster's CA.
    pub ca_pem: &'a str,
    /// The user's certificate and key.
    pub client: &'a Certified,
}

/// A kubeconfig that kubectl takes as it is.
pub fn kubeconfig(parts: KubeconfigParts<'_>) -> SecretString {
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let context = format!("{}@{}", parts.user, parts.cluster);
    let config = Kubeconfig {
        api_version: "v1",
        kind: "Config",
        clusters: [NamedCluster {
            name: parts.cluster,
            cluster: Cluster {
                server: parts.server,
                certificate_authority_data: encode(parts.ca_pem),
            },
        }],
        users: [NamedUser {
            name: parts.user,
            user: User {
                client_certificate_data: encode(&parts.client.cert_pem),
                client_key_data: encode(parts.client.key_pem.expose_secret()),
            },
        }],
        contexts: [NamedContext {
            name: &context,
            context: Context { cluster: parts.cluster, user: parts.user },
        }],
        current_context: &context,
    };
    yaml(&config).into()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Kubeconfig<'a> {
    api_version: &'a str,
    kind: &'a str,
    clusters: [NamedCluster<'a>; 1],
    users: [NamedUser<'a>; 1],
    contexts: [NamedContext<'a>; 1],
    #[serde(rename = "current-context")]
    current_context: &'a str,
}

#[derive(Serialize)]
struct NamedCluster<'a> {
    name: &'a str,
    cluster: Cluster<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster<'a> {
    server: &'a str,
    certificate_authority_data: String,
}

#[derive(Serialize)]
struct NamedUser<'a> {
    name: &'a str,
    user: User,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate_data: String,
    client_key_data: String,
}

#[derive(Serialize)]
struct NamedContext<'a> {
    name: &'a str,
    context: Context<'a>,
}

#[derive(Serialize)]
struct Context<'a> {
    cluster: &'a str,
    user: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_look_like_yaml_stay_names() {
        let client = Certified { cert_pem: "cert".into(), key_pem: "key".into() };
        let text = kubeconfig(KubeconfigParts {
            cluster: "true",
            user: "a: {b}\n",
            server: "https://10.0.0.9:6443",
            ca_pem: "ca",
            client: &client,
        });
        let read: serde_json::Value = serde_saphyr::from_str(text.expose_secret()).unwrap();
        assert_eq!(read["clusters"][0]["name"], "true");
        assert_eq!(read["users"][0]["name"], "a: {b}\n");
        assert_eq!(read["users"][0]["user"]["client-key-data"], "a2V5");
        assert_eq!(read["current-context"], "a: {b}\n@true");
    }
}
