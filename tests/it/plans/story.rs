//! Whole stories, plan by plan, with every reason. The golden files are read in review.

use std::fmt::Write as _;
use std::path::Path;

use jiff::SignedDuration;
use serde_json::json;

use super::{Luck, Model};
use zcp::domain::cluster::ClusterPhase;
use zcp::domain::migration::Phase;
use zcp::domain::node::{Desired, Node};
use zcp::plan::{cluster, migration};

/// Rounds that any story may take.
const ROUNDS: usize = 400;

struct Story {
    model: Model,
    text: String,
}

impl Story {
    fn new(workers: u32) -> Self {
        Self { model: Model::new(workers), text: String::new() }
    }

    /// Plans and acts until `done`; time passes when nothing can be done.
    fn tell(&mut self, chapter: &str, done: impl Fn(&Model) -> bool) {
        let _never_fails = writeln!(self.text, "# {chapter}");
        for _ in 0..ROUNDS {
            if done(&self.model) {
                return;
            }
            let was_busy = self.round();
            if !was_busy {
                self.model.servers_come_up();
                self.model.now += SignedDuration::from_secs(30);
            }
        }
        panic!("{chapter}: not after {ROUNDS} rounds\n{}", self.text);
    }

    fn round(&mut self) -> bool {
        let plan = cluster::plan(&self.model.cluster_snapshot());
        let mut was_busy = !plan.steps.is_empty();
        self.print("cluster", &plan);
        for planned in &plan.steps {
            self.model.take(&planned.step, (&planned.reason, Luck::Good));
        }
        if let Some(snapshot) = self.model.migration_snapshot() {
            let plan = migration::plan(&snapshot);
            was_busy |= !plan.steps.is_empty();
            self.print("migration", &plan);
            for planned in &plan.steps {
                self.model.steer(&planned.step);
            }
        }
        was_busy
    }

    fn print<S: std::fmt::Display>(&mut self, who: &str, plan: &zcp::plan::Plan<S>) {
        let mut text = format!("{plan}");
        for node in &self.model.nodes {
            text = text.replace(&format!("NodeId({})", node.id), &node.name);
        }
        for line in text.lines() {
            let _never_fails = writeln!(self.text, "{who:9} {line}");
        }
    }

    /// Compares with the golden file; writes what it should be beside it when it differs.
    fn check(&self, name: &str) {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/plans").join(name);
        let wanted = std::fs::read_to_string(&golden).unwrap_or_default();
        if wanted != self.text {
            let new = golden.with_extension("new");
            std::fs::write(&new, &self.text).expect("writable");
            panic!("{name} tells another story; the new one is in {}", new.display());
        }
    }
}

fn phase(model: &Model) -> Option<Phase> {
    model.migration.as_ref().map(|migration| migration.phase)
}

#[test]
fn creating_and_deleting_a_cluster() {
    let mut story = Story::new(2);
    story.tell("create", |model| {
        model.cluster.has_base && model.workers().filter(|node| node.is_serving()).count() == 2
    });
    story.model.cluster.desired = Desired::Absent;
    story.tell("delete", |model| model.cluster.phase == ClusterPhase::Deleted);
    story.check("create_delete.txt");
}

#[test]
fn migrating_four_nodes_in_waves() {
    let mut story = Story::new(4);
    story.tell("create", |model| model.workers().filter(|node| node.is_serving()).count() == 4);
    story.text.clear();
    story.model.migrate(json!({"target": "west", "hold_seconds": 60}));
    story.tell("migrate", |model| phase(model) == Some(Phase::Succeeded));
    story.check("migrate.txt");
}

#[test]
fn rolling_back_from_an_approval_gate() {
    let mut story = Story::new(3);
    story.tell("create", |model| model.workers().filter(|node| node.is_serving()).count() == 3);
    story.text.clear();
    story.model.migrate(json!({
        "target": "west",
        "waves": [{"upto": 1, "soak_seconds": 0, "gate": "approval"}, {"upto": "100%"}],
    }));
    story.tell("forward", |model| phase(model) == Some(Phase::Approval));
    if let Some(migration) = &mut story.model.migration {
        migration.wants_rollback = true;
    }
    story.tell("back", |model| phase(model) == Some(Phase::RolledBack) && model.nodes.len() == 4);
    story.check("roll_back.txt");
}

#[test]
fn growing_and_shrinking_a_pool() {
    let mut story = Story::new(1);
    story.tell("create", |model| model.workers().any(Node::is_serving));
    story.text.clear();
    for count in [3, 1] {
        story.model.pools[0].count = count;
        story.tell(&format!("{count} nodes"), |model| {
            model.workers().filter(|node| node.is_serving()).count() == count as usize
                && model.workers().count() == count as usize
        });
    }
    story.check("scale.txt");
}
