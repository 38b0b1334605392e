//! Where the progress of a migration is shown: on standard error, as it is no data. Bars on a
//! terminal, plain lines elsewhere.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;

use super::migration::phase;
use super::output::{columns, note, word, wrap};
use crate::api::migrations::{Migration, MigrationNode, Side, Wave, WaveState};
use crate::clock::{Clock as _, SystemClock};
use crate::domain::ids::NodeId;
use crate::domain::node::{Drain, NodeStage};

/// Most nodes that have a bar at one time; what moves at once is rarely more.
const NODES: usize = 10;
/// Most reasons that are shown below the status.
const REASONS: usize = 3;
/// Steps of a node's bar.
const STEPS: u64 = 4;

/// Where progress is shown.
pub(super) enum Screen {
    /// A terminal.
    Bars(Box<Bars>),
    /// Anything else.
    Lines {
        /// What was said last.
        said: String,
    },
}

impl Screen {
    /// A screen for one migration.
    pub(super) fn new(migration: &Migration) -> Self {
        if io::stderr().is_terminal() {
            Self::Bars(Box::new(Bars::new(migration)))
        } else {
            Self::Lines { said: String::new() }
        }
    }

    /// One thing that happened.
    pub(super) fn say(&mut self, text: &str) {
        self.say_after("", text);
    }

    /// One thing that happened, with what stands before it.
    pub(super) fn say_after(&mut self, head: &str, text: &str) {
        let text = wrap(text, head, columns());
        match self {
            // A terminal that is gone is no reason to stop watching.
            Self::Bars(bars) => drop(bars.all.println(text)),
            Self::Lines { .. } => note(&text),
        }
    }

    /// Where it is now.
    pub(super) fn show(&mut self, migration: &Migration) {
        match self {
            Self::Bars(bars) => bars.show(migration),
            Self::Lines { said } => {
                let mut lines = vec![wrap(&now(migration), "", columns())];
                let reasons = migration.waiting.iter().take(REASONS);
                lines.extend(reasons.map(|reason| wrap(reason, "  waits: ", columns())));
                let text = lines.join("\n");
                if *said != text {
                    note(&text);
                    *said = text;
                }
            }
        }
    }

    /// The user pressed Ctrl-C: the terminal has written `^C` behind the last bar, which fills its
    /// line, so on a line of its own. That one goes first.
    pub(super) fn interrupted(&self) {
        if let Self::Bars(_) = self {
            // A terminal that is gone needs no cleaning.
            let _gone = write!(io::stderr(), "\r\x1b[2K\x1b[1A");
        }
        self.finish();
    }

    /// Leaves the terminal as it was found, below what happened.
    pub(super) fn finish(&self) {
        if let Self::Bars(bars) = self {
            bars.clear();
        }
    }
}

/// Where it is, without the counts that the bars show.
fn heading(migration: &Migration) -> String {
    let Migration { cluster, source, target, .. } = migration;
    let wave = migration.wave.map(|wave| format!(", wave {wave} of {}", migration.waves.len()));
    format!("{cluster} {source} -> {target}: {}{}", phase(migration), wave.unwrap_or_default())
}

/// Where it is, in one line.
pub(super) fn now(migration: &Migration) -> String {
    let Migration { cluster, source, target, progress, .. } = migration;
    let wave = migration.wave.map(|wave| format!(" wave {wave}/{}", migration.waves.len()));
    format!(
        "{cluster} {source} -> {target}: {}{}, old {}/{} drained, new {}/{} usable",
        phase(migration),
        wave.unwrap_or_default(),
        progress.drained,
        progress.old,
        progress.usable,
        progress.new
    )
}

/// When it will probably be over, from now.
pub(super) fn estimate(end: Timestamp, now: Timestamp) -> String {
    let minutes = end.duration_since(now).as_mins();
    let left = match minutes {
        ..=0 => "any moment now".to_owned(),
        1..=119 => format!("in {minutes} min"),
        _ => format!("in {} h", minutes / 60),
    };
    format!("probably over {left}")
}

/// Bars: a status, what it waits for, a bar for each wave, and one for each node that moves.
pub(super) struct Bars {
    all: MultiProgress,
    status: ProgressBar,
    waves: Vec<ProgressBar>,
    nodes: BTreeMap<NodeId, ProgressBar>,
    reasons: ProgressBar,
}

impl Bars {
    fn new(migration: &Migration) -> Self {
        let all = MultiProgress::new();
        let status = all.add(ProgressBar::new_spinner());
        status.set_style(style("{spinner} {wide_msg}"));
        status.enable_steady_tick(Duration::from_millis(120));
        let wave = |wave: &Wave| {
            let bar = all.add(ProgressBar::new(u64::from(wave.nodes)));
            bar.set_style(style("{prefix:26} [{bar:24}] {pos}/{len} {wide_msg}"));
            bar.set_prefix(format!("wave {} (up to {})", wave.number, wave.upto));
            bar
        };
        let waves = migration.waves.iter().map(wave).collect();
        let reasons = all.add(ProgressBar::new_spinner());
        reasons.set_style(style("{msg}"));
        Self { all, status, waves, nodes: BTreeMap::new(), reasons }
    }

    fn show(&mut self, migration: &Migration) {
        let end = migration.estimated_end.filter(|_| !migration.phase.is_final());
        let end = end.map(|end| format!("; {}", estimate(end, SystemClock.now())));
        self.status.set_message(heading(migration) + &end.unwrap_or_default());
        for (bar, wave) in self.waves.iter().zip(&migration.waves) {
            bar.set_position(u64::from(wave.drained));
            bar.set_message(match wave.state {
                WaveState::Skipped => "adds no node".to_owned(),
                _ => word(&wave.state),
            });
        }
        self.show_nodes(migration);
        // One column less: a full line would be broken by terminals that wrap eagerly.
        let width = columns().saturating_sub(1);
        let reasons = migration.waiting.iter().take(REASONS);
        let mut lines: Vec<String> =
            reasons.map(|reason| wrap(reason, "  waits: ", width)).collect();
        let more = migration.waiting.len().saturating_sub(REASONS);
        if more > 0 {
            lines
                .push(format!("  and {more} more: zcpctl migration explain {}", migration.cluster));
        }
        self.reasons.set_message(lines.join("\n"));
    }

    fn show_nodes(&mut self, migration: &Migration) {
        let moving: Vec<&MigrationNode> =
            migration.nodes.iter().filter(|node| is_moving(node)).take(NODES).collect();
        let gone: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in gone.into_iter().filter(|id| moving.iter().all(|node| node.id != *id)) {
            if let Some(bar) = self.nodes.remove(&id) {
                bar.finish_and_clear();
                self.all.remove(&bar);
            }
        }
        for node in moving {
            let bar = self.nodes.entry(node.id).or_insert_with(|| {
                let bar = self.all.insert_before(&self.reasons, ProgressBar::new(STEPS));
                bar.set_style(style("  {prefix:24.24} [{bar:8}] {wide_msg}"));
                bar.set_prefix(node.name.clone());
                bar
            });
            let (step, text) = standing(node);
            bar.set_position(step);
            bar.set_message(text);
        }
    }

    /// Takes all bars from the terminal, and draws none again.
    fn clear(&self) {
        self.status.disable_steady_tick();
        // A terminal that is gone needs no cleaning.
        let _gone = self.all.clear();
        self.all.set_draw_target(ProgressDrawTarget::hidden());
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The templates are constants; the default style shows the same figures.
fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template);
    style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

/// Whether something happens to a node now, or should.
fn is_moving(node: &MigrationNode) -> bool {
    if node.trouble.is_some() || !node.blockers.is_empty() {
        return node.stage != NodeStage::Gone;
    }
    match node.side {
        Side::New => {
            !matches!(node.stage, NodeStage::Usable | NodeStage::Gone) || is_draining(node)
        }
        Side::Old => is_draining(node) || node.stage == NodeStage::Deleting,
    }
}

fn is_draining(node: &MigrationNode) -> bool {
    matches!(node.drain, Drain::Cordoning | Drain::Evicting | Drain::Uncordoning)
}

/// How far a node is, and what it does, with what is in its way.
fn standing(node: &MigrationNode) -> (u64, String) {
    let (step, what) = match (node.stage, node.drain) {
        (NodeStage::Deleting | NodeStage::Gone, _) => (STEPS, word(&node.stage)),
        (_, Drain::Cordoning) => (1, "cordoning".to_owned()),
        (_, Drain::Evicting) => (2, "evicting".to_owned()),
        (_, Drain::Uncordoning) => (1, "uncordoning".to_owned()),
        (_, Drain::Drained | Drain::Skipped) => (STEPS, word(&node.drain)),
        (NodeStage::Wanted, Drain::Idle) => (0, "wanted".to_owned()),
        (NodeStage::Building, Drain::Idle) => (1, "building".to_owned()),
        (NodeStage::Joining, Drain::Idle) => (2, "joining".to_owned()),
        (NodeStage::Unhealthy, Drain::Idle) => (3, "unhealthy".to_owned()),
        (NodeStage::Usable, Drain::Idle) => (STEPS, "usable".to_owned()),
    };
    let mut text = what;
    if let Some(trouble) = &node.trouble {
        text.extend([", ", trouble.as_str()]);
    } else if let Some(blocker) = node.blockers.first() {
        let more = node.blockers.len() - 1;
        let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
        text.extend([", ", blocker.pod.as_str(), ": ", blocker.reason.as_str(), &more]);
    }
    (step, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_is_told_from_now() {
        let now: Timestamp = "2026-08-01T12:00:00Z".parse().expect("a time");
        let at = |text: &str| text.parse().expect("a time");
        assert_eq!(estimate(at("2026-08-01T12:30:00Z"), now), "probably over in 30 min");
        assert_eq!(estimate(at("2026-08-02T12:30:00Z"), now), "probably over in 24 h");
        assert_eq!(estimate(at("2026-08-01T11:30:00Z"), now), "probably over any moment now");
    }
}
