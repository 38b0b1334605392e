//! The ReplicaSet controller, and what all controllers of pods share.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::admission;
use super::object;
use super::pods::PodFacts;
use super::resource::Kind;
use super::state::State;
use super::store::Place;

/// The pods of one owner, counted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tally {
    pub replicas: i64,
    pub ready: i64,
    pub available: i64,
}

/// Brings every ReplicaSet to its number of pods.
pub(super) fn reconcile(state: &mut State) {
    for place in state.store.places(Kind::ReplicaSet) {
        let Some(set) = state.store.at(Kind::ReplicaSet, &place).cloned() else { continue };
        let pods = owned_pods(state, object::uid(&set));
        let active: Vec<Place> = pods
            .into_iter()
            .filter(|place| state.store.pods().get(place).is_some_and(PodFacts::is_active))
            .collect();
        if !object::is_deleting(&set) {
            scale(state, &set, &active);
        }
        write_status(state, &place, &set);
    }
}

fn scale(state: &mut State, set: &Value, active: &[Place]) {
    let wanted = object::number(set, "/spec/replicas").unwrap_or(1);
    let have = i64::try_from(active.len()).unwrap_or(i64::MAX);
    for _ in have..wanted {
        let name = format!("{}-{}", object::name(set), state.suffix());
        create_pod(state, set, NewPod { name, more_labels: json!({}), node: None });
    }
    if have > wanted {
        let surplus = usize::try_from(have - wanted).unwrap_or(0);
        for place in least_worth(state, active).into_iter().take(surplus) {
            state.begin_pod_deletion(&place, None);
        }
    }
}

/// Pods in the order in which a controller gives them up: unbound, not ready, youngest.
fn least_worth(state: &State, active: &[Place]) -> Vec<Place> {
    let mut ranked: Vec<_> = active
        .iter()
        .filter_map(|place| {
            let facts = state.store.pods().get(place)?;
            let pod = state.store.at(Kind::Pod, place)?;
            let created = object::time(pod, "/metadata/creationTimestamp");
            Some(((facts.node.is_some(), facts.is_ready), std::cmp::Reverse(created), place))
        })
        .collect();
    ranked.sort();
    ranked.into_iter().map(|(_, _, place)| place.clone()).collect()
}

fn write_status(state: &mut State, place: &Place, set: &Value) {
    let tally = tally(state, object::uid(set), min_ready_seconds(set));
    state.update(Kind::ReplicaSet, place, |set| {
        let generation = set["metadata"]["generation"].clone();
        let status = &mut set["status"];
        status["replicas"] = tally.replicas.into();
        status["fullyLabeledReplicas"] = tally.replicas.into();
        status["readyReplicas"] = tally.ready.into();
        status["availableReplicas"] = tally.available.into();
        status["observedGeneration"] = generation;
    });
}

/// A pod to be made from its owner's template.
pub(super) struct NewPod {
    pub name: String,
    /// Labels besides those of the template.
    pub more_labels: Value,
    /// The node that it is for, if the owner decides that.
    pub node: Option<String>,
}

/// Makes a pod of an owner's template.
pub(super) fn create_pod(state: &mut State, owner: &Value, new: NewPod) {
    let template = &owner["spec"]["template"];
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": new.name,
            "namespace": object::namespace(owner),
            "ownerReferences": object::owner_reference(owner),
        },
        "spec": template["spec"],
        "status": {"phase": "Pending"},
    });
    for field in ["labels", "annotations", "finalizers"] {
        if !template["metadata"][field].is_null() {
            pod["metadata"][field] = template["metadata"][field].clone();
        }
    }
    if let Some(more) = new.more_labels.as_object() {
        for (key, value) in more {
            pod["metadata"]["labels"][key] = value.clone();
        }
    }
    if let Some(node) = new.node {
        pod["spec"]["nodeName"] = node.into();
        pod["status"]["conditions"] = json!([{
            "type": "PodScheduled", "status": "True", "lastTransitionTime": object::stamp(state.now),
        }]);
    }
    admission::complete_pod(&mut pod, &state.settings);
    state.create(Kind::Pod, pod);
}

/// The pods that an owner manages, in the order of their names.
pub(super) fn owned_pods(state: &State, owner: &str) -> Vec<Place> {
    let pods = state.store.pods().iter();
    pods.filter(|(_, facts)| facts.owner.as_deref() == Some(owner))
        .map(|(place, _)| place.clone())
        .collect()
}

/// Counts the active pods of an owner. A ready pod that is not yet available has the controllers
/// look again when it will be.
pub(super) fn tally(state: &mut State, owner: &str, min_ready_seconds: i64) -> Tally {
    let mut tally = Tally::default();
    for place in owned_pods(state, owner) {
        let Some(facts) = state.store.pods().get(&place) else { continue };
        if !facts.is_active() {
            continue;
        }
        tally.replicas += 1;
        if facts.is_ready {
            tally.ready += 1;
            tally.available += i64::from(is_available(state, &place, min_ready_seconds));
        }
    }
    tally
}

/// Whether a ready pod has been so for long enough.
pub(super) fn is_available(state: &mut State, place: &Place, min_ready_seconds: i64) -> bool {
    if min_ready_seconds == 0 {
        return true;
    }
    let Some(since) = ready_since(state, place) else { return false };
    state.is_due(since + object::seconds(min_ready_seconds))
}

fn ready_since(state: &State, place: &Place) -> Option<Timestamp> {
    let pod = state.store.at(Kind::Pod, place)?;
    object::time(object::condition(pod, "Ready")?, "/lastTransitionTime")
}

pub(super) fn min_ready_seconds(owner: &Value) -> i64 {
    object::number(owner, "/spec/minReadySeconds").unwrap_or(0)
}
