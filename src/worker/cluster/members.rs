//! Steps inside the cluster: its API, the CNI, bootstrap tokens, labels.

use std::time::Duration;

use super::load::Loaded;
use super::{ClusterWorker, Done};
use crate::domain::node::Outside;
use crate::domain::node_view::NodeRef;
use crate::domain::outside::{OutsideKind, absent_is_done};
use crate::kubernetes::tokens::Health;
use crate::store::cluster_progress::{self, Change as ClusterChange};
use crate::store::events::EventType;
use crate::store::nodes::NodeRow;
use crate::store::nodes::progress::Change;
use crate::store::work::{Lease, WorkKind, wake};
use crate::worker::WorkError;
use crate::worker::labels;
use crate::worker::timeline::{NodeEvent, record_cluster};

impl ClusterWorker {
    pub(super) async fn check_api(
        &self,
        lease: &Lease,
        loaded: &Loaded,
    ) -> Result<Done, WorkError> {
        let client = self.context.cluster_client(&loaded.cluster).await?;
        let wait = Done::Wait(self.context.settings.busy_period);
        match self.context.call(lease, "check api", client.health()).await? {
            Ok(Health::Ready) => {}
            Ok(Health::NotReady { message }) => {
                tracing::debug!(cluster.name = %loaded.cluster.name, message, "API is not ready");
                return Ok(wait);
            }
            // Nothing listens there yet: that is what we wait for.
            Err(error) if matches!(error.kind, OutsideKind::Transient | OutsideKind::Busy) => {
                return Ok(wait);
            }
            Err(error) => return Err(error.into()),
        }
        let now = self.context.now();
        let cluster = &loaded.cluster;
        let mut tx = self.context.fenced(lease).await?;
        cluster_progress::write(&mut tx, cluster.id, ClusterChange::ApiReached, now).await?;
        let event = NodeEvent::new(
            EventType::Normal,
            "ApiReached",
            format!("the API of cluster {} answers", cluster.name),
        );
        record_cluster(&mut tx, cluster, event, now).await?;
        wake(&mut tx, WorkKind::ObserveNodes, cluster.id, now).await?;
        tx.commit().await?;
        Ok(Done::Progress)
    }

    pub(super) async fn apply_base(
        &self,
        lease: &Lease,
        loaded: &Loaded,
    ) -> Result<Done, WorkError> {
        let client = self.context.cluster_client(&loaded.cluster).await?;
        let apply = client.apply_manifest(&loaded.cluster.offering.cni_manifest);
        self.context.call(lease, "apply base", apply).await??;
        let mut tx = self.context.fenced(lease).await?;
        let change = ClusterChange::BaseApplied;
        cluster_progress::write(&mut tx, loaded.cluster.id, change, self.context.now()).await?;
        tx.commit().await?;
        Ok(Done::Progress)
    }

    pub(super) async fn ensure_token(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        row: &NodeRow,
    ) -> Result<Done, WorkError> {
        let client = self.context.cluster_client(&loaded.cluster).await?;
        let (token, _) = self.secrets(row)?;
        // As long as the server may take, twice: a server that is late may still join, and a
        // retry of the build uses the same token.
        let life = self.context.settings.join_deadline * 2;
        let until = self.context.now() + jiff::SignedDuration::try_from(life).unwrap_or_default();
        let about = format!("zcp node {}", row.node.name);
        self.write(lease, &row.node, Change::Token(Outside::Unknown)).await?;
        let ensure = client.ensure_bootstrap_token(&token, until, &about);
        self.context.call(lease, "ensure token", ensure).await??;
        self.write(lease, &row.node, Change::TokenMade(until)).await?;
        Ok(Done::Progress)
    }

    pub(super) async fn revoke_token(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        row: &NodeRow,
    ) -> Result<Done, WorkError> {
        let client = self.context.cluster_client(&loaded.cluster).await?;
        let (token, _) = self.secrets(row)?;
        self.context
            .call(lease, "revoke token", client.delete_bootstrap_token(token.id()))
            .await??;
        self.write(lease, &row.node, Change::Token(Outside::Gone)).await?;
        Ok(Done::Progress)
    }

    pub(super) async fn lift_cordon(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        row: &NodeRow,
    ) -> Result<Done, WorkError> {
        let (Some(uid), Some(mark)) = (&row.object_uid, &row.node.kubelet.cordon_mark) else {
            return Ok(Done::Wait(Duration::from_secs(5)));
        };
        let client = self.context.cluster_client(&loaded.cluster).await?;
        let node = NodeRef { name: row.node.name.clone(), uid: uid.clone() };
        let lift = client.uncordon(&node, mark);
        absent_is_done(self.context.call(lease, "lift cordon", lift).await?.map(|_| ()))?;
        self.write(lease, &row.node, Change::CordonLifted).await?;
        Ok(Done::Progress)
    }

    /// Puts on a node what owners had put on the one in whose place it stands.
    pub(super) async fn carry_ledger(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        row: &NodeRow,
    ) -> Result<Done, WorkError> {
        let (Some(uid), Some(ledger)) = (&row.object_uid, &row.heritage) else {
            return Ok(Done::Wait(Duration::from_secs(5)));
        };
        let client = self.context.cluster_client(&loaded.cluster).await?;
        let node = NodeRef { name: row.node.name.clone(), uid: uid.clone() };
        let carry = client.carry_ledger(&node, ledger);
        self.context.call(lease, "carry ledger", carry).await??;
        let mut tx = self.context.fenced(lease).await?;
        let now = self.context.now();
        let change = Change::Carried(ledger.clone());
        crate::store::nodes::progress::write(&mut tx, row.node.id, change, now).await?;
        wake(&mut tx, WorkKind::ObserveNodes, loaded.cluster.id, now).await?;
        tx.commit().await?;
        Ok(Done::Progress)
    }

    pub(super) async fn apply_labels(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        row: &NodeRow,
    ) -> Result<Done, WorkError> {
        let Some(uid) = &row.object_uid else { return Ok(Done::Wait(Duration::from_secs(5))) };
        let client = self.context.cluster_client(&loaded.cluster).await?;
        let node = NodeRef { name: row.node.name.clone(), uid: uid.clone() };
        let pool = loaded.pool(&row.node);
        let labels = labels::wanted(row, pool);
        let taints = pool.map_or(&[][..], |pool| &pool.taints);
        let is_kept = labels::is_kept(row, loaded.migration.as_ref());
        let apply = async {
            client.apply_labels_taints(&node, &labels, taints).await?;
            if is_kept {
                client.keep_from_autoscaler(&node).await
            } else {
                client.leave_to_autoscaler(&node).await
            }
        };
        self.context.call(lease, "apply labels", Box::pin(apply)).await??;
        let mut tx = self.context.fenced(lease).await?;
        let now = self.context.now();
        crate::store::nodes::progress::write(&mut tx, row.node.id, Change::Labelled, now).await?;
        // Usable is judged by a list; this one is worth a new list at once.
        wake(&mut tx, WorkKind::ObserveNodes, loaded.cluster.id, now).await?;
        tx.commit().await?;
        Ok(Done::Progress)
    }
}
