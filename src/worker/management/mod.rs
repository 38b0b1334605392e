//! The management worker: migrations as objects of the management cluster, and the other way round.
//!
//! One work item for the whole installation, so replicas do not double. Each activation reads the
//! ties (`migration_objects`), then lists all objects as they are stored, then makes both sides
//! agree, object by object. Nothing is remembered from one activation to the next but when a
//! refused object was tried last; the watch ([`hints`]) only wakes the item. So a restart of zcpd,
//! of the API server, a lost watch and a relist are all the same.
//!
//! Who writes: `app` makes and steers migrations in the name of `kubectl:NAMESPACE/NAME` and ties
//! them to their objects in the same transaction; this worker writes the other ties, before it
//! makes an object for a migration that was started elsewhere.
//!
//! After a crash: a tie without uid means that the object may exist, and its name is fixed, so the
//! list tells. Every patch names the resource version that it was decided on, so a late one of a
//! frozen replica is refused; a late status is corrected by the next activation.

mod hints;
mod object;
mod objects;
mod status;
mod ties;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::context::Context;
use super::{Next, ParkReason, Reconciler, WorkError};
use crate::app::App;
use crate::app::migrations::MigrationView;
use crate::crd::PROJECT_LABEL;
use crate::domain::ids::{MigrationId, ProjectId};
use crate::kubernetes::ManagementClient;
use crate::store::migration_objects::{self, Tie};
use crate::store::projects;
use crate::store::work::{Lease, ResourceId, WorkKind};

pub use hints::{Follower, follow};
use object::Object;

/// How often the objects are listed when nothing happens and no watch says otherwise.
pub const PERIOD: Duration = Duration::from_secs(15);
/// A refused object is tried again: the world may have changed.
const TRY_AGAIN: SignedDuration = SignedDuration::from_mins(1);
/// When the definition is looked for again.
const DEFINITION_RECHECK: Duration = Duration::from_mins(1);

/// Keeps migrations and their objects in agreement.
#[derive(Debug, Clone)]
pub struct ManagementWorker {
    context: Context,
    app: App,
    /// When refused objects were tried last, and at which generation. Lost at a restart, which
    /// only tries them sooner.
    tried: Arc<Mutex<BTreeMap<Uuid, (i64, Timestamp)>>>,
}

/// What one activation works with.
struct Pass<'a> {
    lease: &'a Lease,
    client: &'a ManagementClient,
    /// The project that each namespace is mapped to.
    projects: BTreeMap<String, ProjectId>,
    ties: Vec<Tie>,
    views: BTreeMap<MigrationId, MigrationView>,
}

impl Pass<'_> {
    /// Whether the namespace is mapped to the migration's project.
    fn may(&self, namespace: &str, view: &MigrationView) -> bool {
        self.projects.get(namespace) == Some(&view.cluster.project_id)
    }
}

impl ManagementWorker {
    /// A worker.
    pub fn new(context: Context) -> Self {
        let app = App {
            store: context.store.clone(),
            clock: context.clock.clone(),
            ids: context.ids.clone(),
            keys: context.keys.clone(),
        };
        Self { context, app, tried: Arc::default() }
    }

    /// Namespaces with their projects; labels that name no project count for nothing.
    async fn projects(
        &self,
        labels: Vec<(String, String)>,
    ) -> Result<BTreeMap<String, ProjectId>, WorkError> {
        let mut found = BTreeMap::new();
        for (namespace, name) in labels {
            let project = projects::find_by_name(self.context.store.pool(), &name).await?;
            if let Some(project) = project {
                found.insert(namespace, project.id);
            }
        }
        Ok(found)
    }

    async fn views(
        &self,
        ids: impl IntoIterator<Item = MigrationId>,
    ) -> Result<BTreeMap<MigrationId, MigrationView>, WorkError> {
        let ids: Vec<MigrationId> = ids.into_iter().collect();
        let views = crate::app::migrations::list_by_ids(&self.app, &ids).await;
        let views = views.map_err(internal)?;
        Ok(views.into_iter().map(|view| (view.row.id, view)).collect())
    }

    async fn pass(&self, lease: &Lease, client: &ManagementClient) -> Result<Next, WorkError> {
        // Before the list: what is tied now and missing in a list that begins later is gone.
        let ties = migration_objects::list(self.context.store.pool()).await?;
        let listed = self
            .context
            .call(lease, "list objects", async {
                let namespaces = client.namespaces(PROJECT_LABEL).await?;
                Ok((namespaces, client.migrations().await?))
            })
            .await?;
        let (namespaces, values) = match listed {
            Err(error) if error.is_absent() => {
                return Ok(Next::Parked {
                    reason: ParkReason::new(
                        "DefinitionMissing",
                        "the management cluster does not know ClusterMigration: kubectl apply -f \
                         deploy/crd/",
                    ),
                    recheck: DEFINITION_RECHECK,
                });
            }
            other => other?,
        };
        let projects = self.projects(namespaces).await?;
        let views = self.views(ties.iter().map(|tie| tie.migration)).await?;
        let mut pass = Pass { lease, client, projects, ties, views };
        let objects: Vec<Object> = values.iter().filter_map(Object::read).collect();
        let mut troubles = Troubles::default();
        for object in &objects {
            troubles.note(self.object(&mut pass, object, &objects).await)?;
        }
        troubles.note(self.mirror(&mut pass, &objects).await)?;
        self.forget_tried(&objects);
        let is_busy = pass.views.values().any(|view| !view.row.phase.is_final());
        match troubles.first {
            Some(error) => Err(error),
            None if troubles.is_contested => Ok(Next::After(Duration::from_millis(500))),
            None if is_busy => Ok(Next::After(self.context.settings.busy_period)),
            None => Ok(Next::Settled),
        }
    }
}

/// What went wrong in a pass: one object's trouble is not another's.
#[derive(Default)]
struct Troubles {
    first: Option<WorkError>,
    /// Somebody else changed an object at the same time.
    is_contested: bool,
}

impl Troubles {
    fn note(&mut self, result: Result<(), WorkError>) -> Result<(), WorkError> {
        use crate::domain::outside::OutsideKind;

        match result {
            Ok(()) => {}
            Err(error @ (WorkError::LeaseLost | WorkError::Crashed(_))) => return Err(error),
            Err(WorkError::Outside(error))
                if error.is_absent()
                    || (error.kind == OutsideKind::Busy && error.status == Some(409)) =>
            {
                self.is_contested = true;
            }
            Err(error) => self.first = self.first.take().or(Some(error)),
        }
        Ok(())
    }
}

/// The use cases' failure that is nobody's fault outside.
fn internal(error: crate::app::Error) -> WorkError {
    match error {
        crate::app::Error::Store(error) => error.into(),
        other => WorkError::internal(other.to_string()),
    }
}

impl Reconciler for ManagementWorker {
    const KIND: WorkKind = WorkKind::Management;

    async fn reconcile(&self, _: ResourceId, lease: &Lease) -> Result<Next, WorkError> {
        match &self.context.management {
            Some(client) => self.pass(lease, client).await,
            None => Ok(Next::Gone),
        }
    }
}
