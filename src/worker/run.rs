//! The driver's loops in production.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::activation::jitter;
use super::driver::{Driver, Registered};
use super::error::chain;
use crate::store::work::{self, Finished, Hint, Hints, Lease};
use crate::store::{StoreError, housekeeping, replicas, within};

/// How often a replica says that it lives, and how long it waits to listen again after an error.
const BEAT: Duration = Duration::from_secs(10);
/// How often dead rows are deleted; each replica does it, a second one finds nothing.
const HOUSEKEEPING: Duration = Duration::from_mins(10);

/// Longest wait for work to be claimed, should the database fall silent.
const CLAIM_LIMIT: Duration = Duration::from_secs(15);
/// The same when this replica stops: what is not given back is taken over when its lease ends.
const LEAVE_LIMIT: Duration = Duration::from_secs(3);

impl Driver {
    /// Works until `stop` is cancelled. Then claims nothing more, lets running steps end within
    /// the grace time, and releases what did not end.
    pub async fn run(&self, stop: CancellationToken) {
        let tracker = TaskTracker::new();
        let abort = CancellationToken::new();
        for registered in &self.kinds {
            let kind = KindLoop {
                driver: self.clone(),
                registered: registered.clone(),
                tracker: tracker.clone(),
                stop: stop.clone(),
                abort: abort.clone(),
            };
            tracker.spawn(kind.run());
        }
        let (listener, beats) = (self.clone(), self.clone());
        tracker.spawn(stop.clone().run_until_cancelled_owned(async move {
            listener.listen().await;
        }));
        tracker.spawn(stop.clone().run_until_cancelled_owned(async move { beats.beat().await }));
        stop.cancelled().await;
        tracker.close();
        if tokio::time::timeout(self.parts.settings.grace, tracker.wait()).await.is_err() {
            info!("some work did not end within the grace time; another replica takes it over");
            abort.cancel();
            tracker.wait().await;
        }
        let leave = replicas::leave(&self.parts.store, self.holder);
        if let Err(error) = within(LEAVE_LIMIT, leave).await {
            warn!(error = %chain(&error), "this replica stays listed until housekeeping");
        }
    }

    /// Turns notifications into hints. A lost connection only costs time: the loops poll.
    async fn listen(&self) {
        loop {
            if let Err(error) = self.listen_once().await {
                warn!(error = %chain(&error), "no wake-up hints from the database; polling");
                tokio::time::sleep(jitter(BEAT, self.parts.ids.fraction())).await;
            }
        }
    }

    async fn listen_once(&self) -> Result<(), StoreError> {
        let mut hints = Hints::listen(&self.parts.store).await?;
        // What was woken before we listened.
        self.hint_all();
        loop {
            match hints.next().await? {
                Hint::Woken(kind) => {
                    if let Some(registered) = self.registered(kind) {
                        registered.hint.notify_one();
                    }
                }
                Hint::MaybeMissed => self.hint_all(),
            }
        }
    }

    fn hint_all(&self) {
        for registered in &self.kinds {
            registered.hint.notify_one();
        }
    }

    /// Says that this replica lives, and cleans up now and then.
    async fn beat(&self) {
        let parts = &self.parts;
        let mut until_housekeeping = Duration::ZERO;
        loop {
            let now = parts.clock.now();
            let me = replicas::Beat { id: self.holder, name: &parts.settings.replica };
            if let Err(error) = replicas::beat(&parts.store, me, now).await {
                warn!(error = %chain(&error), "this replica cannot say that it lives");
            }
            until_housekeeping = until_housekeeping.saturating_sub(BEAT);
            if until_housekeeping.is_zero() {
                until_housekeeping = HOUSEKEEPING;
                if let Err(error) = housekeeping::run(&parts.store, now).await {
                    warn!(error = %chain(&error), "dead rows stay for now");
                }
            }
            tokio::time::sleep(BEAT).await;
        }
    }
}

/// The loop of one kind of work.
struct KindLoop {
    driver: Driver,
    registered: Arc<Registered>,
    tracker: TaskTracker,
    stop: CancellationToken,
    abort: CancellationToken,
}

impl KindLoop {
    async fn run(self) {
        let slots = Arc::new(Semaphore::new(self.registered.settings.concurrency.max(1) as usize));
        loop {
            let free = tokio::select! {
                () = self.stop.cancelled() => return,
                permit = slots.clone().acquire_owned() => permit,
            };
            let Ok(first) = free else { return };
            // What a claim that is given up took is free again when its lease ends.
            let claim = self.abort.run_until_cancelled(self.claim_and_start(&slots, first));
            let Some(claimed) = claim.await else { return };
            if claimed == 0 {
                let poll =
                    jitter(self.driver.parts.settings.poll, self.driver.parts.ids.fraction());
                tokio::select! {
                    () = self.stop.cancelled() => return,
                    () = self.registered.hint.notified() => {}
                    () = tokio::time::sleep(poll) => {}
                }
            }
        }
    }

    /// Fills the free slots; returns how many items were claimed.
    async fn claim_and_start(&self, slots: &Arc<Semaphore>, first: OwnedSemaphorePermit) -> usize {
        if !self.registered.is_enabled() {
            return 0;
        }
        let mut permits = vec![first];
        while let Ok(permit) = slots.clone().try_acquire_owned() {
            permits.push(permit);
        }
        let parts = &self.driver.parts;
        let now = parts.clock.now();
        let limit = u32::try_from(permits.len()).unwrap_or(u32::MAX);
        let claim = self.driver.claim(self.registered.kind, limit);
        let leases = match within(CLAIM_LIMIT, work::claim(&parts.store, claim, now)).await {
            Ok(leases) => leases,
            Err(error) => {
                let text = chain(&error);
                warn!("no {} work can be claimed: {text}", self.registered.kind);
                self.registered.looked(now, Some(text));
                return 0;
            }
        };
        self.registered.looked(now, None);
        let claimed = leases.len();
        for (lease, permit) in leases.into_iter().zip(permits) {
            self.start(lease, permit);
        }
        claimed
    }

    fn start(&self, lease: Lease, permit: OwnedSemaphorePermit) {
        let (driver, registered) = (self.driver.clone(), self.registered.clone());
        let (stop, abort) = (self.stop.clone(), self.abort.clone());
        self.tracker.spawn(async move {
            let ended = abort.run_until_cancelled(driver.activate(&registered, &lease)).await;
            drop(permit);
            match ended {
                Some((_, Some(Finished::DueAgain))) => registered.hint.notify_one(),
                // The poll would come too late for it.
                Some((_, Some(Finished::DueIn(wait)))) if wait < driver.parts.settings.poll => {
                    stop.run_until_cancelled(tokio::time::sleep(wait)).await;
                    registered.hint.notify_one();
                }
                Some(_) => {}
                None => {
                    let release = work::release(&driver.parts.store, &lease);
                    if let Err(error) = within(LEAVE_LIMIT, release).await {
                        warn!(error = %chain(&error),
                            "{} {} is taken over only when its lease ends", lease.kind, lease.id);
                    }
                }
            }
        });
    }
}
