//! Server-side apply and field ownership.
//!
//! Ownership is a set of leaf paths for each manager, kept in `metadata.managedFields` in the
//! format of a real server (`f:` fields, `k:` items of keyed lists, `v:` items of sets). Applying
//! somebody else's leaf with another value is a conflict unless it is forced; a leaf that the
//! manager no longer applies and that nobody else owns is removed.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::object;
use super::patch;
use super::refusal::{Outcome, Refusal};
use super::resource::Resource;

type Path = Vec<String>;
type Paths = BTreeSet<Path>;

/// Fields of metadata that nobody owns: the server writes them.
const UNOWNED: &[&str] = &[
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
    "generateName",
];

/// Who writes, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Writer<'a> {
    pub manager: &'a str,
    /// `Apply` or `Update`.
    pub operation: &'a str,
    pub subresource: &'a str,
    pub now: Timestamp,
}

/// One manager's entry of `managedFields`.
#[derive(Debug, Clone)]
struct Entry {
    manager: String,
    operation: String,
    subresource: String,
    time: Value,
    paths: Paths,
}

impl Entry {
    fn is_of(&self, writer: &Writer<'_>) -> bool {
        self.manager == writer.manager
            && self.operation == writer.operation
            && self.subresource == writer.subresource
    }

    fn conflict(&self, resource: &Resource) -> String {
        let subresource = match self.subresource.as_str() {
            "" => String::new(),
            name => format!(" with subresource {name:?}"),
        };
        format!("conflict with {:?}{subresource} using {}", self.manager, resource.api_version())
    }
}

/// Applies a configuration to what is there (nothing, for a new object).
pub(super) fn apply(
    resource: &Resource,
    live: Option<&Value>,
    configuration: &Value,
    request: (Writer<'_>, Force),
) -> Outcome<Value> {
    let (writer, force) = request;
    let mut entries = live.map(entries_of).unwrap_or_default();
    let wanted = leaves(configuration);
    if let Some(live) = live {
        resolve_conflicts(resource, (live, configuration), &wanted, (&mut entries, writer, force))?;
    }
    let previous =
        entries.iter().find(|entry| entry.is_of(&writer)).map(|entry| entry.paths.clone());
    entries.retain(|entry| !entry.is_of(&writer));
    let mut result = live.cloned().unwrap_or_else(|| json!({}));
    merge_applied(&mut result, configuration, "");
    for path in previous.unwrap_or_default().difference(&wanted) {
        let is_owned = entries.iter().any(|entry| entry.paths.contains(path));
        // A parent of something still applied is no leaf to remove.
        let is_parent = wanted.iter().any(|one| one.starts_with(path));
        if !is_owned && !is_parent {
            remove_path(&mut result, path);
        }
    }
    entries.push(entry(writer, wanted));
    write_entries(&mut result, resource, entries);
    Ok(result)
}

/// Whether an apply takes over what others own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Force {
    No,
    Yes,
}

fn resolve_conflicts(
    resource: &Resource,
    objects: (&Value, &Value),
    wanted: &Paths,
    by: (&mut Vec<Entry>, Writer<'_>, Force),
) -> Outcome<()> {
    let (live, configuration) = objects;
    let (entries, writer, force) = by;
    let mut causes = Vec::new();
    for entry in entries.iter_mut().filter(|entry| !entry.is_of(&writer)) {
        let contested: Vec<Path> = entry
            .paths
            .intersection(wanted)
            .filter(|path| path.last().is_some_and(|last| last != "."))
            .filter(|path| at_path(live, path) != at_path(configuration, path))
            .cloned()
            .collect();
        for path in contested {
            causes.push(json!({
                "reason": "FieldManagerConflict",
                "message": entry.conflict(resource),
                "field": field_name(&path),
            }));
            if force == Force::Yes {
                entry.paths.remove(&path);
            }
        }
    }
    if force == Force::Yes || causes.is_empty() {
        return Ok(());
    }
    let mut refusal = Refusal::new(409, "Conflict", conflict_message(&causes));
    refusal.details = json!({"causes": causes});
    Err(refusal)
}

/// The conflicts in the words of a real server: one on a line, several in a list by manager.
fn conflict_message(causes: &[Value]) -> String {
    let word = |cause: &Value, pointer: &str| object::text(cause, pointer).to_owned();
    if let [only] = causes {
        let (who, field) = (word(only, "/message"), word(only, "/field"));
        return format!("Apply failed with 1 conflict: {who}: {field}");
    }
    let mut message = format!("Apply failed with {} conflicts: ", causes.len());
    let mut last = String::new();
    for cause in causes {
        let who = word(cause, "/message").replacen("conflict", "conflicts", 1);
        if who != last {
            let separator = if last.is_empty() { "" } else { "\n" };
            let _ = write!(message, "{separator}{who}:");
            last = who;
        }
        let _ = write!(message, "\n- {}", word(cause, "/field"));
    }
    message
}

/// Notes who wrote what by any other means than apply: whoever changes a leaf owns it alone.
pub(super) fn track(
    resource: &Resource,
    before: Option<&Value>,
    after: &mut Value,
    writer: Writer<'_>,
) {
    let nothing = Value::Null;
    let before = before.unwrap_or(&nothing);
    let now_there = leaves(after);
    let changed: Paths = now_there
        .iter()
        .filter(|path| {
            let (old, new) = (at_path(before, path), at_path(after, path));
            // An item is there or not; what is in it are leaves of their own.
            if path.last().is_some_and(|last| last == ".") { old.is_none() } else { old != new }
        })
        .cloned()
        .collect();
    let mut entries = entries_of(before);
    let gone = entries.iter().any(|entry| entry.paths.difference(&now_there).next().is_some());
    if changed.is_empty() && !gone {
        after["metadata"]["managedFields"] = before["metadata"]["managedFields"].clone();
        if after["metadata"]["managedFields"].is_null() {
            object::remove(&mut after["metadata"], "managedFields");
        }
        return;
    }
    for entry in &mut entries {
        entry.paths = entry.paths.intersection(&now_there).cloned().collect();
        if !entry.is_of(&writer) {
            entry.paths = entry.paths.difference(&changed).cloned().collect();
        }
    }
    let mut own = changed;
    if let Some(at) = entries.iter().position(|entry| entry.is_of(&writer)) {
        own.extend(entries.remove(at).paths);
    }
    if !own.is_empty() {
        entries.push(entry(writer, own));
    }
    write_entries(after, resource, entries);
}

fn entry(writer: Writer<'_>, paths: Paths) -> Entry {
    Entry {
        manager: writer.manager.to_owned(),
        operation: writer.operation.to_owned(),
        subresource: writer.subresource.to_owned(),
        time: object::stamp(writer.now),
        paths,
    }
}

fn entries_of(object: &Value) -> Vec<Entry> {
    object::items(object, "/metadata/managedFields")
        .iter()
        .map(|entry| {
            let mut paths = Paths::new();
            read_fields(&entry["fieldsV1"], &mut Vec::new(), &mut paths);
            Entry {
                manager: object::text(entry, "/manager").to_owned(),
                operation: object::text(entry, "/operation").to_owned(),
                subresource: object::text(entry, "/subresource").to_owned(),
                time: entry["time"].clone(),
                paths,
            }
        })
        .collect()
}

fn read_fields(fields: &Value, path: &mut Path, into: &mut Paths) {
    for (key, inner) in fields.as_object().into_iter().flatten() {
        path.push(key.clone());
        if inner.as_object().is_none_or(Map::is_empty) {
            into.insert(path.clone());
        } else {
            read_fields(inner, path, into);
        }
        path.pop();
    }
}

fn write_entries(object: &mut Value, resource: &Resource, entries: Vec<Entry>) {
    let entries: Vec<Value> = entries
        .into_iter()
        .filter(|entry| !entry.paths.is_empty())
        .map(|entry| {
            let mut fields = json!({});
            for path in &entry.paths {
                let mut place = &mut fields;
                for step in path {
                    place = &mut place[step];
                    object::map_mut(place);
                }
            }
            let mut value = json!({
                "manager": entry.manager,
                "operation": entry.operation,
                "apiVersion": resource.api_version(),
                "time": entry.time,
                "fieldsType": "FieldsV1",
                "fieldsV1": fields,
            });
            if !entry.subresource.is_empty() {
                value["subresource"] = entry.subresource.into();
            }
            value
        })
        .collect();
    object["metadata"]["managedFields"] = entries.into();
}

/// The leaf paths of an object that somebody can own.
fn leaves(object: &Value) -> Paths {
    let mut paths = Paths::new();
    for (key, value) in object.as_object().into_iter().flatten() {
        match key.as_str() {
            "apiVersion" | "kind" => {}
            "metadata" => {
                let mut metadata = value.clone();
                for field in UNOWNED {
                    object::remove(&mut metadata, field);
                }
                collect(&metadata, key, &mut vec!["f:metadata".to_owned()], &mut paths);
            }
            _ => collect(value, key, &mut vec![format!("f:{key}")], &mut paths),
        }
    }
    paths
}

fn collect(value: &Value, field: &str, path: &mut Path, into: &mut Paths) {
    match value {
        Value::Null => {}
        Value::Object(map) if !map.is_empty() => {
            for (key, inner) in map {
                path.push(format!("f:{key}"));
                collect(inner, key, path, into);
                path.pop();
            }
        }
        Value::Array(items) if field == "finalizers" => {
            for item in items {
                path.push(format!("v:{item}"));
                into.insert(path.clone());
                path.pop();
            }
        }
        Value::Array(items) if patch::list_keys(field, items).is_some() => {
            let keys = patch::list_keys(field, items).unwrap_or(&[]);
            for item in items {
                path.push(item_key(item, keys));
                path.push(".".to_owned());
                into.insert(path.clone());
                path.pop();
                collect(item, "", path, into);
                path.pop();
            }
        }
        _ => {
            if !path.is_empty() && path != &["f:metadata"] {
                into.insert(path.clone());
            }
        }
    }
}

fn item_key(item: &Value, keys: &[&str]) -> String {
    let mut fields = Map::new();
    for key in keys {
        let value = match (*key, &item[*key]) {
            ("protocol", Value::Null) => "TCP".into(),
            (_, value) => value.clone(),
        };
        fields.insert((*key).to_owned(), value);
    }
    format!("k:{}", Value::Object(fields))
}

fn is_item(item: &Value, key: &Value) -> bool {
    key.as_object().into_iter().flatten().all(|(field, wanted)| {
        item[field] == *wanted || (field == "protocol" && item[field].is_null() && wanted == "TCP")
    })
}

/// What is at a path of ownership.
fn at_path<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    let mut place = object;
    for step in path {
        place = match step.split_at_checked(2) {
            Some(("f:", field)) => place.get(field)?,
            Some(("k:", key)) => {
                let key: Value = serde_json::from_str(key).ok()?;
                place.as_array()?.iter().find(|item| is_item(item, &key))?
            }
            Some(("v:", value)) => {
                let value: Value = serde_json::from_str(value).ok()?;
                place.as_array()?.iter().find(|item| **item == value)?
            }
            _ => place,
        };
    }
    Some(place)
}

fn remove_path(object: &mut Value, path: &[String]) {
    let Some((step, rest)) = path.split_first() else { return };
    match step.split_at_checked(2) {
        Some(("f:", field)) => {
            if rest.is_empty() {
                object::remove(object, field);
            } else if let Some(inner) = object.get_mut(field) {
                remove_path(inner, rest);
            }
        }
        Some((prefix, key)) => {
            let Some(items) = object.as_array_mut() else { return };
            let key: Value = serde_json::from_str(key).unwrap_or(Value::Null);
            let at = items.iter().position(|item| match prefix {
                "k:" => is_item(item, &key),
                _ => *item == key,
            });
            let Some(at) = at else { return };
            if rest.is_empty() || rest == ["."] {
                items.remove(at);
            } else {
                remove_path(&mut items[at], rest);
            }
        }
        None => {}
    }
}

/// Merges an applied configuration: maps field by field, keyed lists item by item.
fn merge_applied(target: &mut Value, applied: &Value, field: &str) {
    match applied {
        Value::Object(fields) => {
            let map = object::map_mut(target);
            for (key, value) in fields {
                if !value.is_null() && key != "managedFields" {
                    merge_applied(map.entry(key.clone()).or_insert(Value::Null), value, key);
                }
            }
        }
        Value::Array(items) => match patch::list_keys(field, items) {
            Some(keys) => {
                let list = object::list_mut(target);
                for item in items {
                    let key: Value =
                        serde_json::from_str(&item_key(item, keys)[2..]).unwrap_or(Value::Null);
                    match list.iter_mut().find(|one| is_item(one, &key)) {
                        Some(one) => merge_applied(one, item, ""),
                        None => list.push(item.clone()),
                    }
                }
            }
            None if field == "finalizers" => {
                let list = object::list_mut(target);
                for item in items {
                    if !list.contains(item) {
                        list.push(item.clone());
                    }
                }
            }
            None => *target = applied.clone(),
        },
        _ => *target = applied.clone(),
    }
}

/// A path as a conflict names it: `.spec.replicas`.
fn field_name(path: &[String]) -> String {
    path.iter()
        .map(|step| match step.split_at_checked(2) {
            Some(("f:", field)) => format!(".{field}"),
            Some((_, key)) => format!("[{key}]"),
            None => String::new(),
        })
        .collect()
}
