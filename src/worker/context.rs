//! What every reconciler works with.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use super::WorkError;
use super::clients::CloudClients;
use super::crash::{CrashPoints, Point};
use crate::bootstrap::pki::{Authority, ClientName, ClusterPki, KeyPairPem, Validity};
use crate::clock::{SharedClock, SharedIds};
use crate::domain::ids::{ClusterId, InstallId};
use crate::domain::outside::{OutsideError, OutsideKind};
use crate::kubernetes::ManagementClient;
use crate::kubernetes::client::{ClusterAccess, ClusterClient, Connector};
use crate::store::cluster_progress::{self, ClusterWork};
use crate::store::seal::{KeyRing, Place};
use crate::store::work::{self, Lease};
use crate::store::{Fenced, Store};

/// How long zcpd's own client certificate for a cluster is valid; a new one is made after half.
const ACCESS_LIFETIME_HOURS: i64 = 48;

/// How reconcilers behave.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long a server may take from the first call to a usable node. Default 20 min, as
    /// Machine Controller Manager's creation timeout.
    pub join_deadline: Duration,
    /// How long a server that may have been made is looked for before it is made again. Default
    /// 60 s: Nova's API answers for a request that its proxy gave up on within less.
    pub unclear_wait: Duration,
    /// How often servers of a busy account are listed, at least, and nodes of a busy cluster.
    /// Default 5 s.
    pub busy_period: Duration,
    /// How often an idle account's servers are listed. Default 60 s.
    pub servers_period: Duration,
    /// How often an idle cluster's nodes are listed. Default 120 s.
    pub nodes_period: Duration,
    /// How often a cloud's inventory is read. Default 5 min.
    pub inventory_period: Duration,
    /// How often orphans are looked for. Default 15 min.
    pub sweep_period: Duration,
    /// How long an orphan is known before it is deleted. Default 40 min: twice the join deadline.
    pub sweep_age: Duration,
    /// Time between two passes over nodes that are being drained while nothing on them moves; with
    /// jitter. Default 20 s, as Cluster API; while pods stop, `busy_period`.
    pub drain_pass: Duration,
    /// How long a node of a shrinking pool may take to drain before it is deleted anyway.
    /// Default 1 h.
    pub shrink_drain: Duration,
    /// Steps on different nodes that run at once. Default 8.
    pub parallel_steps: usize,
    /// kube-vip's image.
    pub kube_vip_image: String,
    /// What canaries try besides their cluster.
    pub canary: CanarySettings,
}

/// What canaries try besides their cluster; what is empty is not tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CanarySettings {
    /// URL of the registry that images come from.
    pub registry: String,
    /// Names that every node must resolve.
    pub names: Vec<String>,
    /// Time server; `local` asks the node whether its clock is in step with any.
    pub time: String,
    /// Image of the pod that tries the way back from an old node: needs a shell and `chroot`.
    pub probe_image: String,
}

impl Default for CanarySettings {
    /// What kubeadm's own images need.
    fn default() -> Self {
        Self {
            registry: "https://registry.k8s.io/v2/".to_owned(),
            names: vec!["registry.k8s.io".to_owned()],
            time: "local".to_owned(),
            probe_image: "registry.k8s.io/e2e-test-images/agnhost:2.53".to_owned(),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            join_deadline: Duration::from_mins(20),
            unclear_wait: Duration::from_mins(1),
            busy_period: Duration::from_secs(5),
            servers_period: Duration::from_mins(1),
            nodes_period: Duration::from_mins(2),
            inventory_period: Duration::from_mins(5),
            sweep_period: Duration::from_mins(15),
            sweep_age: Duration::from_mins(40),
            drain_pass: Duration::from_secs(20),
            shrink_drain: Duration::from_hours(1),
            parallel_steps: 8,
            kube_vip_image: "ghcr.io/kube-vip/kube-vip:v1.0.0".to_owned(),
            canary: CanarySettings::default(),
        }
    }
}

/// This installation, as servers see it.
#[derive(Debug, Clone)]
pub struct Installation {
    /// Marks everything that we make.
    pub id: InstallId,
    /// Where control-plane servers fetch their bundle.
    pub bundle_url: Url,
    /// The authority of that listener.
    pub node_ca_pem: String,
}

/// What every reconciler works with. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Context {
    /// The database.
    pub store: Store,
    /// Now.
    pub clock: SharedClock,
    /// Ids, secrets and jitter.
    pub ids: SharedIds,
    /// Opens and seals secrets.
    pub keys: Arc<KeyRing>,
    /// Clients of clouds.
    pub clouds: CloudClients,
    /// Clients of clusters.
    pub connector: Connector,
    /// The management cluster, if there is one.
    pub management: Option<ManagementClient>,
    /// Where tests kill.
    pub crash: CrashPoints,
    /// Who we are.
    pub installation: Arc<Installation>,
    /// How to behave.
    pub settings: Arc<Settings>,
}

impl Context {
    /// Now.
    pub fn now(&self) -> jiff::Timestamp {
        self.clock.now()
    }

    /// Begins a fenced transaction.
    pub async fn fenced(&self, lease: &Lease) -> Result<Fenced, WorkError> {
        Ok(self.store.fenced(lease).await?)
    }

    /// Makes one call outside, past the points where tests kill. The lease is looked at right
    /// before, since nobody outside checks our fence.
    pub async fn call<T>(
        &self,
        lease: &Lease,
        step: &'static str,
        call: impl Future<Output = Result<T, OutsideError>>,
    ) -> Result<Result<T, OutsideError>, WorkError> {
        debug_assert!(super::STEPS.contains(&step), "{step} is not in worker::STEPS");
        work::check(&self.store, lease).await?;
        self.crash.at(step, Point::BeforeCall).await?;
        let answer = call.await;
        self.crash.at(step, Point::AfterCall).await?;
        if let Err(error) = &answer {
            tracing::debug!(step, %error, kind = ?error.kind, "call outside was not a success");
        }
        self.crash.at(step, Point::BeforeRecord).await?;
        Ok(answer)
    }

    /// Has clouds checked now if one of them may not know our credential any more, so that all
    /// work on it stops, and goes on by itself when it does again.
    pub(super) async fn doubt(
        &self,
        lease: &Lease,
        clouds: &[crate::domain::ids::CloudId],
        error: &WorkError,
    ) -> Result<(), WorkError> {
        let WorkError::Outside(outside) = error else { return Ok(()) };
        if outside.kind != OutsideKind::Denied || outside.status != Some(401) {
            return Ok(());
        }
        let mut tx = self.fenced(lease).await?;
        for cloud in clouds {
            work::wake(&mut tx, work::WorkKind::Cloud, *cloud, self.now()).await?;
        }
        Ok(tx.commit().await?)
    }

    /// The cluster's PKI, opened.
    pub async fn pki(&self, cluster: ClusterId) -> Result<ClusterPki, WorkError> {
        let rows = cluster_progress::keys(self.store.pool(), cluster).await?;
        let pair = |kind: &'static str| -> Result<(String, SecretString), WorkError> {
            let (_, public, sealed) = rows
                .iter()
                .find(|(word, _, _)| word == kind)
                .ok_or_else(|| WorkError::internal(format!("cluster {cluster} has no {kind}")))?;
            let place = Place::new("cluster_keys", cluster.0, kind);
            let opened = self
                .keys
                .open(place, sealed)
                .map_err(|error| WorkError::internal(format!("open {kind}: {error}")))?;
            let text = String::from_utf8_lossy(&opened).into_owned();
            Ok((public.clone(), text.into()))
        };
        let authority = |kind| pair(kind).map(|(cert, key)| Authority::from_pem(cert, key));
        let (public_pem, private_pem) = pair("service_account")?;
        Ok(ClusterPki {
            cluster: authority("cluster_ca")?,
            front_proxy: authority("front_proxy_ca")?,
            etcd: authority("etcd_ca")?,
            service_account: KeyPairPem { public_pem, private_pem },
        })
    }

    /// A client of the cluster's API. It shows a certificate of its own, made anew before it ends.
    pub async fn cluster_client(&self, cluster: &ClusterWork) -> Result<ClusterClient, WorkError> {
        let half = ACCESS_LIFETIME_HOURS * 3600 / 2;
        let generation = u64::try_from(self.now().as_second() / half).unwrap_or(0);
        if let Some(client) = self.connector.kept(cluster.id, generation) {
            return Ok(client);
        }
        let address = cluster
            .vip_address
            .as_ref()
            .ok_or_else(|| WorkError::internal("the cluster has no endpoint yet"))?;
        let endpoint = Url::parse(&format!("https://{address}:6443"))
            .map_err(|error| WorkError::internal(format!("endpoint {address}: {error}")))?;
        let pki = self.pki(cluster.id).await?;
        let name = ClientName { user: "zcpd", group: Some("system:masters") };
        let lifetime = jiff::SignedDuration::from_hours(ACCESS_LIFETIME_HOURS);
        let client = pki
            .cluster
            .issue_client(name, Validity { now: self.now(), lifetime })
            .map_err(|error| WorkError::internal(format!("issue client certificate: {error}")))?;
        let proxy = self.clouds.api_proxy(&self.store, cluster.control_plane_cloud).await?;
        let access = ClusterAccess {
            endpoint,
            ca_pem: pki.cluster.cert_pem().to_owned(),
            client_cert_pem: client.cert_pem,
            client_key_pem: client.key_pem,
            proxy,
        };
        Ok(self.connector.connect(cluster.id, generation, &access)?)
    }
}
