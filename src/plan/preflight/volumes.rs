//! Volumes that stay behind.

use std::collections::BTreeSet;

use super::facts::Facts;
use super::pods::{have, moved};
use crate::domain::insight::Insight;
use crate::domain::survey::{PodFacts, Survey, VolumeFacts};

/// The volumes of a pod, as far as its claims are bound.
fn volumes_of<'a>(survey: &'a Survey, pod: &PodFacts) -> Vec<&'a VolumeFacts> {
    let bound = pod.claims.iter().filter_map(|claim| {
        let name = survey.claims.get(&(pod.namespace.clone(), claim.clone()))?;
        survey.volumes.iter().find(|volume| volume.name == *name)
    });
    bound.collect()
}

fn is_cinder(volume: &VolumeFacts) -> bool {
    matches!(volume.driver.as_deref(), Some("cinder.csi.openstack.org" | "kubernetes.io/cinder"))
}

/// Volumes of a node's own disk (F48).
pub(super) fn local(facts: &Facts) -> Vec<Insight> {
    const ID: &str = "local_volumes";
    let Ok(survey) = &facts.survey else { return Vec::new() };
    let found = users(facts, survey, |volume| volume.is_local);
    if found.is_empty() {
        return vec![facts.pass(ID, "no pod that moves has a volume on its node's own disk")];
    }
    let reason = format!(
        "{} a volume on the disk of a node that goes: the pod stays Pending and the data is \
         deleted with the server",
        have(found.len(), "pod")
    );
    let fix = "their owner copies the data to volumes that can move, or agrees to lose it (waive)";
    vec![facts.block(ID, reason).on(found).fix(fix)]
}

/// Volumes of the source's Cinder, which no other cloud can attach (F71).
pub(super) fn cloud(facts: &Facts) -> Vec<Insight> {
    const ID: &str = "cloud_volumes";
    let Ok(survey) = &facts.survey else { return Vec::new() };
    let (source, target) = (&facts.source.name, &facts.target.name);
    let found = users(facts, survey, is_cinder);
    if found.is_empty() {
        return vec![facts.pass(ID, format!("no pod that moves has a volume of cloud {source}"))];
    }
    let on_target: BTreeSet<&str> = facts
        .target
        .inventory
        .iter()
        .flat_map(|inventory| inventory.zones.iter().map(|zone| zone.name.as_str()))
        .collect();
    let same: BTreeSet<&str> = survey
        .volumes
        .iter()
        .filter(|volume| is_cinder(volume))
        .flat_map(|volume| volume.zones.iter().map(String::as_str))
        .filter(|zone| on_target.contains(zone))
        .collect();
    let trap = if same.is_empty() {
        String::new()
    } else {
        let zones: Vec<&str> = same.into_iter().collect();
        format!(
            "; {target} has a zone {} too, so such a pod is put there and hangs in \
             ContainerCreating for ever",
            zones.join(", ")
        )
    };
    let pods = have(found.len(), "pod");
    let reason = format!("{pods} a volume that only cloud {source} can attach{trap}");
    let fix = "keep these pods' pool on the source (--pool), or copy the data to volumes of the \
               target first";
    vec![facts.block(ID, reason).on(found).fix(fix)]
}

/// Pods that move and have such a volume: `namespace/pod: volume`.
fn users(facts: &Facts, survey: &Survey, is_meant: fn(&VolumeFacts) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for pod in moved(facts, survey) {
        for volume in volumes_of(survey, pod).into_iter().filter(|volume| is_meant(volume)) {
            found.push(format!("{}: {}", pod.full_name(), volume.name));
        }
    }
    found
}
