//! One paged list of servers for each account, written over the rows that are older.
//!
//! Never a GET for each server on a timer. Only clusters whose nodes changed are woken.

use std::time::Duration;

use super::context::Context;
use super::{Next, Reconciler, WorkError};
use crate::domain::ids::{AccountId, NodeId};
use crate::domain::node::SERVER_DELETING;
use crate::openstack::nova::{Server, ServerFilter};
use crate::store::cloud_progress;
use crate::store::nodes::observed::{self, Pace, SeenServer};
use crate::store::work::{Lease, ResourceId, WorkKind, wake, wake_all};

/// Servers in a page of a list: Nova's `max_limit` as it is shipped.
const PAGE: usize = 1_000;
/// How often an account is listed while servers are built or deleted, if that is cheap.
const MOVING_PERIOD: Duration = Duration::from_secs(1);
/// Part of a cloud's calls that such lists may take.
const SHARE: f64 = 0.1;

/// Lists the servers of accounts.
#[derive(Debug, Clone)]
pub struct ObserveServers {
    context: Context,
}

impl ObserveServers {
    /// A worker.
    pub fn new(context: Context) -> Self {
        Self { context }
    }
}

/// What the list says of a server of ours; `None` for those of others.
fn seen(server: &Server, install: &str) -> Option<SeenServer> {
    if server.mark("zcp.install") != Some(install) {
        return None;
    }
    let node: NodeId = server.mark("zcp.node")?.parse().ok()?;
    Some(SeenServer {
        node,
        server_id: server.id.clone(),
        status: match server.task_state.as_deref() {
            Some("deleting") => SERVER_DELETING.to_owned(),
            _ => server.status.as_str().to_owned(),
        },
        fault: server.fault.as_ref().map(|fault| fault.message.clone()),
        host: server.host.clone().or_else(|| server.host_id.clone()),
    })
}

impl Reconciler for ObserveServers {
    const KIND: WorkKind = WorkKind::ObserveServers;

    async fn reconcile(&self, id: ResourceId, lease: &Lease) -> Result<Next, WorkError> {
        let context = &self.context;
        let id = AccountId::from(id);
        let Some(account) = cloud_progress::account(context.store.pool(), id).await? else {
            return Ok(Next::Gone);
        };
        let clouds = cloud_progress::load(context.store.pool(), &[account.cloud_id]).await?;
        let Some(cloud) = clouds.first() else { return Ok(Next::Gone) };
        let client = context.clouds.client(cloud, &account, "observe")?;
        let order = observed::begin_list(&context.store).await?;
        let filter = ServerFilter {
            tags: vec![format!("zcp:{}", context.installation.id)],
            ..ServerFilter::default()
        };
        let install = context.installation.id.to_string();
        let mut found = Vec::new();
        let list = client.each_server(&filter, |server| found.extend(seen(&server, &install)));
        let list = context.call(lease, "list servers", Box::pin(list)).await?;
        if let Err(error) = &list {
            context.doubt(lease, &[account.cloud_id], &error.clone().into()).await?;
        }
        // While a cell is down, what the list shows is true and what it lacks proves nothing.
        let is_complete = list?;
        let now = context.now();
        let mut tx = context.fenced(lease).await?;
        let changed =
            observed::write_servers(&mut tx, (id, order), (&found, is_complete), now).await?;
        let clusters: Vec<ResourceId> = changed.iter().map(|id| (*id).into()).collect();
        if !clusters.is_empty() {
            wake_all(&mut tx, WorkKind::Cluster, &clusters, now).await?;
            wake_all(&mut tx, WorkKind::ObserveNodes, &clusters, now).await?;
        }
        cloud_progress::write_listed(&mut tx, (id, is_complete), now).await?;
        if is_complete != account.incomplete_since.is_none() {
            tracing::warn!(cloud.name = %cloud.name, is_complete, "a cell went down or came back");
            wake(&mut tx, WorkKind::Cloud, cloud.id, now).await?;
        }
        tx.commit().await?;
        let settings = &context.settings;
        Ok(Next::After(match observed::pace(context.store.pool(), id).await? {
            Pace::Calm => settings.servers_period,
            Pace::Busy => settings.busy_period,
            Pace::Moving => {
                let rate = f64::from(cloud.spec.limits.calls_per_second);
                moving_period(found.len(), rate, settings.busy_period)
            }
        }))
    }
}

/// How long until the next list while servers are built or deleted: a second, for a build slot that
/// is free and not seen as such builds nothing; longer where so many pages would take more than
/// [`SHARE`] of the cloud's calls. Never longer than `busy_period`.
fn moving_period(servers: usize, calls_per_second: f64, busy_period: Duration) -> Duration {
    #[expect(clippy::cast_precision_loss, reason = "a few thousand pages at most")]
    let pages = (servers / PAGE + 1) as f64;
    let affordable = pages / (calls_per_second.max(1.0) * SHARE);
    Duration::from_secs_f64(affordable).clamp(MOVING_PERIOD.min(busy_period), busy_period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_what_moves_are_quick_and_take_a_tenth_of_the_calls() {
        let seconds = |servers, rate| moving_period(servers, rate, Duration::from_secs(5));
        assert_eq!(seconds(100, 20.0), Duration::from_secs(1));
        assert_eq!(seconds(3_500, 20.0), Duration::from_secs(2));
        assert_eq!(seconds(30_000, 20.0), Duration::from_secs(5));
        assert_eq!(seconds(10, 1.0), Duration::from_secs(5));
        let dev = Duration::from_millis(300);
        assert_eq!(moving_period(10, 20.0, dev), dev);
    }
}
