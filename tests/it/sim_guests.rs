//! What is rendered for servers is understood inside simulated servers: they fetch, init and join.

#![expect(clippy::unwrap_used, reason = "a test ends where it panics")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use serde_json::{Value, json};
use url::Url;
use zcp::bootstrap::bundle::Bundle;
use zcp::bootstrap::kube_vip::{KUBE_VIP_IMAGE, KubeVip, Member};
use zcp::bootstrap::kubeadm::{self, ClusterParts, Discovery, NodeParts};
use zcp::bootstrap::pki::{ClusterPki, ca_cert_hash};
use zcp::bootstrap::user_data::{self, BundleSource, ControlPlaneParts, ServerParts};
use zcp::domain::bootstrap_token::BootstrapToken;
use zcp::domain::ids::ClusterId;
use zcp::domain::node_view::Taint;
use zcp::sim::faults::{Mishap, Trouble};
use zcp::sim::guest::Stage;
use zcp::sim::{Fetch, Fetched, NodeFacing, Timing, World, WorldSettings};

use super::sim_openstack::Cloud;

const TOKEN: &str = "abcdef.0123456789abcdef";

/// What servers of one cluster are told.
pub(crate) struct Recipe {
    pub pki: ClusterPki,
    pub vip: IpAddr,
    /// Where bundles are.
    pub url: Url,
    /// Who signed the certificate there.
    pub listener_ca: String,
}

/// A cloud with one cluster to be.
struct Site {
    cloud: Cloud,
    recipe: Recipe,
    /// What the node listener answers before it gives the bundle.
    not_yet: Arc<AtomicU32>,
    fetches: Arc<Mutex<Vec<Fetch>>>,
}

impl Site {
    async fn new() -> Self {
        let cloud = Cloud::with("east", WorldSettings::with_timing(Timing::steady())).await;
        let pki = ClusterPki::generate("2026-08-01T12:00:00Z".parse().unwrap()).unwrap();
        let bundle = serde_json::to_string(&Bundle::new(&pki)).unwrap();
        let (not_yet, fetches) = (Arc::new(AtomicU32::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (left, seen) = (Arc::clone(&not_yet), Arc::clone(&fetches));
        cloud.world.set_node_facing(NodeFacing::new(move |fetch| {
            seen.lock().unwrap().push(fetch);
            let waits =
                left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
            let (status, body) =
                if waits.is_ok() { (425, String::new()) } else { (200, bundle.clone()) };
            Box::pin(async move { Fetched::Answer { status, body } })
        }));
        let vip = cloud.port("vip").await["fixed_ips"][0]["ip_address"].as_str().unwrap().parse();
        let url = Url::parse("https://127.0.0.1:8443/node/v1/bundle").unwrap();
        let listener_ca = pki.front_proxy.cert_pem().to_owned();
        let recipe = Recipe { pki, vip: vip.unwrap(), url, listener_ca };
        Self { cloud, recipe, not_yet, fetches }
    }
}

impl Recipe {
    pub(crate) fn endpoint(&self) -> String {
        kubeadm::endpoint(self.vip)
    }

    pub(crate) fn member_data(&self, name: &str, first: bool) -> String {
        let version = "1.36.2".parse().unwrap();
        let (labels, hashes) = (BTreeMap::new(), [self.ca_hash()]);
        let node = NodeParts { name, labels: &labels, taints: &[] };
        let address = "127.10.0.5".parse().unwrap();
        let token: BootstrapToken = TOKEN.parse().unwrap();
        let discovery =
            Discovery { version, vip: self.vip, ca_cert_hashes: &hashes, token: &token };
        let cluster = ClusterParts {
            name: "c",
            version,
            vip: self.vip,
            names: &["c.example".to_owned()],
            pod_cidr: "10.32.0.0/14",
            service_cidr: "10.96.0.0/16",
            api_server_args: &BTreeMap::new(),
            image_repository: None,
        };
        let (configuration, member) = if first {
            (kubeadm::init_configuration(cluster, node, address), Member::First)
        } else {
            (kubeadm::member_configuration(discovery, node, address), Member::Further)
        };
        let parts = ControlPlaneParts {
            kubeadm: &configuration,
            bundle: BundleSource {
                url: &self.url,
                token: &SecretString::from("once"),
                ca_pem: &self.listener_ca,
            },
            kube_vip: KubeVip { vip: self.vip, image: KUBE_VIP_IMAGE, version, member },
        };
        let data = user_data::control_plane_user_data(self.about(name), parts).unwrap();
        STANDARD.encode(data.reveal())
    }

    fn worker_data(&self, name: &str, hash: String) -> String {
        let labels = BTreeMap::from([("pool".to_owned(), "a".to_owned())]);
        let taints = [Taint {
            key: "zcp.example/new".into(),
            value: None,
            effect: serde_json::from_value(json!("NoSchedule")).unwrap(),
        }];
        let token: BootstrapToken = TOKEN.parse().unwrap();
        let hashes = [hash];
        let version = "1.36.2".parse().unwrap();
        let discovery =
            Discovery { version, vip: self.vip, ca_cert_hashes: &hashes, token: &token };
        let node = NodeParts { name, labels: &labels, taints: &taints };
        let configuration = kubeadm::worker_configuration(discovery, node);
        let data = user_data::worker_user_data(self.about(name), &configuration).unwrap();
        STANDARD.encode(data.reveal())
    }

    fn about<'a>(&self, name: &'a str) -> ServerParts<'a> {
        ServerParts {
            node_name: name,
            cluster: ClusterId(uuid::Uuid::from_u128(7)),
            version: "1.36.2".parse().unwrap(),
            vip: self.vip,
        }
    }

    fn ca_hash(&self) -> String {
        ca_cert_hash(self.pki.cluster.cert_pem()).unwrap()
    }
}

impl Site {
    async fn create(&self, name: &str, data: String) -> String {
        let port = self.cloud.port(name).await;
        let mut body = self.cloud.server_body(name, &port).await;
        body["server"]["user_data"] = json!(data);
        let answer = self.cloud.call("POST", "/compute/v2.1/servers", body).await;
        assert_eq!(answer.status, 202, "{}", answer.body);
        answer.body["server"]["id"].as_str().unwrap().to_owned()
    }

    /// Lets time pass in steps of a second, as a ticker does.
    async fn pass(&self, seconds: u32) {
        for _ in 0..seconds {
            self.cloud.clock.advance(SignedDuration::from_secs(1));
            self.cloud.world.tick().await;
        }
    }

    fn stage(&self, id: &str) -> Stage {
        let id = id.parse().unwrap();
        self.cloud.world.with_guests(|guests| guests.guests[&id].stage)
    }

    /// Makes the token that workers and further members join with.
    fn make_token(&self) {
        let expires = self.cloud.world.present() + SignedDuration::from_hours(1);
        let secret = token_secret(expires);
        let now = self.cloud.world.present();
        self.cloud.world.kube(&self.recipe.endpoint()).unwrap().create(&secret, now).unwrap();
    }

    async fn started() -> (Self, String) {
        let site = Self::new().await;
        let id = site.create("c-cp-1", site.recipe.member_data("c-cp-1", true)).await;
        site.pass(60).await;
        assert_eq!(site.stage(&id), Stage::Joined);
        site.make_token();
        (site, id)
    }

    async fn delete(&self, id: &str) {
        let path = format!("/compute/v2.1/servers/{id}");
        assert_eq!(self.cloud.call("DELETE", &path, json!(null)).await.status, 204);
        self.pass(6).await;
    }

    async fn act(&self, id: &str, action: &str) {
        let path = format!("/compute/v2.1/servers/{id}/action");
        assert_eq!(self.cloud.call("POST", &path, json!({action: null})).await.status, 202);
        self.pass(5).await;
    }

    async fn console(&self, id: &str) -> String {
        let path = format!("/compute/v2.1/servers/{id}/action");
        let answer = self.cloud.call("POST", &path, json!({"os-getConsoleOutput": {}})).await;
        answer.body["output"].as_str().unwrap().to_owned()
    }

    fn node(&self, name: &str) -> Option<Value> {
        self.cloud.world.kube(&self.recipe.endpoint())?.object("nodes", "", name)
    }
}

fn token_secret(expires: Timestamp) -> Value {
    let (id, secret) = TOKEN.split_once('.').unwrap();
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"namespace": "kube-system", "name": format!("bootstrap-token-{id}")},
        "stringData": {"token-id": id, "token-secret": secret,
            "expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "usage-bootstrap-authentication": "true"},
    })
}

fn is_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array().unwrap();
    conditions.iter().any(|row| row["type"] == "Ready" && row["status"] == "True")
}

#[tokio::test]
async fn the_first_member_fetches_its_keys_from_its_own_address_and_starts_the_api() {
    let site = Site::new().await;
    site.not_yet.store(2, Ordering::Relaxed);
    let id = site.create("c-cp-1", site.recipe.member_data("c-cp-1", true)).await;
    site.pass(36).await;
    assert!(
        site.cloud.world.kube_router(&site.recipe.endpoint()).is_none(),
        "not before it joined"
    );
    site.pass(40).await;
    assert!(site.cloud.world.kube_router(&site.recipe.endpoint()).is_some());
    let fetches = site.fetches.lock().unwrap().clone();
    assert_eq!(fetches.len(), 3);
    let server = site.cloud.server(&id).await;
    let address = server["addresses"]["kaas"][0]["addr"].as_str().unwrap();
    assert_eq!(fetches[0].from.to_string(), address);
    assert_eq!((fetches[0].server_id.to_string(), fetches[0].token.as_str()), (id.clone(), "once"));
    let console = site.console(&id).await;
    assert!(console.contains("zcp: fetch keys (HTTP 425): trying again"), "{console}");
    assert!(console.ends_with("zcp: joined\n"), "{console}");
}

#[tokio::test]
async fn a_worker_joins_with_labels_taints_and_provider_id() {
    let (site, _) = Site::started().await;
    let id = site.create("c-w-1", site.recipe.worker_data("c-w-1", site.recipe.ca_hash())).await;
    site.pass(60).await;
    let node = site.node("c-w-1").unwrap();
    assert_eq!(node["spec"]["providerID"], json!(format!("openstack:///{id}")));
    assert_eq!(node["metadata"]["labels"]["pool"], "a");
    assert!(is_ready(&node), "{node}");
    assert_eq!(node["status"]["nodeInfo"]["kubeletVersion"], "v1.36.2");
    assert_eq!(node["status"]["nodeInfo"]["systemUUID"], json!(id));
}

#[tokio::test]
async fn a_worker_with_a_wrong_hash_or_token_stays_outside() {
    let (site, _) = Site::started().await;
    let wrong = site.create("c-w-1", site.recipe.worker_data("c-w-1", "sha256:00".into())).await;
    site.pass(120).await;
    assert!(site.node("c-w-1").is_none());
    let console = site.console(&wrong).await;
    assert!(console.contains("trying again"), "{console}");
    site.pass(1800).await;
    assert_eq!(site.stage(&wrong), Stage::Failed);
}

#[tokio::test]
async fn a_deleted_worker_falls_silent() {
    let (site, _) = Site::started().await;
    let id = site.create("c-w-1", site.recipe.worker_data("c-w-1", site.recipe.ca_hash())).await;
    site.pass(60).await;
    site.delete(&id).await;
    site.pass(60).await;
    assert!(!is_ready(&site.node("c-w-1").unwrap()), "the Node stays, and is not ready");
}

#[tokio::test]
async fn a_stopped_worker_comes_back() {
    let (site, _) = Site::started().await;
    let id = site.create("c-w-1", site.recipe.worker_data("c-w-1", site.recipe.ca_hash())).await;
    site.pass(60).await;
    site.act(&id, "os-stop").await;
    site.pass(60).await;
    assert!(!is_ready(&site.node("c-w-1").unwrap()));
    site.act(&id, "os-start").await;
    site.pass(60).await;
    assert!(is_ready(&site.node("c-w-1").unwrap()));
}

#[tokio::test]
async fn the_api_answers_while_a_majority_runs() {
    let (site, first) = Site::started().await;
    let mut ids = vec![first];
    for name in ["c-cp-2", "c-cp-3"] {
        ids.push(site.create(name, site.recipe.member_data(name, false)).await);
        site.pass(60).await;
    }
    let up = || site.cloud.world.kube_router(&site.recipe.endpoint()).is_some();
    site.act(&ids[0], "os-stop").await;
    assert!(up(), "two of three");
    site.act(&ids[1], "os-stop").await;
    assert!(!up(), "one of three");
    site.act(&ids[1], "os-start").await;
    site.pass(60).await;
    assert!(up());
    for id in &ids {
        site.delete(id).await;
    }
    assert!(site.cloud.world.endpoints().is_empty());
}

#[tokio::test]
async fn guests_fail_as_ordered() {
    let (site, _) = Site::started().await;
    for trouble in [Trouble::NeverBoots, Trouble::NeverJoins] {
        site.cloud.mishap(Mishap::next(trouble, 1));
        let name = format!("c-w-{trouble:?}").to_lowercase();
        let id = site.create(&name, site.recipe.worker_data(&name, site.recipe.ca_hash())).await;
        site.pass(90).await;
        assert_eq!(site.stage(&id), Stage::Failed);
        assert!(site.node(&name).is_none());
    }
}

#[tokio::test]
async fn a_stored_world_goes_on_where_it_stopped() {
    let (site, _) = Site::started().await;
    let id = site.create("c-w-1", site.recipe.worker_data("c-w-1", site.recipe.ca_hash())).await;
    site.pass(20).await;
    let snapshot = site.cloud.world.snapshot().unwrap();
    let clock = site.cloud.clock.clone();
    let world = World::restore(&snapshot, clock.clone()).unwrap();
    clock.advance(SignedDuration::from_secs(60));
    world.tick().await;
    let node = world.kube(&site.recipe.endpoint()).unwrap().object("nodes", "", "c-w-1").unwrap();
    assert_eq!(node["spec"]["providerID"], json!(format!("openstack:///{id}")));
    let again: Value = serde_json::from_slice(&world.snapshot().unwrap()).unwrap();
    assert!(again["clouds"]["east"].is_object());
}
