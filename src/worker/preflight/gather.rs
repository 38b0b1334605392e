//! The facts of a look: our own rows in one read-only transaction.

use super::super::WorkError;
use super::super::context::Context;
use crate::domain::ids::{CloudId, ProjectId};
use crate::domain::node::Node;
use crate::plan::preflight::{CloudFacts, ClusterFacts, Facts, PoolFacts, assign_waves};
use crate::store::cluster_progress::{self, PoolWork};
use crate::store::preflights::{self, PreflightRow};
use crate::store::work::Lease;
use crate::store::{StoreError, Tx, clouds, migrations, nodes};

/// Everything that can be known; `None` when the cluster is no more.
pub(super) async fn facts(
    context: &Context,
    _lease: &Lease,
    row: &PreflightRow,
) -> Result<Option<Facts>, WorkError> {
    let mut tx = context.store.snapshot().await?;
    let Some(cluster) = cluster_progress::load(&mut *tx, row.cluster_id).await? else {
        return Ok(None);
    };
    let pools = cluster_progress::pools(&mut *tx, cluster.id).await?;
    let nodes: Vec<Node> = nodes::open_of_cluster(&mut *tx, cluster.id)
        .await?
        .into_iter()
        .map(|row| row.node)
        .collect();
    let Some(source) = cloud(&mut tx, row.source, cluster.project_id).await? else {
        return Ok(None);
    };
    let Some(target) = cloud(&mut tx, row.target, cluster.project_id).await? else {
        return Ok(None);
    };
    let owner = preflights::owner(&mut *tx, row.id).await?;
    let waves = if let Some(owner) = owner {
        let fixed = migrations::list_nodes(&mut *tx, &[owner.migration]).await?;
        fixed.into_iter().map(|(_, node)| node).collect()
    } else {
        let moving: Vec<_> = row.pools.iter().map(|pool| (*pool, row.source)).collect();
        assign_waves(&row.spec, &moving, nodes.iter())
    };
    let moving = pools.iter().filter(|pool| row.pools.contains(&pool.id));
    Ok(Some(Facts {
        now: context.now(),
        spec: row.spec.clone(),
        pools: moving.map(pool).collect(),
        cluster: ClusterFacts {
            name: cluster.name.clone(),
            offering: cluster.offering.clone(),
            network: cluster.network.clone(),
        },
        source,
        target,
        nodes,
        waves,
    }))
}

fn pool(pool: &PoolWork) -> PoolFacts {
    PoolFacts {
        id: pool.id,
        name: pool.name.clone(),
        flavor: pool.flavor.clone(),
        zone: pool.zone.clone(),
        count: pool.count,
        surge: pool.surge,
        labels: pool.labels.clone(),
    }
}

async fn cloud(
    tx: &mut Tx,
    id: CloudId,
    project: ProjectId,
) -> Result<Option<CloudFacts>, StoreError> {
    let Some(cloud) = clouds::find(&mut **tx, id).await? else { return Ok(None) };
    let account = clouds::account_for(&mut **tx, id, Some(project)).await?;
    Ok(Some(CloudFacts {
        id,
        name: cloud.name,
        phase: cloud.phase,
        complaints: cloud
            .checks
            .iter()
            .filter(|check| !check.ok)
            .map(|check| format!("{}: {}", check.field, check.message))
            .collect(),
        has_account: account.is_some(),
        inventory: cloud.inventory,
        inventory_at: cloud.inventory_at,
        spec: cloud.spec,
    }))
}
