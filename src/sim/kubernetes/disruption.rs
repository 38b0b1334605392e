//! The disruption controller: how many pods each PodDisruptionBudget can spare now.

use std::collections::BTreeMap;

use serde_json::Value;

use super::object::{self, Rounding, Said};
use super::resource::Kind;
use super::selector::LabelSelector;
use super::state::State;
use super::store::Place;

/// What a budget counts.
#[derive(Debug, Default, Clone, Copy)]
struct Budget {
    expected: i64,
    healthy: i64,
    desired: i64,
}

/// Writes the status of every budget.
pub(super) fn reconcile(state: &mut State) {
    for place in state.store.places(Kind::PodDisruptionBudget) {
        let Some(object) = state.store.at(Kind::PodDisruptionBudget, &place).cloned() else {
            continue;
        };
        let budget = count(state, &place, &object);
        write_status(state, &place, budget);
    }
}

/// The pods that a budget selects. An empty selector selects all of the namespace.
pub(super) fn selected_pods(state: &State, namespace: &str, budget: &Value) -> Vec<Place> {
    let Some(selector) = LabelSelector::of(&budget["spec"]["selector"]) else {
        return Vec::new();
    };
    let pods = state
        .store
        .all(Kind::Pod)
        .filter(|(place, pod)| place.0 == namespace && selector.matches(object::labels(pod)));
    pods.map(|(place, _)| place.clone()).collect()
}

fn count(state: &State, place: &Place, object: &Value) -> Budget {
    let pods = selected_pods(state, &place.0, object);
    let facts = || pods.iter().filter_map(|place| state.store.pods().get(place));
    let healthy = facts().filter(|pod| pod.is_ready && pod.deletion.is_none()).count();
    let healthy = i64::try_from(healthy).unwrap_or(i64::MAX);
    let found = i64::try_from(pods.len()).unwrap_or(i64::MAX);
    let spec = &object["spec"];
    if !spec["maxUnavailable"].is_null() {
        let expected = expected_scale(state, &pods);
        let unavailable =
            object::int_or_percent(&spec["maxUnavailable"], expected, Rounding::Up).unwrap_or(0);
        return Budget { expected, healthy, desired: (expected - unavailable).max(0) };
    }
    let minimum = &spec["minAvailable"];
    if minimum.is_string() {
        let expected = expected_scale(state, &pods);
        let desired = object::int_or_percent(minimum, expected, Rounding::Up).unwrap_or(0);
        return Budget { expected, healthy, desired };
    }
    Budget { expected: found, healthy, desired: minimum.as_i64().unwrap_or(1) }
}

/// The sum of the sizes of the controllers that own the pods.
fn expected_scale(state: &State, pods: &[Place]) -> i64 {
    let mut sizes: BTreeMap<String, i64> = BTreeMap::new();
    for place in pods {
        let Some(pod) = state.store.at(Kind::Pod, place) else { continue };
        let Some(owner) = object::controller(pod) else { continue };
        let name = object::text(owner, "/name");
        let owner = match owner["kind"].as_str() {
            Some("ReplicaSet") => deployment_or_set(state, &place.0, name),
            Some("StatefulSet") => state.store.get(Kind::StatefulSet, &place.0, name),
            _ => None,
        };
        if let Some(owner) = owner {
            let size = object::number(owner, "/spec/replicas").unwrap_or(1);
            sizes.insert(object::uid(owner).to_owned(), size);
        }
    }
    sizes.values().sum()
}

fn deployment_or_set<'a>(
    state: &'a State,
    namespace: &str,
    name: &str,
) -> Option<&'a std::sync::Arc<Value>> {
    let set = state.store.get(Kind::ReplicaSet, namespace, name)?;
    let deployment = object::controller(set).filter(|owner| owner["kind"] == "Deployment");
    deployment
        .and_then(|owner| {
            state.store.get(Kind::Deployment, namespace, object::text(owner, "/name"))
        })
        .or(Some(set))
}

fn write_status(state: &mut State, place: &Place, budget: Budget) {
    let now = state.now;
    // No expected pods means nothing to disrupt, and the controller then allows nothing.
    let allowed = if budget.expected > 0 { (budget.healthy - budget.desired).max(0) } else { 0 };
    state.update(Kind::PodDisruptionBudget, place, |object| {
        let generation = object["metadata"]["generation"].clone();
        let status = &mut object["status"];
        status["currentHealthy"] = budget.healthy.into();
        status["desiredHealthy"] = budget.desired.into();
        status["expectedPods"] = budget.expected.into();
        status["disruptionsAllowed"] = allowed.into();
        status["observedGeneration"] = generation;
        let (status, reason) =
            if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
        let said = Said { kind: "DisruptionAllowed", status, reason, message: "" };
        object::set_condition(object, said, now);
    });
}
