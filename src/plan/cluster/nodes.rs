//! The steps of one node, on its way in and on its way out.

use super::{Planner, Step};
use crate::domain::inventory::ServerStatus;
use crate::domain::migration::Phase;
use crate::domain::node::{Desired, Drain, Node, Outside, Role};

impl Planner<'_> {
    pub(super) fn node(&mut self, node: &Node) {
        if self.plan.steps.iter().any(|planned| planned.step == Step::Dismiss(node.id)) {
            return;
        }
        if node.desired == Desired::Absent {
            self.going(node);
        } else if node.role == Role::Canary {
            self.coming_canary(node);
        } else if let Some(trouble) = self.lost(node) {
            let is_there = node.server == Outside::Present && Self::broken(node).is_none();
            let step = if is_there { Step::FailNode(node.id) } else { Step::Replace(node.id) };
            self.plan.step(step, trouble);
        } else if !self.ailing(node) {
            self.coming(node);
        }
    }

    /// Why a node that is wanted can never serve, if so.
    fn lost(&self, node: &Node) -> Option<String> {
        // A member that took part in etcd is not replaced behind its owner's back.
        if node.role == Role::ControlPlane && self.snapshot.cluster.has_api {
            return None;
        }
        if let Some(why) = Self::broken(node) {
            return Some(why);
        }
        let since = node.server_intent_at.filter(|_| node.usable_at.is_none())?;
        // Of a cloud that does not answer nothing is known, and nothing can be made there.
        if !self.snapshot.clouds.get(&node.cloud_id).is_some_and(|cloud| cloud.is_ready) {
            return None;
        }
        (self.snapshot.now > since + self.snapshot.join_deadline).then(|| {
            format!(
                "not usable {} s after its server was ordered",
                self.snapshot.join_deadline.as_secs()
            )
        })
    }

    /// Why a server can never become a node, if so.
    pub(super) fn broken(node: &Node) -> Option<String> {
        if node.server == Outside::Gone {
            return Some("its server is gone".to_owned());
        }
        if node.server_status == Some(ServerStatus::Error) {
            let fault = node.server_fault.as_deref().unwrap_or("no fault given");
            return Some(format!("its server is in ERROR: {fault}"));
        }
        None
    }

    /// The next step of a node on its way in.
    pub(super) fn coming(&mut self, node: &Node) {
        if node.server == Outside::Present {
            return self.joining(node);
        }
        if self.is_on_the_way_back(node) {
            return;
        }
        if node.not_before.is_some_and(|at| at > self.snapshot.now) {
            let why = node.trouble.as_deref().unwrap_or("backing off");
            self.plan.wait(format!("{}: {why}", node.name));
            return;
        }
        if node.role.joins() && !self.snapshot.cluster.has_api {
            self.plan.wait("workers wait for the API server");
            return;
        }
        if !self.cloud_is_ready(node.cloud_id) || self.hides_servers(node) || self.asks_later(node)
        {
            return;
        }
        if node.port != Outside::Present {
            self.plan.step(Step::EnsurePort(node.id), format!("{} has no port", node.name));
        } else if self.may_boot(node) {
            let why = match node.server {
                Outside::Unknown => "may have a server that was not recorded",
                _ => "has a port and no server",
            };
            self.plan.step(Step::EnsureServer(node.id), format!("{} {why}", node.name));
        }
    }

    /// Whether a rollback is about to dismiss the node: no server is made for it any more.
    fn is_on_the_way_back(&self, node: &Node) -> bool {
        self.snapshot.migration.as_ref().is_some_and(|migration| {
            (migration.wants_rollback || migration.phase == Phase::RollingBack)
                && node.cloud_id == migration.target
                && node.pool_id.is_some_and(|pool| migration.pools.contains(&pool))
        })
    }

    /// Whether all that a server needs before it boots is there; plans what is missing.
    fn may_boot(&mut self, node: &Node) -> bool {
        let group = self.snapshot.groups.iter().find(|g| {
            node.role != Role::Canary
                && g.cloud == node.cloud_id
                && g.pool == node.pool_id
                && g.state != Outside::Present
                && g.nodes > 0
        });
        if let Some(group) = group {
            let step = Step::EnsureGroup(group.id);
            if !self.plan.steps.iter().any(|p| p.step == step) {
                self.plan.step(step, "its first server is about to be made");
            }
            return false;
        }
        match node.role {
            Role::Worker | Role::Canary
                if node.token != Outside::Present || self.token_ends(node) =>
            {
                let why = format!("{} has no bootstrap token that lasts", node.name);
                self.plan.step(Step::EnsureToken(node.id), why);
                false
            }
            Role::Worker | Role::Canary => true,
            Role::ControlPlane => self.member_may_boot(node),
        }
    }

    fn member_may_boot(&mut self, node: &Node) -> bool {
        let wanted = usize::from(self.snapshot.cluster.members);
        let is_addressed = self.snapshot.cluster.vip_port == Outside::Present
            && self.members().filter(|n| n.port == Outside::Present).count() == wanted;
        if !is_addressed {
            self.plan.wait("control-plane servers wait until every address is known");
            return false;
        }
        if node.member != Some(0) && !self.snapshot.cluster.has_api {
            self.plan.wait("further control-plane members wait for the first");
            return false;
        }
        let has_token = node.token == Outside::Present && !self.token_ends(node);
        if node.member != Some(0) && !has_token {
            let why = format!("{} has no bootstrap token", node.name);
            self.plan.step(Step::EnsureToken(node.id), why);
            return false;
        }
        true
    }

    /// A node whose server is there.
    fn joining(&mut self, node: &Node) {
        if node.token == Outside::Present
            && node.object != Outside::Present
            && self.token_ends(node)
        {
            let why = format!("the bootstrap token of {} is about to end", node.name);
            self.plan.step(Step::EnsureToken(node.id), why);
        }
        if node.server_missing_since.is_some() || is_shown_gone(node) {
            let why = format!("lists do not show the server of {}", node.name);
            self.plan.step(Step::ConfirmServer(node.id), why);
        }
        if let Some(what) = node.lacks() {
            self.plan.step(Step::ApplyLabels(node.id), format!("{} lacks {what}", node.name));
        }
        let is_known = node.object == Outside::Present && node.kubelet.is_ours;
        if is_known && node.lineage.needs_carry {
            let why = format!("{} lacks what owners put on its predecessor", node.name);
            self.plan.step(Step::CarryLedger(node.id), why);
        }
        if node.drain == Drain::Idle && node.kubelet.cordon_mark.is_some() {
            let why = format!("{} bears a cordon of ours that nobody wants", node.name);
            self.plan.step(Step::LiftCordon(node.id), why);
        }
        if node.token.may_exist() && node.object == Outside::Present && node.kubelet.is_ready {
            let why = format!("{} has joined", node.name);
            self.plan.step(Step::RevokeToken(node.id), why);
        }
        if !node.is_usable() {
            self.plan.wait(format!("{} is {:?}", node.name, node.stage()).to_lowercase());
        }
    }

    /// A node on its way out.
    fn going(&mut self, node: &Node) {
        if self.must_drain(node) {
            self.plan.step(Step::DrainNode(node.id), format!("{} is not wanted", node.name));
        } else if node.server == Outside::Deleting
            && (node.server_missing_since.is_some() || is_shown_gone(node))
        {
            let why = format!("lists do not show the server of {} any more", node.name);
            self.plan.step(Step::ConfirmServer(node.id), why);
        } else if node.lives_on() && node.not_before.is_some_and(|at| at > self.snapshot.now) {
            let why = node.trouble.as_deref().unwrap_or("its cloud refuses to delete its server");
            self.plan.wait(format!("{}: {why}", node.name));
        } else if node.lives_on() {
            let why = format!("the server of {} lives though it was to be deleted", node.name);
            self.plan.step(Step::DeleteServer(node.id), why);
        } else if let Some(why) = self.stuck(node) {
            self.plan.step(Step::DeleteServer(node.id), why);
        } else if node.server == Outside::Deleting {
            self.plan.wait(format!("the server of {} is being deleted", node.name));
        } else if node.server.may_exist() {
            let why = format!("{} is not wanted", node.name);
            self.plan.step(Step::DeleteServer(node.id), why);
        } else if node.port.may_exist() {
            let why = format!("the server of {} is gone", node.name);
            self.plan.step(Step::DeletePort(node.id), why);
        } else {
            self.forget(node);
        }
    }

    /// Whether pods must leave a node before its server is deleted. Not when the whole cluster
    /// goes, nor when its kubelet is silent: nothing would ever leave it then.
    fn must_drain(&self, node: &Node) -> bool {
        self.snapshot.cluster.desired == Desired::Present
            && node.role == Role::Worker
            && node.server == Outside::Present
            && node.object == Outside::Present
            && node.kubelet.is_ready
            && !matches!(node.drain, Drain::Drained | Drain::Skipped)
    }

    /// What a node leaves inside the cluster, when nothing of it is left outside.
    fn forget(&mut self, node: &Node) {
        let cluster_goes = self.snapshot.cluster.desired == Desired::Absent;
        if cluster_goes || !self.snapshot.cluster.has_api {
            self.plan.step(Step::CloseNode(node.id), format!("nothing of {} is left", node.name));
        } else if node.token.may_exist() {
            self.plan.step(Step::RevokeToken(node.id), format!("{} is gone", node.name));
        } else if node.object.may_exist() {
            self.plan
                .step(Step::DeleteObject(node.id), format!("the server of {} is gone", node.name));
        } else {
            self.plan.step(Step::CloseNode(node.id), format!("nothing of {} is left", node.name));
        }
    }
}

/// Whether lists show the server as one that is gone, though not for its cloud's books: a cloud
/// may keep what was deleted for some days.
fn is_shown_gone(node: &Node) -> bool {
    node.server_status.as_ref().is_some_and(ServerStatus::is_gone)
}
