//! What commands send and print.

use serde_json::json;

use super::canned::{Canned, MOVE, SHOP, cluster, golden, migration, page};

const BY_NAME: &str = "GET /v1/clusters?name=shop&limit=200";

#[tokio::test]
async fn tables_fit_eighty_columns() {
    let api = Canned::start().await;
    api.on(BY_NAME, page(&[cluster("running", 3)]));
    api.on("GET /v1/clusters?limit=200", page(&[cluster("running", 3)]));
    api.on(&format!("GET /v1/clusters/{SHOP}/migrations"), page(&[migration("draining", 0)]));
    api.on(&format!("GET /v1/migrations/{MOVE}"), (200, migration("draining", 0)));
    api.on("GET /v1/migrations?limit=200", page(&[migration("draining", 0)]));
    let mut all = String::new();
    for arguments in [
        &["cluster", "list"][..],
        &["cluster", "get", "shop"],
        &["migration", "list"],
        &["migration", "get", "shop"],
    ] {
        let ran = api.run(arguments).await;
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{arguments:?}");
        all.extend(["$ zcpctl ", &arguments.join(" "), "\n", &ran.stdout, "\n"]);
    }
    assert!(all.lines().all(|line| line.chars().count() <= 80), "{all}");
    golden("zcpctl-tables.txt", &all);
}

#[tokio::test]
async fn json_is_the_apis_own() {
    let api = Canned::start().await;
    api.on(BY_NAME, page(&[cluster("running", 4)]));
    let ran = api.run(&["cluster", "get", "shop", "--output", "json"]).await;
    let shown: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(shown["pools"][0]["labels"], json!({"team": "shop"}));
    assert_eq!(shown["id"], SHOP);
    let asked = api.last();
    assert_eq!(asked.headers["authorization"], "Bearer zcp_test");
}

#[tokio::test]
async fn a_cluster_is_asked_for_as_it_was_typed() {
    let api = Canned::start().await;
    api.on("POST /v1/clusters", (201, cluster("creating", 0)));
    let arguments = [
        "--project",
        "team-a",
        "cluster",
        "create",
        "shop",
        "--cloud",
        "east",
        "--offering",
        "1.36.2",
        "--control-plane",
        "3",
        "--pool",
        "name=web,count=4,label=team=shop",
        "--pool",
        "name=gpu,count=1,cloud=west,flavor=g1,taint=gpu=yes:NoSchedule",
    ];
    let ran = api.run(&arguments).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let asked = api.last();
    assert!(asked.headers.contains_key("idempotency-key"));
    assert_eq!(asked.body["project"], "team-a");
    assert_eq!(asked.body["control_plane"], json!({"cloud": "east", "count": 3}));
    assert_eq!(asked.body["pools"][0]["labels"], json!({"team": "shop"}));
    assert_eq!(asked.body["pools"][1]["cloud"], "west");
    assert_eq!(
        asked.body["pools"][1]["taints"],
        json!([{"key": "gpu", "value": "yes", "effect": "NoSchedule"}])
    );
}

#[tokio::test]
async fn a_cluster_can_come_from_a_file() {
    let api = Canned::start().await;
    api.on("POST /v1/clusters", (201, cluster("creating", 0)));
    let file = api.file(
        "shop.yaml",
        "name: shop\noffering: 1.36.2\ncontrol_plane: {cloud: east}\n\
         pools: [{name: web, cloud: east, count: 2}]\n",
    );
    let ran = api.run(&["cluster", "create", "-f", file.to_str().unwrap()]).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(api.last().body["pools"][0]["count"], 2);
    let wrong = api.file("wrong.yaml", "name: shop\ncolour: red\n");
    let ran = api.run(&["cluster", "create", "-f", wrong.to_str().unwrap()]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("colour"), "{}", ran.stderr);
}

#[tokio::test]
async fn waiting_says_where_it_is_and_ends_when_it_is_done() {
    let api = Canned::start().await;
    api.on("POST /v1/clusters", (201, cluster("creating", 0)));
    let one = format!("GET /v1/clusters/{SHOP}");
    api.on(&one, (200, cluster("creating", 0)));
    api.on(&one, (200, cluster("running", 2)));
    api.on(&one, (200, cluster("running", 4)));
    let arguments = [
        "cluster",
        "create",
        "shop",
        "--cloud",
        "east",
        "--offering",
        "1.36.2",
        "--pool",
        "name=web,count=4",
        "--wait",
    ];
    let ran = api.run(&arguments).await;
    assert_eq!(ran.code, 0);
    assert!(ran.stdout.contains("4/4"), "{}", ran.stdout);
    assert_eq!(
        ran.stderr,
        "cluster shop: creating, control plane 1/1, workers 0/4; shop-web-a1b2c3 is joining\n\
         cluster shop: running, control plane 1/1, workers 2/4; shop-web-a1b2c3 is joining\n"
    );
}

#[tokio::test]
async fn waiting_too_long_exits_with_three() {
    let api = Canned::start().await;
    api.on(BY_NAME, page(&[cluster("running", 4)]));
    let pool = format!("PATCH /v1/clusters/{SHOP}/pools/web");
    api.on(&pool, (200, cluster("running", 4)));
    api.on(&format!("GET /v1/clusters/{SHOP}"), (200, cluster("running", 3)));
    let arguments =
        ["cluster", "scale", "shop", "web", "--count", "5", "--wait", "--timeout", "100ms"];
    let ran = api.run(&arguments).await;
    assert_eq!(ran.code, 3);
    assert!(ran.stderr.contains("hint: the work goes on"), "{}", ran.stderr);
}

#[tokio::test]
async fn a_migration_is_asked_for_as_it_was_typed() {
    let api = Canned::start().await;
    api.on(BY_NAME, page(&[cluster("running", 4)]));
    let start = format!("POST /v1/clusters/{SHOP}/migrations");
    api.on(&start, (201, migration("pending", 0)));
    let arguments = [
        "migration",
        "start",
        "shop",
        "--to",
        "west",
        "--waves",
        "1,50%,100%",
        "--soak",
        "30s",
        "--gate",
        "2=approval",
        "--hold",
        "2h",
        "--commit",
        "manual",
        "--drain-timeout",
        "10m",
        "--at-deadline",
        "skip-node",
        "--no-canary",
    ];
    let ran = api.run(&arguments).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(
        api.last().body,
        json!({
            "target": "west",
            "waves": [
                {"upto": 1, "soak_seconds": 30, "gate": "auto"},
                {"upto": "50%", "soak_seconds": 30, "gate": "approval"},
                {"upto": "100%", "soak_seconds": 30, "gate": "auto"}],
            "drain": {
                "timeout_seconds": 600, "at_deadline": "skip_node", "volume_timeout_seconds": 600,
            },
            "hold_seconds": 7200,
            "commit": "manual",
            "canary": "off",
            "auto_rollback": false,
        })
    );
}

#[tokio::test]
async fn watching_prints_plain_lines_and_stops_where_a_person_is_needed() {
    let api = Canned::start().await;
    api.on(BY_NAME, page(&[cluster("running", 4)]));
    let newest = format!("GET /v1/clusters/{SHOP}/migrations");
    api.on(&newest, page(&[migration("draining", 0)]));
    let one = format!("GET /v1/migrations/{MOVE}");
    api.on(&one, (200, migration("draining", 0)));
    api.on(&one, (200, migration("approval", 1)));
    let event = json!({"id": "1", "at": "2026-08-01T12:00:00Z", "resource_kind": "migration",
        "resource_id": MOVE, "type": "normal", "reason": "Draining", "message": "wave 1 drains",
        "data": {}});
    api.on(&format!("GET /v1/migrations/{MOVE}/timeline"), page(&[event]));
    let ran = api.run(&["migration", "watch", "shop"]).await;
    assert_eq!(ran.code, 0);
    golden("zcpctl-watch.txt", &ran.stderr);
}

#[tokio::test]
async fn a_cloud_is_registered_from_a_clouds_yaml_and_its_check_is_shown() {
    let api = Canned::start().await;
    let cloud = |phase: &str, ok: bool| {
        json!({"id": SHOP, "name": "east", "phase": phase, "generation": 1,
            "observed_generation": 1, "check_pending": phase == "checking",
            "defaults": {"network": "kaas", "security_group": "kaas-nodes", "flavor": "k8s.2c4g"},
            "checks": [
                {"field": "auth_url", "ok": true, "message": "logged in"},
                {"field": "defaults.network", "ok": ok, "message": "there is: public"}],
            "created_at": "2026-08-01T12:00:00Z", "updated_at": "2026-08-01T12:00:00Z"})
    };
    api.on("POST /v1/clouds", (201, cloud("checking", true)));
    api.on("GET /v1/clouds/east", (200, cloud("checking", true)));
    api.on("GET /v1/clouds/east", (200, cloud("unusable", false)));
    let file = api.file(
        "clouds.yaml",
        "clouds: {east: {region_name: R1, auth: {auth_url: 'https://k.example/v3', username: u, \
         password: hunter2, project_name: p, user_domain_id: default, project_domain_name: D}}}",
    );
    let arguments = [
        "cloud",
        "add",
        "east",
        "--from-clouds-yaml",
        file.to_str().unwrap(),
        "--entry",
        "east",
        "--network",
        "kaas",
        "--security-group",
        "kaas-nodes",
        "--flavor",
        "k8s.2c4g",
    ];
    let ran = api.run(&arguments).await;
    assert_eq!(ran.code, 1);
    let post = api.asked().into_iter().find(|asked| asked.line == "POST /v1/clouds").unwrap();
    assert_eq!(post.body["credential"]["user_domain"], "Default");
    assert_eq!(post.body["auth_url"], "https://k.example/v3");
    golden("zcpctl-cloud-add.txt", &format!("{}---\n{}", ran.stdout, ran.stderr));
}

/// A preflight of that cluster with a bit of everything.
fn preflight(is_pending: bool) -> serde_json::Value {
    let at = "2026-08-01T12:00:00Z";
    let insight = |level: &str, id: &str, (reason, fix): (&str, &str)| {
        json!({"id": id, "level": level, "reason": reason, "fix": fix, "checked_at": at,
            "is_waivable": level == "BLOCK" && id != "quota"})
    };
    let mut quota = insight(
        "BLOCK",
        "quota",
        (
            "the project's quota on cloud west is too small; reserved by migration of cluster bank",
            "an operator raises the quota, or fewer pools move at a time",
        ),
    );
    quota["resources"] =
        json!(["servers: 5 needed, 2 left (limit 10, used 3, 5 reserved by others)"]);
    let mut bare = insight("BLOCK", "bare_pods", ("1 pod have no controller", "waive it"));
    bare["waived"] = json!({"author": "ann", "reason": "may go", "expires_at": at});
    let zones = insight("WARN", "zones", ("2 pods depend on labels of zones", "compare them"));
    let well = ["target_image", "target_network", "target_security_group", "capacity", "addresses"];
    let mut insights = vec![quota, bare, zones];
    insights.extend(well.map(|id| insight("PASS", id, ("it is well", ""))));
    let nodes: Vec<String> = (0..9).map(|n| format!("shop-web-a1b2c{n}")).collect();
    json!({
        "id": MOVE, "cluster_id": SHOP, "cluster": "shop", "project": "default",
        "source": "east", "target": "west", "check_pending": is_pending, "checked_at": at,
        "blocking": 1, "insights": insights, "created_by": "operator", "created_at": at,
        "plan": {
            "waves": [
                {"number": 1, "upto": "1", "nodes": ["shop-web-000000"], "soak_seconds": 180,
                    "gate": "approval", "seconds": 390},
                {"number": 2, "upto": "100%", "nodes": nodes, "soak_seconds": 180,
                    "gate": "auto", "seconds": 1470}],
            "needs": {"servers": 11, "surge": 1, "vcpus": 22, "ram_mb": 45056, "ports": 11,
                "addresses": 11, "server_groups": 2},
            "estimate": {"moving_seconds": 1860, "hold_seconds": 86400, "waits_for_people": true},
        },
    })
}

#[tokio::test]
async fn a_plan_says_what_blocks_and_exits_with_four() {
    let api = Canned::start().await;
    api.on(BY_NAME, page(&[cluster("running", 4)]));
    api.on(&format!("POST /v1/clusters/{SHOP}/preflights"), (202, preflight(true)));
    api.on(&format!("GET /v1/preflights/{MOVE}"), (200, preflight(false)));
    let arguments =
        ["migration", "plan", "shop", "--to", "west", "--waves", "1,100%", "--gate", "1=approval"];
    let ran = api.run(&arguments).await;
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    assert!(ran.stdout.lines().all(|line| line.chars().count() <= 80), "{}", ran.stdout);
    golden("zcpctl-plan.txt", &format!("{}---\n{}", ran.stdout, ran.stderr));
    let asked = api.asked();
    let sent = asked.iter().find(|one| one.line.starts_with("POST")).expect("a request");
    assert_eq!(sent.body["canary"], "off", "planning makes no server");
    let mut clear = preflight(false);
    clear["blocking"] = json!(0);
    clear["insights"] = json!([]);
    api.on(&format!("POST /v1/preflights/{MOVE}/check"), (202, clear.clone()));
    let ran = api.run(&["migration", "check", MOVE, "--output", "json"]).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let shown: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(shown["plan"]["needs"]["servers"], 11);
}

#[tokio::test]
async fn a_waiver_names_its_insight_reason_and_end() {
    let api = Canned::start().await;
    api.on(BY_NAME, page(&[cluster("running", 4)]));
    let mut moving = migration("preflight", 0);
    moving["preflight_id"] = json!(MOVE);
    api.on(&format!("GET /v1/clusters/{SHOP}/migrations"), page(&[moving.clone()]));
    api.on(&format!("GET /v1/migrations/{MOVE}"), (200, moving));
    api.on(&format!("POST /v1/preflights/{MOVE}/waivers"), (201, preflight(false)));
    let arguments =
        ["migration", "waive", "shop", "bare_pods", "--reason", "may go", "--for", "7d"];
    let ran = api.run(&arguments).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let asked = api.last();
    assert_eq!(
        (&asked.body["insight"], &asked.body["reason"]),
        (&json!("bare_pods"), &json!("may go"))
    );
    assert!(asked.body["expires_at"].is_string());
}

#[tokio::test]
async fn a_start_that_waits_outlasts_a_canary() {
    let api = Canned::start().await;
    api.on(BY_NAME, page(&[cluster("running", 4)]));
    let mut trying = migration("preflight", 0);
    trying["wave"] = json!(null);
    trying["insights"] = json!([{
        "id": "canary", "level": "BLOCK", "reason": "canaries try cloud west",
        "checked_at": "2026-08-01T12:00:00Z",
        "is_waivable": true,
    }]);
    api.on(&format!("POST /v1/clusters/{SHOP}/migrations"), (201, trying.clone()));
    api.on(&format!("GET /v1/migrations/{MOVE}"), (200, trying));
    let wait = ["--wait", "--timeout", "8s"];
    let ran = api.run(&[&["migration", "start", "shop", "--to", "west"][..], &wait].concat()).await;
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert!(ran.stderr.contains("not over"), "{}", ran.stderr);
}

#[tokio::test]
async fn a_start_that_waits_ends_at_what_blocks() {
    let api = Canned::start().await;
    api.on(BY_NAME, page(&[cluster("running", 4)]));
    let mut blocked = migration("preflight", 0);
    blocked["wave"] = json!(null);
    blocked["insights"] = preflight(false)["insights"].clone();
    api.on(&format!("POST /v1/clusters/{SHOP}/migrations"), (201, blocked.clone()));
    api.on(&format!("GET /v1/migrations/{MOVE}"), (200, blocked));
    let ran = api.run(&["migration", "start", "shop", "--to", "west", "--wait"]).await;
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    assert!(ran.stderr.contains("BLOCK  quota (can't be waived)"), "{}", ran.stderr);
}
