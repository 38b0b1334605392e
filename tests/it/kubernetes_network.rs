//! The Kubernetes client over real sockets: TLS with the cluster's own authorities, and a proxy.

use std::net::SocketAddr;
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::ExposeSecret as _;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;
use zcp::bootstrap::pki::{Authority, Certified, ClientName, Validity};
use zcp::clock::{Clock as _, SystemClock};
use zcp::domain::ids::ClusterId;
use zcp::domain::outside::OutsideKind;
use zcp::kubernetes::{ClusterAccess, ClusterClient, Connector};

use crate::support::Result;

/// Sockets need the machine's clock: certificates are checked against it.
fn now() -> Timestamp {
    SystemClock.now()
}

fn validity() -> Validity {
    Validity { now: now(), lifetime: SignedDuration::from_hours(1) }
}

/// An API server that asks for a client certificate of its authority and knows one version.
struct ApiServer {
    authority: Authority,
    address: SocketAddr,
    tasks: TaskTracker,
}

impl ApiServer {
    async fn start() -> Result<Self> {
        let authority = Authority::generate("kubernetes", now())?;
        let server = authority.issue_server(&["127.0.0.1".to_owned()], validity())?;
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls(&authority, &server)?));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let tasks = TaskTracker::new();
        let children = tasks.clone();
        tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                children.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = hyper::service::service_fn(async |_| {
                        let body = Bytes::from_static(br#"{"gitVersion":"v1.36.2"}"#);
                        Ok::<_, std::io::Error>(hyper::Response::new(Full::new(body)))
                    });
                    let connection = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service);
                    let _ = connection.await;
                });
            }
        });
        Ok(Self { authority, address, tasks })
    }

    fn access(&self) -> Result<ClusterAccess> {
        let name = ClientName { user: "zcpd", group: Some("system:masters") };
        let client = self.authority.issue_client(name, validity())?;
        Ok(ClusterAccess {
            endpoint: format!("https://{}", self.address).parse()?,
            ca_pem: self.authority.cert_pem().to_owned(),
            client_cert_pem: client.cert_pem,
            client_key_pem: client.key_pem,
            proxy: None,
        })
    }
}

fn tls(authority: &Authority, server: &Certified) -> Result<rustls::ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.cert_pem().as_bytes())?)?;
    let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots),
        Arc::clone(&provider),
    )
    .build()?;
    let key = PrivateKeyDer::from_pem_slice(server.key_pem.expose_secret().as_bytes())?;
    let chain = vec![CertificateDer::from_pem_slice(server.cert_pem.as_bytes())?];
    Ok(rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)?)
}

fn connect(access: &ClusterAccess) -> Result<ClusterClient> {
    let cluster = ClusterId(uuid::Uuid::from_u128(1));
    Ok(Connector::network().connect(cluster, 1, access)?)
}

/// A proxy that takes one CONNECT after another and says where they went.
async fn proxy(tasks: &TaskTracker) -> Result<(SocketAddr, tokio::sync::mpsc::Receiver<String>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (sender, receiver) = tokio::sync::mpsc::channel(8);
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = BufReader::new(stream);
            let mut first = String::new();
            let mut line = String::new();
            let _ = stream.read_line(&mut first).await;
            while stream.read_line(&mut line).await.is_ok_and(|_| line != "\r\n") {
                line.clear();
            }
            let target = first.split(' ').nth(1).unwrap_or_default().to_owned();
            let Ok(mut upstream) = TcpStream::connect(&target).await else { continue };
            let _ = sender.send(target).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut upstream).await;
        }
    });
    Ok((address, receiver))
}

#[tokio::test]
async fn a_cluster_is_reached_with_certificates_of_its_own_authority() -> Result {
    let server = ApiServer::start().await?;
    let version = connect(&server.access()?)?.server_version().await?;
    assert_eq!(version, "v1.36.2");
    Ok(())
}

#[tokio::test]
async fn a_server_of_another_authority_is_not_spoken_to() -> Result {
    let server = ApiServer::start().await?;
    let other = Authority::generate("kubernetes", now())?;
    let access = ClusterAccess { ca_pem: other.cert_pem().to_owned(), ..server.access()? };
    let error = connect(&access)?.server_version().await.unwrap_err();
    assert_eq!(error.kind, OutsideKind::Denied, "{error}");
    Ok(())
}

#[tokio::test]
async fn a_closed_port_was_certainly_not_reached() -> Result {
    let server = ApiServer::start().await?;
    let closed = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let access =
        ClusterAccess { endpoint: format!("https://{closed}").parse()?, ..server.access()? };
    let error = connect(&access)?.delete_bootstrap_token("abc123").await.unwrap_err();
    assert_eq!(error.kind, OutsideKind::Transient, "{error}");
    Ok(())
}

#[tokio::test]
async fn a_cluster_behind_a_proxy_is_reached_through_it() -> Result {
    let server = ApiServer::start().await?;
    let (proxy, mut seen) = proxy(&server.tasks).await?;
    let access =
        ClusterAccess { proxy: Some(format!("http://{proxy}").parse()?), ..server.access()? };
    assert_eq!(connect(&access)?.server_version().await?, "v1.36.2");
    assert_eq!(seen.recv().await, Some(server.address.to_string()));
    Ok(())
}
