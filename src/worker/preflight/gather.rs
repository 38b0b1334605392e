//! The facts of a look: our own rows in one read-only transaction, then the cluster, then what the
//! hosts of the target have left. What does not answer becomes a fact too.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;

use super::super::WorkError;
use super::super::context::Context;
use crate::bootstrap::kubeadm::{Discovery, NodeParts, worker_configuration};
use crate::bootstrap::pki::expires_at;
use crate::bootstrap::user_data::{LIMIT, ServerParts, worker_user_data};
use crate::domain::ids::{CloudId, ProjectId};
use crate::domain::inventory::HostRoom;
use crate::domain::node::{Desired, Node, Outside, Role};
use crate::domain::survey::Survey;
use crate::plan::preflight::{
    CloudFacts, ClusterFacts, Facts, PoolFacts, assign_waves, target_flavors,
};
use crate::store::cluster_progress::{self, ClusterWork, PoolWork};
use crate::store::preflights::{self, Owner, PreflightRow};
use crate::store::reservations::{self, Asker};
use crate::store::work::Lease;
use crate::store::{StoreError, Tx, cloud_pairs, cloud_progress, clouds, migrations, nodes};

/// A survey that takes longer than this is given up: a look must be over within a minute.
const SURVEY_LIMIT: Duration = Duration::from_secs(40);
/// Most hosts of a cloud that are looked at for one flavor.
const HOSTS_MAX: u32 = 2000;
/// kubeadm signs what a member shows for a year.
const LEAF_LIFE: SignedDuration = SignedDuration::from_hours(365 * 24);
/// A name and secrets as long as the longest that we make.
const LONGEST_NAME: usize = 63;

/// Everything that can be known; `None` when the cluster or a cloud is no more.
pub(super) async fn facts(
    context: &Context,
    lease: &Lease,
    row: &PreflightRow,
) -> Result<Option<Facts>, WorkError> {
    let Some((mut facts, cluster)) = rows(context, row).await? else { return Ok(None) };
    facts.survey = survey(context, lease, &cluster).await?;
    facts.rooms = rooms(context, lease, (&facts, cluster.project_id)).await?;
    facts.now = context.now();
    Ok(Some(facts))
}

/// What our own rows tell.
async fn rows(
    context: &Context,
    row: &PreflightRow,
) -> Result<Option<(Facts, ClusterWork)>, WorkError> {
    let mut tx = context.store.snapshot().await?;
    let Some(cluster) = cluster_progress::load(&mut *tx, row.cluster_id).await? else {
        return Ok(None);
    };
    let pools = cluster_progress::pools(&mut *tx, cluster.id).await?;
    let found = nodes::open_of_cluster(&mut *tx, cluster.id).await?;
    let nodes: Vec<Node> = found.into_iter().map(|row| row.node).collect();
    let source = cloud(&mut tx, row.source, cluster.project_id).await?;
    let target = cloud(&mut tx, row.target, cluster.project_id).await?;
    let (Some(source), Some(target)) = (source, target) else { return Ok(None) };
    let pair = cloud_pairs::find(&mut *tx, (row.source, row.target)).await?.map(|row| row.spec);
    let owner = preflights::owner(&mut *tx, row.id).await?;
    let waves = if let Some(owner) = &owner {
        let fixed = migrations::list_nodes(&mut *tx, &[owner.migration]).await?;
        fixed.into_iter().map(|(_, node)| node).collect()
    } else {
        let moving: Vec<_> = row.pools.iter().map(|pool| (*pool, row.source)).collect();
        assign_waves(&row.spec, &moving, nodes.iter())
    };
    let asker = Asker {
        cluster: cluster.id,
        project: cluster.project_id,
        migration: owner.map(|owner| (owner.created_at, owner.migration)),
        inventory_at: target.inventory_at,
    };
    let reserved = reservations::on(&mut tx, row.target, asker).await?;
    let other_jobs = other_jobs(&mut tx, &cluster, owner).await?;
    let mut certificates = leaves(&nodes);
    for (kind, public, _) in cluster_progress::keys(&mut *tx, cluster.id).await? {
        certificates.extend(expires_at(&public).ok().map(|end| (kind, end)));
    }
    let moving: Vec<&PoolWork> = pools.iter().filter(|p| row.pools.contains(&p.id)).collect();
    let facts = Facts {
        now: context.now(),
        spec: row.spec.clone(),
        user_data: moving.iter().filter_map(|pool| user_data(&cluster, pool)).collect(),
        user_data_max: LIMIT,
        pools: moving.into_iter().map(pool).collect(),
        cluster: ClusterFacts {
            name: cluster.name.clone(),
            endpoint: format!("{}:6443", cluster.vip_address.clone().unwrap_or_default()),
            offering: cluster.offering.clone(),
            network: cluster.network.clone(),
        },
        source,
        target,
        pair,
        nodes,
        waves,
        survey: Ok(Survey::default()),
        rooms: BTreeMap::new(),
        reserved,
        certificates,
        other_jobs,
        canaries: Vec::new(),
    };
    Ok(Some((facts, cluster)))
}

/// What else is under way with the cluster.
async fn other_jobs(
    tx: &mut Tx,
    cluster: &ClusterWork,
    owner: Option<Owner>,
) -> Result<Vec<String>, StoreError> {
    let open = migrations::list_open(&mut **tx, &[cluster.id]).await?;
    let others = open.iter().filter(|one| owner.is_none_or(|own| own.migration != one.id));
    let mut jobs: Vec<String> =
        others.map(|one| format!("migration {} ({})", one.id, one.phase.as_str())).collect();
    if cluster.desired == Desired::Absent {
        jobs.push("deletion of the cluster".to_owned());
    }
    Ok(jobs)
}

fn pool(pool: &PoolWork) -> PoolFacts {
    PoolFacts {
        id: pool.id,
        name: pool.name.clone(),
        flavor: pool.flavor.clone(),
        zone: pool.zone.clone(),
        network: pool.network.clone(),
        security_group: pool.security_group.clone(),
        image: pool.image.clone(),
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

/// When what kubeadm signed for each member ends: a year after the member was made.
fn leaves(nodes: &[Node]) -> Vec<(String, Timestamp)> {
    let members = nodes
        .iter()
        .filter(|node| node.role == Role::ControlPlane && node.server != Outside::Never);
    let end = |node: &Node| node.created_at.checked_add(LEAF_LIFE).ok();
    members.filter_map(|node| Some((format!("API server of {}", node.name), end(node)?))).collect()
}

/// How large the user data of a new node will be, with the longest name and token.
fn user_data(cluster: &ClusterWork, pool: &PoolWork) -> Option<(String, usize)> {
    let vip = cluster.vip_address.as_ref()?.parse().ok()?;
    let version = cluster.offering.kubernetes_version;
    let token = format!("{}.{}", "a".repeat(6), "a".repeat(16)).parse().ok()?;
    let hashes = [format!("sha256:{}", "0".repeat(64))];
    let name = "n".repeat(LONGEST_NAME);
    let discovery = Discovery { version, vip, ca_cert_hashes: &hashes, token: &token };
    let labels = BTreeMap::new();
    let parts = NodeParts { name: &name, labels: &labels, taints: &pool.taints };
    let kubeadm: SecretString = worker_configuration(discovery, parts);
    let server = ServerParts { node_name: &name, cluster: cluster.id, version, vip };
    let size = match worker_user_data(server, &kubeadm) {
        Ok(data) => data.reveal().len(),
        Err(too_large) => too_large.size,
    };
    Some((pool.name.clone(), size))
}

/// What the cluster holds, or why it could not be read.
async fn survey(
    context: &Context,
    lease: &Lease,
    cluster: &ClusterWork,
) -> Result<Result<Survey, String>, WorkError> {
    let client = match context.cluster_client(cluster).await {
        Ok(client) => client,
        Err(error @ (WorkError::LeaseLost | WorkError::Store(_))) => return Err(error),
        Err(error) => return Ok(Err(super::super::describe(&error))),
    };
    let look = Box::pin(client.survey());
    let limited = context.call(lease, "read cluster facts", look);
    match tokio::time::timeout(SURVEY_LIMIT, limited).await {
        Ok(answer) => Ok(answer?.map_err(|error| error.to_string())),
        Err(_) => Ok(Err(format!("it was not read within {} s", SURVEY_LIMIT.as_secs()))),
    }
}

/// What the hosts have left for each flavor of the move; nothing where the cloud does not tell.
async fn rooms(
    context: &Context,
    lease: &Lease,
    (facts, project): (&Facts, ProjectId),
) -> Result<BTreeMap<String, Vec<HostRoom>>, WorkError> {
    let mut rooms = BTreeMap::new();
    let pool = context.store.pool();
    let clouds = cloud_progress::load(pool, &[facts.target.id]).await?;
    let account = cloud_progress::account_of(pool, facts.target.id, project).await?;
    let (Some(cloud), Some(account)) = (clouds.first(), account) else { return Ok(rooms) };
    let Ok(client) = context.clouds.client(cloud, &account, "preflight") else { return Ok(rooms) };
    for flavor in target_flavors(facts) {
        let wanted = flavor.resources();
        let look = Box::pin(client.allocation_candidates(&wanted, HOSTS_MAX));
        match context.call(lease, "read capacity", look).await? {
            Ok(Some(found)) => {
                rooms.insert(flavor.name.clone(), found.rooms);
            }
            // What nobody tells us is not known; the quota and Nova have the last word anyway.
            Ok(None) => return Ok(BTreeMap::new()),
            Err(error) => {
                tracing::info!(%error, "what the hosts of the target have left is not known");
                return Ok(BTreeMap::new());
            }
        }
    }
    Ok(rooms)
}
