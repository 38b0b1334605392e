//! Custom resources: served as long as their definition is there, and held to its structural
//! schema. Unknown fields are pruned, defaults filled in, and values outside the schema refused.
//! CEL rules (`x-kubernetes-validations`) are not evaluated: the real API server of the lab does
//! that.

use serde_json::{Map, Value};

use super::object;
use super::refusal::{Outcome, Refusal};
use super::resource::{Kind, Resource};
use super::state::State;

/// Whether the resource is served: built-in ones always, custom ones by their definition.
pub(super) fn is_served(state: &State, resource: &Resource) -> bool {
    !resource.is_custom() || definition(state, resource).is_some()
}

fn definition<'a>(state: &'a State, resource: &Resource) -> Option<&'a Value> {
    let name = format!("{}.{}", resource.plural, resource.group);
    state.store.get(Kind::CustomResourceDefinition, "", &name).map(|found| &**found)
}

/// Prunes and completes a custom object by its schema, and refuses what the schema does not take.
pub(super) fn admit(state: &State, resource: &Resource, custom: &mut Value) -> Outcome<()> {
    if !resource.is_custom() {
        return Ok(());
    }
    let Some(definition) = definition(state, resource) else {
        return Err(Refusal::no_such_path());
    };
    let versions = object::items(definition, "/spec/versions");
    let version = versions.iter().find(|version| version["name"] == resource.version);
    let Some(schema) = version.and_then(|version| version.pointer("/schema/openAPIV3Schema"))
    else {
        return Ok(());
    };
    for field in ["spec", "status"] {
        let inner = &schema["properties"][field];
        if !inner.is_null() && !custom[field].is_null() {
            shape(inner, &mut custom[field]);
        }
    }
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    object::map_mut(custom).retain(|key, value| known.contains(&key.as_str()) && !value.is_null());
    let name = object::name(custom).to_owned();
    for field in ["spec", "status"] {
        let inner = &schema["properties"][field];
        let is_required = object::items(schema, "/required").iter().any(|one| one == field);
        match custom.get(field) {
            Some(value) => {
                if let Some((at, why)) = fault(inner, value, field) {
                    return Err(Refusal::invalid(resource, &name, &at, &why));
                }
            }
            None if is_required => {
                return Err(Refusal::invalid(resource, &name, field, "Required value"));
            }
            None => {}
        }
    }
    Ok(())
}

/// Takes out what the schema does not know, and fills in its defaults.
fn shape(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            let Some(properties) = schema["properties"].as_object() else { return };
            if schema["x-kubernetes-preserve-unknown-fields"] != true {
                fields.retain(|key, _| properties.contains_key(key));
            }
            fill(properties, fields);
            for (key, inner) in fields.iter_mut() {
                if let Some(schema) = properties.get(key) {
                    shape(schema, inner);
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                shape(&schema["items"], item);
            }
        }
        _ => {}
    }
}

fn fill(properties: &Map<String, Value>, fields: &mut Map<String, Value>) {
    for (key, schema) in properties {
        let default = &schema["default"];
        if !default.is_null() && fields.get(key).is_none_or(Value::is_null) {
            fields.insert(key.clone(), default.clone());
        }
    }
}

/// The first field that the schema refuses, and why.
fn fault(schema: &Value, value: &Value, path: &str) -> Option<(String, String)> {
    let refuse = |why: String| Some((path.to_owned(), why));
    if value.is_null() && schema["nullable"] == true {
        return None;
    }
    if let Some(wanted) = schema["type"].as_str()
        && !is_type(wanted, value)
    {
        return refuse(format!("Invalid value: {value}: must be of type {wanted}"));
    }
    if schema["x-kubernetes-int-or-string"] == true && !(value.is_i64() || value.is_string()) {
        return refuse(format!("Invalid value: {value}: must be of type integer,string"));
    }
    let allowed = object::items(schema, "/enum");
    if !allowed.is_empty() && !allowed.contains(value) {
        return refuse(format!("Unsupported value: {value}"));
    }
    if let Some(why) = out_of_range(schema, value) {
        return refuse(why);
    }
    match value {
        Value::Object(fields) => object_fault(schema, fields, path),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .find_map(|(n, item)| fault(&schema["items"], item, &format!("{path}[{n}]"))),
        _ => None,
    }
}

fn object_fault(
    schema: &Value,
    fields: &Map<String, Value>,
    path: &str,
) -> Option<(String, String)> {
    for required in object::items(schema, "/required").iter().filter_map(Value::as_str) {
        if !fields.contains_key(required) {
            return Some((format!("{path}.{required}"), "Required value".to_owned()));
        }
    }
    fields
        .iter()
        .find_map(|(key, value)| fault(&schema["properties"][key], value, &format!("{path}.{key}")))
}

fn is_type(wanted: &str, value: &Value) -> bool {
    match wanted {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        _ => true,
    }
}

fn out_of_range(schema: &Value, value: &Value) -> Option<String> {
    let limit = |key: &str| schema[key].as_f64();
    let beyond = |measure: f64, least: &str, most: &str| {
        limit(least).is_some_and(|least| measure < least)
            || limit(most).is_some_and(|most| measure > most)
    };
    let length = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    let is_wrong = match value {
        Value::Number(number) => number.as_f64().is_some_and(|n| beyond(n, "minimum", "maximum")),
        Value::String(text) => {
            let pattern = schema["pattern"].as_str().and_then(|text| regex::Regex::new(text).ok());
            beyond(length(text.chars().count()), "minLength", "maxLength")
                || pattern.is_some_and(|pattern| !pattern.is_match(text))
        }
        Value::Array(items) => beyond(length(items.len()), "minItems", "maxItems"),
        _ => false,
    };
    is_wrong.then(|| format!("Invalid value: {value}: is outside what the schema allows"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_schema_prunes_fills_in_and_refuses() {
        let schema = json!({"type": "object", "required": ["target"], "properties": {
            "target": {"type": "string", "maxLength": 4},
            "paused": {"type": "boolean", "default": false},
            "waves": {"type": "array", "items": {"type": "object", "properties": {
                "upto": {"x-kubernetes-int-or-string": true, "minimum": 1,
                         "pattern": "^([1-9][0-9]?|100)%$"},
            }}},
        }});
        let mut value =
            json!({"target": "west", "colour": "red", "waves": [{"upto": "5%", "x": 1}]});
        shape(&schema, &mut value);
        assert_eq!(value, json!({"target": "west", "paused": false, "waves": [{"upto": "5%"}]}));
        assert_eq!(fault(&schema, &value, "spec"), None);
        let wrong = |value: Value| fault(&schema, &value, "spec").map(|(at, _)| at);
        assert_eq!(wrong(json!({})).as_deref(), Some("spec.target"));
        assert_eq!(wrong(json!({"target": "far away"})).as_deref(), Some("spec.target"));
        let waves = |upto: Value| json!({"target": "west", "waves": [{"upto": upto}]});
        for bad in [json!(0), json!(0.5), json!("110%"), json!(true)] {
            assert_eq!(wrong(waves(bad)).as_deref(), Some("spec.waves[0].upto"));
        }
        assert_eq!(wrong(waves(json!(3))), None);
    }
}
