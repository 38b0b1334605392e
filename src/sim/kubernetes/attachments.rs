//! The attach/detach controller: a CSI volume is attached to the node of the pod that uses it, and
//! detached some time after the pod's object is gone.
//!
//! While a machine is silent nobody unmounts there; the controller then waits for six minutes
//! before it detaches by force, as `maxWaitForUnmountDuration` has it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::object;
use super::pods::Phase;
use super::resource::Kind;
use super::state::{self, State};
use super::store::Place;

/// How long the controller waits for a kubelet that does not unmount.
const FORCED_AFTER: SignedDuration = SignedDuration::from_mins(6);

/// Attaches what pods need, and detaches what none needs any more.
pub(super) fn reconcile(state: &mut State) {
    let attached: Vec<Place> = state.store.places(Kind::VolumeAttachment);
    let has_volumes = state.store.all(Kind::PersistentVolume).next().is_some();
    if attached.is_empty() && !has_volumes {
        return;
    }
    let wanted = wanted(state);
    for place in attached {
        let Some(attachment) = state.store.at(Kind::VolumeAttachment, &place) else { continue };
        let node = object::text(attachment, "/spec/nodeName").to_owned();
        let volume = object::text(attachment, "/spec/source/persistentVolumeName").to_owned();
        if !wanted.contains(&(node.clone(), volume)) {
            detach(state, &place, &node);
        }
    }
    for (node, volume) in wanted {
        attach(state, &node, &volume);
    }
    report(state);
}

/// Nodes and volumes of every pod that has a node and has not ended.
fn wanted(state: &State) -> BTreeSet<(String, String)> {
    let mut wanted = BTreeSet::new();
    for (place, facts) in state.store.pods() {
        let Some(node) = facts.node.as_deref().filter(|_| facts.phase != Phase::Finished) else {
            continue;
        };
        let Some(pod) = state.store.at(Kind::Pod, place) else { continue };
        for claim in object::items(pod, "/spec/volumes") {
            let Some(name) = claim["persistentVolumeClaim"]["claimName"].as_str() else { continue };
            let claim = state.store.get(Kind::PersistentVolumeClaim, &place.0, name);
            let volume = claim.map(|claim| object::text(claim, "/spec/volumeName"));
            if let Some(volume) = volume
                && driver_of(state, volume).is_some()
            {
                wanted.insert((node.to_owned(), volume.to_owned()));
            }
        }
    }
    wanted
}

fn driver_of(state: &State, volume: &str) -> Option<(String, String)> {
    let volume = state.store.get(Kind::PersistentVolume, "", volume)?;
    let csi = volume["spec"]["csi"].as_object()?;
    Some((csi["driver"].as_str()?.to_owned(), csi["volumeHandle"].as_str()?.to_owned()))
}

fn attach(state: &mut State, node: &str, volume: &str) {
    let Some((driver, handle)) = driver_of(state, volume) else { return };
    let number = state::hash(format!("{handle}{driver}{node}").as_bytes());
    let place = (String::new(), format!("csi-{number:016x}"));
    if state.store.at(Kind::VolumeAttachment, &place).is_some() {
        // Its detaching has not ended, and another pod wants it here again.
        state.update(Kind::VolumeAttachment, &place, |attachment| {
            object::remove(&mut attachment["metadata"], "deletionTimestamp");
        });
        return;
    }
    let object = json!({
        "apiVersion": "storage.k8s.io/v1",
        "kind": "VolumeAttachment",
        "metadata": {"name": place.1, "finalizers": [format!("external-attacher/{driver}")]},
        "spec": {
            "attacher": driver, "nodeName": node, "source": {"persistentVolumeName": volume},
        },
        "status": {"attached": true},
    });
    state.create(Kind::VolumeAttachment, object);
}

fn detach(state: &mut State, place: &Place, node: &str) {
    let now = state.now;
    state.update(Kind::VolumeAttachment, place, |attachment| {
        object::default(&mut attachment["metadata"]["deletionTimestamp"], object::stamp(now));
    });
    let Some(attachment) = state.store.at(Kind::VolumeAttachment, place) else { return };
    let since = object::time(attachment, "/metadata/deletionTimestamp").unwrap_or(now);
    let delay = state.faults.detach_takes.unwrap_or(state.settings.detach_delay);
    let is_silent = state.machines.get(node).is_none_or(|machine| !machine.is_running);
    let delay = if is_silent { FORCED_AFTER } else { state::span(delay) };
    if state.is_due(since + delay) {
        state.store.remove(Kind::VolumeAttachment, place);
    }
}

/// Writes `status.volumesAttached` of every node.
fn report(state: &mut State) {
    let mut of_node: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for (_, attachment) in state.store.all(Kind::VolumeAttachment) {
        let volume = object::text(attachment, "/spec/source/persistentVolumeName");
        if let Some((driver, handle)) = driver_of(state, volume) {
            let name = format!("kubernetes.io/csi/{driver}^{handle}");
            let node = object::text(attachment, "/spec/nodeName").to_owned();
            of_node.entry(node).or_default().push(json!({"name": name, "devicePath": ""}));
        }
    }
    for place in state.store.places(Kind::Node) {
        let volumes = of_node.remove(&place.1);
        state.update(Kind::Node, &place, |node| match volumes {
            Some(volumes) => node["status"]["volumesAttached"] = volumes.into(),
            None => object::remove(&mut node["status"], "volumesAttached"),
        });
    }
}
