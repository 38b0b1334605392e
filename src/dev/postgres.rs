//! A private PostgreSQL server in a folder.
//!
//! Made with PostgreSQL's own programs; listens on a socket in a folder that only its user can
//! enter, and on no TCP port. The server is the child of a small shell that waits for our end of
//! a pipe to close: so it stops when we stop it, when we are dropped and when we are killed.
//!
//! ```text
//! <folder>/lock      held by the process that runs the server
//! <folder>/data      PostgreSQL's data
//! <folder>/run       the socket
//! <folder>/log       what the server says
//! ```

use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

mod programs;

use programs::{Programs, User};

/// Starting from an unclean stop replays the log, which may take long on a slow disk.
const START_LIMIT: Duration = Duration::from_mins(1);
/// A fast shutdown writes a checkpoint.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// How often the server is asked whether it is ready.
const POLL: Duration = Duration::from_millis(20);
/// What the kernel allows for a socket's path, with our file name taken off.
const SOCKET_PATH_LIMIT: usize = 107 - "/.s.PGSQL.5432".len();

/// Waits for the pipe to end, then stops the server; and ends when the server ends. The server
/// is asked again and again, since right after its start it does not listen yet.
const WATCHDOG: &str = r#"
clean() { [ -z "$REMOVE" ] || rm -rf "$REMOVE"; }
"$@" </dev/null & server=$!
{ while read -r _; do :; done; while kill -INT $server 2>/dev/null; do sleep 0.2; done; } <&3 & watch=$!
exec 3<&-
trap '' INT TERM HUP
wait $server; status=$?
kill $watch 2>/dev/null
clean
exit $status
"#;

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// PostgreSQL is not installed.
    #[error(
        "PostgreSQL's programs (initdb, postgres) are not found; install them \
         (Debian: apt-get install postgresql; Fedora: dnf install postgresql-server) \
         or say where they are with --pg-bin"
    )]
    NotInstalled,
    /// The folder was made by another version.
    #[error(
        "{folder} was made by PostgreSQL {found}, the programs are of version {have}: use \
         programs of version {found} (--pg-bin), or another folder"
    )]
    OtherVersion {
        /// The folder.
        folder: PathBuf,
        /// Version that made it.
        found: String,
        /// Version of the programs.
        have: String,
    },
    /// Another process runs the server of this folder.
    #[error("another zcpd runs the database in {0}")]
    InUse(PathBuf),
    /// The folder cannot be used.
    #[error("{folder} cannot be used: {problem}")]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A program failed.
    #[error("{program} does not succeed: {output}")]
    Failed {
        /// Which program.
        program: &'static str,
        /// The end of what it said.
        output: String,
    },
    /// Reading or writing files, or starting a program.
    #[error("{doing}")]
    Io {
        /// What was being done.
        doing: String,
        /// Why that failed.
        #[source]
        source: io::Error,
    },
}

fn io_error(doing: impl Into<String>) -> impl FnOnce(io::Error) -> PostgresError {
    let doing = doing.into();
    move |source| PostgresError::Io { doing, source }
}

/// Whether data must survive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Everything committed is on the disk.
    Durable,
    /// Nothing is worth keeping: no fsync, and the folder is deleted when the server stops.
    Disposable,
}

/// How to run the server.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// Where everything is; made if it does not exist.
    pub folder: PathBuf,
    /// Where the programs are; looked for if none is given.
    pub programs: Option<PathBuf>,
    /// Whether data must survive.
    pub durability: Durability,
    /// Connections that the server accepts.
    pub max_connections: u16,
}

impl PostgresOptions {
    /// A durable server in `folder`.
    pub fn durable(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            programs: None,
            durability: Durability::Durable,
            max_connections: 100,
        }
    }

    /// A server for tests in `folder`, which is deleted with everything in it at the end.
    pub fn disposable(folder: impl Into<PathBuf>) -> Self {
        Self { durability: Durability::Disposable, max_connections: 500, ..Self::durable(folder) }
    }
}

/// A running server. Stops when dropped.
#[derive(Debug)]
pub struct EmbeddedPostgres {
    run: PathBuf,
    /// The watchdog; it is our child, the server is its.
    watchdog: Child,
    /// The end of the pipe: closing it stops the server.
    leash: Option<ChildStdin>,
    _lock: File,
}

impl EmbeddedPostgres {
    /// Starts the server, and makes its data first if there are none.
    pub async fn start(options: PostgresOptions) -> Result<Self, PostgresError> {
        let programs = Programs::find(options.programs.as_deref())?;
        let user = User::to_run_as()?;
        let places = Places::make(&options, user)?;
        let lock = places.lock()?;
        if places.data.exists() {
            places.check_version(&programs)?;
            wait_for_orphan(&places).await?;
        } else {
            programs::init(&programs, user, &places)?;
        }
        let log = File::create(&places.log).map_err(io_error("make the server's log"))?;
        let mut watchdog = watchdog(&programs, user, &places, &options)
            .stderr(log)
            .spawn()
            .map_err(io_error("start postgres"))?;
        let leash = watchdog.stdin.take();
        let mut server = Self { run: places.run.clone(), watchdog, leash, _lock: lock };
        server.wait_until_ready(&places).await?;
        Ok(server)
    }

    /// URL of a database on this server; `zcp` exists from the start.
    pub fn url(&self, database: &str) -> String {
        format!("postgres:///{database}?host={}&user=zcp", self.run.display())
    }

    /// Stops the server and waits for its end.
    pub async fn stop(mut self) -> Result<(), PostgresError> {
        drop(self.leash.take());
        let since = Instant::now();
        while since.elapsed() < STOP_LIMIT {
            let ended = self.watchdog.try_wait().map_err(io_error("wait for postgres"))?;
            if ended.is_some() {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
        Err(PostgresError::Failed {
            program: "postgres",
            output: format!("it does not stop within {STOP_LIMIT:?}"),
        })
    }

    async fn wait_until_ready(&mut self, places: &Places) -> Result<(), PostgresError> {
        let since = Instant::now();
        loop {
            if places.is_ready() {
                return Ok(());
            }
            let ended = self.watchdog.try_wait().map_err(io_error("wait for postgres"))?;
            if ended.is_some() || since.elapsed() > START_LIMIT {
                return Err(PostgresError::Failed {
                    program: "postgres",
                    output: tail(&fs::read_to_string(&places.log).unwrap_or_default()),
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for EmbeddedPostgres {
    fn drop(&mut self) {
        // Closing the pipe is all: the watchdog stops the server. It is reaped here if it is
        // quick, by init otherwise.
        drop(self.leash.take());
        let _ended = self.watchdog.try_wait();
    }
}

/// The files of one server.
struct Places {
    folder: PathBuf,
    data: PathBuf,
    run: PathBuf,
    log: PathBuf,
}

impl Places {
    fn make(options: &PostgresOptions, user: Option<User>) -> Result<Self, PostgresError> {
        let folder = &options.folder;
        fs::create_dir_all(folder).map_err(io_error(format!("make {}", folder.display())))?;
        let folder = fs::canonicalize(folder).map_err(io_error("read the folder's name"))?;
        let (data, run, log) = (folder.join("data"), folder.join("run"), folder.join("log"));
        if run.as_os_str().len() > SOCKET_PATH_LIMIT {
            let problem = "its name is too long for a socket; choose a shorter one".to_owned();
            return Err(PostgresError::Folder { folder, problem });
        }
        private_folder(&run, user)?;
        if options.durability == Durability::Disposable {
            // The watchdog deletes it, and runs as that user.
            give(&folder, user)?;
        }
        let places = Self { folder, data, run, log };
        places.check_enterable(user)?;
        Ok(places)
    }

    /// As root we run the server as somebody else, who must be able to get to the data.
    fn check_enterable(&self, user: Option<User>) -> Result<(), PostgresError> {
        if user.is_none() {
            return Ok(());
        }
        for parent in self.folder.ancestors() {
            let mode = fs::metadata(parent).map_err(io_error("look at the folder"))?;
            if mode.permissions().mode() & 0o001 == 0 {
                let problem = format!(
                    "postgres does not run as root, and the user it runs as cannot enter {}; \
                     choose a folder that everyone can enter",
                    parent.display()
                );
                return Err(PostgresError::Folder { folder: self.folder.clone(), problem });
            }
        }
        Ok(())
    }

    /// Held as long as we live; the kernel frees it, however we end.
    fn lock(&self) -> Result<File, PostgresError> {
        let lock = File::create(self.folder.join("lock")).map_err(io_error("make the lock"))?;
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(TryLockError::WouldBlock) => Err(PostgresError::InUse(self.folder.clone())),
            Err(TryLockError::Error(error)) => Err(io_error("lock the folder")(error)),
        }
    }

    fn check_version(&self, programs: &Programs) -> Result<(), PostgresError> {
        let found = fs::read_to_string(self.data.join("PG_VERSION"))
            .map_err(io_error("read the data's version"))?;
        if found.trim() == programs.version {
            return Ok(());
        }
        Err(PostgresError::OtherVersion {
            folder: self.folder.clone(),
            found: found.trim().to_owned(),
            have: programs.version.clone(),
        })
    }

    /// The server writes its state into the eighth line of its pid file.
    fn is_ready(&self) -> bool {
        fs::read_to_string(self.data.join("postmaster.pid"))
            .is_ok_and(|text| text.lines().nth(7).is_some_and(|line| line.trim() == "ready"))
    }

    /// Process id of a server that runs on this data, whoever started it.
    fn server_pid(&self) -> Option<u32> {
        let text = fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        let pid = text.lines().next()?.trim().parse().ok()?;
        // The file may be left from a server that was killed, and the number reused since.
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let data = self.data.as_os_str().as_encoded_bytes();
        command.windows(data.len()).any(|window| window == data).then_some(pid)
    }
}

/// Makes a folder that only `user` can enter.
fn private_folder(place: &Path, user: Option<User>) -> Result<(), PostgresError> {
    let made = DirBuilder::new().mode(0o700).create(place);
    if let Err(error) = made
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(io_error(format!("make {}", place.display()))(error));
    }
    fs::set_permissions(place, Permissions::from_mode(0o700))
        .map_err(io_error("protect the data"))?;
    give(place, user)
}

fn give(place: &Path, user: Option<User>) -> Result<(), PostgresError> {
    let Some(user) = user else { return Ok(()) };
    chown(place, Some(user.uid), Some(user.gid)).map_err(io_error("give the data to postgres"))
}

/// A server left by a process that was killed is just stopping; we hold the lock, so nobody
/// else has started it.
async fn wait_for_orphan(places: &Places) -> Result<(), PostgresError> {
    let since = Instant::now();
    while let Some(pid) = places.server_pid() {
        if since.elapsed() > STOP_LIMIT {
            let problem = format!("a server that nobody owns runs on it (process {pid})");
            return Err(PostgresError::Folder { folder: places.folder.clone(), problem });
        }
        tokio::time::sleep(POLL).await;
    }
    // What is left of a killed server would make the next one look ready before it is.
    let _stale = fs::remove_file(places.data.join("postmaster.pid"));
    Ok(())
}

fn watchdog(
    programs: &Programs,
    user: Option<User>,
    places: &Places,
    options: &PostgresOptions,
) -> Command {
    // File 3 is the pipe: a background job of a shell gets /dev/null as its input.
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &format!("exec 3<&0\n{WATCHDOG}"), "zcp-postgres"]);
    command.arg(&programs.postgres).arg("-D").arg(&places.data).arg("-k").arg(&places.run);
    command.args(["-c", "listen_addresses="]);
    command.arg("-c").arg(format!("max_connections={}", options.max_connections));
    if options.durability == Durability::Disposable {
        for setting in ["fsync=off", "synchronous_commit=off", "full_page_writes=off"] {
            command.args(["-c", setting]);
        }
        command.env("REMOVE", &places.folder);
    }
    command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null());
    // Ctrl-C in a terminal goes to the whole group; the server must outlive our own shutdown.
    command.process_group(0);
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
    command
}

/// The end of a program's output, enough to see what is wrong.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(10)..].join("\n")
}

/// Feeds `input` to a program and waits for it.
fn run_to_end(
    program: &'static str,
    command: &mut Command,
    input: &str,
) -> Result<(), PostgresError> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(io_error(format!("start {program}")))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends without reading says why on its own.
        let _ignored = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(io_error(format!("wait for {program}")))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(PostgresError::Failed { program, output: tail(&text) })
}
