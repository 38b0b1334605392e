//! One typed configuration: a TOML file, then the environment.
//!
//! Every key has an environment variable: `ZCP_` and its path in capitals, with `_` between, so
//! `database.url` is `ZCP_DATABASE_URL`. The environment wins. Unknown keys in the file are
//! refused. Secrets print as `***`.

mod canary;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::Url;

pub use canary::Canary;

use crate::domain::duration::HumanDuration;
use crate::domain::field::FieldErrors;

/// What zcpd needs to know.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the state is.
    pub database: Database,
    /// The listener for users.
    pub api: Api,
    /// The listener for servers.
    pub node: Node,
    /// What seals secrets in the database.
    pub seal: Seal,
    /// How the workers behave.
    pub worker: Worker,
    /// The cluster whose ClusterMigration objects are migrations.
    pub management: Management,
    /// Logging.
    pub telemetry: Telemetry,
}

/// The cluster whose ClusterMigration objects are migrations. Give all replicas the same.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Management {
    /// A kubeconfig file; without one there is no management cluster. It is trusted, but may start
    /// no programs.
    pub kubeconfig: Option<PathBuf>,
}

/// Where the state is.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Database {
    /// `postgres://user:password@host/database`.
    pub url: Secret,
    /// Connections of this process, 2 to 500. Default 20.
    pub max_connections: u32,
}

/// The listener for users.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Api {
    /// Address and port. Default 127.0.0.1:8080; TLS is the business of what stands in front.
    pub listen: SocketAddr,
    /// A file with a secret that opens the door as an operator, for the first start.
    pub operator_token_file: Option<PathBuf>,
}

/// The listener for servers, where they fetch their keys.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// Address and port. Default 127.0.0.1:8443.
    pub listen: SocketAddr,
    /// How servers reach it: `https://HOST:PORT`. Default https://127.0.0.1:8443.
    #[serde(serialize_with = "write_url", deserialize_with = "read_url")]
    pub url: Url,
}

/// What seals secrets in the database. One of both must be given.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Seal {
    /// A file with the keys, one `<id>:<32 bytes in base64>` a line, the sealing one first.
    pub key_file: Option<PathBuf>,
    /// The same text itself; meant for the environment.
    pub key: Option<Secret>,
}

/// How the workers behave. Durations are written like `300ms`, `30s`, `24h`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Worker {
    /// Name of this replica, for operators. Default: the machine's name.
    pub replica: Option<String>,
    /// How long nobody touches what a dead replica held. Default 1m.
    pub lease: HumanDuration,
    /// How often work is looked for without a hint. Default 1s.
    pub poll: HumanDuration,
    /// How long steps in flight may take to end at a stop. Default 20s.
    pub grace: HumanDuration,
    /// From a server's first call to a usable node. Default 20m.
    pub join_deadline: HumanDuration,
    /// How long a server that may have been made is looked for. Default 1m.
    pub unclear_wait: HumanDuration,
    /// How often servers and nodes are listed while something happens. Default 5s.
    pub busy_period: HumanDuration,
    /// How often an idle account's servers are listed. Default 1m.
    pub servers_period: HumanDuration,
    /// How often an idle cluster's nodes are listed. Default 2m.
    pub nodes_period: HumanDuration,
    /// How often a cloud's inventory is read. Default 5m.
    pub inventory_period: HumanDuration,
    /// How often things without an owner are looked for. Default 15m.
    pub sweep_period: HumanDuration,
    /// How long such a thing is known before it is deleted. Default 40m.
    pub sweep_age: HumanDuration,
    /// Time between two passes over a node that is drained. Default 5s.
    pub drain_pass: HumanDuration,
    /// How long a node of a shrinking pool may take to drain. Default 1h.
    pub shrink_drain: HumanDuration,
    /// Steps on different nodes of one cluster that run at once. Default 8.
    pub parallel_steps: u32,
    /// kube-vip's image. Default: the one that zcpd was tested with.
    pub kube_vip_image: Option<String>,
    /// What canaries try.
    pub canary: Canary,
    /// Each kind of work.
    pub kinds: Kinds,
}

/// Each kind of work.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Kinds {
    /// Inventory and health of a cloud.
    pub cloud: Kind,
    /// Lists of servers.
    pub observe_servers: Kind,
    /// Lists of nodes.
    pub observe_nodes: Kind,
    /// Clusters.
    pub cluster: Kind,
    /// What is to be known before migrations.
    pub preflight: Kind,
    /// Migrations.
    pub migration: Kind,
    /// What nobody owns.
    pub sweep: Kind,
    /// Objects of the management cluster, if there is one.
    pub management: Kind,
}

/// One kind of work.
#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Kind {
    /// Whether this replica does it. Default true.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// When settled work is looked at again.
    pub period: HumanDuration,
    /// How many items at once.
    pub concurrency: u32,
}

fn yes() -> bool {
    true
}

fn write_url<S: Serializer>(url: &Url, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(url.as_str())
}

fn read_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Url, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|error| D::Error::custom(format!("is not a URL: {error}")))
}

/// Logging.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Telemetry {
    /// `error`, `warn`, `info`, `debug`, or filters such as `info,zcp::worker=debug`.
    pub level: String,
    /// One JSON object a line. Default false.
    pub json: bool,
}

/// A text that prints as `***`.
#[derive(Clone, Default, Deserialize)]
#[serde(from = "String")]
pub struct Secret(SecretString);

impl Secret {
    /// The text itself.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    fn is_empty(&self) -> bool {
        self.expose().trim().is_empty()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.is_empty() { "" } else { "***" })
    }
}

impl Default for Database {
    fn default() -> Self {
        Self { url: Secret::default(), max_connections: 20 }
    }
}

impl Default for Api {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8080)), operator_token_file: None }
    }
}

impl Default for Node {
    fn default() -> Self {
        let url = Url::parse("https://127.0.0.1:8443").expect("a constant URL");
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8443)), url }
    }
}

impl Default for Worker {
    fn default() -> Self {
        let minutes = |minutes| HumanDuration(Duration::from_mins(minutes));
        let seconds = |seconds| HumanDuration(Duration::from_secs(seconds));
        Self {
            replica: None,
            lease: minutes(1),
            poll: seconds(1),
            grace: seconds(20),
            join_deadline: minutes(20),
            unclear_wait: minutes(1),
            busy_period: seconds(5),
            servers_period: minutes(1),
            nodes_period: minutes(2),
            inventory_period: minutes(5),
            sweep_period: minutes(15),
            sweep_age: minutes(40),
            drain_pass: seconds(5),
            shrink_drain: minutes(60),
            parallel_steps: 8,
            kube_vip_image: None,
            canary: Canary::default(),
            kinds: Kinds::default(),
        }
    }
}

impl Default for Kinds {
    /// Enough at once for a fleet of 1,400 clusters on one replica.
    fn default() -> Self {
        let kind = |minutes, concurrency| Kind {
            enabled: true,
            period: HumanDuration(Duration::from_mins(minutes)),
            concurrency,
        };
        Self {
            cloud: kind(5, 4),
            observe_servers: kind(1, 8),
            observe_nodes: kind(2, 32),
            cluster: kind(10, 32),
            preflight: kind(10, 16),
            migration: kind(10, 32),
            sweep: kind(15, 2),
            management: Kind { period: HumanDuration(Duration::from_secs(15)), ..kind(1, 1) },
        }
    }
}

impl Kinds {
    /// All of them with their names, in the order in which work is done.
    pub fn all(&self) -> [(&'static str, Kind); 8] {
        [
            ("cloud", self.cloud),
            ("observe_servers", self.observe_servers),
            ("observe_nodes", self.observe_nodes),
            ("cluster", self.cluster),
            ("preflight", self.preflight),
            ("migration", self.migration),
            ("sweep", self.sweep),
            ("management", self.management),
        ]
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { level: "info".to_owned(), json: false }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("read {0}")]
    File(PathBuf, #[source] std::io::Error),
    /// The file is not TOML.
    #[error("{0} is not TOML: {1}")]
    Toml(PathBuf, String),
    /// A value is of another kind than its key.
    #[error("{0}")]
    Value(String),
    /// Values that can't be right.
    #[error("the configuration is wrong: {0}")]
    Fields(FieldErrors),
}

/// The environment variables of this process.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

impl Config {
    /// Reads the file, if any, then what `environment` has, and checks all of it.
    pub fn load(
        file: Option<&Path>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let mut table = match file {
            Some(path) => read(path)?,
            None => toml::Table::new(),
        };
        for (path, kind) in keys() {
            let name = variable(&path);
            if let Some(text) = environment(&name) {
                let value = kind.parse(&text).ok_or_else(|| {
                    ConfigError::Value(format!("{name} must be {}", kind.describe()))
                })?;
                insert(&mut table, &path, value).ok_or_else(|| {
                    ConfigError::Value(format!("{name}: its section is no table"))
                })?;
            }
        }
        complete_kinds(&mut table);
        let config: Self = serde_path_to_error::deserialize(table).map_err(|error| {
            ConfigError::Value(format!("{}: {}", error.path(), error.inner().message()))
        })?;
        config.check().into_result(config).map_err(ConfigError::Fields)
    }

    /// The environment variable of every key.
    pub fn variables() -> Vec<String> {
        keys().keys().map(|path| variable(path)).collect()
    }

    /// The whole configuration as TOML, without its secrets.
    pub fn shown(&self) -> String {
        toml::to_string_pretty(self).unwrap_or_default()
    }

    fn check(&self) -> FieldErrors {
        let mut errors = FieldErrors::default();
        let url = self.database.url.expose();
        if url.is_empty() {
            errors.push("database.url", "is needed, such as postgres://zcp@db.example/zcp");
        } else if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            errors.push("database.url", "must begin with postgres://");
        }
        if !(2..=500).contains(&self.database.max_connections) {
            errors.push("database.max_connections", "must be 2 to 500");
        }
        match (&self.seal.key, &self.seal.key_file) {
            (Some(_), Some(_)) => errors.push("seal.key", "give this or seal.key_file, not both"),
            (None, None) => errors.push(
                "seal.key_file",
                "is needed (or ZCP_SEAL_KEY); `zcpd config new-key` prints a new key",
            ),
            (Some(key), None) if key.is_empty() => errors.push("seal.key", "is empty"),
            (Some(_), None) | (None, Some(_)) => {}
        }
        errors.extend(self.node.check());
        errors.extend(self.worker.check());
        errors
    }
}

impl Node {
    fn check(&self) -> FieldErrors {
        if self.url.scheme() != "https" || self.url.host().is_none() {
            return FieldErrors::one("node.url", "must be https://HOST:PORT");
        }
        let loopback = match self.url.host() {
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            Some(url::Host::Domain(name)) => name == "localhost",
            None => false,
        };
        if loopback && !self.listen.ip().is_loopback() {
            return FieldErrors::one(
                "node.url",
                "servers cannot reach this machine's loopback address: name the address or DNS \
                 name at which they reach node.listen",
            );
        }
        FieldErrors::default()
    }
}

impl Worker {
    fn check(&self) -> FieldErrors {
        let mut errors = FieldErrors::default();
        // Less than this and the database does nothing but answer "is there work?".
        let shortest = HumanDuration(Duration::from_millis(50));
        let durations = [
            ("poll", self.poll),
            ("join_deadline", self.join_deadline),
            ("busy_period", self.busy_period),
            ("servers_period", self.servers_period),
            ("nodes_period", self.nodes_period),
            ("inventory_period", self.inventory_period),
            ("sweep_period", self.sweep_period),
            ("drain_pass", self.drain_pass),
        ];
        for (name, _) in durations.into_iter().filter(|(_, value)| *value < shortest) {
            errors.push(format!("worker.{name}"), format!("must be at least {shortest}"));
        }
        if self.lease.0 < Duration::from_secs(10) {
            errors.push("worker.lease", "must be at least 10s: calls outside must be shorter");
        }
        if !(1..=64).contains(&self.parallel_steps) {
            errors.push("worker.parallel_steps", "must be 1 to 64");
        }
        for (name, kind) in self.kinds.all() {
            if kind.period < shortest {
                errors.push(
                    format!("worker.kinds.{name}.period"),
                    format!("must be at least {shortest}"),
                );
            }
            if !(1..=1000).contains(&kind.concurrency) {
                errors.push(format!("worker.kinds.{name}.concurrency"), "must be 1 to 1000");
            }
        }
        errors
    }
}

fn read(path: &Path) -> Result<toml::Table, ConfigError> {
    let text =
        std::fs::read_to_string(path).map_err(|error| ConfigError::File(path.to_owned(), error))?;
    // The error's own text would quote the line, which may hold a password.
    text.parse().map_err(|error: toml::de::Error| {
        ConfigError::Toml(path.to_owned(), error.message().to_owned())
    })
}

/// What an environment variable is read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Number,
    Bool,
}

impl Form {
    fn parse(self, text: &str) -> Option<toml::Value> {
        match self {
            Self::Text => Some(toml::Value::String(text.to_owned())),
            Self::Number => text.parse().ok().map(toml::Value::Integer),
            Self::Bool => text.parse().ok().map(toml::Value::Boolean),
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Number => "a whole number",
            Self::Bool => "true or false",
        }
    }
}

/// Every key with its form, read off the defaults.
fn keys() -> BTreeMap<Vec<String>, Form> {
    let mut found = BTreeMap::new();
    let defaults = serde_json::to_value(Config::default()).unwrap_or_default();
    let mut open = vec![(Vec::new(), defaults)];
    while let Some((path, value)) = open.pop() {
        let form = match value {
            serde_json::Value::Object(fields) => {
                for (name, value) in fields {
                    open.push(([path.clone(), vec![name]].concat(), value));
                }
                continue;
            }
            serde_json::Value::Number(_) => Form::Number,
            serde_json::Value::Bool(_) => Form::Bool,
            _ => Form::Text,
        };
        found.insert(path, form);
    }
    found
}

fn variable(path: &[String]) -> String {
    format!("ZCP_{}", path.join("_").to_uppercase())
}

/// Gives each kind of work that is named the settings that are not: each kind has its own.
fn complete_kinds(table: &mut toml::Table) {
    let section = table.get_mut("worker").and_then(|worker| worker.get_mut("kinds"));
    let Some(kinds) = section.and_then(toml::Value::as_table_mut) else { return };
    let Ok(defaults) = toml::Table::try_from(Kinds::default()) else { return };
    for (name, default) in defaults {
        let known = kinds.get_mut(&name).and_then(toml::Value::as_table_mut);
        if let (Some(kind), toml::Value::Table(default)) = (known, default) {
            for (key, value) in default {
                kind.entry(key).or_insert(value);
            }
        }
    }
}

fn insert(table: &mut toml::Table, path: &[String], value: toml::Value) -> Option<()> {
    let (last, sections) = path.split_last()?;
    let mut at = table;
    for section in sections {
        let entry =
            at.entry(section.clone()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        at = entry.as_table_mut()?;
    }
    at.insert(last.clone(), value);
    Some(())
}
