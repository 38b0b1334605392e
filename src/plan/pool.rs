//! How many nodes a pool wants on which cloud.
//!
//! This is the one place where a migration's phase turns into numbers of nodes; the cluster
//! planner makes and removes nodes by it, so a node that is re-created keeps its side.

use crate::domain::ids::{CloudId, PoolId};
use crate::domain::migration::{Migration, Phase};
use crate::domain::node::{Desired, Node};

/// A pool as the planner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Its id.
    pub id: PoolId,
    /// Its name.
    pub name: String,
    /// Where its nodes belong when no migration moves it.
    pub cloud: CloudId,
    /// How many nodes its owner wants.
    pub count: u32,
    /// How many more may exist while some are replaced.
    pub surge: u32,
}

/// How many nodes a pool wants on one cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// So many: more are removed, fewer are added.
    Exactly(u32),
    /// So many at least: fewer are added, more stay.
    AtLeast(u32),
    /// What is there stays; nothing is added.
    AsIs,
}

/// What the pool wants on each cloud that matters to it. A cloud that is not named is wanted empty.
///
/// `nodes` are the pool's open nodes, of every cloud.
pub fn wanted(
    pool: &Pool,
    migration: Option<&Migration>,
    nodes: &[&Node],
) -> Vec<(CloudId, Wanted)> {
    let Some(migration) = migration.filter(|m| m.pools.contains(&pool.id)) else {
        return vec![(pool.cloud, Wanted::Exactly(pool.count))];
    };
    let (source, target) = (migration.source, migration.target);
    match migration.phase {
        Phase::Pending | Phase::Preflight => vec![(source, Wanted::Exactly(pool.count))],
        Phase::Provisioning | Phase::Draining | Phase::Soaking | Phase::Approval => {
            let covered = covered(migration, nodes);
            let goal = if migration.wants_rollback {
                Wanted::AsIs
            } else {
                // More than the goal can be there when an old node died after its wave; it
                // serves, and is counted out in the hold.
                Wanted::AtLeast(goal(pool, migration, nodes))
            };
            vec![(source, Wanted::Exactly(pool.count.max(covered))), (target, goal)]
        }
        Phase::Holding => vec![(source, Wanted::AsIs), (target, Wanted::Exactly(pool.count))],
        Phase::RollingBack => vec![(source, Wanted::AsIs), (target, Wanted::AsIs)],
        Phase::Committing if migration.paused.is_some() => {
            vec![(source, Wanted::AsIs), (target, Wanted::Exactly(pool.count))]
        }
        Phase::Committing => vec![(target, Wanted::Exactly(pool.count))],
        Phase::Succeeded | Phase::RolledBack | Phase::Cancelled => {
            vec![(pool.cloud, Wanted::Exactly(pool.count))]
        }
    }
}

/// How many nodes the present wave wants on the target. While it is paused, as many as the waves
/// before it: a pause stops the migration and not the replacement of what dies.
pub fn goal(pool: &Pool, migration: &Migration, nodes: &[&Node]) -> u32 {
    match migration.phase {
        Phase::Pending | Phase::Preflight => 0,
        // From the end of the last wave on, the pool lives on the target.
        Phase::Holding | Phase::Committing => pool.count,
        _ if migration.next_wave().is_none() && migration.phase == Phase::Soaking => pool.count,
        Phase::Provisioning if migration.paused.is_some() => {
            old_up_to(migration, nodes, |wave| wave < migration.wave).min(pool.count)
        }
        _ => covered(migration, nodes).min(pool.count),
    }
}

/// How many of the pool's old nodes belong to the present wave or an earlier one.
fn covered(migration: &Migration, nodes: &[&Node]) -> u32 {
    old_up_to(migration, nodes, |wave| wave <= migration.wave)
}

fn old_up_to(migration: &Migration, nodes: &[&Node], is_meant: impl Fn(usize) -> bool) -> u32 {
    let old = nodes.iter().filter(|node| {
        node.cloud_id == migration.source
            && node.desired == Desired::Present
            && is_meant(migration.wave_of(node.id))
    });
    u32::try_from(old.count()).unwrap_or(u32::MAX)
}
