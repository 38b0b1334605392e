//! What an object's status says.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::object::Object;
use crate::app::migrations::MigrationView;
use crate::crd::wishes::Service;
use crate::crd::{Blocker, ClusterMigrationStatus, Progress};
use crate::domain::migration::{Direction, Phase};

/// Reasons and blockers that are listed.
const LISTED: usize = 20;
/// Longest text of a condition or reason.
const TEXT: usize = 1000;
/// The estimate moves with every second; it is told anew when it is this far off.
const ESTIMATE_STEP: SignedDuration = SignedDuration::from_mins(1);

/// The wishes that the service has of a migration.
pub(super) fn service(view: &MigrationView) -> Service {
    let row = &view.row;
    let is_back = row.wants_rollback
        || row.wants_cancel
        || matches!(row.phase, Phase::RollingBack | Phase::RolledBack | Phase::Cancelled);
    let number = |index: usize| u32::try_from(index + 1).unwrap_or(u32::MAX);
    Service {
        phase: row.phase,
        paused: row.paused.is_some(),
        direction: if is_back { Direction::Back } else { Direction::Forward },
        wants_commit: row.wants_commit,
        wave: number(row.wave),
        approved_wave: row.approved_wave.map(number),
        legal: view.legal.clone(),
    }
}

/// The status of an object whose migration is this one.
pub(super) fn of(
    view: &MigrationView,
    object: &Object,
    (refused, now): (&[String], Timestamp),
) -> ClusterMigrationStatus {
    let row = &view.row;
    let said = Said { object, now };
    let mut conditions = vec![said.condition("Accepted", "True", ("Accepted", ""))];
    conditions.push(match refused {
        [] => said.condition("WishesTaken", "True", ("Taken", "")),
        refused => said.condition("WishesTaken", "False", ("Illegal", &refused.join("; "))),
    });
    let (status, reason) = match row.phase {
        Phase::Succeeded => ("True", "Succeeded"),
        Phase::RolledBack => ("False", "RolledBack"),
        Phase::Cancelled => ("False", "Cancelled"),
        _ if row.paused.is_some() => ("Unknown", "Paused"),
        _ => ("Unknown", "UnderWay"),
    };
    conditions.push(said.condition("Succeeded", status, (reason, "")));
    for own in &row.conditions {
        conditions.push(Condition {
            type_: own.kind.clone(),
            status: if own.status { "True" } else { "False" }.to_owned(),
            reason: own.reason.clone(),
            message: shortened(&own.message),
            last_transition_time: Time(whole(own.last_transition)),
            observed_generation: None,
        });
    }
    ClusterMigrationStatus {
        observed_generation: Some(object.generation),
        migration_id: Some(row.id.to_string()),
        phase: Some(row.phase),
        direction: Some(service(view).direction),
        paused: row.paused.as_deref().map(shortened),
        progress: Some(progress(view)),
        waiting: row.waiting.iter().take(LISTED).map(|one| shortened(one)).collect(),
        blockers: blockers(view),
        estimated_end: estimate(view.estimated_end, object.status.estimated_end.as_ref()),
        finished_at: row.finished_at.map(|at| Time(whole(at))),
        created_by: Some(row.created_by.clone()),
        conditions,
    }
}

/// The status of an object that is no migration.
pub(super) fn refused(
    object: &Object,
    (reason, why): (&str, &str),
    now: Timestamp,
) -> ClusterMigrationStatus {
    let said = Said { object, now };
    ClusterMigrationStatus {
        observed_generation: Some(object.generation),
        conditions: vec![said.condition("Accepted", "False", (reason, why))],
        ..ClusterMigrationStatus::default()
    }
}

struct Said<'a> {
    object: &'a Object,
    now: Timestamp,
}

impl Said<'_> {
    /// A condition; it keeps its time of transition as long as its status stays.
    fn condition(&self, kind: &str, status: &str, (reason, message): (&str, &str)) -> Condition {
        let old = self.object.status.conditions.iter().find(|one| one.type_ == kind);
        let since = old.filter(|old| old.status == status);
        Condition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: shortened(message),
            last_transition_time: since
                .map_or_else(|| Time(whole(self.now)), |old| old.last_transition_time.clone()),
            observed_generation: Some(self.object.generation),
        }
    }
}

fn progress(view: &MigrationView) -> Progress {
    let row = &view.row;
    let waves: BTreeSet<usize> = view.waves.values().copied().collect();
    let through = match row.phase {
        Phase::Pending | Phase::Preflight | Phase::Cancelled => 0,
        Phase::Holding | Phase::Committing | Phase::Succeeded => waves.len(),
        _ => waves.iter().filter(|wave| **wave <= row.wave).count(),
    };
    let is_old = |id| view.waves.contains_key(id);
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let (old, new): (Vec<_>, Vec<_>) = view.nodes.iter().partition(|one| is_old(&one.node.id));
    let drained = old.iter().filter(|one| one.node.drain.is_over()).count();
    Progress {
        wave: format!("{through}/{}", waves.len()),
        nodes: format!("{drained}/{}", old.len()),
        old: count(old.len()),
        drained: count(drained),
        new: count(new.len()),
        usable: count(new.iter().filter(|one| one.node.is_usable()).count()),
    }
}

fn blockers(view: &MigrationView) -> Vec<Blocker> {
    let all = view.nodes.iter().flat_map(|member| {
        member.node.blockers.iter().map(|blocker| Blocker {
            node: member.node.name.clone(),
            pod: blocker.pod.clone(),
            reason: shortened(&blocker.reason),
        })
    });
    all.take(LISTED).collect()
}

/// The estimate, as it was told before if it is still about right.
fn estimate(now: Option<Timestamp>, told: Option<&Time>) -> Option<Time> {
    let now = whole(now?);
    match told {
        Some(told) if now.duration_since(told.0).abs() < ESTIMATE_STEP => Some(told.clone()),
        _ => Some(Time(now)),
    }
}

/// Kubernetes keeps whole seconds.
fn whole(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn shortened(text: &str) -> String {
    text.chars().take(TEXT).collect()
}
