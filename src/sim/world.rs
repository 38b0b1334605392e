//! The simulated world: its clouds, its clusters, and its time.
//!
//! Nothing happens by itself. [`World::advance`] carries out, in order of time, everything that is
//! due up to the present of the injected clock; every request does that first, so a test only moves
//! its clock. What happens inside servers may need an answer from outside (a control-plane server
//! fetches its bundle), which a request cannot wait for: [`World::tick`] advances and then makes
//! those calls. Tests and the ticker of a served simulation call it; after a call that changed
//! something it may be called again at once, until [`World::tick`] says that nothing was done.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use futures::StreamExt as _;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::cloud::Cloud;
use super::guest::Guests;
use super::kubernetes::KubeCluster;
use super::node_facing::NodeFacing;
use super::openstack;
use super::reach::Reach;
use super::settings::{CloudSettings, WorldSettings};
use crate::clock::SharedClock;

/// Calls of guests that are made at a time.
const FETCHES_AT_A_TIME: usize = 16;

/// A simulated world.
#[derive(Debug)]
pub struct World {
    clock: SharedClock,
    state: Mutex<State>,
    node_facing: Mutex<NodeFacing>,
    /// Held while guests make calls, so that none makes the same call twice.
    calling: tokio::sync::Mutex<()>,
}

/// All that a world knows; what is stored when it is put away.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct State {
    pub now: Timestamp,
    pub clouds: BTreeMap<String, Cloud>,
    pub guests: Guests,
}

impl World {
    /// A new world at the clock's present. Guests reach nobody until [`World::set_node_facing`].
    pub fn new(settings: WorldSettings, clock: SharedClock) -> Arc<Self> {
        let now = clock.now();
        let found =
            |cloud: CloudSettings| (cloud.name.clone(), Cloud::found(cloud, settings.seed, now));
        let clouds = settings.clouds.iter().cloned().map(found).collect();
        let guests = Guests::new(settings.kubernetes, settings.seed);
        Self::of_state(State { now, clouds, guests }, clock)
    }

    /// The world of a snapshot. It goes on where it stopped: the time in between did not pass for
    /// what was under way, if the clock says so.
    pub fn restore(snapshot: &[u8], clock: SharedClock) -> Result<Arc<Self>, serde_json::Error> {
        Ok(Self::of_state(serde_json::from_slice(snapshot)?, clock))
    }

    /// The last moment that the world of a snapshot saw.
    pub fn present_of(snapshot: &[u8]) -> Result<Timestamp, serde_json::Error> {
        #[derive(Deserialize)]
        struct Present {
            now: Timestamp,
        }
        serde_json::from_slice(snapshot).map(|present: Present| present.now)
    }

    fn of_state(state: State, clock: SharedClock) -> Arc<Self> {
        Arc::new(Self {
            clock,
            state: Mutex::new(state),
            node_facing: Mutex::new(NodeFacing::nowhere()),
            calling: tokio::sync::Mutex::new(()),
        })
    }

    /// Everything, to be kept.
    pub fn snapshot(&self) -> Result<Vec<u8>, serde_json::Error> {
        self.advance();
        serde_json::to_vec(&*self.locked())
    }

    /// The last moment that the world saw.
    pub fn present(&self) -> Timestamp {
        self.locked().now
    }

    /// Says how guests reach the node listener from now on.
    pub fn set_node_facing(&self, node_facing: NodeFacing) {
        *self.node_facing.lock().unwrap_or_else(PoisonError::into_inner) = node_facing;
    }

    /// Carries out everything due up to the present.
    pub fn advance(&self) {
        self.locked().advance(self.clock.now());
    }

    /// Carries out everything due, then makes the calls that guests want to make. Says whether
    /// there were any.
    pub async fn tick(&self) -> bool {
        let _calling = self.calling.lock().await;
        let now = self.clock.now();
        let wanted = {
            let mut state = self.locked();
            state.advance(now);
            for cluster in state.guests.clusters.values() {
                cluster.kube.advance_to(now);
            }
            state.guests.wanted_fetches(&state.clouds, now)
        };
        if wanted.is_empty() {
            return false;
        }
        let facing = self.node_facing.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let calls = wanted.into_iter().map(|fetch| {
            let facing = facing.clone();
            async move { (fetch.server_id, facing.fetch(fetch).await) }
        });
        let answers: Vec<_> =
            futures::stream::iter(calls).buffered(FETCHES_AT_A_TIME).collect().await;
        let now = self.clock.now();
        let mut state = self.locked();
        let State { clouds, guests, .. } = &mut *state;
        for answer in answers {
            guests.fetched(clouds, answer, now);
        }
        state.advance(now);
        true
    }

    /// When something happens next by itself; guests that wait to make a call not counted.
    pub fn next_due(&self) -> Option<Timestamp> {
        let state = self.locked();
        let clouds = state.clouds.values().filter_map(|cloud| cloud.agenda.next_at());
        clouds.chain(state.guests.next_at()).min()
    }

    /// Names of the clouds.
    pub fn clouds(&self) -> Vec<String> {
        self.locked().clouds.keys().cloned().collect()
    }

    /// The API of a cloud: Keystone, Nova, Neutron, Glance and Placement under path prefixes.
    pub fn cloud_router(self: &Arc<Self>, cloud: &str) -> Router {
        openstack::router(Arc::clone(self), cloud)
    }

    /// Endpoints (`address:port`) of the clusters that exist, and whether each answers.
    pub fn endpoints(&self) -> BTreeMap<String, bool> {
        self.advance();
        let state = self.locked();
        let clusters = state.guests.clusters.iter();
        clusters.map(|(endpoint, cluster)| (endpoint.clone(), cluster.answers())).collect()
    }

    /// The API of the cluster at `endpoint` (`address:port`); None when nothing answers there, and
    /// the caller has no connection.
    pub fn kube_router(self: &Arc<Self>, endpoint: &str) -> Option<Router> {
        self.advance();
        let state = self.locked();
        let cluster = state.guests.clusters.get(endpoint)?;
        if !cluster.answers() {
            return None;
        }
        let world = Arc::clone(self);
        let first_advance = middleware::from_fn(move |request: Request, next: Next| {
            world.advance();
            next.run(request)
        });
        Some(cluster.kube.router(Arc::clone(&self.clock)).layer(first_advance))
    }

    /// The cluster at `endpoint`, whether it answers or not: for looking at it and for its faults.
    pub fn kube(&self, endpoint: &str) -> Option<Arc<KubeCluster>> {
        self.advance();
        self.locked().guests.clusters.get(endpoint).map(|cluster| Arc::clone(&cluster.kube))
    }

    /// Reads or changes a cloud at the present; None when there is no cloud of that name.
    pub fn with_cloud<R>(
        &self,
        cloud: &str,
        act: impl FnOnce(&mut Cloud, Timestamp) -> R,
    ) -> Option<R> {
        let now = self.clock.now();
        let mut state = self.locked();
        state.advance(now);
        let result = act(state.clouds.get_mut(cloud)?, now);
        state.settle(cloud, now);
        state.advance(now);
        Some(result)
    }

    /// Reads guests and clusters at the present.
    pub fn with_guests<R>(&self, look: impl FnOnce(&Guests) -> R) -> R {
        self.advance();
        look(&self.locked().guests)
    }

    /// Reads or changes what reaches what.
    pub fn with_reach<R>(&self, act: impl FnOnce(&mut Reach) -> R) -> R {
        self.advance();
        act(&mut self.locked().guests.reach)
    }

    pub(super) fn clock(&self) -> SharedClock {
        Arc::clone(&self.clock)
    }

    pub(super) fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Carries out everything due up to `now`, in order of time over all clouds and guests.
    fn advance(&mut self, now: Timestamp) {
        loop {
            let cloud = self.next_cloud();
            let guest = self.guests.next_at();
            let from_guests = match (&cloud, guest) {
                (None, None) => break,
                (Some((at, _)), Some(guest)) => guest < *at,
                (None, Some(_)) => true,
                (Some(_), None) => false,
            };
            let went_on = match cloud {
                Some((_, name)) if !from_guests => self.next_in_cloud(&name, now),
                _ => self.next_in_guests(now),
            };
            if !went_on {
                break;
            }
        }
        self.now = self.now.max(now);
    }

    fn next_in_cloud(&mut self, name: &str, now: Timestamp) -> bool {
        let Some(cloud) = self.clouds.get_mut(name) else { return false };
        let Some((at, event)) = cloud.agenda.take_due(now) else { return false };
        cloud.handle(event, at);
        self.settle(name, at);
        true
    }

    fn next_in_guests(&mut self, now: Timestamp) -> bool {
        let Some((at, event)) = self.guests.agenda.take_due(now) else { return false };
        self.guests.handle(&mut self.clouds, event, at);
        true
    }

    fn next_cloud(&self) -> Option<(Timestamp, String)> {
        let next = self
            .clouds
            .iter()
            .filter_map(|(name, cloud)| cloud.agenda.next_at().map(|at| (at, name)));
        next.min().map(|(at, name)| (at, name.clone()))
    }

    /// Tells guests what happened to their servers.
    fn settle(&mut self, cloud: &str, at: Timestamp) {
        let Some(cloud) = self.clouds.get_mut(cloud) else { return };
        for happening in std::mem::take(&mut cloud.happenings) {
            self.guests.notice(cloud, happening, at);
        }
    }
}
