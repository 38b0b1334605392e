//! The canaries of a look: which it needs, which are on their way, what they found.
//!
//! A good result is believed for a day, whoever asked for it. A bad one only for the wish that it
//! was made for: who asks again has mended something.

use std::collections::BTreeMap;

use super::super::WorkError;
use super::super::context::Context;
use crate::domain::canary::Outcome;
use crate::domain::cloud::CloudPhase;
use crate::domain::ids::CanaryId;
use crate::domain::insight::{Insight, Level};
use crate::domain::migration::CanaryPolicy;
use crate::plan::preflight::{CanaryEnd, CanaryFacts, CanaryState, Facts, check, is_bad};
use crate::plan::resolve::{Side, Way};
use crate::store::canaries::{self, CanaryRow, NewCanary, Place};
use crate::store::events::EventType;
use crate::store::preflights::PreflightRow;
use crate::store::work::{Lease, WorkKind, wake};
use crate::store::{cloud_pairs, cluster_progress};
use crate::worker::timeline::{NodeEvent, record_cluster};

/// A canary that a look needs, with what is not part of its place.
struct Need {
    place: Place,
    security_group: Option<String>,
    zone: Option<String>,
}

/// What is known of the canaries that a look needs; those that nobody knows of are made, unless the
/// wish leaves them out: then only results that are there already are told.
pub(super) async fn canaries(
    context: &Context,
    lease: &Lease,
    (row, facts): (&PreflightRow, &Facts),
) -> Result<Vec<CanaryFacts>, WorkError> {
    let mut known = Vec::new();
    if facts.target.phase != CloudPhase::Ready {
        return Ok(known);
    }
    let is_off = facts.spec.canary == CanaryPolicy::Off;
    // A server that can't be made, or for a move that can't be, tells nothing.
    let is_hopeless = |one: &Insight| one.level == Level::Block && !one.is_waivable;
    let may_start = !is_off && !check(facts).iter().any(is_hopeless);
    for need in needs(context, row, facts).await? {
        let newest = canaries::newest(context.store.pool(), &need.place).await?;
        let state = match newest {
            Some(one) if one.outcome.is_none() && is_off => continue,
            Some(one) if one.outcome.is_none() => CanaryState::Running { since: one.created_at },
            Some(one) if is_believed(facts, row, &one) => CanaryState::Ended(Box::new(end(one))),
            _ if may_start => {
                start(context, lease, (row, &need)).await?;
                CanaryState::Running { since: facts.now }
            }
            _ => continue,
        };
        known.push(CanaryFacts { flavor: need.place.flavor, state });
    }
    Ok(known)
}

/// One for each flavor, image and network that the pools get on the target. None where a name
/// means nothing there, which other checks say.
async fn needs(
    context: &Context,
    row: &PreflightRow,
    facts: &Facts,
) -> Result<Vec<Need>, WorkError> {
    let pool = context.store.pool();
    let (Some(source), Some(target)) = (&facts.source.inventory, &facts.target.inventory) else {
        return Ok(Vec::new());
    };
    let pair = cloud_pairs::find(pool, (row.source, row.target)).await?.map(|pair| pair.spec);
    let way = Way {
        source: Side { name: &facts.source.name, spec: &facts.source.spec, inventory: source },
        target: Side { name: &facts.target.name, spec: &facts.target.spec, inventory: target },
        pair: pair.as_ref(),
    };
    let offering = &facts.cluster.offering;
    let mut found = BTreeMap::new();
    let pools = cluster_progress::pools(pool, row.cluster_id).await?;
    for pool in pools.iter().filter(|pool| row.pools.contains(&pool.id)) {
        let Ok(flavor) = way.flavor(&pool.flavor) else { continue };
        let Ok((network, _)) = way.network(pool.network.as_deref()) else { continue };
        let Ok((image, _)) = way.image(pool.image.as_deref(), offering) else { continue };
        let Ok((group, _)) = way.security_group(pool.security_group.as_deref()) else { continue };
        let Ok(zone) = way.zone(pool.zone.as_deref()) else { continue };
        let place = Place {
            cluster_id: row.cluster_id,
            source_cloud_id: row.source,
            cloud_id: row.target,
            flavor: flavor.name.clone(),
            image_id: image.id.clone(),
            network_id: network.id.clone(),
        };
        // Two at once of one flavor would be one: see the table's key.
        found.entry(place.flavor.clone()).or_insert(Need {
            place,
            security_group: Some(group.id.clone()),
            zone,
        });
    }
    Ok(found.into_values().collect())
}

fn is_believed(facts: &Facts, row: &PreflightRow, canary: &CanaryRow) -> bool {
    if !canary.is_valid(facts.now) {
        return false;
    }
    let is_of_this_wish = canary.job_id == Some(row.id.0) && canary.wish >= row.wanted;
    let ended_for_us = row.wanted <= 1 && canary.finished_at > Some(row.created_at);
    is_of_this_wish || ended_for_us || !is_bad(facts, &end(canary.clone()))
}

fn end(row: CanaryRow) -> CanaryEnd {
    CanaryEnd {
        outcome: row.outcome.unwrap_or(Outcome::GivenUp),
        reason: row.reason.unwrap_or_default(),
        console: row.console.unwrap_or_default(),
        report: row.report,
        peer: row.peer_report,
        kubelet: row.kubelet,
        at: row.finished_at.unwrap_or(row.created_at),
    }
}

async fn start(
    context: &Context,
    lease: &Lease,
    (row, need): (&PreflightRow, &Need),
) -> Result<(), WorkError> {
    let now = context.now();
    let new = NewCanary {
        id: CanaryId(context.ids.uuid()),
        place: &need.place,
        security_group: need.security_group.as_deref(),
        zone: need.zone.as_deref(),
        job: (row.id.0, row.wanted),
    };
    let mut tx = context.fenced(lease).await?;
    if canaries::ensure(&mut tx, new, now).await? {
        wake(&mut tx, WorkKind::Cluster, row.cluster_id, now).await?;
        if let Some(cluster) = cluster_progress::load(&mut **tx, row.cluster_id).await? {
            let said = format!("a canary of flavor {} is wanted", need.place.flavor);
            let event = NodeEvent::new(EventType::Normal, "CanaryWanted", said);
            record_cluster(&mut tx, &cluster, event, now).await?;
        }
    }
    Ok(tx.commit().await?)
}

/// Nobody waits any more for what the canaries of a preflight find.
pub(super) async fn give_up(
    context: &Context,
    lease: &Lease,
    row: &PreflightRow,
) -> Result<(), WorkError> {
    let now = context.now();
    let mut tx = context.fenced(lease).await?;
    if canaries::give_up(&mut tx, row.id.0).await? {
        wake(&mut tx, WorkKind::Cluster, row.cluster_id, now).await?;
    }
    Ok(tx.commit().await?)
}
