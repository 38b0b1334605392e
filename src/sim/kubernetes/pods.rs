//! What kubelets do with pods, and what the pod garbage collector does for nodes that are gone.
//!
//! A pod that was bound to a node runs and is ready after the cluster's delay, when the node's
//! machine runs. A deleted pod stops after its stop delay, but never later than its grace period
//! ends. A machine that is silent does neither: its pods stay as they are, Terminating included.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::object::{self, Said};
use super::resource::Kind;
use super::state::State;
use super::store::Place;

/// How long the pod garbage collector leaves pods of a node that has no Node object: its period
/// of 20 s and its quarantine of 40 s, in `pkg/controller/podgc`.
const ORPHAN_QUARANTINE_SECONDS: i64 = 40;

/// Where a pod is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Pending,
    Running,
    /// Succeeded or Failed.
    Finished,
}

/// What controllers ask about a pod.
#[derive(Debug, Clone)]
pub(super) struct PodFacts {
    pub node: Option<Box<str>>,
    /// The uid of the owner that manages it.
    pub owner: Option<Box<str>>,
    pub phase: Phase,
    pub is_ready: bool,
    /// When it must be gone, and the grace period that this includes.
    pub deletion: Option<(Timestamp, i64)>,
    pub bound_at: Option<Timestamp>,
    pub cpu_milli: i64,
    pub memory_bytes: i64,
}

impl PodFacts {
    pub(super) fn of(pod: &Value) -> Self {
        let node = object::text(pod, "/spec/nodeName");
        let owner = object::controller(pod).map(|owner| owner["uid"].as_str().unwrap_or(""));
        let grace = object::number(pod, "/metadata/deletionGracePeriodSeconds").unwrap_or(0);
        Self {
            node: (!node.is_empty()).then(|| node.into()),
            owner: owner.map(Into::into),
            phase: match object::text(pod, "/status/phase") {
                "Running" => Phase::Running,
                "Succeeded" | "Failed" => Phase::Finished,
                _ => Phase::Pending,
            },
            is_ready: object::is_condition_true(pod, "Ready"),
            deletion: object::time(pod, "/metadata/deletionTimestamp").map(|at| (at, grace)),
            bound_at: object::condition(pod, "PodScheduled")
                .and_then(|scheduled| object::time(scheduled, "/lastTransitionTime")),
            cpu_milli: requested(pod, "cpu"),
            memory_bytes: requested(pod, "memory") / 1000,
        }
    }

    /// Neither finished nor on its way out: what counts as a replica.
    pub(super) fn is_active(&self) -> bool {
        self.phase != Phase::Finished && self.deletion.is_none()
    }

    pub(super) fn is_on(&self, node: &str) -> bool {
        self.node.as_deref() == Some(node)
    }
}

/// The sum over containers, or the largest init container, in thousandths.
fn requested(pod: &Value, what: &str) -> i64 {
    let of = |list: &str| {
        let containers = object::items(pod, list).iter();
        containers
            .map(|container| object::milli(&container["resources"]["requests"][what]))
            .collect::<Vec<_>>()
    };
    let together: i64 = of("/spec/containers").iter().sum();
    together.max(of("/spec/initContainers").into_iter().max().unwrap_or(0))
}

/// Plays every kubelet whose machine runs.
pub(super) fn run_kubelets(state: &mut State) {
    let mut due = Vec::new();
    for (place, facts) in state.store.pods() {
        let Some(node) = &facts.node else { continue };
        let Some(machine) = state.machines.get(&**node).filter(|machine| machine.is_running) else {
            continue;
        };
        let stops = facts.deletion.map(|(at, grace)| {
            let pod = state.store.at(Kind::Pod, place);
            let is_slow = pod.is_some_and(|pod| state.faults.is_slow_to_stop(pod));
            let within =
                if is_slow { object::seconds(grace) } else { state.settings.stop_within(grace) };
            (at - object::seconds(grace) + within).min(at).max(machine.since)
        });
        let starts = (facts.phase != Phase::Finished && !facts.is_ready).then(|| {
            let bound = facts.bound_at.unwrap_or(machine.since).max(machine.since);
            bound + state.settings.pod_ready_delay
        });
        match (stops, starts) {
            (Some(at), _) => due.push((place.clone(), at, Step::Stop)),
            (None, Some(at)) => due.push((place.clone(), at, Step::Start)),
            (None, None) => {}
        }
    }
    for (place, at, step) in due {
        if state.is_due(at) {
            match step {
                Step::Stop => stop(state, &place),
                Step::Start => start(state, &place),
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Start,
    Stop,
}

fn start(state: &mut State, place: &Place) {
    let now = state.now;
    let Some(pod) = state.store.at(Kind::Pod, place) else { return };
    let is_broken = state.faults.is_never_ready(pod);
    let node = object::text(pod, "/spec/nodeName");
    let host = state.machines.get(node).map(|machine| machine.node.internal_ip.clone());
    let address = state.pod_address(object::uid(pod));
    state.update(Kind::Pod, place, |pod| {
        let status = &mut pod["status"];
        status["phase"] = "Running".into();
        object::default(&mut status["startTime"], object::stamp(now));
        object::default(&mut status["podIP"], address.clone());
        object::default(&mut status["podIPs"], json!([{"ip": address}]));
        object::default(&mut status["hostIP"], host.unwrap_or_default());
        set_ready(pod, !is_broken, now);
    });
}

/// Writes the Ready conditions and the container states of a running pod.
pub(super) fn set_ready(pod: &mut Value, is_ready: bool, now: Timestamp) {
    let (status, reason) = if is_ready { ("True", "") } else { ("False", "ContainersNotReady") };
    for kind in ["Initialized", "ContainersReady", "Ready"] {
        let said = if kind == "Initialized" {
            Said { kind, status: "True", reason: "", message: "" }
        } else {
            Said { kind, status, reason, message: "" }
        };
        object::set_condition(pod, said, now);
    }
    let started = pod["status"]["startTime"].clone();
    let containers: Vec<Value> = object::items(pod, "/spec/containers")
        .iter()
        .map(|container| {
            json!({
                "name": container["name"],
                "image": container["image"],
                "imageID": "",
                "ready": is_ready,
                "started": true,
                "restartCount": 0,
                "state": {"running": {"startedAt": started}},
            })
        })
        .collect();
    pod["status"]["containerStatuses"] = containers.into();
}

/// The containers have ended; a finalizer may still hold the object.
fn stop(state: &mut State, place: &Place) {
    let Some(pod) = state.store.at(Kind::Pod, place) else { return };
    if state.faults.is_stuck(pod) {
        return;
    }
    release(state, place);
}

/// Takes a pod away, or marks it finished when a finalizer holds it.
pub(super) fn release(state: &mut State, place: &Place) {
    let now = state.now;
    let Some(pod) = state.store.at(Kind::Pod, place) else { return };
    if !object::has_finalizers(pod) {
        state.store.remove(Kind::Pod, place);
        return;
    }
    state.update(Kind::Pod, place, |pod| {
        object::default(&mut pod["metadata"]["deletionTimestamp"], object::stamp(now));
        pod["metadata"]["deletionGracePeriodSeconds"] = 0.into();
        if object::text(pod, "/status/phase") != "Succeeded" {
            pod["status"]["phase"] = "Failed".into();
        }
        set_ready(pod, false, now);
        pod["status"]["containerStatuses"] = json!([]);
    });
}

/// Collects what no kubelet will ever finish: pods of nodes that are gone, and terminating pods
/// of a node that an operator declared out of service.
pub(super) fn collect_orphans(state: &mut State) {
    let mut gone = Vec::new();
    let mut missing = std::collections::BTreeMap::new();
    for (place, facts) in state.store.pods() {
        let Some(name) = facts.node.as_deref() else {
            if facts.deletion.is_some() {
                gone.push((place.clone(), state.now));
            }
            continue;
        };
        match state.store.get(Kind::Node, "", name) {
            None => {
                let since = state.missing_nodes.get(name).copied().unwrap_or(state.now);
                missing.insert(name.to_owned(), since);
                gone.push((place.clone(), since + object::seconds(ORPHAN_QUARANTINE_SECONDS)));
            }
            Some(node) if facts.deletion.is_some() && is_out_of_service(node) => {
                gone.push((place.clone(), state.now));
            }
            Some(_) => {}
        }
    }
    state.missing_nodes = missing;
    for (place, at) in gone {
        let is_held = state.store.at(Kind::Pod, &place).is_some_and(|pod| {
            object::has_finalizers(pod) && object::text(pod, "/status/phase") == "Failed"
        });
        if !is_held && state.is_due(at) {
            release(state, &place);
        }
    }
}

fn is_out_of_service(node: &Value) -> bool {
    let taints = object::items(node, "/spec/taints");
    !object::is_condition_true(node, "Ready")
        && taints.iter().any(|taint| taint["key"] == "node.kubernetes.io/out-of-service")
}
