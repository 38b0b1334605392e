//! Label and field selectors, both as text in a query and as structure in a spec.

use serde_json::{Map, Value};

use super::object;
use super::refusal::{Outcome, Refusal};
use super::resource::Kind;

/// What one label must be.
#[derive(Debug, Clone, PartialEq)]
enum Rule {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

/// A label selector; all of its rules must hold, and one without rules selects everything.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct LabelSelector(Vec<(String, Rule)>);

impl LabelSelector {
    /// Reads `a=b,c!=d,e in (f,g),!h,i`.
    pub(super) fn parse(text: &str) -> Outcome<Self> {
        let mut rules = Vec::new();
        for part in split_outside_parentheses(text) {
            let part = part.trim();
            if !part.is_empty() {
                rules.push(parse_rule(part).ok_or_else(|| unreadable(text))?);
            }
        }
        Ok(Self(rules))
    }

    /// Reads a `LabelSelector` of a spec. An absent one selects nothing, an empty one everything.
    pub(super) fn of(selector: &Value) -> Option<Self> {
        selector.as_object()?;
        let mut rules = Vec::new();
        if let Some(labels) = selector["matchLabels"].as_object() {
            for (key, value) in labels {
                let value = value.as_str().unwrap_or("").to_owned();
                rules.push((key.clone(), Rule::In(vec![value])));
            }
        }
        for expression in object::items(selector, "/matchExpressions") {
            rules.push(rule_of(expression)?);
        }
        Some(Self(rules))
    }

    pub(super) fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        self.0.iter().all(|(key, rule)| {
            let value = labels.and_then(|labels| labels.get(key)).and_then(Value::as_str);
            match rule {
                Rule::In(allowed) => value.is_some_and(|v| allowed.iter().any(|a| a == v)),
                Rule::NotIn(denied) => !value.is_some_and(|v| denied.iter().any(|d| d == v)),
                Rule::Exists => value.is_some(),
                Rule::Absent => value.is_none(),
            }
        })
    }
}

/// A `matchExpressions` entry of a selector or of a node affinity term.
fn rule_of(expression: &Value) -> Option<(String, Rule)> {
    let values = || {
        let texts = object::items(expression, "/values").iter();
        texts.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let rule = match expression["operator"].as_str()? {
        "In" => Rule::In(values()),
        "NotIn" => Rule::NotIn(values()),
        "Exists" => Rule::Exists,
        "DoesNotExist" => Rule::Absent,
        _ => return None,
    };
    Some((expression["key"].as_str()?.to_owned(), rule))
}

fn unreadable(text: &str) -> Refusal {
    Refusal::bad_request(format!("unable to parse requirement: {text:?}"))
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn parse_rule(part: &str) -> Option<(String, Rule)> {
    if let Some(key) = part.strip_prefix('!') {
        return Some((key.trim().to_owned(), Rule::Absent));
    }
    if let Some((head, values)) = part.split_once('(') {
        let values: Vec<String> =
            values.strip_suffix(')')?.split(',').map(|v| v.trim().to_owned()).collect();
        let mut words = head.split_whitespace();
        let key = words.next()?.to_owned();
        return match words.next()? {
            "in" => Some((key, Rule::In(values))),
            "notin" => Some((key, Rule::NotIn(values))),
            _ => None,
        };
    }
    if let Some((key, value)) = part.split_once("!=") {
        return Some((key.trim().to_owned(), Rule::NotIn(vec![value.trim().to_owned()])));
    }
    if let Some((key, value)) = part.split_once('=') {
        let value = value.strip_prefix('=').unwrap_or(value).trim();
        return Some((key.trim().to_owned(), Rule::In(vec![value.to_owned()])));
    }
    (!part.contains(char::is_whitespace)).then(|| (part.to_owned(), Rule::Exists))
}

/// A field selector such as `spec.nodeName=n1,status.phase!=Failed`.
#[derive(Debug, Clone, Default)]
pub(super) struct FieldSelector(Vec<(String, bool, String)>);

impl FieldSelector {
    pub(super) fn parse(text: &str, kind: Kind) -> Outcome<Self> {
        let mut rules = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let split = part.split_once("!=").map(|(field, value)| (field, false, value));
            let split = split.or_else(|| {
                let (field, value) = part.split_once('=')?;
                Some((field, true, value.strip_prefix('=').unwrap_or(value)))
            });
            let Some((field, is_equal, value)) = split else {
                let message = format!("invalid selector: {part:?}; can't understand it");
                return Err(Refusal::bad_request(message));
            };
            if !is_selectable(kind, field) {
                let message = format!("field label not supported: {field}");
                return Err(Refusal::bad_request(message));
            }
            rules.push((format!("/{}", field.replace('.', "/")), is_equal, value.to_owned()));
        }
        Ok(Self(rules))
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|(pointer, is_equal, value)| {
            let found = match object::at(object, pointer) {
                Some(Value::String(text)) => text == value,
                Some(Value::Bool(bit)) => bit.to_string() == *value,
                _ if pointer == "/spec/unschedulable" => value == "false",
                _ => value.is_empty(),
            };
            found == *is_equal
        })
    }
}

fn is_selectable(kind: Kind, field: &str) -> bool {
    if matches!(field, "metadata.name" | "metadata.namespace") {
        return true;
    }
    match kind {
        Kind::Pod => matches!(
            field,
            "spec.nodeName"
                | "spec.restartPolicy"
                | "spec.schedulerName"
                | "spec.serviceAccountName"
                | "spec.hostNetwork"
                | "status.phase"
                | "status.podIP"
                | "status.nominatedNodeName"
        ),
        Kind::Node => field == "spec.unschedulable",
        Kind::Namespace => field == "status.phase",
        Kind::Secret => field == "type",
        Kind::Event => {
            field.starts_with("involvedObject.")
                || matches!(field, "reason" | "type" | "reportingComponent" | "source")
        }
        Kind::CertificateSigningRequest => field == "spec.signerName",
        _ => false,
    }
}

/// Whether a node satisfies a required node affinity: any of its terms, all rules of a term.
pub(super) fn node_affinity_allows(required: &Value, node: &Value) -> bool {
    let terms = object::items(required, "/nodeSelectorTerms");
    if terms.is_empty() {
        return required.is_null();
    }
    terms.iter().any(|term| {
        let expressions = object::items(term, "/matchExpressions");
        let fields = object::items(term, "/matchFields");
        let labels: Option<Vec<_>> = expressions.iter().map(rule_of).collect();
        let Some(labels) = labels else { return false };
        let by_name = fields.iter().all(|field| {
            let names = object::items(field, "/values");
            field["key"] == "metadata.name" && names.iter().any(|n| n == object::name(node))
        });
        by_name && LabelSelector(labels).matches(object::labels(node))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn textual_selectors_select() {
        let object = json!({"metadata": {"labels": {"app": "web", "tier": "front"}}});
        for (text, expected) in [
            ("app=web", true),
            ("app==web,tier!=back", true),
            ("app in (db, web),tier", true),
            ("app notin (web)", false),
            ("!app", false),
            ("!zone", true),
            ("", true),
        ] {
            let selector = LabelSelector::parse(text).unwrap();
            assert_eq!(selector.matches(object::labels(&object)), expected, "{text}");
        }
        assert_eq!(LabelSelector::parse("a b c").unwrap_err().code, 400);
    }

    #[test]
    fn an_absent_selector_is_not_an_empty_one() {
        assert_eq!(LabelSelector::of(&Value::Null), None);
        assert!(LabelSelector::of(&json!({})).unwrap().matches(None));
    }

    #[test]
    fn an_empty_field_value_selects_what_lacks_the_field() {
        let selector = FieldSelector::parse("spec.nodeName=", Kind::Pod).unwrap();
        assert!(selector.matches(&json!({"spec": {}})));
        assert!(!selector.matches(&json!({"spec": {"nodeName": "a"}})));
        assert_eq!(FieldSelector::parse("spec.color=red", Kind::Pod).unwrap_err().code, 400);
    }
}
