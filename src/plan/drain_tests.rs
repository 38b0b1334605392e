use uuid::Uuid;

use super::*;
use crate::domain::pod::{ClaimView, Controller, DaemonSetOwner, DrainWish, PodPhase, PodRef};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A running pod of a Deployment that bears its name.
fn pod(name: &str) -> PodView {
    PodView {
        pod: PodRef { namespace: "shop".into(), name: name.into(), uid: name.into() },
        controller: Some(Controller {
            kind: "ReplicaSet".into(),
            name: format!("{name}-5d8f"),
            daemon_set: DaemonSetOwner::No,
        }),
        ..PodView::example()
    }
}

fn with_volume(name: &str) -> PodView {
    let claim = ClaimView {
        name: "data".into(),
        volume: Some(format!("pv-{name}")),
        driver: Some("csi.test".into()),
        handle: Some(format!("h-{name}")),
        is_node_bound: false,
    };
    PodView { claims: vec![claim], ..pod(name) }
}

/// A pod that was asked at second 1000, with 30 s of grace.
fn terminating(of: PodView) -> PodView {
    PodView { deletion_at: Some(at(1030)), ..of }
}

fn daemon(of: PodView) -> PodView {
    let name = "cni".into();
    let living = DaemonSetOwner::Living;
    PodView {
        controller: Some(Controller { kind: "DaemonSet".into(), name, daemon_set: living }),
        ..of
    }
}

struct Case<'a> {
    pods: Vec<PodView>,
    attached: &'a [&'a str],
    now: i64,
    is_unreachable: bool,
    is_forced: bool,
    singles: &'a [(&'a str, u32)],
}

impl Default for Case<'_> {
    fn default() -> Self {
        let (is_unreachable, is_forced) = (false, false);
        Self { pods: vec![], attached: &[], now: 1001, is_unreachable, is_forced, singles: &[] }
    }
}

impl Case<'_> {
    /// The pass in short words.
    fn outcome(&self) -> Vec<String> {
        let attached = self.attached.iter().map(|name| (*name).to_owned()).collect();
        let workloads: Vec<WorkloadView> = self
            .singles
            .iter()
            .map(|(name, available)| WorkloadView {
                kind: "Deployment".into(),
                namespace: "shop".into(),
                name: (*name).to_owned(),
                wanted: 1,
                available: *available,
            })
            .collect();
        let node = NodePass {
            node: NodeId(Uuid::nil()),
            is_unreachable: self.is_unreachable,
            is_forced: self.is_forced,
            pods: &self.pods,
            attached: &attached,
        };
        let pass =
            round(&Round { now: at(self.now), nodes: vec![node], workloads: &workloads }).remove(0);
        let name = |ask: &Ask| self.pods[ask.pod].pod.name.clone();
        let mut words: Vec<String> = pass
            .asks
            .iter()
            .map(|ask| match ask.how {
                How::Evict { grace_seconds: None } => format!("evict {}", name(ask)),
                How::Evict { grace_seconds: Some(s) } => format!("evict {} in {s}", name(ask)),
                How::Delete { grace_seconds: None } => format!("delete {}", name(ask)),
                How::Delete { grace_seconds: Some(s) } => format!("delete {} in {s}", name(ask)),
            })
            .collect();
        words.extend(pass.blockers.iter().map(|b| format!("{:?} {}: {}", b.kind, b.pod, b.reason)));
        words.extend(pass.is_done.then(|| "done".to_owned()));
        words
    }
}

#[test]
fn each_pod_goes_when_its_turn_has_come() {
    let order = |order, name: &str| PodView { order, ..pod(name) };
    let finished = |name: &str| PodView { phase: PodPhase::Succeeded, ..pod(name) };
    let waits = |name: &str| PodView { drain_wish: Some(DrainWish::WaitCompleted), ..pod(name) };
    let many: Vec<PodView> = (10..35).map(|n| pod(&format!("p{n}"))).collect();
    let twenty: Vec<String> = (10..30).map(|n| format!("evict p{n}")).collect();
    let eighteen: Vec<String> = (12..30).map(|n| format!("evict p{n}")).collect();
    let mut two_stop = many.clone();
    two_stop[0] = terminating(pod("p10"));
    two_stop[1] = terminating(pod("p11"));
    let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    let cases = [
        (vec![], words(&["done"])),
        (vec![daemon(pod("cni"))], words(&["done"])),
        (vec![pod("a"), finished("b")], words(&["delete b", "evict a"])),
        (vec![order(1, "late"), order(-1, "first")], words(&["evict first"])),
        (vec![order(1, "late"), terminating(order(0, "first"))], words(&[])),
        (vec![order(1, "late"), daemon(order(0, "cni"))], words(&["evict late"])),
        (vec![waits("job")], words(&["Completion shop/job: is to finish by itself, by its label"])),
        (many, twenty),
        (two_stop, eighteen),
    ];
    for (pods, expected) in cases {
        assert_eq!(Case { pods, ..Case::default() }.outcome(), expected);
    }
}

#[test]
fn pods_with_volumes_go_one_by_one_and_each_volume_is_detached_first() {
    let turn = "Turn shop/b: waits until the volume of another pod is detached";
    let both = || vec![with_volume("a"), with_volume("b")];
    let cases: [(Vec<PodView>, &[&str], &[&str]); 5] = [
        (both(), &["pv-a", "pv-b"], &["evict a", turn]),
        (vec![terminating(with_volume("a")), with_volume("b")], &["pv-a", "pv-b"], &[turn]),
        (vec![with_volume("b")], &["pv-a", "pv-b"], &[turn]),
        (vec![with_volume("b")], &["pv-b"], &["evict b"]),
        (vec![with_volume("b"), pod("c")], &["pv-a", "pv-b"], &["evict c", turn]),
    ];
    for (pods, attached, expected) in cases {
        assert_eq!(Case { pods, attached, ..Case::default() }.outcome(), expected);
    }
}

#[test]
fn f47_a_node_is_done_when_its_volumes_are_detached() {
    type Row<'a> = (Vec<PodView>, &'a [&'a str], bool, &'a [&'a str]);
    let left = "Volume pv-a: is still attached; its server is not given up before";
    let stays = || vec![daemon(with_volume("logs"))];
    let cases: [Row<'_>; 4] = [
        (vec![], &["pv-a"], false, &[left]),
        (stays(), &["pv-logs", "kubernetes.io/csi/csi.test^h-logs"], false, &["done"]),
        (stays(), &["pv-a", "pv-logs"], false, &[left]),
        (vec![], &["pv-a"], true, &["done"]),
    ];
    for (pods, attached, is_unreachable, expected) in cases {
        assert_eq!(Case { pods, attached, is_unreachable, ..Case::default() }.outcome(), expected);
    }
}

#[test]
fn f44_a_stuck_pod_is_told_with_its_finalizers_and_only_force_ends_it() {
    let held = |of: PodView| PodView { finalizers: vec!["backup/wait".into()], ..of };
    let stuck = || vec![held(terminating(pod("db")))];
    let overdue = "Overdue shop/db: should have stopped at 1970-01-01T00:17:10Z; \
                   finalizers: backup/wait";
    let outcome = |now, is_forced, pods| Case { pods, now, is_forced, ..Case::default() }.outcome();
    assert_eq!(outcome(1029, false, stuck()), Vec::<String>::new());
    assert_eq!(outcome(1030 + 180, false, stuck()), Vec::<String>::new());
    assert_eq!(outcome(1030 + 181, false, stuck()), [overdue]);
    assert_eq!(outcome(1030 + 181, true, stuck()), ["delete db in 0", overdue]);
    let dead = PodView { grace_seconds: 0, ..held(terminating(pod("db"))) };
    assert_eq!(outcome(1030 + 190, true, vec![dead.clone()]), ["done"]);
    assert_eq!(outcome(1030 + 190, false, vec![dead]), [overdue]);
}

#[test]
fn f55_a_long_grace_period_is_waited_for_and_told() {
    let slow = PodView { deletion_at: Some(at(1000 + 7200)), grace_seconds: 7200, ..pod("db") };
    let told = "Stopping shop/db: has until 1970-01-01T02:16:40Z to stop (7200 s of grace)";
    let outcome = |now| Case { pods: vec![slow.clone()], now, ..Case::default() }.outcome();
    assert_eq!(outcome(1001), [told]);
    assert_eq!(outcome(1000 + 7100), [told]);
    assert_eq!(outcome(1000 + 7200 + 180), Vec::<String>::new());
    assert!(outcome(1000 + 7200 + 181)[0].starts_with("Overdue"));
}

#[test]
fn f45_on_a_silent_node_pods_get_one_second_and_are_not_waited_for() {
    let outcome = |pods, now| {
        let attached = &["pv-a", "pv-b"];
        Case { pods, attached, now, is_unreachable: true, ..Case::default() }.outcome()
    };
    let both = vec![with_volume("a"), with_volume("b")];
    assert_eq!(outcome(both, 1000), ["evict a in 1", "evict b in 1"]);
    let told = || PodView { grace_seconds: 1, deletion_at: Some(at(1001)), ..with_volume("a") };
    assert_eq!(outcome(vec![told()], 1001), Vec::<String>::new());
    assert_eq!(outcome(vec![told()], 1002), ["done"]);
}

#[test]
fn f51_single_replicas_of_a_namespace_go_one_at_a_time() {
    type Row<'a> = (&'a [(&'a str, u32)], &'a [&'a str]);
    let turn = "Turn shop/b: waits until another single replica of its namespace runs again";
    let pods = || vec![pod("a"), pod("b"), pod("c")];
    let cases: [Row<'_>; 3] = [
        (&[("a", 1), ("b", 1)], &["evict a", "evict c", turn]),
        (&[("gone", 0), ("b", 1)], &["evict a", "evict c", turn]),
        (&[("b", 1)], &["evict a", "evict b", "evict c"]),
    ];
    for (singles, expected) in cases {
        assert_eq!(Case { pods: pods(), singles, ..Case::default() }.outcome(), expected);
    }
}

#[test]
fn f50_daemons_and_mirrors_stay_orphans_and_the_finished_go() {
    let orphan = DaemonSetOwner::Gone;
    let owner = Controller { kind: "DaemonSet".into(), name: "old".into(), daemon_set: orphan };
    let pods = vec![
        daemon(pod("cni")),
        PodView { is_mirror: true, ..pod("kube-proxy") },
        PodView { controller: Some(owner), ..pod("orphan") },
        PodView { phase: PodPhase::Failed, ..pod("job") },
    ];
    assert_eq!(Case { pods, ..Case::default() }.outcome(), ["delete job", "evict orphan"]);
}

#[test]
fn f49_bare_pods_and_those_with_an_empty_dir_are_evicted_once_a_drain_runs() {
    let bare = PodView { controller: None, ..pod("bare") };
    let cache = PodView { has_empty_dir: true, ..pod("cache") };
    let pods = vec![bare, cache];
    assert_eq!(Case { pods, ..Case::default() }.outcome(), ["evict bare", "evict cache"]);
}

#[test]
fn force_deletes_what_refuses_and_what_was_to_finish_by_itself() {
    let job = PodView { drain_wish: Some(DrainWish::WaitCompleted), ..pod("job") };
    let pods = vec![pod("a"), job];
    let case = Case { pods, attached: &["pv-x"], is_forced: true, ..Case::default() };
    assert_eq!(case.outcome(), ["delete a", "delete job"]);
    let empty = Case { attached: &["pv-x"], is_forced: true, ..Case::default() };
    assert_eq!(empty.outcome(), ["done"]);
}
