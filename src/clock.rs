//! Time, ids and randomness, injected everywhere so that tests choose them.
//!
//! Lease expiry is the one exception: it uses the database's clock (see `store::work`).

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

/// Where "now" comes from.
pub trait Clock: Send + Sync + Debug + 'static {
    /// The present moment.
    fn now(&self) -> Timestamp;
}

/// Shared handle to a clock.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clock.
#[derive(Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    fn now(&self) -> Timestamp {
        // To the microsecond, as the database keeps it: what a request is answered with is what
        // the next one reads.
        let now = Timestamp::now();
        Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
    }
}

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub struct ManualClock(Mutex<Timestamp>);

impl ManualClock {
    /// A clock that shows `start`.
    pub fn new(start: Timestamp) -> Self {
        Self(Mutex::new(start))
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: SignedDuration) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *now += by;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where ids and secret bytes come from.
pub trait Ids: Send + Sync + Debug + 'static {
    /// A new id that was never used before; sorts by time of creation (UUIDv7).
    fn uuid(&self) -> Uuid;
    /// 32 bytes that nobody can guess.
    fn secret(&self) -> [u8; 32];
    /// A number in `0.0..1.0`, for jitter.
    fn fraction(&self) -> f64;
}

/// Shared handle to a source of ids.
pub type SharedIds = Arc<dyn Ids>;

/// Ids from the operating system's randomness.
#[derive(Debug, Default)]
pub struct SystemIds;

impl Ids for SystemIds {
    #[expect(clippy::disallowed_methods, reason = "the one place that makes ids")]
    fn uuid(&self) -> Uuid {
        Uuid::now_v7()
    }

    fn secret(&self) -> [u8; 32] {
        rand::random()
    }

    fn fraction(&self) -> f64 {
        rand::random()
    }
}

/// Ids that repeat for a seed. For tests and the simulation; its secrets are no secrets.
#[derive(Debug)]
pub struct SeededIds {
    seed: u64,
    next: AtomicU64,
}

impl SeededIds {
    /// A source that always gives the same row of ids for the same `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed, next: AtomicU64::new(1) }
    }

    /// SplitMix64: well mixed, tiny, and not for secrets.
    fn mixed(&self) -> u64 {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let mut z = self.seed.wrapping_add(n.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

impl Ids for SeededIds {
    fn uuid(&self) -> Uuid {
        let count = self.next.load(Ordering::Relaxed);
        let random = self.mixed();
        // The counter leads, so that ids sort by creation like UUIDv7 do.
        let high = (u128::from(count) << 80) | (u128::from(self.seed & 0xffff) << 64);
        uuid::Builder::from_u128(high | u128::from(random))
            .with_version(uuid::Version::SortRand)
            .into_uuid()
    }

    fn secret(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.mixed().to_be_bytes());
        }
        bytes
    }

    #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
    fn fraction(&self) -> f64 {
        (self.mixed() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeded_ids_repeat_and_never_collide() {
        let (a, b) = (SeededIds::new(7), SeededIds::new(7));
        let first: Vec<Uuid> = (0..1000).map(|_| a.uuid()).collect();
        let second: Vec<Uuid> = (0..1000).map(|_| b.uuid()).collect();
        assert_eq!(first, second);
        let distinct: std::collections::BTreeSet<_> = first.iter().collect();
        assert_eq!(distinct.len(), 1000);
        assert!(first.is_sorted());
    }
}
