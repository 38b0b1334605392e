//! What helps a node that served and does not any more, and when it is better not to help.
//!
//! A server that has stopped is started once. A node that is not Ready for [`UNREADY`] is replaced,
//! few at a time. Nobody is replaced on hearsay: the cluster's API and the cloud must have been
//! heard lately, and when many nodes fall silent together, the fault is not theirs.

use jiff::SignedDuration;

use super::{Planner, Step};
use crate::domain::inventory::ServerStatus;
use crate::domain::migration::Phase;
use crate::domain::node::{Desired, Drain, Node, Outside, Role};

/// How long a node may be not Ready before it is replaced: Machine Controller Manager's health
/// time-out. A reboot, a new kernel included, takes less.
const UNREADY: SignedDuration = SignedDuration::from_mins(10);
/// Time after which a server that stopped again is started again.
const START_AGAIN: SignedDuration = SignedDuration::from_hours(1);
/// What was not heard of for so long is not known to be well.
const HEARD: SignedDuration = SignedDuration::from_mins(5);
/// How long a server may be under deletion before it is deleted again and somebody must look.
pub const STUCK: SignedDuration = SignedDuration::from_mins(15);
/// How long lists that hid a server are not believed.
const HIDDEN: SignedDuration = SignedDuration::from_mins(5);
/// One of so many nodes of a pool is replaced at a time: 20 %.
const ONE_IN: u32 = 5;

impl Planner<'_> {
    /// Plans what helps a node that served. Says whether that is all there is to do for it.
    pub(super) fn ailing(&mut self, node: &Node) -> bool {
        if node.role != Role::Worker
            || node.usable_at.is_none()
            || node.server != Outside::Present
            || node.drain != Drain::Idle
            || self.is_left_to_a_migration(node)
        {
            return false;
        }
        let now = self.snapshot.now;
        let was_started = node.signs.started_at.is_some_and(|at| now < at + START_AGAIN);
        if node.server_status == Some(ServerStatus::Shutoff)
            && !was_started
            && self.cloud_is_ready(node.cloud_id)
        {
            let why = format!("the server of {} has stopped", node.name);
            self.plan.step(Step::StartServer(node.id), why);
            return false;
        }
        match node.signs.unready_since {
            Some(since) if now >= since + UNREADY => self.replace(node),
            _ => false,
        }
    }

    fn replace(&mut self, node: &Node) -> bool {
        let not_now = self.is_unheard(node).or_else(|| self.is_epidemic(node));
        let not_now = not_now.or_else(|| self.is_enough(node));
        if let Some(why) = not_now {
            self.plan.wait(format!("{} is not Ready and not replaced: {why}", node.name));
            return false;
        }
        let why = format!("not Ready for {} minutes", UNREADY.as_mins());
        self.plan.step(Step::Replace(node.id), why);
        true
    }

    fn is_unheard(&self, node: &Node) -> Option<String> {
        let heard =
            |at: Option<jiff::Timestamp>| at.is_some_and(|at| self.snapshot.now < at + HEARD);
        if !heard(self.snapshot.cluster.listed_at) {
            return Some("the cluster's API was not heard lately".to_owned());
        }
        match self.snapshot.clouds.get(&node.cloud_id) {
            Some(cloud) if cloud.is_ready && heard(cloud.listed_at) => None,
            _ => Some("its cloud is not well".to_owned()),
        }
    }

    fn of_pool<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = &'a Node> {
        self.snapshot.nodes.iter().filter(move |other| other.pool_id == node.pool_id)
    }

    fn is_epidemic(&self, node: &Node) -> Option<String> {
        let present = || self.of_pool(node).filter(|other| other.desired == Desired::Present);
        let sick = present().filter(|other| other.signs.unready_since.is_some()).count();
        let all = present().count();
        (sick >= 3 && sick * 2 > all)
            .then(|| format!("{sick} of {all} nodes of its pool are not; the fault is another"))
    }

    fn is_enough(&self, node: &Node) -> Option<String> {
        let pool = self.snapshot.pools.iter().find(|pool| Some(pool.id) == node.pool_id)?;
        let most = (pool.count / ONE_IN).max(1) as usize;
        let is_planned = |other: &Node| {
            self.plan.steps.iter().any(|planned| planned.step == Step::Replace(other.id))
        };
        let under_way = self
            .of_pool(node)
            .filter(|other| match other.desired {
                Desired::Absent => other.may_exist() && other.trouble.is_some(),
                Desired::Present => other.usable_at.is_none() || is_planned(other),
            })
            .count();
        (under_way >= most).then(|| format!("{most} of its pool are replaced at a time"))
    }

    /// Whether a migration decides about the node: it is drained or given back soon, or nothing is
    /// made anew on its side any more.
    fn is_left_to_a_migration(&self, node: &Node) -> bool {
        let Some(migration) = &self.snapshot.migration else { return false };
        if !node.pool_id.is_some_and(|pool| migration.pools.contains(&pool)) {
            return false;
        }
        let is_source = node.cloud_id == migration.source;
        match migration.phase {
            _ if migration.paused.is_some() || migration.wants_rollback => true,
            Phase::RollingBack => true,
            Phase::Holding | Phase::Committing => is_source,
            Phase::Provisioning | Phase::Draining | Phase::Soaking | Phase::Approval => {
                is_source && migration.wave_of(node.id) <= migration.wave
            }
            _ => false,
        }
    }

    /// Whether lists of the node's cloud hide servers that exist. What was made there may be hidden
    /// too, so nothing is made as long as they cannot be believed.
    pub(super) fn hides_servers(&mut self, node: &Node) -> bool {
        let now = self.snapshot.now;
        let hidden = self.snapshot.nodes.iter().find(|other| {
            other.cloud_id == node.cloud_id
                && other.server == Outside::Present
                && (other.server_missing_since.is_some()
                    || other.signs.hidden_at.is_some_and(|at| now < at + HIDDEN))
        });
        let Some(hidden) = hidden else { return false };
        let why = format!("{}: lists of its cloud do not show {}", node.name, hidden.name);
        self.plan.wait(why);
        true
    }

    /// Whether another node of the pool asks first if its cloud has room again. A cloud that is
    /// full is asked by one.
    pub(super) fn asks_later(&mut self, node: &Node) -> bool {
        let is_refused = |other: &&Node| {
            other.pool_id == node.pool_id
                && other.cloud_id == node.cloud_id
                && other.desired == Desired::Present
                && other.server == Outside::Never
                && other.not_before.is_some()
                && other.trouble.is_some()
        };
        let first = self.snapshot.nodes.iter().filter(is_refused).min_by_key(|other| other.id);
        match first {
            Some(first) if first.id != node.id => {
                let trouble = first.trouble.as_deref().unwrap_or_default();
                self.plan.wait(format!("{} waits for {}: {trouble}", node.name, first.name));
                true
            }
            _ => false,
        }
    }

    /// Whether a bootstrap token may end before its server has joined.
    pub(super) fn token_ends(&self, node: &Node) -> bool {
        let needed = self.snapshot.now + self.snapshot.join_deadline;
        node.signs.token_until.is_some_and(|until| until < needed)
    }

    /// Why a server must be deleted once more, if so.
    pub(super) fn stuck(&self, node: &Node) -> Option<String> {
        let (since, sent) = (node.signs.deleting_since?, node.signs.delete_sent_at?);
        let now = self.snapshot.now;
        let is_stuck = node.server == Outside::Deleting && now >= since + STUCK;
        (is_stuck && now >= sent + STUCK).then(|| {
            let minutes = now.duration_since(since).as_mins();
            format!("the server of {} is still there {minutes} min after its deletion", node.name)
        })
    }
}
