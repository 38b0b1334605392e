//! A cluster autoscaler in the tenant's cluster: it removes nodes that nobody needs and adds nodes
//! for pods that find none. An actor that works against a migration, as real ones do.
//!
//! As the real one, it marks an unneeded node by a taint whose value is the time, and leaves nodes
//! alone that carry `scale-down-disabled`.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::nodes;
use super::object;
use super::resource::Kind;
use super::state::{self, State};
use super::store::Place;

/// Taint of a node that will be removed if it stays unneeded.
const CANDIDATE: &str = "DeletionCandidateOfClusterAutoscaler";
/// Annotation by which an owner keeps a node.
const KEEP: &str = "cluster-autoscaler.kubernetes.io/scale-down-disabled";

/// How the autoscaler behaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Autoscaler {
    /// How long a node is empty before it is removed.
    pub unneeded: Duration,
    /// How many nodes it may add, each like the first worker.
    pub adds: u32,
}

impl Default for Autoscaler {
    fn default() -> Self {
        Self { unneeded: Duration::from_mins(10), adds: 0 }
    }
}

/// One loop of the autoscaler, if the cluster has one.
pub(super) fn run(state: &mut State) {
    let Some(autoscaler) = state.faults.autoscaler.clone() else { return };
    for place in state.store.places(Kind::Node) {
        judge(state, &place, &autoscaler);
    }
    scale_up(state, autoscaler.adds);
}

fn judge(state: &mut State, place: &Place, autoscaler: &Autoscaler) {
    let Some(node) = state.store.at(Kind::Node, place) else { return };
    let is_member = !node["metadata"]["labels"]["node-role.kubernetes.io/control-plane"].is_null();
    let is_kept = node["metadata"]["annotations"][KEEP] == "true";
    let is_needed = is_member || is_kept || runs_something(state, &place.1);
    let marked = object::items(node, "/spec/taints").iter().find(|taint| taint["key"] == CANDIDATE);
    let since = marked.and_then(|taint| taint["value"].as_str()?.parse::<i64>().ok());
    match since {
        _ if is_needed => {
            state.update(Kind::Node, place, unmark);
        }
        None => {
            let second = state.now.as_second().to_string();
            let taint = json!({"key": CANDIDATE, "value": second, "effect": "PreferNoSchedule"});
            state.update(Kind::Node, place, |node| {
                object::list_mut(&mut node["spec"]["taints"]).push(taint);
            });
        }
        Some(since) => {
            let since = jiff::Timestamp::from_second(since).unwrap_or(state.now);
            if state.is_due(since + state::span(autoscaler.unneeded)) {
                nodes::remove_machine(state, &place.1);
                state.store.remove(Kind::Node, place);
            }
        }
    }
}

fn unmark(node: &mut Value) {
    if object::items(node, "/spec/taints").iter().any(|taint| taint["key"] == CANDIDATE) {
        object::list_mut(&mut node["spec"]["taints"]).retain(|taint| taint["key"] != CANDIDATE);
    }
}

/// Whether a pod is on the node that would have to move.
fn runs_something(state: &State, node: &str) -> bool {
    state.store.pods().iter().any(|(place, facts)| {
        facts.is_on(node)
            && state.store.at(Kind::Pod, place).is_some_and(|pod| {
                let owner = object::controller(pod).map(|owner| owner["kind"].as_str());
                owner != Some(Some("DaemonSet"))
                    && pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_null()
            })
    })
}

/// Adds a node when a pod finds none.
fn scale_up(state: &mut State, most: u32) {
    let waits = |(_, pod): (&Place, &std::sync::Arc<Value>)| {
        object::condition(pod, "PodScheduled").is_some_and(|said| said["status"] == "False")
    };
    if !state.store.all(Kind::Pod).any(waits) {
        return;
    }
    let made = state.machines.keys().filter(|name| name.starts_with("autoscaled-")).count();
    let like = state.machines.values().find(|machine| !machine.node.is_control_plane);
    let Some(like) = like.filter(|_| made < most as usize).map(|machine| machine.node.clone())
    else {
        return;
    };
    let name = format!("autoscaled-{made}");
    let provider_id = format!("openstack:///{}", state.uid());
    let system_uuid = provider_id.trim_start_matches("openstack:///").to_owned();
    let node = nodes::NodeRegistration { name, provider_id, system_uuid, ..like };
    if let Err(error) = nodes::register(state, node) {
        tracing::warn!(%error, "the autoscaler's node could not register");
    }
}
