//! The DaemonSet controller: one pod on each node that it is for, cordoned or not.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::object::{self, Rounding};
use super::pods::{Phase, PodFacts};
use super::replicas::{self, NewPod};
use super::resource::Kind;
use super::scheduler;
use super::state::{self, State};
use super::store::Place;

const REVISION: &str = "controller-revision-hash";

/// What every daemon tolerates, as the DaemonSet controller adds it.
const TOLERATED: &[(&str, &str)] = &[
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

/// Brings every DaemonSet one step nearer to its template and its nodes.
pub(super) fn reconcile(state: &mut State) {
    for place in state.store.places(Kind::DaemonSet) {
        let Some(set) = state.store.at(Kind::DaemonSet, &place).cloned() else { continue };
        let revision = state::hash_name(&set["spec"]["template"]);
        let owner = with_tolerations(&set);
        let mut view = View::of(state, &owner);
        if !object::is_deleting(&set) {
            view.place_pods(state, &owner, &revision);
            view = View::of(state, &owner);
            view.roll(state, &set, &revision);
        }
        view.write_status(state, &set, &revision);
    }
}

/// The set with the tolerations that its pods get.
fn with_tolerations(set: &Value) -> Value {
    let mut owner = set.clone();
    let tolerations = object::list_mut(&mut owner["spec"]["template"]["spec"]["tolerations"]);
    for (key, effect) in TOLERATED {
        let toleration = json!({"key": key, "operator": "Exists", "effect": effect});
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    owner
}

/// A DaemonSet's pods by node, and the nodes that it is for.
struct View {
    pods: BTreeMap<String, Vec<Place>>,
    /// Nodes that should have a pod.
    wanted: Vec<String>,
    /// Nodes whose pod may stay.
    tolerated: Vec<String>,
}

impl View {
    fn of(state: &State, owner: &Value) -> Self {
        let mut pods: BTreeMap<String, Vec<Place>> = BTreeMap::new();
        for place in replicas::owned_pods(state, object::uid(owner)) {
            let node = state.store.pods().get(&place).and_then(|facts| facts.node.clone());
            pods.entry(node.unwrap_or_default().into()).or_default().push(place);
        }
        let (mut wanted, mut tolerated) = (Vec::new(), Vec::new());
        let shape = json!({"spec": owner["spec"]["template"]["spec"]});
        for ((_, name), node) in state.store.all(Kind::Node) {
            if !scheduler::matches_node(&shape, node) {
                continue;
            }
            if bears(&shape, node, &["NoSchedule", "NoExecute"]) {
                wanted.push(name.clone());
            }
            if bears(&shape, node, &["NoExecute"]) {
                tolerated.push(name.clone());
            }
        }
        Self { pods, wanted, tolerated }
    }

    /// Makes pods where they are missing, removes them where they must not be.
    fn place_pods(&self, state: &mut State, owner: &Value, revision: &str) {
        for node in &self.wanted {
            let here = self.pods.get(node).map_or(&[][..], Vec::as_slice);
            for place in here {
                let is_finished = state.store.pods().get(place).is_some_and(|facts| {
                    facts.phase == Phase::Finished && facts.deletion.is_none()
                });
                if is_finished {
                    state.begin_pod_deletion(place, None);
                }
            }
            if here.is_empty() {
                let name = format!("{}-{}", object::name(owner), state.suffix());
                let mut owner = owner.clone();
                pin(&mut owner, node);
                let more_labels = json!({REVISION: revision, "pod-template-generation": "1"});
                let new = NewPod { name, more_labels, node: Some(node.clone()) };
                replicas::create_pod(state, &owner, new);
            }
        }
        for (node, places) in &self.pods {
            let is_known = state.store.get(Kind::Node, "", node).is_some();
            if is_known && !self.tolerated.contains(node) {
                for place in places {
                    begin_once(state, place);
                }
            }
        }
    }

    /// Replaces pods of an old template, as many at a time as may be unavailable.
    fn roll(&self, state: &mut State, set: &Value, revision: &str) {
        if set["spec"]["updateStrategy"]["type"] == "OnDelete" {
            return;
        }
        let wanted = i64::try_from(self.wanted.len()).unwrap_or(i64::MAX);
        let limit = &set["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"];
        let limit = object::int_or_percent(limit, wanted, Rounding::Up).unwrap_or(1).max(1);
        let facts = |state: &State, place: &Place| state.store.pods().get(place).cloned();
        let mut unavailable = 0;
        let mut outdated = Vec::new();
        for node in &self.wanted {
            let here = self.pods.get(node).map_or(&[][..], Vec::as_slice);
            let active = here
                .iter()
                .find(|place| facts(state, place).is_some_and(|one| one.deletion.is_none()));
            let Some(place) = active else {
                unavailable += 1;
                continue;
            };
            let is_old = state
                .store
                .at(Kind::Pod, place)
                .is_some_and(|pod| pod["metadata"]["labels"][REVISION] != revision);
            let is_ready = facts(state, place).is_some_and(|one| one.is_ready);
            match (is_old, is_ready) {
                // One that does not work anyway is replaced at once.
                (true, false) => {
                    unavailable += 1;
                    begin_once(state, place);
                }
                (true, true) => outdated.push(place),
                (false, false) => unavailable += 1,
                (false, true) => {}
            }
        }
        let spare = usize::try_from(limit - unavailable).unwrap_or(0);
        for place in outdated.into_iter().take(spare) {
            begin_once(state, place);
        }
    }

    fn write_status(&self, state: &mut State, set: &Value, revision: &str) {
        let place = (object::namespace(set).to_owned(), object::name(set).to_owned());
        let mut counts = Counts { desired: self.wanted.len(), ..Counts::default() };
        let min_ready = replicas::min_ready_seconds(set);
        for (node, places) in &self.pods {
            let is_wanted = self.wanted.contains(node);
            for pod in places {
                counts.add(state, pod, (is_wanted, min_ready, revision));
            }
        }
        state.update(Kind::DaemonSet, &place, |set| {
            let generation = set["metadata"]["generation"].clone();
            let status = &mut set["status"];
            status["observedGeneration"] = generation;
            status["desiredNumberScheduled"] = counts.desired.into();
            status["currentNumberScheduled"] = counts.current.into();
            status["numberMisscheduled"] = counts.misplaced.into();
            status["numberReady"] = counts.ready.into();
            status["numberAvailable"] = counts.available.into();
            status["updatedNumberScheduled"] = counts.updated.into();
            status["numberUnavailable"] = counts.desired.saturating_sub(counts.available).into();
        });
    }
}

#[derive(Default)]
struct Counts {
    desired: usize,
    current: usize,
    misplaced: usize,
    ready: usize,
    available: usize,
    updated: usize,
}

impl Counts {
    fn add(&mut self, state: &mut State, place: &Place, about: (bool, i64, &str)) {
        let (is_wanted, min_ready, revision) = about;
        let Some(facts) = state.store.pods().get(place).filter(|facts| facts.is_active()) else {
            return;
        };
        if !is_wanted {
            self.misplaced += 1;
            return;
        }
        self.current += 1;
        if facts.is_ready {
            self.ready += 1;
            self.available += usize::from(replicas::is_available(state, place, min_ready));
        }
        let pod: Option<&Arc<Value>> = state.store.at(Kind::Pod, place);
        self.updated +=
            usize::from(pod.is_some_and(|pod| pod["metadata"]["labels"][REVISION] == revision));
    }
}

fn begin_once(state: &mut State, place: &Place) {
    if state.store.pods().get(place).is_some_and(PodFacts::is_active) {
        state.begin_pod_deletion(place, None);
    }
}

/// Whether a pod of this shape bears the node's taints of these effects.
fn bears(shape: &Value, node: &Value, effects: &[&str]) -> bool {
    object::items(node, "/spec/taints").iter().all(|taint| {
        !effects.contains(&taint["effect"].as_str().unwrap_or(""))
            || scheduler::is_tolerated(shape, taint)
            // The not-ready and unreachable taints come in pairs; the controller bears both.
            || TOLERATED[..2].iter().any(|(key, _)| taint["key"] == *key)
    })
}

/// The affinity by which the controller pins a pod to its node.
fn pin(owner: &mut Value, node: &str) {
    let affinity = &mut owner["spec"]["template"]["spec"]["affinity"]["nodeAffinity"];
    affinity["requiredDuringSchedulingIgnoredDuringExecution"] = json!({
        "nodeSelectorTerms": [{
            "matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}],
        }],
    });
}
