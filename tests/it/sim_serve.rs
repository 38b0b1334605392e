//! The simulation as a process: sockets, files, and going on after a restart.

#![expect(clippy::unwrap_used, reason = "a test ends where it panics")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use jiff::SignedDuration;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use zcp::bootstrap::bundle::Bundle;
use zcp::bootstrap::pki::{Authority, ClusterPki, Validity};
use zcp::clock::{Clock as _, Ids as _, SystemClock, SystemIds};
use zcp::sim::serve::{SimAddresses, SimSettings, serve};
use zcp::sim::{Timing, WorldSettings};

use super::sim_guests::Recipe;

/// A simulation that runs in a folder of its own.
struct Running {
    stop: CancellationToken,
    ended: tokio::task::JoinHandle<()>,
    addresses: SimAddresses,
}

impl Running {
    async fn in_folder(folder: &Path) -> Self {
        let stop = CancellationToken::new();
        let settings = SimSettings {
            is_stored: true,
            state: folder.to_owned(),
            world: WorldSettings::with_timing(Timing::instant()),
            speed: 1.0,
            control_port: 0,
            faults: None,
        };
        let cancel = stop.clone();
        let served = tokio_util::task::TaskTracker::new()
            .spawn(async move { serve(settings, Arc::new(SystemClock), cancel).await.unwrap() });
        let path = folder.join("sim.json");
        for _ in 0..500 {
            if let Ok(bytes) = tokio::fs::read(&path).await {
                let addresses = serde_json::from_slice(&bytes).unwrap();
                return Self { stop, ended: served, addresses };
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the simulation does not listen");
    }

    async fn end(self) {
        self.stop.cancel();
        self.ended.await.unwrap();
    }

    async fn token(&self) -> String {
        let default = json!({"id": "default"});
        let body = json!({"auth": {
            "identity": {"methods": ["password"], "password": {
                "user": {"name": "kaas", "domain": default, "password": "lab"}}},
            "scope": {"project": {"name": "kaas", "domain": default}},
        }});
        let url = format!("{}/identity/v3/auth/tokens", self.addresses.clouds["east"]);
        let answer = client().post(url).json(&body).send().await.unwrap();
        answer.headers()["x-subject-token"].to_str().unwrap().to_owned()
    }

    async fn post(&self, token: &str, path: &str, body: Value) -> Value {
        let url = format!("{}{path}", self.addresses.clouds["east"]);
        let request = client().post(url).header("x-auth-token", token).json(&body);
        request
            .header("openstack-api-version", "compute 2.79")
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap()
    }

    async fn first(&self, token: &str, path: &str, list: &str) -> Value {
        let url = format!("{}{path}", self.addresses.clouds["east"]);
        let answer = client().get(url).header("x-auth-token", token).send().await.unwrap();
        answer.json::<Value>().await.unwrap()[list][0].clone()
    }

    async fn ports(&self, token: &str) -> Value {
        let url = format!("{}/network/v2.0/ports", self.addresses.clouds["east"]);
        let answer = client().get(url).header("x-auth-token", token).send().await.unwrap();
        answer.json().await.unwrap()
    }
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

fn folder() -> PathBuf {
    std::env::temp_dir().join(format!("zcp-sim-{}", SystemIds.uuid()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_simulation_has_its_addresses_and_its_world() {
    let folder = folder();
    let first = Running::in_folder(&folder).await;
    let token = first.token().await;
    let url = format!("{}/network/v2.0", first.addresses.clouds["east"]);
    let networks: Value = client()
        .get(format!("{url}/networks"))
        .header("x-auth-token", &token)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let port = json!({"port": {"network_id": networks["networks"][0]["id"], "name": "kept"}});
    let made = client().post(format!("{url}/ports")).header("x-auth-token", &token).json(&port);
    assert_eq!(made.send().await.unwrap().status().as_u16(), 201);
    let addresses = first.addresses.clone();
    first.end().await;

    let second = Running::in_folder(&folder).await;
    assert_eq!(second.addresses, addresses);
    assert_eq!(second.ports(&token).await["ports"][0]["name"], "kept");
    let yaml = tokio::fs::read_to_string(folder.join("clouds.yaml")).await.unwrap();
    assert!(yaml.contains("west-app"), "{yaml}");
    second.end().await;
    tokio::fs::remove_dir_all(&folder).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dark_cloud_cuts_connections_until_it_is_switched_on() {
    let folder = folder();
    let sim = Running::in_folder(&folder).await;
    let token = sim.token().await;
    let url = format!("{}/_sim/clouds/east/faults", sim.addresses.control);
    let dark = client().put(&url).json(&json!({"power": "refusing"})).send().await.unwrap();
    assert_eq!(dark.status().as_u16(), 200);
    let ports = format!("{}/network/v2.0/ports", sim.addresses.clouds["east"]);
    assert!(client().get(ports).header("x-auth-token", &token).send().await.is_err());
    client().put(&url).json(&json!({})).send().await.unwrap();
    assert_eq!(sim.ports(&token).await["ports"], json!([]));
    let truth: Value = client()
        .get(format!("{}/_sim/truth", sim.addresses.control))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(truth["servers"], json!([]));
    sim.end().await;
    tokio::fs::remove_dir_all(&folder).await.unwrap();
}

/// Serves one router on one TLS connection after another; tells who came.
async fn serve_bundles(
    listener: tokio::net::TcpListener,
    config: rustls::ServerConfig,
    router: Router,
) -> std::net::SocketAddr {
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let (stream, peer) = listener.accept().await.unwrap();
    let stream = acceptor.accept(stream).await.unwrap();
    let service =
        hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            router.clone().oneshot(request.map(Body::new))
        });
    let io = hyper_util::rt::TokioIo::new(stream);
    let builder =
        hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
    // The guest hangs up when it has its answer.
    let _ended = builder.serve_connection(io, service).await;
    peer
}

fn tls(authority: &Authority) -> rustls::ServerConfig {
    let validity = Validity { now: SystemClock.now(), lifetime: SignedDuration::from_hours(1) };
    let issued = authority.issue_server(&["127.0.0.1".to_owned()], validity).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.expose_secret().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    builder.with_no_client_auth().with_single_cert(chain, key).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_fetches_over_tls_from_its_own_address_and_its_api_answers_on_the_vip() {
    let folder = folder();
    let sim = Running::in_folder(&folder).await;
    let token = sim.token().await;
    let network = sim.first(&token, "/network/v2.0/networks", "networks").await;
    let port = json!({"port": {"network_id": network["id"]}});
    let vip = sim.post(&token, "/network/v2.0/ports", port.clone()).await;
    let own = sim.post(&token, "/network/v2.0/ports", port).await;
    let address =
        |port: &Value| port["port"]["fixed_ips"][0]["ip_address"].as_str().unwrap().to_owned();

    let pki = ClusterPki::generate(SystemClock.now()).unwrap();
    let authority = Authority::generate("node listener", SystemClock.now()).unwrap();
    let bundle = serde_json::to_string(&Bundle::new(&pki)).unwrap();
    let router = Router::new().route("/node/v1/bundle", post(move || async move { bundle }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/node/v1/bundle", listener.local_addr().unwrap());
    let recipe = Recipe {
        vip: address(&vip).parse().unwrap(),
        url: url.parse().unwrap(),
        listener_ca: authority.cert_pem().to_owned(),
        pki,
    };
    let server = json!({"server": {
        "name": "c-cp-1", "networks": [{"port": own["port"]["id"]}],
        "flavorRef": sim.first(&token, "/compute/v2.1/flavors/detail", "flavors").await["id"],
        "imageRef": sim.first(&token, "/image/v2/images", "images").await["id"],
        "user_data": recipe.member_data("c-cp-1", true),
    }});
    let made = sim.post(&token, "/compute/v2.1/servers", server).await;
    assert!(made["server"]["id"].is_string(), "{made}");
    let served = serve_bundles(listener, tls(&authority), router);
    let peer = tokio::time::timeout(Duration::from_secs(20), served).await.unwrap();
    assert_eq!(peer.ip().to_string(), address(&own));

    let ca = reqwest::Certificate::from_pem(recipe.pki.cluster.cert_pem().as_bytes()).unwrap();
    let inside = reqwest::Client::builder().no_proxy().tls_certs_only([ca]).build().unwrap();
    let url = format!("https://{}/version", recipe.endpoint());
    let mut last = None;
    for _ in 0..500 {
        match inside.get(&url).send().await {
            Ok(answer) => {
                let version: Value = answer.json().await.unwrap();
                assert_eq!(version["gitVersion"].as_str().unwrap().get(..3), Some("v1."));
                sim.end().await;
                tokio::fs::remove_dir_all(&folder).await.unwrap();
                return;
            }
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the API does not answer: {last:?}");
}
