//! The Deployment controller: one ReplicaSet per template, and the rolling update between them.

use std::sync::Arc;

use serde_json::{Value, json};

use super::object::{self, Rounding, Said};
use super::resource::Kind;
use super::state::{self, State};
use super::store::Place;

const REVISION: &str = "deployment.kubernetes.io/revision";
const TEMPLATE_HASH: &str = "pod-template-hash";

/// A ReplicaSet of a Deployment, with the numbers that a rollout needs.
#[derive(Debug, Clone)]
struct Set {
    place: Place,
    wanted: i64,
    replicas: i64,
    ready: i64,
    available: i64,
    revision: i64,
    is_current: bool,
}

/// Brings every Deployment one step nearer to its template and size.
pub(super) fn reconcile(state: &mut State) {
    for place in state.store.places(Kind::Deployment) {
        let Some(deployment) = state.store.at(Kind::Deployment, &place).cloned() else { continue };
        if object::is_deleting(&deployment) {
            continue;
        }
        let mut sets = sets_of(state, &deployment);
        let is_paused = deployment["spec"]["paused"].as_bool() == Some(true);
        if !is_paused && !sets.iter().any(|set| set.is_current) {
            create_set(state, &deployment, &sets);
            sets = sets_of(state, &deployment);
        }
        roll(state, &deployment, &sets);
        forget_old_sets(state, &deployment, &sets);
        let sets = sets_of(state, &deployment);
        write_status(state, &place, &deployment, &sets);
    }
}

fn sets_of(state: &State, deployment: &Value) -> Vec<Set> {
    let owner = object::uid(deployment);
    let owned = state.store.all(Kind::ReplicaSet).filter(|(_, set)| {
        object::controller(set).is_some_and(|one| one["uid"] == owner) && !object::is_deleting(set)
    });
    let mut sets: Vec<Set> = owned.map(|(place, set)| set_of(place, set, deployment)).collect();
    sets.sort_by_key(|set| set.revision);
    // Two with an equal template cannot be; if they were, the newest would be the current one.
    let current = sets.iter().rposition(|set| set.is_current);
    for (at, set) in sets.iter_mut().enumerate() {
        set.is_current = Some(at) == current;
    }
    sets
}

fn set_of(place: &Place, set: &Arc<Value>, deployment: &Value) -> Set {
    let number = |pointer: &str| object::number(set, pointer).unwrap_or(0);
    let revision = set["metadata"]["annotations"][REVISION].as_str().unwrap_or("0");
    let mut template = set["spec"]["template"].clone();
    object::remove(&mut template["metadata"]["labels"], TEMPLATE_HASH);
    Set {
        place: place.clone(),
        wanted: number("/spec/replicas"),
        replicas: number("/status/replicas"),
        ready: number("/status/readyReplicas"),
        available: number("/status/availableReplicas"),
        revision: revision.parse().unwrap_or(0),
        is_current: template == deployment["spec"]["template"],
    }
}

fn create_set(state: &mut State, deployment: &Value, sets: &[Set]) {
    let hash = state::hash_name(&deployment["spec"]["template"]);
    let revision = sets.iter().map(|set| set.revision).max().unwrap_or(0) + 1;
    let mut template = deployment["spec"]["template"].clone();
    template["metadata"]["labels"][TEMPLATE_HASH] = hash.as_str().into();
    let mut selector = deployment["spec"]["selector"].clone();
    selector["matchLabels"][TEMPLATE_HASH] = hash.as_str().into();
    state.create(
        Kind::ReplicaSet,
        json!({
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": format!("{}-{hash}", object::name(deployment)),
                "namespace": object::namespace(deployment),
                "labels": template["metadata"]["labels"],
                "annotations": {REVISION: revision.to_string()},
                "ownerReferences": object::owner_reference(deployment),
            },
            "spec": {
                "replicas": 0,
                "minReadySeconds": deployment["spec"]["minReadySeconds"].as_i64().unwrap_or(0),
                "selector": selector,
                "template": template,
            },
            "status": {"replicas": 0},
        }),
    );
}

/// How far a rollout may go over and under the wanted number.
struct Limits {
    surge: i64,
    unavailable: i64,
}

fn limits(deployment: &Value, replicas: i64) -> Limits {
    let rolling = &deployment["spec"]["strategy"]["rollingUpdate"];
    let surge = object::int_or_percent(&rolling["maxSurge"], replicas, Rounding::Up).unwrap_or(0);
    let unavailable =
        object::int_or_percent(&rolling["maxUnavailable"], replicas, Rounding::Down).unwrap_or(0);
    // With neither nothing could ever move: the API server reads that as one unavailable.
    let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
    Limits { surge, unavailable: unavailable.min(replicas) }
}

fn roll(state: &mut State, deployment: &Value, sets: &[Set]) {
    let replicas = object::number(deployment, "/spec/replicas").unwrap_or(1);
    let Some(current) = sets.iter().find(|set| set.is_current) else {
        return;
    };
    let old: Vec<&Set> = sets.iter().filter(|set| !set.is_current).collect();
    if deployment["spec"]["strategy"]["type"] == "Recreate" {
        recreate(state, replicas, current, &old);
        return;
    }
    let limits = limits(deployment, replicas);
    let total: i64 = sets.iter().map(|set| set.wanted).sum();
    if current.wanted < replicas {
        let room = replicas + limits.surge - total;
        let more = room.min(replicas - current.wanted).max(0);
        set_size(state, current, current.wanted + more);
    } else if current.wanted > replicas {
        set_size(state, current, replicas);
    }
    scale_down_old(state, replicas - limits.unavailable, current, &old);
}

fn recreate(state: &mut State, replicas: i64, current: &Set, old: &[&Set]) {
    for set in old {
        set_size(state, set, 0);
    }
    if old.iter().all(|set| set.wanted == 0 && set.replicas == 0) {
        set_size(state, current, replicas);
    }
}

/// Gives up old pods: broken ones first, then working ones as long as enough are available.
fn scale_down_old(state: &mut State, min_available: i64, current: &Set, old: &[&Set]) {
    let all = || old.iter().copied().chain([current]);
    let total: i64 = all().map(|set| set.wanted).sum();
    let new_unavailable = current.wanted - current.available;
    let mut broken = (total - min_available - new_unavailable).max(0);
    let mut sizes: Vec<i64> = old.iter().map(|set| set.wanted).collect();
    for (set, size) in old.iter().zip(&mut sizes) {
        let fewer = (set.wanted - set.available).clamp(0, broken);
        *size -= fewer;
        broken -= fewer;
    }
    let available: i64 = all().map(|set| set.available).sum();
    let mut spare = (available - min_available).max(0);
    for (set, size) in old.iter().zip(&mut sizes) {
        let fewer = set.available.min(*size).min(spare);
        *size -= fewer;
        spare -= fewer;
        set_size(state, set, *size);
    }
}

fn set_size(state: &mut State, set: &Set, size: i64) {
    state.update(Kind::ReplicaSet, &set.place, |set| set["spec"]["replicas"] = size.into());
}

/// Old sets without pods go when there are more of them than the history keeps.
fn forget_old_sets(state: &mut State, deployment: &Value, sets: &[Set]) {
    let keep = object::number(deployment, "/spec/revisionHistoryLimit").unwrap_or(10);
    let empty: Vec<&Set> =
        sets.iter().filter(|set| !set.is_current && set.wanted == 0 && set.replicas == 0).collect();
    let surplus = empty.len().saturating_sub(usize::try_from(keep).unwrap_or(0));
    for set in empty.into_iter().take(surplus) {
        state.store.remove(Kind::ReplicaSet, &set.place);
    }
}

fn write_status(state: &mut State, place: &Place, deployment: &Value, sets: &[Set]) {
    let now = state.now;
    let wanted = object::number(deployment, "/spec/replicas").unwrap_or(1);
    let current = sets.iter().find(|set| set.is_current);
    let sum = |of: fn(&Set) -> i64| sets.iter().map(of).sum::<i64>();
    let (total, ready, available) =
        (sum(|set| set.replicas), sum(|set| set.ready), sum(|set| set.available));
    let updated = current.map_or(0, |set| set.replicas);
    let enough = available >= wanted - limits(deployment, wanted).unavailable;
    let is_complete = updated == wanted && total == wanted && available == wanted;
    let revision = current.map_or(0, |set| set.revision).to_string();
    state.update(Kind::Deployment, place, |deployment| {
        deployment["metadata"]["annotations"][REVISION] = revision.into();
        let generation = deployment["metadata"]["generation"].clone();
        let status = &mut deployment["status"];
        status["observedGeneration"] = generation;
        for (field, count) in [
            ("replicas", total),
            ("updatedReplicas", updated),
            ("readyReplicas", ready),
            ("availableReplicas", available),
            ("unavailableReplicas", (wanted.max(total) - available).max(0)),
        ] {
            if count == 0 {
                object::remove(status, field);
            } else {
                status[field] = count.into();
            }
        }
        object::set_condition(deployment, available_condition(enough), now);
        object::set_condition(deployment, progressing_condition(is_complete), now);
    });
}

fn available_condition(enough: bool) -> Said<'static> {
    if enough {
        let message = "Deployment has minimum availability.";
        Said { kind: "Available", status: "True", reason: "MinimumReplicasAvailable", message }
    } else {
        let message = "Deployment does not have minimum availability.";
        Said { kind: "Available", status: "False", reason: "MinimumReplicasUnavailable", message }
    }
}

fn progressing_condition(is_complete: bool) -> Said<'static> {
    let reason = if is_complete { "NewReplicaSetAvailable" } else { "ReplicaSetUpdated" };
    Said { kind: "Progressing", status: "True", reason, message: "" }
}
