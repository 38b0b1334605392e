//! A cloud pair: what things of one cloud are called on another.
//!
//! An operator makes it once; every migration from the source to the target uses it, and owners
//! write nothing. It goes one way: the way back to a source needs no names, since rolling back
//! makes no server there.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::field::{FieldError, FieldErrors};

/// Most entries of one mapping: more flavors than any cloud has.
const ENTRIES_MAX: usize = 1000;
/// Longest name; OpenStack's own are at most 255.
const TEXT_MAX: usize = 255;

/// Names (or ids) on the source, each with its name (or id) on the target.
///
/// What is not named here keeps its name; what a cluster got by the source's defaults gets the
/// target's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CloudPairSpec {
    /// Sizes of servers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub flavors: BTreeMap<String, String>,
    /// Networks of nodes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub networks: BTreeMap<String, String>,
    /// Security groups of nodes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub security_groups: BTreeMap<String, String>,
    /// Availability zones.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub zones: BTreeMap<String, String>,
    /// Images. Both must carry the same Kubernetes version.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub images: BTreeMap<String, String>,
}

impl CloudPairSpec {
    /// Every mapping with the name of its field.
    pub fn maps(&self) -> [(&'static str, &BTreeMap<String, String>); 5] {
        [
            ("flavors", &self.flavors),
            ("networks", &self.networks),
            ("security_groups", &self.security_groups),
            ("zones", &self.zones),
            ("images", &self.images),
        ]
    }

    /// How many names are mapped.
    pub fn len(&self) -> usize {
        self.maps().iter().map(|(_, map)| map.len()).sum()
    }

    /// Whether nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Checks all that can be known without the clouds.
    pub fn check(&self) -> FieldErrors {
        let mut errors = FieldErrors::default();
        for (field, map) in self.maps() {
            if map.len() > ENTRIES_MAX {
                errors.push(field, format!("must have at most {ENTRIES_MAX} entries"));
            }
            for (from, to) in map {
                let problem = format!("must be 1 to {TEXT_MAX} characters, none of them a control");
                if !is_name(from) {
                    errors.push(field, format!("the name {from:?} {problem}"));
                } else if !is_name(to) {
                    errors.push(format!("{field}.{from}"), problem);
                }
            }
        }
        errors
    }
}

fn is_name(text: &str) -> bool {
    !text.trim().is_empty() && text.len() <= TEXT_MAX && !text.chars().any(char::is_control)
}

/// What a look at both inventories says of a pair.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PairCheck {
    /// Entries that mean nothing, or not one thing; a path such as `flavors.m1.large` each.
    pub problems: Vec<FieldError>,
    /// Entries that work but may surprise, such as a smaller flavor.
    pub warnings: Vec<FieldError>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_names_are_found_with_their_path() {
        let mut spec = CloudPairSpec::default();
        assert!(spec.is_empty() && spec.check() == FieldErrors::default());
        spec.flavors.insert("m1.large".into(), "a\nb".into());
        spec.zones.insert(" ".into(), "b".into());
        spec.images.insert("a".into(), "x".repeat(256));
        let fields: Vec<String> = spec.check().0.into_iter().map(|error| error.field).collect();
        assert_eq!(fields, ["flavors.m1.large", "zones", "images.a"]);
        assert_eq!(spec.len(), 3);
    }

    #[test]
    fn a_pair_reads_with_any_part_left_out_and_no_part_unknown() {
        let spec: CloudPairSpec = serde_json::from_str(r#"{"flavors": {"a": "b"}}"#).expect("good");
        assert_eq!(spec.flavors["a"], "b");
        assert!(serde_json::from_str::<CloudPairSpec>(r#"{"flavours": {}}"#).is_err());
    }
}
