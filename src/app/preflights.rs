//! Preflights: what there is to know before a migration, asked for, looked at again, waived.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::act::{Act, Start, Subject};
use super::authz::{Action, Caller};
use super::clusters::seen;
use super::migrations::create::{Resolved, resolve_names};
use super::{App, Ask, Error};
use crate::domain::cluster::ClusterPhase;
use crate::domain::field::FieldErrors;
use crate::domain::ids::{CloudId, ClusterId, MigrationId, PreflightId};
use crate::domain::insight::{Insight, InsightId, Level, Waiver, with_waivers};
use crate::domain::migration::{MigrationSpec, Phase};
use crate::store::clusters::{self, ClusterRow};
use crate::store::preflights::{self, Owner, PreflightRow};
use crate::store::work::WorkKind;
use crate::store::{Tx, clouds, projects};

/// Longest reason of a waiver.
const REASON_MAX: usize = 200;
/// Longest life of a waiver: who goes on after that should look again.
const WAIVER_MAX: SignedDuration = SignedDuration::from_hours(30 * 24);

/// A preflight with what surrounds it.
#[derive(Debug, Clone)]
pub struct PreflightView {
    /// The preflight.
    pub row: PreflightRow,
    /// What was found, with the waivers that count now, the worst first.
    pub insights: Vec<Insight>,
    /// How many of them stand against the migration now.
    pub blocking: usize,
    /// Its cluster.
    pub cluster: ClusterRow,
    /// Name of the cluster's project.
    pub project: String,
    /// Names of clouds.
    pub clouds: BTreeMap<CloudId, String>,
    /// The migration that it belongs to, if any.
    pub migration: Option<MigrationId>,
}

/// What a waiver says.
#[derive(Debug, Clone, Copy)]
pub struct NewWaiver<'a> {
    /// Which insight.
    pub insight: &'a InsightId,
    /// Why it is no reason to wait.
    pub reason: &'a str,
    /// Until when.
    pub expires_at: Timestamp,
}

fn subject(row: &PreflightRow, cluster: &ClusterRow) -> Subject {
    Subject {
        kind: "preflight",
        id: row.id.0,
        project: Some(cluster.project_id),
        cluster: Some(cluster.id),
    }
}

/// Looks at what a migration would meet, and starts none.
pub async fn create(
    app: &App,
    ask: &Ask,
    id: ClusterId,
    spec: &MigrationSpec,
) -> Result<PreflightView, Error> {
    let mut act = match Act::start(app, ask).await? {
        Start::Fresh(act) => act,
        Start::Done(made) => return view(app, &ask.caller, PreflightId(made)).await,
    };
    let cluster = seen(clusters::lock(&mut act.tx, id).await?, &ask.caller, id)?;
    ask.caller.may(Action::ChangeMigrations)?;
    spec.check().into_result(())?;
    if cluster.phase != ClusterPhase::Running {
        return Err(Error::conflict("only a running cluster can be migrated"));
    }
    let resolved = resolve_names(&mut act.tx, &cluster, spec).await?;
    let made = begin(&mut act, (&cluster, spec), &resolved).await?;
    act.commit(made.0).await?;
    view(app, &ask.caller, made).await
}

/// Adds a preflight and wakes its worker. Waivers that were given for the same cluster and target
/// and still count are taken over, so what was agreed to while planning need not be said again.
pub(super) async fn begin(
    act: &mut Act<'_>,
    (cluster, spec): (&ClusterRow, &MigrationSpec),
    resolved: &Resolved,
) -> Result<PreflightId, Error> {
    let before = preflights::newest(&mut *act.tx, (cluster.id, Some(resolved.target))).await?;
    let mut waivers = before.map(|row| row.waivers).unwrap_or_default();
    waivers.retain(|(_, waiver)| waiver.expires_at > act.now);
    let row = PreflightRow {
        id: PreflightId(act.app.ids.uuid()),
        cluster_id: cluster.id,
        source: resolved.source,
        target: resolved.target,
        spec: spec.clone(),
        pools: resolved.pools.iter().map(|pool| pool.id).collect(),
        waivers,
        wanted: 1,
        done: 0,
        cloud_check: None,
        cloud_asked_at: None,
        insights: Vec::new(),
        plan: None,
        checked_at: None,
        created_by: act.ask.caller.name.clone(),
        created_at: act.now,
    };
    preflights::insert(&mut act.tx, &row).await?;
    act.wake(WorkKind::Preflight, row.id).await?;
    let detail = json!({ "cluster": cluster.name, "target": spec.target });
    act.audit("preflight.create", subject(&row, cluster), detail).await?;
    Ok(row.id)
}

/// One preflight.
pub async fn show(app: &App, caller: &Caller, id: PreflightId) -> Result<PreflightView, Error> {
    caller.may(Action::ReadClusters)?;
    view(app, caller, id).await
}

async fn view(app: &App, caller: &Caller, id: PreflightId) -> Result<PreflightView, Error> {
    let mut tx = app.store.snapshot().await?;
    let row = preflights::find(&mut *tx, id).await?;
    let (row, cluster) = visible(&mut tx, caller, (id, row)).await?;
    let project = projects::find(&mut *tx, cluster.project_id).await?;
    let owner = preflights::owner(&mut *tx, id).await?;
    let now = app.now();
    let insights = with_waivers(row.insights.clone(), &row.waivers, now);
    Ok(PreflightView {
        blocking: insights.iter().filter(|one| one.blocks(now)).count(),
        insights,
        project: project.map(|project| project.name).unwrap_or_default(),
        clouds: clouds::names(&mut *tx).await?,
        migration: owner.map(|owner| owner.migration),
        row,
        cluster,
    })
}

/// The preflight and its cluster, if the caller may know of them.
async fn visible(
    tx: &mut Tx,
    caller: &Caller,
    (id, row): (PreflightId, Option<PreflightRow>),
) -> Result<(PreflightRow, ClusterRow), Error> {
    let absent = || Error::absent("preflight", id);
    let row = row.ok_or_else(absent)?;
    let cluster = clusters::find(&mut **tx, row.cluster_id).await?;
    let cluster = seen(cluster, caller, row.cluster_id).map_err(|_| absent())?;
    Ok((row, cluster))
}

/// Looks again now.
pub async fn check(app: &App, ask: &Ask, id: PreflightId) -> Result<PreflightView, Error> {
    let mut act = match Act::start(app, ask).await? {
        Start::Fresh(act) => act,
        Start::Done(id) => return view(app, &ask.caller, PreflightId(id)).await,
    };
    let row = preflights::lock(&mut act.tx, id).await?;
    visible(&mut act.tx, &ask.caller, (id, row)).await?;
    ask.caller.may(Action::ChangeMigrations)?;
    want_check(&mut act, id).await?;
    act.commit(id.0).await?;
    view(app, &ask.caller, id).await
}

/// Wants a look and wakes the worker.
pub(super) async fn want_check(act: &mut Act<'_>, id: PreflightId) -> Result<(), Error> {
    preflights::want_check(&mut act.tx, id).await?;
    act.wake(WorkKind::Preflight, id).await
}

/// Goes on in spite of an insight, in the caller's name.
pub async fn waive(
    app: &App,
    ask: &Ask,
    id: PreflightId,
    new: NewWaiver<'_>,
) -> Result<PreflightView, Error> {
    let mut act = match Act::start(app, ask).await? {
        Start::Fresh(act) => act,
        Start::Done(id) => return view(app, &ask.caller, PreflightId(id)).await,
    };
    let row = preflights::lock(&mut act.tx, id).await?;
    let (row, cluster) = visible(&mut act.tx, &ask.caller, (id, row)).await?;
    ask.caller.may(Action::ChangeMigrations)?;
    check_waiver(&row, new, act.now)?;
    let waiver = Waiver {
        author: ask.caller.name.clone(),
        reason: new.reason.to_owned(),
        expires_at: new.expires_at,
    };
    let mut waivers = row.waivers.clone();
    waivers.retain(|(of, _)| of != new.insight);
    waivers.push((new.insight.clone(), waiver));
    preflights::set_waivers(&mut act.tx, id, &waivers).await?;
    let detail = json!({
        "insight": new.insight, "reason": new.reason, "expires_at": new.expires_at,
    });
    act.audit("preflight.waive", subject(&row, &cluster), detail).await?;
    let about = match preflights::owner(&mut *act.tx, id).await? {
        Some(Owner { migration, phase, .. }) => {
            if matches!(phase, Phase::Pending | Phase::Preflight) {
                act.wake(WorkKind::Migration, migration).await?;
            }
            Subject { kind: "migration", id: migration.0, ..subject(&row, &cluster) }
        }
        None => subject(&row, &cluster),
    };
    let (by, until) = (&ask.caller.name, new.expires_at);
    let said = format!("{by} waived {} until {until:.0}: {}", new.insight, new.reason);
    act.event(about, "InsightWaived", said).await?;
    act.commit(id.0).await?;
    view(app, &ask.caller, id).await
}

fn check_waiver(row: &PreflightRow, new: NewWaiver<'_>, now: Timestamp) -> Result<(), Error> {
    let mut errors = FieldErrors::default();
    let is_line = |text: &str| text.len() <= REASON_MAX && !text.chars().any(char::is_control);
    if new.reason.trim().is_empty() || !is_line(new.reason) {
        errors.push("reason", format!("must be one line of 1 to {REASON_MAX} characters"));
    }
    if new.expires_at <= now || new.expires_at.duration_since(now) > WAIVER_MAX {
        errors.push("expires_at", "must be in the future, and at most 30 days from now");
    }
    let found = row.insights.iter().find(|one| one.id == *new.insight);
    if found.is_none() {
        let blocking = row.insights.iter().filter(|one| one.level == Level::Block);
        let names: Vec<&str> =
            blocking.filter(|one| one.is_waivable).map(|one| one.id.as_str()).collect();
        let known = crate::domain::field::known(names);
        errors.push("insight", format!("nothing of that name was found; {known}"));
    }
    errors.into_result(())?;
    match found {
        Some(found) if found.level != Level::Block => Err(Error::conflict(format!(
            "{} is {}: nothing waits for it",
            found.id,
            found.level.as_str()
        ))),
        Some(found) if !found.is_waivable => Err(Error::conflict(format!(
            "{} can't be waived, since the move can't work with it: {}",
            found.id, found.fix
        ))),
        _ => Ok(()),
    }
}
