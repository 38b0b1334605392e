//! Clusters: what their owners wish, and what they are told.

mod create;
pub(super) mod fit;
pub(super) mod keys;
mod kubeconfig;
mod pools;

use std::collections::BTreeMap;

use serde_json::json;

use super::act::{Act, Subject};
use super::authz::{Action, Caller};
use super::{App, Ask, Error, projects};
use crate::domain::ids::{CloudId, ClusterId, MigrationId, OfferingId, PoolId, ProjectId};
use crate::domain::migration::MigrationNode;
use crate::domain::node::Desired;
use crate::store::clouds;
use crate::store::clusters::nodes::{self, NodeCount, NodeRow};
use crate::store::clusters::pools::{self as pool_rows, PoolRow};
use crate::store::clusters::{self, ClusterFilter, ClusterRow};
use crate::store::migrations;
use crate::store::offerings::{self, OfferingRow};
use crate::store::page::{Page, PageRequest};
use crate::store::projects as project_rows;
use crate::store::work::WorkKind;
use crate::store::{Change, Tx};

pub use crate::store::clusters::ClusterFilter as Filter;
pub use create::{NewCluster, create};
pub use kubeconfig::{KubeconfigView, kubeconfig};
pub use pools::{PoolChange, change_pool};

/// A cluster with what surrounds it.
#[derive(Debug, Clone)]
pub struct ClusterView {
    /// The cluster.
    pub cluster: ClusterRow,
    /// Name of its project.
    pub project: String,
    /// Its offering.
    pub offering: OfferingRow,
    /// Its pools with the numbers of their nodes.
    pub pools: Vec<(PoolRow, NodeCount)>,
    /// Numbers of its control plane.
    pub control_plane: NodeCount,
    /// Names of clouds.
    pub clouds: BTreeMap<CloudId, String>,
    /// The migration that is under way.
    pub migration: Option<MigrationId>,
}

/// A node with what surrounds it.
#[derive(Debug, Clone)]
pub struct NodeView {
    /// The node.
    pub row: NodeRow,
    /// Name of its pool.
    pub pool: Option<String>,
    /// Name of its cloud.
    pub cloud: String,
    /// The migration that moves it, with its wave (an index).
    pub migration: Option<(MigrationId, Option<usize>)>,
}

/// What a change of the cluster is about.
pub(super) fn subject(cluster: &ClusterRow) -> Subject {
    Subject {
        kind: "cluster",
        id: cluster.id.0,
        project: Some(cluster.project_id),
        cluster: Some(cluster.id),
    }
}

/// One cluster.
pub async fn show(app: &App, caller: &Caller, id: ClusterId) -> Result<ClusterView, Error> {
    caller.may(Action::ReadClusters)?;
    view(app, caller, id).await
}

async fn view(app: &App, caller: &Caller, id: ClusterId) -> Result<ClusterView, Error> {
    let mut tx = app.store.snapshot().await?;
    let cluster = seen(clusters::find(&mut *tx, id).await?, caller, id)?;
    let mut views = surround(&mut tx, vec![cluster]).await?;
    views.pop().ok_or_else(|| Error::absent("cluster", id))
}

/// The cluster, if the caller may know of it.
pub(super) fn seen(
    found: Option<ClusterRow>,
    caller: &Caller,
    id: ClusterId,
) -> Result<ClusterRow, Error> {
    let found = found.filter(|cluster| caller.sees(cluster.project_id));
    found.ok_or_else(|| Error::absent("cluster", id))
}

/// Clusters, oldest first; tenants see their own.
pub async fn list(
    app: &App,
    caller: &Caller,
    (project, filter): (Option<&str>, ClusterFilter),
    page: &PageRequest,
) -> Result<Page<ClusterView>, Error> {
    caller.may(Action::ReadClusters)?;
    let Some(project_id) = narrowed(app, caller, project).await? else {
        return Ok(Page { items: Vec::new(), next: None });
    };
    let filter = ClusterFilter { project_id, ..filter };
    let mut tx = app.store.snapshot().await?;
    let page = clusters::list(&mut *tx, &filter, page).await?;
    Ok(Page { items: surround(&mut tx, page.items).await?, next: page.next })
}

/// The project to which a list is narrowed. `None`: one of which the caller may not know, so the
/// list is empty; `Some(None)`: all.
pub(super) async fn narrowed(
    app: &App,
    caller: &Caller,
    project: Option<&str>,
) -> Result<Option<Option<ProjectId>>, Error> {
    let Some(name) = project else { return Ok(Some(caller.scope())) };
    let found = projects::find(app, name).await?;
    Ok(found.filter(|project| caller.sees(project.id)).map(|project| Some(project.id)))
}

/// Adds to clusters what surrounds them, by a handful of queries for all of them.
async fn surround(tx: &mut Tx, rows: Vec<ClusterRow>) -> Result<Vec<ClusterView>, Error> {
    let ids: Vec<ClusterId> = rows.iter().map(|cluster| cluster.id).collect();
    let clouds = clouds::names(&mut **tx).await?;
    let counts = nodes::count(&mut **tx, &ids).await?;
    let open = migrations::list_open(&mut **tx, &ids).await?;
    let open: BTreeMap<ClusterId, MigrationId> =
        open.into_iter().map(|migration| (migration.cluster_id, migration.id)).collect();
    let mut pools: BTreeMap<ClusterId, Vec<(PoolRow, NodeCount)>> = BTreeMap::new();
    for pool in pool_rows::list(&mut **tx, &ids).await? {
        let count = counts.get(&(pool.cluster_id, Some(pool.id))).copied().unwrap_or_default();
        pools.entry(pool.cluster_id).or_default().push((pool, count));
    }
    let mut offerings: BTreeMap<OfferingId, OfferingRow> = BTreeMap::new();
    let mut projects: BTreeMap<ProjectId, String> = BTreeMap::new();
    let mut views = Vec::with_capacity(rows.len());
    for cluster in rows {
        if !offerings.contains_key(&cluster.offering_id) {
            let row = offerings::find(&mut **tx, cluster.offering_id).await?;
            let row = row.ok_or_else(|| Error::absent("offering", cluster.offering_id))?;
            offerings.insert(row.id, row);
        }
        if !projects.contains_key(&cluster.project_id) {
            let row = project_rows::find(&mut **tx, cluster.project_id).await?;
            let row = row.ok_or_else(|| Error::absent("project", cluster.project_id))?;
            projects.insert(row.id, row.name);
        }
        views.push(ClusterView {
            project: projects[&cluster.project_id].clone(),
            offering: offerings[&cluster.offering_id].clone(),
            pools: pools.remove(&cluster.id).unwrap_or_default(),
            control_plane: counts.get(&(cluster.id, None)).copied().unwrap_or_default(),
            migration: open.get(&cluster.id).copied(),
            clouds: clouds.clone(),
            cluster,
        });
    }
    Ok(views)
}

/// Nodes of a cluster by name.
pub async fn list_nodes(app: &App, caller: &Caller, id: ClusterId) -> Result<Vec<NodeView>, Error> {
    caller.may(Action::ReadClusters)?;
    let mut tx = app.store.snapshot().await?;
    seen(clusters::find(&mut *tx, id).await?, caller, id)?;
    let clouds = clouds::names(&mut *tx).await?;
    let pools = pool_rows::list(&mut *tx, &[id]).await?;
    let pools: BTreeMap<PoolId, String> = pools.into_iter().map(|p| (p.id, p.name)).collect();
    let open = migrations::list_open(&mut *tx, &[id]).await?;
    let ids: Vec<MigrationId> = open.iter().map(|migration| migration.id).collect();
    let moving: Vec<(MigrationId, MigrationNode)> = migrations::list_nodes(&mut *tx, &ids).await?;
    let rows = nodes::list(&mut *tx, id).await?;
    let surrounded = rows.into_iter().map(|row| NodeView {
        pool: row.node.pool_id.and_then(|id| pools.get(&id).cloned()),
        cloud: clouds.get(&row.node.cloud_id).cloned().unwrap_or_default(),
        migration: moving
            .iter()
            .find(|(_, old)| old.node_id == row.node.id)
            .map(|(id, old)| (*id, Some(old.wave)))
            .or_else(|| row.job_id.filter(|id| ids.contains(id)).map(|id| (id, None))),
        row,
    });
    Ok(surrounded.collect())
}

/// Records that a cluster is not wanted any more. A migration of it ends where it is; what it made
/// goes with the rest, on both clouds.
pub async fn delete(
    app: &App,
    ask: &Ask,
    id: ClusterId,
    if_generation: Option<i64>,
) -> Result<(), Error> {
    let mut act = Act::begin(app, ask).await?;
    let cluster = seen(clusters::lock(&mut act.tx, id).await?, &ask.caller, id)?;
    ask.caller.may(Action::ChangeClusters)?;
    if let Some(seen) = if_generation
        && seen != cluster.generation
    {
        return Err(Error::Stale(cluster.generation));
    }
    if cluster.desired == Desired::Absent {
        return Ok(());
    }
    let open = migrations::list_open(&mut *act.tx, &[id]).await?;
    match clusters::set_absent(&mut act.tx, id, Some(cluster.generation), act.now).await? {
        Change::Updated(_) => {}
        Change::Stale(generation) => return Err(Error::Stale(generation)),
        Change::Missing => return Err(Error::absent("cluster", id)),
    }
    act.wake(WorkKind::Cluster, id).await?;
    for migration in open {
        act.wake(WorkKind::Migration, migration.id).await?;
    }
    act.audit("cluster.delete", subject(&cluster), json!({ "name": cluster.name })).await?;
    let said = format!("cluster {} is to be deleted, says {}", cluster.name, ask.caller.name);
    act.event(subject(&cluster), "ClusterDeletionRequested", said).await?;
    act.commit(id.0).await
}
