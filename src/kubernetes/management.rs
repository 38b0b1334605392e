//! The management cluster: where zcp's own objects live, for users of `kubectl`.
//!
//! It is given by a kubeconfig of the operator's. What that says is trusted, files that it names
//! included, with one exception: a user that runs a program (`exec`, `auth-provider`) is refused,
//! since zcpd starts no programs.
//!
//! Lists are read as they are stored, not from a cache: what is missing in one is gone. The watch
//! is a hint only ([`ManagementClient::watch`]): it says that something changed, never what.

use std::fmt;
use std::time::Duration;

use futures::TryStreamExt as _;
use http::Method;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::WatchEvent;
use serde::Deserialize;
use serde_json::{Value, json};

use super::ClusterClient;
use super::call::Call;
use super::client::{CONNECT_TIMEOUT, READ_TIMEOUT};
use crate::domain::outside::{OutsideError, OutsideKind};

/// How long one watch lasts; then it begins anew where it was.
const WATCH_SECONDS: u64 = 240;
/// A watch that says nothing for longer than it lasts hangs.
const WATCH_SILENCE: Duration = Duration::from_secs(WATCH_SECONDS + 30);
const BASE: &str = "/apis/zcp.io/v1alpha1";
const PLURAL: &str = "clustermigrations";

/// Talks to the management cluster. Cheap to clone.
#[derive(Clone)]
pub struct ManagementClient {
    calls: ClusterClient,
    /// For watches, which are silent for minutes.
    watches: kube::Client,
}

impl fmt::Debug for ManagementClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ManagementClient")
    }
}

/// Which object.
#[derive(Debug, Clone, Copy)]
pub struct ObjectName<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
}

impl ObjectName<'_> {
    fn path(self) -> String {
        format!("{BASE}/namespaces/{}/{PLURAL}/{}", self.namespace, self.name)
    }
}

/// What a watch tells of an object: enough to see whether somebody wished something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its uid.
    pub uid: String,
    /// Generation of its spec.
    pub generation: i64,
    /// Whether it is being deleted, or gone.
    pub is_leaving: bool,
}

impl ManagementClient {
    /// Reads a kubeconfig. Does not connect yet, but needs a runtime.
    pub async fn from_kubeconfig(text: &str) -> Result<Self, OutsideError> {
        let kubeconfig =
            Kubeconfig::from_yaml(text).map_err(|error| unusable(error.to_string()))?;
        refuse_programs(&kubeconfig)?;
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
        let mut config = config.map_err(|error| unusable(error.to_string()))?;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.read_timeout = Some(READ_TIMEOUT);
        config.reset_reader_on_write = true;
        config.default_retry = false;
        let mut patient = config.clone();
        patient.read_timeout = Some(WATCH_SILENCE);
        let client = |config| {
            kube::Client::try_from(config).map_err(|error: kube::Error| unusable(error.to_string()))
        };
        Ok(Self { calls: ClusterClient::unpaced(client(config)?), watches: client(patient)? })
    }

    /// Hands every request to a router, for tests without sockets.
    pub fn in_process(router: axum::Router) -> Self {
        let client = kube::Client::new(router, "default");
        Self { calls: ClusterClient::unpaced(client.clone()), watches: client }
    }

    /// Namespaces that bear `label`, with its values, by name.
    pub async fn namespaces(&self, label: &str) -> Result<Vec<(String, String)>, OutsideError> {
        let call = Call::get("list namespaces", "/api/v1/namespaces").query("labelSelector", label);
        let found: Vec<Value> = self.calls.list(&call).await?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut named: Vec<(String, String)> = found
            .iter()
            .map(|one| (text(&one["metadata"]["name"]), text(&one["metadata"]["labels"][label])))
            .collect();
        named.sort();
        Ok(named)
    }

    /// All ClusterMigrations of all namespaces.
    pub async fn migrations(&self) -> Result<Vec<Value>, OutsideError> {
        self.calls.list(&Call::get("list migrations", format!("{BASE}/{PLURAL}"))).await
    }

    /// Makes an object; `Exists` if there is one of that name.
    pub async fn create(&self, namespace: &str, body: Value) -> Result<Value, OutsideError> {
        let path = format!("{BASE}/namespaces/{namespace}/{PLURAL}");
        let call = Call::new("create migration", Method::POST, path)
            .query("fieldManager", "zcpd")
            .json(body);
        self.calls.read(&call).await
    }

    /// Changes an object by a merge patch. One that names a resource version is refused as `Busy`
    /// when the object has another by now.
    pub async fn patch(&self, name: ObjectName<'_>, body: Value) -> Result<Value, OutsideError> {
        let call = Call::new("patch migration", Method::PATCH, name.path())
            .query("fieldManager", "zcpd")
            .merge_patch(body);
        self.calls.read(&call).await
    }

    /// Writes the status of the object of that uid.
    pub async fn write_status(
        &self,
        name: ObjectName<'_>,
        (uid, status): (&str, Value),
    ) -> Result<(), OutsideError> {
        let body = json!({
            "apiVersion": "zcp.io/v1alpha1",
            "kind": "ClusterMigration",
            "metadata": {"name": name.name, "namespace": name.namespace, "uid": uid},
            "status": status,
        });
        let path = format!("{}/status", name.path());
        let call = Call::new("write status of migration", Method::PATCH, path).apply(body);
        self.calls.expect(&call).await.map(drop)
    }

    /// Where a watch can begin.
    pub async fn revision(&self) -> Result<String, OutsideError> {
        let path = format!("{BASE}/{PLURAL}");
        let call = Call::get("read the revision of migrations", path).query("limit", "1");
        let list: Value = self.calls.read(&call).await?;
        Ok(list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned())
    }

    /// Calls `tell` for each change after `revision`, until the watch ends. Returns where the next
    /// one can begin; an error (`Absent` when that history is gone) means: list again.
    pub async fn watch(
        &self,
        mut revision: String,
        mut tell: impl FnMut(Seen),
    ) -> Result<String, OutsideError> {
        let path = format!(
            "{BASE}/{PLURAL}?watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}\
             &resourceVersion={revision}"
        );
        let request = http::Request::get(path).body(Vec::new());
        let request = request.map_err(|error| unwatched(error.to_string()))?;
        let events = self.watches.request_events::<Watched>(request).await;
        let events = events.map_err(|error| unwatched(error.to_string()))?;
        futures::pin_mut!(events);
        while let Some(event) =
            events.try_next().await.map_err(|error| unwatched(error.to_string()))?
        {
            match event {
                WatchEvent::Added(one) | WatchEvent::Modified(one) => {
                    revision.clone_from(&one.metadata.resource_version);
                    tell(one.seen(false));
                }
                WatchEvent::Deleted(one) => {
                    revision.clone_from(&one.metadata.resource_version);
                    tell(one.seen(true));
                }
                WatchEvent::Bookmark(mark) => revision = mark.metadata.resource_version,
                WatchEvent::Error(status) => return Err(unwatched(status.message)),
            }
        }
        Ok(revision)
    }
}

#[derive(Debug, Clone, Deserialize)]
struct Watched {
    metadata: WatchedMetadata,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WatchedMetadata {
    #[serde(default)]
    uid: String,
    #[serde(default)]
    generation: i64,
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    deletion_timestamp: Option<String>,
}

impl Watched {
    fn seen(self, is_gone: bool) -> Seen {
        Seen {
            is_leaving: is_gone || self.metadata.deletion_timestamp.is_some(),
            uid: self.metadata.uid,
            generation: self.metadata.generation,
        }
    }
}

fn refuse_programs(kubeconfig: &Kubeconfig) -> Result<(), OutsideError> {
    for user in &kubeconfig.auth_infos {
        let Some(info) = &user.auth_info else { continue };
        let plugin = match (&info.exec, &info.auth_provider) {
            (Some(_), _) => "exec",
            (_, Some(_)) => "auth-provider",
            _ => continue,
        };
        return Err(unusable(format!(
            "user {} runs a program ({plugin}), and zcpd starts none: give it a client certificate \
             or a token, such as that of a service account",
            user.name
        )));
    }
    Ok(())
}

fn unusable(message: String) -> OutsideError {
    OutsideError::new(OutsideKind::Invalid, "kubernetes read the management kubeconfig", message)
}

fn unwatched(message: String) -> OutsideError {
    OutsideError::new(OutsideKind::Transient, "kubernetes watch migrations", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kubeconfig(user: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: m\n\
             clusters: [{{name: m, cluster: {{server: 'https://m.test:6443'}}}}]\n\
             contexts: [{{name: m, context: {{cluster: m, user: u}}}}]\n\
             users: [{{name: u, user: {user}}}]\n"
        )
    }

    #[tokio::test]
    async fn a_kubeconfig_that_runs_a_program_is_refused_by_name() {
        let _set_before = rustls::crypto::aws_lc_rs::default_provider().install_default();
        for (user, word) in [
            ("{exec: {apiVersion: client.authentication.k8s.io/v1, command: aws}}", "(exec)"),
            ("{auth-provider: {name: gcp, config: {}}}", "(auth-provider)"),
        ] {
            let error = ManagementClient::from_kubeconfig(&kubeconfig(user)).await.unwrap_err();
            assert!(error.message.contains("user u runs a program"), "{error}");
            assert!(error.message.contains(word), "{error}");
        }
        ManagementClient::from_kubeconfig(&kubeconfig("{token: abc}")).await.unwrap();
        assert!(ManagementClient::from_kubeconfig("no: kubeconfig").await.is_err());
    }
}
