//! Changing a pool: count, labels, taints, surge.

use std::collections::BTreeMap;

use serde_json::json;

use super::fit::{self, Demand};
use super::{ClusterView, seen, subject, view};
use crate::app::act::Act;
use crate::app::authz::Action;
use crate::app::{App, Ask, Error};
use crate::domain::cluster::PoolSpec;
use crate::domain::field::FieldErrors;
use crate::domain::ids::ClusterId;
use crate::domain::node::Desired;
use crate::domain::node_view::Taint;
use crate::plan::resolve;
use crate::store::clusters::pools::{self, PoolRow};
use crate::store::work::WorkKind;
use crate::store::{Change, Tx, clouds, clusters, migrations};

/// What an owner changes of a pool; what is left out stays as it is.
#[derive(Debug, Clone, Default)]
pub struct PoolChange {
    /// How many workers.
    pub count: Option<u32>,
    /// All labels anew.
    pub labels: Option<BTreeMap<String, String>>,
    /// All taints anew.
    pub taints: Option<Vec<Taint>>,
    /// Nodes beyond `count` while some are replaced.
    pub surge: Option<u32>,
    /// The cluster's generation that the owner has seen.
    pub seen: Option<i64>,
}

/// Changes a pool.
pub async fn change_pool(
    app: &App,
    ask: &Ask,
    (id, name): (ClusterId, &str),
    wish: &PoolChange,
) -> Result<ClusterView, Error> {
    let mut act = Act::begin(app, ask).await?;
    let cluster = seen(clusters::lock(&mut act.tx, id).await?, &ask.caller, id)?;
    ask.caller.may(Action::ChangeClusters)?;
    if cluster.desired == Desired::Absent {
        return Err(Error::conflict("the cluster is being deleted: nothing of it can be changed"));
    }
    let pools = pools::list(&mut *act.tx, &[id]).await?;
    let old = pools.into_iter().find(|pool| pool.name == name);
    let old = old.ok_or_else(|| Error::absent("pool", name))?;
    let new = changed(&old, wish);
    check(&new).into_result(())?;
    check_room(&mut act.tx, &old, &new).await?;
    match clusters::bump(&mut act.tx, id, wish.seen, act.now).await? {
        Change::Updated(_) => {}
        Change::Stale(generation) => return Err(Error::Stale(generation)),
        Change::Missing => return Err(Error::absent("cluster", id)),
    }
    pools::update(&mut act.tx, &new).await?;
    act.wake(WorkKind::Cluster, id).await?;
    for migration in migrations::list_open(&mut *act.tx, &[id]).await? {
        act.wake(WorkKind::Migration, migration.id).await?;
    }
    let detail = json!({ "pool": name, "count": { "from": old.count, "to": new.count } });
    act.audit("pool.change", subject(&cluster), detail).await?;
    let said = if old.count == new.count {
        format!("pool {name} is changed by {}", ask.caller.name)
    } else {
        format!("pool {name} goes from {} to {} nodes", old.count, new.count)
    };
    act.event(subject(&cluster), "PoolChanged", said).await?;
    act.commit(id.0).await?;
    view(app, &ask.caller, id).await
}

fn changed(old: &PoolRow, wish: &PoolChange) -> PoolRow {
    PoolRow {
        count: wish.count.unwrap_or(old.count),
        labels: wish.labels.clone().unwrap_or_else(|| old.labels.clone()),
        taints: wish.taints.clone().unwrap_or_else(|| old.taints.clone()),
        surge: wish.surge.unwrap_or(old.surge),
        ..old.clone()
    }
}

fn check(pool: &PoolRow) -> FieldErrors {
    let spec = PoolSpec {
        name: pool.name.clone(),
        cloud: String::new(),
        count: pool.count,
        flavor: None,
        zone: None,
        labels: pool.labels.clone(),
        taints: pool.taints.clone(),
        surge: pool.surge,
    };
    spec.check("")
}

/// Refuses growth beyond the quota. A cloud that is not ready now does not refuse: growing waits
/// for it, and shrinking needs nothing of it.
async fn check_room(tx: &mut Tx, old: &PoolRow, new: &PoolRow) -> Result<(), Error> {
    let more = new.count.saturating_sub(old.count);
    let Some(cloud) = clouds::find(&mut **tx, new.cloud_id).await?.filter(|_| more > 0) else {
        return Ok(());
    };
    let Ok(inventory) = fit::inventory(&cloud) else { return Ok(()) };
    let flavor = resolve::flavor(inventory, &new.flavor);
    let flavor = flavor
        .map_err(|problem| Error::field("count", format!("cloud {}: {problem}", cloud.name)))?;
    let mut demand = Demand::default();
    demand.add(more, flavor);
    let mut errors = FieldErrors::default();
    for problem in demand.shortage(&cloud, inventory) {
        errors.push("count", problem);
    }
    Ok(errors.into_result(())?)
}
