//! Clusters and migrations from wish to clouds and back, on the simulation.

use serde_json::json;
use zcp::domain::migration::{Phase, Verb};
use zcp::worker::crash::CrashPoints;

use crate::support::world::{TestWorld, WorldOptions};

fn quick(waves: serde_json::Value) -> serde_json::Value {
    json!({"target": "west", "waves": waves, "hold_seconds": 5, "drain": {"timeout_seconds": 600}})
}

fn plain_waves() -> serde_json::Value {
    json!([
        {"upto": 1, "soak_seconds": 3},
        {"upto": "50%", "soak_seconds": 3},
        {"upto": "100%", "soak_seconds": 3},
    ])
}

#[tokio::test]
async fn a_cluster_comes_up_and_nothing_is_left_when_it_is_deleted() {
    let world = TestWorld::new(WorldOptions::default()).await;
    let driver = world.replica(CrashPoints::none());
    let cluster = world.cluster(&driver, "alpha", 3).await;
    assert_eq!(world.serving(cluster), 3);
    world.delete(&driver, cluster).await;
    let truth = world.sim.truth();
    assert_eq!((truth.servers.len(), truth.ports.len(), truth.groups.len()), (0, 0, 0));
}

#[tokio::test]
async fn a_control_plane_of_three_joins_one_by_one() {
    let world = TestWorld::new(WorldOptions::default()).await;
    let driver = world.replica(CrashPoints::none());
    let cluster = world.wish_cluster("trio", (3, 1)).await;
    world
        .settle(&driver, "three members", async |world| {
            world.is_ready(cluster).await && world.sim.truth().servers.len() == 4
        })
        .await;
    world.delete(&driver, cluster).await;
    assert!(world.sim.truth().servers.is_empty());
}

#[tokio::test]
async fn workers_move_to_the_other_cloud_in_waves() {
    let mut world = TestWorld::new(WorldOptions::default()).await;
    let driver = world.replica(CrashPoints::none());
    let cluster = world.cluster(&driver, "alpha", 4).await;
    world.floor.insert(cluster, 4);
    world.ceiling = 8;
    let migration = world.migrate(cluster, quick(plain_waves())).await;
    world.until(&driver, migration, Phase::Holding).await;
    assert_eq!(world.cordons(cluster), 4, "old nodes are kept, cordoned");
    world.until(&driver, migration, Phase::Succeeded).await;
    let truth = world.sim.truth();
    let workers = truth.servers.iter().filter(|server| server.metadata.contains_key("zcp.pool"));
    assert!(workers.clone().all(|server| server.cloud == "west"));
    assert_eq!(workers.count(), 4);
    assert_eq!(world.cordons(cluster), 0);
    world.floor.clear();
    world.delete(&driver, cluster).await;
    world.sweep(&driver).await;
}

#[tokio::test]
async fn rollback_from_wave_two_needs_no_new_server() {
    let mut world = TestWorld::new(WorldOptions::default()).await;
    let driver = world.replica(CrashPoints::none());
    let cluster = world.cluster(&driver, "alpha", 4).await;
    world.floor.insert(cluster, 4);
    world.ceiling = 8;
    let waves = json!([
        {"upto": 1, "soak_seconds": 1},
        {"upto": "50%", "soak_seconds": 1, "gate": "approval"},
        {"upto": "100%", "soak_seconds": 1},
    ]);
    let migration = world.migrate(cluster, quick(waves)).await;
    world.until(&driver, migration, Phase::Approval).await;
    let before = world.sim.truth();
    let made = before.servers.len() + before.deleted_servers.len();
    world.steer(migration, Verb::Rollback).await;
    world.until(&driver, migration, Phase::RolledBack).await;
    world
        .settle(&driver, "nothing is left of the new nodes", async |world| {
            world.is_ready(cluster).await
        })
        .await;
    let left = world.sim.truth().servers;
    assert!(left.iter().all(|server| server.cloud == "east"), "the target is empty");
    let after = world.sim.truth();
    assert_eq!(after.servers.len() + after.deleted_servers.len(), made, "no server was made");
    assert_eq!(world.cordons(cluster), 0, "every cordon was given back");
    assert_eq!(world.serving(cluster), 4);
}

#[tokio::test]
async fn a_pool_grows_and_shrinks() {
    let world = TestWorld::new(WorldOptions::default()).await;
    let driver = world.replica(CrashPoints::none());
    let cluster = world.cluster(&driver, "alpha", 2).await;
    for count in [4, 1] {
        world.scale(cluster, count).await;
        world
            .settle(&driver, "the pool has its size", async |world| {
                world.is_ready(cluster).await && world.serving(cluster) == count as usize
            })
            .await;
    }
}
