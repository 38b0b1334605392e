//! Everything about one cluster, read in one read-only transaction.

use std::collections::BTreeMap;

use jiff::SignedDuration;

use crate::domain::cloud::CloudPhase;
use crate::domain::ids::{CloudId, ClusterId, NodeId};
use crate::domain::migration::Migration;
use crate::domain::node::{Node, Role};
use crate::openstack::CloudClient;
use crate::plan::cluster::{Cloud, Cluster, Group, Snapshot};
use crate::plan::pool::Pool;
use crate::store::cloud_progress::{self, AccountWork, CloudWork};
use crate::store::cluster_progress::{self, ClusterWork, PoolWork};
use crate::store::groups::{self, GroupRow};
use crate::store::migration_progress;
use crate::store::nodes::{self, NodeRow};
use crate::worker::WorkError;
use crate::worker::context::Context;

/// Members of a server group where the cloud does not tell its quota: Nova's default.
const GROUP_SIZE: u32 = 10;

/// A cluster with everything that its steps need.
pub(in crate::worker) struct Loaded {
    pub cluster: ClusterWork,
    pub pools: Vec<PoolWork>,
    pub nodes: Vec<NodeRow>,
    pub groups: Vec<GroupRow>,
    pub migration: Option<Migration>,
    pub clouds: BTreeMap<CloudId, (CloudWork, AccountWork)>,
    pub snapshot: Snapshot,
    /// The status of this generation was not written yet.
    pub is_unobserved: bool,
}

impl Loaded {
    /// One of its open nodes.
    pub fn node(&self, id: NodeId) -> Result<&NodeRow, WorkError> {
        let found = self.nodes.iter().find(|row| row.node.id == id);
        found.ok_or_else(|| WorkError::internal(format!("node {id} is not open")))
    }

    /// Its open workers.
    pub fn workers(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().map(|row| &row.node).filter(|node| node.role == Role::Worker)
    }

    /// A cloud that it uses, and its account there.
    pub fn cloud(&self, id: CloudId) -> Result<&(CloudWork, AccountWork), WorkError> {
        self.clouds
            .get(&id)
            .ok_or_else(|| WorkError::internal(format!("cloud {id} has no account")))
    }

    /// The pool of a node.
    pub fn pool(&self, node: &Node) -> Option<&PoolWork> {
        self.pools.iter().find(|pool| Some(pool.id) == node.pool_id)
    }

    /// A client for a cloud, waiting in its queue as this cluster.
    pub fn client(&self, context: &Context, cloud: CloudId) -> Result<CloudClient, WorkError> {
        let (cloud, account) = self.cloud(cloud)?;
        context.clouds.client(cloud, account, &self.cluster.id.to_string())
    }
}

/// Reads a cluster; `None` if there is none.
pub(in crate::worker) async fn load(
    context: &Context,
    id: ClusterId,
) -> Result<Option<Loaded>, WorkError> {
    let mut tx = context.store.snapshot().await?;
    let Some(cluster) = cluster_progress::load(&mut *tx, id).await? else { return Ok(None) };
    let pools = cluster_progress::pools(&mut *tx, id).await?;
    let nodes = nodes::open_of_cluster(&mut *tx, id).await?;
    let groups = groups::of_cluster(&mut *tx, id).await?;
    let migration = migration_progress::active(&mut tx, id).await?;
    let mut ids: Vec<CloudId> = vec![cluster.control_plane_cloud];
    ids.extend(pools.iter().map(|pool| pool.cloud_id));
    ids.extend(nodes.iter().map(|row| row.node.cloud_id));
    ids.extend(groups.iter().map(|group| group.cloud_id));
    ids.extend(migration.iter().flat_map(|m| [m.source, m.target]));
    let mut clouds = BTreeMap::new();
    for cloud in cloud_progress::load(&mut *tx, &ids).await? {
        let account = cloud_progress::account_of(&mut *tx, cloud.id, cluster.project_id).await?;
        if let Some(account) = account {
            clouds.insert(cloud.id, (cloud, account));
        }
    }
    tx.commit().await.map_err(crate::store::StoreError::from)?;
    let mut loaded = Loaded {
        is_unobserved: cluster.conditions.is_empty(),
        snapshot: Snapshot {
            now: context.now(),
            cluster: Cluster {
                desired: cluster.desired,
                phase: cluster.phase,
                members: cluster.members,
                control_plane_cloud: cluster.control_plane_cloud,
                vip_port: cluster.vip_port,
                has_api: cluster.api_reached_at.is_some(),
                has_base: cluster.base_applied_at.is_some(),
            },
            pools: Vec::new(),
            nodes: Vec::new(),
            migration: migration.clone(),
            groups: Vec::new(),
            clouds: BTreeMap::new(),
            join_deadline: SignedDuration::try_from(context.settings.join_deadline)
                .unwrap_or(SignedDuration::MAX),
        },
        cluster,
        pools,
        nodes,
        groups,
        migration,
        clouds,
    };
    fill(&mut loaded);
    Ok(Some(loaded))
}

/// The parts of the snapshot that are made from rows.
fn fill(loaded: &mut Loaded) {
    loaded.snapshot.pools = loaded.pools.iter().map(plan_pool).collect();
    loaded.snapshot.nodes = loaded.nodes.iter().map(|row| row.node.clone()).collect();
    loaded.snapshot.groups = loaded
        .groups
        .iter()
        .map(|group| Group {
            id: group.id,
            pool: group.pool_id,
            cloud: group.cloud_id,
            number: group.number,
            state: group.state,
            nodes: group.nodes,
        })
        .collect();
    loaded.snapshot.clouds = loaded
        .clouds
        .values()
        .map(|(cloud, _)| {
            let quota = cloud.inventory.as_ref().map(|i| i.quotas.server_group_members);
            let size = quota.and_then(|quota| quota.limit).and_then(|n| u32::try_from(n).ok());
            let plan = Cloud {
                name: cloud.name.clone(),
                is_ready: cloud.phase == CloudPhase::Ready,
                group_size: size.unwrap_or(GROUP_SIZE),
            };
            (cloud.id, plan)
        })
        .collect();
}

/// A pool as planners see it.
pub(in crate::worker) fn plan_pool(pool: &PoolWork) -> Pool {
    Pool {
        id: pool.id,
        name: pool.name.clone(),
        cloud: pool.cloud_id,
        count: pool.count,
        surge: pool.surge,
    }
}
