//! `zcpctl`: the user's command.
//!
//! Data goes to stdout, everything else to stderr. Every command creates and returns; `--wait`
//! only watches, so killing zcpctl changes nothing on the server. What it exits with:
//!
//! | code | means |
//! |---|---|
//! | 0 | done |
//! | 1 | the input or the present state forbids it |
//! | 2 | our fault, or the API cannot be reached |
//! | 3 | timed out while waiting; the work goes on |
//! | 4 | a preflight found what stands against a migration |
//! | 130 | interrupted while watching; the work goes on |

mod args;
pub mod client;
mod cloud;
mod cluster;
mod confirm;
mod create;
mod events;
mod explain;
mod failure;
mod migration;
mod offering;
mod output;
mod pair;
mod preflight;
pub mod profile;
mod project;
mod screen;
mod token;
mod wait;
mod watch;
mod waves;
mod work;

use clap::Parser as _;
use clap::error::ErrorKind;

use args::{Args, Group};
use client::Client;
use output::Output;

pub use failure::{Exit, Failure};

/// Parses the arguments, runs the command, reports an error, and says what to exit with.
pub async fn run(arguments: impl IntoIterator<Item = std::ffi::OsString>) -> Exit {
    let args = match Args::try_parse_from(arguments) {
        Ok(args) => args,
        Err(error) => {
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // Help to stdout, mistakes to stderr; a closed pipe is no reason to complain.
            let _closed = error.print();
            return if asked { Exit::Done } else { Exit::Input };
        }
    };
    match execute(args).await {
        Ok(()) => Exit::Done,
        Err(failure) => failure.report(),
    }
}

async fn execute(args: Args) -> Result<(), Failure> {
    let profile = args.connection.profile()?;
    let ctx = Context {
        client: Client::new(&profile)?,
        project: args.connection.project.clone().or(profile.project),
        output: Output::new(args.output),
    };
    match args.group {
        Group::Cloud(command) => cloud::run(&ctx, command).await,
        Group::Project(command) => project::run(&ctx, command).await,
        Group::Token(command) => token::run(&ctx, command).await,
        Group::Offering(command) => offering::run(&ctx, command).await,
        Group::Cluster(command) => cluster::run(&ctx, command).await,
        Group::Migration(command) => migration::run(&ctx, command).await,
        Group::Work(command) => work::run(&ctx, command).await,
        Group::Events(command) => events::run(&ctx, command).await,
    }
}

/// What every command works with.
struct Context {
    client: Client,
    /// The project that was chosen; else the token's own.
    project: Option<String>,
    output: Output,
}
