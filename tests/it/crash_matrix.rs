//! Every step x {before its call, after it, before its record} x {the same replica restarts,
//! another takes over with the first still half alive}.
//!
//! Each case goes on from a world that was put away, kills or freezes a replica at one moment of
//! one step, and lets another end the work. The limits hold after every tick; at the end the
//! cluster is deleted and the clouds must be empty. Which occurrence of a step is hit is random;
//! the seed is printed, and `ZCP_SEED` repeats it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use http::Method;
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use zcp::clock::{Ids, SeededIds};
use zcp::domain::ids::{ClusterId, MigrationId};
use zcp::domain::migration::{Phase, Verb};
use zcp::sim::faults::{Chance, Effect, Mishap, Rule, Trouble};
use zcp::worker::crash::{CrashPoints, Crashed, Point};

use crate::support::world::{Prepared, TestWorld, WorldOptions};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scenario {
    Create,
    Grow,
    Shrink,
    Forward,
    Back,
    Delete,
    /// A pool grows while answers to creates are lost.
    Unclear,
    /// A cordon of ours that nobody wants, on a node whose server has stopped.
    Stray,
    /// A port of ours that nobody owns.
    Orphan,
    /// An object of a management cluster is accepted as a migration, and deleted again.
    Object,
    /// A migration that the API started, paused and cancelled gets an object that says so.
    Mirror,
    /// Two canaries, of which one does not join.
    Canary,
}

const SCENARIOS: [Scenario; 12] = [
    Scenario::Create,
    Scenario::Grow,
    Scenario::Shrink,
    Scenario::Forward,
    Scenario::Back,
    Scenario::Delete,
    Scenario::Unclear,
    Scenario::Stray,
    Scenario::Orphan,
    Scenario::Object,
    Scenario::Mirror,
    Scenario::Canary,
];

/// What is struck in the scenario of canaries: its own steps, and its server's. The others are
/// those of any node, which other scenarios strike.
const CANARY_STEPS: [&str; 8] = [
    "create server",
    "read canary",
    "ask kubelet",
    "ensure probe",
    "read probe",
    "delete probe",
    "read console",
    "delete server",
];

#[derive(Debug, Clone, Copy)]
enum Mode {
    Restart,
    Takeover,
}

/// Where a scenario begins.
struct Start {
    world: Prepared,
    cluster: Option<ClusterId>,
    migration: Option<MigrationId>,
}

impl Scenario {
    async fn start(self) -> Start {
        let mut options = WorldOptions::default();
        if self == Self::Canary {
            options.settings = |settings| settings.join_deadline = Duration::from_mins(1);
        }
        let mut world = TestWorld::new(options).await;
        if self.is_managed() {
            world = world.with_management().await;
        }
        let driver = world.replica(CrashPoints::none());
        let (mut cluster, mut migration) = (None, None);
        if self == Self::Create {
            lose_answer(&world, ("nova", "create_server_group"));
        } else {
            let workers = match self {
                Self::Shrink | Self::Forward | Self::Back | Self::Delete => 2,
                _ => 1,
            };
            let id = world.cluster(&driver, "alpha", workers).await;
            cluster = Some(id);
            if matches!(self, Self::Shrink | Self::Forward | Self::Back) {
                world.deploy(id, (2, 1)).await;
                world.settle(&driver, "pods run", async |world| world.ready_pods(id) == 2).await;
            }
            self.trouble(&world, id).await;
            if self == Self::Forward {
                world.label_one(&driver, id).await;
            }
            if self == Self::Back {
                let id = world.migrate(id, waves("approval")).await;
                world.until(&driver, id, Phase::Approval).await;
                migration = Some(id);
            }
        }
        Start { world: world.prepare().await, cluster, migration }
    }

    /// What has already gone wrong when the scenario begins.
    async fn trouble(self, world: &TestWorld, cluster: ClusterId) {
        if self == Self::Unclear {
            lose_answer(world, ("neutron", "create_port"));
            lose_answer(world, ("nova", "create_server"));
        }
        if self == Self::Canary {
            world.sim.with_cloud("west", |cloud, _| {
                cloud.faults.mishaps.push(Mishap::next(Trouble::NeverJoins, 1));
            });
        }
        if self == Self::Stray {
            let name = world.worker_names(cluster).pop().expect("a worker");
            let mark = json!({"zcp.io/cordoned-by": "migration-that-was"});
            let body = json!({"metadata": {"annotations": mark}, "spec": {"unschedulable": true}});
            let path = format!("/api/v1/nodes/{name}");
            world.ask_kube(cluster, (Method::PATCH, &path, body)).await;
            let servers = world.sim.truth().servers;
            let stopped = servers.iter().find(|one| one.name == name).expect("its server").id;
            world.sim.with_cloud("east", |cloud, now| cloud.crash_server(stopped, now));
        }
    }

    /// The wish that sets the scenario going.
    async fn wish(self, world: &TestWorld, start: &Start) -> (ClusterId, Option<MigrationId>) {
        let Some(cluster) = start.cluster else {
            zcp::app::clouds::check(&world.app, &world.ask, "east").await.expect("a check");
            return (world.wish_cluster("alpha", (1, 1)).await, None);
        };
        let mut migration = start.migration;
        match self {
            Self::Create | Self::Stray => {}
            Self::Orphan => world.plant_orphan_port(cluster),
            Self::Object => {
                let wish = json!({"cluster": "alpha", "target": "west", "paused": true});
                world.apply("go", wish).await;
            }
            Self::Mirror => {
                let id = world.migrate(cluster, waves("auto")).await;
                world.steer(id, Verb::Pause).await;
                world.wake_management().await;
                migration = Some(id);
            }
            Self::Canary => {
                for flavor in ["m1.k8s-2c4g", "m1.k8s-4c8g"] {
                    world.wish_canary(cluster, flavor).await;
                }
            }
            Self::Grow | Self::Unclear => world.scale(cluster, 2).await,
            Self::Shrink => world.scale(cluster, 1).await,
            Self::Forward => migration = Some(world.migrate(cluster, waves("auto")).await),
            Self::Back => {
                let id = migration.expect("started before");
                world.steer(id, Verb::Rollback).await;
            }
            Self::Delete => {
                zcp::app::clusters::delete(&world.app, &world.ask, cluster, None)
                    .await
                    .expect("deletable");
            }
        }
        (cluster, migration)
    }

    /// Whether the wish has come true.
    async fn is_done(self, world: &TestWorld, of: (ClusterId, Option<MigrationId>)) -> bool {
        let (cluster, migration) = of;
        let phase = match migration {
            Some(id) => Some(world.phase(id).await),
            None => None,
        };
        match self {
            Self::Create | Self::Grow | Self::Shrink | Self::Unclear => {
                world.is_ready(cluster).await
            }
            Self::Canary => world.are_canaries_over(cluster).await,
            Self::Stray => {
                let servers = world.sim.truth().servers;
                world.cordons(cluster) == 0 && servers.iter().all(|one| one.status == "ACTIVE")
            }
            Self::Orphan => world.sim.truth().ports.len() == 3,
            Self::Forward => phase == Some(Phase::Succeeded) && world.is_ready(cluster).await,
            Self::Back => phase == Some(Phase::RolledBack) && world.is_ready(cluster).await,
            Self::Delete => world.is_deleted(cluster).await,
            Self::Object => {
                // As soon as it is accepted, its owner changes their mind.
                if world.condition(("team-shop", "go"), "Accepted")[0] == "True" {
                    world.kubectl_delete("go").await;
                }
                let phases = world.phases().await;
                assert!(phases.len() <= 1, "one object is one migration");
                world.object("go").is_null() && phases.iter().any(|phase| phase.is_final())
            }
            Self::Mirror => {
                let objects = world.objects();
                assert!(objects.len() <= 1, "one migration has one object");
                let object = objects.into_iter().next().unwrap_or_default();
                let is_told =
                    object["spec"]["paused"] == true && !object["status"]["paused"].is_null();
                if is_told && phase.is_some_and(|phase| !phase.is_final()) {
                    world.steer(migration.expect("started"), Verb::Rollback).await;
                }
                phase.is_some_and(Phase::is_final) && object["status"]["finishedAt"].is_string()
            }
        }
    }

    /// Whether there is a management cluster, and only what happens in it is of interest.
    fn is_managed(self) -> bool {
        matches!(self, Self::Object | Self::Mirror)
    }

    /// How many workers there must be at the end, and on which cloud.
    fn outcome(self) -> (usize, &'static str) {
        match self {
            Self::Create
            | Self::Shrink
            | Self::Stray
            | Self::Orphan
            | Self::Object
            | Self::Mirror
            | Self::Canary => (1, "east"),
            Self::Grow | Self::Back | Self::Unclear => (2, "east"),
            Self::Forward => (2, "west"),
            Self::Delete => (0, "east"),
        }
    }

    fn limits(self, world: &mut TestWorld, cluster: ClusterId) {
        let (floor, ceiling) = match self {
            Self::Create
            | Self::Stray
            | Self::Orphan
            | Self::Delete
            | Self::Object
            | Self::Mirror
            | Self::Canary => (0, 2),
            Self::Grow | Self::Shrink | Self::Unclear => (1, 3),
            Self::Forward | Self::Back => (2, 4),
        };
        world.ceiling = ceiling;
        world.floor.insert(cluster, floor);
    }
}

/// Lets the next such call of the home cloud do its work and answer like a proxy that gave up.
fn lose_answer(world: &TestWorld, (service, operation): (&str, &str)) {
    let lost = Effect::DoneButAnswered { status: 504 };
    let rule = Rule::new(service, operation, lost, Chance::next(1));
    world.sim.with_cloud("east", |cloud, _| cloud.faults.rules.push(rule));
}

fn waves(gate: &str) -> serde_json::Value {
    json!({
        "target": "west",
        "waves": [
            {"upto": 1, "soak_seconds": 1, "gate": gate},
            {"upto": "100%", "soak_seconds": 1},
        ],
        "hold_seconds": 2,
    })
}

/// Runs a scenario without harm; says how often each step was taken.
async fn record(scenario: Scenario, start: &Start) -> BTreeMap<&'static str, u32> {
    let taken = Arc::new(std::sync::Mutex::new(BTreeMap::<&'static str, u32>::new()));
    let counting = Arc::clone(&taken);
    let points = CrashPoints::with(move |step, point| {
        if point == Point::BeforeCall {
            *counting.lock().unwrap_or_else(PoisonError::into_inner).entry(step).or_default() += 1;
        }
        async { Ok(()) }
    });
    let world = TestWorld::resume(&start.world, 2).await;
    let of = scenario.wish(&world, start).await;
    let driver = world.replica(points);
    world
        .settle(&driver, "the scenario ends", async |world| scenario.is_done(world, of).await)
        .await;
    let counted = taken.lock().unwrap_or_else(PoisonError::into_inner);
    counted.clone()
}

/// A point that strikes once, at the `nth` time that `step` passes `point`.
struct Strike {
    points: CrashPoints,
    seen: Arc<AtomicU32>,
    struck: Arc<AtomicBool>,
    release: Arc<Notify>,
}

fn strike(at: (&'static str, Point, u32), mode: Mode) -> Strike {
    let (step, point, nth) = at;
    let (seen, struck) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let release = Arc::new(Notify::new());
    let (flag, wait) = (Arc::clone(&struck), Arc::clone(&release));
    let count = Arc::clone(&seen);
    let points = CrashPoints::with(move |at_step, at_point| {
        let hit = at_step == step
            && at_point == point
            && count.fetch_add(1, Ordering::SeqCst) == nth
            && !flag.swap(true, Ordering::SeqCst);
        let wait = Arc::clone(&wait);
        async move {
            match mode {
                _ if !hit => Ok(()),
                Mode::Restart => Err(Crashed),
                Mode::Takeover => {
                    wait.notified().await;
                    Ok(())
                }
            }
        }
    });
    Strike { points, seen, struck, release }
}

/// Plays one case. Jitter differs from case to case, and with it how often a step is taken: if it
/// was taken too rarely, that number is the error, and nothing was struck.
async fn case(
    scenario: Scenario,
    start: &Start,
    at: (&'static str, Point, u32, Mode),
    seed: u64,
) -> Result<(), u32> {
    let (step, point, nth, mode) = at;
    let mut world = TestWorld::resume(&start.world, seed).await;
    let of = scenario.wish(&world, start).await;
    scenario.limits(&mut world, of.0);
    let strike = strike((step, point, nth), mode);
    let first = world.replica(strike.points.clone());
    let mut frozen = JoinSet::new();
    for _ in 0..2_000 {
        while world.sim.tick().await {}
        let driver = first.clone();
        frozen.spawn(async move { driver.tick().await });
        let ended = loop {
            tokio::select! {
                ended = frozen.join_next() => break ended.is_some(),
                () = tokio::task::yield_now() => {
                    if strike.struck.load(Ordering::SeqCst) { break false; }
                }
            }
        };
        world.check();
        if strike.struck.load(Ordering::SeqCst) || scenario.is_done(&world, of).await {
            break;
        }
        assert!(ended, "a tick ends or freezes");
        world.pass_time().await;
    }
    if !strike.struck.load(Ordering::SeqCst) {
        return Err(strike.seen.load(Ordering::SeqCst));
    }
    world.db.expire_all_leases().await;
    let second = world.replica(CrashPoints::none());
    finish(scenario, &world, (&second, of)).await;
    if let Mode::Takeover = mode {
        strike.release.notify_one();
        while frozen.join_next().await.is_some() {}
        // What the late call did is seen by lists, and made good.
        for _ in 0..25 {
            world.tick(&second).await;
            world.pass_time().await;
        }
        finish(scenario, &world, (&second, of)).await;
    }
    verify(scenario, &mut world, (&second, of.0)).await;
    Ok(())
}

async fn finish(
    scenario: Scenario,
    world: &TestWorld,
    (driver, of): (&zcp::worker::Driver, (ClusterId, Option<MigrationId>)),
) {
    world
        .settle(driver, "the scenario ends", async |world| scenario.is_done(world, of).await)
        .await;
}

async fn verify(
    scenario: Scenario,
    world: &mut TestWorld,
    (driver, cluster): (&zcp::worker::Driver, ClusterId),
) {
    let (workers, cloud) = scenario.outcome();
    if scenario != Scenario::Delete {
        world
            .settle(driver, "every cordon is given back", async |world| {
                world.cordons(cluster) == 0 && world.serving(cluster) == workers
            })
            .await;
        let truth = world.sim.truth();
        let there = truth
            .servers
            .iter()
            .filter(|server| server.metadata.contains_key("zcp.pool") && server.cloud == cloud);
        assert!(there.count() >= workers, "the workers are on {cloud}");
        if scenario == Scenario::Forward {
            assert_eq!(world.labelled(cluster), 1, "what an owner put on a node went with it");
        }
        world.floor.clear();
        world.delete(driver, cluster).await;
    }
    world.sweep(driver).await;
}

/// The seed of this run: `ZCP_SEED`, or another one each time.
#[expect(clippy::disallowed_methods, reason = "a test is told its seed by the environment")]
fn seed() -> u64 {
    let given = std::env::var("ZCP_SEED").ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| u64::from(std::process::id()))
}

#[expect(clippy::print_stdout, reason = "the list of cases is what this test is read for")]
async fn matrix(scenario: Scenario) {
    let start = scenario.start().await;
    let mut taken = record(scenario, &start).await;
    if scenario.is_managed() {
        taken.retain(|step, _| step.contains(" object"));
    }
    let seed = seed();
    let dice = SeededIds::new(seed);
    let mut cases = 0;
    for (step, times) in &taken {
        if scenario == Scenario::Canary && !CANARY_STEPS.contains(step) {
            continue;
        }
        for point in Point::ALL {
            for mode in [Mode::Restart, Mode::Takeover] {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a fraction below one of a small count"
                )]
                let nth = (dice.fraction() * f64::from(*times)) as u32;
                cases += 1;
                println!(
                    "{scenario:?} {step} {point:?} {mode:?}, occurrence {nth}, ZCP_SEED={seed}"
                );
                let seed = 100 + cases;
                if let Err(times) = case(scenario, &start, (step, point, nth, mode), seed).await {
                    let last = times.checked_sub(1).unwrap_or_else(|| panic!("{step}: not taken"));
                    let again = case(scenario, &start, (step, point, last, mode), seed).await;
                    assert_eq!(again, Ok(()), "{step}: the last of {times} times is struck");
                }
            }
        }
    }
    println!("{scenario:?}: {} steps, {cases} cases", taken.len());
    for (step, times) in taken {
        println!("  {step}: taken {times} times");
    }
}

#[tokio::test]
async fn f02_creating_a_cluster_survives_a_crash_at_every_step() {
    matrix(Scenario::Create).await;
}

#[tokio::test]
async fn growing_a_pool_survives_a_crash_at_every_step() {
    matrix(Scenario::Grow).await;
}

#[tokio::test]
async fn shrinking_a_pool_survives_a_crash_at_every_step() {
    matrix(Scenario::Shrink).await;
}

#[tokio::test]
async fn f80_migrating_survives_a_crash_at_every_step() {
    matrix(Scenario::Forward).await;
}

#[tokio::test]
async fn rolling_back_survives_a_crash_at_every_step() {
    matrix(Scenario::Back).await;
}

#[tokio::test]
async fn deleting_a_cluster_survives_a_crash_at_every_step() {
    matrix(Scenario::Delete).await;
}

#[tokio::test]
async fn lost_answers_survive_a_crash_at_every_step() {
    matrix(Scenario::Unclear).await;
}

#[tokio::test]
async fn giving_a_stray_cordon_back_survives_a_crash_at_every_step() {
    matrix(Scenario::Stray).await;
}

#[tokio::test]
async fn sweeping_survives_a_crash_at_every_step() {
    matrix(Scenario::Orphan).await;
}

#[tokio::test]
async fn an_object_survives_a_crash_at_every_step() {
    matrix(Scenario::Object).await;
}

#[tokio::test]
async fn the_object_of_a_migration_survives_a_crash_at_every_step() {
    matrix(Scenario::Mirror).await;
}

#[tokio::test]
async fn canaries_survive_a_crash_at_every_step() {
    matrix(Scenario::Canary).await;
}

#[tokio::test]
async fn no_step_is_without_its_cases() {
    let mut taken = BTreeSet::new();
    for scenario in SCENARIOS {
        taken.extend(record(scenario, &scenario.start().await).await.into_keys());
    }
    let all: BTreeSet<&str> = zcp::worker::STEPS.into();
    assert_eq!(taken, all, "a step was added or lost: give it its cases");
}
