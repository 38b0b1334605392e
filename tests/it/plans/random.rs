//! Random worlds: pools, waves, failures and verbs at random moments. The limits hold after every
//! step, and every world comes to rest where its users wanted it.
//!
//! `ZCP_WORLDS` says how many (300 by default), `ZCP_SEED` where to begin; a failure names its seed.

use jiff::SignedDuration;
use serde_json::json;

use super::{EAST, Luck, Model, WEST};
use zcp::clock::{Ids, SeededIds};
use zcp::domain::migration::{Event, Phase};
use zcp::domain::node::{Desired, Node};
use zcp::plan::{cluster, migration};

/// Rounds after which a world must be at rest. Wishes stop after the first half.
const ROUNDS: usize = 600;

struct World {
    seed: u64,
    dice: SeededIds,
    model: Model,
    /// Fewest workers that must serve; 0 while some never came up or servers fail.
    floor: usize,
    made_on_the_way_back: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let dice = SeededIds::new(seed);
        let workers = 1 + pick(&dice, 12);
        Self { seed, dice, model: Model::new(workers), floor: 0, made_on_the_way_back: 0 }
    }

    fn chance(&self, percent: u32) -> bool {
        pick(&self.dice, 100) < percent
    }

    fn serving(&self) -> usize {
        self.model.workers().filter(|node| node.is_serving()).count()
    }

    fn run(&mut self) {
        self.settle(false);
        assert_eq!(self.serving(), self.model.pool.count as usize, "seed {}", self.seed);
        self.floor = self.serving();
        let percent = 1 + pick(&self.dice, 98);
        let gate = if self.chance(30) { "approval" } else { "auto" };
        self.model.migrate(json!({
            "target": "west",
            "waves": [
                {"upto": 1, "soak_seconds": pick(&self.dice, 200), "gate": gate},
                {"upto": format!("{percent}%"), "soak_seconds": 30},
                {"upto": "100%", "soak_seconds": 0},
            ],
            "hold_seconds": pick(&self.dice, 300),
        }));
        self.settle(true);
        self.rest();
    }

    /// Rounds of planning, acting and wishing until nothing is left to do.
    fn settle(&mut self, with_wishes: bool) {
        for round in 0..ROUNDS {
            if with_wishes && round < ROUNDS / 2 && self.chance(8) {
                self.wish();
            }
            let was_busy = self.round();
            self.check();
            if !was_busy {
                self.model.servers_come_up();
                self.model.now += SignedDuration::from_secs(60);
                let is_over = self.model.migration.as_ref().is_none_or(|m| m.phase.is_final());
                if is_over && self.at_rest() && (!with_wishes || round > ROUNDS / 2) {
                    return;
                }
            }
            if with_wishes && round == ROUNDS / 2 {
                self.last_wish();
            }
        }
        panic!("seed {}: no rest after {ROUNDS} rounds: {:?}", self.seed, self.model.migration);
    }

    fn round(&mut self) -> bool {
        let plan = cluster::plan(&self.model.cluster_snapshot());
        let mut was_busy = !plan.steps.is_empty();
        for planned in &plan.steps {
            // A crash between two steps is a plan of which only a part was done.
            if self.chance(5) {
                break;
            }
            let is_back =
                self.model.migration.as_ref().is_some_and(|m| m.phase == Phase::RollingBack);
            if let cluster::Step::EnsureServer(id) = planned.step {
                let on_target = |node: &Node| node.id == id && node.cloud_id == WEST;
                let is_wrong = is_back && self.model.nodes.iter().any(on_target);
                self.made_on_the_way_back += usize::from(is_wrong);
            }
            let luck = if self.chance(4) { Luck::Error } else { Luck::Good };
            self.model.take(&planned.step, (&planned.reason, luck));
            self.check();
        }
        if let Some(snapshot) = self.model.migration_snapshot() {
            let plan = migration::plan(&snapshot);
            was_busy |= !plan.steps.is_empty();
            for planned in &plan.steps {
                if self.chance(5) {
                    break;
                }
                self.model.steer(&planned.step);
                self.check();
            }
        }
        was_busy
    }

    fn wish(&mut self) {
        let what = pick(&self.dice, 10);
        let count = 1 + pick(&self.dice, 12);
        if what == 0 {
            self.model.pool.count = count;
            self.floor = self.floor.min(count as usize);
            return;
        }
        let Some(migration) = self.model.migration.as_mut().filter(|m| !m.phase.is_final()) else {
            return;
        };
        match what {
            1 => migration.paused = Some("by chance".to_owned()),
            2 | 3 if migration.paused.is_some() => {
                migration.paused = None;
                migration.resumed_at = Some(self.model.now);
            }
            4 | 5 if migration.phase == Phase::Approval => {
                migration.approved_wave = Some(migration.wave);
            }
            6 if migration.phase.can_roll_back() => {
                migration.wants_rollback = true;
                migration.paused = None;
                migration.resumed_at = Some(self.model.now);
            }
            7 if migration.phase == Phase::Holding => migration.wants_commit = true,
            8 => migration.wants_cancel |= migration.phase.after(Event::Cancel).is_ok(),
            _ => {}
        }
    }

    /// Whoever waits for somebody is helped on.
    fn last_wish(&mut self) {
        if let Some(migration) = &mut self.model.migration {
            migration.paused = None;
            migration.resumed_at = Some(self.model.now);
            migration.spec.waves.iter_mut().for_each(|wave| {
                wave.gate = zcp::domain::wave::Gate::Auto;
            });
            migration.approved_wave = Some(migration.wave);
        }
    }

    fn at_rest(&self) -> bool {
        self.serving() == self.model.pool.count as usize
            && self.model.workers().count() == self.model.pool.count as usize
    }

    /// The limits that hold at every moment.
    fn check(&self) {
        let seed = self.seed;
        let serving = self.serving();
        assert!(serving >= self.floor, "seed {seed}: {serving} serve, {} must", self.floor);
        let is_back = self.model.migration.as_ref().is_some_and(|m| m.phase == Phase::RollingBack);
        assert!(
            !is_back || self.made_on_the_way_back == 0,
            "seed {seed}: a server on the way back"
        );
        for cloud in [EAST, WEST] {
            let here = |node: &&Node| node.cloud_id == cloud && node.server.may_exist();
            let total = self.model.workers().filter(here).count();
            // A pool may have been larger a moment ago; no wish goes beyond 12.
            assert!(total <= 12 + 1, "seed {seed}: {total} servers on one cloud");
        }
    }

    /// Where a world must be at the end.
    fn rest(&self) {
        let seed = self.seed;
        let migration = self.model.migration.as_ref().expect("there was one");
        assert!(migration.phase.is_final(), "seed {seed}: {:?}", migration.phase);
        let home = if migration.phase == Phase::Succeeded { WEST } else { EAST };
        let is_home = |node: &Node| {
            node.cloud_id == home && node.desired == Desired::Present && !node.kubelet.is_cordoned
        };
        assert!(self.model.workers().all(is_home), "seed {seed}: {:?}", migration.phase);
        assert_eq!(self.model.pool.cloud, home, "seed {seed}");
    }
}

/// A number below `below`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a fraction below one of a small number"
)]
fn pick(dice: &SeededIds, below: u32) -> u32 {
    (dice.fraction() * f64::from(below)) as u32
}

#[expect(clippy::disallowed_methods, reason = "a test is told its worlds by the environment")]
fn told(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn limits_hold_in_every_random_world() {
    let first = told("ZCP_SEED").unwrap_or_else(|| u64::from(std::process::id()) * 100_000);
    for seed in first..first + told("ZCP_WORLDS").unwrap_or(300) {
        World::new(seed).run();
    }
}
