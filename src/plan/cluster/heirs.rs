//! In whose place a new node stands. It is given what owners had put on the other.
//!
//! On the target of a migration a new node stands for an old one, one for one, by wave and name;
//! else for a node of its pool that was lost on the same cloud. One that its owner gave up has no
//! heir, and nobody has two.

use super::{NewNode, Planner, Step};
use crate::domain::ids::{CloudId, NodeId, PoolId};
use crate::domain::node::{Desired, Node};

/// A node that could not serve any more and in whose place nobody stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// Which node.
    pub id: NodeId,
    /// Its pool.
    pub pool: PoolId,
    /// Where it was.
    pub cloud: CloudId,
    /// Whose ledger its heir is given.
    pub ledger_of: NodeId,
}

/// Whose place a new node takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heritage {
    /// In whose place it stands.
    pub of: NodeId,
    /// Whose ledger it is given.
    pub ledger_of: NodeId,
}

impl Planner<'_> {
    /// In whose place a node stands that is added to a pool on a cloud.
    pub(super) fn heritage(&self, pool: PoolId, cloud: CloudId) -> Option<Heritage> {
        self.old_without_heir(pool, cloud).or_else(|| {
            let mut lost = self.snapshot.lost.iter();
            let is_free = |l: &&Lost| !self.is_taken(l.id) && !self.is_taken(l.ledger_of);
            let lost = lost.find(|l| l.pool == pool && l.cloud == cloud && is_free(l))?;
            Some(Heritage { of: lost.id, ledger_of: lost.ledger_of })
        })
    }

    /// The first old node of a migration in whose place nobody stands on the target yet.
    fn old_without_heir(&self, pool: PoolId, cloud: CloudId) -> Option<Heritage> {
        let migration = self.snapshot.migration.as_ref()?;
        if migration.target != cloud || !migration.pools.contains(&pool) {
            return None;
        }
        let old = self
            .snapshot
            .nodes
            .iter()
            .filter(|n| n.pool_id == Some(pool) && n.cloud_id == migration.source)
            .filter(|n| n.desired == Desired::Present && !self.has_heir(n) && !self.is_taken(n.id))
            .min_by_key(|n| (migration.wave_of(n.id), &n.name))?;
        // What its last heir was given may have been changed there since.
        let last = old.lineage.heir;
        let lost = self.snapshot.lost.iter().find(|lost| Some(lost.id) == last);
        Some(Heritage { of: old.id, ledger_of: lost.map_or(old.id, |lost| lost.ledger_of) })
    }

    fn has_heir(&self, node: &Node) -> bool {
        let heir = node.lineage.heir;
        let lives = |n: &&Node| Some(n.id) == heir && n.desired == Desired::Present;
        self.snapshot.nodes.iter().any(|n| lives(&n))
    }

    /// Whether this plan gives the node an heir already.
    fn is_taken(&self, node: NodeId) -> bool {
        let takes = |new: &NewNode| {
            new.heritage.is_some_and(|taken| taken.of == node || taken.ledger_of == node)
        };
        self.plan.steps.iter().any(|p| matches!(&p.step, Step::AddNode(new) if takes(new)))
    }
}
