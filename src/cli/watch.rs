//! Follows a migration: bars on a terminal, plain lines elsewhere.

use std::time::{Duration, Instant};

use super::failure::Exit;
use super::output::{columns, note, wrap};
use super::screen::{Screen, now};
use super::{Context, Failure, preflight};
use crate::api::Page;
use crate::api::events::Event;
use crate::api::migrations::Migration;
use crate::domain::duration::HumanDuration;
use crate::domain::insight::{Insight, Level};
use crate::domain::migration::{CommitPolicy, Phase};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(500);
/// For so many looks it has to want something of a person: whoever approves and then watches sees
/// the phase of before for a moment.
const LOOKS: u32 = 3;

/// Follows until the end, or until a person is needed unless `to_the_end`.
pub(super) async fn follow(
    ctx: &Context,
    first: Migration,
    (timeout, to_the_end): (HumanDuration, bool),
) -> Result<(), Failure> {
    let (since, id) = (Instant::now(), first.id.to_string());
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let mut screen = Screen::new(&first);
    let mut seen = Seen::default();
    let (mut migration, mut wanting) = (first, 0);
    loop {
        for event in seen.fresh(ctx, &id).await {
            let (head, text) = super::events::parts(&event);
            screen.say_after(&head, &text);
        }
        screen.show(&migration);
        if migration.phase.is_final() {
            screen.finish();
            return ctx.output.one(&migration);
        }
        let wanted = wanted(&migration).filter(|_| !to_the_end);
        wanting = if wanted.is_some() { wanting + 1 } else { 0 };
        if let Some(wanted) = wanted.filter(|_| wanting > LOOKS) {
            screen.finish();
            let count = blocking(&migration);
            // What blocks has its own form already.
            note(&if count > 0 { wanted } else { wrapped(&wanted) });
            ctx.output.one(&migration)?;
            return if count == 0 { Ok(()) } else { Err(Failure::blocked(count)) };
        }
        if since.elapsed() > timeout.0 {
            screen.finish();
            let text = format!("the migration is not over: {}", now(&migration));
            return Err(Failure::timeout(text).with_hint("it goes on; watch it again later"));
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            _pressed = &mut interrupted => {
                screen.interrupted();
                let cluster = &migration.cluster;
                note(&format!("stopped watching; the migration of {cluster} goes on"));
                let hint = format!("zcpctl migration watch {cluster}");
                return Err(Failure::interrupted().with_hint(hint));
            }
        }
        match ctx.client.get(&["v1", "migrations", &id]).await {
            Ok(fresh) => migration = fresh,
            // The API may be restarting.
            Err(failure) if failure.exit() == Exit::Ours => screen.say("the API is away; waiting"),
            Err(failure) => return Err(failure),
        }
    }
}

/// Each line within the width of the terminal.
fn wrapped(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| wrap(line, "", columns())).collect();
    lines.join("\n")
}

/// How many insights keep it from beginning until somebody does something.
fn blocking(migration: &Migration) -> u32 {
    let is_early = matches!(migration.phase, Phase::Pending | Phase::Preflight);
    let blocks =
        |one: &&Insight| one.level == Level::Block && one.waived.is_none() && !one.awaits_canary();
    let count = migration.insights.iter().filter(|_| is_early).filter(blocks).count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// What the migration wants of a person, if anything.
fn wanted(migration: &Migration) -> Option<String> {
    let name = &migration.cluster;
    if let Some(reason) = &migration.paused {
        return Some(format!(
            "{name} is paused: {reason}\nhint: zcpctl migration resume {name}, or rollback"
        ));
    }
    if blocking(migration) > 0 {
        let found = preflight::insights(&migration.insights);
        return Some(format!(
            "{name} can't be migrated yet:\n{found}hint: mend it, or where it says so: zcpctl \
             migration waive {name} INSIGHT --reason WHY --for 7d"
        ));
    }
    match (migration.phase, migration.commit) {
        (Phase::Approval, _) => Some(format!(
            "{name} waits for approval\nhint: zcpctl migration approve {name}, or rollback"
        )),
        (Phase::Holding, CommitPolicy::Manual) => Some(format!(
            "{name} waits for its commit\nhint: zcpctl migration commit {name}, or rollback"
        )),
        _ => None,
    }
}

/// Which events were shown.
#[derive(Default)]
struct Seen {
    last: Option<String>,
}

impl Seen {
    /// Events of the timeline that were not shown yet, oldest first.
    async fn fresh(&mut self, ctx: &Context, migration: &str) -> Vec<Event> {
        let path = ["v1", "migrations", migration, "timeline"];
        // The timeline is decoration: what matters is the migration itself.
        let Ok(page) = ctx.client.get::<Page<Event>>(&path).await else { return Vec::new() };
        let last = self.last.take();
        self.last = page.items.first().map(|event| event.id.clone()).or_else(|| last.clone());
        let unseen = page.items.into_iter().take_while(|event| Some(&event.id) != last.as_ref());
        let mut fresh: Vec<Event> = unseen.collect();
        fresh.reverse();
        fresh
    }
}
