//! How a tenant cluster is reached: by TLS with a client certificate, or in process in tests.
//!
//! A client costs 30 KiB idle and 70 KiB connected, and 1.7 ms to build, so the [`Connector`] keeps
//! the most recently used ones and forgets the rest.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use secrecy::{ExposeSecret as _, SecretString};
use tower::ServiceExt as _;
use url::Url;

use super::pace::Pace;
use crate::clock::SharedClock;
use crate::domain::ids::ClusterId;
use crate::domain::outside::{OutsideError, OutsideKind};

/// Clients kept by a connector: about 140 MiB if all are connected.
const CLIENTS_KEPT: usize = 2_000;
/// An API server that takes longer than this to accept a connection is down.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Silence on a connection. Below the total limit of a call, so that the cause is named.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(25);

/// Where a cluster's API server is and how we prove who we are.
#[derive(Clone)]
pub struct ClusterAccess {
    /// `https://VIP:6443`.
    pub endpoint: Url,
    /// The cluster's CA.
    pub ca_pem: String,
    /// Our client certificate.
    pub client_cert_pem: String,
    /// The key of our client certificate.
    pub client_key_pem: SecretString,
    /// The cloud's API proxy, if its networks cannot be reached directly.
    pub proxy: Option<Url>,
}

impl fmt::Debug for ClusterAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterAccess")
            .field("endpoint", &self.endpoint.as_str())
            .field("proxied", &self.proxy.is_some())
            .finish_non_exhaustive()
    }
}

/// Finds the API server behind an access, for tests without sockets. `None` is a refused
/// connection; it is asked anew for each call.
pub type InProcess = Arc<dyn Fn(&ClusterAccess) -> Option<axum::Router> + Send + Sync>;

/// Talks to one cluster. Cheap to clone.
#[derive(Clone)]
pub struct ClusterClient {
    pub(super) client: kube::Client,
    pub(super) pace: Pace,
}

impl ClusterClient {
    /// A client whose calls are told one by one that the server has too much to do.
    pub(super) fn unpaced(client: kube::Client) -> Self {
        Self { client, pace: Pace::new(None) }
    }
}

impl fmt::Debug for ClusterClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterClient")
    }
}

/// Makes clients, and keeps them by cluster and generation of its access.
#[derive(Clone)]
pub struct Connector {
    way: Way,
    clock: Option<SharedClock>,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Clone)]
enum Way {
    Network,
    InProcess(InProcess),
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.way {
            Way::Network => "Connector(network)",
            Way::InProcess(_) => "Connector(in process)",
        })
    }
}

impl Connector {
    /// Connects over the network.
    pub fn network() -> Self {
        Self::new(Way::Network)
    }

    /// Hands every request to the router that `find` gives for an access.
    pub fn in_process(find: InProcess) -> Self {
        Self::new(Way::InProcess(find))
    }

    fn new(way: Way) -> Self {
        Self { way, clock: None, kept: Arc::default() }
    }

    /// Lets an API server that has too much to do slow down all calls to its cluster; without a
    /// clock each call is told by itself.
    #[must_use]
    pub fn with_clock(self, clock: SharedClock) -> Self {
        Self { clock: Some(clock), ..self }
    }

    /// The kept client of a cluster, if it was made for this generation of the access.
    pub fn kept(&self, cluster: ClusterId, generation: u64) -> Option<ClusterClient> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).find(cluster, generation)
    }

    /// A client for a cluster; kept until a newer generation of the access replaces it.
    ///
    /// Needs a runtime, though it does not connect yet.
    pub fn connect(
        &self,
        cluster: ClusterId,
        generation: u64,
        access: &ClusterAccess,
    ) -> Result<ClusterClient, OutsideError> {
        if let Some(client) = self.kept(cluster, generation) {
            return Ok(client);
        }
        let client = match &self.way {
            Way::Network => network_client(access)?,
            Way::InProcess(find) => in_process_client(Arc::clone(find), access.clone()),
        };
        let client = ClusterClient { client, pace: Pace::new(self.clock.clone()) };
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).keep(
            cluster,
            generation,
            client.clone(),
        );
        Ok(client)
    }

    /// Forgets the client of a cluster that is gone.
    pub fn forget(&self, cluster: ClusterId) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clients.remove(&cluster);
    }
}

/// Clients by cluster, with the count of uses at their last use.
#[derive(Default)]
struct Kept {
    uses: u64,
    clients: BTreeMap<ClusterId, KeptClient>,
}

struct KeptClient {
    generation: u64,
    last_use: u64,
    client: ClusterClient,
}

impl Kept {
    fn find(&mut self, cluster: ClusterId, generation: u64) -> Option<ClusterClient> {
        self.uses += 1;
        let kept = self.clients.get_mut(&cluster).filter(|kept| kept.generation == generation)?;
        kept.last_use = self.uses;
        Some(kept.client.clone())
    }

    fn keep(&mut self, cluster: ClusterId, generation: u64, client: ClusterClient) {
        self.uses += 1;
        self.clients.insert(cluster, KeptClient { generation, last_use: self.uses, client });
        if self.clients.len() > CLIENTS_KEPT {
            let oldest = self.clients.iter().min_by_key(|(_, kept)| kept.last_use);
            if let Some(id) = oldest.map(|(id, _)| *id) {
                self.clients.remove(&id);
            }
        }
    }
}

fn in_process_client(find: InProcess, access: ClusterAccess) -> kube::Client {
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let router = find(&access);
        async move {
            let Some(router) = router else {
                return Err(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
            };
            match router.oneshot(request).await {
                Ok(response) => Ok(response),
                Err(never) => match never {},
            }
        }
    });
    kube::Client::new(service, "default")
}

fn network_client(access: &ClusterAccess) -> Result<kube::Client, OutsideError> {
    kube::Client::try_from(config(access)?).map_err(|error| unusable(error.to_string()))
}

fn config(access: &ClusterAccess) -> Result<kube::Config, OutsideError> {
    let uri =
        |url: &Url| url.as_str().parse::<http::Uri>().map_err(|error| unusable(error.to_string()));
    let mut config = kube::Config::new(uri(&access.endpoint)?);
    config.root_cert = Some(certificates(&access.ca_pem)?);
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    config.default_retry = false;
    config.proxy_url = access.proxy.as_ref().map(uri).transpose()?;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    config.auth_info.client_certificate_data = Some(encode(&access.client_cert_pem));
    config.auth_info.client_key_data = Some(encode(access.client_key_pem.expose_secret()).into());
    Ok(config)
}

fn certificates(pem: &str) -> Result<Vec<Vec<u8>>, OutsideError> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes())
        .map(|certificate| certificate.map(|der| der.to_vec()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unusable(format!("read the cluster's CA: {error}")))?;
    if certificates.is_empty() {
        return Err(unusable("the cluster's CA holds no certificate".to_owned()));
    }
    Ok(certificates)
}

fn unusable(message: String) -> OutsideError {
    OutsideError::new(OutsideKind::Invalid, "kubernetes connect", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::call::tests::{access, cluster};

    #[tokio::test]
    async fn a_client_is_kept_until_its_access_changes() {
        let connector = Connector::in_process(Arc::new(|_| None));
        connector.connect(cluster(1), 1, &access()).unwrap();
        assert!(connector.kept(cluster(1), 1).is_some());
        assert!(connector.kept(cluster(1), 2).is_none());
        connector.connect(cluster(1), 2, &access()).unwrap();
        assert!(connector.kept(cluster(1), 1).is_none());
        connector.forget(cluster(1));
        assert!(connector.kept(cluster(1), 2).is_none());
    }

    #[tokio::test]
    async fn the_client_unused_for_longest_is_forgotten_first() {
        let connector = Connector::in_process(Arc::new(|_| None));
        let count = u128::try_from(CLIENTS_KEPT).unwrap();
        for n in 0..count {
            connector.connect(cluster(n), 1, &access()).unwrap();
        }
        assert!(connector.kept(cluster(0), 1).is_some());
        connector.connect(cluster(count), 1, &access()).unwrap();
        assert!(connector.kept(cluster(0), 1).is_some());
        assert!(connector.kept(cluster(1), 1).is_none());
    }

    #[tokio::test]
    async fn an_access_that_makes_no_sense_is_invalid() {
        let wrong = ClusterAccess { ca_pem: "no certificate".into(), ..access() };
        let error = Connector::network().connect(cluster(1), 1, &wrong).unwrap_err();
        assert_eq!(error.kind, OutsideKind::Invalid);
    }

    #[test]
    fn debug_shows_no_key() {
        assert!(!format!("{:?}", access()).contains("very secret"));
    }
}
