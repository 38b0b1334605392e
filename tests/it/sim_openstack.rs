//! The simulated clouds answer as the real ones do: status codes, bodies, pages, microversions.

#![expect(clippy::unwrap_used, reason = "a test ends where it panics")]

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use base64::Engine as _;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tower::ServiceExt as _;
use zcp::clock::ManualClock;
use zcp::sim::faults::{Chance, Effect, Mishap, Rule, Trouble};
use zcp::sim::{Timing, World, WorldSettings};

/// A world, a cloud of it, and a token.
pub(crate) struct Cloud {
    pub world: Arc<World>,
    pub clock: Arc<ManualClock>,
    name: &'static str,
    router: Router,
    token: String,
    version: &'static str,
}

pub(crate) struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Value,
}

impl Cloud {
    async fn new(name: &'static str) -> Self {
        Self::with(name, WorldSettings::with_timing(Timing::steady())).await
    }

    pub async fn with(name: &'static str, settings: WorldSettings) -> Self {
        let clock =
            Arc::new(ManualClock::new("2026-08-01T12:00:00Z".parse::<Timestamp>().unwrap()));
        let world = World::new(settings, clock.clone());
        let router = world.cloud_router(name);
        let mut cloud = Self { world, clock, name, router, token: String::new(), version: "2.79" };
        cloud.login("kaas").await;
        cloud
    }

    async fn login(&mut self, user: &str) {
        let answer = self.call("POST", "/identity/v3/auth/tokens", password(user, "lab")).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.headers["x-subject-token"].to_str().unwrap().clone_into(&mut self.token);
    }

    async fn try_call(&self, method: &str, path: &str, body: Value) -> Option<Answer> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "cloud.test")
            .header("x-auth-token", &self.token)
            .header("x-openstack-nova-api-version", self.version)
            .body(Body::from(body.to_string()))
            .unwrap();
        let response: Response<Body> = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.ok()?.to_bytes();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes)));
        Some(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
    }

    pub async fn call(&self, method: &str, path: &str, body: Value) -> Answer {
        self.try_call(method, path, body).await.expect("an answer")
    }

    pub async fn get(&self, path: &str) -> Value {
        let answer = self.call("GET", path, json!(null)).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.body
    }

    pub fn pass(&self, seconds: i64) {
        self.clock.advance(SignedDuration::from_secs(seconds));
    }

    async fn first(&self, path: &str, list: &str) -> Value {
        self.get(path).await[list][0].clone()
    }

    pub async fn port(&self, name: &str) -> Value {
        let network = self.first("/network/v2.0/networks?name=kaas", "networks").await;
        let body = json!({"port": {"network_id": network["id"], "name": name}});
        let answer = self.call("POST", "/network/v2.0/ports", body).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.body["port"].clone()
    }

    pub async fn server_body(&self, name: &str, port: &Value) -> Value {
        let flavor = self.first("/compute/v2.1/flavors/detail", "flavors").await;
        let image = self.first("/image/v2/images?name=zcp-node-1.36.2", "images").await;
        json!({"server": {
            "name": name, "flavorRef": flavor["id"], "imageRef": image["id"],
            "networks": [{"port": port["id"]}], "metadata": {"zcp.node": name},
            "tags": ["zcp:test"], "user_data": "I2Nsb3VkLWNvbmZpZwo=",
        }})
    }

    async fn create(&self, name: &str) -> (Answer, Value) {
        let port = self.port(name).await;
        let body = self.server_body(name, &port).await;
        (self.call("POST", "/compute/v2.1/servers", body).await, port)
    }

    async fn created(&self, name: &str) -> String {
        let (answer, _) = self.create(name).await;
        assert_eq!(answer.status, 202, "{}", answer.body);
        answer.body["server"]["id"].as_str().unwrap().to_owned()
    }

    pub async fn server(&self, id: &str) -> Value {
        self.get(&format!("/compute/v2.1/servers/{id}")).await["server"].clone()
    }

    fn fault(&self, rule: Rule) {
        self.world.with_cloud(self.name, |cloud, _| cloud.faults.rules.push(rule)).unwrap();
    }

    pub fn mishap(&self, mishap: Mishap) {
        self.world.with_cloud(self.name, |cloud, _| cloud.faults.mishaps.push(mishap)).unwrap();
    }
}

fn password(user: &str, password: &str) -> Value {
    let default = json!({"id": "default"});
    json!({"auth": {
        "identity": {"methods": ["password"], "password": {
            "user": {"name": user, "domain": default, "password": password}}},
        "scope": {"project": {"name": user, "domain": default}},
    }})
}

#[tokio::test]
async fn wrong_password_and_stale_token_are_401() {
    let cloud = Cloud::new("east").await;
    let wrong = cloud.call("POST", "/identity/v3/auth/tokens", password("kaas", "no")).await;
    assert_eq!(wrong.status, 401);
    assert_eq!(wrong.body["error"]["title"], "Unauthorized");
    cloud.pass(3601);
    let stale = cloud.call("GET", "/compute/v2.1/servers", json!(null)).await;
    assert_eq!((stale.status, &stale.body["error"]["code"]), (401, &json!(401)));
}

#[tokio::test]
async fn application_credential_logs_in_and_shows_the_catalog() {
    let cloud = Cloud::new("west").await;
    let id = cloud
        .world
        .with_cloud("west", |cloud, _| cloud.identity.users[0].credential.clone().unwrap().id)
        .unwrap();
    let body = json!({"auth": {"identity": {"methods": ["application_credential"],
        "application_credential": {"id": id, "secret": "lab-application-credential"}}}});
    let answer = cloud.call("POST", "/identity/v3/auth/tokens", body).await;
    assert_eq!(answer.status, 201);
    let catalog = answer.body["token"]["catalog"].as_array().unwrap().clone();
    let compute = catalog.iter().find(|entry| entry["type"] == "compute").unwrap();
    assert_eq!(compute["endpoints"][0]["url"], "http://cloud.test/compute/v2.1");
    assert_eq!(compute["endpoints"][0]["region_id"], "west");
}

#[tokio::test]
async fn a_server_builds_runs_and_goes_and_its_own_port_stays() {
    let cloud = Cloud::new("east").await;
    let (answer, port) = cloud.create("n1").await;
    let id = answer.body["server"]["id"].as_str().unwrap().to_owned();
    assert!(answer.headers.contains_key("x-openstack-request-id"));
    assert_eq!(cloud.server(&id).await["status"], "BUILD");
    cloud.pass(15);
    let server = cloud.server(&id).await;
    assert_eq!(
        (&server["status"], &server["OS-EXT-STS:task_state"]),
        (&json!("ACTIVE"), &json!(null))
    );
    assert_eq!(server["addresses"]["kaas"][0]["addr"], port["fixed_ips"][0]["ip_address"]);
    assert_eq!(server["tags"], json!(["zcp:test"]));
    assert_eq!(server["flavor"]["original_name"], "k8s.2c4g");
    let path = format!("/compute/v2.1/servers/{id}");
    assert_eq!(cloud.call("DELETE", &path, json!(null)).await.status, 204);
    assert_eq!(cloud.server(&id).await["OS-EXT-STS:task_state"], "deleting");
    cloud.pass(5);
    let gone = cloud.call("GET", &path, json!(null)).await;
    assert_eq!(gone.status, 404);
    let text = format!("Instance {id} could not be found.");
    assert_eq!(gone.body["itemNotFound"]["message"], json!(text));
    let port_path = format!("/network/v2.0/ports/{}", port["id"].as_str().unwrap());
    assert_eq!(cloud.get(&port_path).await["port"]["device_id"], "");
    assert_eq!(cloud.call("DELETE", &port_path, json!(null)).await.status, 204);
    assert_eq!(cloud.call("DELETE", &port_path, json!(null)).await.status, 404);
}

#[tokio::test]
async fn creates_are_refused_as_nova_refuses_them() {
    let cloud = Cloud::new("east").await;
    let port = cloud.port("p").await;
    let good = cloud.server_body("a", &port).await;
    let mut bad = good.clone();
    bad["server"]["flavorRef"] = json!("none");
    let answer = cloud.call("POST", "/compute/v2.1/servers", bad).await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.body["badRequest"]["message"], "Flavor none could not be found.");
    assert_eq!(cloud.call("POST", "/compute/v2.1/servers", good.clone()).await.status, 202);
    let twice = cloud.call("POST", "/compute/v2.1/servers", good).await;
    assert_eq!(twice.status, 409);
    let text = format!("Port {} is still in use.", port["id"].as_str().unwrap());
    assert_eq!(twice.body["conflictingRequest"]["message"], json!(text));
    cloud.world.with_cloud("east", |cloud, _| cloud.settings.quota.instances = 1).unwrap();
    let (over, _) = cloud.create("b").await;
    assert_eq!(over.status, 403);
    assert_eq!(
        over.body["forbidden"]["message"],
        "Quota exceeded for instances: Requested 1, but already used 1 of 1 instances"
    );
}

#[tokio::test]
async fn user_data_may_have_49149_bytes_which_are_65532_characters() {
    let cloud = Cloud::new("east").await;
    for (bytes, status) in [(49_150, 400), (49_149, 202)] {
        let port = cloud.port("p").await;
        let mut body = cloud.server_body("a", &port).await;
        let data = base64::engine::general_purpose::STANDARD.encode(vec![b'x'; bytes]);
        body["server"]["user_data"] = json!(data);
        let answer = cloud.call("POST", "/compute/v2.1/servers", body).await;
        assert_eq!(answer.status, status, "{bytes} bytes");
    }
}

#[tokio::test]
async fn lists_are_cut_into_pages_with_links() {
    let mut settings = WorldSettings::with_timing(Timing::instant());
    settings.clouds[0].max_limit = 3;
    let cloud = Cloud::with("east", settings).await;
    for number in 0..7 {
        cloud.created(&format!("n{number}")).await;
    }
    let mut path = "/compute/v2.1/servers/detail?tags=zcp:test".to_owned();
    let mut names = Vec::new();
    for _ in 0..10 {
        let page = cloud.get(&path).await;
        let rows = page["servers"].as_array().unwrap();
        names.extend(rows.iter().map(|row| row["name"].as_str().unwrap().to_owned()));
        let Some(next) = page["servers_links"][0]["href"].as_str() else { break };
        path = next.strip_prefix("http://cloud.test").unwrap().to_owned();
    }
    assert_eq!(names, ["n6", "n5", "n4", "n3", "n2", "n1", "n0"]);
    let filtered = cloud.get("/compute/v2.1/servers?name=%5En3%24").await;
    assert_eq!(filtered["servers"].as_array().unwrap().len(), 1);
    assert!(filtered.get("servers_links").is_none());

    let ports = cloud.get("/network/v2.0/ports?limit=3&fields=id").await;
    assert_eq!(ports["ports"].as_array().unwrap().len(), 3);
    assert_eq!(ports["ports_links"][0]["rel"], "next");
}

#[tokio::test]
async fn microversions_are_those_of_the_generation() {
    for (name, max) in [("east", "2.93"), ("west", "2.104")] {
        let mut cloud = Cloud::new(name).await;
        let root = cloud.get("/compute/").await;
        assert_eq!(root["versions"][1]["version"], max);
        cloud.version = "2.200";
        let answer = cloud.call("GET", "/compute/v2.1/servers", json!(null)).await;
        assert_eq!(answer.status, 406);
        assert!(answer.body["computeFault"]["message"].as_str().unwrap().contains(max));
        cloud.version = "2.52";
        let id = cloud.created("a").await;
        cloud.version = "2.46";
        let answer = cloud.call("GET", &format!("/compute/v2.1/servers/{id}"), json!(null)).await;
        assert_eq!(answer.headers["x-openstack-nova-api-version"], "2.46");
        assert!(answer.body["server"]["flavor"].get("id").is_some());
    }
}

#[tokio::test]
async fn a_full_cloud_answers_202_and_ends_in_error() {
    let mut settings = WorldSettings::with_timing(Timing::steady());
    settings.clouds[0].hosts = 1;
    settings.clouds[0].host_vcpus = 2;
    settings.clouds[0].cpu_allocation_ratio = 1.0;
    let cloud = Cloud::with("east", settings).await;
    let (first, second) = (cloud.created("a").await, cloud.created("b").await);
    cloud.pass(30);
    assert_eq!(cloud.server(&first).await["status"], "ACTIVE");
    let failed = cloud.server(&second).await;
    assert_eq!(failed["status"], "ERROR");
    assert_eq!(failed["fault"]["code"], 500);
    assert!(failed["fault"]["message"].as_str().unwrap().starts_with("No valid host was found."));
}

#[tokio::test]
async fn a_group_takes_ten_and_spreads_them() {
    let cloud = Cloud::new("east").await;
    let body = json!({"server_group": {"name": "g", "policy": "soft-anti-affinity"}});
    let group = cloud.call("POST", "/compute/v2.1/os-server-groups", body).await;
    let id = group.body["server_group"]["id"].clone();
    for number in 0..11 {
        let port = cloud.port("p").await;
        let mut body = cloud.server_body(&format!("n{number}"), &port).await;
        body["os:scheduler_hints"] = json!({"group": id});
        let answer = cloud.call("POST", "/compute/v2.1/servers", body).await;
        assert_eq!(answer.status, if number < 10 { 202 } else { 403 }, "{}", answer.body);
    }
    cloud.pass(60);
    let rows = cloud.get("/compute/v2.1/servers/detail").await;
    let hosts: std::collections::BTreeSet<String> = rows["servers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["hostId"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(hosts.len(), 8, "ten servers use all eight hosts");
    assert_eq!(rows["servers"][0]["server_groups"], json!([id]));
}

#[tokio::test]
async fn an_unclear_create_has_made_the_server() {
    let cloud = Cloud::new("east").await;
    let effect = Effect::DoneButAnswered { status: 504 };
    cloud.fault(Rule::new("nova", "create_server", effect, Chance::next(1)));
    cloud.fault(Rule::new("nova", "create_server", Effect::DoneButCut, Chance::next(1)));
    let port = cloud.port("p").await;
    let body = cloud.server_body("a", &port).await;
    let answer = cloud.call("POST", "/compute/v2.1/servers", body).await;
    assert_eq!(answer.status, 504);
    let port = cloud.port("q").await;
    let body = cloud.server_body("b", &port).await;
    assert!(cloud.try_call("POST", "/compute/v2.1/servers", body).await.is_none());
    let rows = cloud.get("/compute/v2.1/servers").await;
    assert_eq!(rows["servers"].as_array().unwrap().len(), 2);
    let counted = cloud.world.with_cloud("east", |cloud, _| {
        (cloud.counters.of("nova.create_server"), cloud.counters.spoiled["nova.create_server"])
    });
    assert_eq!(counted, Some((2, 2)));
}

#[tokio::test]
async fn an_ordered_error_has_the_shape_of_its_service_and_does_nothing() {
    let cloud = Cloud::new("east").await;
    let effect = Effect::Answer { status: 429, retry_after: Some(30), message: None };
    cloud.fault(Rule::new("neutron", "create_port", effect.clone(), Chance::next(1)));
    cloud.fault(Rule::new("nova", "list_servers", effect, Chance::next(1)));
    let answer = cloud.call("POST", "/network/v2.0/ports", json!({"port": {}})).await;
    assert_eq!((answer.status, &answer.headers["retry-after"]), (429, &"30".parse().unwrap()));
    assert!(answer.body["NeutronError"]["message"].is_string());
    let answer = cloud.call("GET", "/compute/v2.1/servers", json!(null)).await;
    assert_eq!(answer.body["overLimit"]["code"], 429);
    assert_eq!(cloud.get("/network/v2.0/ports").await["ports"], json!([]));
}

#[tokio::test]
async fn mishaps_strike_servers_as_ordered() {
    let cloud = Cloud::new("east").await;
    cloud.mishap(Mishap::next(Trouble::SpawnError, 1));
    cloud.mishap(Mishap::next(Trouble::StuckInBuild, 1));
    cloud.mishap(Mishap::next(Trouble::DeleteError, 1));
    let (failed, stuck) = (cloud.created("a").await, cloud.created("b").await);
    cloud.pass(3600 - 1);
    assert_eq!(cloud.server(&failed).await["status"], "ERROR");
    assert_eq!(cloud.server(&stuck).await["status"], "BUILD");
    let path = format!("/compute/v2.1/servers/{stuck}");
    cloud.call("DELETE", &path, json!(null)).await;
    cloud.world.with_cloud("east", |cloud, _| cloud.settings.token_seconds = 86_400).unwrap();
    let mut cloud = cloud;
    cloud.login("kaas").await;
    cloud.pass(10);
    assert_eq!(cloud.server(&stuck).await["status"], "ERROR");
    cloud.call("DELETE", &path, json!(null)).await;
    cloud.pass(10);
    assert_eq!(cloud.call("GET", &path, json!(null)).await.status, 404);
}

#[tokio::test]
async fn ports_take_addresses_and_guard_revisions() {
    let mut settings = WorldSettings::default();
    settings.clouds[0].addresses = 2;
    let cloud = Cloud::with("east", settings).await;
    let first = cloud.port("a").await;
    let address = first["fixed_ips"][0]["ip_address"].clone();
    let network = first["network_id"].clone();
    let same = json!({"port": {"network_id": network, "fixed_ips": [{"ip_address": address}]}});
    let taken = cloud.call("POST", "/network/v2.0/ports", same).await;
    assert_eq!(
        (taken.status, &taken.body["NeutronError"]["type"]),
        (409, &json!("IpAddressAlreadyAllocated"))
    );
    cloud.port("b").await;
    let more =
        cloud.call("POST", "/network/v2.0/ports", json!({"port": {"network_id": network}})).await;
    assert_eq!(
        (more.status, &more.body["NeutronError"]["type"]),
        (409, &json!("IpAddressGenerationFailure"))
    );

    let path = format!("/network/v2.0/ports/{}", first["id"].as_str().unwrap());
    let tags = json!({"tags": ["zcp:1", "zcp-c:2"]});
    assert_eq!(cloud.call("PUT", &format!("{path}/tags"), tags).await.status, 200);
    let found = cloud.get("/network/v2.0/ports?tags=zcp:1,zcp-c:2").await;
    assert_eq!(found["ports"][0]["id"], first["id"]);
    let pairs = json!({"port": {"allowed_address_pairs": [{"ip_address": "127.10.0.9"}]}});
    let request = Request::builder()
        .method("PUT")
        .uri(&path)
        .header("x-auth-token", &cloud.token)
        .header("if-match", "revision_number=1")
        .body(Body::from(pairs.to_string()))
        .unwrap();
    let response = cloud.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status().as_u16(), 412);
}

#[tokio::test]
async fn capacity_is_for_administrators() {
    let mut cloud = Cloud::new("east").await;
    let denied = cloud.call("GET", "/placement/resource_providers", json!(null)).await;
    assert_eq!((denied.status, &denied.body["errors"][0]["status"]), (403, &json!(403)));
    let hidden = cloud.get("/network/v2.0/network-ip-availabilities").await;
    assert_eq!(hidden["network_ip_availabilities"], json!([]));
    cloud.login("admin").await;
    let rows = cloud.get("/placement/resource_providers").await;
    assert_eq!(rows["resource_providers"].as_array().unwrap().len(), 8);
    let candidates =
        cloud.get("/placement/allocation_candidates?resources=VCPU:4,MEMORY_MB:8192&limit=3").await;
    assert_eq!(candidates["allocation_requests"].as_array().unwrap().len(), 3);
    let hypervisors = cloud.get("/compute/v2.1/os-hypervisors/detail").await;
    assert_eq!(hypervisors["hypervisors"][0]["vcpus"], 64);
}
