//! The client against a simulated cloud that is full, pages, or loses answers.

use std::sync::Arc;

use zcp::domain::inventory::ServerStatus;
use zcp::domain::outside::OutsideKind;
use zcp::openstack::nova::{CreateServer, ServerFilter};
use zcp::sim::faults::{Chance, Effect, Mishap, Rule, Trouble};
use zcp::sim::settings::CloudSettings;
use zcp::sim::{Timing, World, WorldSettings};

use super::contract::Subject;

fn east(change: impl FnOnce(&mut CloudSettings)) -> (Subject, Arc<World>) {
    let mut settings = WorldSettings::with_timing(Timing::steady());
    change(&mut settings.clouds[0]);
    Subject::simulated("east", settings)
}

fn order(world: &World, effect: Effect) {
    let rule = Rule::new("nova", "create_server", effect, Chance::next(1));
    world.with_cloud("east", |cloud, _| cloud.faults.rules.push(rule)).expect("east is there");
}

async fn create(subject: &Subject, name: &str) -> Result<String, OutsideKind> {
    let port = subject.port(name).await;
    let wanted = subject.wanted(name, &port).await;
    subject.client.create_server(&wanted).await.map_err(|error| error.kind)
}

#[tokio::test]
async fn a_create_whose_answer_was_lost_is_unclear_and_its_server_is_found() {
    let (subject, world) = east(|_| {});
    for (name, effect, is_made) in [
        ("gateway", Effect::DoneButAnswered { status: 504 }, true),
        ("cut-late", Effect::DoneButCut, true),
        ("cut-early", Effect::Cut, false),
    ] {
        order(&world, effect);
        assert_eq!(create(&subject, name).await, Err(OutsideKind::Unclear), "{name}");
        let filter =
            ServerFilter { tags: vec![format!("zcp-c:{name}")], ..ServerFilter::default() };
        let list = subject.client.list_servers(&filter).await.expect("a list");
        assert_eq!(list.servers.len(), usize::from(is_made), "{name}");
    }
}

#[tokio::test]
async fn a_full_quota_is_no_capacity() {
    let (subject, _world) = east(|cloud| cloud.quota.instances = 1);
    create(&subject, "first").await.expect("it fits");
    assert_eq!(create(&subject, "second").await, Err(OutsideKind::NoCapacity));

    let (subject, _world) = east(|cloud| cloud.quota.ports = 1);
    let port = subject.port("first").await;
    let wanted = zcp::openstack::neutron::CreatePort {
        network_id: port.network_id,
        ..zcp::openstack::neutron::CreatePort::default()
    };
    let error = subject.client.create_port(&wanted).await.expect_err("the quota is 1");
    assert_eq!((error.kind, error.status), (OutsideKind::NoCapacity, Some(409)), "{error}");
}

#[tokio::test]
async fn f24_a_full_subnet_and_a_full_server_group_are_no_capacity() {
    let (subject, _world) = east(|cloud| {
        cloud.quota.server_group_members = 1;
        cloud.addresses = 2;
    });
    let group_id = subject.client.create_server_group("g").await.expect("made");
    let mut kinds = Vec::new();
    for name in ["a", "b"] {
        let port = subject.port(name).await;
        let wanted = subject.wanted(name, &port).await;
        let wanted = CreateServer { group_id: Some(group_id.clone()), ..wanted };
        kinds.push(subject.client.create_server(&wanted).await.map_err(|error| error.kind).err());
    }
    assert_eq!(kinds, [None, Some(OutsideKind::NoCapacity)]);
    let network = subject.client.list_networks().await.expect("networks").remove(0);
    let third = zcp::openstack::neutron::CreatePort {
        network_id: network.id,
        ..zcp::openstack::neutron::CreatePort::default()
    };
    let error = subject.client.create_port(&third).await.expect_err("no address is left");
    assert_eq!(error.kind, OutsideKind::NoCapacity, "{error}");
}

#[tokio::test]
async fn a_cloud_without_room_says_so_in_the_fault_of_the_server() {
    let (subject, world) = east(|_| {});
    let mishap = Mishap::next(Trouble::NoValidHost, 1);
    world.with_cloud("east", |cloud, _| cloud.faults.mishaps.push(mishap)).expect("east is there");
    let id = create(&subject, "homeless").await.expect("accepted all the same");
    let server = subject.settled(&id, &ServerStatus::Error).await;
    let fault = server.fault.expect("a reason");
    assert!(fault.message.contains("No valid host"), "{fault:?}");
}

#[tokio::test]
async fn a_cloud_that_pages_is_read_to_its_end() {
    let (subject, world) = east(|cloud| cloud.max_limit = 3);
    for number in 0..7 {
        create(&subject, &format!("s{number}")).await.expect("accepted");
        subject.client.create_server_group(&format!("g{number}")).await.expect("made");
    }
    let list = subject.client.list_servers(&ServerFilter::default()).await.expect("a list");
    assert_eq!(list.servers.len(), 7);
    assert_eq!(subject.client.list_server_groups().await.expect("a list").len(), 7);
    let rule = |effect| Rule::new("nova", "list_servers", effect, Chance::next(3));
    let broken = rule(Effect::Answer { status: 500, retry_after: None, message: None });
    world.with_cloud("east", |cloud, _| cloud.faults.rules.push(broken)).expect("east is there");
    let error = subject.client.list_servers(&ServerFilter::default()).await.expect_err("500");
    assert_eq!(error.kind, OutsideKind::Transient);
}
