//! Serving a cluster's API over TLS, with client certificates as identities.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::KubeCluster;
use super::api::Unanswered;
use super::auth::Caller;
use crate::clock::SharedClock;

/// Where and as whom to serve.
#[derive(Debug, Clone)]
pub struct TlsSettings {
    /// The address to listen on; a port of 0 lets the system choose.
    pub address: SocketAddr,
    /// The server's certificate chain.
    pub certificate_pem: String,
    /// The server's key.
    pub key_pem: String,
    /// Who signs client certificates.
    pub client_ca_pem: String,
    /// The clock whose time passes with each request.
    pub clock: SharedClock,
}

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is taken, or not ours.
    #[error("cannot listen on {0}")]
    Listen(SocketAddr, #[source] std::io::Error),
    /// A certificate or key cannot be read.
    #[error("cannot read the {0}")]
    Pem(&'static str, #[source] rustls::pki_types::pem::Error),
    /// The certificates do not fit together.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
}

impl KubeCluster {
    /// Serves the API until `stop` is cancelled; every connection is cut then. Answers once it
    /// listens, with the address.
    pub async fn serve_tls(
        self: &Arc<Self>,
        settings: TlsSettings,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<SocketAddr, ServeError> {
        let acceptor = TlsAcceptor::from(Arc::new(server_config(&settings)?));
        let unable = |error| ServeError::Listen(settings.address, error);
        let listener = TcpListener::bind(settings.address).await.map_err(unable)?;
        let address = listener.local_addr().map_err(unable)?;
        let router = self.router(Arc::clone(&settings.clock));
        tasks.spawn(accept(listener, acceptor, (router, tasks.clone(), stop)));
        Ok(address)
    }
}

fn server_config(settings: &TlsSettings) -> Result<ServerConfig, ServeError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = |error: &dyn std::fmt::Display| ServeError::Tls(error.to_string());
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&settings.client_ca_pem, "client CA")? {
        roots.add(certificate).map_err(|error| tls(&error))?;
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .map_err(|error| tls(&error))?;
    let chain = certificates(&settings.certificate_pem, "server certificate")?;
    let key = PrivateKeyDer::from_pem_slice(settings.key_pem.as_bytes())
        .map_err(|error| ServeError::Pem("server key", error))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| tls(&error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| tls(&error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(pem: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, ServeError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| ServeError::Pem(what, error))
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    rest: (Router, TaskTracker, CancellationToken),
) {
    let (router, tasks, stop) = rest;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        // A failed accept concerns one client (or a limit of files): the next may work.
        let Ok((stream, _)) = accepted else { continue };
        let (acceptor, router, stop) = (acceptor.clone(), router.clone(), stop.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = serve(stream, acceptor, router) => {}
            }
        });
    }
}

/// Serves one connection. Its failures are the client's to see.
async fn serve(stream: TcpStream, acceptor: TlsAcceptor, router: Router) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let caller = certificate.and_then(caller_of).unwrap_or_else(Caller::anonymous);
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let (router, caller) = (router.clone(), caller.clone());
        async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(caller);
            let Ok(response) = router.oneshot(request).await;
            if response.extensions().get::<Unanswered>().is_some() {
                return Err(std::io::Error::from(std::io::ErrorKind::ConnectionAborted));
            }
            Ok(response)
        }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection to a simulated API server ended early");
    }
}

/// Common name and organizations of a client certificate.
fn caller_of(certificate: &CertificateDer<'_>) -> Option<Caller> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let user = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject.iter_organization().filter_map(|one| one.as_str().ok()).map(str::to_owned);
    Some(Caller::certified(user, groups.collect()))
}
