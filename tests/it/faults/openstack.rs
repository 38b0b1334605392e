//! Faults of a cloud and of the way to it, for the adapter alone: real sockets with a proxy in
//! between, and small clouds. What the whole service makes of them is in `clouds.rs`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use jiff::SignedDuration;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use zcp::clock::{ManualClock, SystemIds};
use zcp::domain::cloud::CloudSpec;
use zcp::domain::inventory::Inventory;
use zcp::domain::offering::OfferingSpec;
use zcp::domain::outside::OutsideKind;
use zcp::openstack::nova::ServerFilter;
use zcp::openstack::{Budget, CloudClient, Limits, Timeouts, Transport, Wiring, clouds_yaml};
use zcp::plan::resolve;
use zcp::sim::found::PASSWORD;
use zcp::sim::{Timing, World, WorldSettings};

use crate::contract::Subject;
use crate::support::proxy::{Proxy, Spoil, Upstream};

/// A cloud behind a real socket and a proxy, and a client that reaches it through that.
struct Bed {
    subject: Subject,
    world: Arc<World>,
    proxy: Proxy,
    clock: Arc<ManualClock>,
    _server: JoinSet<()>,
}

impl Bed {
    async fn new() -> Self {
        let (inside, world) =
            Subject::simulated("east", WorldSettings::with_timing(Timing::steady()));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let mut server = JoinSet::new();
        let router = world.cloud_router("east");
        server.spawn(async move { axum::serve(listener, router).await.expect("serves") });
        let proxy = Proxy::to(Upstream::Tcp(address)).await;
        let clock = Arc::new(ManualClock::new("2026-08-01T12:00:00Z".parse().expect("a time")));
        let subject = Subject { client: client(&proxy, &clock), ..inside };
        Self { subject, world, proxy, clock, _server: server }
    }
}

/// The catalog of the simulation names the host that was asked.
fn client(proxy: &Proxy, clock: &Arc<ManualClock>) -> CloudClient {
    let text = format!(
        "clouds: {{sim: {{region_name: east, auth: {{auth_url: 'http://{}/identity', \
         username: kaas, password: {PASSWORD}, project_name: kaas, domain_id: default}}}}}}",
        proxy.address
    );
    let auth = clouds_yaml::parse(&text, None, None).expect("a good entry");
    let wiring = Wiring {
        transport: Transport::network(None, Timeouts::default()).expect("a transport"),
        // Time stands still here: a rate would be used up for ever.
        budget: Budget::new(
            Limits { max_wait: Duration::ZERO, ..Limits::unlimited() },
            clock.clone(),
        ),
        clock: clock.clone(),
        ids: Arc::new(SystemIds),
        observer: None,
    };
    CloudClient::new("east", auth, wiring).with_deadline(Duration::from_secs(5))
}

fn status(line: &str, headers: &str) -> String {
    format!("HTTP/1.1 {line}\r\n{headers}content-length: 0\r\nconnection: close\r\n\r\n")
}

#[tokio::test]
async fn f01_a_create_is_sent_once_whatever_becomes_of_its_answer() {
    let bed = Bed::new().await;
    for (name, spoil, made) in [
        ("gateway", Spoil::DoneButAnswered(status("504 Gateway Timeout", "")), 1),
        ("cut-late", Spoil::CutAfter, 1),
        ("cut-early", Spoil::CutBefore, 0),
    ] {
        let port = bed.subject.port(name).await;
        let wanted = bed.subject.wanted(name, &port).await;
        bed.proxy.spoil("POST /compute/v2.1/servers", spoil, 1);
        let error = bed.subject.client.create_server(&wanted).await.expect_err("no good answer");
        assert_eq!(error.kind, OutsideKind::Unclear, "{name}: {error}");
        let tags = vec![format!("zcp-c:{name}")];
        let filter = ServerFilter { tags, ..ServerFilter::default() };
        let list = bed.subject.client.list_servers(&filter).await.expect("a list");
        assert_eq!(list.servers.len(), made, "{name}");
    }
    let calls = bed.world.with_cloud("east", |cloud, _| cloud.counters.of("nova.create_server"));
    assert_eq!(calls, Some(2), "nothing was sent again");
}

#[tokio::test]
async fn f17_a_gateway_that_limits_is_obeyed_for_all_calls_until_it_is_over() {
    let bed = Bed::new().await;
    let client = &bed.subject.client;
    client.list_zones().await.expect("all is well");
    let too_many = status("429 Too Many Requests", "retry-after: 30\r\n");
    bed.proxy.spoil("GET /compute", Spoil::Answer(too_many), 1);
    let error = client.list_zones().await.expect_err("too many");
    assert_eq!((error.kind, error.status), (OutsideKind::Busy, Some(429)));
    let calls = || bed.world.with_cloud("east", |cloud, _| cloud.counters.total());
    let before = calls();
    bed.clock.advance(SignedDuration::from_secs(29));
    for _ in 0..20 {
        let error = client.list_networks().await.expect_err("not yet");
        assert_eq!((error.kind, error.status), (OutsideKind::Busy, None));
    }
    assert_eq!(calls(), before, "nothing is sent before its time");
    bed.clock.advance(SignedDuration::from_secs(2));
    client.list_zones().await.expect("the time is over");
}

#[tokio::test]
async fn f20_each_call_names_the_lowest_version_that_it_needs_on_both_generations() {
    for (name, newest) in [("east", 93), ("west", 104)] {
        let (inside, world) =
            Subject::simulated(name, WorldSettings::with_timing(Timing::steady()));
        let inner = Transport::in_process(world.cloud_router(name));
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&seen);
        let transport = Transport::new(tower::service_fn(move |request: http::Request<Bytes>| {
            let version = request.headers().get("openstack-api-version");
            let version = version.and_then(|value| value.to_str().ok()).map(str::to_owned);
            kept.lock().unwrap_or_else(PoisonError::into_inner).extend(version);
            let inner = inner.clone();
            async move { inner.send(request).await }
        }));
        let wiring = Wiring { transport, ..inside.wiring.clone() };
        let client = CloudClient::new(name, inside.auth.clone(), wiring);
        let subject = Subject { client, ..inside };
        subject.client.inventory().await.expect("an inventory");
        let port = subject.port("versions").await;
        let wanted = subject.wanted("versions", &port).await;
        let id = subject.client.create_server(&wanted).await.expect("accepted");
        subject.client.list_servers(&ServerFilter::default()).await.expect("a list");
        subject.client.delete_server(&id).await.expect("accepted");
        let versions = seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        assert!(!versions.is_empty());
        for version in versions {
            assert!(!version.contains("latest"), "{version}");
            let Some(minor) = version.strip_prefix("compute 2.") else { continue };
            let minor: u32 = minor.parse().expect("a number");
            assert!(minor <= newest && minor <= 93, "{name}: {version} is not needed");
        }
    }
}

#[test]
fn f23_an_image_that_is_doubled_withdrawn_or_for_another_version_is_refused() {
    let image = |id: &str, status: &str, version: &str| {
        json!({"id": id, "name": "node-image", "status": status, "kubernetes_version": version,
               "min_disk_gb": 0, "min_ram_mb": 0, "properties": {}})
    };
    let spec: CloudSpec = serde_json::from_value(json!({
        "auth_url": "https://k.example/v3", "region": "r", "defaults": {"network": "n",
            "security_group": "g", "flavor": "f", "image": "node-image"},
    }))
    .expect("a cloud");
    let offering: OfferingSpec = serde_json::from_value(json!({"kubernetes_version": "1.36.2",
        "addon_manager_version": "1.36.0", "cni_manifest": "x"}))
    .expect("an offering");
    let good = || image("i1", "active", "1.36.2");
    for (images, why) in [
        (vec![good()], None),
        (vec![good(), image("i2", "active", "1.36.2")], Some("2 images are called")),
        (vec![image("i1", "deactivated", "1.36.2")], Some("no image")),
        (vec![], Some("no image")),
        (vec![image("i1", "active", "1.35.0")], Some("is for Kubernetes 1.35.0")),
        (vec![good(), image("i2", "deactivated", "1.36.2")], None),
    ] {
        let inventory: Inventory = serde_json::from_value(json!({
            "flavors": [], "images": images, "networks": [], "security_groups": [], "zones": [],
            "quotas": {"instances": {}, "cores": {}, "ram_mb": {}, "server_groups": {},
                "server_group_members": {}, "ports": {}},
            "versions": {},
        }))
        .expect("an inventory");
        let found = resolve::image(&inventory, &offering, ("east", &spec));
        match why {
            None => assert_eq!(found.expect("one image").id, "i1"),
            Some(why) => assert!(found.expect_err("refused").contains(why), "{why}"),
        }
    }
}
