//! The garbage collector, for objects whose owners are gone, and the namespace controller.

use serde_json::Value;

use super::object;
use super::resource::{Kind, RESOURCES};
use super::state::State;
use super::store::Place;

/// The finalizer that holds an owner until its dependents are gone.
pub(super) const FOREGROUND: &str = "foregroundDeletion";

/// Deletes what has owners, none of which exists any more, and lets go owners that waited for
/// that.
pub(super) fn collect(state: &mut State) {
    let waiting = owners_in_foreground(state);
    if !state.store.take_deletions() && waiting.is_empty() {
        return;
    }
    for resource in RESOURCES {
        for place in state.store.places(resource.kind) {
            let Some(object) = state.store.at(resource.kind, &place) else { continue };
            if is_abandoned(state, object, &waiting) {
                delete(state, resource.kind, &place);
            }
        }
    }
    for (kind, place, uid) in owner_places(state, &waiting) {
        if !has_dependents(state, &uid) {
            remove_finalizer(state, kind, &place, FOREGROUND);
        }
    }
}

fn owners_in_foreground(state: &State) -> Vec<String> {
    let all = state.store.everything();
    all.filter(|object| object::is_deleting(object) && has_finalizer(object, FOREGROUND))
        .map(|object| object::uid(object).to_owned())
        .collect()
}

fn has_finalizer(object: &Value, finalizer: &str) -> bool {
    object::items(object, "/metadata/finalizers").iter().any(|one| one == finalizer)
}

fn is_abandoned(state: &State, object: &Value, waiting: &[String]) -> bool {
    let owners = object::items(object, "/metadata/ownerReferences");
    !owners.is_empty()
        && owners.iter().all(|owner| {
            let uid = owner["uid"].as_str().unwrap_or("");
            !state.store.has_uid(uid) || waiting.iter().any(|one| one == uid)
        })
}

fn owner_places(state: &State, waiting: &[String]) -> Vec<(Kind, Place, String)> {
    let mut found = Vec::new();
    for resource in RESOURCES {
        for (place, object) in state.store.all(resource.kind) {
            let uid = object::uid(object);
            if waiting.iter().any(|one| one == uid) {
                found.push((resource.kind, place.clone(), uid.to_owned()));
            }
        }
    }
    found
}

fn has_dependents(state: &State, uid: &str) -> bool {
    state.store.everything().any(|object| {
        object::items(object, "/metadata/ownerReferences").iter().any(|owner| owner["uid"] == uid)
    })
}

/// Takes a finalizer off; an object on its way out that had only this one is gone with it.
fn remove_finalizer(state: &mut State, kind: Kind, place: &Place, finalizer: &str) {
    state.update(kind, place, |object| {
        object::list_mut(&mut object["metadata"]["finalizers"]).retain(|one| one != finalizer);
    });
    finish(state, kind, place);
}

/// Takes an object away that is being deleted and that nothing holds any more.
pub(super) fn finish(state: &mut State, kind: Kind, place: &Place) {
    // A namespace goes when it is empty, see below.
    if kind == Kind::Namespace {
        return;
    }
    let Some(object) = state.store.at(kind, place) else { return };
    let is_graceful_pod = kind == Kind::Pod
        && object::number(object, "/metadata/deletionGracePeriodSeconds").unwrap_or(0) > 0;
    if object::is_deleting(object) && !object::has_finalizers(object) && !is_graceful_pod {
        state.store.remove(kind, place);
    }
}

/// Deletes an object as the API server does it for a controller.
pub(super) fn delete(state: &mut State, kind: Kind, place: &Place) {
    if kind == Kind::Pod {
        if state.store.pods().get(place).is_some_and(|facts| facts.deletion.is_none()) {
            state.begin_pod_deletion(place, None);
        }
        return;
    }
    let now = state.now;
    state.update(kind, place, |object| {
        object::default(&mut object["metadata"]["deletionTimestamp"], object::stamp(now));
    });
    finish(state, kind, place);
}

/// Empties namespaces that are being deleted, and removes those that are empty.
pub(super) fn empty_namespaces(state: &mut State) {
    let doomed: Vec<String> = state
        .store
        .all(Kind::Namespace)
        .filter(|(_, namespace)| object::is_deleting(namespace))
        .map(|((_, name), _)| name.clone())
        .collect();
    for name in doomed {
        let mut is_empty = true;
        for resource in RESOURCES.iter().filter(|resource| resource.is_namespaced) {
            let inside = state.store.places(resource.kind);
            for place in inside.into_iter().filter(|place| place.0 == name) {
                is_empty = false;
                delete(state, resource.kind, &place);
            }
        }
        let is_held = state
            .store
            .get(Kind::Namespace, "", &name)
            .is_some_and(|namespace| object::has_finalizers(namespace));
        if is_empty && !is_held {
            state.store.remove(Kind::Namespace, &(String::new(), name));
        }
    }
}
