//! Whether the whole move fits the target: by quota, and host by host.
//!
//! What other migrations still have to make there counts as used: see [`Reservation`].

use std::collections::BTreeMap;

use super::facts::Facts;
use super::moves::{group_size, needs};
use super::target::flavor_of;
use crate::domain::insight::Insight;
use crate::domain::inventory::{Flavor, Inventory, Quota};
use crate::domain::preflight::Reservation;
use crate::plan::resolve;

/// Share of the move, in percent, for which there should be room beyond it: hosts fail, and others
/// build too.
const RESERVE_PERCENT: u64 = 10;

/// Servers, cores and memory that something takes.
#[derive(Debug, Clone, Copy, Default)]
struct Load {
    servers: u64,
    vcpus: u64,
    ram_mb: u64,
}

impl Load {
    fn add(&mut self, count: u64, flavor: &Flavor) {
        self.servers += count;
        self.vcpus += count * u64::from(flavor.vcpus);
        self.ram_mb += count * flavor.ram_mb;
    }
}

/// What the others have reserved; of the same quota only.
fn reserved(facts: &Facts, inventory: &Inventory) -> Load {
    let mut load = Load::default();
    for one in facts.reserved.iter().filter(|one| one.is_same_account) {
        if let Ok(flavor) = flavor_named(facts, inventory, one) {
            load.add(one.servers, flavor);
        } else {
            load.servers += one.servers;
        }
    }
    load
}

fn flavor_named<'a>(
    facts: &'a Facts,
    inventory: &'a Inventory,
    of: &Reservation,
) -> Result<&'a Flavor, String> {
    resolve::flavor(inventory, &of.flavor)
        .or_else(|_| resolve::flavor(inventory, &facts.target.spec.defaults.flavor))
}

/// The quota has room for all of it.
pub(super) fn quota(facts: &Facts) -> Vec<Insight> {
    const ID: &str = "quota";
    let (Some(inventory), Some(needs)) = (&facts.target.inventory, needs(facts)) else {
        return Vec::new();
    };
    let reserved = reserved(facts, inventory);
    let (all, must) = loads(facts);
    let quotas = &inventory.quotas;
    let rows: [(&str, u64, u64, u64, Quota); 4] = [
        ("servers", must.servers, all.servers, reserved.servers, quotas.instances),
        ("vCPUs", must.vcpus, all.vcpus, reserved.vcpus, quotas.cores),
        ("MiB of memory", must.ram_mb, all.ram_mb, reserved.ram_mb, quotas.ram_mb),
        ("ports", must.servers, all.servers, reserved.servers, quotas.ports),
    ];
    let (mut missing, mut tight) = (Vec::new(), Vec::new());
    for (what, must, all, reserved, quota) in rows {
        let Some(free) = quota.free() else { continue };
        let left = free.saturating_sub(reserved);
        let described = |needed: u64| {
            let (limit, used) = (quota.limit.unwrap_or(0), quota.used.unwrap_or(0));
            let others = if reserved > 0 {
                format!(", {reserved} reserved by others")
            } else {
                String::new()
            };
            format!("{what}: {needed} needed, {left} left (limit {limit}, used {used}{others})")
        };
        if must > left {
            missing.push(described(must));
        } else if all > left {
            tight.push(described(all));
        }
    }
    let target = &facts.target.name;
    let others: Vec<&str> = facts.reserved.iter().map(|one| one.by.as_str()).collect();
    if !missing.is_empty() {
        let by = if others.is_empty() || reserved.servers == 0 {
            String::new()
        } else {
            format!("; reserved by {}", others.join(", "))
        };
        let reason = format!("the project's quota on cloud {target} is too small{by}");
        let fix = "an operator raises the quota, or fewer pools move at a time";
        return vec![facts.block(ID, reason).on(missing).fix(fix).and_final()];
    }
    if !tight.is_empty() {
        let reason =
            format!("the quota on cloud {target} holds the move, but not the surge of its pools");
        let fix = "raise it: else a new node that fails is replaced only after it is deleted";
        return vec![facts.warn(ID, reason).on(tight).fix(fix)];
    }
    let reason = format!("the quota on cloud {target} has room for {} servers", needs.servers);
    vec![facts.pass(ID, reason)]
}

/// The whole move with its surge, and what it must have; without what is there already.
fn loads(facts: &Facts) -> (Load, Load) {
    let (mut all, mut must) = (Load::default(), Load::default());
    for pool in &facts.pools {
        let Some(flavor) = flavor_of(facts, pool) else { continue };
        let wanted = u64::from(pool.count).saturating_sub(facts.already_of(pool));
        must.add(wanted, flavor);
        let surge = if wanted == 0 { 0 } else { u64::from(pool.surge) };
        all.add(wanted + surge, flavor);
    }
    (all, must)
}

fn count_groups(number: u64) -> String {
    if number == 1 { "1 server group".to_owned() } else { format!("{number} server groups") }
}

/// There are groups enough, and places in them (F09).
pub(super) fn server_groups(facts: &Facts) -> Vec<Insight> {
    const ID: &str = "server_groups";
    let (Some(inventory), Some(needs)) = (&facts.target.inventory, needs(facts)) else {
        return Vec::new();
    };
    let (quotas, size) = (&inventory.quotas, group_size(facts));
    let target = &facts.target.name;
    let left = quotas.server_groups.free();
    if facts.already_there() > 0 || left.is_none_or(|left| left >= needs.server_groups) {
        let reason =
            format!("{} of {size} members for the pools", count_groups(needs.server_groups));
        return vec![facts.pass(ID, reason)];
    }
    let reason = format!(
        "{} server groups of {size} members are needed on cloud {target}, the quota leaves {}",
        needs.server_groups,
        left.unwrap_or(0)
    );
    let fix = "an operator raises the quota of server groups, or of members in one";
    vec![facts.block(ID, reason).on([target]).fix(fix).and_final()]
}

/// The hosts have room, packed server by server (F27).
pub(super) fn hosts(facts: &Facts) -> Vec<Insight> {
    const ID: &str = "capacity";
    let Some(inventory) = &facts.target.inventory else { return Vec::new() };
    let target = &facts.target.name;
    let mut wanted: Vec<(&Flavor, u64)> = Vec::new();
    for pool in &facts.pools {
        if let Some(flavor) = flavor_of(facts, pool) {
            let left = u64::from(pool.count).saturating_sub(facts.already_of(pool));
            wanted.push((flavor, left));
        }
    }
    if wanted.iter().any(|(flavor, _)| !facts.rooms.contains_key(&flavor.name)) {
        let reason = format!("what the hosts of cloud {target} have left is not told to us");
        return vec![facts.pass(ID, reason)];
    }
    let mut free = free_by_host(facts);
    for one in &facts.reserved {
        if let Ok(flavor) = flavor_named(facts, inventory, one) {
            let _ = pack(&mut free, flavor, one.servers);
        }
    }
    // Large ones first: small ones find room between them.
    wanted.sort_by_key(|(flavor, _)| std::cmp::Reverse((flavor.vcpus, flavor.ram_mb)));
    let mut missing = Vec::new();
    for (flavor, count) in &wanted {
        let placed = pack(&mut free, flavor, *count);
        if placed < *count {
            missing.push(format!("{}: {placed} of {count} servers fit", flavor.name));
        }
    }
    if !missing.is_empty() {
        let reason = format!("the hosts of cloud {target} have no room for all of the move");
        let fix = "an operator adds hosts or frees some; what fits now can be gone in an hour";
        return vec![facts.block(ID, reason).on(missing).fix(fix)];
    }
    let spare = |(flavor, count): &(&Flavor, u64)| {
        let reserve = (count * RESERVE_PERCENT).div_ceil(100);
        pack(&mut free.clone(), flavor, reserve) >= reserve
    };
    if wanted.iter().all(spare) {
        return vec![facts.pass(ID, format!("the hosts of cloud {target} have room"))];
    }
    let reason = format!(
        "the move fits the hosts of cloud {target}, but hardly anything is left then \
         ({RESERVE_PERCENT} % should be)"
    );
    let fix = "an operator adds hosts: one that fails meanwhile stops the migration";
    vec![facts.warn(ID, reason).fix(fix)]
}

type Free = BTreeMap<String, BTreeMap<String, u64>>;

/// What is left of each class on each host that could take one server of any flavor now.
fn free_by_host(facts: &Facts) -> Free {
    let mut free = Free::new();
    for room in facts.rooms.values().flatten() {
        free.insert(room.id.clone(), room.free.clone());
    }
    free
}

/// Puts servers on hosts until none fits; says how many found room.
fn pack(free: &mut Free, flavor: &Flavor, count: u64) -> u64 {
    let wanted = flavor.resources();
    let mut placed = 0;
    for host in free.values_mut() {
        let fits = wanted
            .iter()
            .map(|(class, amount)| host.get(*class).copied().unwrap_or(0) / (*amount).max(1))
            .min()
            .unwrap_or(0);
        let put = fits.min(count - placed);
        for (class, amount) in &wanted {
            if let Some(left) = host.get_mut(*class) {
                *left -= put * amount;
            }
        }
        placed += put;
        if placed == count {
            break;
        }
    }
    placed
}

/// User data fits into a create (F21).
pub(super) fn user_data(facts: &Facts) -> Vec<Insight> {
    const ID: &str = "user_data";
    let found: Vec<String> = facts
        .user_data
        .iter()
        .filter(|(_, size)| *size > facts.user_data_max)
        .map(|(pool, size)| format!("{pool}: {size} bytes"))
        .collect();
    let most = facts.user_data_max;
    if found.is_empty() {
        return vec![facts.pass(ID, format!("user data of every pool is below {most} bytes"))];
    }
    let reason = format!("user data is larger than the {most} bytes that Nova takes");
    let fix = "the owner gives the pools fewer or shorter taints";
    vec![facts.block(ID, reason).on(found).fix(fix).and_final()]
}
