//! Whether a wish fits the clouds: by their inventory, which is advice. The cloud has the last word.

use std::collections::BTreeMap;

use crate::app::Error;
use crate::domain::cloud::{CloudPhase, CloudSpec};
use crate::domain::field::{FieldErrors, known};
use crate::domain::inventory::{Flavor, Inventory, Quota};
use crate::domain::offering::OfferingSpec;
use crate::plan::resolve;
use crate::store::clouds::{self, CloudRow};
use crate::store::{StoreError, Tx};

/// Clouds by name, as far as they exist.
pub struct Clouds {
    found: BTreeMap<String, CloudRow>,
    all: Vec<String>,
}

impl Clouds {
    /// Loads the clouds that a wish names.
    pub async fn load(tx: &mut Tx, names: &[String]) -> Result<Self, StoreError> {
        let rows = clouds::list_named(&mut **tx, names).await?;
        let found: BTreeMap<String, CloudRow> =
            rows.into_iter().map(|row| (row.name.clone(), row)).collect();
        let all = clouds::open_names(&mut **tx).await?;
        let ids: Vec<_> = found.values().map(|cloud| cloud.id).collect();
        clouds::hold(tx, &ids).await?;
        Ok(Self { found, all })
    }

    /// The cloud of that name; if there is none, says so of `field` and what there is.
    pub fn named(&self, name: &str, field: &str, errors: &mut FieldErrors) -> Option<&CloudRow> {
        let found = self.found.get(name);
        if found.is_none() {
            let all = known(self.all.iter().map(String::as_str));
            errors.push(field, format!("no cloud {name}; {all}"));
        }
        found
    }

    /// `Conflict` unless all of them can be used now.
    pub fn check_ready(&self) -> Result<(), Error> {
        self.found.values().try_for_each(check_ready)
    }
}

/// `Conflict` unless the cloud can be used now; says what is wrong with it.
pub fn check_ready(cloud: &CloudRow) -> Result<(), Error> {
    let name = &cloud.name;
    match (cloud.phase, &cloud.inventory) {
        (CloudPhase::Ready, Some(_)) => Ok(()),
        (CloudPhase::Unusable, _) => {
            let wrong: Vec<String> = cloud
                .checks
                .iter()
                .filter(|check| !check.ok)
                .map(|check| format!("{}: {}", check.field, check.message))
                .collect();
            Err(Error::conflict(format!("cloud {name} can't be used: {}", wrong.join("; "))))
        }
        (CloudPhase::Checking | CloudPhase::Ready, _) => Err(Error::conflict(format!(
            "cloud {name} is still being checked: try again when it is ready"
        ))),
    }
}

/// The inventory of a cloud that is ready.
pub fn inventory(cloud: &CloudRow) -> Result<&Inventory, Error> {
    check_ready(cloud)?;
    cloud.inventory.as_ref().ok_or_else(|| Error::internal("read an inventory", "none"))
}

/// Servers that a wish adds to one cloud.
#[derive(Debug, Default, Clone, Copy)]
pub struct Demand {
    servers: u64,
    cores: u64,
    ram_mb: u64,
    ports: u64,
}

impl Demand {
    /// Adds servers of one flavor, each with its port.
    pub fn add(&mut self, count: u32, flavor: &Flavor) {
        let count = u64::from(count);
        self.servers += count;
        self.cores += count * u64::from(flavor.vcpus);
        self.ram_mb += count * flavor.ram_mb;
        self.ports += count;
    }

    /// Adds a port without a server.
    pub fn add_port(&mut self) {
        self.ports += 1;
    }

    /// What of it the quota does not leave room for, with numbers; empty if all fits.
    pub fn shortage(&self, cloud: &CloudRow, inventory: &Inventory) -> Vec<String> {
        let quotas = &inventory.quotas;
        [
            ("servers", self.servers, quotas.instances),
            ("cores", self.cores, quotas.cores),
            ("MiB of memory", self.ram_mb, quotas.ram_mb),
            ("ports", self.ports, quotas.ports),
        ]
        .into_iter()
        .filter_map(|(what, needed, quota)| short(&cloud.name, what, (needed, quota)))
        .collect()
    }
}

fn short(cloud: &str, what: &str, (needed, quota): (u64, Quota)) -> Option<String> {
    let free = quota.free()?;
    if needed <= free {
        return None;
    }
    let limit = quota.limit.unwrap_or_default();
    let used = quota.used.unwrap_or_default();
    Some(format!(
        "{needed} {what} are needed on cloud {cloud}, but its quota leaves {free} (limit {limit}, \
         used {used})"
    ))
}

/// Checks what every server on a cloud needs beside its flavor.
pub fn check_base(
    cloud: &CloudRow,
    offering: &OfferingSpec,
    (cloud_field, offering_field): (&str, &str),
    errors: &mut FieldErrors,
) -> Result<(), Error> {
    let inventory = inventory(cloud)?;
    let CloudSpec { defaults, .. } = &cloud.spec;
    let on = |problem: String| format!("cloud {}: {problem}", cloud.name);
    if let Err(problem) = resolve::image(inventory, offering, (&cloud.name, &cloud.spec)) {
        errors.push(offering_field, on(problem));
    }
    if let Err(problem) = resolve::network(inventory, &defaults.network) {
        errors.push(cloud_field, on(problem));
    }
    if let Err(problem) = resolve::security_group(inventory, &defaults.security_group) {
        errors.push(cloud_field, on(problem));
    }
    Ok(())
}
