//! An API with canned answers, and zcpctl run against it.

#![expect(clippy::unwrap_used, reason = "a test ends where it panics")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio_util::task::TaskTracker;
use zcp::clock::{Ids as _, SystemIds};

/// A request as it came.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) line: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Value,
}

type Answers = BTreeMap<String, Vec<(u16, Value)>>;

/// Answers by `METHOD path?query`; the last answer of each repeats.
#[derive(Debug, Default)]
struct Script {
    answers: Mutex<Answers>,
    asked: Mutex<Vec<Asked>>,
}

/// The API.
pub(super) struct Canned {
    script: Arc<Script>,
    url: String,
    folder: PathBuf,
}

/// What a run of zcpctl came to.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) code: i32,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Canned {
    pub(super) async fn start() -> Self {
        let script = Arc::new(Script::default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(Arc::clone(&script));
        TaskTracker::new().spawn(async move { axum::serve(listener, router).await });
        let folder = std::env::temp_dir().join(format!("zcp-cli-{}", SystemIds.uuid()));
        std::fs::create_dir_all(&folder).unwrap();
        Self { script, url, folder }
    }

    /// What is answered to `METHOD path?query`; several in a row.
    pub(super) fn on(&self, line: &str, answer: (u16, Value)) -> &Self {
        self.script.answers.lock().unwrap().entry(line.to_owned()).or_default().push(answer);
        self
    }

    /// A file for zcpctl to read.
    pub(super) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Every request so far.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.script.asked.lock().unwrap().clone()
    }

    /// The last request.
    pub(super) fn last(&self) -> Asked {
        self.asked().pop().expect("a request")
    }

    /// Runs zcpctl with these arguments.
    pub(super) async fn run(&self, arguments: &[&str]) -> Ran {
        let url = self.url.clone();
        run(&self.folder, &[("ZCP_URL", &url), ("ZCP_TOKEN", "zcp_test")], arguments).await
    }
}

impl Drop for Canned {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.folder);
    }
}

/// Runs zcpctl with a home folder of its own.
pub(super) async fn run(home: &Path, environment: &[(&str, &str)], arguments: &[&str]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_zcpctl"))
        .env_clear()
        .env("HOME", home)
        .envs(environment.iter().copied())
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .expect("run zcpctl");
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

async fn answer(State(script): State<Arc<Script>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let line = format!("{} {}", parts.method, parts.uri);
    let body: Bytes = to_bytes(body, 1 << 20).await.unwrap();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    script.asked.lock().unwrap().push(Asked { line: line.clone(), headers: parts.headers, body });
    let mut answers = script.answers.lock().unwrap();
    let Some(row) = answers.get_mut(&line) else {
        let problem = json!({"type": "absent", "title": "", "status": 404,
            "detail": format!("the script has no {line}")});
        return (StatusCode::NOT_FOUND, axum::Json(problem)).into_response();
    };
    let (status, value) = if row.len() > 1 { row.remove(0) } else { row[0].clone() };
    (StatusCode::from_u16(status).unwrap(), axum::Json(value)).into_response()
}

/// A problem as the API words it.
pub(super) fn problem(status: u16, detail: &str, more: Value) -> (u16, Value) {
    let mut body = json!({"type": "x", "title": "X", "status": status, "detail": detail,
        "request_id": "r-1"});
    body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    (status, body)
}

pub(super) const SHOP: &str = "01900000-0000-7000-8000-000000000001";
pub(super) const MOVE: &str = "01900000-0000-7000-8000-000000000002";
const AT: &str = "2026-08-01T12:00:00Z";

/// A cluster with so many of four workers usable.
pub(super) fn cluster(phase: &str, usable: u32) -> Value {
    json!({
        "id": SHOP, "name": "shop", "project_id": SHOP, "project": "default",
        "offering": "1.36.2", "kubernetes_version": "1.36.2",
        "control_plane": {"cloud": "east", "count": 1, "flavor": "k8s.2c4g", "usable": 1},
        "pools": [{"id": SHOP, "name": "web", "cloud": "east", "flavor": "k8s.4c8g", "count": 4,
            "labels": {"team": "shop"}, "taints": [], "surge": 1, "nodes": 4, "usable": usable}],
        "network": {"pod_cidr": "10.244.0.0/16", "service_cidr": "10.96.0.0/12"},
        "api_server_args": {}, "phase": phase, "desired": "present", "generation": 1,
        "observed_generation": 1,
        "conditions": [{"type": "Ready", "status": usable == 4, "reason": "Workers",
            "message": format!("{usable} of 4 workers serve"), "last_transition": AT}],
        "waiting": if usable == 4 { json!([]) } else { json!(["shop-web-a1b2c3 is joining"]) },
        "endpoint": "https://10.10.0.5:6443", "created_at": AT, "updated_at": AT,
    })
}

/// A migration of that cluster.
pub(super) fn migration(phase: &str, drained: u32) -> Value {
    let wave = |number: u32, upto: &str, nodes: u32, state: &str| {
        json!({"number": number, "upto": upto, "soak_seconds": 180, "gate": "auto", "nodes": nodes,
            "drained": drained.min(nodes), "state": state})
    };
    json!({
        "id": MOVE, "cluster_id": SHOP, "cluster": "shop", "project": "default",
        "source": "east", "target": "west", "pools": ["web"], "phase": phase, "phase_since": AT,
        "direction": "forward", "wave": 1,
        "waves": [wave(1, "1", 1, "running"), wave(2, "25%", 0, "skipped"),
            wave(3, "100%", 3, "waiting")],
        "drain": {"timeout_seconds": 3600, "at_deadline": "pause"}, "hold_seconds": 86400,
        "commit": "auto_after_hold",
        "nodes": [
            {"id": SHOP, "name": "shop-web-a1b2c3", "pool": "web", "side": "old", "wave": 1,
                "stage": "usable", "drain": "evicting", "blockers": [
                    {"pod": "default/web-1", "reason": "PDB web allows 0 disruptions"}]},
            {"id": MOVE, "name": "shop-web-d4e5f6", "pool": "web", "side": "new",
                "stage": "usable", "drain": "idle"}],
        "progress": {"old": 4, "drained": drained, "new": 1, "usable": 1},
        "conditions": [], "waiting": ["shop-web-a1b2c3: PDB web allows 0 disruptions"],
        "legal": ["pause", "rollback", "retry"], "generation": 1, "created_by": "operator",
        "created_at": AT, "updated_at": AT,
    })
}

/// A page of one list.
pub(super) fn page(items: &[Value]) -> (u16, Value) {
    (200, json!({"items": items}))
}

/// Compares with a file under tests/golden; `ZCP_GOLDEN=write` writes it anew.
pub(super) fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("ZCP_GOLDEN").is_some_and(|value| value == "write") {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "differs from tests/golden/{name}; ZCP_GOLDEN=write accepts it");
}
