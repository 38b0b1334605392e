//! Nodes of a cluster.

use crate::api::nodes::Node;
use crate::app::clusters::NodeView;

/// A node as the API tells it.
pub(super) fn node(view: NodeView) -> Node {
    let (row, node) = (view.row.flavor, view.row.node);
    let wave = view.migration.and_then(|(_, wave)| wave);
    Node {
        stage: node.stage(),
        id: node.id,
        role: node.role,
        pool: view.pool,
        cloud: view.cloud,
        desired: node.desired,
        flavor: row,
        server_status: node.server_status.map(|status| status.to_string()),
        server_id: node.server_id,
        address: node.address,
        ready: node.kubelet.is_ready,
        cordoned: node.kubelet.is_cordoned,
        kubelet_version: Some(node.kubelet.version).filter(|version| !version.is_empty()),
        trouble: node.trouble,
        drain: node.drain,
        blockers: node.blockers,
        migration: view.migration.map(|(id, _)| id),
        wave: wave.map(number),
        name: node.name,
        created_at: node.created_at,
        usable_at: node.usable_at,
    }
}

/// An index as people count.
pub(super) fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX).saturating_add(1)
}
