//! `zcpctl project`

use clap::Subcommand;

use super::output::{Rows, moment};
use super::{Context, Failure};
use crate::api::projects::{NewProject, Project};

#[derive(Debug, Subcommand)]
pub(super) enum ProjectCommand {
    /// Makes a project.
    Add {
        /// Its name.
        name: String,
    },
    /// Lists projects.
    List,
    /// Shows a project.
    Get {
        /// Its name or id.
        name: String,
    },
}

impl Rows for Project {
    const HEADER: &'static [&'static str] = &["NAME", "ID", "CREATED"];

    fn row(&self) -> Vec<String> {
        vec![self.name.clone(), self.id.to_string(), moment(self.created_at)]
    }
}

pub(super) async fn run(ctx: &Context, command: ProjectCommand) -> Result<(), Failure> {
    match command {
        ProjectCommand::Add { name } => {
            let made: Project = ctx.client.post(&["v1", "projects"], &NewProject { name }).await?;
            ctx.output.one(&made)
        }
        ProjectCommand::List => {
            let projects: Vec<Project> = ctx.client.list(&["v1", "projects"], &[]).await?;
            ctx.output.list(&projects)
        }
        ProjectCommand::Get { name } => {
            let project: Project = ctx.client.get(&["v1", "projects", &name]).await?;
            ctx.output.one(&project)
        }
    }
}
