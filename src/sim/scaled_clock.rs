//! A clock that runs faster or slower than the machine's.

use std::sync::{Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};

use crate::clock::{Clock, SharedClock};

/// Shows a start and from then on `speed` times the time that passes on another clock.
#[derive(Debug)]
pub struct ScaledClock {
    inner: SharedClock,
    since: Mutex<Since>,
}

/// A moment on both clocks, and how they go on from there.
#[derive(Debug, Clone, Copy)]
struct Since {
    real: Timestamp,
    shown: Timestamp,
    speed: f64,
}

impl ScaledClock {
    /// A clock that shows `start` now.
    pub fn new(inner: SharedClock, start: Timestamp, speed: f64) -> Self {
        let since = Since { real: inner.now(), shown: start, speed };
        Self { inner, since: Mutex::new(since) }
    }

    /// How fast it runs.
    pub fn speed(&self) -> f64 {
        self.since.lock().unwrap_or_else(PoisonError::into_inner).speed
    }

    /// Runs at another speed from now on.
    pub fn set_speed(&self, speed: f64) {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let real = self.inner.now();
        *since = Since { real, shown: since.at(real), speed };
    }
}

impl Since {
    fn at(&self, real: Timestamp) -> Timestamp {
        let passed = real.duration_since(self.real).as_secs_f64().max(0.0) * self.speed;
        let passed = SignedDuration::try_from_secs_f64(passed).unwrap_or(SignedDuration::ZERO);
        self.shown.checked_add(passed).unwrap_or(self.shown)
    }
}

impl Clock for ScaledClock {
    fn now(&self) -> Timestamp {
        let real = self.inner.now();
        self.since.lock().unwrap_or_else(PoisonError::into_inner).at(real)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn a_change_of_speed_makes_no_jump() {
        let start = Timestamp::UNIX_EPOCH;
        let real = Arc::new(ManualClock::new(start));
        let clock = ScaledClock::new(real.clone(), start, 10.0);
        real.advance(SignedDuration::from_secs(2));
        assert_eq!(clock.now(), start + SignedDuration::from_secs(20));
        clock.set_speed(1.0);
        assert_eq!(clock.now(), start + SignedDuration::from_secs(20));
        real.advance(SignedDuration::from_secs(2));
        assert_eq!(clock.now(), start + SignedDuration::from_secs(22));
    }
}
