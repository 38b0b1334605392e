//! Migration faults F65 and F74 to F79, and F83: turning, dying and scaling in the middle.

use http::Method;
use serde_json::{Value, json};
use sqlx::Row;
use zcp::domain::ids::{ClusterId, MigrationId};
use zcp::domain::migration::{Phase, Verb};
use zcp::domain::wave::{Gate, Upto, WaveSpec, assign, check_waves};
use zcp::sim::faults::Power;
use zcp::worker::Driver;
use zcp::worker::crash::CrashPoints;

use crate::support::world::TestWorld;

/// One node, an approval, the rest, a long hold.
fn careful() -> Value {
    json!({
        "target": "west", "canary": "off",
        "waves": [
            {"upto": 1, "soak_seconds": 1, "gate": "approval"},
            {"upto": "100%", "soak_seconds": 1},
        ],
        "hold_seconds": 86_400,
    })
}

/// Whether a condition of a migration holds; none if it was never judged.
async fn condition(world: &TestWorld, id: MigrationId, kind: &str) -> Option<bool> {
    let row = sqlx::query("SELECT conditions FROM migrations WHERE id = $1").bind(id);
    let row = row.fetch_one(world.db.store.pool()).await.expect("a migration");
    let conditions: Value = row.get("conditions");
    let found = conditions.as_array()?.iter().find(|one| one["type"] == kind)?;
    found["status"].as_bool()
}

/// Nodes of the cluster with this label, by name and cloud.
fn labelled(world: &TestWorld, cluster: ClusterId, label: &str) -> Vec<String> {
    let nodes = world.kube_of(cluster).expect("an API").objects("nodes");
    let with = nodes.iter().filter(|node| !node["metadata"]["labels"][label].is_null());
    with.map(|node| node["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect()
}

async fn patch_node(world: &TestWorld, cluster: ClusterId, (name, body): (&str, Value)) {
    let path = format!("/api/v1/nodes/{name}");
    world.ask_kube(cluster, (Method::PATCH, &path, body)).await;
}

/// Workers on a cloud: their names and servers.
fn workers(world: &TestWorld, cloud: &str) -> Vec<(String, uuid::Uuid)> {
    let truth = world.sim.truth();
    let there = truth.servers.iter().filter(|s| s.cloud == cloud && s.name.contains("-web-"));
    there.map(|server| (server.name.clone(), server.id)).collect()
}

fn kill(world: &TestWorld, (cloud, server): (&str, uuid::Uuid)) {
    world.sim.with_cloud(cloud, |cloud, now| cloud.delete_server(server, now)).expect("a cloud");
}

#[tokio::test]
async fn f65_what_owners_put_on_a_node_survives_its_repair_in_the_middle() {
    let (world, driver) = TestWorld::started().await;
    let cluster = world.cluster(&driver, "alpha", 2).await;
    let mut names = world.worker_names(cluster);
    names.sort();
    let marks = json!({"metadata": {
        "labels": {"disk": "ssd"}, "annotations": {"shop.example/note": "keep"}}});
    patch_node(&world, cluster, (&names[0], marks)).await;
    patch_node(&world, cluster, (&names[1], json!({"metadata": {"labels": {"rack": "7"}}}))).await;
    world.pass(&driver, 60).await;
    let migration = world.migrate(cluster, careful()).await;
    world.until(&driver, migration, Phase::Approval).await;
    let moved = labelled(&world, cluster, "disk");
    assert_eq!(moved.len(), 2, "the old node and the one in its place: {moved:?}");
    // The new one dies, and the old one that has not moved yet.
    let heir = workers(&world, "west")[0].clone();
    assert!(moved.contains(&heir.0));
    kill(&world, ("west", heir.1));
    let unmoved = workers(&world, "east").into_iter().find(|(name, _)| *name == names[1]);
    kill(&world, ("east", unmoved.expect("it serves").1));
    world
        .settle(&driver, "others stand in their places, as they were", async |world| {
            let (disk, rack) = (labelled(world, cluster, "disk"), labelled(world, cluster, "rack"));
            let west: Vec<String> = workers(world, "west").into_iter().map(|(n, _)| n).collect();
            disk.len() == 2
                && disk.iter().any(|n| west.contains(n) && *n != heir.0)
                && rack.len() == 1
                && rack[0] != names[1]
        })
        .await;
    world.steer(migration, Verb::Rollback).await;
    world.until(&driver, migration, Phase::RolledBack).await;
    world
        .settle(&driver, "nothing was given away twice", async |world| {
            world.worker_names(cluster).len() == 2
                && labelled(world, cluster, "disk") == [names[0].clone()]
                && labelled(world, cluster, "rack").len() == 1
        })
        .await;
}

#[test]
fn f74_every_percentage_of_every_size_moves_at_least_one_and_grows() {
    let wave = |upto| WaveSpec { upto, soak_seconds: 0, gate: Gate::Auto };
    for size in 1..=200_u32 {
        let mut before = 0;
        for percent in 1..=100_u8 {
            let waves = [wave(Upto::Percent(percent)), wave(Upto::Percent(100))];
            let waves = if percent == 100 { &waves[1..] } else { &waves[..] };
            let nodes = &assign(waves, &[size, 3])[0];
            let first =
                u32::try_from(nodes.iter().filter(|wave| **wave == 0).count()).expect("few");
            assert_eq!(first, (size * u32::from(percent)).div_ceil(100), "{percent}% of {size}");
            assert!(first >= 1 && first <= size && first >= before, "{percent}% of {size}");
            assert_eq!(nodes.len(), size as usize, "every node has one wave");
            before = first;
        }
    }
    for text in ["0%", "100.5%", "33.3%", "-1%", "0.5", "0", "101%"] {
        assert!(text.parse::<Upto>().is_err(), "{text}");
    }
    let lower = [wave(Upto::Percent(50)), wave(Upto::Percent(20)), wave(Upto::Percent(100))];
    assert_eq!(check_waves(&lower).0[0].field, "waves[1].upto");
}

#[tokio::test]
async fn f75_room_that_is_gone_in_the_middle_harms_nobody_and_can_be_turned_back() {
    let (mut world, driver) = TestWorld::started().await;
    let cluster = world.cluster(&driver, "alpha", 3).await;
    world.floor.insert(cluster, 3);
    let migration = world.migrate(cluster, careful()).await;
    world.until(&driver, migration, Phase::Approval).await;
    world.change("west", |cloud| cloud.faults.full = true);
    world.steer(migration, Verb::Approve).await;
    world.pass(&driver, 60).await;
    assert_eq!(world.phase(migration).await, Phase::Provisioning, "it waits for room");
    assert_eq!(world.cordons(cluster), 1, "no node of the second wave was touched");
    world.steer(migration, Verb::Rollback).await;
    world.until(&driver, migration, Phase::RolledBack).await;
    world.settle(&driver, "no cordon is left", async |world| world.cordons(cluster) == 0).await;
}

#[tokio::test]
async fn f76_turning_back_with_the_target_dead_says_what_is_left_until_it_is_gone() {
    let (mut world, driver) = TestWorld::started().await;
    let cluster = world.cluster(&driver, "alpha", 2).await;
    world.floor.insert(cluster, 2);
    let mut wish = careful();
    wish["waves"] = json!([{"upto": "100%", "soak_seconds": 1}]);
    let migration = world.migrate(cluster, wish).await;
    world.until(&driver, migration, Phase::Holding).await;
    let made = world.sim.truth().servers.len();
    world.change("west", |cloud| cloud.faults.power = Power::Refusing);
    world.steer(migration, Verb::Rollback).await;
    world.until(&driver, migration, Phase::RolledBack).await;
    assert_eq!(world.serving(cluster), 2, "the source serves");
    world.pass(&driver, 60).await;
    assert_eq!(world.sim.truth().servers.len(), made, "no server was made");
    assert_eq!(condition(&world, migration, "TargetCleanup").await, Some(true));
    world.change("west", |cloud| cloud.faults.power = Power::Up);
    world
        .settle(&driver, "the target is clean", async |world| {
            condition(world, migration, "TargetCleanup").await == Some(false)
        })
        .await;
    assert!(world.sim.truth().servers.iter().all(|server| server.cloud == "east"));
}

#[tokio::test]
async fn f77_a_source_that_dies_in_the_hold_closes_the_way_back() {
    let (mut world, driver) = TestWorld::started().await;
    let cluster = world.cluster(&driver, "alpha", 2).await;
    world.floor.insert(cluster, 2);
    let mut wish = careful();
    wish["waves"] = json!([{"upto": "100%", "soak_seconds": 1}]);
    let migration = world.migrate(cluster, wish).await;
    world.until(&driver, migration, Phase::Holding).await;
    world.pass(&driver, 10).await;
    assert_eq!(condition(&world, migration, "WayBack").await, Some(true));
    let old = workers(&world, "east");
    let kube = world.kube_of(cluster).expect("an API");
    for (name, _) in &old {
        kube.stop_node(name, world.db.now());
    }
    world
        .settle(&driver, "the way back is closed", async |world| {
            condition(world, migration, "WayBack").await == Some(false)
        })
        .await;
    let refused = world.try_steer(migration, Verb::Rollback).await.expect_err("it is closed");
    assert!(refused.to_string().contains("way back is closed"), "{refused}");
    world.pass(&driver, 30).await;
    assert_eq!(world.serving(cluster), 2, "the target goes on serving");
    for (name, _) in &old {
        kube.start_node(name, world.db.now());
    }
    world
        .settle(&driver, "the way back is open again", async |world| {
            condition(world, migration, "WayBack").await == Some(true)
        })
        .await;
    world.steer(migration, Verb::Rollback).await;
    world.until(&driver, migration, Phase::RolledBack).await;
}

#[tokio::test]
async fn f78_a_drained_node_that_somebody_opened_is_drained_again_before_it_is_deleted() {
    let (world, driver) = TestWorld::started().await;
    let cluster = world.cluster(&driver, "alpha", 2).await;
    world.deploy(cluster, (4, 3)).await;
    world.settle(&driver, "pods run", async |world| world.ready_pods(cluster) == 4).await;
    let mut wish = careful();
    wish["waves"] = json!([{"upto": "100%", "soak_seconds": 1}]);
    let migration = world.migrate(cluster, wish).await;
    world.until(&driver, migration, Phase::Holding).await;
    world.steer(migration, Verb::Pause).await;
    let old = workers(&world, "east")[0].0.clone();
    let open = json!({
        "metadata": {"annotations": {"zcp.io/cordoned-by": null}},
        "spec": {"unschedulable": null}});
    patch_node(&world, cluster, (&old, open)).await;
    let kube = world.kube_of(cluster).expect("an API");
    let on_old = || {
        let pods = kube.objects("pods");
        let here = |pod: &&Value| {
            pod["spec"]["nodeName"] == old.as_str() && pod["metadata"]["namespace"] == "default"
        };
        pods.iter().filter(here).count()
    };
    for pod in kube.objects("pods").iter().filter(|p| p["metadata"]["namespace"] == "default") {
        let path = format!(
            "/api/v1/namespaces/default/pods/{}",
            pod["metadata"]["name"].as_str().unwrap_or_default()
        );
        world.ask_kube(cluster, (Method::DELETE, &path, json!({}))).await;
        world.settle(&driver, "pods run", async |world| world.ready_pods(cluster) == 4).await;
    }
    assert!(on_old() > 0, "the scheduler used the node again");
    world.steer(migration, Verb::Commit).await;
    world.steer(migration, Verb::Resume).await;
    world
        .settle(&driver, "it is committed", async |world| {
            let ready = world.ready_pods(cluster);
            assert!(ready >= 3, "{ready} pods are ready: a server went with its pods");
            world.phase(migration).await == Phase::Succeeded
        })
        .await;
    world.settle(&driver, "pods run", async |world| world.ready_pods(cluster) == 4).await;
}

/// Holds a migration in each phase by what would hold it there in life.
async fn reach(
    world: &TestWorld,
    driver: &Driver,
    cluster: ClusterId,
    phase: Phase,
) -> MigrationId {
    let mut wish = careful();
    match phase {
        Phase::Provisioning => world.change("west", |cloud| cloud.faults.full = true),
        Phase::Draining => world.deploy(cluster, (2, 2)).await,
        Phase::Soaking => wish["waves"] = json!([{"upto": "100%", "soak_seconds": 86_400}]),
        Phase::Holding | Phase::Committing | Phase::RollingBack => {
            wish["waves"] = json!([{"upto": "100%", "soak_seconds": 0}]);
        }
        _ => {}
    }
    if phase == Phase::Draining {
        world.settle(driver, "pods run", async |world| world.ready_pods(cluster) == 2).await;
    }
    let id = world.migrate(cluster, wish).await;
    match phase {
        Phase::Pending => return id,
        Phase::Committing => {
            world.until(driver, id, Phase::Holding).await;
            world.change("east", |cloud| cloud.faults.power = Power::Refusing);
            world.steer(id, Verb::Commit).await;
        }
        Phase::RollingBack => {
            world.until(driver, id, Phase::Holding).await;
            // A budget on the pods of the target holds it on its way back.
            world.deploy(cluster, (2, 2)).await;
            world.settle(driver, "pods run", async |world| world.ready_pods(cluster) == 2).await;
            world.steer(id, Verb::Rollback).await;
        }
        _ => {}
    }
    world.until(driver, id, phase).await;
    id
}

const HELD: [Phase; 8] = [
    Phase::Pending,
    Phase::Provisioning,
    Phase::Draining,
    Phase::Soaking,
    Phase::Approval,
    Phase::Holding,
    Phase::Committing,
    Phase::RollingBack,
];

#[tokio::test]
async fn f79_deleting_the_cluster_ends_its_migration_in_every_phase() {
    let (first, driver) = TestWorld::started().await;
    let cluster = first.cluster(&driver, "alpha", 2).await;
    let prepared = first.prepare().await;
    for (seed, phase) in (70_u64..).zip(HELD) {
        let world = TestWorld::resume(&prepared, seed).await;
        let driver = world.replica(CrashPoints::none());
        let id = reach(&world, &driver, cluster, phase).await;
        world.change("east", |cloud| cloud.faults.power = Power::Up);
        world.delete(&driver, cluster).await;
        assert_eq!(world.phase(id).await, Phase::Cancelled, "deleted in {}", phase.as_str());
        world.sweep(&driver).await;
    }
}

#[tokio::test]
async fn f79_scaling_is_carried_out_in_every_phase() {
    let (first, driver) = TestWorld::started().await;
    let cluster = first.cluster(&driver, "alpha", 2).await;
    let prepared = first.prepare().await;
    for (seed, phase) in (80_u64..).zip(HELD) {
        let mut world = TestWorld::resume(&prepared, seed).await;
        let driver = world.replica(CrashPoints::none());
        world.floor.insert(cluster, 2);
        let id = reach(&world, &driver, cluster, phase).await;
        world.scale(cluster, 3).await;
        let is_held_up = matches!(phase, Phase::RollingBack);
        if !is_held_up {
            let what = format!("three serve in {}", phase.as_str());
            world.settle(&driver, &what, async |world| world.serving(cluster) >= 3).await;
        }
        // What held it lets go; somebody waves it through.
        for cloud in ["east", "west"] {
            world.change(cloud, |cloud| {
                cloud.faults.power = Power::Up;
                cloud.faults.full = false;
            });
        }
        if matches!(phase, Phase::Draining | Phase::RollingBack) {
            let budget = "/apis/policy/v1/namespaces/default/poddisruptionbudgets/web";
            world.ask_kube(cluster, (Method::DELETE, budget, json!({}))).await;
        }
        let end = if is_held_up { Phase::RolledBack } else { Phase::Succeeded };
        world
            .settle(&driver, "it ends with three", async |world| {
                match world.phase(id).await {
                    Phase::Approval => world.steer(id, Verb::Approve).await,
                    Phase::Holding => world.steer(id, Verb::Commit).await,
                    Phase::Soaking => {
                        let soaked = "UPDATE migrations SET spec = \
                                      jsonb_set(spec, '{waves,0,soak_seconds}', '0')";
                        sqlx::query(soaked).execute(world.db.store.pool()).await.expect("soaked");
                    }
                    _ => {}
                }
                world.phase(id).await == end
                    && world.serving(cluster) == 3
                    && world.is_ready(cluster).await
            })
            .await;
    }
}

#[tokio::test]
async fn f83_turning_back_while_servers_build_and_nodes_drain_leaves_nothing() {
    let (first, driver) = TestWorld::started().await;
    let cluster = first.cluster(&driver, "alpha", 3).await;
    // Nobody of it may go: a drain takes until somebody turns back.
    first.deploy(cluster, (3, 3)).await;
    let prepared = first.prepare().await;
    for (seed, held) in (90_u64..).zip([Phase::Provisioning, Phase::Draining]) {
        let mut world = TestWorld::resume(&prepared, seed).await;
        let driver = world.replica(CrashPoints::none());
        world.floor.insert(cluster, 3);
        let mut wish = careful();
        wish["waves"] = json!([{"upto": "100%", "soak_seconds": 1}]);
        wish["drain"] = json!({"parallel": 3});
        let migration = world.migrate(cluster, wish).await;
        world
            .settle(&driver, "it is in the middle", async |world| {
                let phase = world.phase(migration).await;
                phase == held && (held == Phase::Draining || !workers(world, "west").is_empty())
            })
            .await;
        world.steer(migration, Verb::Rollback).await;
        world.until(&driver, migration, Phase::RolledBack).await;
        world
            .settle(&driver, "nothing is left on the target", async |world| {
                let truth = world.sim.truth();
                truth.servers.iter().all(|server| server.cloud == "east")
                    && truth.ports.iter().all(|port| port.cloud == "east")
            })
            .await;
        assert_eq!((world.serving(cluster), world.cordons(cluster)), (3, 0));
    }
}
