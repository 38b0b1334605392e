//! How a reconcile fails, and what each failure leads to.

use std::error::Error;
use std::time::Duration;

use super::crash::Crashed;
use crate::domain::outside::{OutsideError, OutsideKind};
use crate::store::StoreError;
use crate::store::work::Finish;

/// First back-off; doubles with each failure in a row.
const FIRST_BACKOFF: Duration = Duration::from_secs(5);
/// Longest back-off: an operator who has mended something should not wait longer than this.
const LONGEST_BACKOFF: Duration = Duration::from_mins(5);
/// How long to wait for a busy service that does not say.
const BUSY_WAIT: Duration = Duration::from_secs(5);
/// The longest that a service may send us away.
const LONGEST_BUSY_WAIT: Duration = Duration::from_mins(15);
/// Capacity comes back when somebody else gives some up; asking more often costs API calls.
const CAPACITY_RECHECK: Duration = Duration::from_mins(5);
/// Waits for a person, but looks now and then: the cause may be mended outside of zcp.
pub(super) const HUMAN_RECHECK: Duration = Duration::from_mins(30);
/// How long a transaction that the database broke off because of another one waits.
const CONTENDED_WAIT: Duration = Duration::from_millis(200);
/// Longest error text that is stored.
const MESSAGE_LIMIT: usize = 2000;

/// A failed reconcile.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// A cloud or a cluster refused, or did not answer.
    #[error("a call outside did not succeed")]
    Outside(#[from] OutsideError),
    /// The database.
    #[error("the database did not do its part")]
    Store(#[source] StoreError),
    /// Somebody else holds the item now. Nothing was or will be written.
    #[error("the lease is lost")]
    LeaseLost,
    /// A test kills the process here: nothing more may be done with the item.
    #[error("killed by a test")]
    Crashed(#[from] Crashed),
    /// What we know makes no sense; our bug. Backs off like a passing failure.
    #[error("{0}")]
    Internal(String),
}

impl From<StoreError> for WorkError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::LeaseLost => Self::LeaseLost,
            other => Self::Store(other),
        }
    }
}

impl WorkError {
    /// Our bug, described.
    pub fn internal(problem: impl Into<String>) -> Self {
        Self::Internal(problem.into())
    }

    /// What to record, with `attempts` failures in a row before this one and a `fraction` in
    /// `0.0..1.0` for jitter. None if nothing may be recorded.
    pub fn finish(&self, attempts: u32, fraction: f64) -> Option<Finish> {
        match self {
            Self::LeaseLost | Self::Crashed(_) => None,
            Self::Outside(error) => Some(finish_outside(error, attempts, fraction)),
            // Two transactions stood in each other's way; the other one went through.
            Self::Store(error) if error.is_contended() => Some(Finish::Busy {
                error: chain(self),
                wait: CONTENDED_WAIT.mul_f64(0.5 + fraction),
            }),
            Self::Store(_) | Self::Internal(_) => {
                Some(Finish::Failed { error: chain(self), backoff: backoff(attempts, fraction) })
            }
        }
    }
}

fn finish_outside(error: &OutsideError, attempts: u32, fraction: f64) -> Finish {
    let message = shorten(error.to_string());
    match error.kind {
        // An unclear outcome is looked at by the next activation. Absent means that the world
        // changed under the plan; so does the next activation.
        OutsideKind::Transient | OutsideKind::Unclear | OutsideKind::Absent => {
            Finish::Failed { error: message, backoff: backoff(attempts, fraction) }
        }
        OutsideKind::Busy => {
            let told = error.retry_after.unwrap_or(BUSY_WAIT).min(LONGEST_BUSY_WAIT);
            // Never earlier than told: jitter only adds.
            Finish::Busy { error: message, wait: told + told.mul_f64(fraction * 0.2) }
        }
        OutsideKind::NoCapacity => park("CapacityUnavailable", &message, CAPACITY_RECHECK),
        OutsideKind::Exists => park("NameTaken", &message, HUMAN_RECHECK),
        OutsideKind::Denied => park("Denied", &message, HUMAN_RECHECK),
        OutsideKind::Invalid => park("Invalid", &message, HUMAN_RECHECK),
    }
}

fn park(code: &str, message: &str, recheck: Duration) -> Finish {
    Finish::Parked { reason: format!("{code}: {message}"), recheck }
}

/// 5 s doubling to 5 min, and between half and all of that, so that a thousand clusters which
/// failed together do not come back together.
pub(super) fn backoff(attempts: u32, fraction: f64) -> Duration {
    let doubled = FIRST_BACKOFF.saturating_mul(1 << attempts.min(10)).min(LONGEST_BACKOFF);
    doubled.mul_f64(0.5 + fraction * 0.5)
}

/// The error and all its sources, for people.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(next) = source {
        text.push_str(": ");
        text.push_str(&next.to_string());
        source = next.source();
    }
    shorten(text)
}

pub(super) fn shorten(mut text: String) -> String {
    if text.len() > MESSAGE_LIMIT {
        text.truncate(text.floor_char_boundary(MESSAGE_LIMIT));
        text.push('…');
    }
    // Postgres text holds no NUL.
    text.replace('\0', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outside(kind: OutsideKind) -> WorkError {
        OutsideError::new(kind, "nova create server", "no").into()
    }

    #[test]
    fn back_off_doubles_to_its_limit_with_jitter() {
        assert_eq!(backoff(0, 1.0), Duration::from_secs(5));
        assert_eq!(backoff(1, 1.0), Duration::from_secs(10));
        assert_eq!(backoff(2, 0.0), Duration::from_secs(10));
        assert_eq!(backoff(6, 1.0), LONGEST_BACKOFF);
        assert_eq!(backoff(u32::MAX, 1.0), LONGEST_BACKOFF);
    }

    #[test]
    fn every_kind_of_outside_error_has_its_move() {
        for kind in [OutsideKind::Transient, OutsideKind::Unclear, OutsideKind::Absent] {
            assert!(matches!(outside(kind).finish(0, 0.5), Some(Finish::Failed { .. })));
        }
        for kind in [OutsideKind::Exists, OutsideKind::Denied, OutsideKind::Invalid] {
            assert!(matches!(outside(kind).finish(0, 0.5), Some(Finish::Parked { .. })));
        }
        let Some(Finish::Parked { reason, .. }) = outside(OutsideKind::NoCapacity).finish(3, 0.5)
        else {
            panic!("no capacity parks")
        };
        assert_eq!(reason, "CapacityUnavailable: nova create server: no");
    }

    #[test]
    fn busy_waits_at_least_as_long_as_told() {
        let mut busy = OutsideError::new(OutsideKind::Busy, "x", "slow down");
        busy.retry_after = Some(Duration::from_mins(1));
        let Some(Finish::Busy { wait, .. }) = WorkError::from(busy).finish(0, 0.5) else {
            panic!("busy waits")
        };
        assert_eq!(wait, Duration::from_secs(66));
    }

    #[test]
    fn lost_leases_and_crashes_record_nothing() {
        assert_eq!(WorkError::from(StoreError::LeaseLost).finish(0, 0.5), None);
        assert_eq!(WorkError::from(Crashed).finish(0, 0.5), None);
    }
}
