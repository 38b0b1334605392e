//! `zcpd dev` as a process: it starts, survives itself, and leaves nothing behind.

#![expect(clippy::unwrap_used, reason = "a test ends where it panics")]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};
use zcp::clock::{Ids as _, SystemIds};

/// A cold machine makes a database and a schema in it first.
const READY: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_millis(100);

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        // Short, for Postgres' socket; and passable for its user.
        let path = std::env::temp_dir().join(format!("zcp-dev-{:.8}", SystemIds.uuid().simple()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn start(&self) -> Child {
        let log = std::fs::File::create(self.0.join("dev.log")).unwrap();
        Command::new(env!("CARGO_BIN_EXE_zcpd"))
            .args(["dev", "--speed", "50", "--state"])
            .arg(&self.0)
            .stdin(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("start zcpd dev")
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.0.join("dev.log")).unwrap_or_default()
    }

    async fn wait_until_ready(&self) {
        let ready = || self.said().contains("zcpd dev: ready");
        wait_for("zcpd dev is ready", ready).await;
    }

    /// Processes that were started on this folder and live.
    fn processes(&self) -> Vec<String> {
        let name = self.0.display().to_string();
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
            .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
            .filter(|line| line.contains(&name))
            .collect()
    }

    async fn zcpctl(&self, arguments: &[&str]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_zcpctl"))
            .env("ZCP_PROFILE", self.0.join("zcpctl.toml"))
            .args(arguments)
            .output()
            .await
            .expect("run zcpctl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

async fn wait_for(what: &str, is_true: impl Fn() -> bool) {
    let since = std::time::Instant::now();
    while !is_true() {
        assert!(since.elapsed() < READY, "not within {READY:?}: {what}");
        tokio::time::sleep(LOOK).await;
    }
}

fn ask_to_stop(child: &Child) {
    let id = i32::try_from(child.id().expect("it runs")).unwrap();
    let pid = rustix::process::Pid::from_raw(id).expect("a process id");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("signal it");
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_starts_goes_on_after_a_stop_and_dies_without_remains() {
    let folder = Folder::new();
    let mut first = folder.start();
    folder.wait_until_ready().await;
    let clouds = folder.zcpctl(&["cloud", "list"]).await;
    assert!(clouds.contains("east") && clouds.contains("west"), "{clouds}");
    is_refused(&folder.0).await;
    let project = folder.zcpctl(&["project", "add", "kept", "-o", "json"]).await;
    ask_to_stop(&first);
    assert!(first.wait().await.unwrap().success(), "{}", folder.said());
    assert_eq!(folder.processes(), Vec::<String>::new());

    let mut second = folder.start();
    folder.wait_until_ready().await;
    assert_eq!(folder.zcpctl(&["project", "get", "kept", "-o", "json"]).await, project);
    second.kill().await.unwrap();
    wait_for("nothing is left of a killed zcpd dev", || folder.processes().is_empty()).await;
}

/// A second one on the same folder says who is first.
async fn is_refused(state: &Path) {
    let output = Command::new(env!("CARGO_BIN_EXE_zcpd"))
        .args(["dev", "--state"])
        .arg(state)
        .output()
        .await
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("another zcpd dev (process "), "{said}");
}
