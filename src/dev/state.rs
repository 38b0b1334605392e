//! The state folder: what a second start needs to go on.

use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::first::PROJECT;
use crate::cli::profile::Profile;
use crate::clock::{Ids as _, SystemIds};

/// How the workers of `zcpd serve` behave here.
const SHORT: &str = r#"[worker]
lease = "15s"
poll = "300ms"
grace = "5s"
busy_period = "300ms"
servers_period = "2s"
nodes_period = "2s"
inventory_period = "30s"
sweep_period = "5s"
sweep_age = "1m"
drain_pass = "500ms"
unclear_wait = "5s"

[worker.kinds]
cloud = { period = "30s", concurrency = 4 }
observe_servers = { period = "2s", concurrency = 8 }
observe_nodes = { period = "2s", concurrency = 32 }
cluster = { period = "10s", concurrency = 32 }
migration = { period = "10s", concurrency = 32 }
sweep = { period = "5s", concurrency = 2 }
"#;

/// Why the state folder can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file can't be read or written.
    #[error("{doing}")]
    File {
        /// What was being done.
        doing: String,
        /// Why that failed.
        #[source]
        source: io::Error,
    },
    /// Another one runs on the folder.
    #[error(
        "another zcpd dev (process {pid}) runs on {folder}: stop it, or choose another --state"
    )]
    Running {
        /// Its process id.
        pid: String,
        /// The folder.
        folder: PathBuf,
    },
    /// There is no home folder to put it into.
    #[error("there is no home folder: say where the state goes with --state")]
    Homeless,
}

fn file_error(doing: impl Into<String>) -> impl FnOnce(io::Error) -> StateError {
    let doing = doing.into();
    move |source| StateError::File { doing, source }
}

/// `dev.json`.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Kept {
    api_port: u16,
    node_port: u16,
    is_set_up: bool,
}

/// The state folder, locked.
#[derive(Debug)]
pub(super) struct State {
    folder: PathBuf,
    kept: Kept,
    _lock: File,
}

impl State {
    /// Opens the folder, and makes it if it does not exist.
    pub(super) fn open(given: Option<&Path>) -> Result<Self, StateError> {
        let folder = match given {
            Some(folder) => folder.to_owned(),
            None => default_folder()?,
        };
        let shown = folder.display().to_string();
        fs::create_dir_all(&folder).map_err(file_error(format!("make {shown}")))?;
        let folder = fs::canonicalize(&folder).map_err(file_error(format!("find {shown}")))?;
        let lock = lock(&folder)?;
        if rustix::process::geteuid().is_root() {
            // Postgres does not run as root; its own user must get to the data. What is secret
            // beside it is readable by its owner only.
            let mode = Permissions::from_mode(0o711);
            fs::set_permissions(&folder, mode).map_err(file_error(format!("open {shown}")))?;
        }
        let text = fs::read(folder.join("dev.json")).unwrap_or_default();
        let mut kept: Kept = serde_json::from_slice(&text).unwrap_or_default();
        kept.api_port = free_port(kept.api_port)?;
        kept.node_port = free_port(kept.node_port)?;
        let state = Self { folder, kept, _lock: lock };
        state.keep()?;
        Ok(state)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(super) fn api_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.kept.api_port)
    }

    /// Whether the first start did all that it does.
    pub(super) fn is_set_up(&self) -> bool {
        self.kept.is_set_up
    }

    pub(super) fn set_up(&mut self) -> Result<(), StateError> {
        self.kept.is_set_up = true;
        self.keep()
    }

    fn keep(&self) -> Result<(), StateError> {
        let text = serde_json::to_vec_pretty(&self.kept).unwrap_or_default();
        fs::write(self.file("dev.json"), text).map_err(file_error("write dev.json"))
    }

    /// Writes what `zcpd serve` and `zcpctl` are given.
    pub(super) fn write_config(&self, database: &str) -> Result<(), StateError> {
        let token = self.secret("token", || format!("zcp_{}", encode(&URL_SAFE_NO_PAD)))?;
        self.secret("seal.key", || format!("dev:{}", encode(&STANDARD)))?;
        let profile = Profile {
            url: Some(self.api_url()),
            token: Some(token.into()),
            project: Some(PROJECT.to_owned()),
        };
        self.write_private("zcpctl.toml", &profile.to_toml())?;
        self.write_private("zcpd.toml", &self.service_config(database))
    }

    /// Short periods: a simulation does in seconds what takes clouds minutes, and somebody is
    /// watching.
    fn service_config(&self, database: &str) -> String {
        let Kept { api_port, node_port, .. } = self.kept;
        let text = |value: &str| toml::Value::String(value.to_owned()).to_string();
        let file = |name: &str| text(&self.file(name).display().to_string());
        format!(
            "# Written at each start of zcpd dev.\n\
             database.url = {database}\n\
             api.listen = \"127.0.0.1:{api_port}\"\n\
             api.operator_token_file = {token}\n\
             node.listen = \"127.0.0.1:{node_port}\"\n\
             node.url = \"https://127.0.0.1:{node_port}\"\n\
             seal.key_file = {key}\n\n{SHORT}",
            database = text(database),
            token = file("token"),
            key = file("seal.key"),
        )
    }

    /// A secret that is made once.
    fn secret(&self, name: &str, make: impl FnOnce() -> String) -> Result<String, StateError> {
        match fs::read_to_string(self.file(name)) {
            Ok(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
            _ => {
                let secret = make();
                self.write_private(name, &format!("{secret}\n"))?;
                Ok(secret)
            }
        }
    }

    /// Writes a file that only we can read: whole or not at all.
    fn write_private(&self, name: &str, text: &str) -> Result<(), StateError> {
        let new = self.file(&format!("{name}.new"));
        let write = || {
            let mut file = File::create(&new)?;
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.write_all(text.as_bytes())?;
            fs::rename(&new, self.file(name))
        };
        write().map_err(file_error(format!("write {name}")))
    }
}

fn encode(engine: &impl base64::Engine) -> String {
    engine.encode(SystemIds.secret())
}

fn default_folder() -> Result<PathBuf, StateError> {
    // Postgres runs as another user when we are root, who cannot enter root's home.
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/zcp-dev"));
    }
    let home = std::env::home_dir().ok_or(StateError::Homeless)?;
    Ok(home.join(".local/state/zcp-dev"))
}

/// Held as long as we live; the kernel frees it, however we end.
fn lock(folder: &Path) -> Result<File, StateError> {
    let path = folder.join("lock");
    let open = File::options().create(true).truncate(false).read(true).write(true).open(&path);
    let mut lock = open.map_err(file_error("open the lock"))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let pid = fs::read_to_string(&path).unwrap_or_default().trim().to_owned();
            return Err(StateError::Running { pid, folder: folder.to_owned() });
        }
        Err(TryLockError::Error(error)) => return Err(file_error("lock the folder")(error)),
    }
    let mut write = || {
        lock.set_len(0)?;
        writeln!(lock, "{}", std::process::id())
    };
    write().map_err(file_error("write the lock"))?;
    Ok(lock)
}

/// The port of last time if it is free, else any free one.
fn free_port(last: u16) -> Result<u16, StateError> {
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, last))
        .or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    let port = bound.and_then(|listener| listener.local_addr()).map(|address| address.port());
    port.map_err(file_error("find a free port"))
}
