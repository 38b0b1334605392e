//! Whether each name means exactly one thing on the target.

use super::facts::{Facts, PoolFacts};
use crate::domain::cloud::CloudPhase;
use crate::domain::insight::Insight;
use crate::domain::inventory::{Flavor, Inventory};
use crate::plan::resolve;

/// The target answers, and the project has a login there.
pub(super) fn is_ready(facts: &Facts) -> Vec<Insight> {
    const ID: &str = "cloud_unreachable";
    let target = &facts.target;
    let name = &target.name;
    if !target.has_account {
        let reason = format!("the project has no login on cloud {name}");
        let fix = "an operator gives the cloud a shared login, or the project one of its own";
        return vec![facts.block(ID, reason).on([name]).fix(fix).and_final()];
    }
    let is_good = target.phase == CloudPhase::Ready && target.complaints.is_empty();
    if !is_good || target.inventory.is_none() {
        let why = match target.complaints.as_slice() {
            [] => "its check is not over".to_owned(),
            all => all.join("; "),
        };
        let reason = format!("cloud {name} can't be used: {why}");
        let fix = format!("an operator mends what `zcpctl cloud get {name}` complains about");
        return vec![facts.block(ID, reason).on([name]).fix(fix).and_final()];
    }
    vec![facts.pass(ID, format!("cloud {name} answers"))]
}

/// The flavor that new nodes of a pool get: the one of its name, else the target's default.
pub(super) fn flavor_of<'a>(
    facts: &'a Facts,
    inventory: &'a Inventory,
    pool: &PoolFacts,
) -> Result<&'a Flavor, String> {
    resolve::flavor(inventory, &pool.flavor)
        .or_else(|_| resolve::flavor(inventory, &facts.target.spec.defaults.flavor))
}

/// Every pool has one flavor on the target, and not a smaller one.
pub(super) fn flavors(facts: &Facts) -> Vec<Insight> {
    const ID: &str = "target_flavor";
    let Some(inventory) = &facts.target.inventory else { return Vec::new() };
    let target = &facts.target.name;
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for pool in &facts.pools {
        match flavor_of(facts, inventory, pool) {
            Ok(flavor) => found.push(format!("{}: {}", pool.name, flavor.name)),
            Err(problem) => missing.push(format!("{}: {problem}", pool.name)),
        }
    }
    if !missing.is_empty() {
        let reason = format!("{} of the pools have no flavor on cloud {target}", missing.len());
        let fix = "an operator adds the flavor, or sets the cloud's default flavor";
        return vec![facts.block(ID, reason).on(missing).fix(fix).and_final()];
    }
    vec![facts.pass(ID, format!("every pool has a flavor on cloud {target}")).on(found)]
}

/// There is one image, and its kubelet is of the cluster's version.
pub(super) fn image(facts: &Facts) -> Vec<Insight> {
    const ID: &str = "target_image";
    let Some(inventory) = &facts.target.inventory else { return Vec::new() };
    let (target, offering) = (&facts.target, &facts.cluster.offering);
    let version = &offering.kubernetes_version;
    vec![match resolve::image(inventory, offering, (&target.name, &target.spec)) {
        Ok(image) => {
            let reason = format!("image {} is for Kubernetes {version}", image.name);
            facts.pass(ID, reason).on([&image.id])
        }
        Err(problem) => {
            let fix = format!(
                "an operator uploads one image for Kubernetes {version} to cloud {}, with the \
                 property kubernetes_version={version}",
                target.name
            );
            facts.block(ID, problem).on([&target.name]).fix(fix).and_final()
        }
    }]
}

/// There is one network for nodes.
pub(super) fn network(facts: &Facts) -> Vec<Insight> {
    let Some(inventory) = &facts.target.inventory else { return Vec::new() };
    let wanted = &facts.target.spec.defaults.network;
    let found = resolve::network(inventory, wanted).map(|network| network.id.clone());
    named(facts, ("target_network", "network"), found)
}

/// There is one security group for nodes.
pub(super) fn security_group(facts: &Facts) -> Vec<Insight> {
    let Some(inventory) = &facts.target.inventory else { return Vec::new() };
    let wanted = &facts.target.spec.defaults.security_group;
    let found = resolve::security_group(inventory, wanted).map(|group| group.id.clone());
    named(facts, ("target_security_group", "security group"), found)
}

/// The target's zone takes servers.
pub(super) fn zones(facts: &Facts) -> Vec<Insight> {
    let Some(inventory) = &facts.target.inventory else { return Vec::new() };
    let Some(wanted) = &facts.target.spec.defaults.zone else { return Vec::new() };
    let found = resolve::zone(inventory, wanted).map(|()| wanted.clone());
    named(facts, ("target_zone", "zone"), found)
}

fn named(facts: &Facts, (id, what): (&str, &str), found: Result<String, String>) -> Vec<Insight> {
    let target = &facts.target.name;
    vec![match found {
        Ok(found) => facts.pass(id, format!("cloud {target} has one {what} for nodes")).on([found]),
        Err(problem) => {
            let fix = format!("an operator sets the {what} of cloud {target} to one that is there");
            facts.block(id, problem).on([target]).fix(fix).and_final()
        }
    }]
}
