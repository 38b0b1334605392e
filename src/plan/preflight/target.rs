//! Whether each name means exactly one thing on the target: by the cloud pair, or by itself.

use super::facts::{Facts, PoolFacts};
use crate::domain::cloud::CloudPhase;
use crate::domain::field::FieldError;
use crate::domain::insight::Insight;
use crate::domain::inventory::Flavor;
use crate::plan::resolve::{Side, Way};

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

impl Facts {
    /// The way between the clouds, once both were looked at.
    pub(super) fn way(&self) -> Option<Way<'_>> {
        fn side(cloud: &super::CloudFacts) -> Option<Side<'_>> {
            let inventory = cloud.inventory.as_ref()?;
            Some(Side { name: &cloud.name, spec: &cloud.spec, inventory })
        }
        let (source, target) = (side(&self.source)?, side(&self.target)?);
        Some(Way { source, target, pair: self.pair.as_ref() })
    }
}

/// The flavor that new nodes of a pool get.
pub(super) fn flavor_of<'a>(facts: &'a Facts, pool: &PoolFacts) -> Option<&'a Flavor> {
    facts.way()?.flavor(&pool.flavor).ok()
}

/// The flavors that new nodes of the pools get, each once.
pub fn target_flavors(facts: &Facts) -> Vec<&Flavor> {
    let mut found: Vec<&Flavor> =
        facts.pools.iter().filter_map(|pool| flavor_of(facts, pool)).collect();
    found.sort_by(|a, b| a.id.cmp(&b.id));
    found.dedup_by(|a, b| a.id == b.id);
    found
}

/// Every pool has one flavor on the target, and not a smaller one.
pub(super) fn flavors(facts: &Facts) -> Vec<Insight> {
    const ID: &str = "target_flavor";
    let mut all = named(facts, (ID, "flavor"), |way, pool| {
        way.flavor(&pool.flavor).map(|flavor| flavor.name.clone())
    });
    let here = facts.source.inventory.as_ref();
    let smaller = |pool: &PoolFacts| {
        let old = crate::plan::resolve::flavor(here?, &pool.flavor).ok()?;
        let new = flavor_of(facts, pool)?;
        (new.vcpus < old.vcpus || new.ram_mb < old.ram_mb).then(|| {
            format!(
                "{}: {} vCPUs and {} MiB become {} and {}",
                pool.name, old.vcpus, old.ram_mb, new.vcpus, new.ram_mb
            )
        })
    };
    let smaller: Vec<String> = facts.pools.iter().filter_map(smaller).collect();
    if !smaller.is_empty() {
        let reason = "new nodes are smaller than old ones: pods may find no room";
        let fix = "an operator maps the flavor to a larger one, or the pool gets more nodes";
        all.push(facts.warn("flavor_smaller", reason).on(smaller).fix(fix));
    }
    all
}

/// There is one image, and its kubelet is of the cluster's version.
pub(super) fn image(facts: &Facts) -> Vec<Insight> {
    named(facts, ("target_image", "image"), |way, pool| {
        let offering = &facts.cluster.offering;
        way.image(pool.image.as_deref(), offering).map(|(image, _)| image.name.clone())
    })
}

/// There is one network for nodes.
pub(super) fn network(facts: &Facts) -> Vec<Insight> {
    named(facts, ("target_network", "network"), |way, pool| {
        way.network(pool.network.as_deref()).map(|(network, _)| network.name.clone())
    })
}

/// There is one security group for nodes.
pub(super) fn security_group(facts: &Facts) -> Vec<Insight> {
    named(facts, ("target_security_group", "security group"), |way, pool| {
        way.security_group(pool.security_group.as_deref()).map(|(group, _)| group.name.clone())
    })
}

/// The zone is there and takes servers.
pub(super) fn zones(facts: &Facts) -> Vec<Insight> {
    named(facts, ("target_zone", "zone"), |way, pool| {
        let zone = way.zone(pool.zone.as_deref())?;
        if let Some(zone) = &zone {
            crate::plan::resolve::zone(way.target.inventory, zone)
                .map_err(|problem| FieldError { field: format!("zones.{zone}"), problem })?;
        }
        Ok(zone.unwrap_or_else(|| "any zone".to_owned()))
    })
}

/// What one kind of name of every pool means on the target.
fn named(
    facts: &Facts,
    (id, what): (&str, &str),
    meaning: impl Fn(&Way<'_>, &PoolFacts) -> Result<String, FieldError>,
) -> Vec<Insight> {
    let Some(way) = facts.way() else { return Vec::new() };
    let (source, target) = (&facts.source.name, &facts.target.name);
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for pool in &facts.pools {
        match meaning(&way, pool) {
            Ok(name) => found.push(format!("{}: {name}", pool.name)),
            Err(wrong) => {
                missing.push(format!("{}: {}: {}", pool.name, wrong.field, wrong.problem));
            }
        }
    }
    if missing.is_empty() {
        let reason = format!("every pool has its {what} on cloud {target}");
        return vec![facts.pass(id, reason).on(found)];
    }
    let reason = format!("no {what}, or more than one, on cloud {target} for what the pools use");
    let fix = format!(
        "an operator says what it is there in the cloud pair {source} -> {target}, or makes it \
         there"
    );
    vec![facts.block(id, reason).on(missing).fix(fix).and_final()]
}
