//! The checks themselves: facts in, insights out; and the whole of a plan as a golden text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use uuid::Uuid;
use zcp::domain::cloud::CloudPhase;
use zcp::domain::cluster::ClusterNetwork;
use zcp::domain::ids::{CloudId, ClusterId, NodeId, PoolId};
use zcp::domain::insight::{Insight, Level, with_waivers};
use zcp::domain::inventory::{HostRoom, Quota, ServerStatus};
use zcp::domain::node::{Desired, Drain, Kubelet, Lineage, Node, Outside, Role};
use zcp::domain::offering::OfferingSpec;
use zcp::domain::preflight::Reservation;
use zcp::domain::survey::{BudgetFacts, PodFacts, Selector, Survey, WorkloadFacts};
use zcp::plan::preflight::{
    CloudFacts, ClusterFacts, Facts, PoolFacts, assign_waves, check, plan_move,
};

use crate::support::api::inventory;

const EAST: CloudId = CloudId(Uuid::from_u128(1));
const WEST: CloudId = CloudId(Uuid::from_u128(2));
const POOL: PoolId = PoolId(Uuid::from_u128(3));

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().expect("a time")
}

fn cloud(id: CloudId, name: &str) -> CloudFacts {
    let spec = json!({
        "auth_url": "https://keystone.example/v3", "region": "R",
        "defaults": {"network": "nodes", "security_group": "nodes", "flavor": "m1.small"},
    });
    CloudFacts {
        id,
        name: name.to_owned(),
        spec: serde_json::from_value(spec).expect("a cloud"),
        phase: CloudPhase::Ready,
        complaints: Vec::new(),
        has_account: true,
        inventory: Some(serde_json::from_value(inventory(50)).expect("an inventory")),
        inventory_at: Some(now()),
    }
}

fn node(n: u128, role: Role) -> Node {
    let is_worker = role == Role::Worker;
    let kubelet = Kubelet {
        is_ready: true,
        is_ours: true,
        is_labelled: true,
        has_daemons: true,
        ..Kubelet::default()
    };
    Node {
        id: NodeId(Uuid::from_u128(100 + n)),
        cluster_id: ClusterId(Uuid::from_u128(9)),
        pool_id: is_worker.then_some(POOL),
        role,
        member: (!is_worker).then_some(0),
        name: format!("shop-{}-{n}", if is_worker { "web" } else { "cp" }),
        cloud_id: EAST,
        desired: Desired::Present,
        attempt: 0,
        not_before: None,
        created_at: now() - SignedDuration::from_hours(48),
        port: Outside::Present,
        port_id: None,
        address: Some(format!("10.10.0.{n}")),
        server: Outside::Present,
        server_id: None,
        server_intent_at: None,
        server_status: Some(ServerStatus::Active),
        server_fault: None,
        server_missing_since: None,
        token: Outside::Gone,
        object: Outside::Present,
        kubelet,
        drain: Drain::Idle,
        drain_started_at: None,
        was_cordoned: false,
        blockers: Vec::new(),
        usable_at: Some(now() - SignedDuration::from_hours(48) + SignedDuration::from_secs(90)),
        trouble: None,
        lineage: Lineage::default(),
        signs: zcp::domain::node::Signs::default(),
    }
}

/// A cluster of four workers on east, which may all go to west.
fn facts() -> Facts {
    let mut nodes = vec![node(1, Role::ControlPlane)];
    nodes.extend((2..6).map(|n| node(n, Role::Worker)));
    let spec = json!({"target": "west", "canary": "auto"});
    let spec = serde_json::from_value(spec).expect("a migration");
    let later = now() + SignedDuration::from_hours(3650 * 24);
    Facts {
        now: now(),
        waves: assign_waves(&spec, &[(POOL, EAST)], nodes.iter()),
        spec,
        cluster: ClusterFacts {
            name: "shop".to_owned(),
            endpoint: "10.10.0.9:6443".to_owned(),
            offering: OfferingSpec {
                kubernetes_version: "1.36.2".parse().expect("a version"),
                addon_manager_version: "1.36.0".parse().expect("a version"),
                images: BTreeMap::new(),
                cni_manifest: "kind: ConfigMap".to_owned(),
                cni_ports: Vec::new(),
                node_daemons: Vec::new(),
            },
            network: ClusterNetwork::default(),
        },
        source: cloud(EAST, "east"),
        target: cloud(WEST, "west"),
        pair: None,
        pools: vec![PoolFacts {
            id: POOL,
            name: "web".to_owned(),
            flavor: "m1.small".to_owned(),
            zone: None,
            network: None,
            security_group: None,
            image: None,
            count: 4,
            surge: 1,
            labels: BTreeMap::new(),
        }],
        nodes,
        survey: Ok(Survey::default()),
        rooms: BTreeMap::from([("m1.small".to_owned(), (0..8).map(|n| room(n, 8)).collect())]),
        reserved: Vec::new(),
        certificates: vec![("cluster_ca".to_owned(), later)],
        user_data: vec![("web".to_owned(), 9000)],
        user_data_max: 49_151,
        other_jobs: Vec::new(),
        canaries: Vec::new(),
    }
}

fn room(n: u32, vcpus: u64) -> HostRoom {
    let free = [("VCPU", vcpus), ("MEMORY_MB", 65_536), ("DISK_GB", 1000)];
    HostRoom {
        id: format!("host-{n}"),
        free: free.map(|(class, left)| (class.to_owned(), left)).into(),
    }
}

fn quotas(facts: &mut Facts) -> &mut zcp::domain::inventory::Quotas {
    &mut facts.target.inventory.as_mut().expect("an inventory").quotas
}

fn quota(limit: u64, used: u64) -> Quota {
    Quota { limit: Some(limit), used: Some(used) }
}

fn survey(facts: &mut Facts) -> &mut Survey {
    facts.survey.as_mut().expect("a survey")
}

/// A pod of a Deployment on the first worker.
fn pod(name: &str) -> PodFacts {
    PodFacts {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        node: Some("shop-web-2".to_owned()),
        labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
        controller: Some("ReplicaSet".to_owned()),
        is_ready: true,
        grace_seconds: 30,
        ..PodFacts::default()
    }
}

fn reservation(servers: u64) -> Reservation {
    Reservation {
        by: "migration of cluster bank".to_owned(),
        flavor: "m1.small".to_owned(),
        servers,
        is_same_account: true,
    }
}

/// What is not well, as `LEVEL id`, and `!` where it can't be waived.
fn trouble(facts: &Facts) -> Vec<String> {
    let mark = |one: &Insight| if one.level == Level::Block && !one.is_waivable { "!" } else { "" };
    let line = |one: &Insight| format!("{} {}{}", one.level.as_str(), one.id, mark(one));
    check(facts).iter().filter(|one| one.level != Level::Pass).map(line).collect()
}

type Change = fn(&mut Facts);

#[test]
#[expect(clippy::too_many_lines, reason = "one table, a row for each trouble")]
fn each_trouble_is_told_by_its_own_insight() {
    let cases: [(&str, Change, &[&str]); 30] = [
        ("nothing", |_| {}, &[]),
        ("no login", |f| f.target.has_account = false, &["BLOCK cloud_unreachable!"]),
        (
            "cloud is away",
            |f| f.target.complaints = vec!["auth_url: no answer".into()],
            &["BLOCK cloud_unreachable!"],
        ),
        ("no API", |f| f.survey = Err("no answer".into()), &["BLOCK cluster_unreachable!"]),
        ("cut lists", |f| survey(f).cut = vec!["pods".into()], &["WARN cluster_unreachable"]),
        ("other job", |f| f.other_jobs = vec!["migration x".into()], &["BLOCK other_job!"]),
        (
            "two images",
            |f| {
                let images = &mut f.target.inventory.as_mut().unwrap().images;
                images.push(images[0].clone());
                f.target.spec.defaults.image = Some("node-1.36.2".into());
            },
            &["BLOCK target_image!"],
        ),
        (
            "image of another version",
            |f| {
                f.target.inventory.as_mut().unwrap().images[0].kubernetes_version =
                    Some("1.35.0".into());
            },
            &["BLOCK target_image!"],
        ),
        (
            "no network",
            |f| f.target.inventory.as_mut().unwrap().networks.clear(),
            &["BLOCK target_network!"],
        ),
        (
            "two groups",
            |f| {
                let groups = &mut f.target.inventory.as_mut().unwrap().security_groups;
                groups.push(groups[0].clone());
                groups[1].id = "g-2".into();
            },
            &["BLOCK target_security_group!"],
        ),
        (
            "zone takes nothing",
            |f| {
                f.target.spec.defaults.zone = Some("nova".into());
                f.target.inventory.as_mut().unwrap().zones[0].is_available = false;
            },
            &["BLOCK target_zone!"],
        ),
        (
            "smaller flavor",
            |f| f.target.inventory.as_mut().unwrap().flavors[0].ram_mb = 1024,
            &["WARN flavor_smaller"],
        ),
        ("quota too small", |f| quotas(f).instances = quota(10, 7), &["BLOCK quota!"]),
        ("quota without surge", |f| quotas(f).cores = quota(8, 0), &["WARN quota"]),
        (
            "quota reserved",
            |f| {
                quotas(f).instances = quota(10, 2);
                f.reserved = vec![reservation(5)];
            },
            &["BLOCK quota!"],
        ),
        (
            "reserved elsewhere",
            |f| {
                quotas(f).instances = quota(10, 2);
                f.reserved = vec![Reservation { is_same_account: false, ..reservation(5) }];
            },
            &[],
        ),
        (
            "hosts in pieces",
            |f| {
                f.rooms.insert("m1.small".into(), (0..8).map(|n| room(n, 1)).collect());
            },
            &["BLOCK capacity"],
        ),
        (
            "hosts just enough",
            |f| {
                f.rooms.insert("m1.small".into(), (0..4).map(|n| room(n, 3)).collect());
            },
            &["WARN capacity"],
        ),
        ("hosts not told", |f| f.rooms.clear(), &[]),
        ("few groups", |f| quotas(f).server_groups = quota(10, 10), &["BLOCK server_groups!"]),
        ("large user data", |f| f.user_data[0].1 = 49_152, &["BLOCK user_data!"]),
        (
            "few addresses",
            |f| {
                f.target.inventory.as_mut().unwrap().networks[0].subnets[0].free_addresses =
                    Some(3);
            },
            &["BLOCK addresses!"],
        ),
        (
            "pods are where nodes are",
            |f| f.cluster.network.pod_cidr = "10.10.0.0/16".into(),
            &["BLOCK network_overlap!"],
        ),
        (
            "few ranges of pods",
            |f| f.cluster.network.pod_cidr = "10.244.0.0/21".into(),
            &["BLOCK pod_cidr_room!"],
        ),
        ("node is away", |f| f.nodes[2].kubelet.is_ready = false, &["WARN unhealthy_nodes"]),
        ("foreign cordon", |f| f.nodes[2].kubelet.is_cordoned = true, &["WARN foreign_cordons"]),
        (
            "certificate ends soon",
            |f| {
                f.certificates.push(("API".into(), now() + SignedDuration::from_hours(24 * 20)));
            },
            &["WARN certificates"],
        ),
        (
            "certificate ends in the hold",
            |f| {
                f.certificates.push(("API".into(), now() + SignedDuration::from_hours(20)));
            },
            &["BLOCK certificates"],
        ),
        (
            "pod without node",
            |f| {
                survey(f).pods.push(PodFacts { node: None, is_pending: true, ..pod("late") });
            },
            &["WARN pending_pods"],
        ),
        (
            "daemons and mirrors stay",
            |f| {
                let daemon = PodFacts { controller: Some("DaemonSet".into()), ..pod("cni") };
                let mirror = PodFacts { controller: None, stays: true, ..pod("proxy") };
                survey(f).pods.extend([daemon, mirror]);
            },
            &[],
        ),
    ];
    for (what, change, wanted) in cases {
        let mut facts = facts();
        change(&mut facts);
        assert_eq!(trouble(&facts), wanted, "{what}");
    }
}

#[test]
fn f09_pools_larger_than_a_server_group_need_several() {
    let mut facts = facts();
    facts.pools[0].count = 25;
    quotas(&mut facts).server_group_members = quota(10, 0);
    quotas(&mut facts).server_groups = quota(2, 0);
    let plan = plan_move(&facts).expect("a plan");
    assert_eq!(plan.needs.server_groups, 3, "25 nodes and one of surge, ten a group");
    assert_eq!(trouble(&facts), ["BLOCK server_groups!"]);
    quotas(&mut facts).server_groups = quota(3, 0);
    assert_eq!(trouble(&facts), [""; 0]);
}

#[test]
fn f21_user_data_is_measured_before_the_first_server() {
    let mut facts = facts();
    for (size, wanted) in [(49_151, &[][..]), (49_152, &["BLOCK user_data!"])] {
        facts.user_data[0].1 = size;
        assert_eq!(trouble(&facts), wanted, "{size} bytes");
    }
}

#[test]
fn f23_a_doubled_or_missing_name_blocks() {
    let mut facts = facts();
    let inventory = facts.target.inventory.as_mut().expect("an inventory");
    inventory.flavors.clear();
    assert!(trouble(&facts).contains(&"BLOCK target_flavor!".to_owned()));
}

#[test]
fn a_large_move_in_trouble_prints_as_it_always_did() {
    let mut facts = facts();
    quotas(&mut facts).instances = quota(10, 7);
    facts.nodes[4].kubelet.is_cordoned = true;
    let budget = BudgetFacts {
        namespace: "default".into(),
        name: "web".into(),
        selector: Selector { labels: pod("web").labels, expressions: Vec::new() },
        allowed: 0,
        healthy: 2,
        expected: 2,
    };
    let single = WorkloadFacts {
        kind: "Deployment".into(),
        namespace: "default".into(),
        name: "mail".into(),
        replicas: 1,
        labels: pod("mail").labels,
        ..WorkloadFacts::default()
    };
    let survey = survey(&mut facts);
    survey.budgets.push(budget);
    survey.workloads.push(single);
    survey.pods.extend([pod("web"), pod("mail")]);
    survey.pods.push(PodFacts { controller: None, ..pod("lonely") });
    survey.pods.push(PodFacts { empty_dirs: vec![Some("20Gi".into())], ..pod("cache") });
    let mut text = String::new();
    for one in with_waivers(check(&facts), &[], now()) {
        let _ = writeln!(text, "{} {}: {}", one.level.as_str(), one.id, one.reason);
        for resource in &one.resources {
            let _ = writeln!(text, "    - {resource}");
        }
        if !one.fix.is_empty() {
            let end = if one.level == Level::Block && !one.is_waivable { " [final]" } else { "" };
            let _ = writeln!(text, "    fix: {}{end}", one.fix);
        }
    }
    let plan = plan_move(&facts).expect("a plan");
    for wave in &plan.waves {
        let (number, upto) = (wave.number, &wave.upto);
        let _ = writeln!(text, "wave {number} up to {upto}: {} s", wave.seconds);
        let _ = writeln!(text, "    {}", wave.nodes.join(", "));
    }
    let _ = writeln!(text, "{:?}\n{:?}", plan.needs, plan.estimate);
    golden("preflight.txt", &text);
}

/// Compares with a file under tests/golden/plans; `ZCP_GOLDEN=write` writes it anew.
fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/plans").join(name);
    if std::env::var_os("ZCP_GOLDEN").is_some_and(|value| value == "write") {
        std::fs::write(&path, text).expect("write a golden file");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "differs from {name}; ZCP_GOLDEN=write accepts it");
}
