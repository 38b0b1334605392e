//! What a drain's blockers and a wave's harm lead to, by their age and the spec's choice.

use jiff::SignedDuration;
use serde_json::{Value, json};
use zcp::domain::blocker::{Blocker, BlockerKind};
use zcp::domain::harm::Finding;
use zcp::domain::node::Drain;
use zcp::plan::migration::Step;
use zcp::plan::{cluster, migration};

use super::{Luck, Model};

/// Rounds until a node is being drained.
const ROUNDS: usize = 200;

fn round(model: &mut Model) {
    let plan = cluster::plan(&model.cluster_snapshot());
    let mut was_busy = !plan.steps.is_empty();
    for planned in &plan.steps {
        model.take(&planned.step, (&planned.reason, Luck::Good));
    }
    if let Some(snapshot) = model.migration_snapshot() {
        let plan = migration::plan(&snapshot);
        was_busy |= !plan.steps.is_empty();
        for planned in &plan.steps {
            model.steer(&planned.step);
        }
    }
    if !was_busy {
        model.servers_come_up();
        model.now += SignedDuration::from_secs(30);
    }
}

/// Two workers in one wave, the first of which is being drained since just now.
fn draining(drain: &Value) -> Model {
    let mut model = Model::new(2);
    for _ in 0..ROUNDS {
        if model.workers().any(|node| node.drain == Drain::Evicting) {
            return model;
        }
        if model.migration.is_none()
            && model.workers().filter(|node| node.is_serving()).count() == 2
        {
            let waves = json!([{"upto": "100%", "soak_seconds": 60}]);
            model.migrate(json!({"target": "west", "waves": waves, "drain": drain}));
        }
        round(&mut model);
    }
    panic!("no drain after {ROUNDS} rounds");
}

/// The steps in one word each; a pause with its reason.
fn steps(model: &Model) -> Vec<String> {
    let plan = migration::plan(&model.migration_snapshot().expect("a migration"));
    let word = |step: &Step| match step {
        Step::DrainPass(_) => "pass".to_owned(),
        Step::ForcePass(_) => "force".to_owned(),
        Step::Skip(_) => "skip".to_owned(),
        Step::Cordon(_) => "cordon".to_owned(),
        Step::LookForHarm => "look".to_owned(),
        Step::Pause(why) => format!("pause: {why}"),
        other => other.to_string(),
    };
    plan.steps.iter().map(|planned| word(&planned.step)).filter(|word| word != "look").collect()
}

/// What is planned when a pod has blocked for so many seconds, and the migration was resumed so
/// many seconds ago.
fn blocked(kind: BlockerKind, age: i64, (resumed, choice): (Option<i64>, &str)) -> String {
    let mut model = draining(&json!({"at_deadline": choice, "parallel": 1}));
    let ago = |seconds| model.now - SignedDuration::from_secs(seconds);
    let (since, resumed) = (ago(age), resumed.map(ago));
    let (pod, reason) = ("shop/db-0".to_owned(), "does not go".to_owned());
    let blocker = Blocker { pod, reason, kind, since: Some(since), ..Blocker::default() };
    let node = model.nodes.iter_mut().find(|node| node.drain == Drain::Evicting);
    node.expect("a node").blockers = vec![blocker];
    model.migration.as_mut().expect("a migration").resumed_at = resumed;
    steps(&model).remove(0)
}

#[test]
fn each_blocker_is_waited_for_as_long_as_waiting_may_help() {
    use BlockerKind as K;
    let cases = [
        (K::Budget, 600, None, "pause", "pass"),
        (K::WebhookDenied, 600, None, "pause", "pass"),
        (K::WebhookBroken, 59, None, "pause", "pass"),
        (K::WebhookBroken, 60, None, "pause", "pause: "),
        (K::WebhookBroken, 600, Some(59), "pause", "pass"),
        (K::WebhookBroken, 600, None, "skip_node", "pause: "),
        (K::Volume, 599, None, "pause", "pass"),
        (K::Volume, 600, None, "pause", "pause: "),
        (K::Volume, 6000, Some(10), "pause", "pass"),
        (K::Stopping, 3000, None, "pause", "pass"),
        (K::Overdue, 0, None, "pause", "pause: "),
        (K::Overdue, 0, None, "skip_node", "skip"),
        (K::Overdue, 0, None, "force", "force"),
        (K::Overdue, 300, Some(179), "pause", "pass"),
        (K::Overdue, 300, Some(180), "pause", "pause: "),
    ];
    for (kind, age, resumed, choice, expected) in cases {
        let step = blocked(kind, age, (resumed, choice));
        let said = format!("{kind:?} for {age} s, resumed {resumed:?}, {choice}: {step}");
        assert!(step.starts_with(expected), "{said}");
        if expected == "pause: " {
            assert!(step.contains("web-east-") && step.contains("shop/db-0"), "{said}");
        }
    }
}

#[test]
fn at_its_deadline_a_node_goes_the_way_that_its_owner_chose() {
    for (choice, expected) in [("pause", "pause: "), ("skip_node", "skip"), ("force", "force")] {
        let mut model = draining(&json!({"at_deadline": choice, "timeout_seconds": 300}));
        model.now += SignedDuration::from_secs(299);
        assert_eq!(steps(&model), ["pass"], "{choice}");
        model.now += SignedDuration::from_secs(1);
        assert!(steps(&model)[0].starts_with(expected), "{choice}: {:?}", steps(&model));
    }
}

#[test]
fn f36_a_node_that_only_its_owner_can_free_takes_nobodys_turn() {
    let mut model = draining(&json!({"parallel": 1}));
    assert_eq!(steps(&model), ["pass"]);
    let node = model.nodes.iter_mut().find(|node| node.drain == Drain::Evicting);
    let kind = BlockerKind::TwoBudgets;
    node.expect("a node").blockers = vec![Blocker { kind, ..Blocker::default() }];
    let mut planned = steps(&model);
    planned.sort();
    assert_eq!(planned, ["cordon", "pass"]);
}

#[test]
fn harm_pauses_after_five_minutes_and_a_foreign_node_at_once() {
    let cases = [
        (300, false, None, "pass"),
        (301, false, None, "pause: web: 1 of 3 since "),
        (900, false, Some(300), "pass"),
        (0, true, None, "pause: web: 1 of 3 since "),
        (10, true, Some(5), "pass"),
    ];
    for (age, is_grave, resumed, expected) in cases {
        let mut model = draining(&json!({}));
        let ago = |seconds| model.now - SignedDuration::from_secs(seconds);
        let (since, resumed_at) = (ago(age), resumed.map(ago));
        let what = "web: 1 of 3".to_owned();
        let finding = Finding { key: "web".to_owned(), what, since, is_grave };
        let migration = model.migration.as_mut().expect("a migration");
        migration.harm.findings.push(finding);
        migration.resumed_at = resumed_at;
        let step = steps(&model).remove(0);
        assert!(step.starts_with(expected), "{age} s, grave {is_grave}: {step}");
    }
}
