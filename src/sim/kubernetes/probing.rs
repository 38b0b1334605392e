//! What canaries and the pods that look for them do in a cluster.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::KubeCluster;
use super::object;
use super::pods;
use super::refusal::Refusal;
use super::resource::Kind;
use super::state::State;
use super::store::Place;

impl KubeCluster {
    /// Writes an annotation on a Node, as its kubelet may; nothing without that Node.
    pub fn annotate_node(&self, name: &str, (key, value): (&str, &str), now: Timestamp) {
        self.with_state(now, |state| {
            let place = (String::new(), name.to_owned());
            state.update(Kind::Node, &place, |node| {
                node["metadata"]["annotations"][key] = value.into();
            });
        });
    }

    /// Ends the running pods that bear the label and for which `words` has last words.
    pub fn end_pods(
        &self,
        label: &str,
        now: Timestamp,
        mut words: impl FnMut(&Value) -> Option<String>,
    ) {
        self.with_state(now, |state| {
            let running: Vec<(Place, String)> = state
                .store
                .all(Kind::Pod)
                .filter(|(_, pod)| !pod["metadata"]["labels"][label].is_null())
                .filter(|(_, pod)| object::text(pod, "/status/phase") == "Running")
                .filter_map(|(place, pod)| Some((place.clone(), words(pod)?)))
                .collect();
            for (place, message) in running {
                state.update(Kind::Pod, &place, |pod| {
                    pods::set_ready(pod, false, now);
                    pod["status"]["phase"] = "Succeeded".into();
                    pod["status"]["containerStatuses"][0]["state"] = json!({"terminated": {
                        "exitCode": 0, "reason": "Completed", "message": message,
                        "startedAt": pod["status"]["startTime"], "finishedAt": object::stamp(now),
                    }});
                });
            }
        });
    }

    /// Says whether the API server reaches the kubelet of a node.
    pub fn set_kubelet_reached(&self, node: &str, is_reached: bool, now: Timestamp) {
        self.with_state(now, |state| {
            if is_reached {
                state.faults.silent_kubelets.remove(node);
            } else {
                state.faults.silent_kubelets.insert(node.to_owned());
            }
        });
    }
}

/// What a kubelet answers through the API server.
pub(super) fn ask_kubelet(state: &State, name: &str) -> Result<&'static str, Refusal> {
    let missing = || Refusal::new(404, "NotFound", format!("nodes {name:?} not found"));
    let machine = state.machines.get(name).ok_or_else(missing)?;
    if machine.is_running && !state.faults.silent_kubelets.contains(name) {
        return Ok("ok");
    }
    let address = &machine.node.internal_ip;
    let message = format!("error trying to reach service: dial tcp {address}:10250: i/o timeout");
    Err(Refusal::new(503, "ServiceUnavailable", message))
}
