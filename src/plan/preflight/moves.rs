//! What a migration would do: waves, needs, time.

use std::collections::BTreeMap;

use super::facts::Facts;
use super::target::flavor_of;
use crate::domain::ids::{NodeId, PoolId};
use crate::domain::migration::{CommitPolicy, MigrationNode, MigrationSpec};
use crate::domain::node::{Node, Role};
use crate::domain::preflight::{Estimate, MovePlan, Needs, PlannedWave};
use crate::domain::wave::{self, Gate};

/// A server boots and joins in about this time, until the cluster's own nodes tell better.
const BOOT_GUESS: u64 = 240;
/// The pods of a node leave in about this time.
const DRAIN_GUESS: u64 = 120;
/// Most nodes drained at once without a wish for more, as `plan::migration` has it.
const PARALLEL_MAX: usize = 20;

/// Fixes which usable node goes in which wave: by pool (with its cloud), and by name within a pool.
pub fn assign_waves<'a>(
    spec: &MigrationSpec,
    pools: &[(PoolId, crate::domain::ids::CloudId)],
    nodes: impl Iterator<Item = &'a Node> + Clone,
) -> Vec<MigrationNode> {
    let of_pool = |(pool, cloud): &(PoolId, crate::domain::ids::CloudId)| -> Vec<NodeId> {
        let mut members: Vec<&Node> = nodes
            .clone()
            .filter(|node| node.role == Role::Worker && node.pool_id == Some(*pool))
            .filter(|node| node.cloud_id == *cloud && node.is_usable())
            .collect();
        members.sort_by(|a, b| a.name.cmp(&b.name));
        members.iter().map(|node| node.id).collect()
    };
    let members: Vec<Vec<NodeId>> = pools.iter().map(of_pool).collect();
    let counts: Vec<u32> =
        members.iter().map(|ids| u32::try_from(ids.len()).unwrap_or(u32::MAX)).collect();
    let waves = wave::assign(&spec.waves, &counts);
    let pairs = members.into_iter().flatten().zip(waves.into_iter().flatten());
    pairs.map(|(node_id, wave)| MigrationNode { node_id, wave }).collect()
}

/// What the migration would do; `None` while the target can't be looked at.
pub fn plan_move(facts: &Facts) -> Option<MovePlan> {
    let needs = needs(facts)?;
    let waves = waves(facts);
    let moving_seconds = waves.iter().map(|wave| wave.seconds).sum();
    let waits_for_people = facts.spec.commit == CommitPolicy::Manual
        || waves.iter().any(|wave| wave.gate == Gate::Approval);
    let hold_seconds = u64::from(facts.spec.hold_seconds);
    Some(MovePlan {
        waves,
        needs,
        estimate: Estimate { moving_seconds, hold_seconds, waits_for_people },
    })
}

/// What 100 % of the move takes on the target, the surge of each pool included.
pub(super) fn needs(facts: &Facts) -> Option<Needs> {
    let members = group_size(facts);
    let mut needs = Needs::default();
    for pool in &facts.pools {
        let flavor = flavor_of(facts, pool)?;
        let surge = if pool.count == 0 { 0 } else { u64::from(pool.surge) };
        let servers = u64::from(pool.count) + surge;
        needs.servers += servers;
        needs.surge += surge;
        needs.vcpus += servers * u64::from(flavor.vcpus);
        needs.ram_mb += servers * flavor.ram_mb;
        needs.server_groups += servers.div_ceil(members);
    }
    needs.ports = needs.servers;
    needs.addresses = needs.servers;
    Some(needs)
}

/// Members of one server group: the target's quota, else Nova's default.
pub(super) fn group_size(facts: &Facts) -> u64 {
    let quota = facts.target.inventory.as_ref().map(|i| i.quotas.server_group_members);
    quota.and_then(|quota| quota.limit).unwrap_or(10).max(1)
}

fn waves(facts: &Facts) -> Vec<PlannedWave> {
    let mut of_wave: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for old in &facts.waves {
        let name = facts.nodes.iter().find(|node| node.id == old.node_id).map(|n| n.name.clone());
        of_wave.entry(old.wave).or_default().extend(name);
    }
    let boot = boot_seconds(facts);
    let slots = usize::try_from(facts.target.spec.limits.builds_in_flight).unwrap_or(1).max(1);
    let mut planned = Vec::new();
    for (index, mut nodes) in of_wave {
        let Some(spec) = facts.spec.waves.get(index) else { continue };
        nodes.sort();
        let wish = facts.spec.drain.parallel.map(|n| n as usize);
        let at_once = match wish {
            Some(wish) => wish,
            None if planned.is_empty() => 1,
            None => nodes.len().div_ceil(10).clamp(1, PARALLEL_MAX),
        };
        let rounds = |of: usize| nodes.len().div_ceil(of.max(1)) as u64;
        planned.push(PlannedWave {
            number: u32::try_from(index + 1).unwrap_or(u32::MAX),
            upto: spec.upto.to_string(),
            soak_seconds: spec.soak_seconds,
            gate: spec.gate,
            seconds: boot * rounds(slots)
                + DRAIN_GUESS * rounds(at_once)
                + u64::from(spec.soak_seconds),
            nodes,
        });
    }
    planned
}

/// What the cluster's own workers took from their row to serving, in the middle.
fn boot_seconds(facts: &Facts) -> u64 {
    let took = |node: &Node| {
        let took = node.usable_at?.duration_since(node.created_at).as_secs();
        u64::try_from(took).ok()
    };
    let workers = facts.nodes.iter().filter(|node| node.role == Role::Worker);
    let mut times: Vec<u64> = workers.filter_map(took).collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or(BOOT_GUESS)
}
