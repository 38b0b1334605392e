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
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::cloud::Cloud;
use super::openstack;
use super::settings::WorldSettings;
use crate::clock::SharedClock;

/// A simulated world.
#[derive(Debug)]
pub struct World {
    clock: SharedClock,
    state: Mutex<State>,
}

/// All that a world knows; what is stored when it is put away.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct State {
    pub now: Timestamp,
    pub clouds: BTreeMap<String, Cloud>,
}

impl World {
    /// A new world at the clock's present.
    pub fn new(settings: WorldSettings, clock: SharedClock) -> Arc<Self> {
        let now = clock.now();
        let found = |cloud: super::settings::CloudSettings| {
            (cloud.name.clone(), Cloud::found(cloud, settings.seed, now))
        };
        let clouds = settings.clouds.iter().cloned().map(found).collect();
        Arc::new(Self { clock, state: Mutex::new(State { now, clouds }) })
    }

    /// Carries out everything due up to the present.
    pub fn advance(&self) {
        self.locked().advance(self.clock.now());
    }

    /// Names of the clouds.
    pub fn clouds(&self) -> Vec<String> {
        self.locked().clouds.keys().cloned().collect()
    }

    /// The API of a cloud: Keystone, Nova, Neutron, Glance and Placement under path prefixes.
    pub fn cloud_router(self: &Arc<Self>, cloud: &str) -> Router {
        openstack::router(Arc::clone(self), cloud)
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
        state.settle(now);
        Some(result)
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Carries out everything due up to `now`, in order of time over all clouds.
    fn advance(&mut self, now: Timestamp) {
        while let Some((at, name)) = self.next_cloud() {
            if at > now {
                break;
            }
            if let Some(cloud) = self.clouds.get_mut(&name)
                && let Some((at, event)) = cloud.agenda.take_due(now)
            {
                cloud.handle(event, at);
            }
            self.settle(at);
        }
        self.now = self.now.max(now);
    }

    fn next_cloud(&self) -> Option<(Timestamp, String)> {
        let next = self
            .clouds
            .iter()
            .filter_map(|(name, cloud)| cloud.agenda.next_at().map(|at| (at, name)));
        next.min().map(|(at, name)| (at, name.clone()))
    }

    /// Tells guests what happened to their servers.
    fn settle(&mut self, _at: Timestamp) {
        for cloud in self.clouds.values_mut() {
            cloud.happenings.clear();
        }
    }
}
