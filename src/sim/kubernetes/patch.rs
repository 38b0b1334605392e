//! The three client-made kinds of patch: JSON patch, merge patch, strategic merge patch.

use serde_json::{Map, Value};

use super::object;
use super::refusal::{Outcome, Refusal};

/// Lists whose items are told apart by fields; the first is the strategic merge key.
const KEYED_LISTS: &[(&str, &[&str])] = &[
    ("containers", &["name"]),
    ("initContainers", &["name"]),
    ("ephemeralContainers", &["name"]),
    ("volumes", &["name"]),
    ("env", &["name"]),
    ("imagePullSecrets", &["name"]),
    ("secrets", &["name"]),
    ("webhooks", &["name"]),
    ("volumeMounts", &["mountPath"]),
    ("volumeDevices", &["devicePath"]),
    ("conditions", &["type"]),
    ("addresses", &["type"]),
    ("ownerReferences", &["uid"]),
    ("hostAliases", &["ip"]),
    ("topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
];

/// The fields that tell the items of this list apart; `None` for lists that are one value.
pub(super) fn list_keys(field: &str, items: &[Value]) -> Option<&'static [&'static str]> {
    if field == "ports" {
        let is_container = items.iter().any(|port| !port["containerPort"].is_null());
        let keys: &[&str] =
            if is_container { &["containerPort", "protocol"] } else { &["port", "protocol"] };
        return Some(keys);
    }
    KEYED_LISTS.iter().find(|(name, _)| *name == field).map(|(_, keys)| *keys)
}

/// RFC 7386.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    let map = object::map_mut(target);
    for (key, value) in fields {
        if value.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Kubernetes' own: like a merge patch, but keyed lists are merged item by item, and directives
/// (`$patch`, `$retainKeys`, `$deleteFromPrimitiveList/..`) are obeyed.
pub(super) fn strategic_merge(target: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    match fields.get("$patch").and_then(Value::as_str) {
        Some("replace") => {
            let mut whole = fields.clone();
            whole.remove("$patch");
            *target = Value::Object(whole);
            return;
        }
        Some("delete") => {
            *target = Value::Null;
            return;
        }
        _ => {}
    }
    let map = object::map_mut(target);
    if let Some(kept) = fields.get("$retainKeys").and_then(Value::as_array) {
        map.retain(|key, _| kept.iter().any(|one| one == key));
    }
    for (key, value) in fields {
        if let Some(list) = key.strip_prefix("$deleteFromPrimitiveList/") {
            let gone = value.as_array().cloned().unwrap_or_default();
            if let Some(items) = map.get_mut(list).and_then(Value::as_array_mut) {
                items.retain(|item| !gone.contains(item));
            }
        } else if !key.starts_with('$') {
            merge_field(map, key, value);
        }
    }
}

fn merge_field(map: &mut Map<String, Value>, key: &str, value: &Value) {
    match value {
        Value::Null => {
            map.remove(key);
        }
        Value::Array(changes) => {
            let place = map.entry(key.to_owned()).or_insert(Value::Null);
            match list_keys(key, changes) {
                Some(keys) => merge_items(object::list_mut(place), changes, keys[0]),
                None if key == "finalizers" => merge_set(object::list_mut(place), changes),
                None => *place = value.clone(),
            }
        }
        Value::Object(_) => {
            strategic_merge(map.entry(key.to_owned()).or_insert(Value::Null), value);
            if map.get(key).is_some_and(Value::is_null) {
                map.remove(key);
            }
        }
        _ => {
            map.insert(key.to_owned(), value.clone());
        }
    }
}

fn merge_set(items: &mut Vec<Value>, changes: &[Value]) {
    for change in changes {
        if !items.contains(change) {
            items.push(change.clone());
        }
    }
}

fn merge_items(items: &mut Vec<Value>, changes: &[Value], key: &str) {
    if changes.iter().any(|change| change["$patch"] == "replace") {
        items.clear();
    }
    for change in changes {
        let at = items.iter().position(|item| item[key] == change[key]);
        match (at, change["$patch"].as_str()) {
            (Some(at), Some("delete")) => {
                items.remove(at);
            }
            (None, Some("delete")) | (_, Some("replace")) => {}
            (Some(at), _) => strategic_merge(&mut items[at], change),
            (None, _) => {
                let mut item = Value::Null;
                strategic_merge(&mut item, change);
                items.push(item);
            }
        }
    }
}

/// RFC 6902. Either all operations take effect or none.
pub(super) fn json_patch(target: &Value, operations: &Value) -> Outcome<Value> {
    let Some(operations) = operations.as_array() else {
        return Err(Refusal::bad_request("a JSON patch is a list of operations"));
    };
    let mut patched = target.clone();
    for operation in operations {
        apply_operation(&mut patched, operation)?;
    }
    Ok(patched)
}

fn apply_operation(target: &mut Value, operation: &Value) -> Outcome<()> {
    let path = object::text(operation, "/path");
    let value = || operation.get("value").cloned().unwrap_or(Value::Null);
    match operation["op"].as_str() {
        Some("add") => add(target, path, value()),
        Some("remove") => take(target, path).map(drop),
        Some("replace") => {
            *target.pointer_mut(path).ok_or_else(|| missing(path))? = value();
            Ok(())
        }
        Some("move") => {
            let moved = take(target, object::text(operation, "/from"))?;
            add(target, path, moved)
        }
        Some("copy") => {
            let from = object::text(operation, "/from");
            let copy = target.pointer(from).cloned().ok_or_else(|| missing(from))?;
            add(target, path, copy)
        }
        Some("test") => {
            if target.pointer(path).unwrap_or(&Value::Null) == &value() {
                return Ok(());
            }
            let message = format!("testing value {path} failed");
            Err(Refusal::new(422, "Invalid", message))
        }
        other => Err(Refusal::bad_request(format!("unknown operation {other:?} of a JSON patch"))),
    }
}

fn missing(path: &str) -> Refusal {
    let message =
        format!("the server rejected our request due to an error in our request: no {path}");
    Refusal::new(422, "Invalid", message)
}

fn split(path: &str) -> Outcome<(&str, String)> {
    let (parent, last) = path.rsplit_once('/').ok_or_else(|| missing(path))?;
    Ok((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn add(target: &mut Value, path: &str, value: Value) -> Outcome<()> {
    if path.is_empty() {
        *target = value;
        return Ok(());
    }
    let (parent, last) = split(path)?;
    match target.pointer_mut(parent).ok_or_else(|| missing(path))? {
        Value::Object(map) => {
            map.insert(last, value);
        }
        Value::Array(items) if last == "-" => items.push(value),
        Value::Array(items) => {
            let at: usize = last.parse().map_err(|_| missing(path))?;
            if at > items.len() {
                return Err(missing(path));
            }
            items.insert(at, value);
        }
        _ => return Err(missing(path)),
    }
    Ok(())
}

fn take(target: &mut Value, path: &str) -> Outcome<Value> {
    let (parent, last) = split(path)?;
    let found = match target.pointer_mut(parent).ok_or_else(|| missing(path))? {
        Value::Object(map) => map.remove(&last),
        Value::Array(items) => {
            last.parse().ok().filter(|at| *at < items.len()).map(|at| items.remove(at))
        }
        _ => None,
    };
    found.ok_or_else(|| missing(path))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_strategic_patch_merges_keyed_lists_and_replaces_others() {
        let mut node = json!({
            "spec": {"taints": [{"key": "a"}], "unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "False"}, {"type": "Disk"}]},
        });
        strategic_merge(
            &mut node,
            &json!({
                "spec": {"taints": [{"key": "b"}], "unschedulable": null},
                "status": {
                    "$setElementOrder/conditions": [{"type": "Ready"}],
                    "conditions": [
                        {"type": "Ready", "status": "True"},
                        {"type": "Disk", "$patch": "delete"},
                    ],
                },
            }),
        );
        let expected = json!({
            "spec": {"taints": [{"key": "b"}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        assert_eq!(node, expected);
    }

    #[test]
    fn a_json_patch_tests_before_it_changes() {
        let object = json!({"spec": {"list": [1, 3]}, "a/b": 1});
        let patch = json!([
            {"op": "test", "path": "/spec/list/0", "value": 1},
            {"op": "add", "path": "/spec/list/1", "value": 2},
            {"op": "add", "path": "/spec/list/-", "value": 4},
            {"op": "remove", "path": "/a~1b"},
            {"op": "copy", "from": "/spec/list", "path": "/copy"},
        ]);
        let patched = json_patch(&object, &patch).unwrap();
        assert_eq!(patched, json!({"spec": {"list": [1, 2, 3, 4]}, "copy": [1, 2, 3, 4]}));
        let failing = json!([{"op": "test", "path": "/spec/list/0", "value": 9}]);
        assert_eq!(json_patch(&object, &failing).unwrap_err().code, 422);
    }

    #[test]
    fn a_merge_patch_removes_what_is_null() {
        let mut object = json!({"a": {"b": 1, "c": 2}});
        merge(&mut object, &json!({"a": {"b": null, "d": {"e": null}}}));
        assert_eq!(object, json!({"a": {"c": 2, "d": {}}}));
    }
}
