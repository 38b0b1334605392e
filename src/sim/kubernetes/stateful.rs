//! The StatefulSet controller: pods with lasting names, made and replaced in order.

use serde_json::{Value, json};

use super::object;
use super::pods::{Phase, PodFacts};
use super::replicas::{self, NewPod};
use super::resource::Kind;
use super::state::{self, State};
use super::store::Place;

const REVISION: &str = "controller-revision-hash";

/// Brings every StatefulSet one step nearer to its template and size.
pub(super) fn reconcile(state: &mut State) {
    for place in state.store.places(Kind::StatefulSet) {
        let Some(set) = state.store.at(Kind::StatefulSet, &place).cloned() else { continue };
        let revision = revision_of(&set);
        if !object::is_deleting(&set) {
            step(state, &set, &revision);
        }
        write_status(state, &place, &set, &revision);
    }
}

fn revision_of(set: &Value) -> String {
    format!("{}-{}", object::name(set), state::hash_name(&set["spec"]["template"]))
}

fn pod_place(set: &Value, ordinal: i64) -> Place {
    (object::namespace(set).to_owned(), format!("{}-{ordinal}", object::name(set)))
}

fn step(state: &mut State, set: &Value, revision: &str) {
    let wanted = object::number(set, "/spec/replicas").unwrap_or(1);
    let is_ordered = set["spec"]["podManagementPolicy"] != "Parallel";
    for ordinal in 0..wanted {
        let place = pod_place(set, ordinal);
        let facts = state.store.pods().get(&place).cloned();
        match &facts {
            None => {
                create_claims(state, set, ordinal);
                create(state, set, ordinal, revision);
            }
            // A finished pod gives its name free for a new one.
            Some(facts) if facts.phase == Phase::Finished => {
                state.begin_pod_deletion(&place, Some(0));
            }
            Some(_) => {}
        }
        let is_settled = facts.is_some_and(|facts| facts.is_ready && facts.is_active());
        if is_ordered && !is_settled {
            return;
        }
    }
    if scale_down(state, set, wanted) {
        roll(state, set, wanted, revision);
    }
}

/// Removes pods above the wanted number, the highest first; whether none is left.
fn scale_down(state: &mut State, set: &Value, wanted: i64) -> bool {
    let highest = replicas::owned_pods(state, object::uid(set))
        .into_iter()
        .filter_map(|place| Some((ordinal_of(set, &place)?, place)))
        .filter(|(ordinal, _)| *ordinal >= wanted)
        .max();
    let Some((_, place)) = highest else { return true };
    if state.store.pods().get(&place).is_some_and(|facts| facts.deletion.is_none()) {
        state.begin_pod_deletion(&place, None);
    }
    false
}

fn ordinal_of(set: &Value, place: &Place) -> Option<i64> {
    place.1.strip_prefix(object::name(set))?.strip_prefix('-')?.parse().ok()
}

/// Replaces the highest pod that has an old revision, when all pods are well.
fn roll(state: &mut State, set: &Value, wanted: i64, revision: &str) {
    if set["spec"]["updateStrategy"]["type"] == "OnDelete" {
        return;
    }
    let partition = object::number(set, "/spec/updateStrategy/rollingUpdate/partition");
    for ordinal in (partition.unwrap_or(0)..wanted).rev() {
        let place = pod_place(set, ordinal);
        let Some(pod) = state.store.at(Kind::Pod, &place) else { return };
        if pod["metadata"]["labels"][REVISION] != revision {
            if !object::is_deleting(pod) {
                state.begin_pod_deletion(&place, None);
            }
            return;
        }
        if !state.store.pods().get(&place).is_some_and(|facts| facts.is_ready) {
            return;
        }
    }
}

fn create(state: &mut State, set: &Value, ordinal: i64, revision: &str) {
    let mut owner = set.clone();
    let name = pod_place(set, ordinal).1;
    for template in object::items(set, "/spec/volumeClaimTemplates") {
        let volume = object::name(template);
        let claim = json!({"claimName": format!("{volume}-{name}")});
        object::list_mut(&mut owner["spec"]["template"]["spec"]["volumes"])
            .push(json!({"name": volume, "persistentVolumeClaim": claim}));
    }
    let more_labels = json!({
        REVISION: revision,
        "statefulset.kubernetes.io/pod-name": name,
        "apps.kubernetes.io/pod-index": ordinal.to_string(),
    });
    replicas::create_pod(state, &owner, NewPod { name, more_labels, node: None });
}

/// The claims of a pod outlive it: its successor of the same name gets the same volumes.
fn create_claims(state: &mut State, set: &Value, ordinal: i64) {
    let (namespace, pod) = pod_place(set, ordinal);
    for template in object::items(set, "/spec/volumeClaimTemplates") {
        let name = format!("{}-{pod}", object::name(template));
        if state.store.get(Kind::PersistentVolumeClaim, &namespace, &name).is_some() {
            continue;
        }
        state.create(
            Kind::PersistentVolumeClaim,
            json!({
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {
                    "name": name,
                    "namespace": namespace,
                    "labels": set["spec"]["selector"]["matchLabels"],
                },
                "spec": template["spec"],
                "status": {"phase": "Pending"},
            }),
        );
    }
}

fn write_status(state: &mut State, place: &Place, set: &Value, revision: &str) {
    let tally = replicas::tally(state, object::uid(set), replicas::min_ready_seconds(set));
    let of_revision = replicas::owned_pods(state, object::uid(set))
        .iter()
        .filter(|place| {
            state.store.pods().get(*place).is_some_and(PodFacts::is_active)
                && state
                    .store
                    .at(Kind::Pod, place)
                    .is_some_and(|pod| pod["metadata"]["labels"][REVISION] == revision)
        })
        .count();
    state.update(Kind::StatefulSet, place, |set| {
        let generation = set["metadata"]["generation"].clone();
        let status = &mut set["status"];
        status["observedGeneration"] = generation;
        status["replicas"] = tally.replicas.into();
        status["readyReplicas"] = tally.ready.into();
        status["availableReplicas"] = tally.available.into();
        status["updatedReplicas"] = of_revision.into();
        status["updateRevision"] = revision.into();
        if i64::try_from(of_revision) == Ok(tally.replicas) {
            status["currentRevision"] = revision.into();
            status["currentReplicas"] = tally.replicas.into();
        }
    });
}
