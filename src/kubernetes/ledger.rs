//! What owners put on a node is put on the node that takes its place.

use serde_json::{Map, Value, json};

use k8s_openapi::api::core::v1 as core;

use super::ClusterClient;
use super::nodes::{Change, to_kubernetes};
use crate::domain::ledger::Ledger;
use crate::domain::node_view::NodeRef;
use crate::domain::outside::OutsideError;

impl ClusterClient {
    /// Puts a ledger on a node. What stands there already stays, also with another value; so it
    /// may be repeated at any time.
    pub async fn carry_ledger(&self, node: &NodeRef, ledger: &Ledger) -> Result<(), OutsideError> {
        self.change(node, "carry ledger", |current| match patch(current, ledger) {
            Some(patch) => Change::Patch(patch, ()),
            None => Change::Leave(()),
        })
        .await
    }
}

/// What the node lacks of the ledger; `None` if nothing.
fn patch(node: &core::Node, ledger: &Ledger) -> Option<Value> {
    let lacks = |there: Option<&std::collections::BTreeMap<String, String>>, key: &String| {
        there.is_none_or(|there| !there.contains_key(key))
    };
    let (labels, annotations) = (&node.metadata.labels, &node.metadata.annotations);
    let pick = |all: &std::collections::BTreeMap<String, String>, there: &Option<_>| {
        let missing = all.iter().filter(|(key, _)| lacks(there.as_ref(), key));
        missing.map(|(key, value)| (key.clone(), json!(value))).collect::<Map<String, Value>>()
    };
    let labels = pick(&ledger.labels, labels);
    let annotations = pick(&ledger.annotations, annotations);
    let current = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let has = |key: &str, effect: &str| current.iter().any(|t| t.key == key && t.effect == effect);
    let missing = ledger.taints.iter().filter(|taint| !has(&taint.key, taint.effect.as_str()));
    let added: Vec<core::Taint> = missing.map(to_kubernetes).collect();
    if labels.is_empty() && annotations.is_empty() && added.is_empty() {
        return None;
    }
    let mut patch = json!({"metadata": {"labels": labels, "annotations": annotations}});
    if !added.is_empty() {
        let taints: Vec<core::Taint> = current.iter().cloned().chain(added).collect();
        patch["spec"] = json!({ "taints": taints });
    }
    Some(patch)
}
