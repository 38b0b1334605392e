//! Volumes, as far as they matter to where a pod may run: claims are bound to volumes that are
//! made for them, and a bound volume's node affinity holds for the pods that use it.

use serde_json::{Value, json};

use super::object;
use super::resource::Kind;
use super::selector;
use super::state::State;
use super::store::Place;

/// Binds every pending claim: to the volume it names, or to one made by its storage class.
pub(super) fn bind(state: &mut State) {
    let pending: Vec<Place> = state
        .store
        .all(Kind::PersistentVolumeClaim)
        .filter(|(_, claim)| object::text(claim, "/status/phase") != "Bound")
        .map(|(place, _)| place.clone())
        .collect();
    for place in pending {
        bind_one(state, &place);
    }
}

fn bind_one(state: &mut State, place: &Place) {
    let Some(claim) = state.store.at(Kind::PersistentVolumeClaim, place).cloned() else { return };
    let named = object::text(&claim, "/spec/volumeName").to_owned();
    let volume = if named.is_empty() {
        let Some(driver) = driver_of(state, &claim) else { return };
        provision(state, &claim, &driver)
    } else if state.store.get(Kind::PersistentVolume, "", &named).is_some() {
        named
    } else {
        return;
    };
    let claim_ref = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": place.0, "name": place.1,
        "uid": object::uid(&claim),
    });
    state.update(Kind::PersistentVolume, &(String::new(), volume.clone()), |pv| {
        pv["spec"]["claimRef"] = claim_ref;
        pv["status"]["phase"] = "Bound".into();
    });
    state.update(Kind::PersistentVolumeClaim, place, |claim| {
        claim["spec"]["volumeName"] = volume.into();
        claim["status"]["phase"] = "Bound".into();
        claim["status"]["accessModes"] = claim["spec"]["accessModes"].clone();
        claim["status"]["capacity"] = claim["spec"]["resources"]["requests"].clone();
    });
}

/// The provisioner of the claim's storage class, or of the default class.
fn driver_of(state: &State, claim: &Value) -> Option<String> {
    let class = claim["spec"]["storageClassName"].as_str();
    let is_default = |object: &Value| {
        let marker = "storageclass.kubernetes.io/is-default-class";
        object["metadata"]["annotations"][marker] == "true"
    };
    let found = state.store.all(Kind::StorageClass).find(|((_, name), object)| match class {
        Some(wanted) => wanted == name,
        None => is_default(object),
    })?;
    found.1["provisioner"].as_str().map(str::to_owned)
}

fn provision(state: &mut State, claim: &Value, driver: &str) -> String {
    let name = format!("pvc-{}", object::uid(claim));
    let handle = state.uid();
    state.create(
        Kind::PersistentVolume,
        json!({
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {
                "name": name,
                "annotations": {"pv.kubernetes.io/provisioned-by": driver},
            },
            "spec": {
                "accessModes": claim["spec"]["accessModes"],
                "capacity": claim["spec"]["resources"]["requests"],
                "csi": {"driver": driver, "volumeHandle": handle},
                "persistentVolumeReclaimPolicy": "Delete",
                "storageClassName": claim["spec"]["storageClassName"],
                "volumeMode": "Filesystem",
            },
            "status": {"phase": "Available"},
        }),
    );
    name
}

/// Whether the volumes of a pod can be used on a node. A claim that is not bound keeps the pod
/// off every node.
pub(super) fn allow_node(state: &State, pod: &Value, node: &Value) -> bool {
    let volumes = object::items(pod, "/spec/volumes").iter();
    let mut claims = volumes.filter_map(|one| one["persistentVolumeClaim"]["claimName"].as_str());
    claims.all(|name| {
        let claim = state.store.get(Kind::PersistentVolumeClaim, object::namespace(pod), name);
        let Some(claim) = claim else { return false };
        let volume = object::text(claim, "/spec/volumeName");
        let Some(volume) = state.store.get(Kind::PersistentVolume, "", volume) else {
            return false;
        };
        selector::node_affinity_allows(&volume["spec"]["nodeAffinity"]["required"], node)
    })
}
