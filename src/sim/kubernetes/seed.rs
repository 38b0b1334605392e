//! What every cluster has from its first moment.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::object;
use super::resource;
use super::rest::{self, Call, Verb};
use super::state::State;
use super::store::kind_of;

/// Creates the namespaces, the API's own service, and the administrator's role.
pub(super) fn plant(state: &mut State) {
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        plant_one(
            state,
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
        );
    }
    plant_one(
        state,
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": "kubernetes",
                "namespace": "default",
                "labels": {"component": "apiserver", "provider": "kubernetes"},
            },
            "spec": {
                "type": "ClusterIP",
                "clusterIP": "10.96.0.1",
                "ports": [{"name": "https", "port": 443, "targetPort": 6443, "protocol": "TCP"}],
            },
        }),
    );
    plant_one(
        state,
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "cluster-admin"},
            "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}],
        }),
    );
    plant_one(
        state,
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "cluster-admin"},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": "cluster-admin",
            },
            "subjects": [{
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "Group",
                "name": "system:masters",
            }],
        }),
    );
}

fn plant_one(state: &mut State, object: Value) {
    if let Some(call) = creation(&object) {
        // Nothing in a new cluster is in the way of these.
        let _ = rest::perform(state, &call);
    }
}

/// The call that creates this object; `None` when its type is unknown.
pub(super) fn creation(object: &Value) -> Option<Call> {
    let kind = kind_of(object)?;
    let own = object::namespace(object);
    let namespace = match (kind.resource().is_namespaced, own) {
        (false, _) => "",
        (true, "") => "default",
        (true, own) => own,
    };
    Some(Call {
        verb: Verb::Create,
        resource: resource::Kind::resource(kind),
        namespace: namespace.to_owned(),
        name: String::new(),
        subresource: String::new(),
        query: BTreeMap::new(),
        content_type: "application/json".to_owned(),
        body: object.to_string().into(),
        manager: "kubectl-create".to_owned(),
    })
}
