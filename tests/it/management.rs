//! Migrations by objects of a management cluster: whole installations, with a simulated API
//! server that holds the objects to the definition in deploy/crd. The same goes through a real
//! API server in the lab.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zcp::app::migrations::{MigrationView, list};
use zcp::app::{MAX_LIMIT, PageRequest};
use zcp::domain::ids::MigrationId;
use zcp::domain::migration::{Phase, Verb};
use zcp::sim::kubernetes::PlannedAnswer;
use zcp::store::work::{self, WorkKind};
use zcp::worker::crash::CrashPoints;
use zcp::worker::management::{Follower, follow};

use crate::support::world::{TestWorld, WorldOptions};
use crate::support::{TestDb, management, wait_for};

/// A wish that goes through within seconds of the world's time.
fn wish(change: Value) -> Value {
    let mut wish = json!({
        "cluster": "alpha", "target": "west", "canary": "off", "holdSeconds": 3,
        "waves": [{"upto": 1, "soakSeconds": 1}, {"upto": "100%", "soakSeconds": 1}],
    });
    for (key, value) in change.as_object().expect("fields") {
        wish[key] = value.clone();
    }
    wish
}

async fn migrations(world: &TestWorld) -> Vec<MigrationView> {
    let page = PageRequest::new(Some(MAX_LIMIT), None);
    list(&world.app, &world.ask.caller, (None, None), &page).await.expect("migrations").items
}

/// The migration of an object, by its status.
fn migration_of(world: &TestWorld, name: &str) -> Option<MigrationId> {
    let id = world.object(name)["status"]["migrationID"].as_str()?.parse().ok()?;
    Some(MigrationId(id))
}

async fn world() -> TestWorld {
    TestWorld::new(WorldOptions::default()).await.with_management().await
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
async fn objects_that_are_no_migration_say_why_and_start_nothing() {
    let world = world().await;
    let driver = world.replica(CrashPoints::none());
    world.cluster(&driver, "alpha", 1).await;
    let cases = [
        (("stranger", "unmapped"), wish(json!({})), "NamespaceNotMapped", "zcp.io/project=NAME"),
        (("team-shop", "nobody"), wish(json!({"cluster": "beta"})), "InvalidSpec", "spec.cluster"),
        (("team-shop", "nowhere"), wish(json!({"target": "north"})), "InvalidSpec", "spec.target"),
        (("team-shop", "nopool"), wish(json!({"pools": ["db"]})), "InvalidSpec", "spec.pools[0]"),
        (("team-shop", "back"), wish(json!({"direction": "back"})), "InvalidSpec", "direction"),
        (
            ("team-shop", "shrinks"),
            wish(json!({"waves": [{"upto": "50%"}, {"upto": "20%"}, {"upto": "100%"}]})),
            "InvalidSpec",
            "spec.waves[1].upto",
        ),
    ];
    for (place, spec, _, _) in &cases {
        world.apply_in(*place, spec.clone()).await;
    }
    world
        .settle(&driver, "every object has its answer", async |world| {
            cases.iter().all(|(place, ..)| world.condition(*place, "Accepted")[0] == "False")
        })
        .await;
    for (place, _, reason, word) in &cases {
        let [_, found, message] = world.condition(*place, "Accepted");
        assert_eq!(found, *reason, "{place:?}: {message}");
        assert!(message.contains(word), "{place:?}: {message}");
    }
    assert!(migrations(&world).await.is_empty(), "nothing half-done");
    // What the schema itself refuses never becomes an object.
    let body = json!({
        "apiVersion": "zcp.io/v1alpha1", "kind": "ClusterMigration",
        "metadata": {"name": "wrong"}, "spec": wish(json!({"waves": [{"upto": 0.5}]})),
    });
    let (status, answer) = world.kubectl(http::Method::POST, ("team-shop", ""), body).await;
    assert_eq!(status, 422, "{answer}");
    // Mended, it goes; a refused one goes without a trace.
    world.kubectl_delete("nobody").await;
    world.patch("nowhere", json!({"target": "west", "paused": true})).await;
    world
        .settle(&driver, "the mended one is accepted", async |world| {
            world.condition(("team-shop", "nowhere"), "Accepted")[0] == "True"
                && world.object("nobody").is_null()
        })
        .await;
    let all = migrations(&world).await;
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].row.created_by, "kubectl:team-shop/nowhere");
    assert!(all[0].row.paused.is_some(), "paused from its first moment");
    // One at a time: a second wish waits, and says for what.
    world.apply("second", wish(json!({}))).await;
    world
        .settle(&driver, "the second is told to wait", async |world| {
            world.condition(("team-shop", "second"), "Accepted")[1] == "Conflict"
        })
        .await;
    // A crossing of the border: the namespace is no project's any more, so its objects may nothing.
    let label = json!({"metadata": {"labels": {"zcp.io/project": null}}});
    let place = "/api/v1/namespaces/team-shop";
    world.ask_management((http::Method::PATCH, place, label)).await;
    world.kubectl_delete("nowhere").await;
    world.settle(&driver, "the object goes", async |world| world.object("nowhere").is_null()).await;
    let all = migrations(&world).await;
    assert!(!all[0].row.wants_rollback && !all[0].row.wants_cancel, "and nothing else");
}

#[tokio::test]
async fn an_object_is_a_migration_from_its_wish_to_its_end() {
    let world = world().await;
    let driver = world.replica(CrashPoints::none());
    let cluster = world.cluster(&driver, "alpha", 2).await;
    let waves = json!([
        {"upto": 1, "soakSeconds": 1, "gate": "approval"}, {"upto": "100%", "soakSeconds": 1},
    ]);
    world.apply("go", wish(json!({"waves": waves, "commit": "manual"}))).await;
    let says = |world: &TestWorld, phase: &str| world.object("go")["status"]["phase"] == phase;
    world.settle(&driver, "it waits", async |world| says(world, "approval")).await;
    let status = world.object("go")["status"].clone();
    assert_eq!(status["progress"]["wave"], "1/2");
    assert_eq!(status["progress"]["nodes"], "1/2");
    assert_eq!(status["createdBy"], "kubectl:team-shop/go");
    assert_eq!(status["direction"], "forward");
    let revision = world.object("go")["metadata"]["resourceVersion"].clone();
    for _ in 0..10 {
        world.tick(&driver).await;
        world.pass_time().await;
    }
    let later = world.object("go")["metadata"]["resourceVersion"].clone();
    assert_eq!(later, revision, "nothing new is said twice");
    world.patch("go", json!({"approvedWave": 1, "commitNow": true})).await;
    let id = migration_of(&world, "go").expect("a migration");
    world.until(&driver, id, Phase::Committing).await;
    world.settle(&driver, "it says so", async |world| says(world, "committing")).await;
    // Past the point of no return, deleting is only deleting.
    world.kubectl_delete("go").await;
    world.settle(&driver, "the object goes", async |world| world.object("go").is_null()).await;
    assert_eq!(world.phase(id).await, Phase::Committing);
    world.until(&driver, id, Phase::Succeeded).await;
    world.settle(&driver, "all serve", async |world| world.serving(cluster) == 2).await;
    assert!(world.object("go").is_null(), "and it does not come back");
}

#[tokio::test]
async fn deleting_the_object_before_the_commit_turns_the_migration_back() {
    let world = world().await;
    let driver = world.replica(CrashPoints::none());
    let cluster = world.cluster(&driver, "alpha", 2).await;
    // Before anything was made: cancelled.
    world.apply("early", wish(json!({"paused": true}))).await;
    world.settle(&driver, "accepted", async |world| migration_of(world, "early").is_some()).await;
    let early = migration_of(&world, "early").expect("a migration");
    world.kubectl_delete("early").await;
    world.settle(&driver, "it goes", async |world| world.object("early").is_null()).await;
    assert!(matches!(world.phase(early).await, Phase::Cancelled | Phase::RolledBack));
    // In the middle of a paused wave: the object stays until all is back.
    let waves = json!([
        {"upto": 1, "soakSeconds": 1, "gate": "approval"}, {"upto": "100%", "soakSeconds": 1},
    ]);
    world.apply("late", wish(json!({"waves": waves}))).await;
    world
        .settle(&driver, "it waits", async |world| {
            world.object("late")["status"]["phase"] == "approval"
        })
        .await;
    let late = migration_of(&world, "late").expect("a migration");
    world.patch("late", json!({"paused": true})).await;
    world.kubectl_delete("late").await;
    world.tick(&driver).await;
    world.tick(&driver).await;
    assert!(!world.object("late").is_null(), "it stays while the migration turns back");
    world.settle(&driver, "it goes", async |world| world.object("late").is_null()).await;
    assert_eq!(world.phase(late).await, Phase::RolledBack);
    world
        .settle(&driver, "the source serves", async |world| {
            world.serving(cluster) == 2 && world.cordons(cluster) == 0
        })
        .await;
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
async fn what_others_start_and_steer_is_an_object_too_and_the_last_wish_wins() {
    let world = world().await;
    let driver = world.replica(CrashPoints::none());
    let cluster = world.cluster(&driver, "alpha", 2).await;
    let spec = json!({
        "target": "west",
        "waves": [{"upto": 1, "soak_seconds": 1, "gate": "approval"},
                  {"upto": "100%", "soak_seconds": 1}],
    });
    let id = world.migrate(cluster, spec).await;
    let text = id.0.simple().to_string();
    let name = format!("alpha-{}", &text[text.len() - 12..]);
    world.until(&driver, id, Phase::Approval).await;
    let is = async |world: &TestWorld, paused: bool, phase: &str| {
        let object = world.object(&name);
        let view = migrations(world).await;
        object["status"]["phase"] == phase
            && object["spec"]["paused"] == paused
            && view[0].row.paused.is_some() == paused
            && object["status"]["paused"].is_null() != paused
    };
    world.settle(&driver, "it appears", async |world| is(world, false, "approval").await).await;
    assert_eq!(world.object(&name)["spec"]["cluster"], "alpha");
    assert_eq!(world.object(&name)["status"]["createdBy"], "test");
    // API, kubectl, API, kubectl: each in turn is the last.
    world.steer(id, Verb::Pause).await;
    world.settle(&driver, "paused by the API", async |w| is(w, true, "approval").await).await;
    world.patch(&name, json!({"paused": false})).await;
    world.settle(&driver, "resumed by kubectl", async |w| is(w, false, "approval").await).await;
    world.patch(&name, json!({"paused": true})).await;
    world.settle(&driver, "paused by kubectl", async |w| is(w, true, "approval").await).await;
    world.steer(id, Verb::Resume).await;
    world.settle(&driver, "resumed by the API", async |w| is(w, false, "approval").await).await;
    // The API server is away, then its history is gone; zcpd itself begins anew.
    let now = world.db.now();
    world.kube().set_faults(now, |faults| faults.is_api_down = true);
    world.wake_management().await;
    world.tick(&driver).await;
    world.steer(id, Verb::Pause).await;
    world.kube().set_faults(world.db.now(), |faults| {
        faults.is_api_down = false;
        faults.answers.push(PlannedAnswer::instead("list", "clustermigrations", 410, 1));
    });
    let driver = world.replica(CrashPoints::none());
    world.settle(&driver, "paused meanwhile", async |w| is(w, true, "approval").await).await;
    // Turning back wins over everything that the object wishes beside it.
    world.patch(&name, json!({"commitNow": true, "approvedWave": 2})).await;
    world.steer(id, Verb::Rollback).await;
    world
        .settle(&driver, "the object says so", async |world| {
            let spec = world.object(&name)["spec"].clone();
            spec["direction"] == "back" && spec["commitNow"] == false && spec["paused"] == false
        })
        .await;
    world.until(&driver, id, Phase::RolledBack).await;
    world
        .settle(&driver, "its end is told", async |world| {
            world.condition(("team-shop", &name), "Succeeded")[1] == "RolledBack"
        })
        .await;
    // What is over is only deleted.
    world.kubectl_delete(&name).await;
    world.settle(&driver, "it goes", async |world| world.object(&name).is_null()).await;
    for _ in 0..5 {
        world.tick(&driver).await;
        world.pass_time().await;
    }
    assert!(world.object(&name).is_null(), "and it does not come back");
}

#[tokio::test]
async fn an_object_that_vanished_without_a_deletion_is_made_anew() {
    let world = world().await;
    let driver = world.replica(CrashPoints::none());
    world.cluster(&driver, "alpha", 1).await;
    world.apply("go", wish(json!({"paused": true}))).await;
    world.settle(&driver, "accepted", async |world| migration_of(world, "go").is_some()).await;
    let (id, uid) = (migration_of(&world, "go"), world.object("go")["metadata"]["uid"].clone());
    // A finalizer that somebody took off comes back, so that a deletion is seen.
    let none = json!({"metadata": {"finalizers": []}});
    world.kubectl(http::Method::PATCH, ("team-shop", "go"), none).await;
    world
        .settle(&driver, "it is held again", async |world| {
            !world.object("go")["metadata"]["finalizers"].is_null()
                && world.object("go")["metadata"]["finalizers"] != json!([])
        })
        .await;
    // Somebody took the finalizer off by force: that is no wish to turn back.
    world.kubectl_delete("go").await;
    let place = ("team-shop", "go");
    let none = json!({"metadata": {"finalizers": []}});
    world.kubectl(http::Method::PATCH, place, none).await;
    assert!(world.object("go").is_null());
    world.settle(&driver, "it is there again", async |world| migration_of(world, "go") == id).await;
    assert_ne!(world.object("go")["metadata"]["uid"], uid);
    assert_eq!(migrations(&world).await.len(), 1);
    // A whole management cluster that was lost, and is made anew empty.
    let mut world = world;
    world.management = Some(management::cluster(world.db.now()));
    let driver = world.replica(CrashPoints::none());
    world.wake_management().await;
    world.settle(&driver, "it is there again", async |world| migration_of(world, "go") == id).await;
    let view = &migrations(&world).await[0];
    assert!(!view.row.wants_cancel && !view.row.wants_rollback);
}

#[tokio::test]
async fn without_a_management_cluster_there_is_no_work() {
    let world = TestWorld::new(WorldOptions::default()).await;
    let driver = world.replica(CrashPoints::none());
    // One that was there once and is not configured any more leaves nothing behind.
    world.wake_management().await;
    world.tick(&driver).await;
    let install = world.install();
    let found = work::find(world.db.store.pool(), WorkKind::Management, install, world.db.now());
    assert_eq!(found.await.expect("work items"), None);
}

#[tokio::test]
async fn the_watch_wakes_for_wishes_and_survives_cuts_and_lost_history() {
    let db = TestDb::new().await;
    let now = db.now();
    let kube = management::cluster(now);
    let install = zcp::domain::ids::InstallId(zcp::clock::Ids::uuid(db.ids.as_ref()));
    let client = zcp::kubernetes::ManagementClient::in_process(kube.router(db.clock.clone()));
    let follower = Follower {
        client,
        store: db.store.clone(),
        clock: db.clock.clone(),
        ids: db.ids.clone(),
        install,
    };
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    tasks.spawn(follow(follower, stop.clone()));
    let woken = async || {
        let found = work::find(db.store.pool(), WorkKind::Management, install, db.now()).await;
        found.ok().flatten().map_or(0, |item| item.wanted)
    };
    let kube = Arc::clone(&kube);
    let watches = || kube.counters().calls.get("watch clustermigrations").copied().unwrap_or(0);
    let make = |name: &str| {
        let object = json!({
            "apiVersion": "zcp.io/v1alpha1", "kind": "ClusterMigration",
            "metadata": {"name": name, "namespace": "team-shop"}, "spec": wish(json!({})),
        });
        kube.create(&object, now).expect("an object");
    };
    wait_for("a watch", async || (watches() == 1).then_some(())).await;
    let before = woken().await;
    make("one");
    wait_for("a wake-up", async || (woken().await > before).then_some(())).await;
    // Connections are cut, as at a restart of the API server; then the first try meets 410.
    kube.set_faults(now, |faults| {
        faults.is_api_down = true;
        faults.answers.push(PlannedAnswer::instead("watch", "clustermigrations", 410, 1));
    });
    kube.set_faults(now, |faults| faults.is_api_down = false);
    wait_for("a new watch", async || (watches() >= 3).then_some(())).await;
    let before = woken().await;
    make("two");
    wait_for("a wake-up", async || (woken().await > before).then_some(())).await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}
