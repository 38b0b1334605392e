//! One activation: reconcile under a lease that is kept alive, then record how it ended.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tracing::{debug, info, warn};

use super::error::{HUMAN_RECHECK, backoff, chain, shorten};
use super::{Next, Reconciler, WorkError};
use crate::clock::{SharedClock, SharedIds};
use crate::store::work::{self, Finish, Finished, Lease, ResourceId};
use crate::store::{Store, StoreError, within};

/// Panics in a row after which only a person, or a change of what is wanted, helps.
const PANICS: u32 = 10;
/// Longest wait for the database when the end of an activation is recorded.
const RECORD_LIMIT: Duration = Duration::from_secs(30);

/// How an activation ended, for counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Settled, or the resource is gone.
    Settled,
    /// Goes on later.
    Continued,
    /// Waits for the world.
    Parked,
    /// Was asked to wait.
    Busy,
    /// Failed, and backs off.
    Failed,
    /// Panicked, and backs off.
    Panicked,
    /// Somebody else has the item.
    LeaseLost,
    /// A test killed it.
    Crashed,
    /// The driver stopped before it ended.
    Stopped,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 9] = [
        Self::Settled,
        Self::Continued,
        Self::Parked,
        Self::Busy,
        Self::Failed,
        Self::Panicked,
        Self::LeaseLost,
        Self::Crashed,
        Self::Stopped,
    ];

    /// The name, as in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::Continued => "continued",
            Self::Parked => "parked",
            Self::Busy => "busy",
            Self::Failed => "failed",
            Self::Panicked => "panicked",
            Self::LeaseLost => "lease_lost",
            Self::Crashed => "crashed",
            Self::Stopped => "stopped",
        }
    }
}

/// A reconciler of any kind.
pub(super) trait AnyReconciler: Send + Sync {
    fn reconcile<'a>(
        &'a self,
        id: ResourceId,
        lease: &'a Lease,
    ) -> BoxFuture<'a, Result<Next, WorkError>>;
}

impl<R: Reconciler> AnyReconciler for R {
    fn reconcile<'a>(
        &'a self,
        id: ResourceId,
        lease: &'a Lease,
    ) -> BoxFuture<'a, Result<Next, WorkError>> {
        Box::pin(Reconciler::reconcile(self, id, lease))
    }
}

/// What an activation needs beside the reconciler.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub(super) store: Store,
    pub(super) clock: SharedClock,
    pub(super) ids: SharedIds,
    pub(super) lease: Duration,
    /// When settled work is looked at again.
    pub(super) period: Duration,
}

/// What came of running a reconciler.
enum Ran {
    Returned(Result<Next, WorkError>),
    Panicked(String),
    LeaseLost,
}

impl Surroundings {
    /// Runs one activation and records its end.
    pub(super) async fn activate(
        &self,
        reconciler: &dyn AnyReconciler,
        lease: &Lease,
    ) -> (Outcome, Option<Finished>) {
        let ran = self.run(reconciler, lease).await;
        let (outcome, finish) = self.judge(ran, lease);
        let Some(finish) = finish else { return (outcome, None) };
        self.record(lease, outcome, finish).await
    }

    /// Runs the reconciler while its lease lasts. Losing the lease cancels it.
    async fn run(&self, reconciler: &dyn AnyReconciler, lease: &Lease) -> Ran {
        let reconcile =
            AssertUnwindSafe(async { reconciler.reconcile(lease.id, lease).await }).catch_unwind();
        tokio::select! {
            // The result counts, even if the lease is found lost in the same moment: its writes
            // were fenced.
            biased;
            result = reconcile => match result {
                Ok(result) => Ran::Returned(result),
                Err(panic) => Ran::Panicked(panic_text(&*panic)),
            },
            () = self.renew_until_lost(lease) => Ran::LeaseLost,
        }
    }

    /// Renews at a third of the lease's length; returns when the lease is lost.
    async fn renew_until_lost(&self, lease: &Lease) {
        let mut failures = 0;
        loop {
            tokio::time::sleep(self.lease / 3).await;
            match within(self.lease / 4, work::renew(&self.store, lease, self.lease)).await {
                Ok(()) => failures = 0,
                Err(StoreError::LeaseLost) => return,
                Err(error) => {
                    failures += 1;
                    debug!(error = %chain(&error), "the lease of {} {} is not renewed",
                        lease.kind, lease.id);
                    // After the second one the lease is over before we could try again.
                    if failures == 2 {
                        return;
                    }
                }
            }
        }
    }

    /// What to count, and what to record.
    fn judge(&self, ran: Ran, lease: &Lease) -> (Outcome, Option<Finish>) {
        let fraction = self.ids.fraction();
        match ran {
            Ran::LeaseLost => (Outcome::LeaseLost, None),
            Ran::Panicked(message) => {
                let error = shorten(format!("Panic: {message}"));
                let finish = if lease.attempts + 1 >= PANICS {
                    Finish::Dead { error, recheck: jitter(HUMAN_RECHECK, fraction) }
                } else {
                    Finish::Failed { error, backoff: backoff(lease.attempts, fraction) }
                };
                (Outcome::Panicked, Some(finish))
            }
            Ran::Returned(Ok(next)) => {
                let finish = match next {
                    Next::Settled => Finish::Settled { resync: jitter(self.period, fraction) },
                    Next::After(after) => Finish::After(after),
                    Next::Parked { reason, recheck } => Finish::Parked {
                        reason: shorten(reason.to_string()),
                        recheck: jitter(recheck, fraction),
                    },
                    Next::Gone => Finish::Gone,
                };
                (outcome_of(&finish), Some(finish))
            }
            Ran::Returned(Err(error)) => match error.finish(lease.attempts, fraction) {
                Some(finish) => (outcome_of(&finish), Some(finish)),
                None if matches!(error, WorkError::Crashed(_)) => (Outcome::Crashed, None),
                None => (Outcome::LeaseLost, None),
            },
        }
    }

    async fn record(
        &self,
        lease: &Lease,
        outcome: Outcome,
        finish: Finish,
    ) -> (Outcome, Option<Finished>) {
        log(lease, outcome, &finish);
        let finish = work::finish(&self.store, lease, finish, self.clock.now());
        match within(RECORD_LIMIT, finish).await {
            Ok(Finished::LeaseLost) => (Outcome::LeaseLost, Some(Finished::LeaseLost)),
            Ok(finished) => (outcome, Some(finished)),
            Err(error) => {
                // The lease runs out by itself, and the item is due again.
                warn!(work.kind = %lease.kind, work.id = %lease.id, error = %chain(&error),
                    "the end of {} {} is not recorded", lease.kind, lease.id);
                (outcome, None)
            }
        }
    }
}

fn outcome_of(finish: &Finish) -> Outcome {
    match finish {
        Finish::Settled { .. } | Finish::Gone => Outcome::Settled,
        Finish::After(_) => Outcome::Continued,
        Finish::Parked { .. } | Finish::Dead { .. } => Outcome::Parked,
        Finish::Busy { .. } => Outcome::Busy,
        Finish::Failed { .. } => Outcome::Failed,
    }
}

fn log(lease: &Lease, outcome: Outcome, finish: &Finish) {
    let (kind, id) = (lease.kind, lease.id);
    match finish {
        Finish::Failed { error, backoff } if outcome == Outcome::Panicked => {
            tracing::error!(work.kind = %kind, work.id = %id, attempts = lease.attempts + 1,
                "{kind} {id} hit a bug, next try in {backoff:?}: {error}");
        }
        Finish::Failed { error, backoff } => {
            warn!(work.kind = %kind, work.id = %id, attempts = lease.attempts + 1,
                "{kind} {id} failed, next try in {backoff:?}: {error}");
        }
        Finish::Dead { error, .. } => {
            tracing::error!(work.kind = %kind, work.id = %id, attempts = lease.attempts + 1,
                "{kind} {id} hit a bug time and again and is left alone: {error}");
        }
        Finish::Parked { reason, .. } => {
            info!(work.kind = %kind, work.id = %id, "{kind} {id} waits: {reason}");
        }
        Finish::Busy { error, wait } => {
            info!(work.kind = %kind, work.id = %id, "{kind} {id} was told to wait {wait:?}: {error}");
        }
        Finish::Settled { .. } | Finish::After(_) | Finish::Gone => {
            debug!(work.kind = %kind, work.id = %id, "{kind} {id} {}", outcome.as_str());
        }
    }
}

/// Between 90 % and 110 %, so that what was settled together is not looked at together.
pub(super) fn jitter(period: Duration, fraction: f64) -> Duration {
    period.mul_f64(0.9 + fraction * 0.2)
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
