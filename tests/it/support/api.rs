//! The API in process: the real router over a real database, without sockets.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;
use uuid::Uuid;
use zcp::app::App;
use zcp::app::tokens::ensure_operator_token;
use zcp::clock::SeededIds;
use zcp::http::{self, Api};
use zcp::store::Store;
use zcp::store::seal::KeyRing;

use super::TestDb;

/// What a request was answered with.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    /// Names of the wrong fields.
    pub fn fields(&self) -> Vec<&str> {
        let fields = self.body["fields"].as_array().map(Vec::as_slice).unwrap_or_default();
        fields.iter().filter_map(|field| field["field"].as_str()).collect()
    }

    /// The body, if the status is this.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.body);
        self.body
    }

    /// The id in the body.
    pub fn id(&self) -> Uuid {
        self.body["id"].as_str().and_then(|id| id.parse().ok()).expect("an id")
    }
}

/// A request that is being put together.
pub struct Call<'a> {
    api: &'a TestApi,
    builder: axum::http::request::Builder,
    body: Body,
}

impl Call<'_> {
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.builder = self.builder.header(name, value);
        self
    }

    pub fn json(self, body: &Value) -> Self {
        self.text(body.to_string())
    }

    pub fn text(mut self, body: String) -> Self {
        self.builder = self.builder.header("content-type", "application/json");
        self.body = Body::from(body);
        self
    }

    pub async fn raw(self) -> axum::http::Response<Body> {
        let request = self.builder.body(self.body).expect("a request");
        self.api.router.clone().oneshot(request).await.expect("infallible")
    }

    pub async fn send(self) -> Answer {
        let (parts, body) = self.raw().await.into_parts();
        let bytes = body.collect().await.expect("a body").to_bytes();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Answer { status: parts.status, headers: parts.headers, body }
    }
}

/// The API with an operator, two projects with an owner and a viewer each, and two clouds that are
/// ready.
pub struct TestApi {
    pub db: TestDb,
    pub router: Router,
    pub node_router: Router,
    pub stop: CancellationToken,
}

/// Tokens of the test's callers are `<project>-<role>`, and this.
pub const OPERATOR: &str = "operator";

impl TestApi {
    /// An API with nothing but its operator.
    pub async fn empty() -> Self {
        let db = TestDb::new().await;
        let ring = KeyRing::generate("test", &SeededIds::new(7));
        let app = App {
            store: db.store.clone(),
            clock: db.clock.clone(),
            ids: db.ids.clone(),
            keys: Arc::new(KeyRing::parse(&ring).expect("a key ring")),
        };
        ensure_operator_token(&app, "root", OPERATOR).await.expect("a token");
        let stop = CancellationToken::new();
        let metrics = Arc::new(Registry::default());
        let api = Api::new(app, metrics, TaskTracker::new(), stop.clone());
        let (router, node_router) = (http::router(api.clone()), http::node_router(api));
        Self { db, router, node_router, stop }
    }

    /// An API with projects `shop` and `bank`, an offering and the clouds `east` and `west`.
    pub async fn new() -> Self {
        let api = Self::empty().await;
        for project in ["shop", "bank"] {
            api.post("/v1/projects", &json!({ "name": project })).await.expect(201);
            for role in ["owner", "viewer"] {
                api.token(project, role).await;
            }
        }
        api.post("/v1/offerings", &offering()).await.expect(201);
        for cloud in ["east", "west"] {
            api.post("/v1/clouds", &new_cloud(cloud)).await.expect(201);
            api.make_ready(cloud, &inventory(10)).await;
        }
        api
    }

    /// The same API over other connections to the database.
    pub fn through(&self, store: Store) -> Router {
        let ring = KeyRing::generate("test", &SeededIds::new(7));
        let app = App {
            store,
            clock: self.db.clock.clone(),
            ids: self.db.ids.clone(),
            keys: Arc::new(KeyRing::parse(&ring).expect("a key ring")),
        };
        let metrics = Arc::new(Registry::default());
        http::router(Api::new(app, metrics, TaskTracker::new(), self.stop.clone()))
    }

    async fn token(&self, project: &str, role: &str) {
        let new = json!({ "name": role, "role": role, "project": project });
        let made = self.post("/v1/tokens", &new).await.expect(201);
        let id: Uuid = made["token"]["id"].as_str().expect("an id").parse().expect("a uuid");
        // A secret that tests know by heart.
        sqlx::query("UPDATE api_tokens SET hash = sha256($2::bytea) WHERE id = $1")
            .bind(id)
            .bind(format!("{project}-{role}").into_bytes())
            .execute(self.db.store.pool())
            .await
            .expect("set a hash");
    }

    /// Does what a check of the cloud would do.
    pub async fn make_ready(&self, cloud: &str, inventory: &Value) {
        sqlx::query(
            "UPDATE clouds SET phase = 'ready', inventory = $2, inventory_at = created_at,
                 check_done = check_wanted, observed_generation = generation
             WHERE name = $1",
        )
        .bind(cloud)
        .bind(inventory)
        .execute(self.db.store.pool())
        .await
        .expect("make a cloud ready");
    }

    /// Runs a statement of the test's own.
    pub async fn sql(&self, statement: &'static str, id: Uuid) {
        sqlx::query(statement).bind(id).execute(self.db.store.pool()).await.expect("a statement");
    }

    pub fn call<'a>(&'a self, method: &str, path: &str, token: &str) -> Call<'a> {
        let builder = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {token}"));
        Call { api: self, builder, body: Body::empty() }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, OPERATOR).send().await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call("POST", path, OPERATOR).json(body).send().await
    }

    /// A running cluster `web` of project `shop` with four usable workers on east.
    pub async fn running_cluster(&self) -> Uuid {
        let made = self.post("/v1/clusters", &new_cluster("web")).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.body);
        let id = made.id();
        self.sql(
            "UPDATE clusters SET phase = 'running', vip_address = '10.10.0.5',
                 vip_port = 'present' WHERE id = $1",
            id,
        )
        .await;
        for n in 0..4 {
            self.usable_node(id, n).await;
        }
        id
    }

    async fn usable_node(&self, cluster: Uuid, n: u128) {
        sqlx::query(
            r#"INSERT INTO nodes (id, cluster_id, pool_id, cloud_id, account_id, role, name, flavor,
                   created_at, port, address, server, server_id, server_status, secret, object,
                   kubelet, usable_at)
               SELECT $2, c.id, p.id, p.cloud_id, a.id, 'worker', $3, p.flavor, c.created_at,
                   'present', $4, 'present', $2::text, 'ACTIVE', '', 'present',
                   '{"is_ready": true, "is_ours": true, "is_labelled": true, "has_daemons": true}',
                   c.created_at
               FROM clusters c
               JOIN pools p ON p.cluster_id = c.id AND p.name = 'main'
               JOIN accounts a ON a.cloud_id = p.cloud_id
               WHERE c.id = $1"#,
        )
        .bind(cluster)
        .bind(Uuid::from_u128(0x4000 + n))
        .bind(format!("web-main-{n}"))
        .bind(format!("10.10.0.{}", 20 + n))
        .execute(self.db.store.pool())
        .await
        .expect("insert a node");
    }
}

/// A cloud as an operator registers it.
pub fn new_cloud(name: &str) -> Value {
    json!({
        "name": name,
        "auth_url": format!("https://keystone.{name}.example/v3"),
        "region": "RegionOne",
        "defaults": { "network": "nodes", "security_group": "nodes", "flavor": "m1.small" },
        "credential": {
            "type": "password", "username": "zcp", "password": "hunter2", "project": "zcp",
        },
    })
}

/// An offering as an operator adds it.
pub fn offering() -> Value {
    json!({
        "kubernetes_version": "1.36.2",
        "addon_manager_version": "1.36.0",
        "cni_manifest": "kind: ConfigMap",
    })
}

/// A cluster as an owner asks for it: four workers on east.
pub fn new_cluster(name: &str) -> Value {
    json!({
        "name": name,
        "project": "shop",
        "offering": "1.36.2",
        "control_plane": { "cloud": "east" },
        "pools": [{ "name": "main", "cloud": "east", "count": 4 }],
    })
}

/// What a cloud has, with room for so many servers.
pub fn inventory(servers: u64) -> Value {
    let flavor = |id: &str, name: &str| {
        json!({ "id": id, "name": name, "vcpus": 2, "ram_mb": 4096, "disk_gb": 20,
                "extra_specs": {} })
    };
    let none = json!({ "limit": null, "used": null });
    json!({
        "flavors": [flavor("1", "m1.small"), flavor("2", "m1.large")],
        "images": [{
            "id": "i-1", "name": "node-1.36.2", "status": "active",
            "kubernetes_version": "1.36.2", "size": null, "min_disk_gb": 0, "min_ram_mb": 0,
            "properties": {},
        }],
        "networks": [{
            "id": "n-1", "name": "nodes", "mtu": null, "is_external": false,
            "subnets": [{ "id": "s-1", "name": "", "cidr": "10.10.0.0/16", "gateway": null,
                          "ip_version": 4, "pools": [], "free_addresses": null }],
        }],
        "security_groups": [{ "id": "g-1", "name": "nodes" }],
        "zones": [{ "name": "nova", "is_available": true }],
        "quotas": {
            "instances": { "limit": servers, "used": 0 }, "cores": none, "ram_mb": none,
            "server_groups": none, "server_group_members": none, "ports": none,
        },
        "versions": {},
    })
}
