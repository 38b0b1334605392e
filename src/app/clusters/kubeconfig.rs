//! Short-lived kubeconfigs.

use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use serde_json::json;

use super::{keys, seen, subject};
use crate::app::act::Act;
use crate::app::authz::Action;
use crate::app::{App, Ask, Error};
use crate::bootstrap::kubeconfig::{KubeconfigParts, kubeconfig as render};
use crate::bootstrap::pki::{ClientName, Validity};
use crate::domain::ids::ClusterId;
use crate::domain::node::Desired;
use crate::store::clusters;

/// Shortest and longest life. It can't be taken back, so it ends within a day.
const LIFETIMES: std::ops::RangeInclusive<u32> = 300..=86_400;
const DEFAULT_LIFETIME: u32 = 3600;
/// Kubernetes lets this group do everything.
const ADMIN_GROUP: &str = "system:masters";

/// A kubeconfig.
#[derive(Debug)]
pub struct KubeconfigView {
    /// The file.
    pub text: SecretString,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// Issues a kubeconfig.
pub async fn kubeconfig(
    app: &App,
    ask: &Ask,
    id: ClusterId,
    lifetime_seconds: Option<u32>,
) -> Result<KubeconfigView, Error> {
    let seconds = lifetime_seconds.unwrap_or(DEFAULT_LIFETIME);
    let mut act = Act::begin(app, ask).await?;
    let cluster = seen(clusters::find(&mut *act.tx, id).await?, &ask.caller, id)?;
    ask.caller.may(Action::TakeKubeconfig)?;
    if !LIFETIMES.contains(&seconds) {
        return Err(Error::field("lifetime_seconds", "must be 300 to 86400"));
    }
    let Some(server) = cluster.endpoint().filter(|_| cluster.desired == Desired::Present) else {
        return Err(Error::conflict(match cluster.desired {
            Desired::Present => "the cluster has no address yet: try again in a moment",
            Desired::Absent => "the cluster is being deleted",
        }));
    };
    let pki = keys::open(app, &mut act.tx, id).await?;
    let lifetime = SignedDuration::from_secs(i64::from(seconds));
    let name = ClientName { user: &ask.caller.actor(), group: Some(ADMIN_GROUP) };
    let client = pki.cluster.issue_client(name, Validity { now: act.now, lifetime });
    let client = client.map_err(|error| Error::internal("issue a client certificate", error))?;
    let text = render(KubeconfigParts {
        cluster: &cluster.name,
        user: &ask.caller.name,
        server: &server,
        ca_pem: pki.cluster.cert_pem(),
        client: &client,
    });
    let expires_at = act.now + lifetime;
    let detail = json!({ "expires_at": expires_at });
    act.audit("cluster.kubeconfig", subject(&cluster), detail).await?;
    // Each is a new one: a repeated request gets another, never the same again.
    act.tx.commit().await.map_err(|error| Error::Store(error.into()))?;
    Ok(KubeconfigView { text, expires_at })
}
