//! The eviction subresource, branch by branch as in `pkg/registry/core/pod/storage/eviction.go`.

use std::sync::Arc;

use serde_json::{Value, json};

use super::object::{self, Said};
use super::pods::Phase;
use super::refusal::{Outcome, Refusal};
use super::resource::Kind;
use super::rest::DeleteOptions;
use super::selector::LabelSelector;
use super::state::State;
use super::store::Place;
use super::writes;

/// Evicts a pod if its budget allows that, and counts the answer.
pub(super) fn evict(state: &mut State, place: &Place, body: &Value) -> Outcome<Value> {
    let options = DeleteOptions::of(&body["deleteOptions"]);
    let answer = decide_and_evict(state, place, (body, &options));
    match &answer {
        Ok(_) if options.is_dry_run => {}
        Ok(_) => state.counters.evictions_accepted += 1,
        Err(_) => state.counters.evictions_refused += 1,
    }
    answer
}

fn decide_and_evict(
    state: &mut State,
    place: &Place,
    request: (&Value, &DeleteOptions),
) -> Outcome<Value> {
    let (body, options) = request;
    let resource = Kind::Pod.resource();
    let named = object::name(body);
    if !named.is_empty() && named != place.1 {
        return Err(Refusal::bad_request("name in URL does not match name in Eviction object"));
    }
    let Some(pod) = state.store.at(Kind::Pod, place).cloned() else {
        return Err(Refusal::not_found(resource, &place.1));
    };
    if state.faults.is_eviction_webhook_down {
        let message = "Internal error occurred: failed calling webhook \"evictions.example.com\": \
                       failed to call webhook: Post \"https://evictions.drain.svc:443/\": dial tcp: \
                       connect: connection refused";
        return Err(Refusal::new(500, "InternalError", message));
    }
    writes::check_namespace(state, resource, &pod)?;
    if let Some(words) = &state.faults.eviction_denied {
        let message =
            format!("admission webhook \"evictions.example.com\" denied the request: {words}");
        return Err(Refusal::new(403, "Forbidden", message));
    }
    options.check(resource, &pod)?;
    check_budget(state, place, &pod)?;
    if !options.is_dry_run {
        mark_and_delete(state, place, options);
    }
    Ok(json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
    }))
}

/// Whether the pod may go, as far as budgets are concerned.
fn check_budget(state: &State, place: &Place, pod: &Value) -> Outcome<()> {
    let facts = state.store.pods().get(place);
    let ignores_budgets = facts.is_none_or(|facts| {
        facts.deletion.is_some() || matches!(facts.phase, Phase::Pending | Phase::Finished)
    });
    if ignores_budgets {
        return Ok(());
    }
    let budgets = budgets_of(state, pod);
    if budgets.len() > 1 {
        let message = "This pod has more than one PodDisruptionBudget, which the eviction \
                       subresource does not support.";
        return Err(Refusal::new(500, "", message));
    }
    let Some(budget) = budgets.first() else { return Ok(()) };
    let is_ready = facts.is_some_and(|facts| facts.is_ready);
    if !is_ready && unhealthy_may_go(budget) {
        return Ok(());
    }
    spare(budget)
}

fn budgets_of(state: &State, pod: &Value) -> Vec<Arc<Value>> {
    if object::labels(pod).is_none_or(serde_json::Map::is_empty) {
        return Vec::new();
    }
    let budgets = state.store.all(Kind::PodDisruptionBudget).filter(|(place, budget)| {
        place.0 == object::namespace(pod)
            && LabelSelector::of(&budget["spec"]["selector"])
                .is_some_and(|selector| selector.matches(object::labels(pod)))
    });
    budgets.map(|(_, budget)| Arc::clone(budget)).collect()
}

/// A pod that is not ready is no loss: always with `AlwaysAllow`, otherwise only while the
/// application has what it needs.
fn unhealthy_may_go(budget: &Value) -> bool {
    if budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" {
        return true;
    }
    let number = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    number("desiredHealthy") > 0 && number("currentHealthy") >= number("desiredHealthy")
}

fn spare(budget: &Value) -> Outcome<()> {
    let name = object::name(budget);
    let number = |pointer: &str| object::number(budget, pointer).unwrap_or(0);
    if number("/status/observedGeneration") < number("/metadata/generation") {
        let why = format!("The disruption budget {name} is still being processed by the server.");
        return Err(Refusal::budget(why, 10));
    }
    let allowed = number("/status/disruptionsAllowed");
    if allowed < 0 {
        let resource = Kind::PodDisruptionBudget.resource();
        return Err(Refusal::forbidden(resource, name, "pdb disruptions allowed is negative"));
    }
    if allowed == 0 {
        let why = format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            number("/status/desiredHealthy"),
            number("/status/currentHealthy"),
        );
        return Err(Refusal::budget(why, 0));
    }
    Ok(())
}

fn mark_and_delete(state: &mut State, place: &Place, options: &DeleteOptions) {
    let now = state.now;
    state.update(Kind::Pod, place, |pod| {
        let said = Said {
            kind: "DisruptionTarget",
            status: "True",
            reason: "EvictionByEvictionAPI",
            message: "Eviction API: evicting",
        };
        object::set_condition(pod, said, now);
    });
    state.begin_pod_deletion(place, options.grace_period_seconds);
}
