//! From the API's pods to ours.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;

use crate::domain::pod::{
    Controller, DRAIN_LABEL, DRAIN_ORDER, DaemonSetOwner, DrainWish, PodPhase, PodRef, PodView,
};

/// Annotation of pods that mirror a static pod.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Kubernetes' own default for `terminationGracePeriodSeconds`.
const DEFAULT_GRACE: i64 = 30;

/// Namespace, name and UID.
pub(super) fn reference(pod: &core::Pod) -> Option<PodRef> {
    Some(PodRef {
        namespace: pod.metadata.namespace.clone()?,
        name: pod.metadata.name.clone()?,
        uid: pod.metadata.uid.clone()?,
    })
}

/// When an object was made.
pub(super) fn created_at(pod: &core::Pod) -> Timestamp {
    pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0)
}

/// Whether the Ready condition is true.
pub(super) fn is_ready(pod: &core::Pod) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

/// A condition of a pod.
pub(super) fn condition<'a>(pod: &'a core::Pod, type_: &str) -> Option<&'a core::PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Names of the claims of a pod, those of generic ephemeral volumes among them.
pub(super) fn claim_names(pod: &core::Pod) -> Vec<String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let claim = |volume: &core::Volume| match &volume.persistent_volume_claim {
        Some(claim) => Some(claim.claim_name.clone()),
        None => volume.ephemeral.as_ref().map(|_| format!("{name}-{}", volume.name)),
    };
    volumes(pod).iter().filter_map(claim).collect()
}

/// Whether a DaemonSet controls it.
pub(super) fn is_daemon(pod: &core::Pod) -> bool {
    owner(pod).is_some_and(|owner| owner.kind == "DaemonSet")
}

/// Our view of a pod, but for its claims. `living` are the UIDs of all DaemonSets.
pub(super) fn view(pod: &core::Pod, living: &BTreeSet<String>) -> Option<PodView> {
    let spec = pod.spec.as_ref();
    let has =
        |key: &str| pod.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(key));
    let deletion = pod.metadata.deletion_timestamp.as_ref().map(|time| time.0);
    let grace = match deletion {
        Some(_) => pod.metadata.deletion_grace_period_seconds,
        None => spec.and_then(|spec| spec.termination_grace_period_seconds),
    };
    Some(PodView {
        pod: reference(pod)?,
        node: spec.and_then(|spec| spec.node_name.clone()),
        phase: phase(pod),
        is_ready: is_ready(pod),
        is_mirror: has(MIRROR),
        controller: owner(pod).map(|owner| Controller {
            kind: owner.kind.clone(),
            name: owner.name.clone(),
            daemon_set: match owner.kind.as_str() {
                "DaemonSet" if living.contains(&owner.uid) => DaemonSetOwner::Living,
                "DaemonSet" => DaemonSetOwner::Gone,
                _ => DaemonSetOwner::No,
            },
        }),
        deletion_at: deletion,
        grace_seconds: u32::try_from(grace.unwrap_or(DEFAULT_GRACE)).unwrap_or(0),
        has_empty_dir: volumes(pod).iter().any(|volume| volume.empty_dir.is_some()),
        claims: vec![],
        priority: spec.and_then(|spec| spec.priority).unwrap_or(0),
        drain_wish: drain_wish(pod),
        order: order(pod),
        finalizers: pod.metadata.finalizers.clone().unwrap_or_default(),
        labels: pod.metadata.labels.clone().unwrap_or_default(),
        created_at: created_at(pod),
    })
}

/// Kind and name of the controller.
pub(super) fn owner_name(pod: &core::Pod) -> Option<String> {
    owner(pod).map(|owner| format!("{}/{}", owner.kind, owner.name))
}

fn owner(
    pod: &core::Pod,
) -> Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference> {
    let owners = pod.metadata.owner_references.as_ref()?;
    owners.iter().find(|owner| owner.controller == Some(true))
}

fn volumes(pod: &core::Pod) -> &[core::Volume] {
    pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default()
}

fn phase(pod: &core::Pod) -> PodPhase {
    match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
        Some("Pending") => PodPhase::Pending,
        Some("Running") => PodPhase::Running,
        Some("Succeeded") => PodPhase::Succeeded,
        Some("Failed") => PodPhase::Failed,
        _ => PodPhase::Unknown,
    }
}

fn drain_wish(pod: &core::Pod) -> Option<DrainWish> {
    match pod.metadata.labels.as_ref()?.get(DRAIN_LABEL)?.as_str() {
        "skip" => Some(DrainWish::Skip),
        "wait-completed" => Some(DrainWish::WaitCompleted),
        _ => None,
    }
}

/// A label or an annotation, the label first; what is no number counts as none.
fn order(pod: &core::Pod) -> i32 {
    let of = |map: &Option<std::collections::BTreeMap<String, String>>| {
        map.as_ref()?.get(DRAIN_ORDER)?.trim().parse().ok()
    };
    of(&pod.metadata.labels).or_else(|| of(&pod.metadata.annotations)).unwrap_or(0)
}
