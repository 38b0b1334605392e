//! Cloud pairs: what things of one cloud are called on another, mapped once by operators.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::json;

use super::act::{Act, Subject};
use super::authz::{Action, Caller};
use super::{App, Ask, Error};
use crate::domain::cloud_pair::{CloudPairSpec, PairCheck};
use crate::domain::field::FieldErrors;
use crate::domain::ids::{CloudId, CloudPairId};
use crate::plan::resolve::{Side, Way};
use crate::store::cloud_pairs::{self, CloudPairRow, PAIR_TAKEN};
use crate::store::clouds::{self, CloudRow};
use crate::store::page::{Page, PageRequest};
use crate::store::work::{WorkKind, wake_all};
use crate::store::{Change, Tx};

/// A pair with what the clouds' inventories say of it now.
#[derive(Debug, Clone)]
pub struct PairView {
    /// The pair.
    pub row: CloudPairRow,
    /// What is wrong or surprising in it now.
    pub check: PairCheck,
    /// The older of the two inventories that say so; none when one is not known.
    pub checked_at: Option<Timestamp>,
}

/// Maps one cloud to another; says whether there was no such pair before.
pub async fn set(
    app: &App,
    ask: &Ask,
    (source, target): (&str, &str),
    (spec, seen): (&CloudPairSpec, Option<i64>),
) -> Result<(PairView, bool), Error> {
    ask.caller.may(Action::ManageClouds)?;
    spec.check().into_result(())?;
    let mut act = Act::begin(app, ask).await?;
    let clouds = Ends::load(&mut act.tx, (source, target)).await?;
    clouds::hold(&mut act.tx, &[clouds.source.id, clouds.target.id]).await?;
    clouds.check_known()?;
    FieldErrors(clouds.check(spec).problems).into_result(())?;
    let old = cloud_pairs::lock(&mut act.tx, clouds.ids()).await?;
    let is_new = old.is_none();
    match old {
        Some(old) if seen.is_some_and(|seen| seen != old.generation) => {
            return Err(Error::Stale(old.generation));
        }
        Some(old) if old.spec == *spec => {}
        Some(old) => {
            match cloud_pairs::set_spec(&mut act.tx, (old.id, seen), spec, act.now).await? {
                Change::Updated(_) => {}
                Change::Stale(generation) => return Err(Error::Stale(generation)),
                Change::Missing => return Err(clouds.absent()),
            }
            record(&mut act, &clouds, (old.id, "changed")).await?;
            wake_users(&mut act, clouds.ids()).await?;
        }
        None if seen.is_some() => return Err(clouds.absent()),
        None => {
            let id = CloudPairId(app.ids.uuid());
            let new = (clouds.ids(), spec);
            cloud_pairs::insert(&mut act.tx, id, new, act.now).await.map_err(
                |error| match error.constraint() {
                    Some(PAIR_TAKEN) => Error::conflict("somebody else made it just now"),
                    _ => error.into(),
                },
            )?;
            record(&mut act, &clouds, (id, "made")).await?;
            wake_users(&mut act, clouds.ids()).await?;
        }
    }
    act.commit(clouds.source.id.0).await?;
    Ok((show(app, &ask.caller, (source, target)).await?, is_new))
}

async fn record(
    act: &mut Act<'_>,
    clouds: &Ends,
    (id, what): (CloudPairId, &str),
) -> Result<(), Error> {
    let subject = Subject { kind: "cloud_pair", id: id.0, project: None, cluster: None };
    let (source, target) = (&clouds.source.name, &clouds.target.name);
    let detail = json!({ "source": source, "target": target });
    let action = match what {
        "removed" => "cloud_pair.remove",
        _ => "cloud_pair.set",
    };
    act.audit(action, subject, detail).await?;
    let reason = match what {
        "removed" => "CloudPairRemoved",
        "made" => "CloudPairMade",
        _ => "CloudPairChanged",
    };
    act.event(subject, reason, format!("the cloud pair {source} -> {target} is {what}")).await
}

/// What waits for a mapping goes on now, not at its next look.
async fn wake_users(act: &mut Act<'_>, clouds: (CloudId, CloudId)) -> Result<(), Error> {
    let users = cloud_pairs::users(&mut *act.tx, clouds).await?;
    let migrations: Vec<_> = users.iter().map(|(id, _)| (*id).into()).collect();
    let clusters: Vec<_> = users.iter().map(|(_, id)| (*id).into()).collect();
    wake_all(&mut act.tx, WorkKind::Migration, &migrations, act.now).await?;
    Ok(wake_all(&mut act.tx, WorkKind::Cluster, &clusters, act.now).await?)
}

/// The pair of two clouds.
pub async fn show(
    app: &App,
    caller: &Caller,
    (source, target): (&str, &str),
) -> Result<PairView, Error> {
    caller.may(Action::ManageClouds)?;
    let mut tx = app.store.snapshot().await?;
    let clouds = Ends::load(&mut tx, (source, target)).await?;
    let row = cloud_pairs::find(&mut *tx, clouds.ids()).await?;
    Ok(clouds.view(row.ok_or_else(|| clouds.absent())?))
}

/// Pairs by names of source and target.
pub async fn list(app: &App, caller: &Caller, page: &PageRequest) -> Result<Page<PairView>, Error> {
    caller.may(Action::ManageClouds)?;
    let mut tx = app.store.snapshot().await?;
    let rows = cloud_pairs::list(&mut *tx, page).await?;
    let names = rows.items.iter().flat_map(|row| [row.source.clone(), row.target.clone()]);
    let names: Vec<String> = names.collect();
    let found = clouds::list_named(&mut *tx, &names).await?;
    let found: BTreeMap<CloudId, CloudRow> =
        found.into_iter().map(|cloud| (cloud.id, cloud)).collect();
    Ok(rows.map(|row| {
        let ends = found.get(&row.source_id).zip(found.get(&row.target_id));
        match ends {
            Some((source, target)) => view(row, source, target),
            None => PairView { row, check: PairCheck::default(), checked_at: None },
        }
    }))
}

/// Deletes a pair that no migration uses.
pub async fn remove(
    app: &App,
    ask: &Ask,
    (source, target): (&str, &str),
    seen: Option<i64>,
) -> Result<(), Error> {
    ask.caller.may(Action::ManageClouds)?;
    let mut act = Act::begin(app, ask).await?;
    let clouds = Ends::load(&mut act.tx, (source, target)).await?;
    let row = cloud_pairs::lock(&mut act.tx, clouds.ids()).await?;
    let row = row.ok_or_else(|| clouds.absent())?;
    if seen.is_some_and(|seen| seen != row.generation) {
        return Err(Error::Stale(row.generation));
    }
    let users = cloud_pairs::users(&mut *act.tx, clouds.ids()).await?;
    if let Some((first, _)) = users.first() {
        let more = match users.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        return Err(Error::conflict(format!(
            "migration {first}{more} uses this pair: it can be deleted when that is over, and \
             changed at any time"
        )));
    }
    cloud_pairs::remove(&mut act.tx, row.id).await?;
    record(&mut act, &clouds, (row.id, "removed")).await?;
    act.commit(row.id.0).await
}

/// The two clouds of a pair.
struct Ends {
    source: CloudRow,
    target: CloudRow,
}

impl Ends {
    async fn load(tx: &mut Tx, (source, target): (&str, &str)) -> Result<Self, Error> {
        let source = clouds::find_named(&mut **tx, source)
            .await?
            .ok_or_else(|| Error::absent("cloud", source))?;
        let target = clouds::find_named(&mut **tx, target)
            .await?
            .ok_or_else(|| Error::absent("cloud", target))?;
        if source.id == target.id {
            return Err(Error::field("target", "must be another cloud than the source"));
        }
        Ok(Self { source, target })
    }

    fn ids(&self) -> (CloudId, CloudId) {
        (self.source.id, self.target.id)
    }

    fn absent(&self) -> Error {
        Error::absent("cloud pair", format!("{} -> {}", self.source.name, self.target.name))
    }

    /// A pair is made of names, so both clouds must have been looked at once. A source that is
    /// down now may still be mapped: that is when it is needed.
    fn check_known(&self) -> Result<(), Error> {
        for cloud in [&self.source, &self.target] {
            if cloud.inventory.is_none() {
                return Err(Error::conflict(format!(
                    "nothing is known of cloud {} yet: try again when it is checked",
                    cloud.name
                )));
            }
        }
        Ok(())
    }

    fn check(&self, spec: &CloudPairSpec) -> PairCheck {
        way(&self.source, &self.target, Some(spec)).map(|way| way.check()).unwrap_or_default()
    }

    fn view(&self, row: CloudPairRow) -> PairView {
        view(row, &self.source, &self.target)
    }
}

fn view(row: CloudPairRow, source: &CloudRow, target: &CloudRow) -> PairView {
    let way = way(source, target, Some(&row.spec));
    let checked_at = way.and_then(|_| source.inventory_at.min(target.inventory_at));
    PairView { check: way.map(|way| way.check()).unwrap_or_default(), row, checked_at }
}

/// The way from one cloud to another, if both were looked at.
pub(super) fn way<'a>(
    source: &'a CloudRow,
    target: &'a CloudRow,
    pair: Option<&'a CloudPairSpec>,
) -> Option<Way<'a>> {
    Some(Way { source: side(source)?, target: side(target)?, pair })
}

fn side(cloud: &CloudRow) -> Option<Side<'_>> {
    let inventory = cloud.inventory.as_ref()?;
    Some(Side { name: &cloud.name, spec: &cloud.spec, inventory })
}
