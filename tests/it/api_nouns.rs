//! What the API makes, shows, changes and deletes; paging, repeated requests, stale generations.

use serde_json::{Value, json};

use crate::support::Result;
use crate::support::api::{OPERATOR, TestApi, new_cloud, new_cluster};

fn names(page: &Value) -> Vec<&str> {
    let items = page["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().filter_map(|item| item["name"].as_str()).collect()
}

#[tokio::test]
async fn a_cloud_begins_in_checking_and_never_shows_its_credential() -> Result {
    let api = TestApi::empty().await;
    let made = api.post("/v1/clouds", &new_cloud("east")).await;
    assert_eq!(made.headers["etag"], "\"1\"");
    let body = made.expect(201);
    assert_eq!((&body["phase"], &body["check_pending"]), (&json!("checking"), &json!(true)));
    assert!(!body.to_string().contains("hunter2"));
    let stored: Vec<u8> = sqlx::query_scalar("SELECT credential FROM accounts")
        .fetch_one(api.db.store.pool())
        .await?;
    assert!(!stored.windows(7).any(|bytes| bytes == b"hunter2"), "it is sealed");
    let work = api.get("/v1/work?kind=cloud").await.expect(200);
    assert_eq!(work["items"][0]["state"], "due", "a worker will look at it");
    api.post("/v1/clouds", &new_cloud("east")).await.expect(409);
    let again = api.call("POST", "/v1/clouds/east/check", OPERATOR).send().await.expect(202);
    assert_eq!(again["generation"], 1);
    Ok(())
}

#[tokio::test]
async fn a_changed_cloud_is_checked_again_and_a_stale_change_is_refused() -> Result {
    let api = TestApi::new().await;
    let mut spec = api.get("/v1/clouds/east").await.expect(200)["spec"].clone();
    spec["region"] = json!("RegionTwo");
    let patch = || api.call("PATCH", "/v1/clouds/east", OPERATOR).json(&json!({ "spec": spec }));
    let body = patch().with("if-match", "\"1\"").send().await.expect(200);
    assert_eq!((&body["phase"], &body["generation"]), (&json!("checking"), &json!(2)));
    assert_eq!(body["spec"]["region"], "RegionTwo");
    patch().with("if-match", "\"1\"").send().await.expect(412);
    patch().with("if-match", "one").send().await.expect(400);
    Ok(())
}

#[tokio::test]
async fn a_cloud_goes_only_when_nothing_is_left_on_it() -> Result {
    let api = TestApi::new().await;
    let cluster = api.running_cluster().await;
    let remove = || api.call("DELETE", "/v1/clouds/east", OPERATOR).send();
    let refused = remove().await.expect(409);
    let detail = refused["detail"].as_str().expect("a detail");
    assert!(detail.contains("4 nodes, 1 pools, 1 control planes"), "{detail}");
    api.call("DELETE", "/v1/clouds/west", OPERATOR).send().await.expect(204);
    api.get("/v1/clouds/west").await.expect(404);
    api.post("/v1/clouds", &new_cloud("west")).await.expect(201);
    api.sql("UPDATE nodes SET closed_at = created_at WHERE cluster_id = $1", cluster).await;
    api.sql("DELETE FROM cluster_keys WHERE cluster_id = $1", cluster).await;
    api.sql("UPDATE nodes SET pool_id = NULL WHERE cluster_id = $1", cluster).await;
    api.sql("DELETE FROM pools WHERE cluster_id = $1", cluster).await;
    api.sql("UPDATE clusters SET phase = 'deleted' WHERE id = $1", cluster).await;
    remove().await.expect(204);
    Ok(())
}

#[tokio::test]
async fn a_cluster_is_accepted_at_once_with_its_defaults() -> Result {
    let api = TestApi::new().await;
    let body = api.post("/v1/clusters", &new_cluster("web")).await.expect(201);
    assert_eq!((&body["phase"], &body["desired"]), (&json!("creating"), &json!("present")));
    assert_eq!(body["pools"][0]["flavor"], "m1.small", "the cloud's default");
    assert_eq!(body["control_plane"]["flavor"], "m1.small");
    assert_eq!(body["kubernetes_version"], "1.36.2");
    assert_eq!(body.get("endpoint"), None);
    let keys: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM cluster_keys WHERE position('PRIVATE' IN encode(private_key, 'escape')) = 0",
    )
    .fetch_one(api.db.store.pool())
    .await?;
    assert_eq!(keys, 4, "four keys, all sealed");
    let items = api.get("/v1/work").await.expect(200);
    let kinds: Vec<&str> = items["items"]
        .as_array()
        .expect("items")
        .iter()
        .filter_map(|item| item["kind"].as_str())
        .collect();
    assert!(kinds.contains(&"cluster") && kinds.contains(&"observe_nodes"), "{kinds:?}");
    api.post("/v1/clusters", &new_cluster("web")).await.expect(409);
    let own = json!({ "name": "own", "offering": "1.36.2", "control_plane": { "cloud": "east" },
                      "pools": [] });
    let made = api.call("POST", "/v1/clusters", "bank-owner").json(&own).send().await.expect(201);
    assert_eq!(made["project"], "bank", "the caller's, when none is named");
    Ok(())
}

#[tokio::test]
async fn a_pool_is_changed_by_generation_and_within_the_quota() -> Result {
    let api = TestApi::new().await;
    let path = format!("/v1/clusters/{}/pools/main", api.running_cluster().await);
    let patch = |body: Value| api.call("PATCH", &path, "shop-owner").json(&body);
    let body = patch(json!({ "count": 6 })).with("if-match", "\"1\"").send().await.expect(200);
    assert_eq!((&body["pools"][0]["count"], &body["generation"]), (&json!(6), &json!(2)));
    assert_eq!((&body["pools"][0]["nodes"], &body["pools"][0]["usable"]), (&json!(4), &json!(4)));
    patch(json!({ "count": 7 })).with("if-match", "\"1\"").send().await.expect(412);
    let refused = patch(json!({ "count": 17 })).send().await;
    assert_eq!(refused.fields(), ["count"]);
    refused.expect(400);
    let refused = patch(json!({ "labels": { "kubernetes.io/os": "x" }, "surge": 0 })).send().await;
    assert_eq!(refused.fields(), ["surge", "labels[kubernetes.io/os]"]);
    let missing = path.replace("main", "other");
    api.call("PATCH", &missing, OPERATOR).json(&json!({})).send().await.expect(404);
    Ok(())
}

#[tokio::test]
async fn a_deleted_cluster_is_wanted_absent_and_can_not_be_changed() -> Result {
    let api = TestApi::new().await;
    let path = format!("/v1/clusters/{}", api.running_cluster().await);
    let delete = || api.call("DELETE", &path, "shop-owner");
    delete().with("if-match", "7").send().await.expect(412);
    delete().send().await.expect(204);
    delete().send().await.expect(204);
    let body = api.get(&path).await.expect(200);
    assert_eq!((&body["desired"], &body["generation"]), (&json!("absent"), &json!(2)));
    let pool = format!("{path}/pools/main");
    api.call("PATCH", &pool, OPERATOR).json(&json!({ "count": 1 })).send().await.expect(409);
    api.post(&format!("{path}/migrations"), &json!({ "target": "west" })).await.expect(409);
    api.post(&format!("{path}/kubeconfig"), &json!({})).await.expect(409);
    Ok(())
}

#[tokio::test]
async fn nodes_and_kubeconfig_of_a_running_cluster() -> Result {
    let api = TestApi::new().await;
    let path = format!("/v1/clusters/{}", api.running_cluster().await);
    let nodes = api.get(&format!("{path}/nodes")).await.expect(200);
    assert_eq!(names(&nodes), ["web-main-0", "web-main-1", "web-main-2", "web-main-3"]);
    let node = &nodes["items"][0];
    assert_eq!((&node["stage"], &node["pool"]), (&json!("usable"), &json!("main")));
    assert_eq!((&node["cloud"], &node["ready"]), (&json!("east"), &json!(true)));
    let issue = format!("{path}/kubeconfig");
    let body = api.post(&issue, &json!({ "lifetime_seconds": 600 })).await;
    assert_eq!(body.headers["cache-control"], "no-store");
    let body = body.expect(200);
    let text = body["kubeconfig"].as_str().expect("a text");
    assert!(text.contains("https://10.10.0.5:6443") && text.contains("client-key-data"), "{text}");
    assert_eq!(body["expires_at"], "2026-03-01T12:10:00Z");
    for seconds in [299, 86_401] {
        let refused = api.post(&issue, &json!({ "lifetime_seconds": seconds })).await;
        assert_eq!(refused.fields(), ["lifetime_seconds"]);
    }
    Ok(())
}

#[tokio::test]
async fn lists_are_read_page_by_page() -> Result {
    let api = TestApi::new().await;
    for name in ["a", "b", "c", "d", "e"] {
        let mut new = new_cluster(name);
        new["pools"] = json!([]);
        api.post("/v1/clusters", &new).await.expect(201);
    }
    let first = api.get("/v1/clusters?limit=2&project=shop").await.expect(200);
    assert_eq!(names(&first), ["a", "b"]);
    let cursor = first["next_cursor"].as_str().expect("a cursor");
    let path = format!("/v1/clusters?limit=3&project=shop&cursor={cursor}");
    let second = api.get(&path).await.expect(200);
    assert_eq!((names(&second), second.get("next_cursor")), (vec!["c", "d", "e"], None));
    let other = api.get(&format!("/v1/clusters?name=a&cursor={cursor}")).await;
    assert_eq!(other.fields(), ["cursor"], "a cursor belongs to its filters");
    let named = api.get("/v1/clusters?name=d").await.expect(200);
    assert_eq!(names(&named), ["d"]);
    Ok(())
}

#[tokio::test]
async fn a_repeated_request_is_done_once() -> Result {
    let api = TestApi::new().await;
    let post = |body: Value| {
        api.call("POST", "/v1/clusters", "shop-owner").with("idempotency-key", "k-1").json(&body)
    };
    let first = post(new_cluster("web")).send().await.expect(201);
    let second = post(new_cluster("web")).send().await.expect(201);
    assert_eq!(first["id"], second["id"]);
    post(new_cluster("other")).send().await.expect(422);
    let all = api.get("/v1/clusters").await.expect(200);
    assert_eq!(names(&all), ["web"]);
    // A refused request leaves its key free.
    let call = |body: Value| {
        api.call("POST", "/v1/projects", OPERATOR).with("idempotency-key", "k-2").json(&body)
    };
    call(json!({ "name": "shop" })).send().await.expect(409);
    call(json!({ "name": "new" })).send().await.expect(201);
    Ok(())
}

#[tokio::test]
async fn work_items_are_seen_stopped_and_pushed() -> Result {
    let api = TestApi::new().await;
    let cluster = api.running_cluster().await;
    let push = |verb: &str| {
        let path = format!("/v1/work/cluster/{cluster}/{verb}");
        api.call("POST", &path, OPERATOR).send()
    };
    assert_eq!(push("disable").await.expect(202)["state"], "paused");
    assert_eq!(push("enable").await.expect(202)["state"], "due");
    assert_eq!(push("retry").await.expect(202)["attempts"], 0);
    push("explode").await.expect(404);
    let unknown = format!("/v1/work/cluster/{}/retry", uuid::Uuid::nil());
    api.call("POST", &unknown, OPERATOR).send().await.expect(404);
    Ok(())
}

#[tokio::test]
async fn health_metrics_and_docs_need_no_token_and_no_internet() -> Result {
    let api = TestApi::empty().await;
    for path in ["/healthz", "/readyz", "/metrics", "/docs/", "/openapi.json"] {
        let answer = api.call("GET", path, "").send().await;
        assert_eq!(answer.status.as_u16(), 200, "{path}");
        assert!(answer.headers.contains_key("x-request-id"), "{path}");
    }
    let page = api.call("GET", "/docs/", "").send().await.body.to_string();
    assert!(!page.contains("https://"), "{page}");
    api.stop.cancel();
    api.call("GET", "/readyz", "").send().await.expect(503);
    Ok(())
}
