//! Whether the way back is open: whether the source could carry again what the target carries.
//!
//! Rolling back makes no server, so the old nodes that are there must do. They do if nine tenths of
//! what each pool had (or wants by now, if that is less) are ready; one of forty that is sick does
//! not lock the door, one of three does. A pool of which the target carries nothing loses nothing.

use jiff::Timestamp;

use super::super::pool::Pool;
use crate::domain::condition::Condition;
use crate::domain::ids::PoolId;
use crate::domain::migration::{Migration, Phase};
use crate::domain::node::Node;

/// The condition that says whether the way back is open.
pub const WAY_BACK: &str = "WayBack";
/// The condition that says that servers are left on a target that was given up.
pub const TARGET_CLEANUP: &str = "TargetCleanup";

/// Why the way back is closed, if it is, as far as the nodes decide that.
pub fn closed(migration: &Migration, pools: &[Pool], nodes: &[Node]) -> Option<String> {
    let usable = |pool: PoolId, cloud| {
        let there = |n: &&Node| n.pool_id == Some(pool) && n.cloud_id == cloud && n.is_usable();
        u32::try_from(nodes.iter().filter(there).count()).unwrap_or(u32::MAX)
    };
    let moving = pools.iter().filter(|pool| migration.pools.contains(&pool.id));
    let reasons: Vec<String> = moving
        .filter_map(|pool| {
            let size = migration.sizes.get(&pool.id).copied().unwrap_or(0).min(pool.count);
            let needed = (size * 9).div_ceil(10);
            let ready = usable(pool.id, migration.source);
            let carries = usable(pool.id, migration.target) > 0;
            (carries && ready < needed).then(|| {
                let name = &pool.name;
                format!("pool {name}: {ready} of its old nodes are ready, {needed} must be")
            })
        })
        .collect();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

/// The condition, for owners to read.
pub(super) fn condition(migration: &Migration, closed: Option<&str>, now: Timestamp) -> Condition {
    let is_past = matches!(migration.phase, Phase::Committing | Phase::Succeeded);
    let (status, reason, message) = match closed {
        _ if is_past => (false, "Committed", "the old nodes are given up".to_owned()),
        Some(why) => (false, "SourceNotReady", why.to_owned()),
        None => (true, "Open", "the old nodes can carry everything again".to_owned()),
    };
    Condition {
        kind: WAY_BACK.to_owned(),
        status,
        reason: reason.to_owned(),
        message,
        last_transition: now,
    }
}
