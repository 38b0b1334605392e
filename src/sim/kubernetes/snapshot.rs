//! A cluster as data, to be kept over a restart of the simulation.

use std::collections::BTreeMap;
use std::io::Read as _;

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::counters::Counters;
use super::faults::Faults;
use super::nodes::Machine;
use super::settings::KubeSettings;
use super::state::State;
use super::store::{Store, kind_of};

/// Everything about a cluster, without its watches.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KubeSnapshot {
    settings: KubeSettings,
    now: Timestamp,
    next_due: Option<Timestamp>,
    revision: u64,
    draws: u64,
    pod_ranges: u32,
    machines: BTreeMap<String, Machine>,
    missing_nodes: BTreeMap<String, Timestamp>,
    faults: Faults,
    counters: Counters,
    objects: Vec<Value>,
}

impl KubeSnapshot {
    pub(super) fn of(state: &State) -> Self {
        Self {
            settings: state.settings.clone(),
            now: state.now,
            next_due: state.next_due(),
            revision: state.store.revision(),
            draws: state.draws,
            pod_ranges: state.pod_ranges,
            machines: state.machines.clone(),
            missing_nodes: state.missing_nodes.clone(),
            faults: state.faults.clone(),
            counters: state.counters.clone(),
            objects: state.store.everything().map(|object| (**object).clone()).collect(),
        }
    }

    /// As compressed text: objects of one kind are much alike, so little remains.
    pub(super) fn pack(&self) -> std::io::Result<Box<[u8]>> {
        pack_text(&serde_json::to_vec(self)?)
    }

    pub(super) fn unpack(packed: &[u8]) -> std::io::Result<Self> {
        // Text is parsed much faster from a slice than from a reader.
        let mut text = Vec::new();
        DeflateDecoder::new(packed).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }

    pub(super) fn into_state(self) -> State {
        let mut store = Store::starting_at(self.revision);
        for object in self.objects {
            if let Some(kind) = kind_of(&object) {
                store.restore(kind, object);
            }
        }
        // Everything was at rest when the snapshot was taken.
        store.take_dirty();
        let mut state = State::new(self.settings, self.now);
        state.store = store;
        state.machines = self.machines;
        state.missing_nodes = self.missing_nodes;
        state.faults = self.faults;
        state.counters = self.counters;
        state.draws = self.draws;
        state.pod_ranges = self.pod_ranges;
        state.resume(self.next_due);
        state
    }
}

/// Packs the text of a snapshot.
pub(super) fn pack_text(text: &[u8]) -> std::io::Result<Box<[u8]>> {
    let mut packer = DeflateEncoder::new(Vec::new(), Compression::fast());
    std::io::Write::write_all(&mut packer, text)?;
    Ok(packer.finish()?.into())
}
