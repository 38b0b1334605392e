//! Reconcilers: snapshot, plan, execute.
//!
//! A [`Reconciler`] looks at one resource and takes the next steps. The [`Driver`] gives it work:
//! it claims due items, keeps their leases alive, and records how each activation ended. Nobody
//! tells a reconciler what changed, so a restart, a second replica and a lost wake-up are all the
//! same to it.

pub mod activation;
pub mod clients;
pub mod cloud;
pub mod cluster;
pub mod context;
pub mod crash;
pub mod drain;
pub mod driver;
mod error;
mod evict;
mod labels;
pub mod management;
pub mod migration;
pub mod observe_nodes;
pub mod observe_servers;
pub mod preflight;
mod run;
pub mod sweep;
mod timeline;

use std::fmt;
use std::future::Future;
use std::time::Duration;

use crate::store::work::{Lease, ResourceId, WorkKind};

pub use driver::{Driver, DriverParts, DriverSettings, DriverStatus, KindSettings, KindStatus};
pub use error::WorkError;

/// Looks at one kind of resource.
pub trait Reconciler: Send + Sync + 'static {
    /// Which kind of work it does.
    const KIND: WorkKind;

    /// Reads the current state and takes the next steps. Writes only through
    /// [`Fenced`](crate::store::Fenced) with `lease`. May be dropped at any await.
    fn reconcile(
        &self,
        id: ResourceId,
        lease: &Lease,
    ) -> impl Future<Output = Result<Next, WorkError>> + Send;
}

/// What a reconciler wants to happen next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing until someone wakes it; the driver looks again after its period anyway.
    Settled,
    /// To go on after this time.
    After(Duration),
    /// To wait for the world.
    Parked {
        /// For what.
        reason: ParkReason,
        /// When to look again.
        recheck: Duration,
    },
    /// The resource is no more: its work item goes too.
    Gone,
}

/// What parked work waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkReason {
    /// For programs, such as `CapacityUnavailable`.
    pub code: &'static str,
    /// For the owner to read.
    pub message: String,
}

impl ParkReason {
    /// A reason.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl fmt::Display for ParkReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

/// Every step that calls outside, by the name at which tests kill it. The crash matrix fails when
/// one of them is never taken, and `Context::call` refuses a name that is not here.
pub const STEPS: [&str; 46] = [
    "check cloud",
    "read inventory",
    "list servers",
    "list nodes",
    "list ports",
    "create port",
    "tag port",
    "find server group",
    "create server group",
    "find server",
    "create server",
    "start server",
    "check api",
    "apply base",
    "ensure token",
    "apply labels",
    "carry ledger",
    "revoke token",
    "cordon node",
    "list pods",
    "read cluster facts",
    "read capacity",
    "evict pods",
    "check drained",
    "look for harm",
    "uncordon node",
    "lift cordon",
    "delete server",
    "confirm server",
    "delete port",
    "delete node",
    "delete server group",
    "read canary",
    "ask kubelet",
    "ensure probe",
    "read probe",
    "delete probe",
    "read console",
    "list ours",
    "delete orphan",
    "list objects",
    "hold object",
    "create object",
    "write object",
    "report object",
    "release object",
];

/// How each kind of work is driven.
#[derive(Debug, Clone)]
pub struct Kinds(pub [KindSettings; 8]);

impl Default for Kinds {
    /// Enough at once for a fleet of 1,400 clusters on one replica.
    fn default() -> Self {
        let kind =
            |minutes, concurrency| KindSettings::new(Duration::from_mins(minutes), concurrency);
        let management = KindSettings::new(management::PERIOD, 1);
        Self([
            kind(5, 4),
            kind(1, 8),
            kind(2, 32),
            kind(10, 32),
            kind(10, 16),
            kind(10, 32),
            kind(15, 2),
            management,
        ])
    }
}

/// Every reconciler, ready to run. `kinds` are in the order of [`WorkKind::ALL`].
pub fn build(context: &context::Context, parts: DriverParts, kinds: Kinds) -> Driver {
    let [cloud, servers, nodes, cluster, preflight, migration, sweep, management] = kinds.0;
    Driver::new(parts)
        .with(cloud::CloudWorker::new(context.clone()), cloud)
        .with(observe_servers::ObserveServers::new(context.clone()), servers)
        .with(observe_nodes::ObserveNodes::new(context.clone()), nodes)
        .with(cluster::ClusterWorker::new(context.clone()), cluster)
        .with(preflight::PreflightWorker::new(context.clone()), preflight)
        .with(migration::MigrationWorker::new(context.clone()), migration)
        .with(sweep::Sweep::new(context.clone()), sweep)
        .with(management::ManagementWorker::new(context.clone()), management)
}

/// An error and its causes in one line, for the reasons that owners read.
fn describe(error: &WorkError) -> String {
    error::chain(error)
}
