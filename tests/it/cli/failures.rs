//! What zcpctl says and exits with when something is wrong.

use serde_json::json;

use super::canned::{Canned, SHOP, cluster, page, problem, run};

#[tokio::test]
async fn wrong_input_exits_with_one_and_names_every_field() {
    let api = Canned::start().await;
    let fields = json!({"fields": [
        {"field": "pools[0].cloud", "problem": "there is no cloud north; there is: east, west"},
        {"field": "offering", "problem": "there is no offering 1.0.0"}]});
    api.on("POST /v1/clusters", problem(400, "x", fields));
    let arguments = ["cluster", "create", "shop", "--cloud", "north", "--offering", "1.0.0"];
    let ran = api.run(&arguments).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""));
    assert_eq!(
        ran.stderr,
        "error: pools[0].cloud: there is no cloud north; there is: east, west\n\
         error: offering: there is no offering 1.0.0\n"
    );
}

#[tokio::test]
async fn an_illegal_verb_exits_with_one_and_hints_at_what_is_legal() {
    let api = Canned::start().await;
    let id = format!("GET /v1/migrations/{SHOP}");
    api.on(&id, (200, super::canned::migration("holding", 4)));
    let approve = format!("POST /v1/migrations/{}/approve", super::canned::MOVE);
    let legal = json!({"legal": ["commit", "rollback"]});
    api.on(&approve, problem(409, "nothing waits for approval", legal));
    let ran = api.run(&["migration", "approve", SHOP]).await;
    assert_eq!(ran.code, 1);
    assert_eq!(
        ran.stderr,
        "error: nothing waits for approval\nhint: possible now: commit, rollback\n"
    );
}

#[tokio::test]
async fn our_faults_exit_with_two() {
    let api = Canned::start().await;
    api.on("GET /v1/clouds?limit=200", problem(500, "a bug of ours", json!({})));
    let ran = api.run(&["cloud", "list"]).await;
    assert_eq!(ran.code, 2);
    assert_eq!(ran.stderr, "error: a bug of ours\nhint: tell an operator the request id r-1\n");
    let nobody = [("ZCP_URL", "http://127.0.0.1:1")];
    let ran = run(std::path::Path::new("/nonexistent"), &nobody, &["cloud", "list"]).await;
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("cannot be reached") && ran.stderr.contains("hint: ZCP_URL"));
}

#[tokio::test]
async fn what_passes_is_tried_again() {
    let api = Canned::start().await;
    api.on("GET /v1/clouds?limit=200", problem(503, "the database does not answer", json!({})));
    api.on("GET /v1/clouds?limit=200", page(&[]));
    let ran = api.run(&["cloud", "list"]).await;
    assert_eq!((ran.code, ran.stderr.as_str()), (0, "there is none\n"));
}

#[tokio::test]
async fn mistakes_of_typing_exit_with_one_and_help_with_zero() {
    let api = Canned::start().await;
    for arguments in [
        &["cluster", "creat"][..],
        &["migration", "start", "shop", "--to", "west", "--waves", "0.5"],
        &["migration", "start", "shop", "--to", "west", "--soak", "5"],
        &["migration", "start", "shop", "--to", "west", "--gate", "x"],
        &["cluster", "create", "shop", "--cloud", "e", "--offering", "o", "--pool", "web"],
        &["cluster", "scale", "shop", "web", "--count", "-1"],
        &["offering", "add", "--kubernetes", "1", "--addon-manager", "1.36.0", "--cni", "x"],
    ] {
        let ran = api.run(arguments).await;
        assert_eq!(ran.code, 1, "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.starts_with("error: "), "{}", ran.stderr);
    }
    assert!(api.asked().is_empty(), "nothing was sent");
    let ran = api.run(&["migration", "start", "--help"]).await;
    assert_eq!(ran.code, 0);
    assert!(ran.stdout.contains("--waves"));
}

#[tokio::test]
async fn destruction_needs_a_yes() {
    let api = Canned::start().await;
    api.on("GET /v1/clusters?name=shop&limit=200", page(&[cluster("running", 4)]));
    let ran = api.run(&["cluster", "delete", "shop"]).await;
    assert_eq!(ran.code, 1);
    assert_eq!(
        ran.stderr,
        "cluster shop of project default will be deleted: 1 control-plane servers, 4 workers, and \
         everything that runs on them\n\
         error: this needs a yes, and there is no terminal to ask on\n\
         hint: add --yes if you mean it\n"
    );
    assert!(api.asked().iter().all(|asked| asked.line.starts_with("GET")));
}

#[tokio::test]
async fn names_are_looked_up_and_ambiguous_ones_refused() {
    let api = Canned::start().await;
    let line = "GET /v1/clusters?name=shop&limit=200";
    api.on(line, page(&[cluster("running", 4), cluster("running", 4)]));
    let ran = api.run(&["cluster", "get", "shop"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("hint: choose the project"), "{}", ran.stderr);
    api.on("GET /v1/clusters?name=shp&project=a&limit=200", page(&[]));
    let ran = api.run(&["-p", "a", "cluster", "get", "shp"]).await;
    assert!(ran.stderr.starts_with("error: there is no cluster shp in project a\n"));
}

#[tokio::test]
async fn a_profile_says_where_and_who() {
    let api = Canned::start().await;
    api.on("GET /v1/clouds?limit=200", page(&[]));
    let home = std::env::temp_dir();
    let file = api.file("p.toml", "url = 'ftp://x'\ntoken = 't'\n");
    let profile = [("ZCP_PROFILE", file.to_str().unwrap())];
    let ran = run(&home, &profile, &["cloud", "list"]).await;
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("\"ftp://x\" is not a URL"), "{}", ran.stderr);
    let file = api.file("q.toml", "token = \"s3cret\nurl = 1\n");
    let ran = run(&home, &[("ZCP_PROFILE", file.to_str().unwrap())], &["cloud", "list"]).await;
    assert_eq!(ran.code, 1);
    assert!(!ran.stderr.contains("s3cret"), "{}", ran.stderr);
}
