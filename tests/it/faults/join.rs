//! Faults on the way from a server to a node of its cluster.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use http::Method;
use serde_json::{Value, json};
use sqlx::Row;
use zcp::bootstrap::tokens::node_name;
use zcp::clock::SeededIds;
use zcp::domain::name::{NAME_MAX, check_name};
use zcp::sim::faults::Trouble;

use super::bed::Bed;
use crate::support::TestDb;
use crate::support::api::{TestApi, new_cluster};

/// The Node object that a kubelet on this server would register.
fn node(name: &str, server: &str, version: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "spec": {"providerID": format!("openstack:///{server}")},
        "status": {
            "nodeInfo": {"kubeletVersion": version, "systemUUID": server},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

/// The new worker of `shop` whose guest is not played, once its server runs.
async fn silent_worker(bed: &Bed) -> (String, String) {
    bed.mishap(Trouble::NeverJoins, 1);
    let old: BTreeSet<_> = bed.workers().into_iter().map(|one| one.id).collect();
    bed.world.scale(bed.shop, 3).await;
    let new = || bed.workers().into_iter().find(|one| !old.contains(&one.id));
    bed.world
        .settle(&bed.driver, "the server runs", async |_| {
            new().is_some_and(|one| one.status == "ACTIVE")
        })
        .await;
    let new = new().expect("just seen");
    (new.name, new.id.to_string())
}

/// Nobody counts on the node, and another one takes its place after the join deadline.
async fn is_not_counted(bed: &Bed, server: &str) {
    bed.pass(15).await;
    assert!(!bed.world.is_ready(bed.shop).await);
    assert_eq!(bed.ask("SELECT name FROM nodes WHERE desired = 'absent'").await, "");
    bed.ready(3).await;
    assert!(bed.workers().iter().all(|one| one.id.to_string() != server), "it was replaced");
}

#[tokio::test]
async fn f58_a_server_that_waited_for_hours_still_joins_with_its_token() {
    let bed = Bed::new().await;
    let servers = u32::try_from(bed.world.sim.truth().servers.len()).expect("few");
    bed.east(|cloud| cloud.settings.quota.instances = servers);
    bed.world.scale(bed.shop, 3).await;
    // A token lives forty minutes when nobody extends it.
    bed.pass(150).await;
    bed.east(|cloud| cloud.settings.quota.instances = 1000);
    bed.ready(3).await;
    assert!(bed.world.sim.truth().deleted_servers.is_empty(), "it joined at the first try");
    bed.is_clean().await;
}

/// Everything that is logged, kept.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn f59_each_server_has_a_token_of_its_own_that_is_seen_nowhere() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    // With one subscriber alone, `tracing` asks that of whichever thread comes by first, and those
    // of other tests have none.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let bed = Bed::new().await;
    let secrets = Mutex::new(BTreeSet::new());
    bed.world.scale(bed.shop, 4).await;
    bed.world
        .settle(&bed.driver, "the new nodes serve", async |world| {
            let kube = world.kube_of(bed.shop).expect("an API");
            for secret in kube.objects("secrets") {
                let name = secret["metadata"]["name"].as_str().unwrap_or_default();
                if name.starts_with("bootstrap-token-") {
                    let data = kube.secret("kube-system", name).expect("its data");
                    let secret = String::from_utf8_lossy(&data["token-secret"]).into_owned();
                    secrets.lock().unwrap_or_else(PoisonError::into_inner).insert(secret);
                }
            }
            world.serving(bed.shop) == 4 && world.is_ready(bed.shop).await
        })
        .await;
    let secrets = secrets.into_inner().unwrap_or_else(PoisonError::into_inner);
    assert_eq!(secrets.len(), 2, "one for each new server");
    bed.is_clean().await;
    let rows = sqlx::query(
        "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public'",
    );
    let tables = rows.fetch_all(bed.world.db.store.pool()).await.expect("tables");
    let mut places = vec![(
        "the log".to_owned(),
        String::from_utf8_lossy(&log.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned(),
    )];
    for table in tables {
        let name: String = table.get(0);
        let sql = format!("SELECT coalesce(string_agg(t::text, ' '), '') FROM {name} AS t");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_one(bed.world.db.store.pool()).await;
        places.push((name, row.expect("a dump").get(0)));
    }
    assert!(places[0].1.contains("create server"), "the log was kept");
    for (place, text) in places {
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "a token is in {place}");
        }
    }
}

#[tokio::test]
async fn f61_a_name_is_never_used_twice() {
    let db = TestDb::new().await;
    let unique =
        "SELECT count(*) FROM pg_constraint WHERE conname = 'nodes_name_key' AND contype = 'u'";
    let row = sqlx::query(unique).fetch_one(db.store.pool()).await.expect("the catalog");
    assert_eq!(row.get::<i64, _>(0), 1, "also closed rows keep theirs");
}

#[test]
fn f22_node_names_are_host_names_whatever_cluster_and_pool_are_called() {
    let ids = SeededIds::new(3);
    let mut seen = BTreeSet::new();
    for (cluster, pool) in [("a", "b"), ("shop", "web"), (&"c".repeat(40), &"p".repeat(40))] {
        for _ in 0..200 {
            let name = node_name(&ids, cluster, pool);
            assert!(name.len() <= 63 && !name.contains("--"), "{name}");
            let is_host = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(
                name.chars().all(is_host) && name.starts_with(|c: char| c.is_ascii_lowercase())
            );
            assert!(
                !name.ends_with('-') && check_name("name", &name, NAME_MAX).0.is_empty(),
                "{name}"
            );
            assert!(seen.insert(name), "a name came twice");
        }
    }
}

#[tokio::test]
async fn f22_names_that_would_be_changed_on_their_way_to_the_host_are_refused() {
    let api = TestApi::new().await;
    for bad in ["web.one", "Web", "web_1", "wéb", "-web", "web-", "", "web one", &"w".repeat(64)] {
        for at in ["name", "pool"] {
            let mut cluster = new_cluster("shop");
            match at {
                "name" => cluster["name"] = json!(bad),
                _ => cluster["pools"][0]["name"] = json!(bad),
            }
            let answer = api.post("/v1/clusters", &cluster).await;
            assert_eq!(answer.status.as_u16(), 400, "{at} {bad:?}: {}", answer.body);
        }
    }
}

#[tokio::test]
async fn f64_labels_that_nobody_may_choose_are_refused_at_the_door() {
    let api = TestApi::new().await;
    for (label, status) in [
        // A kubelet may not have it; we set it once the node has joined.
        ("node-role.kubernetes.io/x", 201),
        ("foo.k8s.io/y", 400),
        ("kubernetes.io/hostname", 400),
        ("zcp.io/pool", 400),
        ("example.com/team", 201),
        ("team", 201),
    ] {
        let mut cluster = new_cluster(&format!("c{}", label.len()));
        cluster["pools"][0]["labels"] = json!({label: "x"});
        let answer = api.post("/v1/clusters", &cluster).await;
        assert_eq!(answer.status.as_u16(), status, "{label}: {}", answer.body);
    }
}

#[tokio::test]
async fn f62_a_node_that_its_cloud_provider_does_not_know_is_not_counted() {
    let bed = Bed::new().await;
    let (name, server) = silent_worker(&bed).await;
    let mut object = node(&name, &server, "v1.36.2");
    object["spec"]["taints"] =
        json!([{"key": "node.cloudprovider.kubernetes.io/uninitialized", "effect": "NoSchedule"}]);
    bed.world.ask_kube(bed.shop, (Method::POST, "/api/v1/nodes", object)).await;
    is_not_counted(&bed, &server).await;
    bed.is_clean().await;
}

#[tokio::test]
async fn f63_a_node_that_says_it_is_another_server_is_not_counted_and_told_of() {
    let bed = Bed::new().await;
    let (name, server) = silent_worker(&bed).await;
    let hostile = node(&name, &uuid::Uuid::from_u128(666).to_string(), "v1.36.2");
    bed.world.ask_kube(bed.shop, (Method::POST, "/api/v1/nodes", hostile)).await;
    is_not_counted(&bed, &server).await;
    assert!(bed.warnings().await.contains("NodeNotOurs"), "{}", bed.warnings().await);
    let path = format!("/api/v1/nodes/{name}");
    bed.world.ask_kube(bed.shop, (Method::DELETE, &path, json!({}))).await;
    bed.is_clean().await;
}

#[tokio::test]
async fn f66_a_kubelet_of_another_version_is_not_counted() {
    let bed = Bed::new().await;
    let (name, server) = silent_worker(&bed).await;
    let newer = node(&name, &server, "v1.37.0");
    bed.world.ask_kube(bed.shop, (Method::POST, "/api/v1/nodes", newer)).await;
    is_not_counted(&bed, &server).await;
    bed.is_clean().await;
}
