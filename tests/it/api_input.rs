//! Bad input: each rule names its field with a 4xx, and nothing is half done.

use serde_json::{Value, json};

use crate::support::Result;
use crate::support::api::{Answer, OPERATOR, TestApi, inventory, new_cloud, new_cluster, offering};

/// Sets `value` at a JSON pointer, making what is missing on the way.
fn set(mut body: Value, pointer: &str, value: Value) -> Value {
    let (parent, name) = pointer.rsplit_once('/').expect("a pointer");
    let parent = body.pointer_mut(parent).expect("the parent is there");
    match parent {
        Value::Array(items) => items[name.parse::<usize>().expect("an index")] = value,
        other => other[name] = value,
    }
    body
}

#[track_caller]
fn assert_field(answer: &Answer, field: &str, word: &str, case: &str) {
    assert_eq!(answer.status.as_u16(), 400, "{case}: {}", answer.body);
    assert_eq!(answer.headers["content-type"], "application/problem+json", "{case}");
    assert!(answer.fields().contains(&field), "{case}: {field} in {}", answer.body);
    assert!(answer.body.to_string().contains(word), "{case}: {word:?} in {}", answer.body);
    assert!(answer.body["request_id"].is_string(), "{case}");
}

async fn try_all(api: &TestApi, path: &str, good: &Value, cases: &[(&str, Value, &str, &str)]) {
    for (pointer, value, field, word) in cases {
        let body = set(good.clone(), pointer, value.clone());
        let answer = api.post(path, &body).await;
        assert_field(&answer, field, word, &format!("{pointer} = {value}"));
    }
}

#[tokio::test]
async fn every_wrong_field_of_a_cloud_is_named() -> Result {
    let api = TestApi::empty().await;
    let cases = [
        ("/name", json!("East"), "name", "lower-case"),
        ("/auth_url", json!("ftp://x/v3"), "auth_url", "http"),
        ("/auth_url", json!("https://a:b@x/v3"), "auth_url", "credential"),
        ("/region", json!(""), "region", "1 to 255"),
        ("/interface", json!("secret"), "interface", "unknown variant"),
        ("/ca_pem", json!("no certificate"), "ca_pem", "PEM"),
        ("/ca_pem", json!(expired_ca()), "ca_pem", "expired"),
        ("/api_proxy", json!("socks"), "api_proxy", "http"),
        ("/limits", json!({ "calls_per_second": 0 }), "limits.calls_per_second", "1 to 1000"),
        ("/limits", json!({ "calls": 1 }), "limits.calls", "unknown field"),
        ("/defaults/flavor", json!(""), "defaults.flavor", "1 to 255"),
        ("/defaults/flavour", json!("x"), "defaults.flavour", "unknown field"),
        ("/credential/password", json!(""), "credential.password", "characters"),
        ("/credential", json!({ "type": "password" }), "credential.username", "missing field"),
        ("/credential", json!({ "type": "token" }), "credential.type", "unknown variant"),
        ("/surprise", json!(1), "surprise", "unknown field"),
    ];
    try_all(&api, "/v1/clouds", &new_cloud("east"), &cases).await;
    assert_eq!(api.get("/v1/clouds").await.expect(200)["items"], json!([]), "nothing was made");
    Ok(())
}

#[tokio::test]
async fn every_wrong_field_of_an_offering_project_or_token_is_named() -> Result {
    let api = TestApi::empty().await;
    let cases = [
        ("/kubernetes_version", json!("1.36"), "kubernetes_version", "MAJOR.MINOR.PATCH"),
        ("/addon_manager_version", json!("1.35.0"), "addon_manager_version", "1.36"),
        ("/cni_manifest", json!(" "), "cni_manifest", "not empty"),
        ("/node_daemons", json!(["cni"]), "node_daemons[0]", "NAMESPACE/NAME"),
        ("/name", json!("A b"), "name", "letters"),
    ];
    try_all(&api, "/v1/offerings", &offering(), &cases).await;
    let cases = [("/name", json!("-x"), "name", "letters")];
    try_all(&api, "/v1/projects", &json!({ "name": "x" }), &cases).await;
    let token = json!({ "name": "t", "role": "owner", "project": "shop" });
    let cases = [
        ("/role", json!("root"), "role", "unknown variant"),
        ("/project", json!("nowhere"), "project", "no project nowhere"),
        ("/project", json!(null), "project", "needs one"),
        ("/lifetime_seconds", json!(5), "lifetime_seconds", "60"),
    ];
    try_all(&api, "/v1/tokens", &token, &cases).await;
    Ok(())
}

#[tokio::test]
async fn every_wrong_field_of_a_cluster_is_named() -> Result {
    let api = TestApi::new().await;
    let cases = [
        ("/name", json!("Web_1"), "name", "lower-case"),
        ("/project", json!("nowhere"), "project", "no project"),
        ("/offering", json!("1.99.0"), "offering", "there is: 1.36.2"),
        ("/control_plane/cloud", json!("south"), "control_plane.cloud", "there is: east, west"),
        ("/control_plane/count", json!(2), "control_plane.count", "1 or 3"),
        ("/control_plane/flavor", json!("huge"), "control_plane.flavor", "m1.large, m1.small"),
        ("/pools/0/cloud", json!("south"), "pools[0].cloud", "there is: east, west"),
        ("/pools/0/flavor", json!("huge"), "pools[0].flavor", "m1.large, m1.small"),
        ("/pools/0/zone", json!("moon"), "pools[0].zone", "there is: nova"),
        ("/pools/0/count", json!(10), "pools[0].count", "11 servers are needed"),
        ("/pools/0/count", json!(1001), "pools[0].count", "0 to 1000"),
        ("/pools/0/count", json!(-1), "pools[0].count", "invalid"),
        ("/pools/0/surge", json!(0), "pools[0].surge", "1 to 20"),
        ("/pools/0/labels", json!({ "a b": "c" }), "pools[0].labels[a b]", "label key"),
        (
            "/pools/0/taints",
            json!([{ "key": "a", "effect": "Go" }]),
            "pools[0].taints[0].effect",
            "unknown variant",
        ),
        ("/pools/0/colour", json!("red"), "pools[0].colour", "unknown field"),
        ("/network", json!({ "pod_cidr": "10.0.0.1/8" }), "network.pod_cidr", "IPv4"),
        ("/api_server_args", json!({ "v": "1\nevil: true" }), "api_server_args[v]", "one line"),
        (
            "/api_server_args",
            json!({ "secure-port": "1" }),
            "api_server_args[secure-port]",
            "set by the system",
        ),
    ];
    try_all(&api, "/v1/clusters", &new_cluster("web"), &cases).await;
    assert_eq!(api.get("/v1/clusters").await.expect(200)["items"], json!([]), "nothing was made");
    let idle = api.get("/v1/work?kind=cluster").await.expect(200);
    assert_eq!(idle["items"], json!([]), "nobody was woken");
    Ok(())
}

#[tokio::test]
async fn a_cloud_that_is_not_ready_is_a_conflict_that_says_why() -> Result {
    let api = TestApi::new().await;
    api.post("/v1/clouds", &new_cloud("north")).await.expect(201);
    let body = set(new_cluster("web"), "/pools/0/cloud", json!("north"));
    let answer = api.post("/v1/clusters", &body).await.expect(409);
    assert!(answer["detail"].as_str().is_some_and(|text| text.contains("being checked")));
    let north = api.get("/v1/clouds/north").await.id();
    api.sql(
        r#"UPDATE clouds SET phase = 'unusable', checks =
               '[{"field": "credential", "ok": false, "message": "wrong password"}]'
           WHERE id = $1"#,
        north,
    )
    .await;
    let answer = api.post("/v1/clusters", &body).await.expect(409);
    assert!(answer["detail"].as_str().is_some_and(|text| text.contains("wrong password")));
    Ok(())
}

#[tokio::test]
async fn every_wrong_field_of_a_migration_is_named() -> Result {
    let api = TestApi::new().await;
    let path = format!("/v1/clusters/{}/migrations", api.running_cluster().await);
    let good = json!({ "target": "west", "waves": [{ "upto": 1 }, { "upto": "100%" }],
                       "drain": {} });
    let cases = [
        ("/target", json!("east"), "target", "another cloud"),
        ("/target", json!("south"), "target", "there is: east, west"),
        ("/source", json!("west"), "target", "another cloud"),
        ("/pools", json!(["none"]), "pools[0]", "there is: main"),
        ("/waves/0/upto", json!(0.5), "waves[0].upto", "whole percentage"),
        ("/waves/0/upto", json!("0.5%"), "waves[0].upto", "whole percentage"),
        ("/waves/0/upto", json!("100%"), "waves[1].upto", "further"),
        ("/waves/1/upto", json!("50%"), "waves[1].upto", "100%"),
        ("/waves", json!([]), "waves", "1 to 20"),
        ("/drain/timeout_seconds", json!(1), "drain.timeout_seconds", "10 to 86400"),
        ("/drain/force", json!(true), "drain.force", "unknown field"),
        ("/hold_seconds", json!(99_999_999), "hold_seconds", "30 days"),
        ("/commit", json!("never"), "commit", "unknown variant"),
    ];
    try_all(&api, &path, &good, &cases).await;
    api.make_ready("west", &inventory(3)).await;
    let answer = api.post(&path, &good).await;
    assert_field(&answer, "target", "4 servers are needed on cloud west", "small quota");
    let mut poor = inventory(10);
    poor["images"] = json!([]);
    api.make_ready("west", &poor).await;
    let answer = api.post(&path, &good).await;
    assert_field(&answer, "target", "kubernetes_version=1.36.2", "no image");
    assert_eq!(api.get("/v1/migrations").await.expect(200)["items"], json!([]));
    Ok(())
}

#[tokio::test]
async fn what_is_no_request_is_refused_as_a_problem() -> Result {
    let api = TestApi::new().await;
    let post = |text: String| api.call("POST", "/v1/projects", OPERATOR).text(text).send();
    let large = post(format!("{{\"name\":\"{}\"}}", "a".repeat(1 << 20))).await;
    assert_eq!(large.headers["content-type"], "application/problem+json");
    large.expect(413);
    for text in ["{", "[]", "{\"name\": 1}", "{\"name\":\"a\"}{}", "\"\\u0000\"", ""] {
        let answer = post(text.to_owned()).await;
        assert_eq!(answer.headers["content-type"], "application/problem+json", "{text}");
        answer.expect(400);
    }
    for (path, status) in [
        ("/v1/nothing", 404),
        ("/v1/clusters/no-id", 404),
        ("/v1/clusters?limit=0", 400),
        ("/v1/clusters?limit=501", 400),
        ("/v1/clusters?limit=x", 400),
        ("/v1/clusters?cursor=abc", 400),
        ("/v1/clusters?colour=red", 400),
        ("/v1/clusters?name=%00", 400),
        ("/v1/clouds/%00", 404),
        ("/v1/work?kind=nothing", 400),
    ] {
        let answer = api.get(path).await;
        assert_eq!(answer.status.as_u16(), status, "{path}: {}", answer.body);
        assert!(answer.body["type"].is_string(), "{path}");
    }
    let answer = api.get("/v1/clusters?colour=red").await;
    assert_eq!(answer.fields(), ["colour"]);
    api.call("PUT", "/v1/clusters", OPERATOR).send().await.expect(405);
    let form = api.call("POST", "/v1/projects", OPERATOR).with("content-type", "text/plain");
    form.send().await.expect(415);
    Ok(())
}

/// A CA that ended in 2020.
fn expired_ca() -> String {
    let then = "2010-01-01T00:00:00Z".parse().expect("a time");
    let ca = zcp::bootstrap::pki::Authority::generate("old", then).expect("a CA");
    ca.cert_pem().to_owned()
}
