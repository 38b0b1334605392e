//! Reconcilers: snapshot, plan, execute.
//!
//! A [`Reconciler`] looks at one resource and takes the next steps. The [`Driver`] gives it work:
//! it claims due items, keeps their leases alive, and records how each activation ended. Nobody
//! tells a reconciler what changed, so a restart, a second replica and a lost wake-up are all the
//! same to it.

pub mod activation;
pub mod crash;
pub mod driver;
mod error;
mod run;

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
