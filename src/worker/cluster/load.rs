//! Everything about one cluster, read in one read-only transaction.

use std::collections::BTreeMap;

use jiff::SignedDuration;

use crate::domain::cloud::CloudPhase;
use crate::domain::cloud_pair::CloudPairSpec;
use crate::domain::ids::{CanaryId, CloudId, ClusterId, NodeId};
use crate::domain::migration::Migration;
use crate::domain::node::{Node, Role};
use crate::domain::outside::{OutsideError, OutsideKind};
use crate::openstack::CloudClient;
use crate::plan::cluster::{Canary, Cloud, Cluster, Group, Lost, Snapshot};
use crate::plan::pool::Pool;
use crate::plan::resolve::{Names, Place, Side, Way};
use crate::store::canaries::{self, CanaryRow};
use crate::store::cloud_pairs;
use crate::store::cloud_progress::{self, AccountWork, CloudWork};
use crate::store::cluster_progress::{self, ClusterWork, PoolWork};
use crate::store::groups::{self, GroupRow};
use crate::store::migration_progress;
use crate::store::nodes::{self, NodeRow, heirs};
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
    pub canaries: Vec<CanaryRow>,
    pub migration: Option<Migration>,
    /// What is mapped between the clouds of its migration.
    pub pair: Option<CloudPairSpec>,
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

    /// One of its open canaries.
    pub fn canary(&self, id: CanaryId) -> Result<&CanaryRow, WorkError> {
        let found = self.canaries.iter().find(|canary| canary.id == id);
        found.ok_or_else(|| WorkError::internal(format!("canary {id} is not open")))
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

    /// What new nodes of a pool are made of on a cloud: the pool's own choices at home, what they
    /// mean by the cloud pair elsewhere.
    pub fn place(&self, pool: &PoolWork, cloud: CloudId) -> Result<Place, WorkError> {
        if pool.cloud_id == cloud {
            return Ok(Place {
                flavor: pool.flavor.clone(),
                zone: pool.zone.clone(),
                network: pool.network.clone(),
                security_group: pool.security_group.clone(),
                image: pool.image.clone(),
            });
        }
        let names = Names {
            flavor: &pool.flavor,
            zone: pool.zone.as_deref(),
            network: pool.network.as_deref(),
            security_group: pool.security_group.as_deref(),
            image: pool.image.as_deref(),
        };
        let way = self.way(pool.cloud_id, cloud)?;
        way.place(names, &self.cluster.offering).map_err(|errors| {
            // Parked until an operator mends the pair or the cloud.
            let what = format!("map pool {}", pool.name);
            WorkError::Outside(OutsideError::new(OutsideKind::Invalid, what, errors.to_string()))
        })
    }

    /// The way from one of its clouds to another.
    pub fn way(&self, from: CloudId, to: CloudId) -> Result<Way<'_>, WorkError> {
        let is_mapped = self.migration.as_ref().is_some_and(|m| (m.source, m.target) == (from, to));
        let pair = self.pair.as_ref().filter(|_| is_mapped);
        Ok(Way { source: self.side(from)?, target: self.side(to)?, pair })
    }

    fn side(&self, cloud: CloudId) -> Result<Side<'_>, WorkError> {
        let (cloud, _) = self.cloud(cloud)?;
        let inventory = cloud.inventory.as_ref().ok_or_else(|| {
            WorkError::internal(format!("the inventory of cloud {} is not known yet", cloud.name))
        })?;
        Ok(Side { name: &cloud.name, spec: &cloud.spec, inventory })
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
    let lost = heirs::lost(&mut *tx, id).await?;
    let groups = groups::of_cluster(&mut *tx, id).await?;
    let canaries = canaries::open_of_cluster(&mut *tx, id).await?;
    let migration = migration_progress::active(&mut tx, id).await?;
    let pair = match &migration {
        Some(m) => cloud_pairs::find(&mut *tx, (m.source, m.target)).await?.map(|row| row.spec),
        None => None,
    };
    let mut ids: Vec<CloudId> = vec![cluster.control_plane_cloud];
    ids.extend(pools.iter().map(|pool| pool.cloud_id));
    ids.extend(nodes.iter().map(|row| row.node.cloud_id));
    ids.extend(canaries.iter().map(|canary| canary.place.cloud_id));
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
            cluster: plan_cluster(&cluster),
            pools: Vec::new(),
            nodes: Vec::new(),
            migration: migration.clone(),
            canaries: canaries.iter().map(plan_canary).collect(),
            lost: lost.into_iter().map(plan_lost).collect(),
            groups: Vec::new(),
            clouds: BTreeMap::new(),
            join_deadline: SignedDuration::try_from(context.settings.join_deadline)
                .unwrap_or(SignedDuration::MAX),
        },
        cluster,
        pools,
        nodes,
        groups,
        canaries,
        migration,
        pair,
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
        .map(|(cloud, account)| {
            let quota = cloud.inventory.as_ref().map(|i| i.quotas.server_group_members);
            let size = quota.and_then(|quota| quota.limit).and_then(|n| u32::try_from(n).ok());
            let plan = Cloud {
                name: cloud.name.clone(),
                is_ready: cloud.phase == CloudPhase::Ready,
                group_size: size.unwrap_or(GROUP_SIZE),
                listed_at: account.listed_at.filter(|_| account.incomplete_since.is_none()),
            };
            (cloud.id, plan)
        })
        .collect();
}

fn plan_cluster(row: &ClusterWork) -> Cluster {
    Cluster {
        desired: row.desired,
        phase: row.phase,
        members: row.members,
        control_plane_cloud: row.control_plane_cloud,
        vip_port: row.vip_port,
        has_api: row.api_reached_at.is_some(),
        has_base: row.base_applied_at.is_some(),
        listed_at: row.nodes_listed_at,
    }
}

fn plan_canary(row: &CanaryRow) -> Canary {
    Canary {
        id: row.id,
        cloud: row.place.cloud_id,
        is_wanted: row.is_wanted,
        node: row.node_id,
        probe: row.probe,
        has_peer_report: row.peer_report.is_some(),
        outcome: row.outcome,
        created_at: row.created_at,
    }
}

fn plan_lost(row: heirs::LostRow) -> Lost {
    Lost { id: row.id, pool: row.pool_id, cloud: row.cloud_id, ledger_of: row.ledger_of }
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
