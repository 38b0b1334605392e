//! The listener for servers: TLS with a certificate of the installation's own authority.
//!
//! Handshakes run beside each other and beside accepting, so that a client that says nothing
//! keeps nobody waiting.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::TaskTracker;

/// A server in the same data centre needs milliseconds.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at one time; a wave of a hundred servers asks within seconds.
const HANDSHAKES: usize = 256;
/// After an error of `accept`, which is of the machine (no file left) and not of one client.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Certificate and key are no pair that TLS can use.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not PEM, or none in it.
    #[error("read the listener's certificate and key")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// They do not belong together.
    #[error("use the listener's certificate and key")]
    Pair(#[from] rustls::Error),
}

/// Settings of a TLS server with one certificate, for HTTP/1.1 and HTTP/2.
pub fn server_config(cert_pem: &str, key_pem: &str) -> Result<Arc<ServerConfig>, TlsError> {
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(cert_pem.as_bytes()).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())?;
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Accepts TLS connections. The certificate may change while it listens.
#[derive(Debug)]
pub struct TlsListener {
    accepted: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    local: SocketAddr,
}

impl TlsListener {
    /// Begins to accept on `tcp`, on a task of `tasks` that ends with this value.
    pub fn start(
        tcp: TcpListener,
        config: watch::Receiver<Arc<ServerConfig>>,
        tasks: &TaskTracker,
    ) -> io::Result<Self> {
        let local = tcp.local_addr()?;
        let (sender, accepted) = mpsc::channel(HANDSHAKES);
        tasks.spawn(accept_all((tcp, config), sender, tasks.clone()));
        Ok(Self { accepted, local })
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.accepted.recv().await {
            Some(accepted) => accepted,
            // The accepting task ended, which only a shutdown makes it do.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.local)
    }
}

async fn accept_all(
    (tcp, config): (TcpListener, watch::Receiver<Arc<ServerConfig>>),
    sender: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
    tasks: TaskTracker,
) {
    let slots = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = sender.closed() => return,
            accepted = tcp.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "no connection of a server can be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let acceptor = TlsAcceptor::from(config.borrow().clone());
        let sender = sender.clone();
        tasks.spawn(async move {
            let handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream));
            match handshake.await {
                Ok(Ok(stream)) => {
                    let _stopped = sender.send((stream, peer)).await;
                }
                Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake ended early"),
                Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
            }
            drop(slot);
        });
    }
}
