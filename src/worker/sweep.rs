//! Finds servers, ports and server groups of ours that no row owns: reports first, deletes later.
//!
//! They come from calls that landed late: a replica that was frozen between the look at its lease
//! and its call, a request that a proxy gave up on. Deleted is only what is marked as ours, was
//! seen by two sweeps, is older than `sweep_age`, and at most five things or a fiftieth of all in
//! one sweep: a sweep that would delete more has misunderstood something.

use jiff::SignedDuration;

use super::context::Context;
use super::{Next, Reconciler, WorkError};
use crate::domain::ids::AccountId;
use crate::domain::outside::absent_is_done;
use crate::openstack::CloudClient;
use crate::openstack::neutron::PortFilter;
use crate::openstack::nova::ServerFilter;
use crate::store::cloud_progress;
use crate::store::orphans::{self, Orphan, OrphanKind};
use crate::store::work::{Lease, ResourceId, WorkKind};

/// Things that one sweep may always delete.
const DELETIONS: usize = 5;

/// Looks for what nobody owns.
#[derive(Debug, Clone)]
pub struct Sweep {
    context: Context,
}

/// A thing of ours, with the id of the node or cluster that it names as its owner.
struct Found {
    orphan: Orphan,
    owner: Option<uuid::Uuid>,
}

impl Sweep {
    /// A worker.
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    /// Everything on the account that bears our mark.
    async fn ours(
        &self,
        client: &CloudClient,
    ) -> Result<Vec<Found>, crate::domain::outside::OutsideError> {
        let install = self.context.installation.id.to_string();
        let mut found = Vec::new();
        let filter =
            ServerFilter { tags: vec![format!("zcp:{install}")], ..ServerFilter::default() };
        client
            .each_server(&filter, |server| {
                if server.mark("zcp.install") == Some(&install) && !server.status.is_gone() {
                    let owner = server.mark("zcp.node").and_then(|id| id.parse().ok());
                    let name = server.name.unwrap_or_default();
                    found.push(thing(OrphanKind::Server, (server.id, name), owner));
                }
            })
            .await?;
        let start = format!("zcp.install={install} ");
        client
            .each_port(&PortFilter::default(), |port| {
                if port.description.starts_with(&start) {
                    let owner = owner_in(&port.description);
                    found.push(thing(OrphanKind::Port, (port.id, port.name), owner));
                }
            })
            .await?;
        for group in client.list_server_groups().await? {
            let cluster = group.name.strip_prefix("zcp-").and_then(|rest| rest.get(..36));
            if let Some(cluster) = cluster.and_then(|text| text.parse().ok()) {
                found.push(thing(OrphanKind::ServerGroup, (group.id, group.name), Some(cluster)));
            }
        }
        Ok(found)
    }

    async fn delete(
        &self,
        lease: &Lease,
        client: &CloudClient,
        orphan: &Orphan,
    ) -> Result<(), WorkError> {
        tracing::warn!(
            kind = orphan.kind.as_str(), id = %orphan.outside_id, name = %orphan.name,
            "deleting {} {}, which nobody owns", orphan.kind.as_str(), orphan.name
        );
        let id = &orphan.outside_id;
        let delete = async {
            match orphan.kind {
                OrphanKind::Server => client.delete_server(id).await,
                OrphanKind::Port => client.delete_port(id).await,
                OrphanKind::ServerGroup => client.delete_server_group(id).await,
            }
        };
        absent_is_done(self.context.call(lease, "delete orphan", delete).await?)?;
        Ok(())
    }

    /// Records the orphans; returns those that may be deleted now.
    async fn record(
        &self,
        lease: &Lease,
        account: AccountId,
        found: &[Found],
    ) -> Result<Vec<Orphan>, WorkError> {
        let now = self.context.now();
        let age = SignedDuration::try_from(self.context.settings.sweep_age).unwrap_or_default();
        let mut tx = self.context.fenced(lease).await?;
        let (ids, unclear) = orphans::claims(&mut tx, account).await?;
        let mut nobodys: Vec<Orphan> = found
            .iter()
            .filter(|one| !ids.contains(&one.orphan.outside_id))
            .filter(|one| one.owner.is_none_or(|owner| !unclear.contains(&owner)))
            .map(|one| one.orphan.clone())
            .collect();
        nobodys.sort();
        let mut ripe = Vec::new();
        for orphan in &nobodys {
            let seen = orphans::see(&mut tx, account, orphan, now).await?;
            if seen.count >= 2 && now.duration_since(seen.first_at) >= age {
                ripe.push(orphan.clone());
            }
        }
        orphans::forget_others(&mut tx, account, &nobodys).await?;
        tx.commit().await?;
        Ok(ripe)
    }
}

fn thing(
    kind: OrphanKind,
    (outside_id, name): (String, String),
    owner: Option<uuid::Uuid>,
) -> Found {
    Found { orphan: Orphan { kind, outside_id, name }, owner }
}

/// The node, else the cluster, that a port's description names.
fn owner_in(description: &str) -> Option<uuid::Uuid> {
    let value = |key: &str| {
        let found = description.split(' ').find_map(|part| part.strip_prefix(key));
        found.and_then(|text| text.parse().ok())
    };
    value("zcp.node=").or_else(|| value("zcp.cluster="))
}

impl Reconciler for Sweep {
    const KIND: WorkKind = WorkKind::Sweep;

    async fn reconcile(&self, id: ResourceId, lease: &Lease) -> Result<Next, WorkError> {
        let context = &self.context;
        let id = AccountId::from(id);
        let Some(account) = cloud_progress::account(context.store.pool(), id).await? else {
            return Ok(Next::Gone);
        };
        let clouds = cloud_progress::load(context.store.pool(), &[account.cloud_id]).await?;
        let Some(cloud) = clouds.first() else { return Ok(Next::Gone) };
        let client = context.clouds.client(cloud, &account, "sweep")?;
        let found = context.call(lease, "list ours", self.ours(&client)).await??;
        let ripe = self.record(lease, id, &found).await?;
        let limit = DELETIONS.max(found.len() / 50);
        if ripe.len() > limit {
            tracing::error!(
                cloud.name = %cloud.name, orphans = ripe.len(), limit,
                "more orphans than one sweep may delete; the rest waits for the next"
            );
        }
        for orphan in ripe.iter().take(limit) {
            self.delete(lease, &client, orphan).await?;
        }
        Ok(Next::After(context.settings.sweep_period))
    }
}
