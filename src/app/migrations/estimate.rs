//! When a migration will probably be over: from what its own nodes took so far.

use jiff::{SignedDuration, Timestamp};

use crate::domain::migration::{CommitPolicy, Phase};
use crate::domain::wave::Gate;
use crate::store::clusters::nodes::NodeRow;
use crate::store::migrations::MigrationRow;

/// A server boots and joins in about this time, until this migration's own nodes tell better.
const BOOT_GUESS: SignedDuration = SignedDuration::from_mins(4);
/// The pods of a node leave in about this time.
const DRAIN_GUESS: SignedDuration = SignedDuration::from_mins(2);

/// The probable end without waiting for people; none if only people can end it.
///
/// `waves` holds the index of each wave that moves nodes, growing.
pub(super) fn estimated_end(
    row: &MigrationRow,
    waves: &[usize],
    nodes: &[NodeRow],
    now: Timestamp,
) -> Option<Timestamp> {
    if row.paused.is_some() || row.phase.is_final() || row.spec.commit == CommitPolicy::Manual {
        return None;
    }
    if matches!(row.phase, Phase::RollingBack | Phase::Committing | Phase::Approval) {
        return None;
    }
    let boot = measured_boot(row, nodes).unwrap_or(BOOT_GUESS);
    let hold = SignedDuration::from_secs(i64::from(row.spec.hold_seconds));
    if row.phase == Phase::Holding {
        return Some((row.phase_since + hold).max(now));
    }
    let mut left = hold;
    for index in waves.iter().filter(|index| **index >= row.wave) {
        let wave = row.spec.waves.get(*index)?;
        if wave.gate == Gate::Approval {
            return None;
        }
        let soak = SignedDuration::from_secs(i64::from(wave.soak_seconds));
        let is_present = *index == row.wave;
        left += match row.phase {
            Phase::Draining if is_present => DRAIN_GUESS + soak,
            Phase::Soaking if is_present => {
                (soak - now.duration_since(row.phase_since)).max(SignedDuration::ZERO)
            }
            _ => boot + DRAIN_GUESS + soak,
        };
    }
    Some(now + left)
}

/// How long this migration's own new nodes took, on average.
fn measured_boot(row: &MigrationRow, nodes: &[NodeRow]) -> Option<SignedDuration> {
    let times: Vec<i64> = nodes
        .iter()
        .filter(|node| node.job_id == Some(row.id))
        .filter_map(|node| Some(node.node.usable_at?.duration_since(node.node.created_at)))
        .map(|took| took.as_secs())
        .collect();
    let count = i64::try_from(times.len()).ok().filter(|count| *count > 0)?;
    Some(SignedDuration::from_secs(times.iter().sum::<i64>() / count))
}
