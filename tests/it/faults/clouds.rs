//! Faults of a cloud, and what the whole service makes of them.

use std::collections::BTreeMap;

use serde_json::json;
use zcp::domain::migration::{Phase, Verb};
use zcp::openstack::neutron::{CreatePort, PortFilter};
use zcp::openstack::nova::CreateServer;
use zcp::sim::faults::{Chance, Effect, Trouble};

use super::bed::{Bed, client, things};

/// A server made by hand: with this name and these marks.
async fn plant(bed: &Bed, name: &str, metadata: BTreeMap<String, String>) -> String {
    let client = client(&bed.world);
    let inventory = client.inventory().await.expect("an inventory");
    let network = inventory.networks.iter().find(|one| one.name == "kaas").expect("a network");
    let new = CreatePort { network_id: network.id.clone(), ..CreatePort::default() };
    let port = client.create_port(&new).await.expect("a port");
    let tags = metadata.get("zcp.install").map(|id| format!("zcp:{id}"));
    let image = inventory.images.iter().find(|one| one.status == "active").expect("an image");
    let new = CreateServer {
        name: name.to_owned(),
        flavor_id: inventory.flavors[0].id.clone(),
        image_id: image.id.clone(),
        port_id: port.id,
        user_data: Vec::new(),
        metadata,
        tags: tags.into_iter().collect(),
        group_id: None,
        zone: None,
        key: None,
    };
    client.create_server(&new).await.expect("accepted")
}

fn exists(bed: &Bed, id: &str) -> bool {
    bed.world.sim.truth().servers.iter().any(|server| server.id.to_string() == id)
}

#[tokio::test]
async fn f03_a_foreign_twin_stops_its_node_and_a_leftover_of_ours_is_swept() {
    let bed = Bed::new().await;
    // Cut before anything was made: the node does not know whether there is a server.
    bed.spoil(("nova", "create_server"), Effect::Cut, Chance::next(1));
    bed.world.scale(bed.shop, 3).await;
    let unknown = "SELECT name FROM nodes WHERE closed_at IS NULL AND server = 'unknown'";
    bed.world
        .settle(&bed.driver, "a call is unclear", async |_| !bed.ask(unknown).await.is_empty())
        .await;
    let name = bed.ask(unknown).await;
    let twin = plant(&bed, &name, BTreeMap::new()).await;
    bed.pass(10).await;
    assert_eq!(bed.workers().len(), 2, "nothing is made beside it");
    assert!(exists(&bed, &twin), "what is not ours stays");
    assert!(bed.warnings().await.contains("is not ours"), "{}", bed.warnings().await);
    client(&bed.world).delete_server(&twin).await.expect("somebody removes it");
    // A leftover of ours whose row is closed.
    let mut marks = bed.workers()[0].metadata.clone();
    marks.insert("zcp.node".to_owned(), uuid::Uuid::from_u128(7).to_string());
    let leftover = plant(&bed, "shop-web-leftov", marks).await;
    bed.ready(3).await;
    bed.world.settle(&bed.driver, "it is swept", async |_| !exists(&bed, &leftover)).await;
    let client = client(&bed.world);
    for port in client.list_ports(&PortFilter::default()).await.expect("a list") {
        if port.name.is_empty() && port.description.is_empty() && port.device_id.is_empty() {
            client.delete_port(&port.id).await.expect("made by this test");
        }
    }
    bed.is_clean().await;
}

#[tokio::test]
async fn f07_a_full_quota_is_named_and_asked_for_again_each_five_minutes() {
    for (quota, words) in [("instances", "instances"), ("ports", "port")] {
        let bed = Bed::new().await;
        let truth = bed.world.sim.truth();
        let [servers, ports] = [truth.servers.len(), truth.ports.len()]
            .map(|count| u32::try_from(count).expect("a few"));
        bed.east(|cloud| match quota {
            "instances" => cloud.settings.quota.instances = servers,
            _ => cloud.settings.quota.ports = ports,
        });
        let operation = if quota == "ports" { "neutron.create_port" } else { "nova.create_server" };
        let before = bed.calls(operation);
        bed.world.scale(bed.shop, 5).await;
        bed.pass(26).await;
        let asked = bed.calls(operation) - before;
        // Three new nodes ask at first; from then on one of them does, each five minutes.
        assert!((6..=8).contains(&asked), "{quota}: asked {asked} times in 26 minutes");
        let why = bed.waiting().await.to_lowercase();
        assert!(why.contains("quota") && why.contains(words), "{quota}: {why}");
        assert_eq!(bed.ask("SELECT phase FROM clouds WHERE phase <> 'ready'").await, "");
        bed.east(|cloud| cloud.settings.quota = zcp::sim::settings::Quota::default());
        bed.ready(5).await;
        assert!(bed.world.sim.truth().deleted_servers.is_empty());
        bed.is_clean().await;
    }
}

#[tokio::test]
async fn f08_a_server_that_is_never_found_is_asked_for_three_times_at_most() {
    let bed = Bed::new().await;
    let broken = Effect::Answer { status: 500, retry_after: None, message: None };
    bed.spoil(("nova", "create_server"), broken, Chance::default());
    let before = bed.calls("nova.create_server");
    bed.world.scale(bed.shop, 3).await;
    bed.pass(19).await;
    assert_eq!(bed.calls("nova.create_server") - before, 3);
    assert!(bed.warnings().await.contains("asked for 3 times"), "{}", bed.warnings().await);
    bed.pass(41).await;
    let asked = bed.calls("nova.create_server") - before;
    assert!(asked <= 9, "{asked} creates in an hour, with the rows that came after the first");
    bed.heal();
    bed.ready(3).await;
    bed.is_clean().await;
}

#[tokio::test]
async fn f34_lists_that_hide_servers_stop_creation_and_close_no_row() {
    let bed = Bed::new().await;
    let servers = things(&bed.world, bed.shop);
    bed.spoil(("nova", "list_servers"), Effect::Empty, Chance::default());
    bed.pass(3).await;
    let before = bed.calls("nova.create_server");
    bed.world.scale(bed.shop, 3).await;
    bed.pass(15).await;
    assert_eq!(bed.calls("nova.create_server"), before, "nothing is made in the dark");
    assert!(bed.waiting().await.contains("do not show"), "{}", bed.waiting().await);
    let closed = "SELECT name FROM nodes WHERE closed_at IS NOT NULL OR desired = 'absent'";
    assert_eq!(bed.ask(closed).await, "");
    assert!(things(&bed.world, bed.shop).is_superset(&servers), "nothing was taken for lost");
    bed.heal();
    bed.ready(3).await;
    bed.is_clean().await;
}

#[tokio::test]
async fn f09_a_pool_larger_than_a_server_group_is_spread_over_several() {
    let bed = Bed::new().await;
    bed.east(|cloud| cloud.settings.quota.server_group_members = 3);
    zcp::app::clouds::check(&bed.world.app, &bed.world.ask, "east").await.expect("a check");
    bed.pass(1).await;
    bed.world.scale(bed.shop, 5).await;
    bed.ready(5).await;
    let groups = bed.world.sim.truth().groups;
    let id = bed.shop.to_string();
    let ours: Vec<usize> =
        groups.iter().filter(|one| one.name.contains(&id)).map(|one| one.members.len()).collect();
    assert!(ours.iter().all(|members| *members <= 3), "{ours:?}");
    assert_eq!(ours.iter().sum::<usize>(), 6, "five workers and a member of the control plane");
    assert_eq!(bed.ask("SELECT trouble FROM nodes WHERE trouble IS NOT NULL").await, "");
    bed.is_clean().await;
}

#[tokio::test]
async fn f10_ports_do_not_pile_up_when_servers_come_and_go() {
    let bed = Bed::new().await;
    let ports = bed.world.sim.truth().ports.len();
    for _ in 0..4 {
        for count in [3, 2] {
            bed.world.scale(bed.shop, count).await;
            bed.ready(count as usize).await;
        }
    }
    bed.is_clean().await;
    assert_eq!(bed.world.sim.truth().ports.len(), ports);
    let bound = bed.world.sim.truth().ports.iter().filter(|one| one.device_id.is_empty()).count();
    assert_eq!(bound, 2, "only the endpoints' own addresses belong to no server");
}

#[tokio::test]
async fn f11_a_port_waits_for_its_server_to_be_gone() {
    let bed = Bed::new().await;
    bed.east(|cloud| cloud.settings.timing.delete_ms = 180_000);
    let before = bed.calls("neutron.delete_port");
    bed.world.scale(bed.shop, 1).await;
    bed.world
        .settle(&bed.driver, "the server is gone", async |_| {
            let is_there = bed.workers().len() == 2;
            assert!(!is_there || bed.calls("neutron.delete_port") == before, "in its order");
            !is_there
        })
        .await;
    bed.ready(1).await;
    let spoiled = bed.world.sim.with_cloud("east", |cloud, _| cloud.counters.spoiled.clone());
    assert!(spoiled.expect("east").is_empty(), "nothing was refused");
    bed.is_clean().await;
}

#[tokio::test]
async fn f12_a_delete_that_is_not_done_is_asked_again_and_told_of() {
    for (trouble, has_warning) in [(Trouble::DeleteError, false), (Trouble::StuckInDelete, true)] {
        let bed = Bed::new().await;
        bed.mishap(trouble, 1);
        bed.world.scale(bed.shop, 1).await;
        bed.pass(14).await;
        let is_open = !bed.workers().iter().any(|one| one.status == "ACTIVE") || has_warning;
        assert!(is_open || bed.workers().len() == 1, "{trouble:?}");
        if has_warning {
            assert_eq!(bed.workers().len(), 2, "it is still there, and so is its row");
            let row = "SELECT server FROM nodes WHERE desired = 'absent' AND closed_at IS NULL";
            assert_eq!(bed.ask(row).await, "deleting");
        }
        bed.pass(3).await;
        let warned = bed.warnings().await.contains("DeleteStuck");
        assert_eq!(warned, has_warning, "{trouble:?}: {}", bed.warnings().await);
        bed.ready(1).await;
        bed.is_clean().await;
    }
}

#[tokio::test]
async fn f13_a_soft_deleted_server_is_gone_for_its_cluster() {
    let bed = Bed::new().await;
    bed.mishap(Trouble::SoftDelete, 1);
    bed.world.scale(bed.shop, 1).await;
    bed.ready(1).await;
    let soft: Vec<_> = bed.workers().into_iter().filter(|one| one.status != "ACTIVE").collect();
    assert_eq!(soft.len(), 1, "its cloud keeps it: {soft:?}");
    // Nobody takes it for a node when the pool grows again.
    bed.world.scale(bed.shop, 2).await;
    bed.ready(2).await;
    assert!(bed.workers().iter().any(|one| one.id == soft[0].id && one.status == "SOFT_DELETED"));
}

#[tokio::test]
async fn f14_a_locked_server_is_left_to_who_locked_it_and_others_go_on() {
    let bed = Bed::new().await;
    let workers: Vec<_> = bed.workers().iter().map(|one| one.id).collect();
    let lock = |locked: bool| {
        bed.east(|cloud| {
            for id in &workers {
                if let Some(server) = cloud.compute.servers.get_mut(*id) {
                    server.locked = locked;
                }
            }
        });
    };
    lock(true);
    let before = bed.calls("nova.delete_server");
    bed.world.scale(bed.shop, 1).await;
    bed.pass(30).await;
    assert_eq!(bed.workers().len(), 2, "locked servers stay");
    let waiting = bed.waiting().await
        + &bed.ask("SELECT parked_reason FROM work_items WHERE parked_reason IS NOT NULL").await;
    assert!(waiting.contains("locked by an operator"), "{waiting}");
    let asked = bed.calls("nova.delete_server") - before;
    assert!(asked < 30, "asked {asked} times in half an hour");
    let locked = bed.world.sim.with_cloud("east", |cloud, _| {
        workers.iter().all(|id| cloud.compute.servers.get(*id).is_some_and(|one| one.locked))
    });
    assert_eq!(locked, Some(true), "nobody unlocked anything");
    lock(false);
    bed.ready(1).await;
    bed.is_clean().await;
}

#[tokio::test]
async fn f16_a_dead_credential_stops_work_on_its_cloud_and_changes_no_row() {
    let bed = Bed::new().await;
    let password = |text: &'static str| {
        bed.east(|cloud| {
            for user in &mut cloud.identity.users {
                user.password =
                    if user.name == "kaas" { text.into() } else { user.password.clone() };
            }
            cloud.identity.tokens.clear();
        });
    };
    bed.world.scale(bed.shop, 3).await;
    bed.world.tick(&bed.driver).await;
    password("revoked");
    bed.pass(2).await;
    let rows =
        "SELECT concat_ws(' ', name, desired, server, server_id, port, object, server_status)
                FROM nodes ORDER BY name";
    let before = bed.ask(rows).await;
    bed.pass(40).await;
    assert_eq!(bed.ask(rows).await, before);
    assert_eq!(bed.ask("SELECT name FROM clouds WHERE phase = 'unusable'").await, "east");
    let checks = bed.ask("SELECT checks::text FROM clouds WHERE name = 'east'").await;
    assert!(checks.contains("credential") && checks.contains("refuses"), "{checks}");
    let logins = bed.calls("keystone.create_token");
    assert!(logins < 300, "{logins} logins in 42 minutes");
    password(zcp::sim::found::PASSWORD);
    bed.ready(3).await;
    bed.is_clean().await;
}

#[tokio::test]
async fn f19_a_cell_that_is_down_decides_nothing_and_is_seen() {
    let bed = Bed::new().await;
    let before = things(&bed.world, bed.shop);
    bed.east(|cloud| cloud.faults.cell_down = true);
    bed.pass(15).await;
    assert_eq!(things(&bed.world, bed.shop), before);
    assert_eq!(bed.ask("SELECT name FROM nodes WHERE server_missing_since IS NOT NULL").await, "");
    let checks = "SELECT checks::text FROM clouds WHERE name = 'east'";
    let shown = bed.ask(checks).await;
    assert!(shown.contains("a part of the cloud is down"), "{shown}");
    assert_eq!(bed.ask("SELECT phase FROM clouds WHERE phase <> 'ready'").await, "");
    bed.heal();
    bed.pass(2).await;
    assert!(!bed.ask(checks).await.contains("is down"));
    bed.ready(2).await;
    bed.is_clean().await;
}

#[tokio::test]
async fn f25_servers_that_fail_on_one_host_are_made_anew_and_the_host_is_named() {
    let bed = Bed::new().await;
    bed.mishap(Trouble::BindingFailed, 3);
    let disable = |disabled: bool| {
        bed.east(|cloud| {
            cloud.compute.hosts.iter_mut().skip(1).for_each(|host| host.disabled = disabled);
        });
    };
    disable(true);
    bed.world.scale(bed.shop, 3).await;
    bed.ready(3).await;
    let failed = bed.ask("SELECT trouble FROM nodes WHERE lost").await;
    assert_eq!(failed.matches("Binding failed").count(), 3, "{failed}");
    let warnings = bed.warnings().await;
    assert!(warnings.contains("HostSuspect: 3 servers in a row failed on host"), "{warnings}");
    disable(false);
    bed.is_clean().await;
}

#[tokio::test]
async fn f26_a_stopped_server_is_started_once_and_a_dead_one_replaced() {
    let bed = Bed::new().await;
    let victim = bed.workers()[0].id;
    let crash = || {
        bed.world.sim.with_cloud("east", |cloud, now| cloud.crash_server(victim, now));
    };
    crash();
    bed.pass(2).await;
    bed.ready(2).await;
    assert!(bed.workers().iter().any(|one| one.id == victim && one.status == "ACTIVE"));
    assert_eq!(bed.calls("nova.server_action"), 1);
    // It stops again: it is not started a second time, and replaced ten minutes later.
    crash();
    bed.pass(8).await;
    assert!(exists(&bed, &victim.to_string()), "not before ten minutes");
    bed.pass(5).await;
    bed.ready(2).await;
    assert!(!exists(&bed, &victim.to_string()));
    assert_eq!(bed.calls("nova.server_action"), 1);
    assert!(bed.warnings().await.contains("NodeReplaced"), "{}", bed.warnings().await);
    bed.is_clean().await;
}

#[tokio::test]
async fn f27_a_migration_whose_target_fills_up_stops_between_nodes_with_all_serving() {
    let mut bed = Bed::new().await;
    bed.world.floor.insert(bed.shop, 2);
    let spec = json!({"target": "west", "canary": "off", "hold_seconds": 1, "waves": [
        {"upto": 1, "soak_seconds": 1, "gate": "approval"}, {"upto": "100%", "soak_seconds": 1}]});
    let migration = bed.world.migrate(bed.shop, spec).await;
    bed.world.until(&bed.driver, migration, Phase::Approval).await;
    let cordons = bed.world.cordons(bed.shop);
    bed.world.sim.with_cloud("west", |cloud, _| cloud.faults.full = true);
    bed.world.steer(migration, Verb::Approve).await;
    bed.pass(20).await;
    assert_eq!(bed.world.phase(migration).await, Phase::Provisioning);
    assert_eq!(bed.world.cordons(bed.shop), cordons, "no further node is touched");
    let why = bed.ask("SELECT waiting::text FROM migrations").await;
    assert!(why.contains("1 of 2 new nodes serve"), "{why}");
    bed.world.sim.with_cloud("west", |cloud, _| cloud.faults.full = false);
    bed.world.until(&bed.driver, migration, Phase::Succeeded).await;
    bed.ready(2).await;
    bed.is_clean().await;
}

#[tokio::test]
async fn f29_a_cluster_is_deleted_and_those_whose_names_begin_like_it_are_not() {
    let bed = Bed::new().await;
    let theirs = things(&bed.world, bed.other);
    bed.world.delete(&bed.driver, bed.shop).await;
    assert!(things(&bed.world, bed.shop).is_empty());
    bed.pass(10).await;
    assert_eq!(things(&bed.world, bed.other), theirs, "shop-a is another cluster");
    let all = bed.world.sim.truth();
    assert_eq!(all.servers.len() + all.ports.len() + all.groups.len(), theirs.len());
    assert!(bed.world.is_ready(bed.other).await);
}

#[tokio::test]
async fn f30_a_sweep_at_every_moment_takes_nothing_that_is_being_made() {
    let bed = Bed::with(|world| {
        world.settings.sweep_period = std::time::Duration::from_secs(1);
        world.settings.sweep_age = std::time::Duration::ZERO;
    })
    .await;
    for operation in [("nova", "create_server"), ("neutron", "create_port")] {
        bed.spoil(operation, Effect::DoneButCut, Chance::rate(0.3));
    }
    bed.world.scale(bed.shop, 7).await;
    bed.ready(7).await;
    assert!(bed.world.sim.truth().deleted_servers.is_empty(), "every server was adopted");
    assert_eq!(bed.calls("nova.delete_server"), 0);
    bed.is_clean().await;
}

#[tokio::test]
async fn f68_a_large_pool_does_not_keep_a_small_one_waiting() {
    let bed = Bed::new().await;
    bed.world.limit_builds(2).await;
    bed.world.scale(bed.shop, 9).await;
    bed.world.settle(&bed.driver, "the first ones build", async |_| bed.workers().len() > 3).await;
    bed.world.scale(bed.other, 2).await;
    let id = bed.other.to_string();
    bed.world
        .settle(&bed.driver, "the small one has its server", async |world| {
            let servers = world.sim.truth().servers;
            servers.iter().filter(|one| one.metadata.get("zcp.cluster") == Some(&id)).count() == 3
        })
        .await;
    assert!(bed.workers().len() < 9, "the large one was not done first");
    bed.ready(9).await;
    let most = bed.world.sim.with_cloud("east", |cloud, _| cloud.compute.most_building);
    assert!(most.is_some_and(|most| most <= 4), "{most:?}: as many as at the first making");
}

#[tokio::test]
async fn f68_a_slot_that_becomes_free_is_taken_at_once() {
    let bed = Bed::new().await;
    bed.world.limit_builds(1).await;
    let before = bed.world.db.now();
    bed.world.scale(bed.shop, 10).await;
    bed.ready(10).await;
    // Eight builds one after the other, 2.3 s each and a second until a list shows it.
    let took = bed.world.db.now().duration_since(before).as_secs();
    assert!(took < 60, "{took} s: who waits for a slot is woken when one is free");
}
