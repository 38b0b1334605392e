//! Clouds: registered by operators, checked by a worker.

mod check;

use serde_json::json;

use super::act::{Act, Start, Subject};
use super::authz::{Action, Caller};
use super::{App, Ask, Error};
use crate::domain::cloud::CloudSpec;
use crate::domain::credential::Credential;
use crate::domain::field::FieldErrors;
use crate::domain::ids::{AccountId, CloudId};
use crate::domain::inventory::{Inventory, Quotas};
use crate::domain::name::{NAME_MAX, check_name};
use crate::store::cloud_pairs;
use crate::store::clouds::{self, AccountRow, CloudRow, CloudUse, NAME_TAKEN};
use crate::store::page::{Page, PageRequest};
use crate::store::seal::{Place, Sealed};
use crate::store::work::{self, WorkKind};
use crate::store::{Change, Tx};

pub use crate::store::clouds::CloudRow as CloudView;

/// What an operator registers.
#[derive(Debug, Clone)]
pub struct NewCloud {
    /// Its name.
    pub name: String,
    /// Its settings.
    pub spec: CloudSpec,
    /// The login of the account that all projects share.
    pub credential: Credential,
}

/// What an operator changes.
#[derive(Debug, Clone, Default)]
pub struct CloudChange {
    /// All settings anew.
    pub spec: Option<CloudSpec>,
    /// Another login for the shared account.
    pub credential: Option<Credential>,
    /// The generation that the operator has seen.
    pub seen: Option<i64>,
}

/// Registers a cloud, in `checking`.
pub async fn create(app: &App, ask: &Ask, new: &NewCloud) -> Result<CloudRow, Error> {
    ask.caller.may(Action::ManageClouds)?;
    let mut errors = check_name("name", &new.name, NAME_MAX);
    errors.extend(check::check_spec(&new.spec, "", app.now()));
    errors.extend(new.credential.check("credential"));
    errors.into_result(())?;
    let mut act = match Act::start(app, ask).await? {
        Start::Fresh(act) => act,
        Start::Done(id) => return by_id(app, CloudId(id)).await,
    };
    let id = CloudId(app.ids.uuid());
    let inserted = clouds::insert(&mut act.tx, id, (&new.name, &new.spec), act.now).await;
    inserted.map_err(|error| match error.constraint() {
        Some(NAME_TAKEN) => Error::conflict(format!("there is a cloud {} already", new.name)),
        _ => error.into(),
    })?;
    let account_id = AccountId(app.ids.uuid());
    let account = AccountRow {
        id: account_id,
        cloud_id: id,
        project_id: None,
        credential: seal(app, account_id, &new.credential)?,
        listed_at: None,
        created_at: act.now,
    };
    clouds::insert_account(&mut act.tx, &account).await?;
    act.wake(WorkKind::Cloud, id).await?;
    act.wake(WorkKind::ObserveServers, account_id).await?;
    act.audit("cloud.create", subject(id), json!({ "name": new.name })).await?;
    act.event(subject(id), "CloudRegistered", format!("cloud {} is registered", new.name)).await?;
    act.commit(id.0).await?;
    by_id(app, id).await
}

fn subject(id: CloudId) -> Subject {
    Subject { kind: "cloud", id: id.0, project: None, cluster: None }
}

fn seal(app: &App, id: AccountId, credential: &Credential) -> Result<Sealed, Error> {
    let secret = zeroize::Zeroizing::new(
        serde_json::to_vec(credential).map_err(|error| Error::internal("seal a login", error))?,
    );
    Ok(app.keys.seal(Place::new("accounts", id.0, "credential"), &secret, &*app.ids))
}

async fn by_id(app: &App, id: CloudId) -> Result<CloudRow, Error> {
    let found = clouds::find(app.store.pool(), id).await?;
    found.ok_or_else(|| Error::absent("cloud", id))
}

async fn named(app: &App, name: &str) -> Result<CloudRow, Error> {
    let found = clouds::find_named(app.store.pool(), name).await?;
    found.ok_or_else(|| Error::absent("cloud", name))
}

/// One cloud by name or id.
pub async fn show(app: &App, caller: &Caller, name: &str) -> Result<CloudRow, Error> {
    caller.may(Action::ReadClouds)?;
    let mut cloud = named(app, name).await?;
    if !caller.is_operator() {
        cloud.inventory = cloud.inventory.map(for_tenants);
    }
    Ok(cloud)
}

/// What a tenant has to know to choose. Networks, security groups and quotas are the operator's.
fn for_tenants(inventory: Inventory) -> Inventory {
    Inventory {
        networks: Vec::new(),
        security_groups: Vec::new(),
        quotas: Quotas::default(),
        ..inventory
    }
}

/// Clouds by name, without inventory.
pub async fn list(app: &App, caller: &Caller, page: &PageRequest) -> Result<Page<CloudRow>, Error> {
    caller.may(Action::ReadClouds)?;
    Ok(clouds::list(app.store.pool(), page).await?)
}

/// Changes settings or login; the cloud is checked again.
pub async fn change(
    app: &App,
    ask: &Ask,
    name: &str,
    change: &CloudChange,
) -> Result<CloudRow, Error> {
    ask.caller.may(Action::ManageClouds)?;
    let mut errors = FieldErrors::default();
    if let Some(spec) = &change.spec {
        errors.extend(check::check_spec(spec, "spec.", app.now()));
    }
    if let Some(credential) = &change.credential {
        errors.extend(credential.check("credential"));
    }
    errors.into_result(())?;
    let cloud = named(app, name).await?;
    let spec = change.spec.as_ref().unwrap_or(&cloud.spec);
    let mut act = Act::begin(app, ask).await?;
    match clouds::set_spec(&mut act.tx, (cloud.id, change.seen), spec, act.now).await? {
        Change::Updated(_) => {}
        Change::Stale(generation) => return Err(Error::Stale(generation)),
        Change::Missing => return Err(Error::absent("cloud", name)),
    }
    if let Some(credential) = &change.credential {
        set_login(app, &mut act.tx, cloud.id, credential).await?;
    }
    act.wake(WorkKind::Cloud, cloud.id).await?;
    let detail = json!({ "spec": change.spec.is_some(), "login": change.credential.is_some() });
    act.audit("cloud.change", subject(cloud.id), detail).await?;
    let said = format!("the settings of cloud {} are changed", cloud.name);
    act.event(subject(cloud.id), "CloudChanged", said).await?;
    act.commit(cloud.id.0).await?;
    by_id(app, cloud.id).await
}

async fn set_login(
    app: &App,
    tx: &mut Tx,
    cloud: CloudId,
    credential: &Credential,
) -> Result<(), Error> {
    let account = clouds::account_for(&mut **tx, cloud, None).await?;
    let account = account.ok_or_else(|| Error::internal("find the shared account", "none"))?;
    let sealed = seal(app, account.id, credential)?;
    Ok(clouds::set_credential(tx, account.id, &sealed).await?)
}

/// Asks for a check now.
pub async fn check(app: &App, ask: &Ask, name: &str) -> Result<CloudRow, Error> {
    ask.caller.may(Action::ManageClouds)?;
    let cloud = named(app, name).await?;
    let mut act = match Act::start(app, ask).await? {
        Start::Fresh(act) => act,
        Start::Done(id) => return by_id(app, CloudId(id)).await,
    };
    clouds::want_check(&mut act.tx, cloud.id, act.now).await?;
    work::retry(&mut act.tx, WorkKind::Cloud, cloud.id, act.now).await?;
    act.wake(WorkKind::Cloud, cloud.id).await?;
    act.audit("cloud.check", subject(cloud.id), json!({})).await?;
    act.commit(cloud.id.0).await?;
    by_id(app, cloud.id).await
}

/// Removes a cloud on which nothing is left.
pub async fn remove(app: &App, ask: &Ask, name: &str, seen: Option<i64>) -> Result<(), Error> {
    ask.caller.may(Action::ManageClouds)?;
    let cloud = named(app, name).await?;
    if let Some(seen) = seen
        && seen != cloud.generation
    {
        return Err(Error::Stale(cloud.generation));
    }
    let mut act = Act::begin(app, ask).await?;
    let left = clouds::count_use(&mut act.tx, cloud.id).await?;
    if !left.is_empty() {
        return Err(Error::conflict(describe(&cloud.name, left)));
    }
    for account in clouds::list_accounts(&mut *act.tx, cloud.id).await? {
        work::delete(&mut act.tx, WorkKind::ObserveServers, account.id).await?;
        work::delete(&mut act.tx, WorkKind::Sweep, account.id).await?;
    }
    work::delete(&mut act.tx, WorkKind::Cloud, cloud.id).await?;
    cloud_pairs::remove_of(&mut act.tx, cloud.id).await?;
    clouds::remove(&mut act.tx, cloud.id, act.now).await?;
    act.audit("cloud.remove", subject(cloud.id), json!({ "name": cloud.name })).await?;
    act.event(subject(cloud.id), "CloudRemoved", format!("cloud {} is removed", cloud.name))
        .await?;
    act.commit(cloud.id.0).await
}

fn describe(name: &str, left: CloudUse) -> String {
    let parts: Vec<String> = [
        (left.nodes, "nodes"),
        (left.pools, "pools"),
        (left.control_planes, "control planes"),
        (left.migrations, "migrations under way"),
        (left.orphans, "things without an owner"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{count} {what}"))
    .collect();
    format!(
        "cloud {name} still has {}; a cloud can be removed when nothing is left",
        parts.join(", ")
    )
}
