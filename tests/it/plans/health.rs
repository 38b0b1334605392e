//! Which nodes that fell silent are replaced, and which are not.

use jiff::SignedDuration;
use zcp::domain::inventory::ServerStatus;
use zcp::domain::node::{Node, Role};
use zcp::plan::cluster::{Snapshot, Step, plan};

use super::{EAST, Luck, Model};

/// A cluster of so many workers that all served, and its lists are fresh.
fn served(workers: u32) -> Model {
    let mut model = Model::new(workers);
    for _ in 0..200 {
        let plan = plan(&model.cluster_snapshot());
        for planned in &plan.steps {
            model.take(&planned.step, (&planned.reason, Luck::Good));
        }
        model.servers_come_up();
        if plan.steps.is_empty() && plan.waiting.is_empty() {
            break;
        }
    }
    assert_eq!(model.nodes.iter().filter(|node| node.is_serving()).count(), workers as usize + 1);
    model
}

fn workers(model: &mut Model) -> Vec<&mut Node> {
    model.nodes.iter_mut().filter(|node| node.role == Role::Worker).collect()
}

/// Makes the first workers silent, so many minutes ago.
fn silence(model: &mut Model, count: usize, minutes: i64) {
    let since = model.now - SignedDuration::from_mins(minutes);
    for node in workers(model).into_iter().take(count) {
        node.kubelet.is_ready = false;
        node.signs.unready_since = Some(since);
    }
}

fn fresh(model: &Model) -> Snapshot {
    let mut snapshot = model.cluster_snapshot();
    snapshot.cluster.listed_at = Some(model.now);
    snapshot
}

fn replaced(snapshot: &Snapshot) -> usize {
    plan(snapshot).steps.iter().filter(|one| matches!(one.step, Step::Replace(_))).count()
}

#[test]
fn f26_silent_nodes_are_replaced_after_ten_minutes_and_a_fifth_of_a_pool_at_a_time() {
    for (pool, silent, minutes, expected) in [
        (10, 1, 9, 0),
        (10, 1, 10, 1),
        (10, 3, 30, 2),
        (4, 1, 30, 1),
        (1, 1, 30, 1),
        // So many at once: the fault is not theirs.
        (10, 6, 30, 0),
        (4, 3, 30, 0),
    ] {
        let mut model = served(pool);
        silence(&mut model, silent, minutes);
        assert_eq!(replaced(&fresh(&model)), expected, "{silent} of {pool} for {minutes} min");
    }
}

#[test]
fn f26_nobody_is_replaced_on_hearsay() {
    let mut model = served(10);
    silence(&mut model, 1, 30);
    let mut snapshot = fresh(&model);
    snapshot.cluster.listed_at = Some(model.now - SignedDuration::from_mins(6));
    assert_eq!(replaced(&snapshot), 0, "the API was silent, too");
    let mut snapshot = fresh(&model);
    snapshot.clouds.get_mut(&EAST).expect("east").is_ready = false;
    assert_eq!(replaced(&snapshot), 0, "the cloud is not well");
    let mut snapshot = fresh(&model);
    snapshot.clouds.get_mut(&EAST).expect("east").listed_at = None;
    assert_eq!(replaced(&snapshot), 0, "a cell is down");
    assert!(plan(&snapshot).waiting.iter().any(|why| why.contains("not replaced")));
}

#[test]
fn f26_a_stopped_server_is_started_once_an_hour() {
    let mut model = served(3);
    let now = model.now;
    let starts = |model: &Model| {
        let plan = plan(&fresh(model));
        plan.steps.iter().filter(|one| matches!(one.step, Step::StartServer(_))).count()
    };
    assert_eq!(starts(&model), 0);
    workers(&mut model)[0].server_status = Some(ServerStatus::Shutoff);
    assert_eq!(starts(&model), 1);
    workers(&mut model)[0].signs.started_at = Some(now);
    assert_eq!(starts(&model), 0, "it stopped again");
    model.now = now + SignedDuration::from_hours(2);
    assert_eq!(starts(&model), 1);
}
