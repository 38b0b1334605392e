//! The driver: what happens to work when reconcilers succeed, fail, panic, freeze and crash.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use jiff::SignedDuration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;
use zcp::domain::outside::{OutsideError, OutsideKind};
use zcp::store::work::{self, Lease, ResourceId, WorkItem, WorkKind, WorkState};
use zcp::store::{Fenced, replicas};
use zcp::worker::activation::Outcome;
use zcp::worker::crash::{CrashPoints, Crashed, Point};
use zcp::worker::{
    Driver, DriverParts, DriverSettings, KindSettings, Next, ParkReason, Reconciler, WorkError,
};

use crate::support::{Result, TestDb, wait_for};

type Answer = BoxFuture<'static, std::result::Result<Next, WorkError>>;

/// A reconciler that does what the test says.
#[derive(Clone)]
pub(crate) struct Scripted {
    script: Arc<dyn Fn(ResourceId, Lease) -> Answer + Send + Sync>,
}

impl Scripted {
    pub(crate) fn new<F, Fut>(script: F) -> Self
    where
        F: Fn(ResourceId, Lease) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = std::result::Result<Next, WorkError>> + Send + 'static,
    {
        Self { script: Arc::new(move |id, lease| Box::pin(script(id, lease))) }
    }
}

impl Reconciler for Scripted {
    const KIND: WorkKind = WorkKind::Cluster;

    async fn reconcile(
        &self,
        id: ResourceId,
        lease: &Lease,
    ) -> std::result::Result<Next, WorkError> {
        (self.script)(id, lease.clone()).await
    }
}

pub(crate) fn id(n: u128) -> ResourceId {
    ResourceId(Uuid::from_u128(n))
}

pub(crate) async fn wake(db: &TestDb, n: u128) -> Result {
    let mut tx = db.store.begin().await?;
    work::wake(&mut tx, WorkKind::Cluster, id(n), db.now()).await?;
    tx.commit().await?;
    Ok(())
}

pub(crate) async fn item(db: &TestDb, n: u128) -> Result<WorkItem> {
    let found = work::find(db.store.pool(), WorkKind::Cluster, id(n), db.now()).await?;
    found.ok_or_else(|| "no such item".into())
}

fn driver(db: &TestDb, scripted: Scripted) -> Driver {
    driver_with(db, scripted, DriverSettings::default())
}

pub(crate) fn driver_with(db: &TestDb, scripted: Scripted, settings: DriverSettings) -> Driver {
    let parts = DriverParts {
        store: db.store.clone(),
        clock: db.clock.clone(),
        ids: db.ids.clone(),
        settings,
    };
    Driver::new(parts).with(scripted, KindSettings::new(Duration::from_mins(5), 2))
}

/// How many activations of the driver ended so.
pub(crate) fn ended(driver: &Driver, outcome: Outcome) -> u64 {
    driver.status().kinds[0].ended.get(&outcome).copied().unwrap_or(0)
}

#[tokio::test]
async fn a_tick_runs_what_is_due_once() -> Result {
    let db = TestDb::new().await;
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    let driver = driver(
        &db,
        Scripted::new(move |_, _| {
            counter.fetch_add(1, Ordering::Relaxed);
            async { Ok(Next::After(Duration::ZERO)) }
        }),
    );
    assert_eq!(driver.tick().await?, 0);
    for n in 1..=3 {
        wake(&db, n).await?;
    }
    assert_eq!(driver.tick().await?, 3);
    assert_eq!(driver.tick().await?, 3, "due again, but not in the same tick");
    assert_eq!(count.load(Ordering::Relaxed), 6);
    assert_eq!(ended(&driver, Outcome::Continued), 6);
    Ok(())
}

#[tokio::test]
async fn settled_work_comes_back_after_its_period_with_jitter() -> Result {
    let db = TestDb::new().await;
    let driver = driver(&db, Scripted::new(|_, _| async { Ok(Next::Settled) }));
    wake(&db, 1).await?;
    driver.tick().await?;
    db.clock.advance(SignedDuration::from_secs(269));
    assert_eq!(driver.tick().await?, 0);
    db.clock.advance(SignedDuration::from_secs(61));
    assert_eq!(driver.tick().await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_wake_up_during_a_reconcile_runs_it_again() -> Result {
    let db = TestDb::new().await;
    let (store, now) = (db.store.clone(), db.now());
    let scripted = Scripted::new(move |id, lease| {
        let store = store.clone();
        async move {
            if lease.fence == 1 {
                let mut tx = store.begin().await?;
                work::wake(&mut tx, WorkKind::Cluster, id, now).await?;
                tx.commit().await.map_err(zcp::store::StoreError::from)?;
            }
            Ok(Next::Settled)
        }
    });
    let driver = driver(&db, scripted);
    wake(&db, 1).await?;
    assert_eq!(driver.tick().await?, 1);
    assert_eq!(driver.tick().await?, 1);
    assert_eq!(driver.tick().await?, 0);
    Ok(())
}

#[tokio::test]
async fn failures_back_off_longer_and_longer() -> Result {
    let db = TestDb::new().await;
    let broken = || OutsideError::new(OutsideKind::Transient, "nova list servers", "HTTP 503");
    let driver = driver(&db, Scripted::new(move |_, _| async move { Err(broken().into()) }));
    wake(&db, 1).await?;
    for most in [5, 10, 20, 40] {
        assert_eq!(driver.tick().await?, 1);
        assert_eq!(driver.tick().await?, 0);
        let wait = item(&db, 1).await?.due_at.duration_since(db.now()).as_secs();
        assert!((most / 2 - 1..=most).contains(&wait), "{wait} s of {most}");
        db.clock.advance(SignedDuration::from_secs(most));
    }
    let item = item(&db, 1).await?;
    assert_eq!(item.attempts, 4);
    assert!(item.last_error.unwrap().contains("nova list servers"));
    Ok(())
}

#[tokio::test]
async fn parked_work_is_visible_and_rechecked() -> Result {
    let db = TestDb::new().await;
    let scripted = Scripted::new(|_, _| async {
        let reason = ParkReason::new("ApprovalNeeded", "wave 2 waits for approval");
        Ok(Next::Parked { reason, recheck: Duration::from_mins(10) })
    });
    let driver = driver(&db, scripted);
    wake(&db, 1).await?;
    driver.tick().await?;
    let parked = item(&db, 1).await?;
    assert_eq!(parked.state, WorkState::Parked);
    assert_eq!(parked.parked_reason.as_deref(), Some("ApprovalNeeded: wave 2 waits for approval"));
    db.clock.advance(SignedDuration::from_mins(11));
    assert_eq!(driver.tick().await?, 1);
    Ok(())
}

#[tokio::test]
async fn f84_a_panic_is_a_failure_of_that_resource_only() -> Result {
    let db = TestDb::new().await;
    let scripted = Scripted::new(|resource, _| async move {
        assert!(resource != id(1), "resource one is cursed");
        Ok(Next::Settled)
    });
    let driver = driver(&db, scripted);
    wake(&db, 1).await?;
    wake(&db, 2).await?;
    assert_eq!(driver.tick().await?, 2);
    let cursed = item(&db, 1).await?;
    assert_eq!(cursed.attempts, 1);
    assert!(cursed.last_error.unwrap().contains("resource one is cursed"));
    assert_eq!(item(&db, 2).await?.state, WorkState::Idle);
    assert_eq!(ended(&driver, Outcome::Panicked), 1);
    Ok(())
}

#[tokio::test]
async fn f84_work_that_always_panics_is_left_alone_and_seen() -> Result {
    let db = TestDb::new().await;
    let scripted = Scripted::new(|resource, _| async move {
        assert!(resource != id(1), "resource one is cursed");
        Ok(Next::After(Duration::ZERO))
    });
    let driver = driver(&db, scripted);
    for n in 1..=10 {
        wake(&db, n).await?;
    }
    for tick in 1..=10 {
        assert_eq!(driver.tick().await?, 10, "the others have their turn, tick {tick}");
        db.clock.advance(SignedDuration::from_mins(6));
    }
    let cursed = item(&db, 1).await?;
    assert_eq!((cursed.state, cursed.attempts), (WorkState::Parked, 10));
    assert!(cursed.parked_reason.is_some_and(|why| why.contains("Panic: resource one")));
    assert_eq!(driver.tick().await?, 9, "it is left alone");
    db.clock.advance(SignedDuration::from_mins(40));
    assert_eq!(driver.tick().await?, 10, "and tried again, should the world have changed");
    assert_eq!(item(&db, 1).await?.state, WorkState::Parked);
    Ok(())
}

#[tokio::test]
async fn gone_resources_take_their_work_along() -> Result {
    let db = TestDb::new().await;
    let driver = driver(&db, Scripted::new(|_, _| async { Ok(Next::Gone) }));
    wake(&db, 1).await?;
    driver.tick().await?;
    assert!(item(&db, 1).await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_crashed_activation_leaves_its_lease_and_the_next_replica_goes_on() -> Result {
    let db = TestDb::new().await;
    let points = CrashPoints::with(|_, point| async move {
        if point == Point::AfterCall { Err(Crashed) } else { Ok(()) }
    });
    let scripted = Scripted::new(move |_, _| {
        let points = points.clone();
        async move {
            points.at("boot", Point::BeforeCall).await?;
            points.at("boot", Point::AfterCall).await?;
            Ok(Next::Settled)
        }
    });
    let dead = driver(&db, scripted);
    wake(&db, 1).await?;
    wake(&db, 2).await?;
    assert_eq!(dead.tick().await?, 1, "a dead process does not go on with other work");
    let left = item(&db, 1).await?;
    assert_eq!((left.state, left.attempts), (WorkState::Leased, 0));
    assert_eq!(left.holder, Some(dead.holder()));

    let next = driver(&db, Scripted::new(|_, _| async { Ok(Next::Settled) }));
    assert_eq!(next.tick().await?, 1, "the lease is still running");
    db.expire_lease(WorkKind::Cluster, id(1)).await;
    assert_eq!(next.tick().await?, 1);
    assert_eq!(item(&db, 1).await?.fence, 2);
    Ok(())
}

#[tokio::test]
async fn f81_a_frozen_replica_writes_nothing_after_another_took_over() -> Result {
    let db = TestDb::new().await;
    let (frozen, thaw) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let wrote = Arc::new(Mutex::new(Vec::new()));
    let make = |name: &'static str, points: CrashPoints| {
        let (store, wrote) = (db.another_store(), wrote.clone());
        async move {
            let store = store.await;
            Scripted::new(move |_, lease| {
                let (store, wrote, points) = (store.clone(), wrote.clone(), points.clone());
                async move {
                    points.at("boot", Point::BeforeRecord).await?;
                    let fenced = Fenced::begin(&store, &lease).await?;
                    wrote.lock().unwrap().push(name);
                    fenced.commit().await?;
                    Ok(Next::Settled)
                }
            })
        }
    };
    let (tell, wait) = (frozen.clone(), thaw.clone());
    let freezing = CrashPoints::with(move |_, _| {
        let (tell, wait) = (tell.clone(), wait.clone());
        async move {
            tell.notify_one();
            wait.notified().await;
            Ok(())
        }
    });
    let first = driver(&db, make("first", freezing).await);
    let second = driver(&db, make("second", CrashPoints::none()).await);
    wake(&db, 1).await?;
    let takeover = async {
        frozen.notified().await;
        db.expire_lease(WorkKind::Cluster, id(1)).await;
        let ran = second.tick().await?;
        thaw.notify_one();
        Result::Ok(ran)
    };
    let (first_ran, second_ran) = tokio::join!(first.tick(), takeover);
    assert_eq!((first_ran?, second_ran?), (1, 1));
    assert_eq!(*wrote.lock().unwrap(), ["second"]);
    assert_eq!(ended(&first, Outcome::LeaseLost), 1);
    assert_eq!(item(&db, 1).await?.state, WorkState::Idle);
    Ok(())
}

#[tokio::test]
async fn losing_the_lease_cancels_the_reconcile() -> Result {
    let db = TestDb::new().await;
    let started = Arc::new(Notify::new());
    let tell = started.clone();
    let scripted = Scripted::new(move |_, _| {
        tell.notify_one();
        std::future::pending()
    });
    let settings =
        DriverSettings { lease: Duration::from_millis(600), ..DriverSettings::default() };
    let driver = driver_with(&db, scripted, settings);
    wake(&db, 1).await?;
    let lose = async {
        started.notified().await;
        db.expire_lease(WorkKind::Cluster, id(1)).await;
    };
    let (ran, ()) = tokio::join!(driver.tick(), lose);
    assert_eq!(ran?, 1);
    assert_eq!(ended(&driver, Outcome::LeaseLost), 1);
    Ok(())
}

#[tokio::test]
async fn a_long_reconcile_keeps_its_lease() -> Result {
    let db = TestDb::new().await;
    let release = Arc::new(Notify::new());
    let wait = release.clone();
    let scripted = Scripted::new(move |_, _| {
        let wait = wait.clone();
        async move {
            wait.notified().await;
            Ok(Next::Settled)
        }
    });
    let settings =
        DriverSettings { lease: Duration::from_millis(600), ..DriverSettings::default() };
    let driver = driver_with(&db, scripted, settings);
    wake(&db, 1).await?;
    let later = async {
        let first = wait_for("claim", async || item(&db, 1).await.ok()?.expires_at).await;
        wait_for("two renewals", async || {
            let now = item(&db, 1).await.ok()?.expires_at?;
            (now.duration_since(first) > SignedDuration::from_millis(650)).then_some(())
        })
        .await;
        release.notify_one();
    };
    let (ran, ()) = tokio::join!(driver.tick(), later);
    assert_eq!(ran?, 1);
    assert_eq!(ended(&driver, Outcome::Settled), 1);
    Ok(())
}

#[tokio::test]
async fn paused_kinds_are_left_alone() -> Result {
    let db = TestDb::new().await;
    let driver = driver(&db, Scripted::new(|_, _| async { Ok(Next::Settled) }));
    wake(&db, 1).await?;
    driver.pause(WorkKind::Cluster);
    assert_eq!(driver.tick().await?, 0);
    driver.resume(WorkKind::Cluster);
    assert_eq!(driver.tick().await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_running_driver_works_on_hints_and_gives_back_what_it_cannot_end() -> Result {
    let db = TestDb::new().await;
    let scripted = Scripted::new(|resource, _| async move {
        if resource == id(2) {
            std::future::pending::<()>().await;
        }
        Ok(Next::Settled)
    });
    // So long a poll that only a hint can be in time.
    let settings = DriverSettings {
        poll: Duration::from_mins(10),
        grace: Duration::from_millis(50),
        ..DriverSettings::default()
    };
    let driver = driver_with(&db, scripted, settings);
    let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
    let (running, until) = (driver.clone(), stop.clone());
    tracker.spawn(async move { running.run(until).await });
    wait_for("the replica to be listed", async || {
        let replicas = replicas::list(db.store.pool()).await.ok()?;
        replicas.iter().any(|one| one.id == driver.holder()).then_some(())
    })
    .await;
    for n in 1..=4 {
        wake(&db, n).await?;
    }
    wait_for("three items to settle", async || {
        (ended(&driver, Outcome::Settled) == 3).then_some(())
    })
    .await;
    assert_eq!(driver.status().kinds[0].running, 1);
    stop.cancel();
    tracker.close();
    tracker.wait().await;
    let stuck = item(&db, 2).await?;
    assert_eq!((stuck.state, stuck.holder), (WorkState::Due, None), "given back at once");
    assert_eq!(ended(&driver, Outcome::Stopped), 1);
    assert!(replicas::list(db.store.pool()).await?.is_empty());
    Ok(())
}
