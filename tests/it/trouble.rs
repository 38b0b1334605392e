//! What goes wrong out there, against the whole installation on the simulation.

use http::Method;
use serde_json::{Value, json};
use sqlx::Row;
use zcp::domain::ids::MigrationId;
use zcp::domain::migration::{Phase, Verb};
use zcp::sim::faults::{Chance, Effect, Mishap, Power, Rule, Trouble};

use crate::support::world::TestWorld;

fn two_waves() -> Value {
    json!({
        "target": "west",
        "waves": [{"upto": 1, "soak_seconds": 1}, {"upto": "100%", "soak_seconds": 1}],
        "hold_seconds": 3,
    })
}

async fn waiting(world: &TestWorld, id: MigrationId) -> String {
    let row = sqlx::query("SELECT waiting::text FROM migrations WHERE id = $1").bind(id);
    row.fetch_one(world.db.store.pool()).await.expect("a migration").get(0)
}

#[tokio::test]
async fn f05_a_full_target_is_waited_for_and_costs_no_ports() {
    let (mut world, driver) = TestWorld::started().await;
    let cluster = world.cluster(&driver, "alpha", 2).await;
    world.floor.insert(cluster, 2);
    world.change("west", |cloud| cloud.faults.full = true);
    let migration = world.migrate(cluster, two_waves()).await;
    world.until(&driver, migration, Phase::Provisioning).await;
    world.pass(&driver, 1800).await;
    assert_eq!(world.phase(migration).await, Phase::Provisioning);
    let on_west =
        |truth: &zcp::sim::Truth| truth.ports.iter().filter(|p| p.cloud == "west").count();
    let ports = on_west(&world.sim.truth());
    assert!(ports <= 2, "{ports} ports for one wanted node");
    assert!(waiting(&world, migration).await.contains("0 of 1 new nodes"));
    world.pass(&driver, 4200).await;
    let why = waiting(&world, migration).await;
    assert!(why.contains("paused: 8 servers in a row") && why.contains("No valid host"), "{why}");
    assert!(on_west(&world.sim.truth()) <= 2, "{why}");
    world.change("west", |cloud| cloud.faults.full = false);
    world.steer(migration, Verb::Resume).await;
    world.until(&driver, migration, Phase::Succeeded).await;
    world.floor.clear();
    world.delete(&driver, cluster).await;
    world.sweep(&driver).await;
}

#[tokio::test]
async fn f01_a_create_that_was_answered_504_but_done_makes_one_server() {
    for effect in [Effect::DoneButAnswered { status: 504 }, Effect::DoneButCut] {
        let (world, driver) = TestWorld::started().await;
        world.change("east", |cloud| {
            let rule = Rule::new("nova", "create_server", effect, Chance::next(3));
            cloud.faults.rules.push(rule);
        });
        let cluster = world.cluster(&driver, "alpha", 3).await;
        let truth = world.sim.truth();
        assert_eq!(truth.servers.len(), 4, "one control-plane server and three workers");
        assert!(truth.doubled_nodes().is_empty());
        assert!(truth.deleted_servers.is_empty(), "every server was adopted");
        world.delete(&driver, cluster).await;
        world.sweep(&driver).await;
    }
}

#[tokio::test]
async fn a_port_create_that_was_cut_off_makes_one_port() {
    let (world, driver) = TestWorld::started().await;
    world.change("east", |cloud| {
        let effect = Effect::DoneButCut;
        cloud.faults.rules.push(Rule::new("neutron", "create_port", effect, Chance::next(4)));
    });
    world.cluster(&driver, "alpha", 2).await;
    assert_eq!(world.sim.truth().ports.len(), 4, "the endpoint's, one member's, two workers'");
}

#[tokio::test]
async fn a_budget_that_allows_nothing_is_named_and_then_lets_go() {
    let (mut world, driver) = TestWorld::started().await;
    let cluster = world.cluster(&driver, "alpha", 2).await;
    world.floor.insert(cluster, 2);
    world.deploy(cluster, (2, 2)).await;
    world.settle(&driver, "pods run", async |world| world.ready_pods(cluster) == 2).await;
    let migration = world.migrate(cluster, two_waves()).await;
    world
        .settle(&driver, "the budget is named", async |world| {
            waiting(world, migration).await.contains("disruption budget")
        })
        .await;
    world.pass(&driver, 300).await;
    assert_eq!(world.phase(migration).await, Phase::Draining, "it waits");
    assert_eq!(world.ready_pods(cluster), 2, "and evicts nobody");
    let budget = "/apis/policy/v1/namespaces/default/poddisruptionbudgets/web";
    world.ask_kube(cluster, (Method::DELETE, budget, json!({}))).await;
    world.until(&driver, migration, Phase::Succeeded).await;
    world.settle(&driver, "pods run again", async |world| world.ready_pods(cluster) == 2).await;
}

#[tokio::test]
async fn a_budget_is_kept_at_every_moment_of_a_migration() {
    let (world, driver) = TestWorld::started().await;
    let cluster = world.cluster(&driver, "alpha", 3).await;
    world.deploy(cluster, (6, 5)).await;
    world.settle(&driver, "pods run", async |world| world.ready_pods(cluster) == 6).await;
    let migration = world.migrate(cluster, two_waves()).await;
    world
        .settle(&driver, "the migration ends", async |world| {
            let ready = world.ready_pods(cluster);
            assert!(ready >= 5, "{ready} pods are ready, the budget wants 5");
            world.phase(migration).await == Phase::Succeeded
        })
        .await;
}

#[tokio::test]
async fn a_drain_that_passes_its_deadline_pauses_and_says_who_blocks() {
    let (world, driver) = TestWorld::started().await;
    let cluster = world.cluster(&driver, "alpha", 1).await;
    world.deploy(cluster, (1, 1)).await;
    world.settle(&driver, "the pod runs", async |world| world.ready_pods(cluster) == 1).await;
    let mut wish = two_waves();
    wish["drain"] = json!({"timeout_seconds": 60, "at_deadline": "pause"});
    let migration = world.migrate(cluster, wish).await;
    world
        .settle(&driver, "it pauses", async |world| {
            waiting(world, migration).await.contains("paused: ")
        })
        .await;
    let why = waiting(&world, migration).await;
    assert!(why.contains("default/web-") && why.contains("60 s"), "{why}");
    world.steer(migration, Verb::Rollback).await;
    world.until(&driver, migration, Phase::RolledBack).await;
    world
        .settle(&driver, "the cordon is given back", async |world| world.cordons(cluster) == 0)
        .await;
}

#[tokio::test]
async fn rollback_works_with_the_target_cloud_dead() {
    let (mut world, driver) = TestWorld::started().await;
    let cluster = world.cluster(&driver, "alpha", 2).await;
    world.floor.insert(cluster, 2);
    let mut wish = two_waves();
    wish["waves"][0]["gate"] = json!("approval");
    let migration = world.migrate(cluster, wish).await;
    world.until(&driver, migration, Phase::Approval).await;
    world.change("west", |cloud| cloud.faults.power = Power::Refusing);
    world.steer(migration, Verb::Rollback).await;
    world.until(&driver, migration, Phase::RolledBack).await;
    assert_eq!(world.serving(cluster), 2);
    let left = world.sim.truth().servers.iter().filter(|s| s.cloud == "west").count();
    assert_eq!(left, 1, "the dead cloud still has the server");
    world.change("west", |cloud| cloud.faults.power = Power::Up);
    world
        .settle(&driver, "the target is cleaned when it is back", async |world| {
            world.sim.truth().servers.iter().all(|server| server.cloud == "east")
        })
        .await;
}

#[tokio::test]
async fn f06_servers_that_never_join_or_never_build_are_replaced() {
    for trouble in [Trouble::NeverJoins, Trouble::StuckInBuild, Trouble::SpawnError] {
        let (world, driver) = TestWorld::started().await;
        world.change("east", |cloud| {
            let mishap = Mishap { name: Some("-web-".to_owned()), ..Mishap::next(trouble, 1) };
            cloud.faults.mishaps.push(mishap);
        });
        let cluster = world.cluster(&driver, "alpha", 2).await;
        assert_eq!(world.serving(cluster), 2, "{trouble:?}");
        let truth = world.sim.truth();
        assert_eq!(truth.servers.len(), 3, "{trouble:?}: the bad server is gone");
        assert_eq!(truth.ports.len(), 4, "{trouble:?}: and its port");
    }
}

#[tokio::test]
async fn f31_a_server_that_somebody_deleted_is_replaced_after_a_second_look() {
    let (world, driver) = TestWorld::started().await;
    let cluster = world.cluster(&driver, "alpha", 2).await;
    let truth = world.sim.truth();
    let victim = truth.servers.iter().find(|s| s.name.contains("-web-")).expect("a worker").id;
    world.sim.with_cloud("east", |cloud, now| cloud.delete_server(victim, now)).expect("east");
    world
        .settle(&driver, "another one serves", async |world| {
            let servers = world.sim.truth().servers;
            servers.len() == 3
                && servers.iter().all(|server| server.id != victim)
                && world.serving(cluster) == 2
                && world.is_ready(cluster).await
        })
        .await;
    let nodes = world.kube_of(cluster).expect("an API").objects("nodes");
    assert_eq!(nodes.len(), 3, "the Node object of the lost server is gone");
}

#[tokio::test]
async fn f18_an_empty_list_of_servers_harms_nobody() {
    let (world, driver) = TestWorld::started().await;
    let cluster = world.cluster(&driver, "alpha", 2).await;
    world.change("east", |cloud| {
        let rule = Rule::new("nova", "list_servers", Effect::Empty, Chance::next(20));
        cloud.faults.rules.push(rule);
    });
    world.pass(&driver, 600).await;
    let truth = world.sim.truth();
    assert_eq!((truth.servers.len(), truth.deleted_servers.len()), (3, 0));
    assert!(world.is_ready(cluster).await);
}

#[tokio::test]
async fn a_foreign_cordon_survives_a_rollback() {
    let (world, driver) = TestWorld::started().await;
    let cluster = world.cluster(&driver, "alpha", 2).await;
    let kube = world.kube_of(cluster).expect("an API");
    let nodes = kube.objects("nodes");
    let node = nodes.iter().find(|n| !n["metadata"]["labels"]["zcp.io/pool"].is_null());
    let name = node.expect("a worker")["metadata"]["name"].as_str().expect("a name").to_owned();
    let path = format!("/api/v1/nodes/{name}");
    world.ask_kube(cluster, (Method::PATCH, &path, json!({"spec": {"unschedulable": true}}))).await;
    let mut wish = two_waves();
    wish["waves"] = json!([{"upto": "100%", "soak_seconds": 0, "gate": "approval"}]);
    let migration = world.migrate(cluster, wish).await;
    world.until(&driver, migration, Phase::Approval).await;
    world.steer(migration, Verb::Rollback).await;
    world.until(&driver, migration, Phase::RolledBack).await;
    world.pass(&driver, 60).await;
    assert_eq!(world.cordons(cluster), 1, "the cordon that was there before is still there");
}

#[tokio::test]
async fn a_paused_migration_goes_on_only_when_it_is_resumed() {
    let (world, driver) = TestWorld::started().await;
    let cluster = world.cluster(&driver, "alpha", 2).await;
    let migration = world.migrate(cluster, two_waves()).await;
    world.until(&driver, migration, Phase::Provisioning).await;
    world.steer(migration, Verb::Pause).await;
    world.steer(migration, Verb::Pause).await;
    world.pass(&driver, 600).await;
    assert_eq!(world.phase(migration).await, Phase::Provisioning);
    world.steer(migration, Verb::Resume).await;
    world.until(&driver, migration, Phase::Succeeded).await;
}

#[tokio::test]
async fn a_migration_ends_early_only_before_its_first_server() {
    let (world, driver) = TestWorld::started().await;
    let cluster = world.cluster(&driver, "alpha", 1).await;
    let migration = world.migrate(cluster, two_waves()).await;
    world.steer(migration, Verb::Cancel).await;
    world.until(&driver, migration, Phase::Cancelled).await;
    let truth = world.sim.truth();
    assert!(truth.servers.iter().all(|server| server.cloud == "east"));
    assert_eq!(truth.deleted_servers.len(), 0);
}

#[tokio::test]
async fn f68_builds_in_flight_stay_within_the_clouds_limit() {
    let (world, driver) = TestWorld::started().await;
    world.limit_builds(2).await;
    world.cluster(&driver, "alpha", 6).await;
    let most = world.sim.with_cloud("east", |cloud, _| cloud.compute.most_building);
    assert_eq!(most, Some(2));
}

#[tokio::test]
async fn labels_that_somebody_removes_come_back() {
    let (world, driver) = TestWorld::started().await;
    let cluster = world.cluster(&driver, "alpha", 1).await;
    let kube = world.kube_of(cluster).expect("an API");
    let labelled = |world: &TestWorld| {
        let kube = world.kube_of(cluster).expect("an API");
        kube.objects("nodes").iter().any(|n| n["metadata"]["labels"]["team"] == "shop")
    };
    assert!(labelled(&world));
    let nodes = kube.objects("nodes");
    let node = nodes.iter().find(|n| n["metadata"]["labels"]["team"] == "shop").expect("one");
    let name = node["metadata"]["name"].as_str().expect("a name");
    let path = format!("/api/v1/nodes/{name}");
    world
        .ask_kube(cluster, (Method::PATCH, &path, json!({"metadata": {"labels": {"team": null}}})))
        .await;
    assert!(!labelled(&world));
    world.settle(&driver, "the label is back", async |world| labelled(world)).await;
}

#[tokio::test]
async fn a_removed_cloud_is_not_looked_at_any_more() {
    let (world, driver) = TestWorld::started().await;
    world.pass(&driver, 60).await;
    zcp::app::clouds::remove(&world.app, &world.ask, "west", None).await.expect("removed");
    world.pass(&driver, 1800).await;
    let row = sqlx::query(
        "SELECT count(*) FROM work_items
         JOIN accounts ON accounts.id = resource_id JOIN clouds ON clouds.id = cloud_id
         WHERE clouds.name = 'west'",
    );
    let row = row.fetch_one(world.db.store.pool()).await.expect("work items");
    assert_eq!(row.get::<i64, _>(0), 0);
}
