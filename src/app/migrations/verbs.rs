//! Steering a migration. Every verb may be repeated; an illegal one says what would be legal.

use serde_json::json;

use super::{MigrationView, legal_verbs, subject, view};
use crate::app::act::{Act, Start};
use crate::app::authz::Action;
use crate::app::clusters::seen;
use crate::app::{App, Ask, Error, preflights};
use crate::domain::field::known;
use crate::domain::ids::{MigrationId, NodeId};
use crate::domain::migration::{Meaning, Phase, Verb};
use crate::domain::node::{Desired, Node};
use crate::plan::migration::way_back;
use crate::plan::pool::Pool;
use crate::store::clusters::{self, nodes, pools};
use crate::store::migrations::{self, MigrationRow};
use crate::store::work::{self, ResourceId, WorkKind};
use crate::store::{Tx, migration_progress};

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
    /// Which node, by name or id; only with `skip_node`.
    pub node: Option<&'a str>,
}

impl<'a> Steer<'a> {
    /// A verb with why.
    pub fn new(verb: Verb, reason: Option<&'a str>) -> Self {
        Self { verb, reason, seen: None, node: None }
    }
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
    if cluster.desired == Desired::Absent {
        return Err(Error::conflict("the cluster is being deleted, and its migration with it"));
    }
    let meaning = check(&old, steer)?;
    let skipped = skipped_node(&mut act.tx, &old, steer).await?;
    if steer.verb == Verb::Rollback && matches!(meaning, Meaning::Does(_)) {
        check_way_back(&mut act.tx, &old).await?;
    }
    let new = wished((&old, meaning), steer, &ask.caller.name);
    let mut is_new = new != old;
    if is_new {
        migrations::set_wishes(&mut act.tx, &new, act.now).await?;
    }
    if let Some(node) = &skipped {
        let why = said_by(&ask.caller.name, steer.reason);
        is_new |= migrations::skip(&mut act.tx, id, (node.id, &why), act.now).await?;
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
        migrations::forget_backoff(&mut act.tx, old.cluster_id).await?;
    }
    if is_new || forget {
        act.wake(WorkKind::Migration, id).await?;
        act.wake(WorkKind::Cluster, old.cluster_id).await?;
        let about = subject(&old, &cluster);
        let node = skipped.as_ref().map(|node| node.name.as_str());
        let detail = json!({ "phase": old.phase, "reason": steer.reason, "node": node });
        act.audit(&format!("migration.{}", steer.verb.as_str()), about, detail).await?;
        let why = steer.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        let verb = steer.verb.as_str().replace('_', " ");
        let of = node.map(|name| format!(" {name}")).unwrap_or_default();
        let said = format!("{} asked to {verb}{of}{why}", ask.caller.name);
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

/// Refuses what cannot be asked now.
fn check(row: &MigrationRow, steer: Steer<'_>) -> Result<Meaning, Error> {
    if steer.reason.is_some_and(|r| r.len() > REASON_MAX || r.chars().any(char::is_control)) {
        return Err(Error::field(
            "reason",
            format!("must be one line of at most {REASON_MAX} characters"),
        ));
    }
    match (steer.verb, steer.node) {
        (Verb::SkipNode, None) => {
            return Err(Error::field("node", "must name the node that nobody waits for"));
        }
        (Verb::SkipNode, Some(_)) | (_, None) => {}
        (verb, Some(_)) => {
            return Err(Error::field("node", format!("{} concerns no single node", verb.as_str())));
        }
    }
    if let Some(seen) = steer.seen
        && seen != row.generation
    {
        return Err(Error::Stale(row.generation));
    }
    let meaning = steer.verb.meaning(row.standing());
    let Meaning::Refused(why) = meaning else { return Ok(meaning) };
    let verb = steer.verb.as_str();
    Err(refused(row, format!("{verb} makes no sense there: {why}"), None))
}

/// A conflict that says where the migration is and what would be legal.
fn refused(row: &MigrationRow, why: String, but: Option<Verb>) -> Error {
    let legal = legal_verbs(row).into_iter().filter(|verb| Some(*verb) != but);
    let words: Vec<String> = legal.map(|verb| verb.as_str().to_owned()).collect();
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
    Error::Conflict {
        detail: format!("the migration is in phase {phase}{wish}: {why}; {now}"),
        legal: words,
    }
}

/// Turning back is refused while the old nodes could not carry what the new ones do.
async fn check_way_back(tx: &mut Tx, row: &MigrationRow) -> Result<(), Error> {
    let migration = migration_progress::load(tx, row.id).await?;
    let migration = migration.ok_or_else(|| Error::absent("migration", row.id))?;
    let rows = nodes::list(&mut **tx, row.cluster_id).await?;
    let nodes: Vec<Node> = rows.into_iter().map(|row| row.node).collect();
    let pools: Vec<Pool> = pools::list(&mut **tx, &[row.cluster_id])
        .await?
        .into_iter()
        .map(|pool| Pool {
            id: pool.id,
            name: pool.name,
            cloud: pool.cloud_id,
            count: pool.count,
            surge: pool.surge,
        })
        .collect();
    match way_back::closed(&migration, &pools, &nodes) {
        None => Ok(()),
        Some(why) => {
            let why = format!("the way back is closed until the source is ready again: {why}");
            Err(refused(row, why, Some(Verb::Rollback)))
        }
    }
}

/// A node whose drain nobody wants to wait for.
struct Skipped {
    id: NodeId,
    name: String,
}

/// The node that `skip_node` names, if its drain can be waited for at all: an old one on the way
/// forward, a new one on the way back.
async fn skipped_node(
    tx: &mut Tx,
    row: &MigrationRow,
    steer: Steer<'_>,
) -> Result<Option<Skipped>, Error> {
    let Some(wanted) = steer.node else { return Ok(None) };
    let is_back = row.phase == Phase::RollingBack && row.wants_rollback;
    let (cloud, side) = if is_back { (row.target, "new") } else { (row.source, "old") };
    let rows = nodes::list(&mut **tx, row.cluster_id).await?;
    let mut there: Vec<&Node> = rows
        .iter()
        .map(|row| &row.node)
        .filter(|node| node.pool_id.is_some_and(|pool| row.pools.contains(&pool)))
        .filter(|node| node.cloud_id == cloud && node.desired == Desired::Present)
        .collect();
    there.sort_by(|a, b| a.name.cmp(&b.name));
    let named = |node: &&&Node| node.name == wanted || node.id.to_string() == wanted;
    if let Some(node) = there.iter().find(named) {
        return Ok(Some(Skipped { id: node.id, name: node.name.clone() }));
    }
    let open = there.iter().filter(|node| !node.drain.is_over());
    let names = known(open.map(|node| node.name.as_str()));
    Err(Error::field("node", format!("no {side} node of this migration; {names}")))
}

/// Who asked, and why.
fn said_by(by: &str, reason: Option<&str>) -> String {
    match reason {
        Some(reason) => format!("by {by}: {reason}"),
        None => format!("by {by}"),
    }
}

fn wished((old, meaning): (&MigrationRow, Meaning), steer: Steer<'_>, by: &str) -> MigrationRow {
    let mut new = old.clone();
    if !matches!(meaning, Meaning::Does(_)) {
        return new;
    }
    match steer.verb {
        Verb::Pause => new.paused = Some(said_by(by, steer.reason)),
        Verb::Resume => new.paused = None,
        Verb::Approve => new.approved_wave = Some(old.wave),
        Verb::Rollback => {
            // A wish to commit that was not yet taken up is void. A pause held the way forward;
            // whoever wants the way back wants it to go on.
            new.wants_rollback = true;
            new.wants_commit = false;
            new.paused = None;
        }
        Verb::Forward => {
            new.wants_rollback = false;
            new.paused = None;
        }
        Verb::Commit => new.wants_commit = true,
        Verb::Cancel => new.wants_cancel = true,
        Verb::SkipNode | Verb::Retry => {}
    }
    new
}

fn event_reason(verb: Verb) -> &'static str {
    match verb {
        Verb::Pause => "MigrationPauseRequested",
        Verb::Resume => "MigrationResumeRequested",
        Verb::Approve => "WaveApproved",
        Verb::SkipNode => "NodeSkipRequested",
        Verb::Rollback => "MigrationRollbackRequested",
        Verb::Forward => "MigrationForwardRequested",
        Verb::Commit => "MigrationCommitRequested",
        Verb::Cancel => "MigrationCancelRequested",
        Verb::Retry => "MigrationRetryRequested",
    }
}
