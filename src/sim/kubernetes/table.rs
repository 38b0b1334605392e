//! Objects as `kubectl get` prints them: the columns are the server's business.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::object;
use super::rest::List;

type Column = (&'static str, fn(&Value) -> Value);

/// One object as a table of one row.
pub(super) fn of_object(object: &Arc<Value>, now: Timestamp) -> Value {
    let kind = object::text(object, "/kind").to_owned();
    let revision = object["metadata"]["resourceVersion"].clone();
    let metadata = json!({"resourceVersion": revision});
    table(&kind, std::slice::from_ref(object), (&metadata, now))
}

/// A collection as a table.
pub(super) fn of_list(list: &List, now: Timestamp) -> Value {
    table(list.resource.kind.name(), &list.items, (&list.metadata(), now))
}

/// A collection without the content of its objects.
pub(super) fn metadata_of(list: &List) -> Value {
    let partial = |object: &Arc<Value>| json!({"metadata": object["metadata"]});
    json!({
        "kind": "PartialObjectMetadataList",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list.metadata(),
        "items": list.items.iter().map(partial).collect::<Vec<_>>(),
    })
}

fn table(kind: &str, objects: &[Arc<Value>], about: (&Value, Timestamp)) -> Value {
    let (metadata, now) = about;
    let columns = columns(kind);
    let mut definitions = vec![definition("Name", "name")];
    definitions.extend(columns.iter().map(|(name, _)| definition(name, "")));
    definitions.push(definition("Age", ""));
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let mut cells = vec![object["metadata"]["name"].clone()];
            cells.extend(columns.iter().map(|(_, cell)| cell(object)));
            cells.push(age(object, now));
            let partial = json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": object["metadata"],
            });
            json!({"cells": cells, "object": partial})
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": definitions,
        "rows": rows,
    })
}

fn definition(name: &str, format: &str) -> Value {
    json!({"name": name, "type": "string", "format": format, "description": "", "priority": 0})
}

/// How long ago the object was made, in the largest units that say enough.
fn age(object: &Value, now: Timestamp) -> Value {
    let Some(created) = object::time(object, "/metadata/creationTimestamp") else {
        return "<unknown>".into();
    };
    let seconds = now.as_second() - created.as_second();
    let words = match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => format!("{}m{}s", seconds / 60, seconds % 60),
        600..10_800 => format!("{}m", seconds / 60),
        10_800..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    };
    words.into()
}

fn columns(kind: &str) -> &'static [Column] {
    match kind {
        "Node" => &[
            ("Status", node_status),
            ("Roles", node_roles),
            ("Version", |node| node["status"]["nodeInfo"]["kubeletVersion"].clone()),
        ],
        "Pod" => &[
            ("Ready", ready_containers),
            ("Status", pod_status),
            ("Restarts", |_| "0".into()),
            ("Node", |pod| pod["spec"]["nodeName"].clone()),
        ],
        "Deployment" => &[
            ("Ready", ready_of_replicas),
            ("Up-to-date", |one| count(one, "/status/updatedReplicas")),
            ("Available", |one| count(one, "/status/availableReplicas")),
        ],
        "StatefulSet" => &[("Ready", ready_of_replicas)],
        "ReplicaSet" => &[
            ("Desired", |set| count(set, "/spec/replicas")),
            ("Current", |set| count(set, "/status/replicas")),
            ("Ready", |set| count(set, "/status/readyReplicas")),
        ],
        "DaemonSet" => &[
            ("Desired", |set| count(set, "/status/desiredNumberScheduled")),
            ("Current", |set| count(set, "/status/currentNumberScheduled")),
            ("Ready", |set| count(set, "/status/numberReady")),
        ],
        "PodDisruptionBudget" => &[
            ("Min available", |budget| or_na(&budget["spec"]["minAvailable"])),
            ("Max unavailable", |budget| or_na(&budget["spec"]["maxUnavailable"])),
            ("Allowed disruptions", |budget| count(budget, "/status/disruptionsAllowed")),
        ],
        "Namespace" | "PersistentVolumeClaim" | "PersistentVolume" => {
            &[("Status", |one| one["status"]["phase"].clone())]
        }
        "Secret" => &[("Type", |secret| secret["type"].clone())],
        _ => &[],
    }
}

fn count(object: &Value, pointer: &str) -> Value {
    object::number(object, pointer).unwrap_or(0).to_string().into()
}

fn or_na(value: &Value) -> Value {
    if value.is_null() { "N/A".into() } else { value.to_string().trim_matches('"').into() }
}

fn ready_of_replicas(object: &Value) -> Value {
    let ready = object::number(object, "/status/readyReplicas").unwrap_or(0);
    let wanted = object::number(object, "/spec/replicas").unwrap_or(1);
    format!("{ready}/{wanted}").into()
}

fn node_status(node: &Value) -> Value {
    let ready = if object::is_condition_true(node, "Ready") { "Ready" } else { "NotReady" };
    if node["spec"]["unschedulable"].as_bool() == Some(true) {
        return format!("{ready},SchedulingDisabled").into();
    }
    ready.into()
}

fn node_roles(node: &Value) -> Value {
    let labels = object::labels(node).into_iter().flatten();
    let roles: Vec<&str> =
        labels.filter_map(|(label, _)| label.strip_prefix("node-role.kubernetes.io/")).collect();
    if roles.is_empty() { "<none>".into() } else { roles.join(",").into() }
}

fn ready_containers(pod: &Value) -> Value {
    let states = object::items(pod, "/status/containerStatuses");
    let ready = states.iter().filter(|one| one["ready"] == true).count();
    format!("{ready}/{}", object::items(pod, "/spec/containers").len()).into()
}

fn pod_status(pod: &Value) -> Value {
    if object::is_deleting(pod) {
        return "Terminating".into();
    }
    pod["status"]["phase"].clone()
}
