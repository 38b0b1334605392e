//! zcpd: the service and what belongs to running it. Thin: parse, build, run.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zcp::app::authz::Caller;
use zcp::app::tokens::{self, NewToken};
use zcp::clock::{SystemClock, SystemIds};
use zcp::config::{self, Config};
use zcp::dev::{self, DevArgs};
use zcp::domain::access::Role;
use zcp::domain::duration::HumanDuration;
use zcp::domain::ids::TokenId;
use zcp::service::{self, Foundation, Parts};
use zcp::sim::knobs::SimArgs;
use zcp::store::seal::KeyRing;
use zcp::{crd, http, sim, telemetry};

/// The control plane of Kubernetes clusters on private OpenStack clouds.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs API, node listener and workers.
    Serve(Process),
    /// Runs workers only.
    Worker(Process),
    /// Runs everything on this machine, with simulated clouds; nothing has to be set up.
    Dev(DevArgs),
    /// Runs simulated OpenStack clouds and tenant clusters.
    Sim {
        #[command(flatten)]
        sim: SimArgs,
        #[command(flatten)]
        leash: Leash,
    },
    /// Brings the database's schema up to date.
    Migrate(ConfigFile),
    /// Prints the OpenAPI document.
    Openapi,
    /// Prints the CustomResourceDefinition for a management cluster.
    Crd,
    /// Looks at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Makes tokens on the machine itself, where there is no operator's token yet.
    #[command(subcommand)]
    Token(TokenCommand),
}

#[derive(clap::Args)]
struct ConfigFile {
    /// Configuration file (TOML). The environment (ZCP_DATABASE_URL ...) wins over it.
    #[arg(long, value_name = "FILE", env = "ZCP_CONFIG")]
    config: Option<PathBuf>,
}

#[derive(clap::Args)]
struct Process {
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    leash: Leash,
}

#[derive(clap::Args)]
struct Leash {
    /// End when standard input is closed: whoever holds its other end has ended.
    #[arg(long)]
    exit_with_parent: bool,
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Checks it and prints it, without its secrets.
    Check(ConfigFile),
    /// Prints a new sealing key, a line for seal.key_file.
    NewKey {
        /// Its name; sealed values carry it.
        #[arg(long, default_value = "k1")]
        id: String,
    },
}

#[derive(Subcommand)]
enum TokenCommand {
    /// Makes a token and prints its secret, once.
    Create {
        #[command(flatten)]
        config: ConfigFile,
        /// What it is for.
        #[arg(long)]
        name: String,
        /// operator, owner or viewer.
        #[arg(long)]
        role: Role,
        /// Project of an owner or viewer.
        #[arg(long)]
        project: Option<String>,
        /// How long it is good, such as 24h; for ever if not given.
        #[arg(long)]
        lifetime: Option<HumanDuration>,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    // One crypto library for everything; rustls refuses to guess.
    let _set_before = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let ended = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")
        .and_then(|runtime| runtime.block_on(run(args.command)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _closed = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve(process) => serve(process, Parts::All).await,
        Command::Worker(process) => serve(process, Parts::Workers).await,
        Command::Dev(args) => Ok(dev::run(args, stop_signal(None)?).await?),
        Command::Sim { sim, leash } => simulate(sim, &leash).await,
        Command::Migrate(file) => {
            let store = service::connect(&file.load()?).await?;
            store.close().await;
            print("the database's schema is up to date\n")
        }
        Command::Crd => print(&crd::manifest().map_err(anyhow::Error::msg)?),
        Command::Openapi => print(&(http::openapi().to_pretty_json()? + "\n")),
        Command::Config(ConfigCommand::Check(file)) => print(&file.load()?.shown()),
        Command::Config(ConfigCommand::NewKey { id }) => {
            let text = KeyRing::generate(&id, &SystemIds);
            KeyRing::parse(&text).context("--id must be 1 to 32 letters, digits, - _ or .")?;
            print(&text)
        }
        Command::Token(create) => create_token(create).await,
    }
}

async fn serve(process: Process, parts: Parts) -> anyhow::Result<()> {
    let config = process.config.load()?;
    telemetry::start_logging(&config.telemetry.level, config.telemetry.json)?;
    Ok(service::run(&config, parts, stop_signal(Some(&process.leash))?).await?)
}

async fn simulate(args: SimArgs, leash: &Leash) -> anyhow::Result<()> {
    telemetry::start_logging("info", false)?;
    let stop = stop_signal(Some(leash))?;
    let settings = args.settings().map_err(anyhow::Error::msg).context("read --world")?;
    Ok(sim::serve::serve(settings, Arc::new(SystemClock), stop).await?)
}

async fn create_token(command: TokenCommand) -> anyhow::Result<()> {
    let TokenCommand::Create { config, name, role, project, lifetime } = command;
    let foundation = Foundation::open(&config.load()?).await?;
    // Whoever has the configuration has the database: this is no way around permissions.
    let caller = Caller {
        token_id: TokenId(uuid::Uuid::nil()),
        name: "zcpd token create".to_owned(),
        role: Role::Operator,
        project: None,
    };
    let new =
        NewToken { name, role, project, lifetime_seconds: lifetime.map(HumanDuration::seconds) };
    let created = tokens::create(&foundation.app, &caller.into(), &new).await?;
    print(&format!("{}\n", created.secret))
}

impl ConfigFile {
    fn load(&self) -> anyhow::Result<Config> {
        Ok(Config::load(self.config.as_deref(), config::environment)?)
    }
}

/// Cancelled by SIGTERM, SIGINT or SIGHUP, and by the parent's end where that is asked for.
fn stop_signal(leash: Option<&Leash>) -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()] {
        let mut signals = signal(kind).context("listen to signals")?;
        let stop = stop.clone();
        tasks.spawn(async move {
            signals.recv().await;
            stop.cancel();
        });
    }
    if leash.is_some_and(|leash| leash.exit_with_parent) {
        let stop = stop.clone();
        // A thread of its own: reading standard input cannot be cancelled.
        std::thread::spawn(move || {
            let _end = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            stop.cancel();
        });
    }
    Ok(stop)
}

fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
