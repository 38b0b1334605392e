//! Gives reconcilers their work: claim, reconcile, finish.
//!
//! Each kind of work has its own loop with its own limit, so that a slow cloud cannot keep the
//! migrations waiting. A loop claims when a hint comes (`NOTIFY`), when a slot becomes free, and
//! at the latest after the poll interval: the timer is the guarantee, everything else only makes
//! it faster. [`Driver::run`] is production; [`Driver::tick`] is the same without loops, for
//! tests.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use uuid::Uuid;

use super::Reconciler;
use super::activation::{AnyReconciler, Outcome, Surroundings};
use crate::clock::{SharedClock, SharedIds};
use crate::store::work::{self, Claim, Finished, Lease, WorkKind};
use crate::store::{Store, StoreError};

/// What a driver is made of.
#[derive(Debug, Clone)]
pub struct DriverParts {
    /// The database.
    pub store: Store,
    /// Says what is due.
    pub clock: SharedClock,
    /// Makes the replica's id and all jitter.
    pub ids: SharedIds,
    /// How the driver behaves as a whole.
    pub settings: DriverSettings,
}

/// How the driver behaves as a whole.
#[derive(Debug, Clone)]
pub struct DriverSettings {
    /// Name of this replica, for operators.
    pub replica: String,
    /// How long a lease lasts: after a crash, that long nobody touches what the dead replica
    /// held. Every call outside must be shorter.
    pub lease: Duration,
    /// How long a loop sleeps without a hint.
    pub poll: Duration,
    /// How long steps in flight may take to end when the driver stops.
    pub grace: Duration,
}

impl Default for DriverSettings {
    fn default() -> Self {
        Self {
            replica: "zcpd".to_owned(),
            lease: Duration::from_mins(1),
            poll: Duration::from_secs(1),
            grace: Duration::from_secs(20),
        }
    }
}

/// How the driver treats one kind of work.
#[derive(Debug, Clone)]
pub struct KindSettings {
    /// Whether this replica does this kind of work at all.
    pub enabled: bool,
    /// When settled work is looked at again, give or take a tenth.
    pub period: Duration,
    /// How many items at once.
    pub concurrency: u32,
}

impl KindSettings {
    /// Enabled, with this period and concurrency.
    pub fn new(period: Duration, concurrency: u32) -> Self {
        Self { enabled: true, period, concurrency }
    }
}

/// What the driver is doing.
#[derive(Debug, Clone)]
pub struct DriverStatus {
    /// This replica's id, as in `work_items.holder`.
    pub holder: Uuid,
    /// One entry for each registered kind.
    pub kinds: Vec<KindStatus>,
}

/// What the driver is doing with one kind of work.
#[derive(Debug, Clone)]
pub struct KindStatus {
    /// Which kind.
    pub kind: WorkKind,
    /// Whether it claims work of this kind.
    pub is_enabled: bool,
    /// Limit of activations at once.
    pub concurrency: u32,
    /// Activations right now.
    pub running: u64,
    /// Activations that ended, by outcome, since the start.
    pub ended: BTreeMap<Outcome, u64>,
    /// Time spent in them, in sum.
    pub busy: Duration,
    /// When work was last claimed or looked for.
    pub looked_at: Option<Timestamp>,
    /// Why work could not be claimed the last time, if so.
    pub last_error: Option<String>,
}

/// Gives reconcilers their work. Cheap to clone.
#[derive(Clone)]
pub struct Driver {
    pub(super) parts: Arc<DriverParts>,
    pub(super) holder: Uuid,
    pub(super) kinds: Vec<Arc<Registered>>,
}

/// A reconciler, its settings and its numbers.
pub(super) struct Registered {
    pub(super) kind: WorkKind,
    pub(super) settings: KindSettings,
    reconciler: Box<dyn AnyReconciler>,
    enabled: AtomicBool,
    /// Holds one permit: a hint that comes between looking and waiting is not lost.
    pub(super) hint: Notify,
    running: AtomicU64,
    numbers: Mutex<Numbers>,
}

#[derive(Default)]
struct Numbers {
    ended: BTreeMap<Outcome, u64>,
    busy: Duration,
    looked_at: Option<Timestamp>,
    last_error: Option<String>,
}

impl Driver {
    /// A driver without reconcilers.
    pub fn new(parts: DriverParts) -> Self {
        let holder = parts.ids.uuid();
        Self { parts: Arc::new(parts), holder, kinds: Vec::new() }
    }

    /// Adds a reconciler. Clones made before do not know it.
    ///
    /// # Panics
    /// If its kind has one already: two would hide each other's work.
    #[must_use]
    pub fn with<R: Reconciler>(mut self, reconciler: R, settings: KindSettings) -> Self {
        assert!(self.registered(R::KIND).is_none(), "two reconcilers of kind {}", R::KIND);
        self.kinds.push(Arc::new(Registered {
            kind: R::KIND,
            enabled: AtomicBool::new(settings.enabled),
            settings,
            reconciler: Box::new(reconciler),
            hint: Notify::new(),
            running: AtomicU64::new(0),
            numbers: Mutex::default(),
        }));
        self.kinds.sort_by_key(|one| one.kind);
        self
    }

    /// This replica's id, as in `work_items.holder`.
    pub fn holder(&self) -> Uuid {
        self.holder
    }

    /// Stops claiming one kind of work on this replica; what runs ends normally.
    pub fn pause(&self, kind: WorkKind) {
        if let Some(registered) = self.registered(kind) {
            registered.enabled.store(false, Ordering::Relaxed);
        }
    }

    /// Claims one kind of work again.
    pub fn resume(&self, kind: WorkKind) {
        if let Some(registered) = self.registered(kind) {
            registered.enabled.store(true, Ordering::Relaxed);
            registered.hint.notify_one();
        }
    }

    /// Runs every item that is due now, once, one after the other, and returns how many ran.
    /// An item that becomes due again waits for the next tick. Ends early when an activation
    /// [crashed](super::crash): a dead process does nothing more.
    pub async fn tick(&self) -> Result<usize, StoreError> {
        let now = self.parts.clock.now();
        let mut ran = 0;
        for registered in self.kinds.iter().filter(|one| one.is_enabled()) {
            let mut seen = Vec::new();
            while let Some(lease) = self.claim_one(registered, &seen, now).await? {
                seen.push(lease.id.0);
                ran += 1;
                let (outcome, _) = self.activate(registered, &lease).await;
                if outcome == Outcome::Crashed {
                    return Ok(ran);
                }
            }
        }
        Ok(ran)
    }

    /// One at a time: what is claimed must be worked on before its lease ends.
    async fn claim_one(
        &self,
        registered: &Registered,
        seen: &[Uuid],
        now: Timestamp,
    ) -> Result<Option<Lease>, StoreError> {
        let claim = Claim { except: seen, ..self.claim(registered.kind, 1) };
        Ok(work::claim(&self.parts.store, claim, now).await?.pop())
    }

    pub(super) fn claim(&self, kind: WorkKind, limit: u32) -> Claim<'static> {
        let lease = self.parts.settings.lease;
        Claim { kind, holder: self.holder, limit, lease, except: &[] }
    }

    /// What the driver is doing.
    pub fn status(&self) -> DriverStatus {
        let kinds = self.kinds.iter().map(|one| one.status()).collect();
        DriverStatus { holder: self.holder, kinds }
    }

    pub(super) fn registered(&self, kind: WorkKind) -> Option<&Arc<Registered>> {
        self.kinds.iter().find(|one| one.kind == kind)
    }

    /// Runs one activation and counts it.
    #[tracing::instrument(skip_all, fields(work.kind = %lease.kind, work.id = %lease.id))]
    pub(super) async fn activate(
        &self,
        registered: &Registered,
        lease: &Lease,
    ) -> (Outcome, Option<Finished>) {
        let surroundings = Surroundings {
            store: self.parts.store.clone(),
            clock: self.parts.clock.clone(),
            ids: self.parts.ids.clone(),
            lease: self.parts.settings.lease,
            period: registered.settings.period,
        };
        let running = Running::start(registered);
        let (outcome, finished) =
            surroundings.activate(registered.reconciler.as_ref(), lease).await;
        running.end(outcome);
        (outcome, finished)
    }
}

impl Registered {
    pub(super) fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    /// Remembers that work was looked for, and how that went.
    pub(super) fn looked(&self, now: Timestamp, error: Option<String>) {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        numbers.looked_at = Some(now);
        numbers.last_error = error;
    }

    fn count(&self, outcome: Outcome, took: Duration) {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        *numbers.ended.entry(outcome).or_default() += 1;
        numbers.busy += took;
    }

    fn status(&self) -> KindStatus {
        let numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        KindStatus {
            kind: self.kind,
            is_enabled: self.is_enabled(),
            concurrency: self.settings.concurrency,
            running: self.running.load(Ordering::Relaxed),
            ended: numbers.ended.clone(),
            busy: numbers.busy,
            looked_at: numbers.looked_at,
            last_error: numbers.last_error.clone(),
        }
    }
}

/// Counts an activation, also when it is dropped in the middle.
struct Running<'a> {
    registered: &'a Registered,
    since: std::time::Instant,
    outcome: Outcome,
}

impl<'a> Running<'a> {
    fn start(registered: &'a Registered) -> Self {
        registered.running.fetch_add(1, Ordering::Relaxed);
        Self { registered, since: std::time::Instant::now(), outcome: Outcome::Stopped }
    }

    fn end(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.registered.running.fetch_sub(1, Ordering::Relaxed);
        self.registered.count(self.outcome, self.since.elapsed());
    }
}
