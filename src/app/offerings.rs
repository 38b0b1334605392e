//! Offerings: what clusters can be made of.

use serde_json::json;

use super::act::{Act, Start, Subject};
use super::authz::{Action, Caller};
use super::{App, Ask, Error};
use crate::domain::field::FieldErrors;
use crate::domain::ids::OfferingId;
use crate::domain::name::NAME_MAX;
use crate::domain::offering::OfferingSpec;
use crate::store::offerings::{self, NAME_TAKEN, OfferingRow};
use crate::store::page::{Page, PageRequest};

pub use crate::store::offerings::OfferingRow as OfferingView;

/// Adds an offering; without a name it gets that of its Kubernetes version.
pub async fn create(
    app: &App,
    ask: &Ask,
    (name, spec): (Option<String>, OfferingSpec),
) -> Result<OfferingRow, Error> {
    ask.caller.may(Action::ManageOfferings)?;
    let name = name.unwrap_or_else(|| spec.kubernetes_version.to_string());
    let mut errors = check_name(&name);
    errors.extend(spec.check());
    errors.into_result(())?;
    let mut act = match Act::start(app, ask).await? {
        Start::Fresh(act) => act,
        Start::Done(id) => return by_id(app, OfferingId(id)).await,
    };
    let offering = OfferingRow { id: OfferingId(app.ids.uuid()), name, spec, created_at: act.now };
    offerings::insert(&mut act.tx, &offering).await.map_err(|error| match error.constraint() {
        Some(NAME_TAKEN) => {
            Error::conflict(format!("there is an offering {} already", offering.name))
        }
        _ => error.into(),
    })?;
    let subject = Subject { kind: "offering", id: offering.id.0, project: None, cluster: None };
    act.audit("offering.create", subject, json!({ "name": offering.name })).await?;
    act.commit(offering.id.0).await?;
    Ok(offering)
}

/// Versions have dots, so offerings may.
fn check_name(name: &str) -> FieldErrors {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let good = !name.is_empty()
        && name.len() <= NAME_MAX
        && name.starts_with(edge)
        && name.ends_with(edge)
        && name.chars().all(|c| edge(c) || c == '-' || c == '.');
    if good {
        return FieldErrors::default();
    }
    FieldErrors::one(
        "name",
        format!(
            "must be 1 to {NAME_MAX} lower-case letters, digits, '-' or '.', with a letter or \
             digit at both ends"
        ),
    )
}

async fn by_id(app: &App, id: OfferingId) -> Result<OfferingRow, Error> {
    let found = offerings::find(app.store.pool(), id).await?;
    found.ok_or_else(|| Error::absent("offering", id))
}

/// One offering by name or id.
pub async fn show(app: &App, caller: &Caller, name: &str) -> Result<OfferingRow, Error> {
    caller.may(Action::ReadOfferings)?;
    if let Some(offering) = offerings::find_named(app.store.pool(), name).await? {
        return Ok(offering);
    }
    match name.parse() {
        Ok(id) => by_id(app, id).await,
        Err(_) => Err(Error::absent("offering", name)),
    }
}

/// Offerings by name.
pub async fn list(
    app: &App,
    caller: &Caller,
    page: &PageRequest,
) -> Result<Page<OfferingRow>, Error> {
    caller.may(Action::ReadOfferings)?;
    Ok(offerings::list(app.store.pool(), page).await?)
}
