//! Names and the grammar of Kubernetes labels and taints.
//!
//! Rules: RFC 1123 labels as Kubernetes reads them (`IsDNS1123Label`), label values
//! (`IsValidLabelValue`) and qualified names (`IsQualifiedName`).

use std::collections::BTreeMap;

use super::field::FieldErrors;
use super::node_view::Taint;

/// Longest name of a cluster. Server names are `<cluster>-<pool>-<6 characters>` and a server's
/// name becomes its host name, which Nova cuts at 63.
pub const CLUSTER_NAME_MAX: usize = 32;
/// Longest name of a pool, see [`CLUSTER_NAME_MAX`].
pub const POOL_NAME_MAX: usize = 20;
/// Longest name of a project, cloud or token.
pub const NAME_MAX: usize = 63;

/// Most labels or taints that a pool may carry.
const LABELS_MAX: usize = 32;

/// Checks that `text` is a name: lower-case letters, digits and `-`, a letter first.
pub fn check_name(field: &str, text: &str, max: usize) -> FieldErrors {
    let mut errors = FieldErrors::default();
    let fits = !text.is_empty()
        && text.len() <= max
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if !fits {
        errors.push(
            field,
            format!(
                "must be 1 to {max} lower-case letters, digits or '-', begin with a letter and \
                 not end with '-'"
            ),
        );
    }
    errors
}

/// Whether `text` is what Kubernetes takes as the value of a label.
fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_label_name(text)
}

/// The part of a label key behind the slash.
fn is_label_name(text: &str) -> bool {
    let edge = |c: char| c.is_ascii_alphanumeric();
    text.len() <= 63
        && text.starts_with(edge)
        && text.ends_with(edge)
        && text.chars().all(|c| edge(c) || matches!(c, '-' | '_' | '.'))
}

fn is_dns_subdomain(text: &str) -> bool {
    let part = |p: &str| {
        let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        !p.is_empty()
            && p.starts_with(edge)
            && p.ends_with(edge)
            && p.chars().all(|c| edge(c) || c == '-')
    };
    text.len() <= 253 && text.split('.').all(part)
}

fn is_label_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_label_name(name),
        None => is_label_name(key),
    }
}

/// Labels that the system itself sets; an owner may not.
fn is_reserved(key: &str) -> bool {
    let Some((prefix, _)) = key.split_once('/') else { return false };
    let of = |domain: &str| prefix == domain || prefix.ends_with(&format!(".{domain}"));
    (of("kubernetes.io") || of("k8s.io") || of("zcp.io"))
        && !(prefix == "node-role.kubernetes.io" || prefix == "node-restriction.kubernetes.io")
}

/// Checks the labels of a pool.
pub fn check_labels(field: &str, labels: &BTreeMap<String, String>) -> FieldErrors {
    let mut errors = FieldErrors::default();
    if labels.len() > LABELS_MAX {
        errors.push(field, format!("at most {LABELS_MAX} labels"));
    }
    for (key, value) in labels {
        let path = format!("{field}[{key}]");
        if !is_label_key(key) {
            errors.push(&path, "the key is not a Kubernetes label key ([prefix/]name)");
        } else if is_reserved(key) {
            errors.push(&path, "kubernetes.io, k8s.io and zcp.io labels are set by the system");
        }
        if !is_label_value(value) {
            errors.push(
                &path,
                "the value must be at most 63 letters, digits, '-', '_' or '.', with a letter or \
                 digit at both ends",
            );
        }
    }
    errors
}

/// Checks the taints of a pool.
pub fn check_taints(field: &str, taints: &[Taint]) -> FieldErrors {
    let mut errors = FieldErrors::default();
    if taints.len() > LABELS_MAX {
        errors.push(field, format!("at most {LABELS_MAX} taints"));
    }
    for (n, taint) in taints.iter().enumerate() {
        if !is_label_key(&taint.key) || is_reserved(&taint.key) {
            errors.push(format!("{field}[{n}].key"), "must be a label key that is not reserved");
        }
        if !is_label_value(taint.value.as_deref().unwrap_or_default()) {
            errors.push(format!("{field}[{n}].value"), "must be a Kubernetes label value");
        }
        if taints[..n].iter().any(|t| t.key == taint.key && t.effect == taint.effect) {
            errors.push(format!("{field}[{n}]"), "the same key and effect stand there already");
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_kubernetes_grammar() {
        for good in ["a", "web-1", "a".repeat(32).as_str()] {
            assert_eq!(check_name("name", good, 32), FieldErrors::default(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "1a", "a_b", "a.b", "é", &"a".repeat(33), "a\nb"] {
            assert_eq!(check_name("name", bad, 32).0.len(), 1, "{bad:?}");
        }
    }

    #[test]
    fn reserved_and_malformed_labels_are_named() {
        let labels: BTreeMap<String, String> = [
            ("team", "a"),
            ("kubernetes.io/os", "x"),
            ("node-role.kubernetes.io/web", ""),
            ("bad key", "x"),
            ("v", "{{ x }}"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
        let fields: Vec<String> =
            check_labels("labels", &labels).0.into_iter().map(|e| e.field).collect();
        assert_eq!(fields, ["labels[bad key]", "labels[kubernetes.io/os]", "labels[v]"]);
    }
}
