//! `zcpctl work`

use clap::Subcommand;

use super::output::Rows;
use super::{Context, Failure};
use crate::api::work::{WorkItem, WorkVerb};

#[derive(Debug, Subcommand)]
pub(super) enum WorkCommand {
    /// Lists work items: one for each resource that a worker looks at.
    List {
        /// Only this kind: cloud, observe_servers, observe_nodes, cluster, migration, sweep.
        #[arg(long)]
        kind: Option<String>,
        /// Only in this state: leased, due, parked, paused, idle.
        #[arg(long)]
        state: Option<String>,
    },
    /// Forgets failures and back-off, and looks at it now.
    Retry(Which),
    /// Takes it up again.
    Enable(Which),
    /// Leaves it alone until it is enabled.
    Disable(Which),
}

#[derive(Debug, clap::Args)]
pub(super) struct Which {
    /// Kind of work, such as cluster.
    kind: String,
    /// Id of the resource.
    id: String,
}

impl Rows for WorkItem {
    const HEADER: &'static [&'static str] = &["KIND", "ID", "STATE", "WHY"];

    fn row(&self) -> Vec<String> {
        let why = match (&self.parked_reason, &self.last_error) {
            (Some(reason), _) => reason.clone(),
            (None, Some(error)) if self.attempts > 0 => {
                format!("failed {} times: {error}", self.attempts)
            }
            (None, error) => error.clone().unwrap_or_default(),
        };
        vec![self.kind.clone(), self.id.to_string(), self.state.clone(), why]
    }
}

pub(super) async fn run(ctx: &Context, command: WorkCommand) -> Result<(), Failure> {
    match command {
        WorkCommand::List { kind, state } => {
            let mut query = Vec::new();
            query.extend(kind.as_deref().map(|kind| ("kind", kind)));
            query.extend(state.as_deref().map(|state| ("state", state)));
            let items: Vec<WorkItem> = ctx.client.list(&["v1", "work"], &query).await?;
            ctx.output.list(&items)
        }
        WorkCommand::Retry(which) => push(ctx, &which, WorkVerb::Retry).await,
        WorkCommand::Enable(which) => push(ctx, &which, WorkVerb::Enable).await,
        WorkCommand::Disable(which) => push(ctx, &which, WorkVerb::Disable).await,
    }
}

async fn push(ctx: &Context, which: &Which, verb: WorkVerb) -> Result<(), Failure> {
    let verb = super::output::word(&verb);
    let path = ["v1", "work", &which.kind, &which.id, &verb];
    let item: WorkItem = ctx.client.post(&path, &serde_json::json!({})).await?;
    ctx.output.one(&item)
}
