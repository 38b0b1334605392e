//! `zcpctl migration plan`, `check` and `waive`: what is known before a node is touched.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use clap::Args;

use super::cluster::find_cluster;
use super::migration::{self, MoveArgs};
use super::output::{facts, moment, note, table, word};
use super::{Context, Failure};
use crate::api::preflights::{NewPreflight, NewWaiver, Preflight};
use crate::clock::{Clock as _, SystemClock};
use crate::domain::duration::HumanDuration;
use crate::domain::insight::{Insight, InsightId, Level};
use crate::domain::migration::CanaryPolicy;
use crate::domain::preflight::{MovePlan, Needs};

/// Between two looks at whether a check is over.
const PAUSE: Duration = Duration::from_millis(500);
/// Columns of text.
const WIDTH: usize = 80;
/// Where texts under an insight begin.
const INDENT: &str = "       ";

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    what: MoveArgs,
    /// How long to wait for the look at most; then exit with 3.
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    timeout: HumanDuration,
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Id that `migration plan` printed, or id or cluster of a migration.
    #[arg(value_name = "ID")]
    name: String,
    /// How long to wait for the look at most; then exit with 3.
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    timeout: HumanDuration,
}

#[derive(Debug, Args)]
pub(super) struct WaiveArgs {
    /// Id that `migration plan` printed, or id or cluster of a migration.
    #[arg(value_name = "ID")]
    name: String,
    /// What to go on in spite of, such as `bare_pods`.
    insight: String,
    /// Why, for whoever reads it later.
    #[arg(long)]
    reason: String,
    /// For how long, at most 30 days.
    #[arg(long = "for", value_name = "DURATION")]
    lifetime: HumanDuration,
}

/// Looks at what a migration would meet, and starts none.
pub(super) async fn plan(ctx: &Context, args: &PlanArgs) -> Result<(), Failure> {
    // A canary is a server: planning makes none.
    let request = NewPreflight { canary: CanaryPolicy::Off, ..args.what.request()? };
    let cluster = find_cluster(ctx, &args.what.cluster).await?.id.to_string();
    let path = ["v1", "clusters", &cluster, "preflights"];
    let made: Preflight = ctx.client.post(&path, &request).await?;
    show(ctx, made, &args.timeout).await
}

/// Looks again.
pub(super) async fn check(ctx: &Context, args: &CheckArgs) -> Result<(), Failure> {
    let id = find(ctx, &args.name).await?;
    let path = ["v1", "preflights", &id, "check"];
    let asked: Preflight = ctx.client.post(&path, &serde_json::json!({})).await?;
    show(ctx, asked, &args.timeout).await
}

/// Goes on in spite of an insight.
pub(super) async fn waive(ctx: &Context, args: &WaiveArgs) -> Result<(), Failure> {
    let id = find(ctx, &args.name).await?;
    let seconds = i64::from(args.lifetime.seconds());
    let body = NewWaiver {
        insight: InsightId(args.insight.clone()),
        reason: args.reason.clone(),
        expires_at: SystemClock.now() + jiff::SignedDuration::from_secs(seconds),
    };
    let path = ["v1", "preflights", &id, "waivers"];
    let waived: Preflight = ctx.client.post(&path, &body).await?;
    note(&format!(
        "{}: {} is waived until {}",
        waived.cluster,
        args.insight,
        moment(body.expires_at)
    ));
    ctx.output.detail(&waived, || text(&waived))
}

/// The preflight of that id, or of a migration by id or cluster.
async fn find(ctx: &Context, name: &str) -> Result<String, Failure> {
    if name.parse::<uuid::Uuid>().is_ok() {
        let by_id: Result<Preflight, Failure> = ctx.client.get(&["v1", "preflights", name]).await;
        if let Ok(preflight) = by_id {
            return Ok(preflight.id.to_string());
        }
    }
    let migration = migration::find(ctx, name).await?;
    migration.preflight_id.map(|id| id.to_string()).ok_or_else(|| {
        Failure::input(format!("the migration of {} has no preflight", migration.cluster))
    })
}

/// Waits for the look to be over, and shows what was found.
async fn show(ctx: &Context, first: Preflight, timeout: &HumanDuration) -> Result<(), Failure> {
    let (since, id) = (Instant::now(), first.id.to_string());
    let mut preflight = first;
    while preflight.check_pending {
        if since.elapsed() > timeout.0 {
            let failure = Failure::timeout(format!("preflight {id} is not over"));
            return Err(failure.with_hint(format!("look later: zcpctl migration check {id}")));
        }
        tokio::time::sleep(PAUSE).await;
        preflight = ctx.client.get(&["v1", "preflights", &id]).await?;
    }
    ctx.output.detail(&preflight, || text(&preflight))?;
    match preflight.blocking {
        0 => Ok(()),
        blocking => Err(Failure::blocked(blocking).with_hint(format!(
            "mend it, then: zcpctl migration check {id}\nhint: or where it can be waived: zcpctl \
             migration waive {id} INSIGHT --reason WHY --for 7d"
        ))),
    }
}

/// A preflight for people.
pub(super) fn text(preflight: &Preflight) -> String {
    let mut text = facts(&[
        ("cluster", preflight.cluster.clone()),
        ("id", preflight.id.to_string()),
        ("from", preflight.source.clone()),
        ("to", preflight.target.clone()),
        ("looked at", preflight.checked_at.map(moment).unwrap_or_default()),
    ]);
    text.push('\n');
    text += &insights(&preflight.insights);
    if let Some(plan) = &preflight.plan {
        text.push('\n');
        text += &waves(plan);
        text.push('\n');
        text += &needs(&preflight.target, &plan.needs);
        text += &time(plan);
    }
    text
}

/// Insights, the worst first; what is well in one paragraph.
pub(super) fn insights(all: &[Insight]) -> String {
    let mut text = String::new();
    for one in all.iter().filter(|one| one.level != Level::Pass) {
        let how = match (&one.waived, one.level, one.is_waivable) {
            (Some(waiver), ..) => {
                let until = moment(waiver.expires_at);
                format!("waived by {} until {until}: {}", waiver.author, waiver.reason)
            }
            (None, Level::Block, true) => "can be waived".to_owned(),
            (None, Level::Block, false) => "can't be waived".to_owned(),
            _ => String::new(),
        };
        let how = if how.is_empty() { how } else { format!(" ({how})") };
        let _ = write!(text, "{:7}", one.level.as_str());
        text += wrapped(&format!("{}{how}", one.id), INDENT).trim_start();
        text += &wrapped(&one.reason, INDENT);
        for resource in &one.resources {
            text += &wrapped(&format!("- {resource}"), "         ").replacen(
                "         -",
                "       -",
                1,
            );
        }
        if !one.fix.is_empty() {
            text += &wrapped(&format!("fix: {}", one.fix), INDENT);
        }
    }
    let well: Vec<&str> =
        all.iter().filter(|one| one.level == Level::Pass).map(|one| one.id.as_str()).collect();
    if !well.is_empty() {
        text += "PASS   ";
        text += wrapped(&well.join(", "), INDENT).trim_start();
    }
    text
}

fn waves(plan: &MovePlan) -> String {
    let rows = plan.waves.iter().map(|wave| {
        vec![
            wave.number.to_string(),
            wave.upto.clone(),
            wave.nodes.len().to_string(),
            seconds(u64::from(wave.soak_seconds)),
            word(&wave.gate),
            about(wave.seconds),
        ]
    });
    let header = ["WAVE", "UP TO", "NODES", "SOAK", "GATE", "TIME"];
    let mut text = table(&header, rows.collect());
    for wave in &plan.waves {
        let names = format!("wave {}: {}", wave.number, wave.nodes.join(", "));
        text += &wrapped(&names, "        ").replacen("        ", "", 1);
    }
    text
}

fn needs(target: &str, needs: &Needs) -> String {
    let of = |count: u64, what: &str| {
        if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
    };
    let list = [
        format!("{} ({} of them surge)", of(needs.servers, "server"), needs.surge),
        of(needs.vcpus, "vCPU"),
        format!("{} MiB of memory", needs.ram_mb),
        of(needs.ports, "port"),
        if needs.addresses == 1 {
            "1 address".into()
        } else {
            format!("{} addresses", needs.addresses)
        },
        of(needs.server_groups, "server group"),
    ];
    wrapped(&format!("needs on {target}: {}", list.join(", ")), "  ").replacen("  ", "", 1)
}

fn time(plan: &MovePlan) -> String {
    let estimate = &plan.estimate;
    let people = if estimate.waits_for_people { ", and as long as people take" } else { "" };
    let text = format!(
        "time: {}{people}; then the old nodes are kept for {}",
        about(estimate.moving_seconds),
        seconds(estimate.hold_seconds)
    );
    wrapped(&text, "  ").replacen("  ", "", 1)
}

fn seconds(seconds: u64) -> String {
    HumanDuration(Duration::from_secs(seconds)).to_string()
}

/// A guess, in whole minutes.
fn about(guess: u64) -> String {
    if guess < 60 { seconds(guess) } else { seconds(guess.div_ceil(60) * 60) }
}

/// Text in lines of at most 80 columns, each after `indent`. Words stay whole.
fn wrapped(text: &str, indent: &str) -> String {
    let mut lines = String::new();
    let mut line = indent.to_owned();
    for word in text.split_whitespace() {
        let is_empty = line.len() == indent.len();
        if !is_empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines += line.trim_end();
            lines.push('\n');
            line.clear();
            line.push_str(indent);
        } else if !is_empty {
            line.push(' ');
        }
        line += word;
    }
    lines += line.trim_end();
    lines.push('\n');
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_at_most_eighty_columns_and_words_stay_whole() {
        let text = wrapped(&"word ".repeat(40), INDENT);
        assert!(text.lines().all(|line| line.len() <= WIDTH && line.starts_with(INDENT)));
        assert_eq!(text.split_whitespace().count(), 40);
    }
}
