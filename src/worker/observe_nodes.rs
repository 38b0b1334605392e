//! One list of Node objects for each cluster, written over the rows that are older.

use std::collections::BTreeMap;

use super::cluster::load::{Loaded, load};
use super::context::Context;
use super::labels;
use super::timeline::{NodeEvent, record_node};
use super::{Next, Reconciler, WorkError};
use crate::domain::cluster::ClusterPhase;
use crate::domain::ids::ClusterId;
use crate::domain::ledger::Ledger;
use crate::domain::node::{Desired, Kubelet, Node, NodeStage, Outside};
use crate::domain::node_view::{NodeView, Readiness};
use crate::kubernetes::nodes::{DaemonRef, DaemonView};
use crate::store::events::EventType;
use crate::store::nodes::NodeRow;
use crate::store::nodes::observed::{self, SeenObject};
use crate::store::nodes::progress::{self, Change};
use crate::store::work::{Lease, ResourceId, WorkKind, wake, wake_all};
use crate::store::{cluster_progress, migration_progress};

/// Lists the nodes of clusters.
#[derive(Debug, Clone)]
pub struct ObserveNodes {
    context: Context,
}

impl ObserveNodes {
    /// A worker.
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    /// How soon to list again: often while nodes come or go or a migration runs.
    fn period(&self, loaded: &Loaded) -> std::time::Duration {
        let settling = |node: &Node| {
            !matches!(node.stage(), NodeStage::Usable) || node.desired == Desired::Absent
        };
        let is_busy = loaded.migration.is_some()
            || loaded.nodes.iter().any(|row| row.node.role.joins() && settling(&row.node));
        let settings = &self.context.settings;
        if is_busy { settings.busy_period } else { settings.nodes_period }
    }
}

/// The nodes whose rows say something else than the cluster.
fn judge(loaded: &Loaded, (views, daemons): (&[NodeView], &[DaemonView])) -> Vec<SeenObject> {
    let by_server: BTreeMap<&str, &NodeView> =
        views.iter().filter_map(|view| Some((view.server_id()?, view))).collect();
    loaded
        .nodes
        .iter()
        .filter(|row| row.node.server_id.is_some())
        .map(|row| {
            let server = row.node.server_id.as_deref().unwrap_or_default();
            seen(loaded, row, (by_server.get(server).copied(), daemons))
        })
        .filter(|seen| {
            loaded.nodes.iter().any(|row| row.node.id == seen.node && observed::differs(row, seen))
        })
        .collect()
}

/// Node objects that bear the name of a node of ours whose server is another one, and were not told
/// of yet. Such a node never counts as ours: it is found by its server.
fn impostors<'a>(
    loaded: &'a Loaded,
    views: &'a [NodeView],
) -> impl Iterator<Item = (&'a NodeRow, &'a NodeView)> {
    let of = |row: &'a NodeRow| views.iter().find(|view| view.name == row.node.name);
    loaded.nodes.iter().filter_map(move |row| {
        let (view, server) = (of(row)?, row.node.server_id.as_deref()?);
        let is_known =
            row.node.trouble.as_ref().is_some_and(|text| text.contains("another server"));
        (view.server_id() != Some(server) && !is_known).then_some((row, view))
    })
}

/// What a node's row should say, given what the cluster says.
fn seen(
    loaded: &Loaded,
    row: &NodeRow,
    (view, daemons): (Option<&NodeView>, &[DaemonView]),
) -> SeenObject {
    let Some(view) = view else {
        let kubelet = Kubelet::default();
        return SeenObject {
            node: row.node.id,
            uid: None,
            kubelet,
            is_usable: false,
            ledger: None,
        };
    };
    let pool = loaded.pool(&row.node);
    let version = loaded.cluster.offering.kubernetes_version.to_string();
    let kubelet = Kubelet {
        is_ready: view.readiness == Readiness::Ready
            && !view.has_taint("node.cloudprovider.kubernetes.io/uninitialized"),
        is_unreachable: view.readiness == Readiness::Unknown,
        is_cordoned: view.is_unschedulable,
        cordon_mark: view.cordoned_by.clone().filter(|_| view.is_unschedulable),
        is_ours: view.name == row.node.name
            && view
                .system_uuid
                .as_ref()
                .is_none_or(|uuid| Some(uuid) == row.node.server_id.as_ref())
            && view.kubelet_version.trim_start_matches('v') == version,
        is_labelled: labels::are_on(view, row, pool),
        is_kept_wrongly: view.is_kept != labels::is_kept(row, loaded.migration.as_ref()),
        has_daemons: daemons.iter().all(|daemon| daemon.ready_on.contains(&view.name)),
        version: view.kubelet_version.clone(),
    };
    let node = Node { kubelet: kubelet.clone(), object: Outside::Present, ..row.node.clone() };
    SeenObject {
        node: row.node.id,
        uid: Some(view.uid.clone()),
        is_usable: node.is_usable(),
        kubelet,
        ledger: pool.map(|pool| Ledger::of(view, (&pool.labels, &pool.taints))),
    }
}

impl Reconciler for ObserveNodes {
    const KIND: WorkKind = WorkKind::ObserveNodes;

    async fn reconcile(&self, id: ResourceId, lease: &Lease) -> Result<Next, WorkError> {
        let context = &self.context;
        let id = ClusterId::from(id);
        let Some(before) = load(context, id).await? else { return Ok(Next::Gone) };
        let cluster = &before.cluster;
        if cluster.phase == ClusterPhase::Deleted || cluster.desired == Desired::Absent {
            return Ok(Next::Gone);
        }
        if cluster.api_reached_at.is_none() {
            return Ok(Next::After(context.settings.nodes_period));
        }
        let order = observed::begin_list(&context.store).await?;
        let client = context.cluster_client(cluster).await?;
        let wanted: Vec<DaemonRef> = cluster
            .offering
            .node_daemons
            .iter()
            .filter_map(|daemon| daemon.split_once('/'))
            .map(|(namespace, name)| DaemonRef { namespace: namespace.into(), name: name.into() })
            .collect();
        let look = async {
            let views = client.list_nodes().await?;
            Ok((views, client.ready_daemons(&wanted).await?))
        };
        let (views, daemons) = context.call(lease, "list nodes", Box::pin(look)).await??;
        // Rows may have come while we listed; those after the list keep what they have.
        let Some(loaded) = load(context, id).await? else { return Ok(Next::Gone) };
        let changed = judge(&loaded, (&views, &daemons));
        let now = context.now();
        let mut tx = context.fenced(lease).await?;
        for (row, view) in impostors(&loaded, &views) {
            let text = format!("Node {} says it is another server than ours", view.name);
            tracing::error!(node.name = %view.name, provider_id = ?view.provider_id, "{text}");
            progress::write(&mut tx, row.node.id, Change::Trouble(text.clone(), None), now).await?;
            let event = NodeEvent::new(EventType::Warning, "NodeNotOurs", text);
            record_node(&mut tx, (&loaded.cluster, row.node.id), event, now).await?;
        }
        if observed::write_objects(&mut tx, order, (&changed, now)).await? {
            wake(&mut tx, WorkKind::Cluster, id, now).await?;
            let migrations = migration_progress::active_ids(&mut **tx, &[id]).await?;
            let ids: Vec<ResourceId> = migrations.into_iter().map(Into::into).collect();
            wake_all(&mut tx, WorkKind::Migration, &ids, now).await?;
        }
        cluster_progress::write_listed(&mut tx, id, now).await?;
        tx.commit().await?;
        Ok(Next::After(self.period(&loaded)))
    }
}
