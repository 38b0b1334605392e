//! Events that workers record, in the transaction of the change.

use serde_json::json;

use crate::domain::ids::{MigrationId, NodeId};
use crate::domain::migration::Migration;
use crate::store::cluster_progress::ClusterWork;
use crate::store::events::{self, EventType, NewEvent};
use crate::store::{StoreError, Tx};

/// What happened.
pub(super) struct NodeEvent {
    kind: EventType,
    reason: &'static str,
    message: String,
}

impl NodeEvent {
    /// An event; `reason` is for programs, `message` for people.
    pub(super) fn new(kind: EventType, reason: &'static str, message: impl Into<String>) -> Self {
        Self { kind, reason, message: message.into() }
    }
}

/// Records something about a node.
pub(super) async fn record_node(
    tx: &mut Tx,
    (cluster, node): (&ClusterWork, NodeId),
    event: NodeEvent,
    now: jiff::Timestamp,
) -> Result<(), StoreError> {
    record(tx, (cluster, "node", node.0), event, now).await
}

/// Records something about a cluster.
pub(super) async fn record_cluster(
    tx: &mut Tx,
    cluster: &ClusterWork,
    event: NodeEvent,
    now: jiff::Timestamp,
) -> Result<(), StoreError> {
    record(tx, (cluster, "cluster", cluster.id.0), event, now).await
}

/// Records something about a migration.
pub(super) async fn record_migration(
    tx: &mut Tx,
    (cluster, migration): (&ClusterWork, &Migration),
    event: NodeEvent,
    now: jiff::Timestamp,
) -> Result<(), StoreError> {
    record_migration_id(tx, (cluster, migration.id), event, now).await
}

/// Records something about a migration of which only the id is at hand.
pub(super) async fn record_migration_id(
    tx: &mut Tx,
    (cluster, id): (&ClusterWork, MigrationId),
    event: NodeEvent,
    now: jiff::Timestamp,
) -> Result<(), StoreError> {
    record(tx, (cluster, "migration", id.0), event, now).await
}

async fn record(
    tx: &mut Tx,
    (cluster, resource_kind, resource): (&ClusterWork, &'static str, uuid::Uuid),
    event: NodeEvent,
    now: jiff::Timestamp,
) -> Result<(), StoreError> {
    let new = NewEvent {
        project: Some(cluster.project_id),
        cluster: Some(cluster.id),
        resource_kind,
        resource,
        event_type: event.kind,
        reason: event.reason,
        message: event.message,
        data: json!({}),
    };
    events::record(tx, new, now).await?;
    Ok(())
}
