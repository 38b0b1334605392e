//! Why a migration is not going on: what the planner, the workers and the nodes say, in order.

use super::{MigrationView, show};
use crate::app::authz::Caller;
use crate::app::{App, Error};
use crate::domain::explanation::Reason;
use crate::domain::ids::MigrationId;
use crate::domain::insight::Insight;
use crate::domain::migration::MigrationNode;
use crate::plan::explain::{Block, Facts, Work, explain as reasons};
use crate::store::work::{self, ResourceId, WorkItem, WorkKind, WorkState};

/// A migration with the reasons for where it is, those that need somebody first.
pub async fn explain(
    app: &App,
    caller: &Caller,
    id: MigrationId,
) -> Result<(MigrationView, Vec<Reason>), Error> {
    let view = show(app, caller, id).await?;
    let cluster = ResourceId::from(view.row.cluster_id);
    let mut items = Vec::new();
    let preflight = view.row.preflight_id.map(|id| (WorkKind::Preflight, ResourceId::from(id)));
    for (kind, item) in [
        (WorkKind::Migration, ResourceId::from(id)),
        (WorkKind::Cluster, cluster),
        (WorkKind::ObserveNodes, cluster),
    ]
    .into_iter()
    .chain(preflight)
    {
        items.extend(work::find(app.store.pool(), kind, item, app.now()).await?.map(fact));
    }
    let old = view.waves.iter();
    let old = old.map(|(id, wave)| MigrationNode { node_id: *id, wave: *wave }).collect();
    let migration = view.row.migration(old);
    let found = reasons(&Facts {
        now: app.now(),
        migration: &migration,
        nodes: view.nodes.iter().map(|row| &row.node).collect(),
        waiting: &view.row.waiting,
        legal: &view.legal,
        blocks: view.insights.iter().filter(|one| one.blocks(app.now())).map(block).collect(),
        work: items,
    });
    Ok((view, found))
}

fn block(insight: &Insight) -> Block {
    Block {
        id: insight.id.to_string(),
        reason: insight.reason.clone(),
        resources: insight.resources.clone(),
        fix: insight.fix.clone(),
        is_waivable: insight.is_waivable,
    }
}

fn fact(item: WorkItem) -> Work {
    Work {
        kind: item.kind.as_str().to_owned(),
        id: item.id.0,
        is_disabled: item.state == WorkState::Paused,
        attempts: item.attempts,
        last_error: item.last_error,
        parked_reason: item.parked_reason,
        due_at: item.due_at,
    }
}
