//! What one cloud may be asked: calls a second, calls in flight, pauses, a circuit breaker.
//!
//! One budget for each cloud in a process, shared by the clients of all its projects. Whoever
//! waits is served in turn by share (a cluster, usually), so that one busy cluster cannot starve
//! the others. Nobody waits long: who cannot be served in time is told when to come again.
//!
//! Time is the injected clock's; only the short waits are real.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::clock::SharedClock;

/// Longest pause that a `Retry-After` can ask for: a mistaken header must not stop a cloud for a day.
const MAX_PAUSE: Duration = Duration::from_mins(5);
/// Longest time the breaker stays open between two trial calls.
const MAX_OPEN: Duration = Duration::from_mins(2);
/// A waiter looks again at least this often, should the clock not move as real time does.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// The limits of one cloud.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Calls a second over time.
    pub calls_per_second: f64,
    /// Calls at once after a quiet time.
    pub burst: f64,
    /// Calls that wait for their answer at one time.
    pub in_flight: usize,
    /// Longest wait for a turn; after it the caller gets "busy".
    pub max_wait: Duration,
    /// Failures to reach the cloud, one after the other, that open the breaker.
    pub breaker_after: u32,
    /// How long it opens the first time; doubles with each failed trial call.
    pub breaker_open: Duration,
    /// First wait before a read or delete is sent again; doubles, with jitter.
    pub retry_base: Duration,
}

impl Default for Limits {
    /// Gentle enough for a small private cloud; an operator raises it where the cloud is large.
    fn default() -> Self {
        Self {
            calls_per_second: 20.0,
            burst: 40.0,
            in_flight: 32,
            max_wait: Duration::from_secs(2),
            breaker_after: 8,
            breaker_open: Duration::from_secs(10),
            retry_base: Duration::from_millis(200),
        }
    }
}

impl Limits {
    /// No limit that a simulation could run into, and no waiting.
    pub fn unlimited() -> Self {
        Self {
            calls_per_second: 1e9,
            burst: 1e9,
            in_flight: usize::MAX,
            max_wait: Duration::ZERO,
            breaker_after: u32::MAX,
            breaker_open: Duration::ZERO,
            retry_base: Duration::ZERO,
        }
    }
}

/// The budget of one cloud.
#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    clock: SharedClock,
    state: Mutex<State>,
    changed: Notify,
}

/// Leave to make one call; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    budget: Arc<Budget>,
}

/// Why there is no leave now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// What stands in the way, for people.
    pub reason: String,
    /// When to come again.
    pub retry_after: Duration,
}

/// How a call ended, as far as the breaker cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contact {
    /// The cloud answered, be it with an error.
    Reached,
    /// No answer, or a gateway answered for it.
    Lost,
}

#[derive(Debug)]
struct State {
    tokens: f64,
    filled_at: Timestamp,
    in_flight: usize,
    paused_until: Option<Timestamp>,
    breaker: Breaker,
    /// Who waits, in the order of being served: turn, then arrival.
    queue: BTreeSet<(u64, u64)>,
    /// The last turn given to each share with somebody waiting.
    turns: BTreeMap<String, (u64, usize)>,
    arrivals: u64,
    served_turn: u64,
}

#[derive(Debug, Default)]
struct Breaker {
    failures: u32,
    open_until: Option<Timestamp>,
    opened: u32,
    is_trial_out: bool,
}

impl Budget {
    /// A full budget.
    pub fn new(limits: Limits, clock: SharedClock) -> Arc<Self> {
        let state = State {
            tokens: limits.burst,
            filled_at: clock.now(),
            in_flight: 0,
            paused_until: None,
            breaker: Breaker::default(),
            queue: BTreeSet::new(),
            turns: BTreeMap::new(),
            arrivals: 0,
            served_turn: 0,
        };
        Arc::new(Self { limits, clock, state: Mutex::new(state), changed: Notify::new() })
    }

    /// The limits it was made with.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Waits for a turn, at most `patience` and at most the limit's own. `share` names for whom.
    pub async fn acquire(
        self: &Arc<Self>,
        share: &str,
        patience: Duration,
    ) -> Result<Permit, Refused> {
        let patience = patience.min(self.limits.max_wait);
        let give_up = Instant::now() + patience;
        let place = Place::take(self, share);
        loop {
            let changed = self.changed.notified();
            let refused = match self.try_serve(place.turn) {
                Ok(()) => return Ok(Permit { budget: Arc::clone(self) }),
                Err(refused) => refused,
            };
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero() || refused.retry_after > left {
                return Err(refused);
            }
            let nap = refused.retry_after.clamp(Duration::from_millis(1), LOOK_AGAIN).min(left);
            let _ = tokio::time::timeout(nap, changed).await;
        }
    }

    /// Stops all calls to the cloud for `pause`, as it asked by `Retry-After`.
    pub fn pause(&self, pause: Duration) {
        let until = after(self.clock.now(), pause.min(MAX_PAUSE));
        let mut state = self.state();
        state.paused_until = state.paused_until.max(Some(until));
    }

    /// Tells the breaker how a call ended.
    pub fn record(&self, contact: Contact) {
        let now = self.clock.now();
        let mut state = self.state();
        let breaker = &mut state.breaker;
        breaker.is_trial_out = false;
        if contact == Contact::Reached {
            *breaker = Breaker::default();
            return;
        }
        breaker.failures = breaker.failures.saturating_add(1);
        if breaker.failures >= self.limits.breaker_after {
            let doubled = self.limits.breaker_open.saturating_mul(1 << breaker.opened.min(8));
            breaker.open_until = Some(after(now, doubled.min(MAX_OPEN)));
            breaker.opened = breaker.opened.saturating_add(1);
        }
    }

    /// Whether the breaker holds calls back now.
    pub fn is_open(&self) -> bool {
        let now = self.clock.now();
        self.state().breaker.open_until.is_some_and(|until| until > now)
    }

    fn try_serve(&self, place: (u64, u64)) -> Result<(), Refused> {
        let now = self.clock.now();
        let mut state = self.state();
        state.check_pause(now)?;
        state.refill(now, &self.limits);
        state.check_room(place, &self.limits)?;
        state.breaker.check(now)?;
        state.tokens -= 1.0;
        state.in_flight += 1;
        state.served_turn = place.0;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.budget.state();
        state.in_flight -= 1;
        // A trial call that was dropped without a result must not block the next trial.
        state.breaker.is_trial_out = false;
        drop(state);
        self.budget.changed.notify_waiters();
    }
}

impl State {
    fn check_pause(&mut self, now: Timestamp) -> Result<(), Refused> {
        match self.paused_until {
            Some(until) if until > now => {
                Err(Refused::new("the cloud asked us to wait", between(now, until)))
            }
            _ => {
                self.paused_until = None;
                Ok(())
            }
        }
    }

    fn refill(&mut self, now: Timestamp, limits: &Limits) {
        // A clock that was set back must not take tokens away.
        let passed = now.duration_since(self.filled_at).as_secs_f64().max(0.0);
        self.tokens = (self.tokens + passed * limits.calls_per_second).min(limits.burst.max(1.0));
        self.filled_at = now;
    }

    fn check_room(&self, place: (u64, u64), limits: &Limits) -> Result<(), Refused> {
        let ahead = self.queue.range(..place).count();
        if self.in_flight + ahead >= limits.in_flight {
            return Err(Refused::new("too many calls are under way", Duration::from_millis(500)));
        }
        #[expect(clippy::cast_precision_loss, reason = "a queue is far shorter than 2^53")]
        let missing = ahead as f64 + 1.0 - self.tokens;
        if missing <= 0.0 {
            return Ok(());
        }
        let wait = Duration::try_from_secs_f64(missing / limits.calls_per_second)
            .unwrap_or(MAX_PAUSE)
            .min(MAX_PAUSE);
        Err(Refused::new("the cloud's call rate is used up", wait))
    }
}

impl Breaker {
    fn check(&mut self, now: Timestamp) -> Result<(), Refused> {
        let Some(until) = self.open_until else { return Ok(()) };
        let reason = "the cloud did not answer several times in a row";
        if until > now {
            return Err(Refused::new(reason, between(now, until)));
        }
        if self.is_trial_out {
            return Err(Refused::new(reason, Duration::from_secs(1)));
        }
        self.is_trial_out = true;
        Ok(())
    }
}

impl Refused {
    fn new(reason: &str, retry_after: Duration) -> Self {
        Self { reason: reason.to_owned(), retry_after }
    }
}

/// A place in the queue; left when dropped, also when the waiting future is.
struct Place<'a> {
    budget: &'a Budget,
    share: String,
    turn: (u64, u64),
}

impl<'a> Place<'a> {
    fn take(budget: &'a Budget, share: &str) -> Self {
        let mut state = budget.state();
        let arrival = state.arrivals;
        state.arrivals += 1;
        // The n-th waiter of a share comes behind the (n-1)-th of every other.
        let next = state.served_turn + 1;
        let (last, waiting) = state.turns.entry(share.to_owned()).or_insert((next - 1, 0));
        *last = next.max(*last + 1);
        *waiting += 1;
        let turn = (*last, arrival);
        state.queue.insert(turn);
        Self { budget, share: share.to_owned(), turn }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.budget.state();
        state.queue.remove(&self.turn);
        if let Some((_, waiting)) = state.turns.get_mut(&self.share) {
            *waiting -= 1;
            if *waiting == 0 {
                state.turns.remove(&self.share);
            }
        }
        drop(state);
        self.budget.changed.notify_waiters();
    }
}

fn after(now: Timestamp, wait: Duration) -> Timestamp {
    let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
    now.saturating_add(wait).unwrap_or(Timestamp::MAX)
}

fn between(now: Timestamp, until: Timestamp) -> Duration {
    Duration::try_from(until.duration_since(now)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::clock::ManualClock;

    fn budget(limits: Limits) -> (Arc<Budget>, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH));
        (Budget::new(limits, clock.clone()), clock)
    }

    async fn take(budget: &Arc<Budget>) -> Result<Permit, Refused> {
        budget.acquire("a", Duration::ZERO).await
    }

    #[tokio::test]
    async fn the_rate_holds_after_the_burst() {
        let limits = Limits { calls_per_second: 2.0, burst: 3.0, ..Limits::default() };
        let (budget, clock) = budget(limits);
        for _ in 0..3 {
            take(&budget).await.expect("the burst");
        }
        let refused = take(&budget).await.expect_err("the burst is used up");
        assert_eq!(refused.retry_after, Duration::from_millis(500));
        clock.advance(SignedDuration::from_secs(1));
        take(&budget).await.expect("first of the second");
        take(&budget).await.expect("second of the second");
        take(&budget).await.expect_err("no more");
    }

    #[tokio::test]
    async fn calls_in_flight_are_limited() {
        let (budget, _) = budget(Limits { in_flight: 1, ..Limits::default() });
        let first = take(&budget).await.expect("room");
        take(&budget).await.expect_err("no room");
        let patient = budget.acquire("a", Duration::from_secs(1));
        let (second, ()) = tokio::join!(patient, async move {
            tokio::task::yield_now().await;
            drop(first);
        });
        second.expect("served when the first ended");
    }

    #[tokio::test]
    async fn a_busy_share_does_not_starve_the_others() {
        let (budget, _) = budget(Limits { in_flight: 1, ..Limits::default() });
        let mut held = Some(take(&budget).await.expect("room"));
        let wait = Duration::from_secs(2);
        let mut waiting: Vec<_> = ["busy", "busy", "busy", "quiet"]
            .into_iter()
            .map(|share| (share, Box::pin(budget.acquire(share, wait))))
            .collect();
        for (_, future) in &mut waiting {
            assert!(future.now_or_never().is_none(), "all wait");
        }
        let mut order = Vec::new();
        while !waiting.is_empty() {
            held.take();
            let mut next = None;
            for (index, (_, future)) in waiting.iter_mut().enumerate() {
                if let Some(permit) = future.now_or_never() {
                    held = Some(permit.expect("served"));
                    next = Some(index);
                    break;
                }
            }
            order.push(waiting.remove(next.expect("somebody is served")).0);
        }
        assert_eq!(order, ["busy", "quiet", "busy", "busy"]);
    }

    #[tokio::test]
    async fn the_breaker_opens_tries_once_and_closes() {
        let limits = Limits { breaker_after: 2, ..Limits::default() };
        let (budget, clock) = budget(limits);
        for _ in 0..2 {
            assert!(!budget.is_open());
            let _permit = take(&budget).await.expect("closed");
            budget.record(Contact::Lost);
        }
        let refused = take(&budget).await.expect_err("open");
        assert_eq!(refused.retry_after, Duration::from_secs(10));
        clock.advance(SignedDuration::from_secs(10));
        let trial = take(&budget).await.expect("a trial call");
        take(&budget).await.expect_err("only one");
        budget.record(Contact::Lost);
        drop(trial);
        let refused = take(&budget).await.expect_err("open again");
        assert_eq!(refused.retry_after, Duration::from_secs(20));
        clock.advance(SignedDuration::from_secs(20));
        let trial = take(&budget).await.expect("another trial call");
        budget.record(Contact::Reached);
        drop(trial);
        take(&budget).await.expect("closed again");
    }

    #[tokio::test]
    async fn a_pause_has_an_upper_bound() {
        let (budget, _) = budget(Limits::default());
        budget.pause(Duration::from_hours(24));
        let refused = take(&budget).await.expect_err("paused");
        assert_eq!(refused.retry_after, MAX_PAUSE);
    }
}
