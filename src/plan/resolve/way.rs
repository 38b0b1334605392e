//! What a name on one cloud means on another: by the cloud pair, else by the same name, else by
//! the defaults of both clouds. What is left is refused by name, never guessed.

use crate::domain::cloud::CloudSpec;
use crate::domain::cloud_pair::{CloudPairSpec, PairCheck};
use crate::domain::field::{FieldError, FieldErrors, known};
use crate::domain::inventory::{Flavor, Image, Inventory, Network, SecurityGroup};
use crate::domain::offering::OfferingSpec;

/// A cloud as one end of a way.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    /// Its name.
    pub name: &'a str,
    /// How it is registered.
    pub spec: &'a CloudSpec,
    /// What it has.
    pub inventory: &'a Inventory,
}

/// The way from one cloud to another.
#[derive(Debug, Clone, Copy)]
pub struct Way<'a> {
    /// Where the nodes are.
    pub source: Side<'a>,
    /// Where they go.
    pub target: Side<'a>,
    /// What an operator mapped between them, if anything.
    pub pair: Option<&'a CloudPairSpec>,
}

/// What a pool uses where it is; names or ids of that cloud. None is the cloud's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Names<'a> {
    /// Size of its servers.
    pub flavor: &'a str,
    /// Their zone.
    pub zone: Option<&'a str>,
    /// Their network.
    pub network: Option<&'a str>,
    /// Their security group.
    pub security_group: Option<&'a str>,
    /// Their image, where a mapping chose it.
    pub image: Option<&'a str>,
}

/// What a pool uses on the cloud to which it moves. None is that cloud's default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Name of the flavor.
    pub flavor: String,
    /// The zone.
    pub zone: Option<String>,
    /// Name or id of the network, if a mapping chose it.
    pub network: Option<String>,
    /// Name or id of the security group, if a mapping chose it.
    pub security_group: Option<String>,
    /// Name or id of the image, if a mapping chose it.
    pub image: Option<String>,
}

/// A name of the source for which one of the target is looked for.
struct Asked<'n> {
    field: &'n str,
    name: &'n str,
    /// Other words for the same thing.
    twins: &'n [&'n str],
    /// Whether it is what the source gives to whoever does not choose.
    is_default: bool,
}

/// What is done with a name of the source.
enum Meaning<'a> {
    /// It is this on the target.
    Is(&'a str),
    /// Whatever the target has as its default.
    Default,
}

impl<'a> Way<'a> {
    /// What all names of a pool mean on the target; every one that means nothing is named.
    pub fn place(&self, names: Names<'_>, offering: &OfferingSpec) -> Result<Place, FieldErrors> {
        let mut errors = FieldErrors::default();
        let flavor = keep(self.flavor(names.flavor), &mut errors);
        let zone = keep(self.zone(names.zone), &mut errors);
        let network = keep(self.network(names.network), &mut errors);
        let group = keep(self.security_group(names.security_group), &mut errors);
        let image = keep(self.image(names.image, offering), &mut errors);
        let chosen = |mapped: Option<Option<&str>>| mapped.flatten().map(str::to_owned);
        errors.into_result(Place {
            flavor: flavor.map(|flavor| flavor.name.clone()).unwrap_or_default(),
            zone: zone.flatten(),
            network: chosen(network.map(|(_, name)| name)),
            security_group: chosen(group.map(|(_, name)| name)),
            image: chosen(image.map(|(_, name)| name)),
        })
    }

    /// The flavor on the target for one of the source.
    pub fn flavor(&self, wanted: &str) -> Result<&'a Flavor, FieldError> {
        let all = &self.source.inventory.flavors;
        let twins = twins(wanted, all.iter().map(|f| (f.id.as_str(), f.name.as_str())));
        let is_default = twins.contains(&self.source.spec.defaults.flavor.as_str())
            || self.source.spec.defaults.control_plane_flavor.as_deref() == Some(wanted);
        let there = self.target.inventory;
        let same = || super::flavor(there, wanted).is_ok().then_some(wanted);
        let names = there.flavors.iter().map(|flavor| flavor.name.as_str());
        let meaning = self.meaning(
            Asked { field: "flavors", name: wanted, twins: &twins, is_default },
            same,
            names,
        )?;
        let name = match meaning {
            Meaning::Is(name) => name,
            Meaning::Default => &self.target.spec.defaults.flavor,
        };
        super::flavor(there, name).map_err(|problem| self.stale("flavors", wanted, &problem))
    }

    /// The zone on the target for one of the source; none: the cloud chooses.
    pub fn zone(&self, wanted: Option<&str>) -> Result<Option<String>, FieldError> {
        let default = self.source.spec.defaults.zone.as_deref();
        let there = self.target.spec.defaults.zone.clone();
        let Some(name) = wanted.or(default) else { return Ok(there) };
        let zones = &self.target.inventory.zones;
        let exists = |name: &str| zones.iter().any(|zone| zone.name == name);
        let same = || (wanted.is_some() && exists(name)).then_some(name);
        let names = zones.iter().map(|zone| zone.name.as_str());
        let is_default = default == Some(name);
        let asked = Asked { field: "zones", name, twins: &[name], is_default };
        match self.meaning(asked, same, names)? {
            Meaning::Is(found) if exists(found) => Ok(Some(found.to_owned())),
            Meaning::Is(found) => {
                let there = known(zones.iter().map(|zone| zone.name.as_str()));
                Err(self.stale("zones", name, &format!("no zone {found}; {there}")))
            }
            Meaning::Default => Ok(there),
        }
    }

    /// The network on the target, and its name if a mapping chose it.
    pub fn network(
        &self,
        wanted: Option<&str>,
    ) -> Result<(&'a Network, Option<&'a str>), FieldError> {
        let default = &self.source.spec.defaults.network;
        let name = wanted.unwrap_or(default);
        let all = &self.source.inventory.networks;
        let twins = twins(name, all.iter().map(|n| (n.id.as_str(), n.name.as_str())));
        let there = self.target.inventory;
        let same = || {
            let found = wanted.and_then(|name| super::network(there, name).ok());
            found.map(|network| network.name.as_str())
        };
        let names = there.networks.iter().filter(|n| !n.is_external).map(|n| n.name.as_str());
        let is_default = twins.contains(&default.as_str());
        let asked = Asked { field: "networks", name, twins: &twins, is_default };
        let (found, chosen) = match self.meaning(asked, same, names)? {
            Meaning::Is(found) => (found, Some(found)),
            Meaning::Default => (self.target.spec.defaults.network.as_str(), None),
        };
        let network = super::network(there, found);
        Ok((network.map_err(|problem| self.stale("networks", name, &problem))?, chosen))
    }

    /// The security group on the target, and its name if a mapping chose it.
    pub fn security_group(
        &self,
        wanted: Option<&str>,
    ) -> Result<(&'a SecurityGroup, Option<&'a str>), FieldError> {
        let default = &self.source.spec.defaults.security_group;
        let name = wanted.unwrap_or(default);
        let all = &self.source.inventory.security_groups;
        let twins = twins(name, all.iter().map(|g| (g.id.as_str(), g.name.as_str())));
        let there = self.target.inventory;
        let same = || {
            let found = wanted.and_then(|name| super::security_group(there, name).ok());
            found.map(|group| group.name.as_str())
        };
        let names = there.security_groups.iter().map(|group| group.name.as_str());
        let is_default = twins.contains(&default.as_str());
        let asked = Asked { field: "security_groups", name, twins: &twins, is_default };
        let (found, chosen) = match self.meaning(asked, same, names)? {
            Meaning::Is(found) => (found, Some(found)),
            Meaning::Default => (self.target.spec.defaults.security_group.as_str(), None),
        };
        let group = super::security_group(there, found);
        Ok((group.map_err(|problem| self.stale("security_groups", name, &problem))?, chosen))
    }

    /// The image on the target, and its name if a mapping chose it. What the offering names for
    /// the target comes first, and whatever is chosen must carry the offering's version.
    pub fn image(
        &self,
        chosen: Option<&str>,
        offering: &OfferingSpec,
    ) -> Result<(&'a Image, Option<&'a str>), FieldError> {
        let (source, target) = (self.source, self.target);
        let here =
            super::chosen_image(source.inventory, offering, (source.name, source.spec), chosen);
        let mapped = here.ok().and_then(|image| {
            let images = &self.pair?.images;
            let to = images.get(&image.name).or_else(|| images.get(&image.id))?;
            Some((image.name.as_str(), to.as_str()))
        });
        let mapped = mapped.filter(|_| !offering.images.contains_key(target.name));
        let Some((name, to)) = mapped else {
            let found = super::image(target.inventory, offering, (target.name, target.spec));
            return found.map(|image| (image, None)).map_err(|problem| FieldError {
                field: "images".to_owned(),
                problem: format!("on cloud {}: {problem}", target.name),
            });
        };
        let found = super::image_named(target.inventory, offering, to);
        Ok((found.map_err(|problem| self.stale("images", name, &problem))?, Some(to)))
    }

    /// By the pair, the same name, or both defaults. `twins` are the other words for the name.
    fn meaning<'n>(
        &self,
        asked: Asked<'_>,
        same: impl Fn() -> Option<&'n str>,
        there: impl Iterator<Item = &'a str>,
    ) -> Result<Meaning<'n>, FieldError>
    where
        'a: 'n,
    {
        let Asked { field, name, twins, is_default } = asked;
        let map = self.pair.and_then(|pair| {
            pair.maps().into_iter().find(|(known, _)| *known == field).map(|(_, map)| map)
        });
        if let Some(to) = map.and_then(|map| twins.iter().find_map(|word| map.get(*word))) {
            return Ok(Meaning::Is(to));
        }
        if let Some(same) = same() {
            return Ok(Meaning::Is(same));
        }
        if is_default {
            return Ok(Meaning::Default);
        }
        let (source, target) = (self.source.name, self.target.name);
        Err(FieldError {
            field: format!("{field}.{name}"),
            problem: format!(
                "the cloud pair {source} -> {target} does not say what it is on {target}; {}",
                known(there)
            ),
        })
    }

    fn stale(&self, field: &str, name: &str, problem: &str) -> FieldError {
        let problem = format!("on cloud {}: {problem}", self.target.name);
        FieldError { field: format!("{field}.{name}"), problem }
    }

    /// What both inventories say of the pair: every name must exist on the source and mean exactly
    /// one thing on the target.
    pub fn check(&self) -> PairCheck {
        let mut check = PairCheck::default();
        for (field, map) in self.pair.iter().flat_map(|pair| pair.maps()) {
            for (from, to) in map {
                let path = format!("{field}.{from}");
                let names = names(self.source.inventory, field);
                if !names.iter().any(|(id, name)| from == id || from == name) {
                    let there = known(names.iter().map(|(_, name)| *name));
                    let what = format!("cloud {} has no such name; {there}", self.source.name);
                    check.problems.push(FieldError { field: path.clone(), problem: what });
                }
                if let Err(problem) = exists(self.target.inventory, field, to) {
                    check.problems.push(self.stale(field, from, &problem));
                } else if let Some(problem) = self.surprise(field, (from, to)) {
                    check.warnings.push(FieldError { field: path, problem });
                }
            }
        }
        check
    }

    /// What works but may not be what was meant.
    fn surprise(&self, field: &str, (from, to): (&str, &str)) -> Option<String> {
        match field {
            "flavors" => {
                let here = super::flavor(self.source.inventory, from).ok()?;
                smaller(here, super::flavor(self.target.inventory, to).ok()?)
            }
            "zones" => super::zone(self.target.inventory, to).err(),
            "images" => {
                let version = |inventory: &Inventory, name: &str| {
                    let mut all = inventory.images.iter();
                    all.find(|i| i.id == name || i.name == name)?.kubernetes_version.clone()
                };
                let here = version(self.source.inventory, from);
                let there = version(self.target.inventory, to);
                let word = |version: Option<String>| version.unwrap_or("no version".to_owned());
                (here != there)
                    .then(|| format!("{from} carries {}, {to} carries {}", word(here), word(there)))
            }
            _ => None,
        }
    }
}

fn keep<T>(found: Result<T, FieldError>, errors: &mut FieldErrors) -> Option<T> {
    found.map_err(|error| errors.0.push(error)).ok()
}

/// A name with the id and the name of the thing that it means: a mapping may use any of them.
fn twins<'n>(wanted: &'n str, all: impl Iterator<Item = (&'n str, &'n str)>) -> Vec<&'n str> {
    let mut twins = vec![wanted];
    let mut all = all.filter(|(id, name)| *id == wanted || *name == wanted);
    if let Some((id, name)) = all.next() {
        twins.extend([name, id]);
    }
    twins
}

/// Ids and names of one kind.
fn names<'a>(inventory: &'a Inventory, field: &str) -> Vec<(&'a str, &'a str)> {
    match field {
        "flavors" => {
            inventory.flavors.iter().map(|one| (one.id.as_str(), one.name.as_str())).collect()
        }
        "networks" => {
            inventory.networks.iter().map(|one| (one.id.as_str(), one.name.as_str())).collect()
        }
        "security_groups" => {
            let all = &inventory.security_groups;
            all.iter().map(|one| (one.id.as_str(), one.name.as_str())).collect()
        }
        "zones" => {
            inventory.zones.iter().map(|one| (one.name.as_str(), one.name.as_str())).collect()
        }
        _ => inventory.images.iter().map(|one| (one.id.as_str(), one.name.as_str())).collect(),
    }
}

/// Whether a name means exactly one thing.
fn exists(inventory: &Inventory, field: &str, name: &str) -> Result<(), String> {
    match field {
        "flavors" => super::flavor(inventory, name).map(drop),
        "networks" => super::network(inventory, name).map(drop),
        "security_groups" => super::security_group(inventory, name).map(drop),
        "zones" if inventory.zones.iter().any(|zone| zone.name == name) => Ok(()),
        "zones" => super::zone(inventory, name),
        _ => super::active_image(inventory, name).map(drop),
    }
}

/// In what a flavor is smaller than another, in words.
fn smaller(here: &Flavor, there: &Flavor) -> Option<String> {
    let figures = [
        ("vCPUs", u64::from(here.vcpus), u64::from(there.vcpus)),
        ("MiB of memory", here.ram_mb, there.ram_mb),
        ("GiB of disk", here.disk_gb, there.disk_gb),
    ];
    let less = figures.into_iter().filter(|(_, here, there)| there < here && *there > 0);
    let less: Vec<String> =
        less.map(|(what, here, there)| format!("{there} {what} instead of {here}")).collect();
    (!less.is_empty()).then(|| format!("{} is smaller: {}", there.name, less.join(", ")))
}
