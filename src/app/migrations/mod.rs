//! Migrations: what owners ask of them, and what they are told.

pub(super) mod create;
mod estimate;
mod explain;
mod objects;
mod verbs;

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::act::Subject;
use super::authz::{Action, Caller};
use super::clusters::{narrowed, seen};
use super::{App, Error};
use crate::domain::ids::{CloudId, ClusterId, MigrationId, NodeId, PoolId, ProjectId};
use crate::domain::insight::{Insight, Level, with_waivers};
use crate::domain::migration::{Meaning, VERBS, Verb};
use crate::store::clusters::nodes::{self, NodeRow};
use crate::store::clusters::{self, ClusterRow, pools};
use crate::store::events::{self, Event, EventFilter};
use crate::store::migrations::{self, MigrationFilter};
use crate::store::page::{Page, PageRequest};
use crate::store::preflights::{self, PreflightRow};
use crate::store::{Tx, clouds, projects};

pub use crate::store::clusters::nodes::NodeRow as MemberView;
pub use crate::store::migrations::MigrationRow;
pub use create::create;
pub use explain::explain;
pub use objects::{NewObject, create_by_object, list_by_ids, steer_by_object};
pub use verbs::{Steer, steer};

/// A migration with what surrounds it.
#[derive(Debug, Clone)]
pub struct MigrationView {
    /// The migration.
    pub row: MigrationRow,
    /// Its cluster.
    pub cluster: ClusterRow,
    /// Name of the cluster's project.
    pub project: String,
    /// Names of clouds.
    pub clouds: BTreeMap<CloudId, String>,
    /// Names of the cluster's pools.
    pub pools: BTreeMap<PoolId, String>,
    /// The waves (indexes) of old nodes.
    pub waves: BTreeMap<NodeId, usize>,
    /// Nodes of both sides.
    pub nodes: Vec<NodeRow>,
    /// What its preflight found that is not well, the worst first.
    pub insights: Vec<Insight>,
    /// Verbs that are legal now.
    pub legal: Vec<Verb>,
    /// When it will probably be over.
    pub estimated_end: Option<Timestamp>,
}

fn subject(row: &MigrationRow, cluster: &ClusterRow) -> Subject {
    Subject {
        kind: "migration",
        id: row.id.0,
        project: Some(cluster.project_id),
        cluster: Some(cluster.id),
    }
}

/// The verbs that would change something now.
pub(super) fn legal_verbs(row: &MigrationRow) -> Vec<Verb> {
    let at = row.standing();
    VERBS.into_iter().filter(|verb| matches!(verb.meaning(at), Meaning::Does(_))).collect()
}

/// One migration.
pub async fn show(app: &App, caller: &Caller, id: MigrationId) -> Result<MigrationView, Error> {
    caller.may(Action::ReadClusters)?;
    view(app, caller, id).await
}

async fn view(app: &App, caller: &Caller, id: MigrationId) -> Result<MigrationView, Error> {
    let mut tx = app.store.snapshot().await?;
    let (row, cluster) = visible(&mut tx, caller, id).await?;
    let mut views = surround(app, &mut tx, vec![(row, cluster)]).await?;
    views.pop().ok_or_else(|| Error::absent("migration", id))
}

/// The migration and its cluster, if the caller may know of them.
async fn visible(
    tx: &mut Tx,
    caller: &Caller,
    id: MigrationId,
) -> Result<(MigrationRow, ClusterRow), Error> {
    let absent = || Error::absent("migration", id);
    let row = migrations::find(&mut **tx, id).await?.ok_or_else(absent)?;
    let cluster = clusters::find(&mut **tx, row.cluster_id).await?;
    let cluster = seen(cluster, caller, row.cluster_id).map_err(|_| absent())?;
    Ok((row, cluster))
}

/// Migrations, newest first; tenants see their own.
pub async fn list(
    app: &App,
    caller: &Caller,
    (project, cluster): (Option<&str>, Option<ClusterId>),
    page: &PageRequest,
) -> Result<Page<MigrationView>, Error> {
    caller.may(Action::ReadClusters)?;
    let Some(project_id) = narrowed(app, caller, project).await? else {
        return Ok(Page { items: Vec::new(), next: None });
    };
    let mut tx = app.store.snapshot().await?;
    if let Some(id) = cluster {
        seen(clusters::find(&mut *tx, id).await?, caller, id)?;
    }
    let filter = MigrationFilter { project_id, cluster_id: cluster };
    let page = migrations::list(&mut *tx, filter, page).await?;
    let mut rows = Vec::with_capacity(page.items.len());
    for row in page.items {
        let found = clusters::find(&mut *tx, row.cluster_id).await?;
        rows.push((row.clone(), seen(found, caller, row.cluster_id)?));
    }
    Ok(Page { items: surround(app, &mut tx, rows).await?, next: page.next })
}

/// Adds to migrations what surrounds them.
async fn surround(
    app: &App,
    tx: &mut Tx,
    rows: Vec<(MigrationRow, ClusterRow)>,
) -> Result<Vec<MigrationView>, Error> {
    let clouds = clouds::names(&mut **tx).await?;
    let ids: Vec<MigrationId> = rows.iter().map(|(row, _)| row.id).collect();
    let old = migrations::list_nodes(&mut **tx, &ids).await?;
    let cluster_ids: Vec<ClusterId> = rows.iter().map(|(_, cluster)| cluster.id).collect();
    let pools = pools::list(&mut **tx, &cluster_ids).await?;
    let mut projects: BTreeMap<ProjectId, String> = BTreeMap::new();
    let preflight_ids: Vec<_> = rows.iter().filter_map(|(row, _)| row.preflight_id).collect();
    let preflights = preflights::list(&mut **tx, &preflight_ids).await?;
    let mut views = Vec::with_capacity(rows.len());
    for (row, cluster) in rows {
        if !projects.contains_key(&cluster.project_id) {
            let found = projects::find(&mut **tx, cluster.project_id).await?;
            let found = found.ok_or_else(|| Error::absent("project", cluster.project_id))?;
            projects.insert(found.id, found.name);
        }
        let nodes = nodes::list_of_migration(&mut **tx, row.id).await?;
        let waves: BTreeMap<NodeId, usize> = old
            .iter()
            .filter(|(id, _)| *id == row.id)
            .map(|(_, node)| (node.node_id, node.wave))
            .collect();
        let mut indexes: Vec<usize> = waves.values().copied().collect();
        indexes.sort_unstable();
        indexes.dedup();
        views.push(MigrationView {
            estimated_end: estimate::estimated_end(&row, &indexes, &nodes, app.now()),
            legal: legal_verbs(&row),
            insights: insights(&preflights, &row, app.now()),
            project: projects[&cluster.project_id].clone(),
            clouds: clouds.clone(),
            pools: pools
                .iter()
                .filter(|pool| pool.cluster_id == cluster.id)
                .map(|pool| (pool.id, pool.name.clone()))
                .collect(),
            row,
            cluster,
            waves,
            nodes,
        });
    }
    Ok(views)
}

/// What the preflight of a migration found that is not well.
fn insights(all: &[PreflightRow], row: &MigrationRow, now: Timestamp) -> Vec<Insight> {
    let Some(found) = all.iter().find(|one| Some(one.id) == row.preflight_id) else {
        return Vec::new();
    };
    let mut insights = with_waivers(found.insights.clone(), &found.waivers, now);
    insights.retain(|one| one.level != Level::Pass);
    insights
}

/// What happened to a migration, newest first.
pub async fn timeline(
    app: &App,
    caller: &Caller,
    id: MigrationId,
    page: &PageRequest,
) -> Result<Page<Event>, Error> {
    caller.may(Action::ReadClusters)?;
    let mut tx = app.store.snapshot().await?;
    visible(&mut tx, caller, id).await?;
    let filter = EventFilter { resource: Some(id.0), ..EventFilter::default() };
    Ok(events::list(&mut *tx, filter, page).await?)
}
