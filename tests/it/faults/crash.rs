//! Faults of our own process: many replicas, restarts, silence, renamed words, lost hints. What
//! needs no more than the driver is in `driver.rs`, kills at every step are in `crash_matrix.rs`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use serde_json::json;
use sqlx::Row;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zcp::bootstrap::pki::{Authority, ClientName, Validity};
use zcp::clock::{Clock as _, SystemClock};
use zcp::domain::ids::ClusterId;
use zcp::domain::migration::Phase;
use zcp::domain::outside::OutsideKind;
use zcp::kubernetes::{ClusterAccess, Connector};
use zcp::openstack::{Timeouts, Transport};
use zcp::store::Store;
use zcp::store::work::{self, ResourceId, WorkKind, WorkState};
use zcp::worker::activation::Outcome;
use zcp::worker::crash::CrashPoints;
use zcp::worker::{Driver, DriverParts, DriverSettings, KindSettings, Next};

use crate::driver::{Scripted, driver_with, ended, id, item, wake};
use crate::support::proxy::{Proxy, Spoil, Upstream};
use crate::support::world::{TestWorld, WorldOptions};
use crate::support::{Result, TestDb, wait_for};

/// A driver on a store of its own, as another replica has.
fn replica(db: &TestDb, store: Store, scripted: Scripted, concurrency: u32) -> Driver {
    let settings = DriverSettings { grace: Duration::from_secs(5), ..DriverSettings::default() };
    let (clock, ids) = (db.clock.clone(), db.ids.clone());
    let parts = DriverParts { store, clock, ids, settings };
    Driver::new(parts).with(scripted, KindSettings::new(Duration::from_mins(5), concurrency))
}

async fn wake_many(db: &TestDb, count: u128) -> Result {
    let ids: Vec<ResourceId> = (1..=count).map(id).collect();
    let mut tx = db.store.begin().await?;
    work::wake_all(&mut tx, WorkKind::Cluster, &ids, db.now()).await?;
    tx.commit().await?;
    Ok(())
}

/// Runs a driver in the background; ends it when told.
fn run(tracker: &TaskTracker, driver: &Driver) -> CancellationToken {
    let (running, stop) = (driver.clone(), CancellationToken::new());
    let until = stop.clone();
    tracker.spawn(async move { running.run(until).await });
    stop
}

#[tokio::test]
async fn f82_three_replicas_do_five_hundred_jobs_once_each() -> Result {
    let db = TestDb::new().await;
    wake_many(&db, 500).await?;
    let times: Arc<Mutex<BTreeMap<ResourceId, u32>>> = Arc::default();
    let counted = Arc::clone(&times);
    let scripted = Scripted::new(move |resource, _| {
        *counted.lock().unwrap_or_else(PoisonError::into_inner).entry(resource).or_default() += 1;
        async {
            tokio::task::yield_now().await;
            Ok(Next::Settled)
        }
    });
    let tracker = TaskTracker::new();
    let mut stops = Vec::new();
    for _ in 0..3 {
        let store = db.another_store().await;
        stops.push(run(&tracker, &replica(&db, store, scripted.clone(), 4)));
    }
    wait_for("all jobs are done", async || {
        let done = times.lock().unwrap_or_else(PoisonError::into_inner).len();
        (done == 500).then_some(())
    })
    .await;
    stops.iter().for_each(CancellationToken::cancel);
    tracker.close();
    tracker.wait().await;
    let times = times.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert!(times.values().all(|times| *times == 1), "{times:?}");
    let (held,): (i64,) =
        sqlx::query_as("SELECT count(*) FROM work_items WHERE holder IS NOT NULL")
            .fetch_one(db.store.pool())
            .await?;
    assert_eq!(held, 0, "no lease is left");
    Ok(())
}

#[tokio::test]
async fn f85_a_fleet_that_is_due_at_once_is_worked_off_within_the_limits() -> Result {
    const FLEET: usize = 1400;
    const AT_ONCE: usize = 8;
    let db = TestDb::new().await;
    wake_many(&db, FLEET as u128).await?;
    let (running, most, runs) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicUsize::new(0)),
    );
    let counters = (running.clone(), most.clone(), runs.clone());
    let scripted = Scripted::new(move |_, _| {
        let (running, most, runs) = counters.clone();
        async move {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            runs.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            running.fetch_sub(1, Ordering::SeqCst);
            Ok(Next::Settled)
        }
    });
    // Five deploys in the middle of it, then the rest.
    for deploy in 1..=6 {
        let tracker = TaskTracker::new();
        let driver = replica(
            &db,
            db.another_store().await,
            scripted.clone(),
            u32::try_from(AT_ONCE).unwrap(),
        );
        let stop = run(&tracker, &driver);
        let goal = if deploy == 6 { FLEET } else { deploy * FLEET / 10 };
        wait_for("a part of the fleet was looked at", async || {
            (runs.load(Ordering::SeqCst) >= goal).then_some(())
        })
        .await;
        stop.cancel();
        tracker.close();
        tracker.wait().await;
    }
    assert!(most.load(Ordering::SeqCst) <= AT_ONCE, "{most:?} at once");
    assert_eq!(runs.load(Ordering::SeqCst), FLEET, "nothing is done twice");
    let (spread,): (f64,) = sqlx::query_as(
        "SELECT extract(epoch FROM max(due_at) - min(due_at))::float8 FROM work_items",
    )
    .fetch_one(db.store.pool())
    .await?;
    assert!(spread > 50.0, "what was done together does not come back together: {spread} s");
    Ok(())
}

#[tokio::test]
async fn f86_a_cloud_that_falls_silent_costs_one_deadline() -> Result {
    let nobody = Upstream::Tcp("127.0.0.1:9".parse()?);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let silent = Proxy::to(Upstream::Tcp(listener.local_addr()?)).await;
    silent.spoil("", Spoil::Swallow, u32::MAX);
    let timeouts = Timeouts { connect: Duration::from_secs(1), total: Duration::from_millis(300) };
    let transport = Transport::network(None, timeouts)?;
    let ask = |address| {
        let request = http::Request::get(format!("http://{address}/")).body(bytes::Bytes::new());
        transport.send(request.expect("a request"))
    };
    let since = Instant::now();
    let error = ask(silent.address).await.expect_err("nothing comes back");
    assert_eq!(error.kind, zcp::openstack::TransportErrorKind::Unclear, "{error}");
    let refused = Proxy::to(nobody).await;
    ask(refused.address).await.expect_err("cut at once");
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    Ok(())
}

#[tokio::test]
async fn f86_a_cluster_that_falls_silent_costs_one_deadline() -> Result {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let silent = Proxy::to(Upstream::Tcp(listener.local_addr()?)).await;
    silent.spoil("", Spoil::Swallow, u32::MAX);
    let now = SystemClock.now();
    let authority = Authority::generate("kubernetes", now)?;
    let name = ClientName { user: "zcpd", group: Some("system:masters") };
    let validity = Validity { now, lifetime: SignedDuration::from_hours(1) };
    let certificate = authority.issue_client(name, validity)?;
    let access = ClusterAccess {
        endpoint: format!("https://{}", silent.address).parse()?,
        ca_pem: authority.cert_pem().to_owned(),
        client_cert_pem: certificate.cert_pem,
        client_key_pem: certificate.key_pem,
        proxy: None,
    };
    let cluster = ClusterId(uuid::Uuid::from_u128(1));
    let client = Connector::network().connect(cluster, 1, &access)?;
    let since = Instant::now();
    let error = client.health().await.expect_err("nothing comes back");
    assert_eq!(error.kind, OutsideKind::Transient, "{error}");
    assert!(since.elapsed() < Duration::from_secs(31), "{:?}", since.elapsed());
    Ok(())
}

#[tokio::test]
async fn f86_a_database_that_falls_silent_does_not_keep_a_replica_from_ending() -> Result {
    let db = TestDb::new().await;
    let (proxy, url) = Proxy::before_postgres(db.url()).await;
    let scripted = Scripted::new(|_, _| async { Ok(Next::Settled) });
    let driver = replica(&db, Store::connect(&url, 4).await?, scripted, 2);
    let tracker = TaskTracker::new();
    let stop = run(&tracker, &driver);
    wake(&db, 1).await?;
    wait_for("the first item", async || (ended(&driver, Outcome::Settled) == 1).then_some(()))
        .await;
    proxy.spoil("", Spoil::Swallow, u32::MAX);
    wake(&db, 2).await?;
    let since = Instant::now();
    stop.cancel();
    tracker.close();
    tracker.wait().await;
    assert!(since.elapsed() < Duration::from_secs(30), "{:?}", since.elapsed());
    // Another replica goes on, at the latest when the leases end.
    db.expire_all_leases().await;
    let other = Scripted::new(|_, _| async { Ok(Next::Settled) });
    assert_eq!(replica(&db, db.store.clone(), other, 2).tick().await?, 1);
    assert_eq!(item(&db, 2).await?.state, WorkState::Idle);
    Ok(())
}

#[tokio::test]
async fn f87_work_that_another_release_named_waits_and_is_seen() {
    let world = TestWorld::new(WorldOptions::default()).await;
    let driver = world.replica(CrashPoints::none());
    let cluster = world.cluster(&driver, "alpha", 1).await;
    let spec = json!({"target": "west", "canary": "off", "hold_seconds": 1,
        "waves": [{"upto": "100%", "soak_seconds": 1}]});
    let migration = world.migrate(cluster, spec).await;
    world.until(&driver, migration, Phase::Provisioning).await;
    let run = async |statement: &'static str| {
        sqlx::query(statement).execute(world.db.store.pool()).await.expect("a statement");
    };
    run("ALTER TABLE migrations DROP CONSTRAINT migrations_phase_check").await;
    run("UPDATE migrations SET phase = 'warming'").await;
    let before = world.sim.truth();
    let end = world.db.now() + SignedDuration::from_mins(10);
    while world.db.now() < end {
        world.tick(&driver).await;
        world.pass_time().await;
    }
    let of = |truth: &zcp::sim::Truth| {
        (truth.servers.len(), truth.ports.len(), truth.deleted_servers.len())
    };
    assert_eq!(of(&world.sim.truth()), of(&before), "nothing is made, nothing is lost");
    let row = sqlx::query("SELECT last_error FROM work_items WHERE kind = 'migration'");
    let row = row.fetch_one(world.db.store.pool()).await.expect("it is still there");
    let why: Option<String> = row.get(0);
    assert!(why.as_ref().is_some_and(|why| why.contains("warming")), "{why:?}");
    run("UPDATE migrations SET phase = 'provisioning'").await;
    world.until(&driver, migration, Phase::Succeeded).await;
}

#[tokio::test]
async fn f88_a_lost_notification_costs_one_poll() -> Result {
    let db = TestDb::new().await;
    let scripted = Scripted::new(|_, _| async { Ok(Next::Settled) });
    let settings = DriverSettings { poll: Duration::from_millis(500), ..DriverSettings::default() };
    let driver = driver_with(&db, scripted, settings);
    let tracker = TaskTracker::new();
    let stop = run(&tracker, &driver);
    let listener = async || {
        let row = sqlx::query(
            "SELECT pid FROM pg_stat_activity
             WHERE datname = current_database() AND query LIKE 'LISTEN%'",
        );
        let row = row.fetch_optional(db.store.pool()).await.ok()??;
        Some(row.get::<i32, _>(0))
    };
    let first = wait_for("somebody listens", listener).await;
    sqlx::query("SELECT pg_terminate_backend($1)").bind(first).execute(db.store.pool()).await?;
    // Nobody hears this one.
    let mut tx = db.store.begin().await?;
    work::wake_all(&mut tx, WorkKind::Cluster, &[id(1)], db.now()).await?;
    tx.commit().await?;
    let since = Instant::now();
    wait_for("the work is done", async || (ended(&driver, Outcome::Settled) == 1).then_some(()))
        .await;
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    wait_for("it listens again", async || listener().await.filter(|pid| *pid != first)).await;
    stop.cancel();
    tracker.close();
    tracker.wait().await;
    Ok(())
}
