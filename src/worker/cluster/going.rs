//! Steps of what goes: drains, servers, ports, Node objects, groups.

use super::load::Loaded;
use super::{ClusterWorker, Done};
use crate::domain::harm::Facts;
use crate::domain::node::{Desired, Drain, Outside, Role, SERVER_DELETING};
use crate::domain::node_view::NodeRef;
use crate::domain::outside::{OutsideKind, absent_is_done};
use crate::plan::cluster::STUCK;
use crate::store::cluster_progress::{self, Change as ClusterChange};
use crate::store::events::EventType;
use crate::store::groups;
use crate::store::nodes::NodeRow;
use crate::store::nodes::progress::Change;
use crate::store::work::{Lease, WorkKind, wake_at};
use crate::worker::WorkError;
use crate::worker::drain::{Force, Rules, Target};
use crate::worker::error::HUMAN_RECHECK;
use crate::worker::migration;
use crate::worker::timeline::{NodeEvent, record_node};

/// How long a server must stay away from lists before it is believed to be gone although nobody
/// deleted it: a list can be short because a cell is down. Rule of domain facts: two looks, a
/// minute apart.
const MISSING_WAIT: jiff::SignedDuration = jiff::SignedDuration::from_mins(1);

impl ClusterWorker {
    /// One pass over a node that a shrinking pool gives up. After its deadline it goes anyway: its
    /// owner asked for fewer nodes, and no migration waits for it.
    pub(super) async fn drain_node(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        row: &NodeRow,
    ) -> Result<Done, WorkError> {
        let client = self.context.cluster_client(&loaded.cluster).await?;
        let target = Target { row, mark: "scale" };
        if matches!(row.node.drain, Drain::Idle | Drain::Cordoning) {
            self.context.cordon(lease, &client, target).await?;
            return Ok(Done::Progress);
        }
        let patience = jiff::SignedDuration::try_from(self.context.settings.shrink_drain);
        let patience = patience.unwrap_or(jiff::SignedDuration::MAX);
        let is_late = row
            .node
            .drain_started_at
            .is_some_and(|at| self.context.now().duration_since(at) > patience);
        if is_late {
            self.write(lease, &row.node, Change::Drain(Drain::Skipped, row.node.blockers.clone()))
                .await?;
            return Ok(Done::Progress);
        }
        let rules = Rules { evict_unhealthy: false, before: &Facts::default() };
        let round = (&[(target, Force::Never)][..], rules);
        let outcomes = self.context.drain_round(lease, &client, round).await?;
        if outcomes.iter().any(|outcome| outcome.is_done) {
            return Ok(Done::Progress);
        }
        Ok(Done::Wait(self.context.next_pass(&outcomes)))
    }

    /// Whether a server may go as far as the cluster is concerned: a node that was drained is still
    /// empty and cordoned, by a fresh look. A node whose kubelet is silent or that was skipped has
    /// nothing to say.
    async fn may_go(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        row: &NodeRow,
    ) -> Result<bool, WorkError> {
        let node = &row.node;
        let was_drained = loaded.cluster.desired == Desired::Present
            && node.role == Role::Worker
            && node.server == Outside::Present
            && node.object == Outside::Present
            && node.kubelet.is_ready
            && node.drain == Drain::Drained;
        if !was_drained {
            return Ok(true);
        }
        let mark = loaded.migration.as_ref().map_or("scale".to_owned(), migration::mark);
        let client = self.context.cluster_client(&loaded.cluster).await?;
        self.context.is_still_drained(lease, &client, Target { row, mark: &mark }).await
    }

    pub(super) async fn delete_server(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        row: &NodeRow,
    ) -> Result<Done, WorkError> {
        let node = &row.node;
        if node.server == Outside::Unknown {
            // Something may be there under our name: find it first, then delete it.
            return self.settle_unknown(lease, loaded, row).await;
        }
        let Some(id) = node.server_id.clone() else {
            self.write(lease, node, Change::ServerGone).await?;
            return Ok(Done::Progress);
        };
        if !self.may_go(lease, loaded, row).await? {
            return Ok(Done::Progress);
        }
        let client = loaded.client(&self.context, node.cloud_id)?;
        self.write(lease, node, Change::ServerDeleting).await?;
        let delete = client.delete_server(&id);
        let answer = self.context.call(lease, "delete server", delete).await?;
        let now = self.context.now();
        match answer {
            Ok(()) => {}
            Err(error) if error.is_absent() => {
                self.write(lease, node, Change::ServerGone).await?;
                return Ok(Done::Progress);
            }
            // It may have been taken: lists will tell.
            Err(error) if error.kind == OutsideKind::Unclear => {}
            // Lists show that it lives on: asking at once would be refused again.
            Err(error) if error.kind == OutsideKind::Denied => {
                let again = jiff::SignedDuration::try_from(HUMAN_RECHECK).unwrap_or_default();
                let trouble = Change::Trouble(error.to_string(), Some(now + again));
                self.write(lease, node, trouble).await?;
                return Err(error.into());
            }
            Err(error) => return Err(error.into()),
        }
        let soon = jiff::SignedDuration::try_from(self.context.settings.busy_period);
        let mut tx = self.context.fenced(lease).await?;
        let event = NodeEvent::new(
            EventType::Normal,
            "ServerDeleting",
            format!("server {id} of {} is being deleted", node.name),
        );
        record_node(&mut tx, (&loaded.cluster, node.id), event, now).await?;
        let stuck = |since: &jiff::Timestamp| now.duration_since(*since) >= STUCK;
        if let Some(since) = node.signs.deleting_since.filter(stuck) {
            let minutes = now.duration_since(since).as_mins();
            let text = format!("server {id} of {} is not gone after {minutes} min", node.name);
            tracing::error!(server.id = %id, "{text}: somebody must look at it");
            let event = NodeEvent::new(EventType::Warning, "DeleteStuck", text);
            record_node(&mut tx, (&loaded.cluster, node.id), event, now).await?;
        }
        let at = now + soon.unwrap_or_default();
        wake_at(&mut tx, WorkKind::ObserveServers, row.account_id, at).await?;
        tx.commit().await?;
        Ok(Done::Progress)
    }

    async fn settle_unknown(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        row: &NodeRow,
    ) -> Result<Done, WorkError> {
        let node = &row.node;
        let client = loaded.client(&self.context, node.cloud_id)?;
        let find = client.find_servers(&node.name);
        let found = self.context.call(lease, "find server", find).await??;
        let id = node.id.to_string();
        if let Some(server) = found.iter().find(|s| s.mark("zcp.node") == Some(&id)) {
            self.write(lease, node, Change::ServerMade(server.id.clone())).await?;
            return Ok(Done::Progress);
        }
        let now = self.context.now();
        let wait = jiff::SignedDuration::try_from(self.context.settings.unclear_wait);
        match row.server_looked_at {
            None => self.write(lease, node, Change::ServerLookedFor(now)).await?,
            Some(at) if now.duration_since(at) >= wait.unwrap_or_default() => {
                self.write(lease, node, Change::ServerGone).await?;
                return Ok(Done::Progress);
            }
            Some(_) => {}
        }
        Ok(Done::Wait(self.context.settings.busy_period))
    }

    /// A server that complete lists do not show: asked for by its id.
    pub(super) async fn confirm_server(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        row: &NodeRow,
    ) -> Result<Done, WorkError> {
        let node = &row.node;
        let Some(id) = &node.server_id else { return Ok(Done::Progress) };
        let we_deleted_it = node.server == Outside::Deleting;
        // A list that shows it as deleted needs no second one.
        if let Some(since) = node.server_missing_since.filter(|_| !we_deleted_it) {
            let missing = self.context.now().duration_since(since);
            if missing < MISSING_WAIT {
                return Ok(Done::Wait((MISSING_WAIT - missing).unsigned_abs()));
            }
        }
        let client = loaded.client(&self.context, node.cloud_id)?;
        let found = self.context.call(lease, "confirm server", client.server(id)).await??;
        let change = match found {
            Some(server) if !server.status.is_gone() => {
                let status = match server.task_state.as_deref() {
                    Some("deleting") => SERVER_DELETING,
                    _ => server.status.as_str(),
                };
                let fault = server.fault.map(|fault| fault.message);
                Change::ServerFound(status.to_owned(), fault)
            }
            _ => Change::ServerGone,
        };
        self.write(lease, node, change).await?;
        Ok(Done::Progress)
    }

    pub(super) async fn delete_port(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        row: &NodeRow,
    ) -> Result<Done, WorkError> {
        let node = &row.node;
        let client = loaded.client(&self.context, node.cloud_id)?;
        let id = if let Some(id) = &node.port_id {
            Some(id.clone())
        } else {
            let marks = format!(
                "zcp.install={} zcp.cluster={} zcp.node={}",
                self.context.installation.id, node.cluster_id, node.id
            );
            self.find_port(lease, &client, marks).await?
        };
        if let Some(id) = id {
            let delete = client.delete_port(&id);
            absent_is_done(self.context.call(lease, "delete port", delete).await?)?;
        }
        self.write(lease, node, Change::PortGone).await?;
        Ok(Done::Progress)
    }

    async fn find_port(
        &self,
        lease: &Lease,
        client: &crate::openstack::CloudClient,
        description: String,
    ) -> Result<Option<String>, WorkError> {
        let filter = crate::openstack::neutron::PortFilter {
            description: Some(description.clone()),
            ..Default::default()
        };
        let found = self.context.call(lease, "list ports", client.list_ports(&filter)).await??;
        Ok(found.into_iter().find(|port| port.description == description).map(|port| port.id))
    }

    pub(super) async fn delete_object(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        row: &NodeRow,
    ) -> Result<Done, WorkError> {
        let Some(uid) = row.object_uid.clone() else {
            self.write(lease, &row.node, Change::ObjectGone).await?;
            return Ok(Done::Progress);
        };
        let client = self.context.cluster_client(&loaded.cluster).await?;
        let node = NodeRef { name: row.node.name.clone(), uid };
        let delete = client.delete_node(&node);
        absent_is_done(self.context.call(lease, "delete node", delete).await?)?;
        self.write(lease, &row.node, Change::ObjectGone).await?;
        Ok(Done::Progress)
    }

    pub(super) async fn delete_group(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        id: uuid::Uuid,
    ) -> Result<Done, WorkError> {
        let Some(group) = loaded.groups.iter().find(|group| group.id == id) else {
            return Ok(Done::Progress);
        };
        let client = loaded.client(&self.context, group.cloud_id)?;
        let outside = if let Some(outside) = &group.server_group_id {
            Some(outside.clone())
        } else {
            let list = client.list_server_groups();
            let all = self.context.call(lease, "find server group", list).await??;
            all.into_iter().find(|one| one.name == group.name).map(|one| one.id)
        };
        if let Some(outside) = outside {
            let mut tx = self.context.fenced(lease).await?;
            groups::write(&mut tx, id, Outside::Deleting, None).await?;
            tx.commit().await?;
            let delete = client.delete_server_group(&outside);
            absent_is_done(self.context.call(lease, "delete server group", delete).await?)?;
        }
        let mut tx = self.context.fenced(lease).await?;
        groups::write(&mut tx, id, Outside::Gone, None).await?;
        tx.commit().await?;
        Ok(Done::Progress)
    }

    pub(super) async fn delete_vip_port(
        &self,
        lease: &Lease,
        loaded: &Loaded,
    ) -> Result<Done, WorkError> {
        let cluster = &loaded.cluster;
        let client = loaded.client(&self.context, cluster.control_plane_cloud)?;
        let id = if let Some(id) = &cluster.vip_port_id {
            Some(id.clone())
        } else {
            let marks = format!(
                "zcp.install={} zcp.cluster={} zcp.role=vip",
                self.context.installation.id, cluster.id
            );
            self.find_port(lease, &client, marks).await?
        };
        if let Some(id) = id {
            let delete = client.delete_port(&id);
            absent_is_done(self.context.call(lease, "delete port", delete).await?)?;
        }
        let mut tx = self.context.fenced(lease).await?;
        let change = ClusterChange::VipPort(Outside::Gone);
        cluster_progress::write(&mut tx, cluster.id, change, self.context.now()).await?;
        tx.commit().await?;
        Ok(Done::Progress)
    }
}
