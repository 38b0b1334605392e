//! Behaviour of the client against small hand-written clouds.

mod calls;
mod login;
mod network;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::{Budget, CloudAuth, CloudClient, Credential, Limits, Transport, Wiring};
use crate::clock::{ManualClock, SeededIds};
use crate::domain::cloud::Interface;

/// What a hand-written cloud counts and decides.
#[derive(Default)]
struct Cloud {
    logins: AtomicU32,
    /// Calls that got past the token check.
    served: AtomicU32,
    /// Calls that were refused for their token.
    stale: AtomicU32,
}

impl Cloud {
    fn logins(&self) -> u32 {
        self.logins.load(Ordering::SeqCst)
    }

    fn served(&self) -> u32 {
        self.served.load(Ordering::SeqCst)
    }

    /// Whether the call carries the newest token.
    fn admits(&self, headers: &HeaderMap) -> bool {
        let newest = format!("token-{}", self.logins());
        let is_newest = headers.get("x-auth-token").is_some_and(|token| token == newest.as_str());
        (if is_newest { &self.served } else { &self.stale }).fetch_add(1, Ordering::SeqCst);
        is_newest
    }
}

/// Keystone and Nova's version document, plus `more`.
fn cloud_router(cloud: &Arc<Cloud>, more: Router<Arc<Cloud>>) -> Router {
    Router::new()
        .route("/v3/auth/tokens", post(log_in))
        .route("/compute/v2.1/", get(versions))
        .merge(more)
        .with_state(Arc::clone(cloud))
}

async fn log_in(State(cloud): State<Arc<Cloud>>) -> Response {
    // Lets the others run, as a real login would.
    tokio::task::yield_now().await;
    let number = cloud.logins.fetch_add(1, Ordering::SeqCst) + 1;
    let token = format!("token-{number}");
    (StatusCode::CREATED, [("x-subject-token", token)], Json(token_body())).into_response()
}

fn token_body() -> Value {
    let service = |kind: &str, url: &str| {
        let endpoint = json!({"interface": "public", "region": "One", "region_id": "One",
            "url": url});
        json!({"type": kind, "name": kind, "endpoints": [endpoint]})
    };
    json!({"token": {
        "user": {"id": "u1", "name": "zcp"},
        "project": {"id": "p1", "name": "clusters"},
        "roles": [{"id": "r1", "name": "member"}],
        "issued_at": "2026-08-01T10:00:00.000000Z",
        "expires_at": "2026-08-01T11:00:00.000000Z",
        "catalog": [
            service("compute", "http://cloud.test/compute/v2.1/p1"),
            service("network", "http://cloud.test/network"),
            service("image", "http://cloud.test/image"),
        ],
    }})
}

async fn versions() -> Json<Value> {
    Json(json!({"version": {"id": "v2.1", "version": "2.93", "min_version": "2.1"}}))
}

fn auth(url: &str) -> CloudAuth {
    CloudAuth {
        auth_url: url.parse().expect("a URL"),
        region: "One".to_owned(),
        interface: Interface::Public,
        credential: Credential::ApplicationCredential {
            id: "ac1".to_owned(),
            secret: SecretString::from("secret"),
        },
        ca_pem: None,
    }
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new("2026-08-01T10:00:00Z".parse::<Timestamp>().expect("a time")))
}

fn client_over(transport: Transport, clock: &Arc<ManualClock>) -> CloudClient {
    let limits = Limits { breaker_after: 100, ..Limits::unlimited() };
    let wiring = Wiring {
        transport,
        budget: Budget::new(limits, clock.clone()),
        clock: clock.clone(),
        ids: Arc::new(SeededIds::new(1)),
        observer: None,
    };
    CloudClient::new("east", auth("http://cloud.test/"), wiring)
}

/// A client for a cloud that has `more` besides Keystone, and that cloud.
fn client_for(more: Router<Arc<Cloud>>) -> (CloudClient, Arc<Cloud>) {
    let cloud = Arc::new(Cloud::default());
    let transport = Transport::in_process(cloud_router(&cloud, more));
    (client_over(transport, &clock()), cloud)
}
