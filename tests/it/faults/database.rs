//! Faults of the database: connections that break at any moment, restarts, deadlocks, a schema
//! that is on its way.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use futures::future::join_all;
use http_body_util::BodyExt as _;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use sqlx::Row;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;
use zcp::app::App;
use zcp::domain::migration::Phase;
use zcp::http::Api;
use zcp::sim::faults::Power;
use zcp::store::Store;
use zcp::worker::crash::{CrashPoints, Point};

use crate::support::api::{OPERATOR, TestApi, new_cluster};
use crate::support::proxy::{Proxy, Spoil};
use crate::support::world::{TestWorld, WorldOptions};
use crate::support::{Result, TestDb};

async fn send(router: Router, method: &str, path: &str, body: &Value) -> (StatusCode, Value, bool) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", format!("Bearer {OPERATOR}"))
        .header("content-type", "application/json")
        .header("idempotency-key", "the-same-key")
        .body(Body::from(body.to_string()))
        .expect("a request");
    let answer = router.oneshot(request).await.expect("infallible");
    let (status, may_retry) = (answer.status(), answer.headers().contains_key("retry-after"));
    let bytes = answer.into_body().collect().await.expect("a body").to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap_or_default(), may_retry)
}

fn router_of(app: App) -> Router {
    let tasks = TaskTracker::new();
    zcp::http::router(Api::new(app, Arc::new(Registry::default()), tasks, CancellationToken::new()))
}

async fn count(db: &TestDb, sql: &'static str) -> i64 {
    sqlx::query(sql).fetch_one(db.store.pool()).await.expect("a count").get(0)
}

/// Transactions of this database that wait for their client.
const OPEN: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
const OPEN_FOR_LONG: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND state LIKE 'idle in transaction%'
      AND clock_timestamp() - xact_start > interval '5 seconds'";

#[tokio::test]
async fn f89_clients_that_go_away_during_begin_leave_no_transaction_behind() -> Result {
    let api = TestApi::new().await;
    let (proxy, url) = Proxy::before_postgres(api.db.url()).await;
    let router = api.through(Store::connect(&url, 4).await?);
    proxy.spoil("BEGIN", Spoil::Delay(Duration::from_millis(40)), u32::MAX);
    let leave = |n: u64| {
        let router = router.clone();
        async move {
            let body = json!({"name": format!("gone-{n}")});
            let call = api_call(router, PROJECTS, &body);
            // Each goes away at another moment.
            let _cut = tokio::time::timeout(Duration::from_millis(n * 2), call).await;
        }
    };
    join_all((1..=60).map(leave)).await;
    proxy.heal();
    for n in 0..30 {
        let (status, body) =
            api_call(router.clone(), PROJECTS, &json!({"name": format!("stays-{n}")})).await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
    }
    assert_eq!(count(&api.db, OPEN).await, 0);
    let made = count(&api.db, "SELECT count(*) FROM projects WHERE name LIKE 'stays-%'").await;
    assert_eq!(made, 30, "every answered request is stored");
    Ok(())
}

const PROJECTS: (&str, &str) = ("POST", "/v1/projects");

async fn api_call(
    router: Router,
    (method, path): (&str, &str),
    body: &Value,
) -> (StatusCode, Value) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", format!("Bearer {OPERATOR}"))
        .header("content-type", "application/json")
        .body(Body::from(body.to_string()))
        .expect("a request");
    let answer = router.oneshot(request).await.expect("infallible");
    let status = answer.status();
    let bytes = answer.into_body().collect().await.expect("a body").to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap_or_default())
}

#[tokio::test]
async fn f90_a_commit_without_answer_is_read_back_and_not_done_twice() -> Result {
    let api = TestApi::new().await;
    let (proxy, url) = Proxy::before_postgres(api.db.url()).await;
    let router = api.through(Store::connect(&url, 4).await?);
    // Done, but the answer is lost; and never done, which looks the same.
    for (round, spoil) in [Spoil::CutAfter, Spoil::CutBefore].into_iter().enumerate() {
        sqlx::query("DELETE FROM idempotency_keys").execute(api.db.store.pool()).await?;
        let cluster = new_cluster(&format!("web-{round}"));
        proxy.spoil("COMMIT", spoil, 1);
        let first = send(router.clone(), "POST", "/v1/clusters", &cluster).await;
        assert_eq!((first.0, first.2), (StatusCode::SERVICE_UNAVAILABLE, true), "{}", first.1);
        let again = send(router.clone(), "POST", "/v1/clusters", &cluster).await;
        assert_eq!(again.0, StatusCode::CREATED, "{}", again.1);
        let once_more = send(router.clone(), "POST", "/v1/clusters", &cluster).await;
        assert_eq!(once_more.1["id"], again.1["id"]);
    }
    assert_eq!(count(&api.db, "SELECT count(*) FROM clusters").await, 2);
    let woken = "SELECT count(*) FROM work_items WHERE kind = 'cluster'";
    assert_eq!(count(&api.db, woken).await, 2, "each is worked on");
    Ok(())
}

#[tokio::test]
async fn f91_a_migration_survives_restarts_of_the_database() {
    let db = TestDb::alone("f91").await;
    let world = TestWorld::on(db, WorldOptions::default()).await;
    let driver = world.replica(CrashPoints::none());
    let router = router_of(world.app.clone());
    let cluster = world.cluster(&driver, "alpha", 1).await;
    let spec = json!({"target": "west", "canary": "off", "hold_seconds": 1,
        "waves": [{"upto": "100%", "soak_seconds": 1}]});
    let migration = world.migrate(cluster, spec).await;
    for round in 0..2_000 {
        while world.sim.tick().await {}
        if round % 15 == 5 && round < 60 {
            // In the middle of whatever is under way.
            let (_ran, ()) = tokio::join!(driver.tick(), world.db.stop_server());
            let error = driver.tick().await.expect_err("there is no database");
            assert!(error.is_temporary(), "{error:?}");
            let answer = send(router.clone(), "GET", "/readyz", &json!({})).await;
            assert_eq!((answer.0, answer.2), (StatusCode::SERVICE_UNAVAILABLE, true));
            world.db.start_server().await;
            world.db.expire_all_leases().await;
        }
        driver.tick().await.expect("the database is back");
        world.check();
        if world.phase(migration).await == Phase::Succeeded {
            break;
        }
        world.pass_time().await;
    }
    assert_eq!(world.phase(migration).await, Phase::Succeeded);
    let answer = send(router, "GET", "/readyz", &json!({})).await;
    assert_eq!(answer.0, StatusCode::OK);
    world.delete(&driver, cluster).await;
    world.sweep(&driver).await;
}

#[tokio::test]
async fn f92_two_hundred_changes_at_once_are_done_or_refused_for_a_reason() -> Result {
    let api = TestApi::new().await;
    let cluster = api.running_cluster().await;
    // The database breaks every seventh change off, as it does with one side of a deadlock.
    for statement in [
        "CREATE SEQUENCE changes",
        "CREATE FUNCTION deadlock() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF nextval('changes') % 7 = 0 THEN
                 RAISE EXCEPTION 'deadlock detected' USING ERRCODE = '40P01';
             END IF;
             RETURN NEW;
         END $$",
        "CREATE TRIGGER deadlock BEFORE UPDATE ON pools FOR EACH ROW EXECUTE FUNCTION deadlock()",
    ] {
        sqlx::query(statement).execute(api.db.store.pool()).await?;
    }
    let path = format!("/v1/clusters/{cluster}/pools/main");
    let change = |n: u32| {
        let (router, path) = (api.router.clone(), path.clone());
        async move {
            for _ in 0..100 {
                let change = json!({"count": n % 5 + 1});
                let (status, body) = api_call(router.clone(), ("PATCH", &path), &change).await;
                // All connections are taken: every client is told to come again, and does.
                if status != StatusCode::SERVICE_UNAVAILABLE || body["type"] != "unavailable" {
                    return status;
                }
            }
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    let statuses = join_all((0..200).map(change)).await;
    assert!(statuses.iter().all(|status| *status == StatusCode::OK), "{statuses:?}");
    let raised = count(&api.db, "SELECT last_value FROM changes").await;
    assert!(raised > 200, "some were done again: {raised}");
    assert_eq!(count(&api.db, OPEN).await, 0);
    Ok(())
}

#[tokio::test]
async fn f93_no_transaction_is_open_during_a_call_outside() {
    let world = TestWorld::new(WorldOptions::default()).await;
    let (store, calls) = (world.db.store.clone(), Arc::new(AtomicU32::new(0)));
    let counter = Arc::clone(&calls);
    let points = CrashPoints::with(move |step, point| {
        let (store, calls) = (store.clone(), Arc::clone(&counter));
        async move {
            if point != Point::BeforeRecord {
                let row = sqlx::query(OPEN).fetch_one(store.pool()).await.expect("a count");
                assert_eq!(row.get::<i64, _>(0), 0, "a transaction is open at {step}");
                calls.fetch_add(1, Ordering::SeqCst);
            }
            Ok(())
        }
    });
    let driver = world.replica(points);
    let cluster = world.cluster(&driver, "alpha", 1).await;
    let spec = json!({"target": "west", "canary": "off", "hold_seconds": 1,
        "waves": [{"upto": "100%", "soak_seconds": 1}]});
    let migration = world.migrate(cluster, spec).await;
    world.until(&driver, migration, Phase::Succeeded).await;
    world.delete(&driver, cluster).await;
    world.sweep(&driver).await;
    let calls = calls.load(Ordering::SeqCst);
    assert!(calls > 200, "only {calls} calls were looked at");
    let panicked =
        count(&world.db, "SELECT count(*) FROM work_items WHERE last_error LIKE '%panic%'");
    assert_eq!(panicked.await, 0);
}

#[tokio::test]
async fn f93_the_api_answers_while_every_call_outside_hangs() -> Result {
    let mut world = TestWorld::new(WorldOptions::default()).await;
    world.db.store = Store::connect(world.db.url(), 5).await?;
    world.app.store = world.db.store.clone();
    for name in ["a", "b", "c", "d", "e", "f"] {
        world.wish_cluster(name, (1, 1)).await;
    }
    for cloud in ["east", "west"] {
        world.sim.with_cloud(cloud, |cloud, _| cloud.faults.power = Power::Silent);
    }
    let driver = world.replica(CrashPoints::none());
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let (running, until) = (driver.clone(), stop.clone());
    tracker.spawn(async move { running.run(until).await });
    crate::support::wait_for("calls hang", async || {
        let hang: u64 = driver.status().kinds.iter().map(|kind| kind.running).sum();
        (hang >= 5).then_some(())
    })
    .await;
    let since = Instant::now();
    for _ in 0..50 {
        let page = zcp::app::projects::create(&world.app, &world.ask, "again").await;
        assert!(page.is_ok() || page.is_err_and(|error| !error.is_temporary()));
    }
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    // Workers have short ones of their own meanwhile.
    assert_eq!(count(&world.db, OPEN_FOR_LONG).await, 0);
    stop.cancel();
    tracker.close();
    tokio::time::timeout(Duration::from_secs(30), tracker.wait()).await?;
    Ok(())
}

/// All lines of the service that are code.
fn source(folder: &Path, lines: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            source(&path, lines);
        } else {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            lines.extend(code.map(|line| (path.display().to_string(), line.to_owned())));
        }
    }
}

#[tokio::test]
async fn f94_no_lock_of_a_session_is_taken_in_the_pool() -> Result {
    let mut lines = Vec::new();
    source(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut lines);
    let locks =
        lines.iter().filter(|(_, line)| line.contains("advisory") && !line.contains("xact"));
    assert_eq!(locks.collect::<Vec<_>>(), Vec::<&(String, String)>::new());
    // The migrator's own lock lives on a connection of its own, also when it is given up half way.
    let db = TestDb::bare().await;
    let (proxy, url) = Proxy::before_postgres(db.url()).await;
    let store = Store::connect(&url, 2).await?;
    proxy.spoil("CREATE TABLE", Spoil::Delay(Duration::from_secs(20)), 1);
    let given_up = tokio::time::timeout(Duration::from_millis(500), store.migrate()).await;
    assert!(given_up.is_err(), "it was in the middle");
    proxy.heal();
    proxy.cut();
    store.migrate().await?;
    let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    assert_eq!(count(&db, held).await, 0);
    Ok(())
}

/// Every column of every table, in words.
async fn schema(store: &Store) -> Vec<String> {
    let rows = sqlx::query(
        "SELECT concat_ws(' ', table_name, column_name, data_type, is_nullable, column_default)
         FROM information_schema.columns WHERE table_schema = 'public'
         UNION ALL
         SELECT conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
         WHERE connamespace = 'public'::regnamespace
         UNION ALL
         SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
         ORDER BY 1",
    );
    let rows = rows.fetch_all(store.pool()).await.expect("the catalog");
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn f95_replicas_that_start_together_migrate_once_and_after_a_kill() -> Result {
    let whole = TestDb::new().await;
    let db = TestDb::bare().await;
    let (proxy, url) = Proxy::before_postgres(db.url()).await;
    // Killed in the middle of the second migration.
    let killed = Store::connect(&url, 2).await?;
    proxy.spoil("CREATE TABLE migrations", Spoil::CutBefore, 1);
    killed.migrate().await.expect_err("its connection broke");
    let tables = "SELECT count(*) FROM information_schema.tables WHERE table_name = 'clusters'";
    assert_eq!(count(&db, tables).await, 0, "a migration is there as a whole or not at all");
    let mut stores = Vec::new();
    for _ in 0..3 {
        stores.push(db.another_store().await);
    }
    for result in join_all(stores.iter().map(Store::migrate)).await {
        result?;
    }
    assert_eq!(schema(&db.store).await, schema(&whole.store).await);
    let applied = count(&db, "SELECT count(*) FROM _sqlx_migrations WHERE success").await;
    assert_eq!(usize::try_from(applied)?, Store::migrations().len());
    Ok(())
}

#[test]
fn f95_migrations_only_add_so_that_the_release_before_works_on_the_new_schema() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let mut lines = Vec::new();
    source(&folder, &mut lines);
    let code: Vec<_> =
        lines.iter().filter(|(_, line)| !line.trim_start().starts_with("--")).collect();
    for (path, line) in code {
        for word in ["DROP COLUMN", "DROP TABLE", "RENAME", "ALTER COLUMN"] {
            assert!(!line.contains(word), "{path}: {line}");
        }
        let is_needed = line.contains("ADD COLUMN") && line.contains("NOT NULL");
        assert!(!is_needed || line.contains("DEFAULT"), "{path}: {line}");
    }
}
