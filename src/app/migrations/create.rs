//! Accepting a migration: the wish is checked, and the list of nodes and their waves is fixed.

use std::collections::BTreeSet;

use serde_json::json;

use super::{MigrationView, subject, view};
use crate::app::act::{Act, Start};
use crate::app::authz::Action;
use crate::app::cloud_pairs::way;
use crate::app::clusters::fit::{self, Clouds, Demand};
use crate::app::clusters::seen;
use crate::app::{App, Ask, Error, preflights};
use crate::domain::cluster::ClusterPhase;
use crate::domain::field::{FieldErrors, known};
use crate::domain::ids::{CloudId, ClusterId, MigrationId, PoolId};
use crate::domain::migration::{MigrationNode, MigrationSpec, Phase};
use crate::domain::node::Desired;
use crate::plan::preflight::assign_waves;
use crate::plan::resolve::Names;
use crate::store::clouds::CloudRow;
use crate::store::clusters::nodes::NodeRow;
use crate::store::clusters::pools::PoolRow;
use crate::store::clusters::{self, ClusterRow, nodes, pools};
use crate::store::migrations::{self, MigrationRow, ONE_PER_CLUSTER};
use crate::store::offerings;
use crate::store::work::WorkKind;
use crate::store::{Tx, cloud_pairs, clouds};

/// What a wish comes down to.
pub(in crate::app) struct Resolved {
    /// Cloud that is left.
    pub source: CloudId,
    /// Cloud that is moved to.
    pub target: CloudId,
    /// Pools that move.
    pub pools: Vec<PoolRow>,
}

/// Starts a migration.
pub async fn create(
    app: &App,
    ask: &Ask,
    id: ClusterId,
    spec: &MigrationSpec,
) -> Result<MigrationView, Error> {
    let mut act = match Act::start(app, ask).await? {
        Start::Fresh(act) => act,
        Start::Done(made) => return view(app, &ask.caller, MigrationId(made)).await,
    };
    let made = accept(&mut act, id, spec).await?;
    act.commit(made.0).await?;
    view(app, &ask.caller, made).await
}

/// Accepts a migration within a request.
pub(super) async fn accept(
    act: &mut Act<'_>,
    id: ClusterId,
    spec: &MigrationSpec,
) -> Result<MigrationId, Error> {
    let (app, ask) = (act.app, act.ask);
    let cluster = seen(clusters::lock(&mut act.tx, id).await?, &ask.caller, id)?;
    ask.caller.may(Action::ChangeMigrations)?;
    spec.check().into_result(())?;
    check_state(&mut act.tx, &cluster).await?;
    let resolved = resolve_wish(&mut act.tx, &cluster, spec).await?;
    let rows = nodes::list(&mut *act.tx, id).await?;
    let old = old_nodes(spec, &resolved.pools, &rows);
    if old.is_empty() {
        return Err(Error::conflict(
            "no usable node in these pools is on the source: there is nothing to move",
        ));
    }
    let preflight = preflights::begin(act, (&cluster, spec), &resolved).await?;
    let row = MigrationRow {
        preflight_id: Some(preflight),
        ..row((app, ask), (&cluster, spec), &resolved, &old)
    };
    migrations::insert(&mut act.tx, &row, &old).await.map_err(|error| {
        if error.constraint() == Some(ONE_PER_CLUSTER) {
            return Error::conflict("the cluster has a migration under way");
        }
        error.into()
    })?;
    act.wake(WorkKind::Migration, row.id).await?;
    act.wake(WorkKind::Cluster, id).await?;
    let to = &spec.target;
    let detail = json!({ "cluster": cluster.name, "target": to, "nodes": old.len() });
    act.audit("migration.create", subject(&row, &cluster), detail).await?;
    let said = format!("{} asked to move {} nodes to {to}", ask.caller.name, old.len());
    act.event(subject(&row, &cluster), "MigrationRequested", said).await?;
    Ok(row.id)
}

async fn check_state(tx: &mut Tx, cluster: &ClusterRow) -> Result<(), Error> {
    if cluster.desired == Desired::Absent {
        return Err(Error::conflict("the cluster is being deleted"));
    }
    if cluster.phase != ClusterPhase::Running {
        return Err(Error::conflict("the cluster is being created: migrate it when it is running"));
    }
    if let Some(open) = migrations::list_open(&mut **tx, &[cluster.id]).await?.first() {
        return Err(Error::conflict(format!(
            "migration {} of the cluster is under way, in phase {}",
            open.id,
            open.phase.as_str()
        )));
    }
    Ok(())
}

/// The wish with ids instead of names, if what it moves to can take it as far as that is known.
async fn resolve_wish(
    tx: &mut Tx,
    cluster: &ClusterRow,
    spec: &MigrationSpec,
) -> Result<Resolved, Error> {
    let resolved = resolve_names(tx, cluster, spec).await?;
    let find = async |tx: &mut Tx, id| {
        let found = clouds::find(&mut **tx, id).await?;
        found.ok_or_else(|| Error::internal("find a cloud", "none"))
    };
    let target = find(tx, resolved.target).await?;
    fit::check_ready(&target)?;
    let source = find(tx, resolved.source).await?;
    fit::check_ready(&source)?;
    check_target(tx, cluster, (&source, &target), &resolved.pools).await?;
    Ok(resolved)
}

/// The wish with ids instead of names.
pub(in crate::app) async fn resolve_names(
    tx: &mut Tx,
    cluster: &ClusterRow,
    spec: &MigrationSpec,
) -> Result<Resolved, Error> {
    let all = pools::list(&mut **tx, &[cluster.id]).await?;
    let mut errors = FieldErrors::default();
    let mut chosen = choose(&all, &spec.pools, &mut errors);
    let mut names = vec![spec.target.clone()];
    names.extend(spec.source.clone());
    let clouds = Clouds::load(tx, &names).await?;
    let source = match &spec.source {
        Some(name) => clouds.named(name, "source", &mut errors).map(|cloud| cloud.id),
        None => only_cloud(&chosen, &mut errors),
    };
    let target = clouds.named(&spec.target, "target", &mut errors).map(|cloud| cloud.id);
    let (Some(source), Some(target)) = (source, target) else { return Err(errors.into()) };
    if source == target {
        errors.push("target", "must be another cloud than the source");
    }
    chosen = on_source(chosen, source, &spec.pools, &mut errors);
    errors.into_result(())?;
    Ok(Resolved { source, target, pools: chosen })
}

fn choose(all: &[PoolRow], wanted: &[String], errors: &mut FieldErrors) -> Vec<PoolRow> {
    if wanted.is_empty() {
        return all.to_vec();
    }
    let mut chosen = Vec::new();
    for (n, name) in wanted.iter().enumerate() {
        let known = || known(all.iter().map(|pool| pool.name.as_str()));
        match all.iter().find(|pool| pool.name == *name) {
            _ if wanted[..n].contains(name) => {
                errors.push(format!("pools[{n}]"), "stands there already");
            }
            Some(pool) => chosen.push(pool.clone()),
            None => errors.push(format!("pools[{n}]"), format!("no pool {name}; {}", known())),
        }
    }
    chosen
}

/// The one cloud on which all the pools are.
fn only_cloud(pools: &[PoolRow], errors: &mut FieldErrors) -> Option<CloudId> {
    let clouds: BTreeSet<CloudId> = pools.iter().map(|pool| pool.cloud_id).collect();
    match clouds.len() {
        1 => clouds.first().copied(),
        0 => {
            errors.push("pools", "the cluster has no such pool");
            None
        }
        _ => {
            errors.push("source", "the pools are on several clouds: name the one to leave");
            None
        }
    }
}

/// Named pools must be on the source; without names, those on the source are meant.
fn on_source(
    pools: Vec<PoolRow>,
    source: CloudId,
    named: &[String],
    errors: &mut FieldErrors,
) -> Vec<PoolRow> {
    let (here, elsewhere): (Vec<_>, Vec<_>) =
        pools.into_iter().partition(|pool| pool.cloud_id == source);
    for pool in elsewhere.iter().filter(|_| !named.is_empty()) {
        errors.push("pools", format!("pool {} is not on the source", pool.name));
    }
    if here.is_empty() && elsewhere.is_empty() == named.is_empty() {
        errors.push("source", "no pool of the cluster is there");
    }
    here
}

/// What the new nodes need must be there, for all of them at once, and every name that the pools
/// use must mean something there.
async fn check_target(
    tx: &mut Tx,
    cluster: &ClusterRow,
    (source, target): (&CloudRow, &CloudRow),
    pools: &[PoolRow],
) -> Result<(), Error> {
    let mut errors = FieldErrors::default();
    let offering = offerings::find(&mut **tx, cluster.offering_id).await?;
    let offering = offering.ok_or_else(|| Error::internal("find an offering", "none"))?;
    let pair = cloud_pairs::hold(tx, (source.id, target.id)).await?.map(|pair| pair.spec);
    let way = way(source, target, pair.as_ref());
    let way = way.ok_or_else(|| Error::internal("read inventories", "none"))?;
    let mut demand = Demand::default();
    for pool in pools {
        if let Err(wrong) = way.place(names(pool), &offering.spec) {
            for one in wrong.0 {
                let problem = format!("pool {}: {}: {}", pool.name, one.field, one.problem);
                errors.push("target", problem);
            }
        } else if let Ok(flavor) = way.flavor(&pool.flavor) {
            demand.add(pool.count, flavor);
        }
    }
    for problem in demand.shortage(target, fit::inventory(target)?) {
        errors.push("target", problem);
    }
    Ok(errors.into_result(())?)
}

fn names(pool: &PoolRow) -> Names<'_> {
    Names {
        flavor: &pool.flavor,
        zone: pool.zone.as_deref(),
        network: pool.network.as_deref(),
        security_group: pool.security_group.as_deref(),
        image: pool.image.as_deref(),
    }
}

/// Fixes which usable node goes in which wave: by pool, and by name within a pool.
fn old_nodes(spec: &MigrationSpec, pools: &[PoolRow], rows: &[NodeRow]) -> Vec<MigrationNode> {
    let pools: Vec<_> = pools.iter().map(|pool| (pool.id, pool.cloud_id)).collect();
    assign_waves(spec, &pools, rows.iter().map(|row| &row.node))
}

fn row(
    (app, ask): (&App, &Ask),
    (cluster, spec): (&ClusterRow, &MigrationSpec),
    resolved: &Resolved,
    old: &[MigrationNode],
) -> MigrationRow {
    let now = app.now();
    MigrationRow {
        id: MigrationId(app.ids.uuid()),
        cluster_id: cluster.id,
        source: resolved.source,
        target: resolved.target,
        preflight_id: None,
        spec: spec.clone(),
        pools: resolved.pools.iter().map(|pool| pool.id).collect::<Vec<PoolId>>(),
        phase: Phase::Pending,
        phase_since: now,
        wave: old.iter().map(|node| node.wave).min().unwrap_or(0),
        paused: None,
        resumed_at: None,
        approved_wave: None,
        wants_commit: false,
        wants_rollback: false,
        wants_cancel: false,
        healthy_since: None,
        conditions: Vec::new(),
        waiting: Vec::new(),
        generation: 1,
        created_by: ask.caller.name.clone(),
        created_at: now,
        updated_at: now,
        finished_at: None,
    }
}
