//! An API server that has too much to do says so once, and every call to its cluster waits.
//!
//! Its 429 answers one call, but its limit (API Priority and Fairness) is for all of ours: who
//! goes on with the other calls is answered 429 again, and keeps the tenant's own calls waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::clock::SharedClock;

/// How long to wait for a server that does not say; its own default for such answers.
const WAIT: Duration = Duration::from_secs(1);
/// The longest that a server may send us away: a wrong header shall not stop a drain for hours.
const LONGEST: Duration = Duration::from_mins(5);

/// Until when a cluster is left alone. Cheap to clone; all clones share it.
#[derive(Clone)]
pub(super) struct Pace {
    clock: Option<SharedClock>,
    /// In milliseconds; 0 while all is well.
    until: Arc<AtomicI64>,
}

impl Pace {
    pub(super) fn new(clock: Option<SharedClock>) -> Self {
        Self { clock, until: Arc::default() }
    }

    /// The server has asked us to wait.
    pub(super) fn slow_down(&self, retry_after: Option<Duration>) {
        let Some(clock) = &self.clock else { return };
        let wait = retry_after.unwrap_or(WAIT).min(LONGEST);
        let wait = i64::try_from(wait.as_millis()).unwrap_or(0);
        self.until.fetch_max(clock.now().as_millisecond() + wait, Ordering::Relaxed);
    }

    /// How long the next call has to wait still.
    pub(super) fn left(&self) -> Option<Duration> {
        let now = self.clock.as_ref()?.now().as_millisecond();
        let left = self.until.load(Ordering::Relaxed) - now;
        u64::try_from(left).ok().filter(|left| *left > 0).map(Duration::from_millis)
    }
}
