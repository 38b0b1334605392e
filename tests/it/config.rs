//! The configuration: file, then environment; every mistake names its key.

use std::path::{Path, PathBuf};

use zcp::clock::{Ids as _, SystemIds};
use zcp::config::{Config, ConfigError};

const GOOD: &str = r#"
[database]
url = "postgres://zcp:hunter2@db.example/zcp"
[seal]
key_file = "/etc/zcp/seal.key"
[worker]
busy_period = "300ms"
[worker.kinds]
sweep = { enabled = false, period = "1h", concurrency = 1 }
"#;

struct File(PathBuf);

impl File {
    fn new(text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("zcp-config-{}.toml", SystemIds.uuid()));
        std::fs::write(&path, text).expect("write a file");
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(&self.0);
    }
}

fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let file = File::new(text);
    let find = |name: &str| {
        environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    };
    Config::load(Some(&file.0), find)
}

fn refused(text: &str, environment: &[(&str, &str)]) -> String {
    load(text, environment).expect_err("it is wrong").to_string()
}

#[test]
fn the_environment_wins_over_the_file() {
    let config = load(
        GOOD,
        &[
            ("ZCP_DATABASE_MAX_CONNECTIONS", "7"),
            ("ZCP_WORKER_BUSY_PERIOD", "2s"),
            ("ZCP_WORKER_KINDS_SWEEP_ENABLED", "true"),
            ("ZCP_API_LISTEN", "0.0.0.0:80"),
            ("ZCP_TELEMETRY_JSON", "true"),
        ],
    )
    .expect("a good configuration");
    assert_eq!(config.database.max_connections, 7);
    assert_eq!(config.worker.busy_period.to_string(), "2s");
    assert!(config.worker.kinds.sweep.enabled && config.telemetry.json);
    assert_eq!(config.worker.kinds.sweep.concurrency, 1);
    assert_eq!(config.api.listen.port(), 80);
}

#[test]
fn each_setting_of_a_kind_of_work_has_its_default() {
    for (name, value) in [("PERIOD", "7m"), ("CONCURRENCY", "3"), ("ENABLED", "false")] {
        let variable = format!("ZCP_WORKER_KINDS_CLUSTER_{name}");
        let config = load(GOOD, &[(&variable, value)]).expect("one setting is enough");
        let (kind, default) = (config.worker.kinds.cluster, Config::default().worker.kinds.cluster);
        let is_given = |key: &str| name == key;
        assert_eq!(kind.period == default.period, !is_given("PERIOD"), "{kind:?}");
        assert_eq!(kind.concurrency == default.concurrency, !is_given("CONCURRENCY"), "{kind:?}");
        assert_eq!(kind.enabled, !is_given("ENABLED"), "{kind:?}");
    }
}

#[test]
fn the_environment_alone_is_enough() {
    let config = Config::load(None, |name| match name {
        "ZCP_DATABASE_URL" => Some("postgres://db/zcp".to_owned()),
        "ZCP_SEAL_KEY" => Some("k1:AAAA".to_owned()),
        _ => None,
    });
    assert!(config.is_ok(), "{config:?}");
}

#[test]
fn every_key_has_a_variable_and_no_two_have_the_same() {
    let mut names = Config::variables();
    assert!(names.contains(&"ZCP_WORKER_KINDS_OBSERVE_SERVERS_CONCURRENCY".to_owned()));
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn secrets_are_never_shown() {
    let config = load(GOOD, &[]).expect("a good configuration");
    let shown = format!("{}{config:?}", config.shown());
    assert!(shown.contains("***") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn unknown_keys_and_wrong_values_are_named() {
    for (text, environment, part) in [
        ("[databse]\nurl = 'x'", &[][..], "databse"),
        ("[worker]\nbusy_perod = '1s'", &[], "busy_perod"),
        ("[worker]\nbusy_period = '5'", &[], "worker.busy_period: must be a duration"),
        ("[api]\nlisten = 'nowhere'", &[], "api.listen"),
        ("[node]\nurl = 'x'", &[], "node.url: is not a URL"),
        (GOOD, &[("ZCP_DATABASE_MAX_CONNECTIONS", "many")], "ZCP_DATABASE_MAX_CONNECTIONS must be"),
        (GOOD, &[("ZCP_SEAL_KEY", "k1:x")], "seal.key: give this or seal.key_file"),
        (GOOD, &[("ZCP_NODE_URL", "http://zcp.example")], "node.url: must be https"),
        (GOOD, &[("ZCP_NODE_LISTEN", "0.0.0.0:8443")], "node.url: servers cannot reach"),
        (GOOD, &[("ZCP_WORKER_LEASE", "1s")], "worker.lease: must be at least 10s"),
        (GOOD, &[("ZCP_WORKER_POLL", "1ms")], "worker.poll: must be at least 50ms"),
        (GOOD, &[("ZCP_DATABASE_URL", "mysql://x")], "database.url: must begin"),
        ("", &[], "database.url: is needed"),
    ] {
        let error = refused(text, environment);
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
}

#[test]
fn a_broken_file_is_not_quoted() {
    let error = refused("[database]\nurl = hunter2", &[]);
    assert!(error.contains("is not TOML") && !error.contains("hunter2"), "{error}");
    let error = Config::load(Some(Path::new("/nonexistent/zcpd.toml")), |_| None);
    assert!(error.expect_err("no file").to_string().contains("/nonexistent/zcpd.toml"));
}
