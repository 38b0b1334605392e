//! Steering a migration. Every verb may be repeated; an illegal one says what would be legal.

use serde_json::json;

use super::{MigrationView, legal_verbs, subject, view};
use crate::app::act::{Act, Start};
use crate::app::authz::Action;
use crate::app::clusters::seen;
use crate::app::{App, Ask, Error, preflights};
use crate::domain::ids::MigrationId;
use crate::domain::migration::{Phase, Verb};
use crate::store::migrations::{self, MigrationRow};
use crate::store::work::{self, ResourceId, WorkKind};
use crate::store::{Tx, clusters};

/// Longest reason.
const REASON_MAX: usize = 200;

/// A verb with why.
#[derive(Debug, Clone, Copy)]
pub struct Steer<'a> {
    /// What is wanted.
    pub verb: Verb,
    /// Why, for whoever reads the timeline.
    pub reason: Option<&'a str>,
    /// The generation that the caller has seen.
    pub seen: Option<i64>,
}

/// Does what a verb says.
pub async fn steer(
    app: &App,
    ask: &Ask,
    id: MigrationId,
    steer: Steer<'_>,
) -> Result<MigrationView, Error> {
    let mut act = match Act::start(app, ask).await? {
        Start::Fresh(act) => act,
        Start::Done(id) => return view(app, &ask.caller, MigrationId(id)).await,
    };
    write(&mut act, id, steer).await?;
    act.commit(id.0).await?;
    view(app, &ask.caller, id).await
}

/// Does what a verb says, within a request.
pub(super) async fn write(
    act: &mut Act<'_>,
    id: MigrationId,
    steer: Steer<'_>,
) -> Result<(), Error> {
    let ask = act.ask;
    let old = migrations::lock(&mut act.tx, id).await?;
    let old = old.ok_or_else(|| Error::absent("migration", id))?;
    let cluster = clusters::find(&mut *act.tx, old.cluster_id).await?;
    let cluster =
        seen(cluster, &ask.caller, old.cluster_id).map_err(|_| Error::absent("migration", id))?;
    ask.caller.may(Action::ChangeMigrations)?;
    check(&old, steer)?;
    let new = wished(&old, steer, &ask.caller.name);
    let is_new = new != old;
    if is_new {
        migrations::set_wishes(&mut act.tx, &new, act.now).await?;
    }
    let forget = steer.verb == Verb::Retry;
    if forget {
        for (kind, item) in [
            (WorkKind::Migration, ResourceId::from(id)),
            (WorkKind::Cluster, ResourceId::from(old.cluster_id)),
            (WorkKind::ObserveNodes, ResourceId::from(old.cluster_id)),
        ] {
            retry(&mut act.tx, kind, item, act.now).await?;
        }
        let is_early = matches!(old.phase, Phase::Pending | Phase::Preflight);
        if let Some(preflight) = old.preflight_id.filter(|_| is_early) {
            preflights::want_check(act, preflight).await?;
        }
    }
    if is_new || forget {
        act.wake(WorkKind::Migration, id).await?;
        act.wake(WorkKind::Cluster, old.cluster_id).await?;
        let about = subject(&old, &cluster);
        let detail = json!({ "phase": old.phase, "reason": steer.reason });
        act.audit(&format!("migration.{}", steer.verb.as_str()), about, detail).await?;
        let why = steer.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        let said = format!("{} asked to {}{why}", ask.caller.name, steer.verb.as_str());
        act.event(about, event_reason(steer.verb), said).await?;
    }
    Ok(())
}

/// Forgets back-off and attempts, if there is such an item.
async fn retry(
    tx: &mut Tx,
    kind: WorkKind,
    id: ResourceId,
    now: jiff::Timestamp,
) -> Result<(), Error> {
    work::retry(tx, kind, id, now).await?;
    Ok(())
}

fn check(row: &MigrationRow, steer: Steer<'_>) -> Result<(), Error> {
    if steer.reason.is_some_and(|r| r.len() > REASON_MAX || r.chars().any(char::is_control)) {
        return Err(Error::field(
            "reason",
            format!("must be one line of at most {REASON_MAX} characters"),
        ));
    }
    if let Some(seen) = steer.seen
        && seen != row.generation
    {
        return Err(Error::Stale(row.generation));
    }
    let legal = legal_verbs(row);
    if legal.contains(&steer.verb) {
        return Ok(());
    }
    let words: Vec<String> = legal.iter().map(|verb| verb.as_str().to_owned()).collect();
    let phase = row.phase.as_str();
    let wish = if row.wants_rollback && !row.phase.is_final() {
        ", and turning back was asked for"
    } else {
        ""
    };
    let now = if words.is_empty() {
        "nothing is legal any more".to_owned()
    } else {
        format!("legal now: {}", words.join(", "))
    };
    Err(Error::Conflict {
        detail: format!(
            "the migration is in phase {phase}{wish}: {} makes no sense there; {now}",
            steer.verb.as_str()
        ),
        legal: words,
    })
}

fn wished(old: &MigrationRow, steer: Steer<'_>, by: &str) -> MigrationRow {
    let mut new = old.clone();
    match steer.verb {
        Verb::Pause => {
            if new.paused.is_none() {
                new.paused = Some(match steer.reason {
                    Some(reason) => format!("by {by}: {reason}"),
                    None => format!("by {by}"),
                });
            }
        }
        Verb::Resume => new.paused = None,
        Verb::Approve => new.approved_wave = Some(old.wave),
        Verb::Rollback => {
            // Turning back is the last word: a wish to commit that was not yet taken up is void.
            // A pause held the way forward; whoever wants the way back wants it to go on.
            new.wants_rollback = true;
            new.wants_commit = false;
            new.paused = if old.wants_rollback { new.paused } else { None };
        }
        Verb::Commit => new.wants_commit = true,
        Verb::Cancel => new.wants_cancel = true,
        Verb::Retry => {}
    }
    if old.phase.is_final() || (steer.verb == Verb::Commit && old.phase == Phase::Committing) {
        // Asked again for what already is so.
        return old.clone();
    }
    new
}

fn event_reason(verb: Verb) -> &'static str {
    match verb {
        Verb::Pause => "MigrationPauseRequested",
        Verb::Resume => "MigrationResumeRequested",
        Verb::Approve => "WaveApproved",
        Verb::Rollback => "MigrationRollbackRequested",
        Verb::Commit => "MigrationCommitRequested",
        Verb::Cancel => "MigrationCancelRequested",
        Verb::Retry => "MigrationRetryRequested",
    }
}
