//! What only a real socket shows: redirects, dead hosts, certificates.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::openstack::{Timeouts, Transport, TransportErrorKind};

fn request(url: &str) -> http::Request<Bytes> {
    http::Request::get(url).header("x-auth-token", "t").body(Bytes::new()).expect("a request")
}

fn network(ca: Option<&str>) -> Transport {
    Transport::network(ca, Timeouts::default()).expect("a transport")
}

async fn serve(tasks: &mut JoinSet<()>, router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tasks.spawn(async move { axum::serve(listener, router).await.expect("serves") });
    address
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let mut tasks = JoinSet::new();
    let visits = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&visits);
    let elsewhere = Router::new().fallback(move || async move {
        counter.fetch_add(1, Ordering::SeqCst);
        "stolen"
    });
    let elsewhere = serve(&mut tasks, elsewhere).await;
    let target = format!("http://{elsewhere}/");
    let redirect = get(move || async move { (StatusCode::FOUND, [("location", target)]) });
    let here = serve(&mut tasks, Router::new().route("/", redirect)).await;
    let answer = network(None).send(request(&format!("http://{here}/"))).await.expect("an answer");
    assert_eq!(answer.status(), StatusCode::FOUND);
    assert_eq!(visits.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_host_that_is_not_there_was_not_sent_anything() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let error = network(None).send(request(&format!("http://{address}/"))).await;
    let error = error.expect_err("nobody listens");
    assert_eq!(error.kind, TransportErrorKind::NotSent);
    assert!(error.message.contains(&format!("{address} cannot be reached")), "{error}");
}

#[tokio::test]
async fn a_connection_that_breaks_after_the_request_is_unclear() {
    let mut tasks = JoinSet::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tasks.spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut start = [0; 16];
        let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut start).await;
    });
    let error = network(None).send(request(&format!("http://{address}/"))).await;
    assert_eq!(error.expect_err("it broke").kind, TransportErrorKind::Unclear);
}

/// A server with a certificate for `name` that ends in `year`; its address and its CA.
async fn serve_tls(tasks: &mut JoinSet<()>, name: &str, year: i32) -> (SocketAddr, String) {
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).expect("signs").pem();
    let issuer = Issuer::new(ca, ca_key);
    let mut leaf = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    leaf.not_after = rcgen::date_time_ymd(year, 1, 1);
    let key = KeyPair::generate().expect("a key");
    let certificate = leaf.signed_by(&key, &issuer).expect("signs").der().clone();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a good pair");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // The client ends the handshake; only its side is looked at.
            let _ = acceptor.accept(stream).await;
        }
    });
    (address, ca_pem)
}

#[tokio::test]
async fn a_certificate_fault_is_told_by_its_cause() {
    let mut tasks = JoinSet::new();
    for (name, year, is_trusted, words) in [
        ("127.0.0.1", 2020, true, "expired"),
        ("127.0.0.1", 2090, false, "not signed by a trusted CA"),
        ("other.example", 2090, true, "another host name"),
    ] {
        let (address, ca) = serve_tls(&mut tasks, name, year).await;
        let (_, other_ca) = serve_tls(&mut tasks, name, year).await;
        let trusted = if is_trusted { &ca } else { &other_ca };
        let sent = network(Some(trusted)).send(request(&format!("https://{address}/"))).await;
        let error = sent.expect_err("a bad certificate");
        assert_eq!(error.kind, TransportErrorKind::NotSent, "{error}");
        assert!(error.message.starts_with(&format!("TLS to {address} failed: ")), "{error}");
        assert!(error.message.contains(words), "{error}");
    }
}

#[test]
fn a_ca_that_is_none_is_refused_at_once() {
    for text in ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        assert!(Transport::network(Some(text), Timeouts::default()).is_err(), "{text:?}");
    }
}
