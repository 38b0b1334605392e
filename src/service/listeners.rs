//! The two listeners: one for users, one for servers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use axum::serve::ListenerExt as _;
use jiff::SignedDuration;
use rustls::ServerConfig;
use secrecy::ExposeSecret as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

use super::installation::Own;
use super::{Foundation, REQUESTS_GRACE, ServiceError, doing};
use crate::bootstrap::pki::{Authority, Validity};
use crate::clock::SharedClock;
use crate::http::tls::{TlsListener, server_config};
use crate::telemetry::Metrics;

/// How long the node listener's certificate is valid.
const CERTIFICATE: SignedDuration = SignedDuration::from_hours(90 * 24);
/// How often it is made anew.
const RENEWAL: Duration = Duration::from_hours(30 * 24);

/// Serves users until `stop`, then lets open requests end.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
) -> std::io::Result<()> {
    // Small answers in many writes, each of which would otherwise wait for the one before.
    let listener = listener.tap_io(|stream| {
        let _slower = stream.set_nodelay(true);
    });
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let served = axum::serve(listener, service)
        .with_graceful_shutdown(stop.clone().cancelled_owned())
        .into_future();
    tokio::select! {
        served = served => served,
        () = ended(stop) => Ok(()),
    }
}

/// `stop`, and the time that open requests have after it.
async fn ended(stop: CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(REQUESTS_GRACE).await;
}

/// Begins to accept servers, with a certificate for the host of `url` that is renewed in time.
pub(super) fn node_listener(
    tcp: TcpListener,
    url: &Url,
    (foundation, own): (&Foundation, &Own),
    tasks: &TaskTracker,
) -> Result<TlsListener, ServiceError> {
    let local = tcp.local_addr().map_err(doing("read the node listener's address"))?;
    let issuer = Issuer {
        authority: Authority::from_pem(
            own.authority.cert_pem().to_owned(),
            own.authority.key_pem().clone(),
        ),
        names: names(url, local),
        clock: Arc::clone(&foundation.clock),
    };
    let (sender, config) = watch::channel(issuer.issue()?);
    let listener = TlsListener::start(tcp, config, tasks).map_err(doing("listen for servers"))?;
    tasks.spawn(issuer.renew(sender));
    Ok(listener)
}

/// Host of the advertised URL, and the address itself when it is one.
fn names(url: &Url, local: SocketAddr) -> Vec<String> {
    let host = url.host_str().unwrap_or_default();
    let mut names = vec![host.trim_matches(['[', ']']).to_owned()];
    let address = local.ip().to_string();
    if !local.ip().is_unspecified() && !names.contains(&address) {
        names.push(address);
    }
    names
}

struct Issuer {
    authority: Authority,
    names: Vec<String>,
    clock: SharedClock,
}

impl Issuer {
    fn issue(&self) -> Result<Arc<ServerConfig>, ServiceError> {
        let validity = Validity { now: self.clock.now(), lifetime: CERTIFICATE };
        let certified = self
            .authority
            .issue_server(&self.names, validity)
            .map_err(doing("issue the node listener's certificate"))?;
        server_config(&certified.cert_pem, certified.key_pem.expose_secret())
            .map_err(doing("use the node listener's certificate"))
    }

    async fn renew(self, sender: watch::Sender<Arc<ServerConfig>>) {
        loop {
            tokio::select! {
                () = sender.closed() => return,
                () = tokio::time::sleep(RENEWAL) => {}
            }
            match self.issue() {
                Ok(config) => {
                    let _nobody = sender.send(config);
                }
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::error!(error, "the node listener's certificate is not renewed");
                }
            }
        }
    }
}

/// Serves servers until `stop`.
pub(super) async fn serve_nodes(listener: TlsListener, router: Router, stop: CancellationToken) {
    // A tapped listener is what lets handlers see the peer's address.
    let listener = listener.tap_io(|_| {});
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let served = axum::serve(listener, service)
        .with_graceful_shutdown(stop.clone().cancelled_owned())
        .into_future();
    tokio::select! {
        served = served => {
            if let Err(error) = served {
                tracing::error!(%error, "the node listener has ended");
            }
        }
        () = ended(stop) => {}
    }
}

/// Health and metrics only, for processes without API.
pub(super) fn health_router(foundation: &Foundation, metrics: &Metrics) -> Router {
    let (store, metrics) = (foundation.app.store.clone(), metrics.clone());
    let ready = move || {
        let store = store.clone();
        async move {
            match store.ping().await {
                Ok(()) => StatusCode::OK,
                Err(_) => StatusCode::SERVICE_UNAVAILABLE,
            }
        }
    };
    let figures = move || async move {
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        ([(header::CONTENT_TYPE, kind)], metrics.text())
    };
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(figures))
}
