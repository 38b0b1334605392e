//! Canaries: they try a target before a node is touched, tell what they reach, and are always taken
//! away again.

use std::time::Duration;

use serde_json::{Value, json};
use zcp::domain::canary::{Outcome, PortSpec};
use zcp::domain::ids::{CanaryId, ClusterId};
use zcp::domain::insight::{Insight, Level};
use zcp::domain::migration::{Phase, Verb};
use zcp::sim::Reach;
use zcp::sim::faults::{Chance, Mishap, Power, Trouble};
use zcp::sim::reach::Service;
use zcp::worker::Driver;
use zcp::worker::context::Settings;
use zcp::worker::crash::CrashPoints;

use crate::support::world::{TestWorld, WorldOptions};

const FLAVOR: &str = "m1.k8s-2c4g";
const EAST: &str = "east 127.10.0.0/16";
const WEST: &str = "west 127.20.0.0/16";

/// A world in which a server that does not join is given up after a minute.
async fn world() -> TestWorld {
    let settings: fn(&mut Settings) = |all| all.join_deadline = Duration::from_mins(1);
    let options = WorldOptions { settings, ..WorldOptions::default() };
    TestWorld::new(options).await
}

fn port(text: &str) -> PortSpec {
    text.parse().expect("a port")
}

async fn ended(world: &TestWorld, driver: &Driver, id: CanaryId) {
    world
        .settle(driver, "the canary has ended", async |world| {
            world.canary(id).await.outcome.is_some()
        })
        .await;
}

async fn nothing_left(world: &TestWorld, driver: &Driver, cluster: ClusterId) {
    world
        .settle(driver, "nothing of a canary is left", async |world| {
            world.are_canaries_over(cluster).await
        })
        .await;
}

fn found<'a>(insights: &'a [Insight], id: &str) -> &'a Insight {
    let one = insights.iter().find(|one| one.id.as_str() == id);
    one.unwrap_or_else(|| panic!("no {id} in {insights:#?}"))
}

fn blocking(insights: &[Insight]) -> Vec<&str> {
    let blocks = insights.iter().filter(|one| one.level == Level::Block);
    blocks.map(|one| one.id.as_str()).collect()
}

#[tokio::test]
async fn a_canary_joins_tells_what_it_reaches_and_goes() {
    let world = world().await;
    let driver = world.replica(CrashPoints::none());
    let cluster = world.cluster(&driver, "alpha", 1).await;
    // More pods than the worker takes: none may land on the canary.
    world.deploy(cluster, (150, 1)).await;
    let id = world.wish_canary(cluster, FLAVOR).await;
    world
        .settle(&driver, "the canary is a node", async |world| {
            world.canary(id).await.probe_since.is_some()
        })
        .await;
    let kube = world.kube_of(cluster).expect("an API");
    let nodes = kube.objects("nodes");
    let name = |node: &Value| node["metadata"]["name"].as_str().map(str::to_owned);
    let canary = nodes.iter().find(|node| name(node).is_some_and(|n| n.contains("-canary-")));
    let canary = canary.expect("a Node");
    let taints = canary["spec"]["taints"].as_array().cloned().unwrap_or_default();
    assert!(taints.iter().any(|taint| taint["key"] == "zcp.io/canary"), "{taints:?}");
    ended(&world, &driver, id).await;
    let row = world.canary(id).await;
    assert_eq!(row.outcome, Some(Outcome::Reported));
    let (report, peer) = (row.report.expect("told"), row.peer_report.expect("told"));
    for check in report.checks.iter().chain(&peer.checks) {
        assert!(check.ok, "{check:?}");
    }
    let vxlan = port("udp/8472");
    assert_eq!((report.heard(vxlan), peer.heard(vxlan)), (Some(1450), Some(1450)));
    assert!(row.kubelet.expect("asked").ok);
    let there = name(canary);
    for pod in kube.objects("pods") {
        let is_tenants = pod["metadata"]["namespace"] == "default";
        let is_there = pod["spec"]["nodeName"].as_str() == there.as_deref();
        assert!(!(is_tenants && is_there), "{}", pod["metadata"]["name"]);
    }
    nothing_left(&world, &driver, cluster).await;
}

#[tokio::test]
async fn f69_each_closed_flow_is_named_with_the_rule_to_ask_for() {
    let world = world().await;
    let driver = world.replica(CrashPoints::none());
    let cluster = world.cluster(&driver, "alpha", 1).await;
    let closed = |from: &str, to: &str, what: &str| {
        let flow = (from.to_owned(), to.to_owned(), port(what));
        Reach {
            closed: vec![zcp::sim::reach::Flow { from: flow.0, to: flow.1, port: flow.2 }],
            ..Reach::default()
        }
    };
    let away = |service| {
        let mut reach = Reach::default();
        reach.take_away("west", service);
        reach
    };
    let (there, back) = (format!("{EAST} -> {WEST}"), format!("{WEST} -> {EAST}"));
    let api = format!("{EAST} (API server) -> {WEST} tcp/10250");
    let cases: [(Reach, &str, Vec<String>); 7] = [
        (closed("west", "east", "udp/8472"), "port_closed", vec![format!("{back} udp/8472")]),
        (closed("east", "west", "udp/8472"), "port_closed", vec![format!("{there} udp/8472")]),
        (closed("west", "east", "tcp/10250"), "port_closed", vec![format!("{back} tcp/10250")]),
        (
            closed("east", "west", "tcp/10250"),
            "port_closed",
            vec![api, format!("{there} tcp/10250")],
        ),
        (
            away(Service::Dns),
            "dns",
            vec!["dns registry.k8s.io: Temporary failure in name resolution".into()],
        ),
        (away(Service::Ntp), "ntp", vec!["ntp: timed out".into()]),
        (away(Service::Registry), "registry", vec!["registry: timed out".into()]),
    ];
    for (reach, id, resources) in cases {
        world.sim.with_reach(|now| *now = reach.clone());
        let insights = world.preflight(&driver, cluster).await;
        assert_eq!(blocking(&insights), [id], "{reach:?}");
        let one = found(&insights, id);
        assert_eq!(one.resources, resources, "{reach:?}");
        assert!(one.is_waivable && !one.fix.is_empty());
    }
    world.sim.with_reach(|now| *now = Reach::default());
    let insights = world.preflight(&driver, cluster).await;
    assert!(blocking(&insights).is_empty(), "{insights:#?}");
    assert_eq!(found(&insights, "canary").level, Level::Pass);
    nothing_left(&world, &driver, cluster).await;
}

#[tokio::test]
async fn f73_a_smaller_mtu_is_found_though_small_packets_pass() {
    let world = world().await;
    let driver = world.replica(CrashPoints::none());
    let cluster = world.cluster(&driver, "alpha", 1).await;
    world.sim.with_reach(|reach| reach.path_mtu = Some(1400));
    let insights = world.preflight(&driver, cluster).await;
    assert_eq!(blocking(&insights), ["mtu_small"]);
    let lines = &found(&insights, "mtu_small").resources;
    for way in [format!("{EAST} -> {WEST}: 1450"), format!("{WEST} -> {EAST}: 1450")] {
        assert!(lines.iter().any(|line| line.starts_with(&way)), "{lines:?}");
    }
    assert!(lines.iter().any(|line| line.contains("large TLS download")), "{lines:?}");

    world.sim.with_reach(|reach| {
        *reach = Reach { mtu: [("west".to_owned(), 1400)].into(), ..Reach::default() };
    });
    let insights = world.preflight(&driver, cluster).await;
    assert_eq!(blocking(&insights), ["mtu_small"]);
    let lines = &found(&insights, "mtu_small").resources;
    assert!(lines.contains(&"new nodes have MTU 1400, old ones 1450".to_owned()), "{lines:?}");
}

#[tokio::test]
async fn f60_a_canary_that_never_joins_leaves_its_console_and_no_server() {
    let world = world().await;
    let driver = world.replica(CrashPoints::none());
    let cluster = world.cluster(&driver, "alpha", 1).await;
    world.sim.with_reach(|reach| reach.close("west", "east", port("tcp/6443")));
    let insights = world.preflight(&driver, cluster).await;
    assert_eq!(blocking(&insights), ["cannot_join", "port_closed"]);
    let one = found(&insights, "cannot_join");
    assert!(!one.is_waivable);
    assert!(one.reason.contains("not joined 60 s later"), "{}", one.reason);
    assert!(one.reason.contains("6443: i/o timeout"), "{}", one.reason);
    let rule = &found(&insights, "port_closed").resources[0];
    assert!(rule.starts_with(&format!("{WEST} -> {EAST} (API 127.10.")), "{rule}");
    nothing_left(&world, &driver, cluster).await;

    // A server that is not even built.
    world.sim.with_reach(|reach| *reach = Reach::default());
    world.sim.with_cloud("west", |cloud, _| {
        cloud.faults.mishaps.push(Mishap::next(Trouble::SpawnError, 1));
    });
    let insights = world.preflight(&driver, cluster).await;
    assert_eq!(blocking(&insights), ["cannot_join"]);
    assert!(found(&insights, "cannot_join").reason.contains("ERROR"));
    nothing_left(&world, &driver, cluster).await;
}

#[tokio::test]
async fn f60_three_servers_that_never_join_pause_the_migration_with_the_likely_cause() {
    let world = world().await;
    let driver = world.replica(CrashPoints::none());
    let cluster = world.cluster(&driver, "alpha", 1).await;
    world.sim.with_cloud("west", |cloud, _| {
        let chance = Chance::default();
        cloud.faults.mishaps.push(Mishap { what: Trouble::NeverJoins, name: None, chance });
    });
    let id = world.migrate(cluster, json!({"target": "west", "hold_seconds": 1})).await;
    world
        .settle(&driver, "the migration pauses", async |world| {
            let view = zcp::app::migrations::show(&world.app, &world.ask.caller, id).await;
            view.expect("a migration").row.paused.is_some()
        })
        .await;
    let view = zcp::app::migrations::show(&world.app, &world.ask.caller, id).await;
    let reason = view.expect("a migration").row.paused.expect("a reason");
    assert!(reason.starts_with("3 servers in a row came to nothing"), "{reason}");
    assert!(reason.contains("zcp: failed: kubeadm join"), "{reason}");
    world.steer(id, Verb::Rollback).await;
    world.until(&driver, id, Phase::RolledBack).await;
    world.delete(&driver, cluster).await;
    world.sweep(&driver).await;
}

#[tokio::test]
async fn a_good_result_is_believed_for_a_day_and_a_bad_one_for_the_wish_it_was_made_for() {
    let world = world().await;
    let driver = world.replica(CrashPoints::none());
    let cluster = world.cluster(&driver, "alpha", 1).await;
    world.preflight(&driver, cluster).await;
    world.preflight(&driver, cluster).await;
    assert_eq!(world.canaries_made().await, 1);
    world.sim.with_reach(|reach| reach.take_away("west", Service::Ntp));
    let insights = world.preflight(&driver, cluster).await;
    assert!(blocking(&insights).is_empty(), "what was seen an hour ago is believed");
    world.db.clock.advance(jiff::SignedDuration::from_hours(25));
    let insights = world.preflight(&driver, cluster).await;
    assert_eq!((blocking(&insights), world.canaries_made().await), (vec!["ntp"], 2));
    world.sim.with_reach(|reach| *reach = Reach::default());
    let insights = world.preflight(&driver, cluster).await;
    assert!(blocking(&insights).is_empty(), "who asks again has mended something");
    assert_eq!(world.canaries_made().await, 3);
    nothing_left(&world, &driver, cluster).await;
}

#[tokio::test]
async fn a_migration_waits_for_its_canary_and_a_cancelled_one_takes_it_along() {
    let world = world().await;
    let driver = world.replica(CrashPoints::none());
    let cluster = world.cluster(&driver, "alpha", 1).await;
    let spec = json!({"target": "west", "canary": "auto", "hold_seconds": 3600});
    let id = world.migrate(cluster, spec.clone()).await;
    world
        .settle(&driver, "a canary is on its way", async |world| {
            !world.canary_things(cluster).is_empty()
        })
        .await;
    assert_eq!(world.phase(id).await, Phase::Preflight);
    world.steer(id, Verb::Cancel).await;
    world.until(&driver, id, Phase::Cancelled).await;
    nothing_left(&world, &driver, cluster).await;

    // The target dies with a canary on it: its server is deleted when the cloud is back.
    let id = world.migrate(cluster, spec.clone()).await;
    world
        .settle(&driver, "a canary has a server", async |world| {
            world.sim.truth().servers.iter().any(|server| server.name.contains("-canary-"))
        })
        .await;
    world.sim.with_cloud("west", |cloud, _| cloud.faults.power = Power::Refusing);
    world.steer(id, Verb::Cancel).await;
    world.until(&driver, id, Phase::Cancelled).await;
    world.sim.with_cloud("west", |cloud, _| cloud.faults.power = Power::Up);
    nothing_left(&world, &driver, cluster).await;

    let id = world.migrate(cluster, spec).await;
    world.until(&driver, id, Phase::Holding).await;
    assert!(world.canary_things(cluster).is_empty());
}

#[tokio::test]
async fn a_deleted_cluster_takes_its_canary_along() {
    let world = world().await;
    let driver = world.replica(CrashPoints::none());
    let cluster = world.cluster(&driver, "alpha", 1).await;
    let id = world.wish_canary(cluster, FLAVOR).await;
    world
        .settle(&driver, "the canary is a node", async |world| {
            world.canary(id).await.probe_since.is_some()
        })
        .await;
    world.delete(&driver, cluster).await;
    assert_eq!(world.canary(id).await.outcome, Some(Outcome::GivenUp));
    assert!(world.canary_things(cluster).is_empty());
    world.sweep(&driver).await;
}
