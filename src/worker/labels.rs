//! Labels that zcp keeps on every node, and what keeps an autoscaler off it while it moves.

use std::collections::BTreeMap;

use crate::domain::migration::Migration;
use crate::domain::node::Role;
use crate::domain::node_view::NodeView;
use crate::store::cluster_progress::PoolWork;
use crate::store::nodes::NodeRow;

/// The pool's labels, its name, and the zone. `node-role` labels are set here, since a kubelet may
/// not set them itself (KEP-279).
pub(super) fn wanted(row: &NodeRow, pool: Option<&PoolWork>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    if let Some(pool) = pool {
        labels.extend(pool.labels.clone());
        labels.insert("zcp.io/pool".to_owned(), pool.name.clone());
    }
    if let Some(zone) = &row.zone {
        labels.insert("topology.kubernetes.io/zone".to_owned(), zone.clone());
    }
    labels.insert("zcp.io/cloud".to_owned(), row.node.cloud_id.to_string());
    labels
}

/// Whether a Node object carries all that its pool wants.
pub(super) fn are_on(view: &NodeView, row: &NodeRow, pool: Option<&PoolWork>) -> bool {
    if row.node.role == Role::ControlPlane {
        return true;
    }
    let wanted = wanted(row, pool);
    let has = |(key, value): (&String, &String)| view.labels.get(key) == Some(value);
    wanted.iter().all(has)
        && pool.is_none_or(|pool| pool.taints.iter().all(|taint| view.taints.contains(taint)))
}

/// Whether an autoscaler in the cluster must leave the node alone: nodes of a pool that moves are
/// empty at times, on either side.
pub(super) fn is_kept(row: &NodeRow, migration: Option<&Migration>) -> bool {
    let of_pool = |migration: &Migration| {
        !migration.phase.is_final()
            && row.node.pool_id.is_some_and(|pool| migration.pools.contains(&pool))
    };
    migration.is_some_and(of_pool)
}
