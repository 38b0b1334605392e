//! Reading and writing the fields of an object that is held as JSON.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

/// The value at a path such as `/spec/nodeName`. Unlike a JSON pointer it has no escapes, and so
/// costs no copies: this is the innermost loop of every controller.
pub(super) fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('/').skip(1).try_fold(object, |place, field| place.get(field))
}

/// The text at a path, empty when it is absent: absent and empty mean the same to
/// Kubernetes.
pub(super) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    at(object, pointer).and_then(Value::as_str).unwrap_or("")
}

/// The number at a path.
pub(super) fn number(object: &Value, pointer: &str) -> Option<i64> {
    at(object, pointer).and_then(Value::as_i64)
}

/// The list at a path, empty when it is absent.
pub(super) fn items<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    at(object, pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub(super) fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

pub(super) fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

pub(super) fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

pub(super) fn is_deleting(object: &Value) -> bool {
    at(object, "/metadata/deletionTimestamp").is_some_and(|at| !at.is_null())
}

pub(super) fn has_finalizers(object: &Value) -> bool {
    !items(object, "/metadata/finalizers").is_empty()
}

/// The labels, or nothing.
pub(super) fn labels(object: &Value) -> Option<&Map<String, Value>> {
    at(object, "/metadata/labels").and_then(Value::as_object)
}

/// The owner that manages this object, if one does.
pub(super) fn controller(object: &Value) -> Option<&Value> {
    items(object, "/metadata/ownerReferences")
        .iter()
        .find(|owner| owner["controller"].as_bool() == Some(true))
}

/// The owner reference that a controller writes on what it makes.
pub(super) fn owner_reference(owner: &Value) -> Value {
    json!([{
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": name(owner),
        "uid": uid(owner),
        "controller": true,
        "blockOwnerDeletion": true,
    }])
}

/// A time as Kubernetes writes it: whole seconds, UTC.
pub(super) fn stamp(at: Timestamp) -> Value {
    Value::String(stamp_text(at))
}

pub(super) fn stamp_text(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

/// The time at a path.
pub(super) fn time(object: &Value, pointer: &str) -> Option<Timestamp> {
    at(object, pointer).and_then(Value::as_str).and_then(|text| text.parse().ok())
}

/// A span of whole seconds.
pub(super) fn seconds(count: i64) -> SignedDuration {
    SignedDuration::from_secs(count)
}

/// The status condition of a type.
pub(super) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    items(object, "/status/conditions").iter().find(|one| one["type"] == kind)
}

/// Whether the condition of a type is `True`.
pub(super) fn is_condition_true(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|one| one["status"] == "True")
}

/// What a condition shall say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Said<'a> {
    pub kind: &'a str,
    pub status: &'a str,
    pub reason: &'a str,
    pub message: &'a str,
}

/// Writes a condition; its transition time moves only when the status does.
pub(super) fn set_condition(object: &mut Value, said: Said<'_>, now: Timestamp) {
    let conditions = list_mut(&mut object["status"]["conditions"]);
    let existing = conditions.iter_mut().find(|one| one["type"] == said.kind);
    let Some(one) = existing else {
        let mut one = json!({"type": said.kind, "lastTransitionTime": stamp(now)});
        fill(&mut one, said);
        conditions.push(one);
        return;
    };
    if one["status"] != said.status {
        one["lastTransitionTime"] = stamp(now);
    }
    fill(one, said);
}

fn fill(condition: &mut Value, said: Said<'_>) {
    condition["status"] = said.status.into();
    for (field, word) in [("reason", said.reason), ("message", said.message)] {
        if word.is_empty() {
            if let Some(map) = condition.as_object_mut() {
                map.remove(field);
            }
        } else {
            condition[field] = word.into();
        }
    }
}

/// The list in this place; anything else there becomes an empty list.
pub(super) fn list_mut(place: &mut Value) -> &mut Vec<Value> {
    if !place.is_array() {
        *place = Value::Array(Vec::new());
    }
    place.as_array_mut().expect("it was made a list just now")
}

/// The map in this place; anything else there becomes an empty map.
pub(super) fn map_mut(place: &mut Value) -> &mut Map<String, Value> {
    if !place.is_object() {
        *place = Value::Object(Map::new());
    }
    place.as_object_mut().expect("it was made a map just now")
}

/// Takes a field out of a map, if both are there.
pub(super) fn remove(place: &mut Value, field: &str) {
    if let Some(map) = place.as_object_mut() {
        map.remove(field);
    }
}

/// Sets a default where nothing is.
pub(super) fn default(place: &mut Value, value: impl Into<Value>) {
    if place.is_null() {
        *place = value.into();
    }
}

/// A quantity such as `250m`, `1.5` or `128Mi` in thousandths of its unit.
pub(super) fn milli(quantity: &Value) -> i64 {
    match quantity {
        Value::Number(number) => thousandths(number.as_f64().unwrap_or(0.0)),
        Value::String(text) => parse_milli(text).unwrap_or(0),
        _ => 0,
    }
}

fn parse_milli(text: &str) -> Option<i64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: f64 = digits.parse().ok()?;
    let factor = match &text[digits.len()..] {
        "" => 1.0,
        "m" => 0.001,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        "Ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    Some(thousandths(number * factor))
}

#[expect(clippy::cast_possible_truncation, reason = "a quantity near i64's end is no quantity")]
fn thousandths(number: f64) -> i64 {
    (number * 1000.0).round() as i64
}

/// A count or a percentage of `whole`, as in `maxUnavailable`.
pub(super) fn int_or_percent(value: &Value, whole: i64, rounding: Rounding) -> Option<i64> {
    if let Some(count) = value.as_i64() {
        return Some(count);
    }
    let percent: i64 = value.as_str()?.strip_suffix('%')?.parse().ok()?;
    Some(match rounding {
        Rounding::Up => (whole * percent + 99) / 100,
        Rounding::Down => whole * percent / 100,
    })
}

/// Which way a share of pods is rounded.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rounding {
    Up,
    Down,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_like_kubernetes_does() {
        for (text, expected) in
            [("250m", 250), ("2", 2000), ("0.5", 500), ("1Ki", 1_024_000), ("x", 0)]
        {
            assert_eq!(milli(&json!(text)), expected, "{text}");
        }
        assert_eq!(milli(&json!(3)), 3000);
    }

    #[test]
    fn a_condition_keeps_its_transition_time_while_the_status_stays() {
        let (early, late): (Timestamp, Timestamp) =
            ("2026-01-01T00:00:00Z".parse().unwrap(), "2026-01-02T00:00:00Z".parse().unwrap());
        let mut object = json!({});
        let said = Said { kind: "Ready", status: "True", reason: "A", message: "" };
        set_condition(&mut object, said, early);
        set_condition(&mut object, Said { reason: "B", ..said }, late);
        assert_eq!(object["status"]["conditions"][0]["lastTransitionTime"], stamp(early));
        set_condition(&mut object, Said { status: "False", ..said }, late);
        assert_eq!(object["status"]["conditions"][0]["lastTransitionTime"], stamp(late));
    }
}
