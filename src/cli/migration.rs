//! `zcpctl migration`

use clap::{Args, Subcommand, ValueEnum};

use super::cluster::find_cluster;
use super::confirm::Consent;
use super::output::{Rows, facts, moment, note, table, word};
use super::preflight::{CheckArgs, PlanArgs, WaiveArgs};
use super::waves::WaveList;
use super::{Context, Failure, explain, preflight, watch};
use crate::api::migrations::{Migration, NewMigration, VerbRequest};
use crate::domain::blocker::{Blocker, BudgetNumbers};
use crate::domain::duration::HumanDuration;
use crate::domain::migration::{AtDeadline, CanaryPolicy, CommitPolicy, DrainSpec, Verb};
use crate::domain::wave::{Gate, Upto, WaveSpec};

#[derive(Debug, Subcommand)]
pub(super) enum MigrationCommand {
    /// Shows what a migration would meet, do and need, and changes nothing. Exits with 4 when
    /// something stands against it.
    Plan(Box<PlanArgs>),
    /// Looks again at what stands against a migration. Exits with 4 when something does.
    Check(CheckArgs),
    /// Lets a migration go on in spite of what was found.
    Waive(WaiveArgs),
    /// Begins to move a cluster's workers to another cloud, in waves.
    Start(Box<StartArgs>),
    /// Lists migrations, newest first.
    List {
        /// Only of this cluster.
        #[arg(long)]
        cluster: Option<String>,
    },
    /// Shows a migration with its nodes.
    Get(Which),
    /// Says why a migration is not going on, and which command would help.
    Explain(Which),
    /// Follows a migration to its end, or until it waits for a person.
    Watch {
        #[command(flatten)]
        which: Which,
        /// How long to follow at most; then exit with 3.
        #[arg(long, value_name = "DURATION", default_value = "30d")]
        timeout: HumanDuration,
        /// Go on watching when it waits for a person.
        #[arg(long)]
        to_the_end: bool,
    },
    /// Takes no further step until resumed.
    Pause(Steer),
    /// Goes on after a pause.
    Resume(Steer),
    /// Lets the wave that waits for approval pass.
    Approve(Steer),
    /// Waits no longer for the drain of one node: its pods go with it.
    SkipNode {
        #[command(flatten)]
        steer: Steer,
        /// Name or id of the node.
        #[arg(value_name = "NODE")]
        node: String,
        #[command(flatten)]
        consent: Consent,
    },
    /// Turns forward again out of a rollback: what is missing on the target is made anew.
    Forward(Steer),
    /// Turns back: workers return to the source, which was kept.
    Rollback {
        #[command(flatten)]
        steer: Steer,
        #[command(flatten)]
        consent: Consent,
    },
    /// Ends the hold and deletes the old nodes. There is no way back after it.
    Commit {
        #[command(flatten)]
        steer: Steer,
        #[command(flatten)]
        consent: Consent,
    },
    /// Ends it before the first server is made.
    Cancel(Steer),
    /// Forgets back-off and attempts of what is parked.
    Retry(Steer),
}

#[derive(Debug, Args)]
pub(super) struct Which {
    /// Name or id of the cluster (its newest migration), or id of the migration.
    #[arg(value_name = "CLUSTER")]
    name: String,
}

#[derive(Debug, Args)]
pub(super) struct Steer {
    #[command(flatten)]
    which: Which,
    /// Why, for whoever reads the timeline.
    #[arg(long)]
    reason: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct StartArgs {
    #[command(flatten)]
    what: MoveArgs,
    /// Follow it to its end, or until it waits for a person.
    #[arg(long)]
    wait: bool,
    /// How long to wait at most; then exit with 3, and the migration goes on.
    #[arg(long, value_name = "DURATION", default_value = "30d")]
    timeout: HumanDuration,
}

/// Which migration is meant.
#[derive(Debug, Args)]
pub(super) struct MoveArgs {
    /// Name or id of the cluster.
    pub(super) cluster: String,
    /// Cloud that the workers move to.
    #[arg(long, value_name = "CLOUD")]
    to: String,
    /// Cloud that they leave; default: the one on which they all are.
    #[arg(long, value_name = "CLOUD")]
    from: Option<String>,
    /// Pool that moves; default: all on the source. Repeatable.
    #[arg(long = "pool", value_name = "POOL")]
    pools: Vec<String>,
    /// How far each wave goes: a number of nodes or a percentage.
    #[arg(long, value_name = "LIST", default_value = "1,25%,100%")]
    waves: WaveList,
    /// How long all must stay healthy after each wave.
    #[arg(long, value_name = "DURATION", default_value = "3m")]
    soak: HumanDuration,
    /// Wait for approval after a wave, by its number: 2=approval. Repeatable.
    #[arg(long = "gate", value_name = "WAVE=GATE", value_parser = gate)]
    gates: Vec<(usize, Gate)>,
    /// How long the old nodes are kept after the last wave.
    #[arg(long, value_name = "DURATION", default_value = "24h")]
    hold: HumanDuration,
    /// What ends the hold: its end, or only `migration commit`.
    #[arg(long, value_enum, default_value_t = Commit::Auto)]
    commit: Commit,
    /// Turn back where it would pause because something suffers.
    #[arg(long)]
    auto_rollback: bool,
    /// How long one node may take to drain.
    #[arg(long, value_name = "DURATION", default_value = "60m")]
    drain_timeout: HumanDuration,
    /// What happens then.
    #[arg(long, value_enum, default_value_t = Deadline::Pause)]
    at_deadline: Deadline,
    /// How long the volumes of an emptied node may take to be detached before it pauses.
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    volume_timeout: HumanDuration,
    /// Delete pods that are not Ready when a disruption budget keeps them.
    #[arg(long)]
    evict_unhealthy: bool,
    /// Nodes drained at once; default: one in the first wave, then a tenth of the wave.
    #[arg(long, value_name = "COUNT")]
    parallel: Option<u32>,
    /// Make no canary on the target before the first node is touched.
    #[arg(long)]
    no_canary: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Commit {
    Auto,
    Manual,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Deadline {
    Pause,
    #[value(name = "skip-node")]
    SkipNode,
    Force,
}

fn gate(text: &str) -> Result<(usize, Gate), String> {
    let (wave, gate) = text.split_once('=').ok_or("must be WAVE=GATE, such as 2=approval")?;
    let wave =
        wave.parse().ok().filter(|wave| *wave > 0).ok_or("WAVE must be a number from 1 on")?;
    match gate {
        "auto" => Ok((wave, Gate::Auto)),
        "approval" => Ok((wave, Gate::Approval)),
        _ => Err("GATE must be auto or approval".to_owned()),
    }
}

impl MoveArgs {
    /// The request for it.
    pub(super) fn request(&self) -> Result<NewMigration, Failure> {
        let soak_seconds = self.soak.seconds();
        let spec = |upto: &Upto| WaveSpec { upto: *upto, soak_seconds, gate: Gate::Auto };
        let mut waves: Vec<WaveSpec> = self.waves.0.iter().map(spec).collect();
        for (number, gate) in &self.gates {
            let wave = waves.get_mut(number - 1).ok_or_else(|| {
                let count = self.waves.0.len();
                Failure::input(format!("--gate {number}: there are {count} waves"))
            })?;
            wave.gate = *gate;
        }
        Ok(NewMigration {
            source: self.from.clone(),
            target: self.to.clone(),
            pools: self.pools.clone(),
            waves,
            drain: DrainSpec {
                timeout_seconds: self.drain_timeout.seconds(),
                at_deadline: match self.at_deadline {
                    Deadline::Pause => AtDeadline::Pause,
                    Deadline::SkipNode => AtDeadline::SkipNode,
                    Deadline::Force => AtDeadline::Force,
                },
                volume_timeout_seconds: self.volume_timeout.seconds(),
                evict_unhealthy: self.evict_unhealthy,
                parallel: self.parallel,
            },
            hold_seconds: self.hold.seconds(),
            commit: match self.commit {
                Commit::Auto => CommitPolicy::AutoAfterHold,
                Commit::Manual => CommitPolicy::Manual,
            },
            auto_rollback: self.auto_rollback,
            canary: if self.no_canary { CanaryPolicy::Off } else { CanaryPolicy::Auto },
        })
    }
}

impl Rows for Migration {
    const HEADER: &'static [&'static str] =
        &["CLUSTER", "FROM", "TO", "PHASE", "WAVE", "DRAINED", "STARTED"];

    fn row(&self) -> Vec<String> {
        vec![
            self.cluster.clone(),
            self.source.clone(),
            self.target.clone(),
            phase(self),
            self.wave.map(|wave| format!("{wave}/{}", self.waves.len())).unwrap_or_default(),
            format!("{}/{}", self.progress.drained, self.progress.old),
            moment(self.created_at),
        ]
    }
}

/// The phase, and that it is paused.
pub(super) fn phase(migration: &Migration) -> String {
    let paused = if migration.paused.is_some() { " (paused)" } else { "" };
    format!("{}{paused}", word(&migration.phase))
}

pub(super) async fn run(ctx: &Context, command: MigrationCommand) -> Result<(), Failure> {
    match command {
        MigrationCommand::Plan(args) => preflight::plan(ctx, &args).await,
        MigrationCommand::Check(args) => preflight::check(ctx, &args).await,
        MigrationCommand::Waive(args) => preflight::waive(ctx, &args).await,
        MigrationCommand::Start(args) => start(ctx, &args).await,
        MigrationCommand::List { cluster } => list(ctx, cluster.as_deref()).await,
        MigrationCommand::Get(which) => {
            let migration = find(ctx, &which.name).await?;
            ctx.output.detail(&migration, || text(&migration))
        }
        MigrationCommand::Explain(which) => {
            let migration = find(ctx, &which.name).await?;
            explain::explain(ctx, &migration).await
        }
        MigrationCommand::Watch { which, timeout, to_the_end } => {
            let migration = find(ctx, &which.name).await?;
            watch::follow(ctx, migration, (timeout, to_the_end)).await
        }
        MigrationCommand::Pause(how) => steer(ctx, &how, Verb::Pause).await,
        MigrationCommand::Resume(how) => steer(ctx, &how, Verb::Resume).await,
        MigrationCommand::Approve(how) => steer(ctx, &how, Verb::Approve).await,
        MigrationCommand::Forward(how) => steer(ctx, &how, Verb::Forward).await,
        MigrationCommand::SkipNode { steer: how, node, consent } => {
            consent.ask(&format!("pods that are still on {node} will go with it"))?;
            ask(ctx, (&how, Some(node)), Verb::SkipNode).await
        }
        MigrationCommand::Cancel(how) => steer(ctx, &how, Verb::Cancel).await,
        MigrationCommand::Retry(how) => steer(ctx, &how, Verb::Retry).await,
        MigrationCommand::Rollback { steer: how, consent } => {
            let name = &how.which.name;
            consent.ask(&format!(
                "the workers of {name} will return to the source cloud; the new nodes go"
            ))?;
            steer(ctx, &how, Verb::Rollback).await
        }
        MigrationCommand::Commit { steer: how, consent } => {
            let name = &how.which.name;
            consent
                .ask(&format!("the old nodes of {name} will be deleted: no way back after it"))?;
            steer(ctx, &how, Verb::Commit).await
        }
    }
}

async fn start(ctx: &Context, args: &StartArgs) -> Result<(), Failure> {
    let request = args.what.request()?;
    let cluster = find_cluster(ctx, &args.what.cluster).await?.id.to_string();
    let path = ["v1", "clusters", &cluster, "migrations"];
    let migration: Migration = ctx.client.post(&path, &request).await?;
    if args.wait {
        return watch::follow(ctx, migration, (args.timeout, false)).await;
    }
    ctx.output.one(&migration)
}

async fn list(ctx: &Context, cluster: Option<&str>) -> Result<(), Failure> {
    let migrations: Vec<Migration> = if let Some(name) = cluster {
        let id = find_cluster(ctx, name).await?.id.to_string();
        ctx.client.list(&["v1", "clusters", &id, "migrations"], &[]).await?
    } else {
        let mut query = Vec::new();
        query.extend(ctx.project.as_deref().map(|project| ("project", project)));
        ctx.client.list(&["v1", "migrations"], &query).await?
    };
    ctx.output.list(&migrations)
}

/// A migration by its id, or the newest of a cluster.
pub(super) async fn find(ctx: &Context, name: &str) -> Result<Migration, Failure> {
    if name.parse::<uuid::Uuid>().is_ok() {
        let by_id = ctx.client.get(&["v1", "migrations", name]).await;
        if let Ok(migration) = by_id {
            return Ok(migration);
        }
    }
    let cluster = find_cluster(ctx, name).await?;
    let path = ["v1", "clusters", &cluster.id.to_string(), "migrations"];
    let newest: crate::api::Page<Migration> = ctx.client.get(&path).await?;
    let Some(newest) = newest.items.first() else {
        return Err(Failure::input(format!("cluster {} was never migrated", cluster.name))
            .with_hint(format!("zcpctl migration start {} --to CLOUD", cluster.name)));
    };
    ctx.client.get(&["v1", "migrations", &newest.id.to_string()]).await
}

async fn steer(ctx: &Context, how: &Steer, verb: Verb) -> Result<(), Failure> {
    ask(ctx, (how, None), verb).await
}

async fn ask(
    ctx: &Context,
    (how, node): (&Steer, Option<String>),
    verb: Verb,
) -> Result<(), Failure> {
    let id = find(ctx, &how.which.name).await?.id.to_string();
    let body = VerbRequest { reason: how.reason.clone(), node };
    let path = ["v1", "migrations", &id, verb.as_str()];
    let migration: Migration = ctx.client.post(&path, &body).await?;
    note(&format!("{}: {} is asked for", migration.cluster, verb.as_str()));
    ctx.output.one(&migration)
}

fn text(migration: &Migration) -> String {
    let legal: Vec<&str> = migration.legal.iter().map(|verb| verb.as_str()).collect();
    let progress = &migration.progress;
    let mut text = facts(&[
        ("cluster", migration.cluster.clone()),
        ("id", migration.id.to_string()),
        ("from", migration.source.clone()),
        ("to", migration.target.clone()),
        ("pools", migration.pools.join(", ")),
        ("phase", format!("{} since {}", phase(migration), moment(migration.phase_since))),
        ("direction", word(&migration.direction)),
        ("old nodes", format!("{} of {} drained", progress.drained, progress.old)),
        ("new nodes", format!("{} of {} usable", progress.usable, progress.new)),
        ("paused for", migration.paused.clone().unwrap_or_default()),
        ("waiting for", migration.waiting.join("; ")),
        ("estimated end", migration.estimated_end.map(moment).unwrap_or_default()),
        ("possible now", legal.join(", ")),
        ("started by", migration.created_by.clone()),
        ("started", moment(migration.created_at)),
        ("finished", migration.finished_at.map(moment).unwrap_or_default()),
    ]);
    let waves = migration.waves.iter().map(|wave| {
        vec![
            wave.number.to_string(),
            wave.upto.clone(),
            format!("{}/{}", wave.drained, wave.nodes),
            seconds(wave.soak_seconds),
            word(&wave.gate),
            word(&wave.state),
        ]
    });
    let header = ["WAVE", "UP TO", "DRAINED", "SOAK", "GATE", "STATE"];
    text.extend(["\n", table(&header, waves.collect()).as_str()]);
    text += &nodes(migration);
    text += &conditions(migration);
    text
}

fn conditions(migration: &Migration) -> String {
    if migration.conditions.is_empty() {
        return String::new();
    }
    let rows = migration.conditions.iter().map(|one| {
        let text = if one.message.is_empty() { one.reason.clone() } else { one.message.clone() };
        vec![one.kind.clone(), one.status.to_string(), text]
    });
    format!("\n{}", table(&["CONDITION", "STATUS", "MESSAGE"], rows.collect()))
}

fn seconds(seconds: u32) -> String {
    HumanDuration(std::time::Duration::from_secs(seconds.into())).to_string()
}

fn nodes(migration: &Migration) -> String {
    if migration.nodes.is_empty() {
        return String::new();
    }
    let rows = migration.nodes.iter().map(|node| {
        let blockers = node.blockers.iter().map(blocker);
        let why: Vec<String> = node.trouble.iter().cloned().chain(blockers).collect();
        let drain = word(&node.drain);
        vec![
            node.name.clone(),
            word(&node.side),
            node.wave.map(|wave| wave.to_string()).unwrap_or_default(),
            word(&node.stage),
            if drain == "idle" { String::new() } else { drain },
            why.join("; "),
        ]
    });
    let header = ["NODE", "SIDE", "WAVE", "STAGE", "DRAIN", "WHY"];
    format!("\n{}{}", table(&header, rows.collect()), ledger(migration))
}

/// What became of what owners had put on single nodes.
fn ledger(migration: &Migration) -> String {
    let mut rows = Vec::new();
    for node in &migration.nodes {
        let Some(diff) = &node.ledger else { continue };
        let all = [("carried", &diff.carried), ("missing", &diff.missing)];
        for (state, lines) in all.into_iter().chain([("conflict", &diff.conflicts)]) {
            for line in lines {
                rows.push(vec![node.name.clone(), state.to_owned(), line.clone()]);
            }
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    format!("\n{}", table(&["NODE", "LEDGER", "ENTRY"], rows))
}

/// Who blocks: pod and owner, the budget with its numbers, else the reason in words.
fn blocker(blocker: &Blocker) -> String {
    let owner = blocker.owner.as_ref().map(|owner| format!(" of {owner}")).unwrap_or_default();
    let why = match &blocker.pdb {
        Some(BudgetNumbers { name, wanted: Some(wanted), current: Some(current) }) => {
            format!("PDB {name} wants {wanted} healthy pods, has {current}")
        }
        _ => blocker.reason.clone(),
    };
    format!("{}{owner}: {why}", blocker.pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_numbered_from_one() {
        assert_eq!(gate("2=approval"), Ok((2, Gate::Approval)));
        assert!(gate("0=auto").is_err() && gate("2").is_err() && gate("1=maybe").is_err());
    }
}
