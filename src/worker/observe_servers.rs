//! One paged list of servers for each account, written over the rows that are older; while servers
//! are built, short lists of what changed between two lists of all.
//!
//! Never a GET for each server on a timer. Only clusters whose nodes changed are woken, and those
//! whose turn it is to build.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::context::{Context, Settings};
use super::{Next, Reconciler, WorkError};
use crate::domain::ids::{AccountId, NodeId};
use crate::domain::node::SERVER_DELETING;
use crate::domain::outside::OutsideError;
use crate::openstack::client::CloudClient;
use crate::openstack::nova::{Server, ServerFilter};
use crate::store::cloud_progress;
use crate::store::nodes::observed::{self, Pace, SeenServer};
use crate::store::nodes::slots;
use crate::store::work::{Lease, ResourceId, WorkKind, wake, wake_all};

/// Servers in a page of a list: Nova's `max_limit` as it is shipped.
const PAGE: u32 = 1_000;
/// How often is asked what changed while servers are built, if that is cheap: a build slot that is
/// free and not seen as such builds nothing.
const CHANGES_PERIOD: Duration = Duration::from_millis(500);
/// Part of a cloud's calls that such lists may take, and that lists of all servers may take.
const SHARE: f64 = 0.1;
/// How far Nova's clock may be from ours for its changes to be seen. Beyond, lists of all servers
/// still show them.
const SKEW: SignedDuration = SignedDuration::from_mins(1);

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

    /// Our servers, all or those that changed; and whether no cell is down.
    async fn list(
        &self,
        lease: &Lease,
        client: &CloudClient,
        changed_since: Option<Timestamp>,
    ) -> Result<(Vec<SeenServer>, Result<bool, OutsideError>), WorkError> {
        let install = self.context.installation.id.to_string();
        let tags = vec![format!("zcp:{install}")];
        let filter = ServerFilter { tags, changed_since, ..ServerFilter::default() };
        let mut found = Vec::new();
        let list = client.each_server(&filter, |server| {
            // What is gone is found missing by lists of all.
            if changed_since.is_none() || !server.status.is_gone() {
                found.extend(seen(&server, &install));
            }
        });
        let list = self.context.call(lease, "list servers", Box::pin(list)).await?;
        Ok((found, list))
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
        let settings = &context.settings;
        let rate = f64::from(cloud.spec.limits.calls_per_second);
        let all_period = all_period(account.servers, rate, settings);
        let begun = context.now();
        let is_recent = |at: &Timestamp| *at <= begun && *at + all_period > begun;
        let changed_since = account.listed_at.filter(is_recent).map(|at| at - SKEW);
        let order = observed::begin_list(&context.store).await?;
        let (found, list) = self.list(lease, &client, changed_since).await?;
        if let Err(error) = &list {
            context.doubt(lease, &[account.cloud_id], &error.clone().into()).await?;
        }
        // While a cell is down, what the list shows is true and what it lacks proves nothing.
        let has_all_cells = list?;
        let is_complete = has_all_cells && changed_since.is_none();
        let now = context.now();
        let mut tx = context.fenced(lease).await?;
        let changed =
            observed::write_servers(&mut tx, (id, order), (&found, is_complete), now).await?;
        let mut clusters: Vec<ResourceId> = changed.into_iter().map(Into::into).collect();
        if !clusters.is_empty() {
            wake_all(&mut tx, WorkKind::ObserveNodes, &clusters, now).await?;
        }
        let limit = cloud.spec.limits.builds_in_flight;
        let next = slots::next_in_line(&mut **tx, cloud.id, limit, now).await?;
        clusters.extend(next.into_iter().map(ResourceId::from));
        if !clusters.is_empty() {
            wake_all(&mut tx, WorkKind::Cluster, &clusters, now).await?;
        }
        let mut listed_at = account.listed_at.unwrap_or(now);
        if changed_since.is_none() {
            listed_at = now;
            let listed = (found.len(), is_complete);
            cloud_progress::write_listed(&mut tx, id, listed, now).await?;
            if is_complete != account.incomplete_since.is_none() {
                let name = &cloud.name;
                tracing::warn!(cloud.name = %name, is_complete, "a cell went down or came back");
                wake(&mut tx, WorkKind::Cloud, cloud.id, now).await?;
            }
        }
        tx.commit().await?;
        let pace = observed::pace(context.store.pool(), id).await?;
        let period = if pace == Pace::Calm { settings.servers_period } else { all_period };
        let until_all = (listed_at + period).duration_since(now);
        let until_all = Duration::try_from(until_all).unwrap_or_default();
        Ok(Next::After(match pace {
            Pace::Building => changes_period(rate, settings).min(until_all),
            Pace::Busy | Pace::Calm => until_all,
        }))
    }
}

/// How often all servers of a busy account are listed: each `busy_period`, or longer where so many
/// pages would take more than [`SHARE`] of the cloud's calls.
fn all_period(servers: u32, calls_per_second: f64, settings: &Settings) -> Duration {
    let pages = f64::from(servers / PAGE + 1);
    let affordable = Duration::from_secs_f64(pages / (calls_per_second.max(1.0) * SHARE));
    affordable.min(settings.servers_period).max(settings.busy_period)
}

/// How often is asked what changed, at the most.
fn changes_period(calls_per_second: f64, settings: &Settings) -> Duration {
    let affordable = Duration::from_secs_f64(1.0 / (calls_per_second.max(1.0) * SHARE));
    affordable.max(CHANGES_PERIOD).min(settings.busy_period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_take_a_tenth_of_the_calls_each() {
        let settings = Settings::default();
        let all = |servers, rate| all_period(servers, rate, &settings);
        assert_eq!(all(100, 20.0), settings.busy_period);
        assert_eq!(all(9_000, 20.0), settings.busy_period);
        assert_eq!(all(57_400, 20.0), Duration::from_secs(29));
        assert_eq!(all(500_000, 20.0), settings.servers_period);
        let changes = |rate| changes_period(rate, &settings);
        assert_eq!(changes(20.0), Duration::from_millis(500));
        assert_eq!(changes(5.0), Duration::from_secs(2));
        assert_eq!(changes(1.0), settings.busy_period);
    }
}
