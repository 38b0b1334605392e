//! What can be typed.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::cloud::CloudCommand;
use super::cluster::ClusterCommand;
use super::events::EventsCommand;
use super::failure::Failure;
use super::migration::MigrationCommand;
use super::offering::OfferingCommand;
use super::output::Format;
use super::profile::Profile;
use super::project::ProjectCommand;
use super::token::TokenCommand;
use super::work::WorkCommand;

/// Kubernetes clusters on private OpenStack clouds: make them, scale them, move them.
#[derive(Debug, Parser)]
#[command(name = "zcpctl", version, max_term_width = 100)]
pub(super) struct Args {
    #[command(flatten)]
    pub connection: Connection,
    /// How data is written to standard output.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    #[command(subcommand)]
    pub group: Group,
}

/// Where the API is and who asks.
#[derive(Debug, clap::Args)]
pub(super) struct Connection {
    /// Address of the API, such as https://zcp.example.
    #[arg(long, global = true, env = "ZCP_URL", hide_env_values = true)]
    url: Option<String>,
    /// Bearer token. Better given by the environment or the profile than as an argument.
    #[arg(long, global = true, env = "ZCP_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// File with url, token and project; default ~/.config/zcp/zcpctl.toml.
    #[arg(long, global = true, value_name = "FILE", env = "ZCP_PROFILE", hide_env_values = true)]
    profile: Option<PathBuf>,
    /// Project, where the token is not for one; default: the profile's.
    #[arg(short, long, global = true, env = "ZCP_PROJECT", hide_env_values = true)]
    pub project: Option<String>,
}

impl Connection {
    /// The profile, with what was said otherwise.
    pub fn profile(&self) -> Result<Profile, Failure> {
        let profile = match &self.profile {
            Some(file) => Profile::read(file)?,
            None => Profile::default_one()?,
        };
        let url = self.url.clone().or(profile.url);
        let token = self.token.clone().map(Into::into).or(profile.token);
        Ok(Profile { url, token, project: profile.project })
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Group {
    /// OpenStack clouds.
    #[command(subcommand)]
    Cloud(CloudCommand),
    /// Tenants.
    #[command(subcommand)]
    Project(ProjectCommand),
    /// Bearer tokens of the API.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Versions of Kubernetes with their addon manager.
    #[command(subcommand)]
    Offering(OfferingCommand),
    /// Clusters.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Moving a cluster's workers from cloud to cloud.
    #[command(subcommand)]
    Migration(MigrationCommand),
    /// What the machine is about to do, and what it waits for.
    #[command(subcommand)]
    Work(WorkCommand),
    /// Follows what happens, until interrupted.
    Events(EventsCommand),
}
