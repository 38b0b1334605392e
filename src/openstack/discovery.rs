//! What a cloud's services can do: microversions and Neutron's extensions, read once and kept.
//!
//! Versions are chosen for each call: the lowest that has what the call needs, or an older one
//! where the call can do without. Never `latest`: its meaning changes with the cloud.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::client::{Call, CloudClient, PAGE, Service};
use crate::domain::inventory::VersionRange;
use crate::domain::outside::{OutsideError, OutsideKind};

/// Clouds are upgraded while we run.
const KEEP: SignedDuration = SignedDuration::from_mins(30);

/// A version of one call's behaviour, such as 2.69.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Microversion(pub(super) u16, pub(super) u16);

impl fmt::Display for Microversion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl FromStr for Microversion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text
            .split_once('.')
            .and_then(|(major, minor)| Some(Self(major.parse().ok()?, minor.parse().ok()?)));
        parsed.ok_or_else(|| format!("'{text}' is not a microversion"))
    }
}

/// Oldest and newest microversion of a service.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    pub(super) min: Microversion,
    pub(super) max: Microversion,
}

impl Range {
    /// The best version up to `wanted`, if it is at least `needed`.
    fn choose(self, wanted: Microversion, needed: Microversion) -> Option<Microversion> {
        let best = wanted.min(self.max);
        (best >= needed && best >= self.min).then_some(best)
    }
}

/// What is known so far.
#[derive(Debug, Default)]
pub(super) struct Discovery {
    versions: Mutex<BTreeMap<&'static str, (Timestamp, Range)>>,
    extensions: Mutex<Option<(Timestamp, BTreeSet<String>)>>,
}

impl CloudClient {
    /// The microversion for a call that likes `wanted` and cannot do without `needed`.
    pub(super) async fn choose(
        &self,
        service: Service,
        wanted: Microversion,
        needed: Microversion,
    ) -> Result<Microversion, OutsideError> {
        let range = self.versions(service).await?;
        range.choose(wanted, needed).ok_or_else(|| {
            let message = format!(
                "this cloud has microversions {} to {} of {}, and {needed} is needed",
                range.min,
                range.max,
                service.as_str()
            );
            OutsideError::new(OutsideKind::Invalid, "nova choose version", message)
        })
    }

    /// The microversions of a service. The lock is held over the call, so that it is made once.
    pub(super) async fn versions(&self, service: Service) -> Result<Range, OutsideError> {
        let now = self.shared.wiring.clock.now();
        let mut known = self.shared.discovery.versions.lock().await;
        if let Some((read_at, range)) = known.get(service.as_str())
            && *read_at + KEEP > now
        {
            return Ok(*range);
        }
        let operation = match service {
            Service::Placement => "placement discover versions",
            _ => "nova discover versions",
        };
        let call = Call::get(service, operation, "/");
        let document: Document = self.fetch(&call).await.map_err(not_absent)?;
        let range = document.range().ok_or_else(|| {
            call.error(OutsideKind::Invalid, "the version document names no microversions")
        })?;
        known.insert(service.as_str(), (now, range));
        Ok(range)
    }

    /// Whether Neutron has an extension, such as `revision-if-match`.
    pub(super) async fn has_extension(&self, alias: &str) -> Result<bool, OutsideError> {
        let now = self.shared.wiring.clock.now();
        let mut known = self.shared.discovery.extensions.lock().await;
        if let Some((read_at, aliases)) = known.as_ref()
            && *read_at + KEEP > now
        {
            return Ok(aliases.contains(alias));
        }
        let call = Call::get(Service::Network, "neutron list extensions", "/extensions")
            .query("limit", PAGE.to_string());
        let rows: Vec<Extension> = self.fetch_list(call, "extensions").await.map_err(not_absent)?;
        let aliases: BTreeSet<String> = rows.into_iter().map(|row| row.alias).collect();
        let has_it = aliases.contains(alias);
        *known = Some((now, aliases));
        Ok(has_it)
    }

    /// Ranges of all services that have microversions, for the inventory.
    pub(super) async fn version_ranges(
        &self,
    ) -> Result<BTreeMap<String, VersionRange>, OutsideError> {
        let mut ranges = BTreeMap::new();
        for service in [Service::Compute, Service::Placement] {
            let range = match self.versions(service).await {
                Ok(range) => range,
                // Placement is of use to administrators only, and often not in the catalog.
                Err(error) if service == Service::Placement => {
                    tracing::debug!(cloud.name = self.cloud(), "no placement: {error}");
                    continue;
                }
                Err(error) => return Err(error),
            };
            let range = VersionRange { min: range.min.to_string(), max: range.max.to_string() };
            ranges.insert(service.as_str().to_owned(), range);
        }
        Ok(ranges)
    }
}

/// A missing version document is a wrong endpoint, not a missing server.
fn not_absent(mut error: OutsideError) -> OutsideError {
    if error.kind == OutsideKind::Absent {
        error.kind = OutsideKind::Invalid;
        error.message = format!("the endpoint in the catalog is wrong: {}", error.message);
    }
    error
}

#[derive(Deserialize)]
struct Extension {
    alias: String,
}

/// Nova tells `version`, the others `versions`; Nova writes `version`, Placement `max_version`.
#[derive(Deserialize)]
struct Document {
    version: Option<Entry>,
    #[serde(default)]
    versions: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(alias = "max_version", default)]
    version: String,
    #[serde(default)]
    min_version: String,
}

impl Document {
    fn range(&self) -> Option<Range> {
        let entries = self.version.iter().chain(&self.versions);
        let range = |entry: &Entry| {
            Some(Range { min: entry.min_version.parse().ok()?, max: entry.version.parse().ok()? })
        };
        entries.filter_map(range).max_by_key(|range| range.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_version_up_to_the_wanted_is_chosen() {
        let range = Range { min: Microversion(2, 1), max: Microversion(2, 93) };
        let (v26, v69, v96) = (Microversion(2, 26), Microversion(2, 69), Microversion(2, 96));
        assert_eq!(range.choose(v69, v26), Some(v69));
        assert_eq!(range.choose(v96, v26), Some(range.max));
        assert_eq!(range.choose(v96, v96), None);
    }

    #[test]
    fn both_kinds_of_version_documents_are_read() {
        for text in [
            r#"{"version": {"id": "v2.1", "version": "2.93", "min_version": "2.1"}}"#,
            r#"{"versions": [{"id": "v2.0", "version": "", "min_version": ""},
                {"id": "v2.1", "version": "2.93", "min_version": "2.1"}]}"#,
            r#"{"versions": [{"id": "v1.0", "max_version": "2.93", "min_version": "2.1"}]}"#,
        ] {
            let document: Document = serde_json::from_str(text).expect("a document");
            let range = document.range().expect("a range");
            assert_eq!((range.min, range.max), (Microversion(2, 1), Microversion(2, 93)));
        }
    }
}
