//! `zcpd dev`: everything on one machine, with nothing set up beforehand.
//!
//! Starts a private Postgres, `zcpd sim` and `zcpd serve`, each a process of its own, waits until
//! they answer, and on the first start registers the two simulated clouds, a project and an
//! offering through the API, as an operator would. The service does not know that its clouds are
//! simulated.
//!
//! The state folder holds everything, so a second start goes on where the first one stopped:
//!
//! | file | is |
//! |---|---|
//! | `lock` | held while a `zcpd dev` runs on the folder |
//! | `dev.json` | the ports that were chosen, and whether the first start was finished |
//! | `zcpd.toml`, `seal.key`, `token` | what `zcpd serve` is given |
//! | `zcpctl.toml` | what `zcpctl` is given, by `ZCP_PROFILE` |
//! | `postgres/`, `sim/` | the database, the simulated world |
//! | `zcpd.log`, `sim.log` | what the two processes say |
//!
//! Nothing outlives the process: both children end when the pipe that they hold to it closes,
//! however it ends, and so does Postgres.

mod children;
mod first;
pub mod postgres;
mod state;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::cli::client::Client;
use crate::cli::profile::Profile;
use children::Child;
use postgres::{EmbeddedPostgres, PostgresError, PostgresOptions};
use state::State;

pub use state::StateError;

/// How long the service may take to answer the first time: it makes its schema.
const READY: Duration = Duration::from_mins(1);
const LOOK: Duration = Duration::from_millis(100);

/// What `zcpd dev` is started with.
#[derive(Debug, Clone, clap::Args)]
pub struct DevArgs {
    /// Folder of everything that is kept; default ~/.local/state/zcp-dev (for root
    /// /var/lib/zcp-dev).
    #[arg(long, value_name = "FOLDER", env = "ZCP_DEV_STATE")]
    pub state: Option<PathBuf>,
    /// Folder of PostgreSQL's programs; looked for if not given.
    #[arg(long, value_name = "FOLDER")]
    pub pg_bin: Option<PathBuf>,
    /// Arguments of `zcpd sim`.
    #[command(flatten)]
    pub sim: SimKnobs,
}

/// Knobs of the simulated world; they shape it when it is made, at the first start.
#[derive(Debug, Clone, clap::Args)]
pub struct SimKnobs {
    /// How many times faster than real clouds everything happens, 0.1 to 1000.
    #[arg(long, default_value = "4")]
    speed: String,
    /// From a running server to the first line of its user data.
    #[arg(long, value_name = "DURATION")]
    boot_time: Option<String>,
    /// From a pod's scheduling to Ready.
    #[arg(long, value_name = "DURATION")]
    pod_ready_delay: Option<String>,
    /// How many calls fail and how many servers never come up: 0 to 0.9.
    #[arg(long, default_value = "0")]
    failure_rate: String,
    /// Everything random follows from this number.
    #[arg(long, default_value = "1")]
    seed: String,
}

impl SimKnobs {
    /// As arguments of `zcpd sim`, which checks them.
    fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            format!("--speed={}", self.speed),
            format!("--failure-rate={}", self.failure_rate),
            format!("--seed={}", self.seed),
        ];
        arguments.extend(self.boot_time.as_ref().map(|time| format!("--boot-time={time}")));
        let delay = self.pod_ready_delay.as_ref();
        arguments.extend(delay.map(|time| format!("--pod-ready-delay={time}")));
        arguments
    }
}

/// Why it does not run.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// The state folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// The database.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// A child process can't be started or watched.
    #[error("run {0}")]
    Child(&'static str, #[source] io::Error),
    /// A child process ended by itself.
    #[error("{name} has ended by itself; the end of {log}:\n{tail}")]
    Ended {
        /// Which one.
        name: &'static str,
        /// Its log.
        log: String,
        /// The end of it.
        tail: String,
    },
    /// A child process does not answer.
    #[error("{name} does not answer within {READY:?}; see {log}")]
    Silent {
        /// Which one.
        name: &'static str,
        /// Its log.
        log: String,
    },
    /// What the first start does through the API.
    #[error("{0}: {1}")]
    First(&'static str, String),
}

/// Runs everything until `stop` is cancelled or a part ends by itself.
pub async fn run(args: DevArgs, stop: CancellationToken) -> Result<(), DevError> {
    let mut state = State::open(args.state.as_deref())?;
    say(&format!("state is in {}", state.folder().display()));
    let postgres = EmbeddedPostgres::start(PostgresOptions {
        programs: args.pg_bin.clone(),
        ..PostgresOptions::durable(state.file("postgres"))
    })
    .await?;
    say("Postgres runs");
    let ended = run_on(&args, &mut state, (&postgres, stop)).await;
    let stopped = postgres.stop().await;
    say("stopped; nothing is left running");
    ended.and(stopped.map_err(DevError::from))
}

async fn run_on(
    args: &DevArgs,
    state: &mut State,
    (postgres, stop): (&EmbeddedPostgres, CancellationToken),
) -> Result<(), DevError> {
    let mut sim = Child::sim(state, args.sim.arguments())?;
    let ended = match wait_for_sim(&mut sim, state, &stop).await {
        Ok(true) => {
            say("simulated clouds answer");
            serve(state, postgres, (&mut sim, &stop)).await
        }
        other => other.map(|_| ()),
    };
    sim.stop().await;
    ended
}

async fn wait_for_sim(
    sim: &mut Child,
    state: &State,
    stop: &CancellationToken,
) -> Result<bool, DevError> {
    let addresses = state.file("sim/sim.json");
    wait_for(sim, stop, async || addresses.exists()).await
}

async fn serve(
    state: &mut State,
    postgres: &EmbeddedPostgres,
    (sim, stop): (&mut Child, &CancellationToken),
) -> Result<(), DevError> {
    state.write_config(&postgres.url("zcp"))?;
    let profile = Profile::read(&state.file("zcpctl.toml"))
        .map_err(|failure| DevError::First("read zcpctl.toml", failure.to_string()))?;
    let client = Client::new(&profile)
        .map_err(|failure| DevError::First("talk to the API", failure.to_string()))?;
    let mut service = Child::service(state)?;
    let ended = async {
        if !wait_for(&mut service, stop, async || client.is_ready().await).await? {
            return Ok(());
        }
        say("the service answers");
        if !state.is_set_up() {
            let set_up = first::set_up(&client, state);
            let Some(done) = stop.run_until_cancelled(set_up).await else { return Ok(()) };
            done?;
            state.set_up()?;
        }
        greet(state);
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            error = service.ended() => Err(error),
            error = sim.ended() => Err(error),
        }
    }
    .await;
    say("stopping");
    service.stop().await;
    ended
}

/// Waits until `is_ready`; false when stopped before.
async fn wait_for(
    child: &mut Child,
    stop: &CancellationToken,
    is_ready: impl AsyncFn() -> bool,
) -> Result<bool, DevError> {
    let since = std::time::Instant::now();
    while !is_ready().await {
        child.check()?;
        if since.elapsed() > READY {
            return Err(child.silent());
        }
        if stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What to do next.
fn greet(state: &State) {
    let url = state.api_url();
    say(&format!(
        "ready

  export ZCP_PROFILE={}
  zcpctl cloud list
  zcpctl cluster create shop --cloud east --offering {} --pool name=web,count=4 --wait
  zcpctl migration start shop --to west --soak 10s --hold 1m --wait

API      {url}/v1   (documentation: {url}/docs)
token    in {}
clouds   {}
logs     {} and {}

Ctrl-C stops everything; the next start goes on from here.",
        state.file("zcpctl.toml").display(),
        first::OFFERING,
        state.file("token").display(),
        state.file("sim/clouds.yaml").display(),
        state.file("zcpd.log").display(),
        state.file("sim.log").display(),
    ));
}

/// Tells the person at the terminal.
fn say(text: &str) {
    // Nobody listens any more: no reason to stop.
    let _closed = writeln!(io::stderr(), "zcpd dev: {text}");
}
