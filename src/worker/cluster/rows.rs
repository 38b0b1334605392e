//! Steps that change only our database.

use secrecy::ExposeSecret;

use super::{ClusterWorker, Done};
use crate::bootstrap::tokens;
use crate::domain::ids::NodeId;
use crate::domain::inventory::ServerStatus;
use crate::domain::node::{Desired, Outside, Role};
use crate::plan::cluster::NewNode;
use crate::plan::resolve;
use crate::store::cluster_progress;
use crate::store::events::EventType;
use crate::store::nodes::progress::Change;
use crate::store::nodes::{self, NewNodeRow, NodeRow, heirs, observed, progress};
use crate::store::seal::{Place, Sealed};
use crate::store::work::{Lease, WorkKind, wake_all};
use crate::store::{Tx, canaries, groups, migration_progress};
use crate::worker::WorkError;
use crate::worker::cluster::load::Loaded;
use crate::worker::timeline::{NodeEvent, record_node};

/// Failed servers on one host after which the host is suspected.
const HOST_FAILURES: i64 = 3;
/// How long a failure is remembered.
const HOST_MEMORY: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);

/// The secrets of a node, as they are sealed in its row.
#[derive(serde::Serialize, serde::Deserialize)]
pub(super) struct Secrets {
    /// `id.secret` of its bootstrap token.
    pub bootstrap: String,
    /// Token for its bundle; only control-plane members have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle: Option<String>,
}

impl ClusterWorker {
    /// Adds the row of a node. Its name and secrets are fixed here, so that whatever a killed call
    /// made is found and fits.
    pub(super) async fn add_node(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        new: &NewNode,
    ) -> Result<Done, WorkError> {
        let context = &self.context;
        let id = NodeId(context.ids.uuid());
        let (cloud, account) = loaded.cloud(new.cloud)?;
        let pool = loaded.pools.iter().find(|pool| Some(pool.id) == new.pool);
        let kind = pool.map_or("cp", |pool| pool.name.as_str());
        let name = tokens::node_name(context.ids.as_ref(), &loaded.cluster.name, kind);
        let bundle = new.member.map(|_| tokens::node_token(context.ids.as_ref()));
        let shown = bundle.as_ref().map(|token| token.secret.expose_secret().to_owned());
        let there = match pool {
            Some(pool) => loaded.place(pool, new.cloud)?,
            None => resolve::Place {
                flavor: loaded.cluster.control_plane_flavor.clone(),
                ..resolve::Place::default()
            },
        };
        let mut tx = context.fenced(lease).await?;
        let place_of_group = (loaded.cluster.id, new.pool, account.id);
        let group = groups::ensure(&mut tx, context.ids.uuid(), place_of_group, new.group).await?;
        let row = NewNodeRow {
            id,
            cluster_id: loaded.cluster.id,
            pool_id: new.pool,
            role: if new.pool.is_some() { Role::Worker } else { Role::ControlPlane },
            cloud_id: new.cloud,
            account_id: account.id,
            member: new.member,
            name: name.clone(),
            flavor: there.flavor,
            zone: there.zone.or_else(|| cloud.spec.defaults.zone.clone()),
            network: there.network,
            security_group: there.security_group,
            image: there.image,
            job_id: loaded.migration.as_ref().map(|m| m.id).filter(|_| new.pool.is_some()),
            group_id: Some(group),
            attempt: new.attempt,
            not_before: new.not_before,
            trouble: last_trouble(loaded, new),
            secret: self.seal_secrets(id, shown)?,
            bundle_token_hash: bundle.map(|token| token.hash.to_vec()),
            created_at: context.now(),
        };
        nodes::insert(&mut tx, row).await?;
        if let Some(heritage) = new.heritage {
            heirs::adopt(&mut tx, id, (heritage.of, heritage.ledger_of)).await?;
        }
        let event =
            NodeEvent::new(EventType::Normal, "NodeWanted", format!("{name} on {}", cloud.name));
        record_node(&mut tx, (&loaded.cluster, id), event, context.now()).await?;
        tx.commit().await?;
        Ok(Done::Progress)
    }

    /// A node's secrets, made anew and sealed for its row.
    pub(super) fn seal_secrets(
        &self,
        id: NodeId,
        bundle: Option<String>,
    ) -> Result<Sealed, WorkError> {
        let ids = self.context.ids.as_ref();
        let secrets = Secrets { bootstrap: tokens::bootstrap_token(ids).reveal(), bundle };
        let plain = serde_json::to_vec(&secrets)
            .map_err(|error| WorkError::internal(format!("secrets of a node: {error}")))?;
        Ok(self.context.keys.seal(Place::new("nodes", id.0, "secret"), &plain, ids))
    }

    /// Wants a node absent because it cannot serve any more. Another stands in its place then.
    pub(super) async fn replace(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        (row, why): (&NodeRow, &str),
    ) -> Result<Done, WorkError> {
        let fault = self.unlisted_fault(lease, loaded, row).await?;
        let told = fault.as_ref().map(|fault| format!("its server is in ERROR: {fault}"));
        let why = told.as_deref().unwrap_or(why);
        let now = self.context.now();
        let mut tx = self.context.fenced(lease).await?;
        if fault.is_some() {
            let found = Change::ServerFound(ServerStatus::Error.as_str().to_owned(), fault);
            progress::write(&mut tx, row.node.id, found, now).await?;
        }
        progress::write(&mut tx, row.node.id, Change::Lost(why.to_owned()), now).await?;
        self.tell_why(&mut tx, loaded, (row, why)).await?;
        tx.commit().await?;
        Ok(Done::Progress)
    }

    /// The fault of a server in ERROR whose list does not tell it: Nova leaves it out for servers
    /// that never had a host (seen with Zed). Nobody waits for it: without an answer there is none.
    async fn unlisted_fault(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        row: &NodeRow,
    ) -> Result<Option<String>, WorkError> {
        let node = &row.node;
        let is_untold =
            node.server_status == Some(ServerStatus::Error) && node.server_fault.is_none();
        let Some(id) = node.server_id.as_ref().filter(|_| is_untold) else { return Ok(None) };
        let client = loaded.client(&self.context, node.cloud_id)?;
        let found = self.context.call(lease, "confirm server", client.server(id)).await?;
        Ok(found.ok().flatten().and_then(|server| server.fault).map(|fault| fault.message))
    }

    /// Tells of a node that is given up though nobody asked for that, and of the host it was on.
    async fn tell_why(
        &self,
        tx: &mut Tx,
        loaded: &Loaded,
        (row, why): (&NodeRow, &str),
    ) -> Result<(), WorkError> {
        if row.node.server_status == Some(ServerStatus::Error) {
            self.suspect_host(tx, loaded, row).await?;
        }
        if row.node.signs.unready_since.is_some() || row.node.server == Outside::Gone {
            let text = format!("{} is replaced: {why}", row.node.name);
            let event = NodeEvent::new(EventType::Warning, "NodeReplaced", text);
            record_node(tx, (&loaded.cluster, row.node.id), event, self.context.now()).await?;
        }
        Ok(())
    }

    /// Wants a node absent. One way.
    pub(super) async fn dismiss(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        (row, why): (&NodeRow, &str),
    ) -> Result<Done, WorkError> {
        let now = self.context.now();
        let mut tx = self.context.fenced(lease).await?;
        progress::write(&mut tx, row.node.id, Change::Dismiss(why.to_owned()), now).await?;
        heirs::give_up(&mut tx, row.node.id).await?;
        self.tell_why(&mut tx, loaded, (row, why)).await?;
        tx.commit().await?;
        Ok(Done::Progress)
    }

    /// Tells of a host on which one server after the other fails: another try may land there, too.
    async fn suspect_host(
        &self,
        tx: &mut Tx,
        loaded: &Loaded,
        row: &NodeRow,
    ) -> Result<(), WorkError> {
        let now = self.context.now();
        let failed = observed::failures_on_host(tx, row.node.id, now - HOST_MEMORY).await?;
        let Some((host, failures)) = failed.filter(|(_, failures)| *failures >= HOST_FAILURES)
        else {
            return Ok(());
        };
        let (cloud, _) = loaded.cloud(row.node.cloud_id)?;
        let text = format!("{failures} servers in a row failed on host {host} of {}", cloud.name);
        tracing::error!(cloud.name = %cloud.name, host, "{text}: somebody must look at it");
        let event = NodeEvent::new(EventType::Warning, "HostSuspect", text);
        Ok(record_node(tx, (&loaded.cluster, row.node.id), event, now).await?)
    }

    pub(super) async fn close_node(&self, lease: &Lease, row: &NodeRow) -> Result<Done, WorkError> {
        let now = self.context.now();
        let mut tx = self.context.fenced(lease).await?;
        progress::write(&mut tx, row.node.id, Change::Close, now).await?;
        let migrations = migration_progress::active_ids(&mut **tx, &[row.node.cluster_id]).await?;
        let ids: Vec<_> = migrations.into_iter().map(Into::into).collect();
        wake_all(&mut tx, WorkKind::Migration, &ids, now).await?;
        tx.commit().await?;
        Ok(Done::Progress)
    }

    pub(super) async fn close_cluster(
        &self,
        lease: &Lease,
        loaded: &Loaded,
    ) -> Result<Done, WorkError> {
        let now = self.context.now();
        let mut tx = self.context.fenced(lease).await?;
        let change = cluster_progress::Change::Close;
        cluster_progress::write(&mut tx, loaded.cluster.id, change, now).await?;
        canaries::close_all(&mut tx, loaded.cluster.id, now).await?;
        let event = NodeEvent::new(
            EventType::Normal,
            "ClusterDeleted",
            format!("nothing of cluster {} is left on any cloud", loaded.cluster.name),
        );
        crate::worker::timeline::record_cluster(&mut tx, &loaded.cluster, event, now).await?;
        tx.commit().await?;
        Ok(Done::Progress)
    }
}

/// Why the node before failed in the same place: its successor bears it until it has come further.
fn last_trouble(loaded: &Loaded, new: &NewNode) -> Option<String> {
    let before = loaded.nodes.iter().map(|row| &row.node).find(|node| {
        node.pool_id == new.pool
            && node.member == new.member
            && node.cloud_id == new.cloud
            && node.attempt + 1 == new.attempt
            && node.desired == Desired::Absent
    });
    before.and_then(|node| node.trouble.clone())
}
