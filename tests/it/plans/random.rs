//! Random worlds: pools, waves, deaths, full clouds, crashes, calls of frozen replicas that land
//! late, and every verb at random moments. The limits hold after every step, and every world comes
//! to rest where its users wanted it.
//!
//! `ZCP_WORLDS` says how many (300 by default), `ZCP_SEED` where to begin; a failure names its seed.
//! `ZCP_STORY=1` prints every step.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use serde_json::json;

use super::{EAST, Luck, Model, WEST};
use zcp::clock::{Ids, SeededIds};
use zcp::domain::cluster::ClusterPhase;
use zcp::domain::ids::NodeId;
use zcp::domain::migration::{Event, Meaning, Migration, Phase, VERBS, Verb};
use zcp::domain::node::{Desired, Node, Outside};
use zcp::plan::cluster::Step as ClusterStep;
use zcp::plan::migration::{Step, way_back};
use zcp::plan::{cluster, migration};

/// Rounds after which a world must be at rest. Wishes stop after the first half.
const ROUNDS: usize = 1_200;

/// A call of a replica that froze before it.
#[derive(Debug, Clone, Copy)]
enum Late {
    Cordon(NodeId),
    Uncordon(NodeId),
    Delete(NodeId),
}

struct World {
    seed: u64,
    dice: SeededIds,
    model: Model,
    /// Fewest workers of each pool that must serve; 0 while some never came up or servers fail.
    floors: Vec<usize>,
    late: Vec<Late>,
    deaths: u32,
    /// Somebody scaled, or a node died: labels may have gone with what their owner gave up.
    is_disturbed: bool,
    /// Every step is printed.
    is_told: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let dice = SeededIds::new(seed);
        let pools = 1 + pick(&dice, 3);
        let counts: Vec<u32> = (0..pools).map(|_| 1 + pick(&dice, 8)).collect();
        let model = Model::with_pools(&counts);
        let floors = vec![0; counts.len()];
        Self {
            seed,
            dice,
            model,
            floors,
            late: Vec::new(),
            deaths: 0,
            is_disturbed: false,
            is_told: told("ZCP_STORY").is_some(),
        }
    }

    /// Prints a step when the environment asks for the story.
    #[expect(clippy::print_stdout, reason = "whoever repeats a run wants to know why")]
    fn tell(&self, step: std::fmt::Arguments<'_>) {
        if self.is_told {
            println!("{} {step}", self.model.now);
        }
    }

    fn chance(&self, percent: u32) -> bool {
        pick(&self.dice, 100) < percent
    }

    fn serving(&self, pool: usize) -> usize {
        let id = self.model.pools[pool].id;
        self.model.workers().filter(|n| n.pool_id == Some(id) && n.is_serving()).count()
    }

    fn run(&mut self) {
        self.settle(false);
        for pool in 0..self.floors.len() {
            self.floors[pool] = self.serving(pool);
        }
        let workers: Vec<NodeId> = self.model.workers().map(|node| node.id).collect();
        for id in workers {
            self.model.ledger.insert(id, BTreeSet::from([id.0.as_u128()]));
        }
        self.model.migrate(self.spec());
        self.settle(true);
        self.rest();
    }

    fn spec(&self) -> serde_json::Value {
        let percent = 1 + pick(&self.dice, 98);
        let gate = if self.chance(30) { "approval" } else { "auto" };
        let deadline = ["pause", "skip_node", "force"][pick(&self.dice, 3) as usize];
        json!({
            "target": "west",
            "waves": [
                {"upto": 1, "soak_seconds": pick(&self.dice, 200), "gate": gate},
                {"upto": format!("{percent}%"), "soak_seconds": 30},
                {"upto": "100%", "soak_seconds": 0},
            ],
            "drain": {
                "timeout_seconds": 60 + pick(&self.dice, 3_000), "at_deadline": deadline,
                "parallel": 1 + pick(&self.dice, 5),
            },
            "hold_seconds": pick(&self.dice, 300),
            "commit": if self.chance(30) { "manual" } else { "auto_after_hold" },
            "auto_rollback": self.chance(20),
        })
    }

    /// Rounds of planning, acting and wishing until nothing is left to do.
    fn settle(&mut self, with_wishes: bool) {
        for round in 0..ROUNDS {
            let may_wish = with_wishes && round < ROUNDS / 2;
            if may_wish {
                self.mishaps();
            } else {
                self.model.is_stuck = false;
                self.help_on();
            }
            self.land_late(!may_wish);
            let was_busy = self.round();
            self.check();
            self.model.now += SignedDuration::from_secs(if was_busy { 5 } else { 60 });
            if !was_busy {
                self.model.servers_come_up();
                let is_over = self.model.migration.as_ref().is_none_or(|m| m.phase.is_final());
                if is_over && self.at_rest() && !may_wish {
                    return;
                }
            }
        }
        let nodes: Vec<&Node> = self.model.workers().collect();
        let waiting = self.model.migration_snapshot().map(|snapshot| migration::plan(&snapshot));
        let waiting = (cluster::plan(&self.model.cluster_snapshot()).waiting, waiting);
        panic!(
            "seed {}: no rest: {waiting:#?}\n{:#?}\n{nodes:#?}",
            self.seed, self.model.migration
        );
    }

    fn mishaps(&mut self) {
        if self.chance(8) {
            self.wish();
        }
        if self.chance(5) {
            self.model.is_stuck = !self.model.is_stuck;
        }
        if self.deaths < 3 && self.chance(1) {
            self.somebody_dies();
        }
    }

    /// A server is gone, whoever did that.
    fn somebody_dies(&mut self) {
        let workers: Vec<usize> = (0..self.model.nodes.len())
            .filter(|n| {
                let node = &self.model.nodes[*n];
                node.pool_id.is_some() && node.server == Outside::Present
            })
            .collect();
        let Some(victim) = workers.get(pick(&self.dice, 40) as usize) else { return };
        let node = &mut self.model.nodes[*victim];
        node.server = Outside::Gone;
        node.kubelet.is_ready = false;
        let pool = self.model.pools.iter().position(|pool| Some(pool.id) == node.pool_id);
        let floor = &mut self.floors[pool.expect("a worker's")];
        *floor = floor.saturating_sub(1);
        self.deaths += 1;
        self.is_disturbed = true;
    }

    fn land_late(&mut self, all: bool) {
        while !self.late.is_empty() && (all || self.chance(20)) {
            let (Late::Cordon(id) | Late::Uncordon(id) | Late::Delete(id)) = self.late[0];
            let late = self.late.remove(0);
            let Some(node) = self.model.nodes.iter_mut().find(|node| node.id == id) else {
                continue;
            };
            match late {
                Late::Cordon(_) if node.object == Outside::Present => {
                    node.kubelet.is_cordoned = true;
                    node.kubelet.cordon_mark = Some("late".to_owned());
                }
                Late::Uncordon(_) => {
                    node.kubelet.is_cordoned = false;
                    node.kubelet.cordon_mark = None;
                }
                Late::Delete(_) if node.server.may_exist() => {
                    node.server = Outside::Gone;
                    node.kubelet.is_ready = false;
                }
                _ => {}
            }
        }
    }

    fn round(&mut self) -> bool {
        let is_deleted = self.model.cluster.phase == ClusterPhase::Deleted;
        let plan = cluster::plan(&self.model.cluster_snapshot());
        let mut was_busy = !plan.steps.is_empty() && !is_deleted;
        for planned in plan.steps.iter().filter(|_| !is_deleted) {
            // A crash between two steps is a plan of which only a part was done.
            if self.chance(5) {
                if let ClusterStep::DeleteServer(id) = planned.step {
                    self.late.push(Late::Delete(id));
                }
                break;
            }
            self.tell(format_args!("{} ({})", planned.step, planned.reason));
            self.check_step(&planned.step);
            let luck = if self.chance(4) { Luck::Error } else { Luck::Good };
            self.model.take(&planned.step, (&planned.reason, luck));
            self.check();
        }
        if let Some(snapshot) = self.model.migration_snapshot() {
            let plan = migration::plan(&snapshot);
            was_busy |= !plan.steps.is_empty();
            self.check_pause(&snapshot.migration, &plan);
            for planned in &plan.steps {
                if self.chance(5) {
                    match planned.step {
                        Step::Cordon(id) => self.late.push(Late::Cordon(id)),
                        Step::Uncordon(id) => self.late.push(Late::Uncordon(id)),
                        _ => {}
                    }
                    break;
                }
                let phase = snapshot.migration.phase.as_str();
                self.tell(format_args!("{phase}: {} ({})", planned.step, planned.reason));
                self.check_cordon(&planned.step);
                self.model.steer(&planned.step);
                self.check();
            }
        }
        was_busy
    }

    fn wish(&mut self) {
        let seed = self.seed;
        if self.chance(1) {
            self.model.cluster.desired = Desired::Absent;
            self.floors.fill(0);
            return;
        }
        if self.chance(15) {
            let pool = pick(&self.dice, u32::try_from(self.floors.len()).expect("few")) as usize;
            let count = 1 + pick(&self.dice, 8);
            self.model.pools[pool].count = count;
            self.floors[pool] = self.floors[pool].min(count as usize);
            self.is_disturbed = true;
            return;
        }
        let verb = VERBS[pick(&self.dice, 9) as usize];
        let Some(migration) = self.model.migration.clone().filter(|m| !m.phase.is_final()) else {
            return;
        };
        // What makes an end is rarer, or no world would go far.
        if matches!(verb, Verb::Cancel | Verb::Rollback) && !self.chance(40) {
            return;
        }
        if matches!(verb.meaning(migration.standing()), Meaning::Does(_)) {
            self.ask(verb, migration);
        } else if verb == Verb::Rollback {
            assert!(migration.wants_rollback || !migration.phase.can_roll_back(), "seed {seed}");
        }
    }

    /// What `app::migrations` writes.
    fn ask(&mut self, verb: Verb, mut migration: Migration) {
        let now = self.model.now;
        match verb {
            Verb::Pause => migration.paused = Some("by chance".to_owned()),
            Verb::Resume => migration.paused = None,
            Verb::Approve => migration.approved_wave = Some(migration.wave),
            Verb::SkipNode => {
                let nodes: Vec<NodeId> = self.model.workers().map(|node| node.id).collect();
                migration.skips.extend(nodes.get(pick(&self.dice, 20) as usize));
            }
            Verb::Rollback => {
                if way_back::closed(&migration, &self.model.pools, &self.model.nodes).is_some() {
                    return;
                }
                migration.wants_rollback = true;
                migration.wants_commit = false;
                migration.paused = None;
            }
            Verb::Forward => {
                migration.wants_rollback = false;
                migration.paused = None;
            }
            Verb::Commit => migration.wants_commit = true,
            Verb::Cancel => migration.wants_cancel = true,
            Verb::Retry => self.model.nodes.iter_mut().for_each(|node| node.not_before = None),
        }
        if matches!(verb, Verb::Resume | Verb::Rollback | Verb::Forward) {
            migration.resumed_at = Some(now);
        }
        self.model.migration = Some(migration);
    }

    /// Whoever waits for somebody is helped on.
    fn help_on(&mut self) {
        let Some(migration) = self.model.migration.clone().filter(|m| !m.phase.is_final()) else {
            return;
        };
        let closed = way_back::closed(&migration, &self.model.pools, &self.model.nodes).is_some();
        let verb = match migration.phase {
            _ if migration.paused.is_some() => Verb::Resume,
            Phase::Approval => Verb::Approve,
            Phase::Holding => Verb::Commit,
            Phase::RollingBack if closed => Verb::Forward,
            _ => return,
        };
        if matches!(verb.meaning(migration.standing()), Meaning::Does(_)) {
            self.ask(verb, migration);
        }
    }

    fn at_rest(&self) -> bool {
        if self.model.cluster.desired == Desired::Absent {
            return self.model.cluster.phase == ClusterPhase::Deleted;
        }
        let is_full = |pool: usize| {
            let (id, count) = (self.model.pools[pool].id, self.model.pools[pool].count as usize);
            let there = self.model.workers().filter(|node| node.pool_id == Some(id)).count();
            self.serving(pool) == count && there == count
        };
        self.late.is_empty() && (0..self.floors.len()).all(is_full)
    }

    /// The limits that hold at every moment.
    fn check(&self) {
        let seed = self.seed;
        let mut bearers: BTreeMap<(u128, bool), usize> = BTreeMap::new();
        for (pool, floor) in self.floors.iter().enumerate() {
            let id = self.model.pools[pool].id;
            let workers: Vec<&Node> =
                self.model.workers().filter(|node| node.pool_id == Some(id)).collect();
            // What a late cordon took from us is given back, not prevented.
            let stray = workers.iter().filter(|n| n.kubelet.cordon_mark.is_some()).count();
            let serving = self.serving(pool) + stray;
            assert!(serving >= *floor, "seed {seed}: {serving} serve, {floor} must");
            for cloud in [EAST, WEST] {
                let here = |n: &&&Node| n.cloud_id == cloud && n.server.may_exist();
                let total = workers.iter().filter(here).count();
                // A pool may have been larger a moment ago; no wish goes beyond 8.
                assert!(total <= 8 + 1, "seed {seed}: {total} servers of a pool on one cloud");
            }
            for node in workers.iter().filter(|node| node.desired == Desired::Present) {
                for mark in self.model.ledger.get(&node.id).into_iter().flatten() {
                    *bearers.entry((*mark, node.cloud_id == EAST)).or_default() += 1;
                }
            }
        }
        let twice = bearers.iter().find(|(_, count)| **count > 1);
        assert!(twice.is_none(), "seed {seed}: given away twice: {twice:?}");
    }

    /// On the way back no server is made; what waits for its commit is not given up.
    fn check_step(&self, step: &ClusterStep) {
        let seed = self.seed;
        let Some(migration) = self.model.migration.as_ref() else { return };
        let of = |id: NodeId| self.model.nodes.iter().find(|node| node.id == id);
        match step {
            ClusterStep::EnsureServer(id) if migration.phase == Phase::RollingBack => {
                let is_new = of(*id).is_some_and(|node| node.cloud_id == WEST);
                assert!(!is_new, "seed {seed}: a server is made on the way back");
            }
            ClusterStep::Dismiss(id)
                if matches!(migration.phase, Phase::Holding | Phase::RollingBack)
                    && self.model.cluster.desired == Desired::Present =>
            {
                let is_old = of(*id).is_some_and(|node| node.cloud_id == EAST);
                assert!(!is_old, "seed {seed}: an old node is given up before its commit");
            }
            _ => {}
        }
    }

    fn check_pause(&self, migration: &Migration, plan: &zcp::plan::Plan<Step>) {
        let ends = |step: &Step| {
            matches!(step, Step::Move(Event::Rollback | Event::Cancel | Event::ClusterDeleted, _))
        };
        let moves = plan.steps.iter().any(|planned| !ends(&planned.step));
        assert!(migration.paused.is_none() || !moves, "seed {}: a pause is none", self.seed);
    }

    /// An old node is cordoned when what owners put on it is on its successor.
    fn check_cordon(&self, step: &Step) {
        let Step::Cordon(id) = step else { return };
        let node = self.model.nodes.iter().find(|node| node.id == *id).expect("an open node");
        let heir = node.lineage.heir.filter(|heir| {
            self.model.nodes.iter().any(|n| n.id == *heir && n.desired == Desired::Present)
        });
        let (Some(heir), EAST) = (heir, node.cloud_id) else { return };
        let marks = |id: NodeId| self.model.ledger.get(&id).cloned().unwrap_or_default();
        let is_late = node.drain.may_be_cordoned();
        let is_carried = marks(*id).is_subset(&marks(heir));
        assert!(is_late || is_carried, "seed {}: cordoned before its ledger went on", self.seed);
    }

    /// Where a world must be at the end.
    fn rest(&self) {
        let seed = self.seed;
        let migration = self.model.migration.as_ref().expect("there was one");
        assert!(migration.phase.is_final(), "seed {seed}: {:?}", migration.phase);
        if self.model.cluster.desired == Desired::Absent {
            assert!(self.model.nodes.is_empty(), "seed {seed}: nodes outlive their cluster");
            return;
        }
        let home = if migration.phase == Phase::Succeeded { WEST } else { EAST };
        let is_home = |node: &Node| {
            node.cloud_id == home && node.desired == Desired::Present && !node.kubelet.is_cordoned
        };
        assert!(self.model.workers().all(is_home), "seed {seed}: {:?}", migration.phase);
        assert!(self.model.pools.iter().all(|pool| pool.cloud == home), "seed {seed}");
        if !self.is_disturbed {
            let marks = |node: &Node| self.model.ledger.get(&node.id).map_or(0, BTreeSet::len);
            let borne: usize = self.model.workers().map(marks).sum();
            let workers: u32 = self.model.pools.iter().map(|pool| pool.count).sum();
            assert_eq!(borne, workers as usize, "seed {seed}: a label is lost");
        }
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
#[expect(clippy::print_stdout, reason = "whoever repeats a run needs its seeds")]
fn limits_hold_in_every_random_world() {
    let first = told("ZCP_SEED").unwrap_or_else(|| u64::from(std::process::id()) * 100_000);
    let worlds = told("ZCP_WORLDS").unwrap_or(300);
    println!("{worlds} worlds from ZCP_SEED={first}");
    for seed in first..first + worlds {
        World::new(seed).run();
    }
}
