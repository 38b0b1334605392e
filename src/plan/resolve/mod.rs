//! What a name means on a cloud: each must resolve to exactly one id.
//!
//! Names are the operator's and the owner's; a cloud may have none or several of a name. The text
//! of an error is for the person who chose the name.

mod way;

#[cfg(test)]
mod way_tests;

use crate::domain::cloud::CloudSpec;
use crate::domain::field::known;
use crate::domain::inventory::{Flavor, Image, Inventory, Network, SecurityGroup};
use crate::domain::offering::OfferingSpec;

pub use way::{Names, Place, Side, Way};

/// The one flavor that `wanted` names, by name or id.
pub fn flavor<'a>(inventory: &'a Inventory, wanted: &str) -> Result<&'a Flavor, String> {
    let all = &inventory.flavors;
    one("flavor", wanted, all.iter().map(|f| (f.id.as_str(), f.name.as_str(), f)))
}

/// The one network that `wanted` names; it must have an IPv4 subnet.
pub fn network<'a>(inventory: &'a Inventory, wanted: &str) -> Result<&'a Network, String> {
    let all = inventory.networks.iter().filter(|n| !n.is_external);
    let found = one("network", wanted, all.map(|n| (n.id.as_str(), n.name.as_str(), n)))?;
    if found.subnets.iter().any(|subnet| subnet.ip_version == 4) {
        Ok(found)
    } else {
        Err(format!("network {wanted} has no IPv4 subnet"))
    }
}

/// The one security group that `wanted` names.
pub fn security_group<'a>(
    inventory: &'a Inventory,
    wanted: &str,
) -> Result<&'a SecurityGroup, String> {
    let all = &inventory.security_groups;
    one("security group", wanted, all.iter().map(|g| (g.id.as_str(), g.name.as_str(), g)))
}

/// Checks that the cloud has this zone and that it takes servers.
pub fn zone(inventory: &Inventory, wanted: &str) -> Result<(), String> {
    match inventory.zones.iter().find(|zone| zone.name == wanted) {
        Some(zone) if zone.is_available => Ok(()),
        Some(_) => Err(format!("zone {wanted} takes no servers now")),
        None => {
            let names = inventory.zones.iter().map(|zone| zone.name.as_str());
            Err(format!("no zone {wanted}; {}", known(names)))
        }
    }
}

/// The image for an offering: the one it names for the cloud, else the cloud's default, else the
/// newest-named active image that carries the version. Its property `kubernetes_version` must be
/// right whoever chose it.
pub fn image<'a>(
    inventory: &'a Inventory,
    offering: &OfferingSpec,
    (cloud, spec): (&str, &CloudSpec),
) -> Result<&'a Image, String> {
    let version = offering.kubernetes_version.to_string();
    if let Some(chosen) = offering.images.get(cloud).or(spec.defaults.image.as_ref()) {
        return image_named(inventory, offering, chosen);
    }
    let fitting = inventory.images.iter().filter(|image| {
        image.status == "active" && image.kubernetes_version.as_deref() == Some(&version)
    });
    fitting
        .max_by_key(|image| (&image.name, &image.id))
        .ok_or_else(|| format!("no active image has the property kubernetes_version={version}"))
}

/// The image of a pool: the one that a mapping chose for it, as long as that carries the
/// offering's version, else [`image`].
pub fn chosen_image<'a>(
    inventory: &'a Inventory,
    offering: &OfferingSpec,
    (cloud, spec): (&str, &CloudSpec),
    chosen: Option<&str>,
) -> Result<&'a Image, String> {
    let version = offering.kubernetes_version.to_string();
    let found = chosen.and_then(|name| active_image(inventory, name).ok());
    match found.filter(|image| image.kubernetes_version.as_deref() == Some(&version)) {
        Some(image) if !offering.images.contains_key(cloud) => Ok(image),
        _ => image(inventory, offering, (cloud, spec)),
    }
}

/// The one active image of a name or id, if it carries the offering's version.
pub fn image_named<'a>(
    inventory: &'a Inventory,
    offering: &OfferingSpec,
    name: &str,
) -> Result<&'a Image, String> {
    let found = active_image(inventory, name)?;
    let version = offering.kubernetes_version.to_string();
    match found.kubernetes_version.as_deref() {
        Some(has) if has == version => Ok(found),
        Some(has) => Err(format!("image {name} is for Kubernetes {has}, not {version}")),
        None => Err(format!("image {name} has no property kubernetes_version")),
    }
}

/// The one active image of a name or id.
fn active_image<'a>(inventory: &'a Inventory, name: &str) -> Result<&'a Image, String> {
    let all = inventory.images.iter().filter(|image| image.status == "active");
    one("image", name, all.map(|i| (i.id.as_str(), i.name.as_str(), i)))
}

/// Finds by id, else by name if only one has it.
fn one<'a, T>(
    what: &str,
    wanted: &str,
    all: impl Iterator<Item = (&'a str, &'a str, &'a T)> + Clone,
) -> Result<&'a T, String> {
    if let Some((_, _, found)) = all.clone().find(|(id, _, _)| *id == wanted) {
        return Ok(found);
    }
    let mut named = all.clone().filter(|(_, name, _)| *name == wanted);
    match (named.next(), named.count()) {
        (Some((_, _, found)), 0) => Ok(found),
        (Some(_), more) => {
            Err(format!("{} {what}s are called {wanted}; name one by its id", more + 1))
        }
        (None, _) => Err(format!("no {what} {wanted}; {}", known(all.map(|(_, name, _)| name)))),
    }
}
