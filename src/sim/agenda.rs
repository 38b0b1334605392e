//! What will happen, in order of time, and the dice that decide what is random.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Things due at a moment. Two for the same moment come out in the order they went in.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(from = "Vec<Due<T>>", into = "Vec<Due<T>>")]
#[serde(bound(serialize = "T: Clone + Serialize", deserialize = "T: Deserialize<'de>"))]
pub struct Agenda<T> {
    due: BTreeMap<(Timestamp, u64), T>,
    next: u64,
}

/// One entry of an agenda, as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Due<T> {
    at: Timestamp,
    what: T,
}

impl<T> Default for Agenda<T> {
    fn default() -> Self {
        Self { due: BTreeMap::new(), next: 0 }
    }
}

impl<T> From<Vec<Due<T>>> for Agenda<T> {
    fn from(entries: Vec<Due<T>>) -> Self {
        let mut agenda = Self::default();
        for entry in entries {
            agenda.add(entry.at, entry.what);
        }
        agenda
    }
}

impl<T> From<Agenda<T>> for Vec<Due<T>> {
    fn from(agenda: Agenda<T>) -> Self {
        agenda.due.into_iter().map(|((at, _), what)| Due { at, what }).collect()
    }
}

impl<T> Agenda<T> {
    /// Puts down `what` for `at`.
    pub fn add(&mut self, at: Timestamp, what: T) {
        self.next += 1;
        self.due.insert((at, self.next), what);
    }

    /// When the next thing is due.
    pub fn next_at(&self) -> Option<Timestamp> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes the next thing, if it is due by `now`.
    pub fn take_due(&mut self, now: Timestamp) -> Option<(Timestamp, T)> {
        if self.next_at()? > now {
            return None;
        }
        self.due.pop_first().map(|((at, _), what)| (at, what))
    }
}

/// Repeatable randomness whose state can be stored (SplitMix64).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Dice(u64);

impl Dice {
    /// Dice that always fall the same way for a seed and a name.
    pub fn new(seed: u64, name: &str) -> Self {
        // FNV-1a: clouds of one world must not throw the same numbers.
        let start = seed ^ 0xcbf2_9ce4_8422_2325;
        Self(name.bytes().fold(start, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in `0.0..1.0`.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
    pub fn fraction(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A random (version 4) UUID, as OpenStack makes them.
    pub fn uuid(&mut self) -> Uuid {
        let value = (u128::from(self.bits()) << 64) | u128::from(self.bits());
        uuid::Builder::from_random_bytes(value.to_be_bytes()).into_uuid()
    }

    /// `ms` varied by `jitter` of it, up and down.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "times of a simulation are far below 2^53 ms"
    )]
    pub fn around(&mut self, ms: u64, jitter: f64) -> SignedDuration {
        if jitter <= 0.0 {
            return SignedDuration::from_millis(i64::try_from(ms).unwrap_or(i64::MAX));
        }
        let factor = 1.0 + jitter * (2.0 * self.fraction() - 1.0);
        SignedDuration::from_millis((ms as f64 * factor) as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_come_out_in_order_of_time_then_of_entry() {
        let start = Timestamp::UNIX_EPOCH;
        let later = start + SignedDuration::from_secs(5);
        let mut agenda = Agenda::default();
        agenda.add(later, "second");
        agenda.add(start, "first");
        agenda.add(later, "third");
        let mut agenda: Agenda<String> =
            serde_json::from_str(&serde_json::to_string(&agenda).expect("an agenda is plain data"))
                .expect("what was written can be read");
        let order: Vec<String> =
            std::iter::from_fn(|| agenda.take_due(later)).map(|(_, what)| what).collect();
        assert_eq!(order, ["first", "second", "third"]);
    }

    #[test]
    fn dice_of_two_clouds_differ_and_repeat() {
        let throw = |name| Dice::new(7, name).uuid();
        assert_eq!(throw("east"), throw("east"));
        assert_ne!(throw("east"), throw("west"));
    }

    #[test]
    fn jitter_stays_within_its_part() {
        let mut dice = Dice::new(1, "x");
        for _ in 0..1000 {
            let ms = dice.around(1000, 0.2).as_millis();
            assert!((800..=1200).contains(&ms), "{ms}");
        }
    }
}
