//! What was asked of a cluster: for tests and benches that count calls.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Numbers since the cluster began.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Requests by verb and resource, such as `list pods` or `create pods/eviction`.
    pub calls: BTreeMap<String, u64>,
    /// Evictions that were accepted, dry runs not counted.
    pub evictions_accepted: u64,
    /// Evictions that were refused, whatever the reason.
    pub evictions_refused: u64,
}

impl Counters {
    pub(super) fn count(&mut self, call: String) {
        *self.calls.entry(call).or_default() += 1;
    }

    /// All requests together.
    pub fn total(&self) -> u64 {
        self.calls.values().sum()
    }
}
