//! Bootstrap tokens in the cluster, its version and its health.

use http::Method;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::ClusterClient;
use super::call::Call;
use crate::domain::bootstrap_token::BootstrapToken;
use crate::domain::outside::{OutsideError, OutsideKind, absent_is_done};

/// Where bootstrap tokens are kept.
const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";
/// Group whose members may ask for a kubelet's certificate, in clusters made by kubeadm.
const JOINING_GROUP: &str = "system:bootstrappers:kubeadm:default-node-token";

/// What an API server says about its health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It is ready.
    Ready,
    /// It answers, but is not ready.
    NotReady {
        /// Its words: which checks fail.
        message: String,
    },
}

#[derive(Deserialize)]
struct Version {
    #[serde(rename = "gitVersion")]
    git_version: String,
}

impl ClusterClient {
    /// Makes a bootstrap token that lets one server join until `expires_at`; one that exists gets
    /// the new end.
    pub async fn ensure_bootstrap_token(
        &self,
        token: &BootstrapToken,
        expires_at: Timestamp,
        description: &str,
    ) -> Result<(), OutsideError> {
        let secret = token_secret(token, expires_at, description);
        let create = Call::new("create bootstrap token", Method::POST, SECRETS).json(secret);
        match self.expect(&create).await {
            Err(error) if error.kind == OutsideKind::Exists => {
                let patch = json!({"stringData": {"expiration": expiration(expires_at)}});
                let path = token_path(token.id());
                let call = Call::new("extend bootstrap token", Method::PATCH, path);
                self.expect(&call.merge_patch(patch)).await.map(|_| ())
            }
            other => other.map(|_| ()),
        }
    }

    /// Removes a bootstrap token; one that is gone is success.
    pub async fn delete_bootstrap_token(&self, id: &str) -> Result<(), OutsideError> {
        let call = Call::new("delete bootstrap token", Method::DELETE, token_path(id));
        absent_is_done(self.expect(&call).await.map(|_| ()))
    }

    /// The API server's version, such as `v1.36.2`.
    pub async fn server_version(&self) -> Result<String, OutsideError> {
        let version: Version = self.read(&Call::get("read version", "/version")).await?;
        Ok(version.git_version)
    }

    /// Whether the API server says that it is ready. An error means that it does not answer.
    pub async fn health(&self) -> Result<Health, OutsideError> {
        let call = Call::get("read health", "/readyz");
        let answer = self.send(&call).await?;
        match answer.status.as_u16() {
            200 => Ok(Health::Ready),
            401 | 403 => Err(call.refusal(&answer)),
            _ => Ok(Health::NotReady { message: answer.text.chars().take(500).collect() }),
        }
    }
}

fn token_path(id: &str) -> String {
    format!("{SECRETS}/bootstrap-token-{id}")
}

fn token_secret(token: &BootstrapToken, expires_at: Timestamp, description: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "bootstrap.kubernetes.io/token",
        "metadata": {
            "namespace": "kube-system",
            "name": format!("bootstrap-token-{}", token.id()),
        },
        "stringData": {
            "token-id": token.id(),
            "token-secret": token.secret(),
            "expiration": expiration(expires_at),
            "description": description,
            "usage-bootstrap-authentication": "true",
            "usage-bootstrap-signing": "true",
            "auth-extra-groups": JOINING_GROUP,
        },
    })
}

/// RFC 3339 in UTC, whole seconds: the token cleaner reads no fractions everywhere.
fn expiration(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::call::tests::{Script, ok, status};

    fn token() -> BootstrapToken {
        "abc123.0123456789abcdef".parse().unwrap()
    }

    #[tokio::test]
    async fn a_token_that_exists_is_extended() {
        let script = Script::new(vec![status(409, "AlreadyExists", "exists"), ok(json!({}))]);
        let end = Timestamp::from_second(1_800_000_000).unwrap();
        script.client().ensure_bootstrap_token(&token(), end, "for n-1").await.unwrap();
        let asked = script.asked();
        assert_eq!(asked[0].line, "POST /api/v1/namespaces/kube-system/secrets");
        assert_eq!(asked[0].body["metadata"]["name"], "bootstrap-token-abc123");
        assert_eq!(asked[0].body["type"], "bootstrap.kubernetes.io/token");
        assert_eq!(asked[0].body["stringData"]["expiration"], "2027-01-15T08:00:00Z");
        assert_eq!(asked[0].body["stringData"]["auth-extra-groups"], JOINING_GROUP);
        assert_eq!(
            asked[1].line,
            "PATCH /api/v1/namespaces/kube-system/secrets/bootstrap-token-abc123"
        );
        assert_eq!(asked[1].content_type, "application/merge-patch+json");
        assert_eq!(asked[1].body, json!({"stringData": {"expiration": "2027-01-15T08:00:00Z"}}));
    }

    #[tokio::test]
    async fn deleting_a_token_twice_is_fine() {
        let script = Script::new(vec![ok(json!({})), status(404, "NotFound", "no")]);
        let client = script.client();
        client.delete_bootstrap_token("abc123").await.unwrap();
        client.delete_bootstrap_token("abc123").await.unwrap();
    }

    #[tokio::test]
    async fn health_tells_not_ready_from_not_allowed() {
        let script = Script::new(vec![
            ok(json!("ok")),
            status(500, "", "[-]etcd failed"),
            status(401, "Unauthorized", "who are you"),
            ok(json!({"gitVersion": "v1.36.2"})),
        ]);
        let client = script.client();
        assert_eq!(client.health().await.unwrap(), Health::Ready);
        assert!(matches!(client.health().await.unwrap(), Health::NotReady { .. }));
        assert_eq!(client.health().await.unwrap_err().kind, OutsideKind::Denied);
        assert_eq!(client.server_version().await.unwrap(), "v1.36.2");
    }
}
