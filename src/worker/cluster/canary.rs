//! Steps of canaries: their node, what they and their peer report, and how they end.
//!
//! The peer is one usable node on the source. A pod of ours on it tries the way back; it is named
//! after the canary's node, so that a repeated call finds the first one's, it ends by itself after
//! two minutes, and it is deleted whatever comes of it.

use jiff::SignedDuration;

use super::load::Loaded;
use super::{ClusterWorker, Done};
use crate::bootstrap::probe::PROBE;
use crate::bootstrap::tokens;
use crate::domain::canary::{Check, KUBELET, Outcome, REPORT, Report, Targets, keep_console};
use crate::domain::ids::NodeId;
use crate::domain::node::{Outside, Role};
use crate::domain::node_view::NodeRef;
use crate::domain::outside::absent_is_done;
use crate::kubernetes::probe::{ProbePod, ProbeState};
use crate::store::canaries::{self, CanaryRow, Change};
use crate::store::events::EventType;
use crate::store::nodes::progress::{self, Change as NodeChange};
use crate::store::nodes::{self, NewNodeRow, NodeRow};
use crate::store::work::{Lease, WorkKind, wake};
use crate::worker::WorkError;
use crate::worker::timeline::{NodeEvent, record_node};

/// How long a canary that joined and its peer may take to tell all they can. The slowest round of
/// a probe is 30 s, and a pod's image may have to be pulled.
const PROBE_PATIENCE: SignedDuration = SignedDuration::from_mins(4);
/// Lines of a console that are asked for.
const CONSOLE_LINES: u32 = 300;

impl ClusterWorker {
    pub(super) async fn add_canary(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        canary: &CanaryRow,
    ) -> Result<Done, WorkError> {
        let context = &self.context;
        let id = NodeId(context.ids.uuid());
        let (cloud, account) = loaded.cloud(canary.place.cloud_id)?;
        let name = tokens::node_name(context.ids.as_ref(), &loaded.cluster.name, "canary");
        let row = NewNodeRow {
            id,
            cluster_id: loaded.cluster.id,
            pool_id: None,
            role: Role::Canary,
            cloud_id: cloud.id,
            account_id: account.id,
            member: None,
            name: name.clone(),
            flavor: canary.place.flavor.clone(),
            zone: canary.zone.clone().or_else(|| cloud.spec.defaults.zone.clone()),
            network: Some(canary.place.network_id.clone()),
            security_group: canary.security_group.clone(),
            image: Some(canary.place.image_id.clone()),
            job_id: None,
            group_id: None,
            attempt: 0,
            not_before: None,
            trouble: None,
            secret: self.seal_secrets(id, None)?,
            bundle_token_hash: None,
            created_at: context.now(),
        };
        let peer = peer(loaded, canary).map(|row| row.node.id);
        let now = context.now();
        let mut tx = context.fenced(lease).await?;
        nodes::insert(&mut tx, row).await?;
        canaries::write(&mut tx, canary.id, Change::Node(id, peer), now).await?;
        let said = format!("{name} is to try cloud {}", cloud.name);
        let event = NodeEvent::new(EventType::Normal, "CanaryWanted", said);
        record_node(&mut tx, (&loaded.cluster, id), event, now).await?;
        tx.commit().await?;
        Ok(Done::Progress)
    }

    /// One look at a canary that has joined: what it says, whether its kubelet is reached, what
    /// its peer says.
    pub(super) async fn probe(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        canary: &CanaryRow,
    ) -> Result<Done, WorkError> {
        let Some(since) = canary.probe_since else {
            return self.write_canary(lease, canary, Change::ProbeBegins).await;
        };
        let row = canary_node(loaded, canary)?;
        let client = self.context.cluster_client(&loaded.cluster).await?;
        if canary.kubelet.is_none() {
            let ask = client.reach_kubelet(&row.node.name);
            let check = self.context.call(lease, "ask kubelet", ask).await??;
            return self.write_canary(lease, canary, Change::Kubelet(check)).await;
        }
        let read = client.node(&row.node.name);
        let node = self.context.call(lease, "read canary", read).await??;
        let said = node.and_then(|node| Report::read(node.annotations.get(REPORT)?));
        let is_late = self.context.now().duration_since(since) > PROBE_PATIENCE;
        let peer = canary.peer_id.and_then(|id| loaded.node(id).ok());
        if let Some(peer) = peer.filter(|_| canary.peer_report.is_none() && !is_late) {
            let round = said.as_ref().map_or(0, |report| report.round);
            return self.ask_peer(lease, loaded, (canary, row, peer, round)).await;
        }
        // What the canary heard of its peer is in the round after the one in which it was done.
        let is_told = said.as_ref().is_some_and(|said| said.round > canary.round.unwrap_or(0) + 1);
        if !is_told && !is_late {
            return Ok(Done::Wait(self.context.settings.busy_period));
        }
        let report = Box::new(said.unwrap_or_default());
        self.dismiss_canary(lease, loaded, (canary, Change::Reported(report))).await
    }

    /// The pod on the peer: made, waited for, read.
    async fn ask_peer(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        (canary, row, peer, round): (&CanaryRow, &NodeRow, &NodeRow, u32),
    ) -> Result<Done, WorkError> {
        let client = self.context.cluster_client(&loaded.cluster).await?;
        if canary.probe != Outside::Present {
            self.write_canary(lease, canary, Change::Probe(Outside::Unknown)).await?;
            let targets = Targets {
                from: peer.node.address.clone().unwrap_or_default(),
                peer: row.node.address.clone().unwrap_or_default(),
                ports: ports(loaded),
                ..Targets::default()
            };
            let uid = row.object_uid.clone().unwrap_or_default();
            let owner = NodeRef { name: row.node.name.clone(), uid };
            let pod = ProbePod {
                canary: row.node.id,
                owner: &owner,
                node: &peer.node.name,
                image: &self.context.settings.canary.probe_image,
                script: PROBE,
                targets: &targets,
            };
            let ensure = client.ensure_probe(&pod);
            self.context.call(lease, "ensure probe", ensure).await??;
            return self.write_canary(lease, canary, Change::Probe(Outside::Present)).await;
        }
        let state = self.context.call(lease, "read probe", client.probe(row.node.id)).await??;
        let report = match state {
            Some(ProbeState::Waiting) => {
                return Ok(Done::Wait(self.context.settings.busy_period));
            }
            Some(ProbeState::Done(message)) => Report::read(&message),
            None => None,
        };
        let report = report.unwrap_or_else(|| {
            let detail = "the pod on the old node told nothing".to_owned();
            let check = Check { what: "probe".to_owned(), ok: false, detail };
            Report { checks: vec![check], ..Report::default() }
        });
        self.write_canary(lease, canary, Change::PeerDone(Box::new(report), round)).await
    }

    /// A canary that did not join: its console says why, if anything does.
    pub(super) async fn fail_canary(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        (canary, why): (&CanaryRow, &str),
    ) -> Result<Done, WorkError> {
        let mut console = None;
        let mut reason = why.to_owned();
        if let Ok(row) = canary_node(loaded, canary) {
            if let Some(trouble) = &row.node.trouble {
                reason = format!("{why}: {trouble}");
            }
            console = self.console(lease, loaded, row).await?;
        }
        let change = Change::CannotJoin(reason, console);
        self.dismiss_canary(lease, loaded, (canary, change)).await
    }

    /// A server that did not become a node in time: its console says the likely cause.
    pub(super) async fn fail_node(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        (row, why): (&NodeRow, &str),
    ) -> Result<Done, WorkError> {
        let console = self.console(lease, loaded, row).await?.unwrap_or_default();
        let cause = likely_cause(&console).unwrap_or("its console is not known");
        let trouble = format!("{why}; {cause}");
        let now = self.context.now();
        let said = format!("{}: {trouble}", row.node.name);
        let mut tx = self.context.fenced(lease).await?;
        progress::write(&mut tx, row.node.id, NodeChange::Lost(trouble), now).await?;
        let event = NodeEvent::new(EventType::Warning, "NodeFailed", said);
        record_node(&mut tx, (&loaded.cluster, row.node.id), event, now).await?;
        tx.commit().await?;
        Ok(Done::Progress)
    }

    /// The end of a server's console, without secrets; none if its cloud does not tell.
    pub(super) async fn console(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        row: &NodeRow,
    ) -> Result<Option<String>, WorkError> {
        let Some(server) = &row.node.server_id else { return Ok(None) };
        let client = loaded.client(&self.context, row.node.cloud_id)?;
        let read = client.console_output(server, CONSOLE_LINES);
        let log = self.context.call(lease, "read console", read).await?;
        Ok(log.ok().map(|log| keep_console(&log)).filter(|log| !log.is_empty()))
    }

    /// Nobody waits for it any more.
    pub(super) async fn end_canary(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        (canary, outcome): (&CanaryRow, Outcome),
    ) -> Result<Done, WorkError> {
        let change = match outcome {
            Outcome::GivenUp => Change::GivenUp,
            Outcome::Reported => Change::Reported(Box::default()),
            Outcome::CannotJoin => Change::CannotJoin(String::new(), None),
        };
        self.dismiss_canary(lease, loaded, (canary, change)).await
    }

    /// Ends a canary: in one transaction its result is written, its node is not wanted any more,
    /// and whoever waits for it is woken.
    async fn dismiss_canary(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        (canary, change): (&CanaryRow, Change),
    ) -> Result<Done, WorkError> {
        let now = self.context.now();
        let (reason, said) = match &change {
            Change::Reported(_) => ("CanaryReported", "it told what it reaches".to_owned()),
            Change::CannotJoin(why, _) => ("CanaryFailed", format!("it did not join: {why}")),
            _ => ("CanaryGivenUp", "nobody waits for it any more".to_owned()),
        };
        let mut tx = self.context.fenced(lease).await?;
        canaries::write(&mut tx, canary.id, change, now).await?;
        if let Ok(row) = canary_node(loaded, canary) {
            let dismiss = NodeChange::Dismiss("its canary is over".to_owned());
            progress::write(&mut tx, row.node.id, dismiss, now).await?;
            let event = NodeEvent::new(EventType::Normal, reason, said);
            record_node(&mut tx, (&loaded.cluster, row.node.id), event, now).await?;
        }
        if let Some(job) = canary.job_id {
            wake(&mut tx, WorkKind::Preflight, job, now).await?;
        }
        tx.commit().await?;
        Ok(Done::Progress)
    }

    pub(super) async fn delete_probe(
        &self,
        lease: &Lease,
        loaded: &Loaded,
        canary: &CanaryRow,
    ) -> Result<Done, WorkError> {
        if let Some(node) = canary.node_id {
            let client = self.context.cluster_client(&loaded.cluster).await?;
            let delete = client.delete_probe(node);
            absent_is_done(self.context.call(lease, "delete probe", delete).await?)?;
        }
        self.write_canary(lease, canary, Change::Probe(Outside::Gone)).await
    }

    async fn write_canary(
        &self,
        lease: &Lease,
        canary: &CanaryRow,
        change: Change,
    ) -> Result<Done, WorkError> {
        let mut tx = self.context.fenced(lease).await?;
        canaries::write(&mut tx, canary.id, change, self.context.now()).await?;
        tx.commit().await?;
        Ok(Done::Progress)
    }

    /// What a canary is told to try.
    pub(super) fn canary_targets(&self, loaded: &Loaded, row: &NodeRow) -> Targets {
        let canary = loaded.canaries.iter().find(|one| one.node_id == Some(row.node.id));
        let peer = canary.and_then(|one| loaded.node(one.peer_id?).ok());
        let settings = &self.context.settings.canary;
        let vip = loaded.cluster.vip_address.clone().unwrap_or_default();
        Targets {
            from: row.node.address.clone().unwrap_or_default(),
            peer: peer.and_then(|row| row.node.address.clone()).unwrap_or_default(),
            ports: ports(loaded),
            api: format!("{vip}:6443"),
            registry: settings.registry.clone(),
            names: settings.names.clone(),
            time: settings.time.clone(),
        }
    }
}

/// The line of a console that says best why a boot failed: what the boot script said last, else
/// the last line of all.
fn likely_cause(console: &str) -> Option<&str> {
    let lines = || console.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    let mut said = lines().filter(|line| line.contains("zcp: ") && !line.contains("zcp: probe: {"));
    said.find(|line| line.contains("failed") || line.contains("again")).or_else(|| lines().next())
}

/// The old node that tries the way back: any that is usable, always the same.
fn peer<'a>(loaded: &'a Loaded, canary: &CanaryRow) -> Option<&'a NodeRow> {
    loaded.nodes.iter().find(|row| {
        row.node.role == Role::Worker
            && row.node.cloud_id == canary.place.source_cloud_id
            && row.node.is_usable()
    })
}

fn canary_node<'a>(loaded: &'a Loaded, canary: &CanaryRow) -> Result<&'a NodeRow, WorkError> {
    let id = canary.node_id.ok_or_else(|| WorkError::internal("a canary has no node yet"))?;
    loaded.node(id)
}

/// Ports that nodes must reach of each other.
fn ports(loaded: &Loaded) -> Vec<crate::domain::canary::PortSpec> {
    let mut ports = vec![KUBELET];
    ports.extend(loaded.cluster.offering.cni_ports.iter().copied());
    ports.dedup();
    ports
}
