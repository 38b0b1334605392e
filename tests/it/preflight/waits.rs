//! A migration waits for what stands against it, and goes on when that is waived or mended.

use http::Method;
use jiff::SignedDuration;
use serde_json::{Value, json};
use sqlx::Row;
use zcp::app::preflights::NewWaiver;
use zcp::domain::ids::{ClusterId, MigrationId, PreflightId};
use zcp::domain::insight::Level;
use zcp::domain::migration::{Phase, Verb};
use zcp::sim::faults::{Chance, Effect, Rule};
use zcp::worker::Driver;

use super::{again, insight, level, plan, view};
use crate::support::world::TestWorld;

const BARE: &str = "/api/v1/namespaces/default/pods";

fn quick() -> Value {
    json!({
        "target": "west",
        "waves": [{"upto": 1, "soak_seconds": 1}, {"upto": "100%", "soak_seconds": 1}],
        "hold_seconds": 2, "canary": "off",
    })
}

async fn bare_pod(world: &TestWorld, cluster: ClusterId) {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "lonely", "namespace": "default"},
        "spec": {"containers": [{"name": "main", "image": "app:1"}]},
    });
    world.ask_kube(cluster, (Method::POST, BARE, pod)).await;
}

async fn preflight_of(world: &TestWorld, id: MigrationId) -> PreflightId {
    let row = sqlx::query("SELECT preflight_id FROM migrations WHERE id = $1").bind(id);
    row.fetch_one(world.db.store.pool()).await.expect("a migration").get(0)
}

/// Waits until the migration stands before its preflight for this reason.
async fn blocked(world: &TestWorld, driver: &Driver, (id, word): (MigrationId, &str)) {
    world
        .settle(driver, &format!("{word} is named"), async |world| {
            let row = sqlx::query("SELECT waiting::text FROM migrations WHERE id = $1").bind(id);
            let row = row.fetch_one(world.db.store.pool()).await.expect("a migration");
            row.get::<String, _>(0).contains(&format!("preflight: {word}"))
        })
        .await;
    assert_eq!(world.phase(id).await, Phase::Preflight);
}

async fn waive(world: &TestWorld, id: PreflightId, (insight, seconds): (&str, i64)) {
    let new = NewWaiver {
        insight: &insight.into(),
        reason: "the team agreed",
        expires_at: world.db.now() + SignedDuration::from_secs(seconds),
    };
    zcp::app::preflights::waive(&world.app, &world.ask, id, new).await.expect("waivable");
}

#[tokio::test]
async fn a_migration_waits_for_what_blocks_until_it_is_waived_in_time() {
    let (world, driver) = TestWorld::started().await;
    let cluster = world.cluster(&driver, "alpha", 2).await;
    bare_pod(&world, cluster).await;
    let migration = world.migrate(cluster, quick()).await;
    blocked(&world, &driver, (migration, "bare_pods")).await;
    assert_eq!(world.cordons(cluster), 0, "no node was touched");
    let preflight = preflight_of(&world, migration).await;
    // A waiver that ends while the migration stands paused does not help it.
    world.steer(migration, Verb::Pause).await;
    waive(&world, preflight, ("bare_pods", 60)).await;
    let waived = view(&world, preflight).await;
    let waiver = insight(&waived, "bare_pods").waived.clone().expect("a waiver");
    assert_eq!((waiver.author.as_str(), waived.blocking), ("test", 0));
    world.db.clock.advance(SignedDuration::from_secs(61));
    assert_eq!(view(&world, preflight).await.blocking, 1, "it ended");
    world.steer(migration, Verb::Resume).await;
    blocked(&world, &driver, (migration, "bare_pods")).await;
    world.waive(&driver, (migration, "bare_pods")).await;
    world.until(&driver, migration, Phase::Succeeded).await;
}

#[tokio::test]
async fn a_waiver_given_to_a_plan_counts_for_the_migration_that_follows() {
    let (world, driver) = TestWorld::started().await;
    let cluster = world.cluster(&driver, "alpha", 1).await;
    bare_pod(&world, cluster).await;
    world
        .settle(&driver, "the pod has a node", async |world| {
            let kube = world.kube_of(cluster).expect("an API");
            kube.object("pods", "default", "lonely")
                .is_some_and(|pod| pod["spec"]["nodeName"].is_string())
        })
        .await;
    let planned = plan(&world, &driver, (cluster, quick())).await;
    waive(&world, planned.row.id, ("bare_pods", 3600)).await;
    let migration = world.migrate(cluster, quick()).await;
    world.until(&driver, migration, Phase::Succeeded).await;
    let view = view(&world, preflight_of(&world, migration).await).await;
    assert_eq!(view.migration, Some(migration));
    assert!(view.row.waivers.iter().any(|(id, _)| id.as_str() == "bare_pods"));
}

#[tokio::test]
async fn what_another_migration_will_make_is_reserved() {
    let (world, driver) = TestWorld::started().await;
    let first = world.cluster(&driver, "alpha", 2).await;
    let second = world.cluster(&driver, "beta", 2).await;
    let quota = |instances: u32| {
        let changed = world.sim.with_cloud("west", |cloud, _| {
            cloud.settings.quota.instances = instances;
        });
        changed.expect("a cloud called west");
    };
    quota(3);
    zcp::app::clouds::check(&world.app, &world.ask, "west").await.expect("a check");
    world.tick(&driver).await;
    let mut waits = quick();
    waits["waves"][0]["gate"] = json!("approval");
    let one = world.migrate(first, waits).await;
    world.db.clock.advance(SignedDuration::from_secs(1));
    let other = world.migrate(second, quick()).await;
    world.until(&driver, one, Phase::Approval).await;
    blocked(&world, &driver, (other, "quota")).await;
    let preflight = preflight_of(&world, other).await;
    let found = again(&world, &driver, preflight).await;
    assert_eq!(level(&found, "quota"), (Level::Block, false), "what is missing can't be waived");
    assert!(insight(&found, "quota").reason.contains("migration of cluster alpha"));
    assert!(insight(&found, "quota").resources[0].contains("1 reserved by others"));
    quota(10);
    let found = again(&world, &driver, preflight).await;
    assert_eq!(insight(&found, "quota").level, Level::Pass);
    world.until(&driver, other, Phase::Succeeded).await;
}

#[tokio::test]
async fn a_cluster_or_cloud_that_does_not_answer_is_an_insight() {
    let (world, driver) = TestWorld::started().await;
    let cluster = world.cluster(&driver, "alpha", 1).await;
    let kube = world.kube_of(cluster).expect("an API");
    kube.set_faults(world.db.now(), |faults| faults.is_api_down = true);
    let changed = world.sim.with_cloud("west", |cloud, _| {
        let effect = Effect::Answer { status: 503, retry_after: None, message: None };
        cloud.faults.rules.push(Rule::new("glance", "list_images", effect, Chance::next(20)));
    });
    changed.expect("a cloud called west");
    let found = plan(&world, &driver, (cluster, quick())).await;
    assert_eq!(level(&found, "cluster_unreachable"), (Level::Block, false));
    assert_eq!(level(&found, "cloud_unreachable"), (Level::Block, false));
    kube.set_faults(world.db.now(), |faults| faults.is_api_down = false);
    let changed = world.sim.with_cloud("west", |cloud, _| cloud.faults.rules.clear());
    changed.expect("a cloud called west");
    let found = again(&world, &driver, found.row.id).await;
    assert_eq!(found.blocking, 0, "{:#?}", found.insights);
}
