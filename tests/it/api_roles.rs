//! Every endpoint x every role x own and foreign project. A new endpoint without a case fails.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::Result;
use crate::support::api::{OPERATOR, TestApi, new_cloud, new_cluster, offering};

/// Endpoints that need no token.
const OPEN: [&str; 3] = ["GET /healthz", "GET /readyz", "GET /metrics"];

/// What the four kinds of callers get: operator, own owner, own viewer, owner and viewer of
/// another project.
struct Case {
    path: String,
    body: Option<Value>,
    operator: u16,
    owner: u16,
    viewer: u16,
    foreign: u16,
}

fn case(path: impl Into<String>, statuses: [u16; 4]) -> Case {
    let [operator, owner, viewer, foreign] = statuses;
    Case { path: path.into(), body: None, operator, owner, viewer, foreign }
}

fn with(body: Value, case: Case) -> Case {
    Case { body: Some(body), ..case }
}

/// A migration whose preflight found something that can be waived.
struct Migration {
    id: Uuid,
    preflight: Uuid,
    later: String,
}

impl Migration {
    async fn started(api: &TestApi, cluster: Uuid) -> Self {
        let path = format!("/v1/clusters/{cluster}/migrations");
        let made = api.post(&path, &json!({ "target": "west" })).await;
        let id = made.id();
        let made = made.expect(201);
        let preflight: Uuid = made["preflight_id"].as_str().expect("an id").parse().expect("an id");
        api.sql(
            r#"UPDATE preflights SET done = wanted, checked_at = created_at, insights =
                   '[{"id": "bare_pods", "level": "BLOCK", "reason": "one pod", "is_waivable": true,
                      "checked_at": "2026-01-01T00:00:00Z"}]'
               WHERE id = $1"#,
            preflight,
        )
        .await;
        let later = api.db.now() + jiff::SignedDuration::from_hours(24);
        Self { id, preflight, later: later.to_string() }
    }
}

/// One case for each `METHOD /path` of the document. Callers are tried in the order viewer,
/// foreign, owner, operator, so that what is made or deleted is so by the last of them at most.
#[expect(clippy::too_many_lines, reason = "one table, a row for each endpoint")]
fn cases(cluster: Uuid, migration: Migration, token: Uuid) -> BTreeMap<&'static str, Case> {
    let of_cluster = |tail: &str| format!("/v1/clusters/{cluster}{tail}");
    let of_migration = |tail: &str| format!("/v1/migrations/{}{tail}", migration.id);
    let of_preflight = |tail: &str| format!("/v1/preflights/{}{tail}", migration.preflight);
    let waiver = json!({ "insight": "bare_pods", "reason": "agreed",
                         "expires_at": migration.later });
    let named = |name: &str| json!({ "name": name });
    let small = json!({ "name": "t", "role": "owner", "project": "shop" });
    let other = {
        let mut cloud = new_cloud("north");
        cloud["region"] = json!("R2");
        cloud
    };
    let patch = json!({ "credential": { "type": "application_credential", "id": "a",
                                        "secret": "s" } });
    let another_offering = {
        let mut new = offering();
        new["name"] = json!("other");
        new
    };
    let cluster_body = |name: &str| {
        let mut new = new_cluster(name);
        new["pools"] = json!([]);
        new
    };
    BTreeMap::from([
        ("GET /v1/clouds", case("/v1/clouds", [200, 200, 200, 200])),
        ("POST /v1/clouds", with(other, case("/v1/clouds", [201, 403, 403, 403]))),
        ("GET /v1/clouds/{cloud}", case("/v1/clouds/east", [200, 200, 200, 200])),
        ("PATCH /v1/clouds/{cloud}", with(patch, case("/v1/clouds/west", [200, 403, 403, 403]))),
        ("DELETE /v1/clouds/{cloud}", case("/v1/clouds/east", [409, 403, 403, 403])),
        ("POST /v1/clouds/{cloud}/check", case("/v1/clouds/east/check", [202, 403, 403, 403])),
        ("GET /v1/cloud-pairs", case("/v1/cloud-pairs", [200, 403, 403, 403])),
        (
            "PUT /v1/cloud-pairs/{source}/{target}",
            with(json!({}), case("/v1/cloud-pairs/east/west", [201, 403, 403, 403])),
        ),
        (
            "GET /v1/cloud-pairs/{source}/{target}",
            case("/v1/cloud-pairs/east/west", [404, 403, 403, 403]),
        ),
        (
            "DELETE /v1/cloud-pairs/{source}/{target}",
            case("/v1/cloud-pairs/east/west", [409, 403, 403, 403]),
        ),
        ("GET /v1/projects", case("/v1/projects", [200, 200, 200, 200])),
        ("POST /v1/projects", with(named("third"), case("/v1/projects", [201, 403, 403, 403]))),
        ("GET /v1/projects/{project}", case("/v1/projects/shop", [200, 200, 200, 404])),
        ("GET /v1/tokens", case("/v1/tokens", [200, 403, 403, 403])),
        ("POST /v1/tokens", with(small, case("/v1/tokens", [201, 403, 403, 403]))),
        ("DELETE /v1/tokens/{token}", case(format!("/v1/tokens/{token}"), [204, 403, 403, 403])),
        ("GET /v1/offerings", case("/v1/offerings", [200, 200, 200, 200])),
        ("POST /v1/offerings", with(another_offering, case("/v1/offerings", [201, 403, 403, 403]))),
        ("GET /v1/offerings/{offering}", case("/v1/offerings/1.36.2", [200, 200, 200, 200])),
        ("GET /v1/clusters", case("/v1/clusters", [200, 200, 200, 200])),
        (
            // The owner makes it; the operator then finds the name taken. A foreign owner learns
            // nothing of the project, not even that it is there.
            "POST /v1/clusters",
            with(cluster_body("second"), case("/v1/clusters", [409, 201, 403, 400])),
        ),
        ("GET /v1/clusters/{cluster}", case(of_cluster(""), [200, 200, 200, 404])),
        ("DELETE /v1/clusters/{cluster}", case(of_cluster(""), [204, 204, 403, 404])),
        (
            "PATCH /v1/clusters/{cluster}/pools/{pool}",
            with(json!({ "count": 5 }), case(of_cluster("/pools/main"), [200, 200, 403, 404])),
        ),
        ("GET /v1/clusters/{cluster}/nodes", case(of_cluster("/nodes"), [200, 200, 200, 404])),
        (
            "POST /v1/clusters/{cluster}/kubeconfig",
            case(of_cluster("/kubeconfig"), [200, 200, 403, 404]),
        ),
        (
            "GET /v1/clusters/{cluster}/migrations",
            case(of_cluster("/migrations"), [200, 200, 200, 404]),
        ),
        (
            // One is under way already.
            "POST /v1/clusters/{cluster}/migrations",
            with(
                json!({ "target": "west" }),
                case(of_cluster("/migrations"), [409, 409, 403, 404]),
            ),
        ),
        ("GET /v1/migrations", case("/v1/migrations", [200, 200, 200, 200])),
        ("GET /v1/migrations/{migration}", case(of_migration(""), [200, 200, 200, 404])),
        (
            "POST /v1/migrations/{migration}/{verb}",
            case(of_migration("/pause"), [202, 202, 403, 404]),
        ),
        (
            "GET /v1/migrations/{migration}/explanation",
            case(of_migration("/explanation"), [200, 200, 200, 404]),
        ),
        (
            "GET /v1/migrations/{migration}/timeline",
            case(of_migration("/timeline"), [200, 200, 200, 404]),
        ),
        (
            "POST /v1/clusters/{cluster}/preflights",
            with(
                json!({ "target": "west" }),
                case(of_cluster("/preflights"), [202, 202, 403, 404]),
            ),
        ),
        ("GET /v1/preflights/{preflight}", case(of_preflight(""), [200, 200, 200, 404])),
        (
            "POST /v1/preflights/{preflight}/check",
            case(of_preflight("/check"), [202, 202, 403, 404]),
        ),
        (
            "POST /v1/preflights/{preflight}/waivers",
            with(waiver, case(of_preflight("/waivers"), [201, 201, 403, 404])),
        ),
        ("GET /v1/work", case("/v1/work", [200, 403, 403, 403])),
        (
            "POST /v1/work/{kind}/{id}/{verb}",
            case(format!("/v1/work/cluster/{cluster}/retry"), [202, 403, 403, 403]),
        ),
        ("GET /v1/events", case("/v1/events", [200, 200, 200, 200])),
    ])
}

fn documented() -> Result<BTreeSet<String>> {
    let document: Value = serde_json::from_str(&zcp::http::openapi().to_json()?)?;
    let mut found = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for method in item.as_object().expect("operations").keys() {
            found.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    Ok(found)
}

#[tokio::test]
async fn every_endpoint_lets_in_whom_it_should_and_nobody_else() -> Result {
    let api = TestApi::new().await;
    let cluster = api.running_cluster().await;
    let migration = Migration::started(&api, cluster).await;
    let new = json!({ "name": "spare", "role": "operator" });
    let spare = api.post("/v1/tokens", &new).await.expect(201);
    let token = spare["token"]["id"].as_str().expect("an id").parse()?;
    let cases = cases(cluster, migration, token);
    let known: BTreeSet<String> = cases.keys().map(ToString::to_string).collect();
    let open: BTreeSet<String> = OPEN.map(str::to_owned).into();
    let all: BTreeSet<String> = known.union(&open).cloned().collect();
    assert_eq!(documented()?, all, "every endpoint has a case here");
    // Deletions last, or they would take away what other cases need.
    let (last, first): (Vec<_>, Vec<_>) =
        cases.iter().partition(|(name, _)| name.starts_with("DELETE"));
    for (name, case) in first.into_iter().chain(last) {
        try_all(&api, name, case).await;
    }
    Ok(())
}

async fn try_all(api: &TestApi, name: &str, case: &Case) {
    let method = name.split(' ').next().expect("a method");
    for (caller, status) in [
        ("", 401),
        ("nobody-knows-this", 401),
        ("bank-viewer", if case.foreign == 400 { 403 } else { case.foreign }),
        ("bank-owner", case.foreign),
        ("shop-viewer", case.viewer),
        ("shop-owner", case.owner),
        (OPERATOR, case.operator),
    ] {
        let mut call = api.call(method, &case.path, caller);
        if let Some(body) = &case.body {
            call = call.json(body);
        }
        let response = call.raw().await;
        assert_eq!(response.status().as_u16(), status, "{name} by {caller:?}");
    }
}

#[tokio::test]
async fn lists_hold_only_what_the_caller_may_know_of() -> Result {
    let api = TestApi::new().await;
    let cluster = api.running_cluster().await;
    let path = format!("/v1/clusters/{cluster}/migrations");
    api.post(&path, &json!({ "target": "west" })).await.expect(201);
    for path in ["/v1/clusters", "/v1/migrations", "/v1/clusters?project=shop"] {
        let own = api.call("GET", path, "shop-viewer").send().await.expect(200);
        assert_eq!(own["items"].as_array().map(Vec::len), Some(1), "{path}");
        let foreign = api.call("GET", path, "bank-owner").send().await.expect(200);
        assert_eq!(foreign["items"], json!([]), "{path}");
    }
    let projects = api.call("GET", "/v1/projects", "bank-viewer").send().await.expect(200);
    assert_eq!(projects["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(projects["items"][0]["name"], "bank");
    let cloud = api.call("GET", "/v1/clouds/east", "bank-owner").send().await.expect(200);
    assert_eq!(cloud.get("spec"), None, "where a cloud is, is the operator's");
    assert_eq!(cloud["inventory"]["networks"], json!([]));
    assert_eq!(cloud["inventory"]["flavors"].as_array().map(Vec::len), Some(2));
    Ok(())
}

#[tokio::test]
async fn a_revoked_or_ended_token_opens_nothing() -> Result {
    let api = TestApi::new().await;
    let new = json!({ "name": "short", "role": "operator", "lifetime_seconds": 60 });
    let made = api.post("/v1/tokens", &new).await.expect(201);
    let secret = made["secret"].as_str().expect("a secret").to_owned();
    assert!(secret.starts_with("zcp_"));
    api.call("GET", "/v1/tokens", &secret).send().await.expect(200);
    api.db.clock.advance(jiff::SignedDuration::from_secs(60));
    api.call("GET", "/v1/tokens", &secret).send().await.expect(401);
    let new = json!({ "name": "long", "role": "operator" });
    let made = api.post("/v1/tokens", &new).await.expect(201);
    let secret = made["secret"].as_str().expect("a secret").to_owned();
    let id = made["token"]["id"].as_str().expect("an id");
    api.call("DELETE", &format!("/v1/tokens/{id}"), OPERATOR).send().await.expect(204);
    api.call("GET", "/v1/tokens", &secret).send().await.expect(401);
    Ok(())
}
