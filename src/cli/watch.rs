//! Follows a migration: bars on a terminal, plain lines elsewhere.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::failure::Exit;
use super::migration::phase;
use super::output::{note, word};
use super::{Context, Failure};
use crate::api::Page;
use crate::api::events::Event;
use crate::api::migrations::{Migration, Wave, WaveState};
use crate::domain::duration::HumanDuration;
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
    let mut screen = Screen::new(&first);
    let mut seen = Seen::default();
    let (mut migration, mut wanting) = (first, 0);
    loop {
        for event in seen.fresh(ctx, &id).await {
            screen.say(&super::events::text(&event));
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
            note(&wanted);
            return ctx.output.one(&migration);
        }
        if since.elapsed() > timeout.0 {
            screen.finish();
            let text =
                format!("migration of {} is not over: {}", migration.cluster, now(&migration));
            return Err(Failure::timeout(text).with_hint("it goes on; watch it again later"));
        }
        tokio::time::sleep(PAUSE).await;
        match ctx.client.get(&["v1", "migrations", &id]).await {
            Ok(fresh) => migration = fresh,
            // The API may be restarting.
            Err(failure) if failure.exit() == Exit::Ours => screen.say("the API is away; waiting"),
            Err(failure) => return Err(failure),
        }
    }
}

/// What the migration wants of a person, if anything.
fn wanted(migration: &Migration) -> Option<String> {
    let name = &migration.cluster;
    if let Some(reason) = &migration.paused {
        return Some(format!(
            "{name} is paused: {reason}\nhint: zcpctl migration resume {name}, or rollback"
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

/// Where it is, in one line.
fn now(migration: &Migration) -> String {
    let progress = &migration.progress;
    let wave = migration.wave.map(|wave| format!(" wave {wave}/{}", migration.waves.len()));
    let mut text = format!(
        "{}{}: old {}/{} drained, new {}/{} usable",
        phase(migration),
        wave.unwrap_or_default(),
        progress.drained,
        progress.old,
        progress.usable,
        progress.new
    );
    if let Some(reason) = migration.waiting.first() {
        text.extend(["; ", reason.as_str()]);
    }
    text
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

/// Where progress is shown: on standard error, as it is no data.
enum Screen {
    Bars { all: MultiProgress, status: ProgressBar, waves: Vec<ProgressBar> },
    Lines { said: String },
}

impl Screen {
    fn new(migration: &Migration) -> Self {
        if !io::stderr().is_terminal() {
            return Self::Lines { said: String::new() };
        }
        let all = MultiProgress::new();
        let status = all.add(ProgressBar::new_spinner());
        status.enable_steady_tick(Duration::from_millis(120));
        let bar = |wave: &Wave| {
            let bar = all.add(ProgressBar::new(u64::from(wave.nodes)));
            let template = "{prefix:24} [{bar:30}] {pos}/{len} {msg}";
            // The template is a constant; the default style shows the same figures.
            let style = ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style.progress_chars("=> "));
            bar.set_prefix(format!("wave {} (up to {})", wave.number, wave.upto));
            bar
        };
        let waves = migration.waves.iter().map(bar).collect();
        Self::Bars { all, status, waves }
    }

    /// One thing that happened.
    fn say(&mut self, text: &str) {
        match self {
            // A terminal that is gone is no reason to stop watching.
            Self::Bars { all, .. } => drop(all.println(text)),
            Self::Lines { .. } => note(text),
        }
    }

    /// Where it is now.
    fn show(&mut self, migration: &Migration) {
        let text = format!("{} {} -> {}", migration.cluster, migration.source, migration.target);
        let text = format!("{text}: {}", now(migration));
        match self {
            Self::Bars { status, waves, .. } => {
                status.set_message(text);
                for (bar, wave) in waves.iter().zip(&migration.waves) {
                    bar.set_position(u64::from(wave.drained));
                    let state = if wave.state == WaveState::Skipped {
                        "adds no node".to_owned()
                    } else {
                        word(&wave.state)
                    };
                    bar.set_message(state);
                }
            }
            Self::Lines { said } if *said != text => {
                note(&text);
                *said = text;
            }
            Self::Lines { .. } => {}
        }
    }

    fn finish(&self) {
        if let Self::Bars { status, waves, .. } = self {
            status.finish();
            for bar in waves {
                bar.abandon();
            }
        }
    }
}
