//! Migrations as objects of the management cluster: the same use cases, with the object's tie to
//! the migration in the same transaction. So a uid makes one migration at most, and a wish that
//! was carried out is known to be.

use serde_json::Value;
use uuid::Uuid;

use super::{MigrationView, create, surround, verbs};
use crate::app::act::Act;
use crate::app::authz::Action;
use crate::app::migrations::Steer;
use crate::app::{App, Ask, Error, PageRequest};
use crate::domain::ids::{ClusterId, MigrationId};
use crate::domain::migration::{MigrationSpec, Verb};
use crate::store::Tx;
use crate::store::clusters::{self, ClusterFilter};
use crate::store::migration_objects::{self, Tie, UID_KEY};
use crate::store::migrations;

/// An object that wishes for a migration.
#[derive(Debug, Clone)]
pub struct NewObject<'a> {
    /// Its uid: the key under which repeating is harmless.
    pub uid: Uuid,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Name of the cluster.
    pub cluster: &'a str,
    /// The migration.
    pub spec: &'a MigrationSpec,
    /// Its generation and the wishes in it, which hold with the migration's first moment.
    pub taken: (i64, Value),
    /// What is asked of the migration in the same moment.
    pub verbs: &'a [Verb],
}

/// Starts the migration that an object wishes for; the one that it has, if it has one.
pub async fn create_by_object(
    app: &App,
    ask: &Ask,
    object: &NewObject<'_>,
) -> Result<MigrationId, Error> {
    let mut act = Act::begin(app, ask).await?;
    if let Some(made) = migration_objects::find(&mut *act.tx, object.uid).await? {
        return Ok(made);
    }
    ask.caller.may(Action::ChangeMigrations)?;
    let cluster = cluster_called(&mut act.tx, ask, object.cluster).await?;
    let id = create::accept(&mut act, cluster, object.spec).await?;
    let tie = Tie {
        migration: id,
        namespace: object.namespace.to_owned(),
        name: object.name.to_owned(),
        uid: Some(object.uid),
        taken_generation: object.taken.0,
        taken: Some(object.taken.1.clone()),
        released_at: None,
    };
    let now = act.now;
    migration_objects::insert(&mut act.tx, &tie, now).await.map_err(|error| {
        if error.constraint() == Some(UID_KEY) {
            return Error::conflict("the object has its migration already");
        }
        error.into()
    })?;
    for verb in object.verbs {
        verbs::write(&mut act, id, by_object(*verb)).await?;
    }
    act.commit(id.0).await?;
    Ok(id)
}

async fn cluster_called(tx: &mut Tx, ask: &Ask, name: &str) -> Result<ClusterId, Error> {
    let filter = ClusterFilter {
        project_id: ask.caller.project,
        name: Some(name.to_owned()),
        with_deleted: false,
    };
    let found = clusters::list(&mut **tx, &filter, &PageRequest::first()).await?;
    let found = found.items.into_iter().find(|cluster| ask.caller.sees(cluster.project_id));
    found.map(|cluster| cluster.id).ok_or_else(|| {
        Error::field("cluster", format!("there is no cluster {name} in the project"))
    })
}

/// Asks of a migration what its object wishes, and notes that it is done.
pub async fn steer_by_object(
    app: &App,
    ask: &Ask,
    (id, verbs): (MigrationId, &[Verb]),
    taken: Option<(i64, Value)>,
) -> Result<(), Error> {
    let mut act = Act::begin(app, ask).await?;
    for verb in verbs {
        verbs::write(&mut act, id, by_object(*verb)).await?;
    }
    if let Some((generation, wishes)) = taken {
        migration_objects::set_taken(&mut act.tx, id, (generation, &wishes)).await?;
    }
    act.commit(id.0).await
}

fn by_object(verb: Verb) -> Steer<'static> {
    Steer::new(verb, Some("its object in the management cluster says so"))
}

/// Migrations by their ids, in any order; for the service itself, which asks for no permission.
pub async fn list_by_ids(app: &App, ids: &[MigrationId]) -> Result<Vec<MigrationView>, Error> {
    let mut tx = app.store.snapshot().await?;
    let mut rows = Vec::with_capacity(ids.len());
    for row in migrations::list_by_ids(&mut *tx, ids).await? {
        if let Some(cluster) = clusters::find(&mut *tx, row.cluster_id).await? {
            rows.push((row, cluster));
        }
    }
    surround(app, &mut tx, rows).await
}
