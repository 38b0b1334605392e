//! Migrations that were started elsewhere get objects; objects that vanished are made anew.

use serde_json::json;

use super::object::Object;
use super::{ManagementWorker, Pass};
use crate::crd::wishes::{Agreed, Wishes};
use crate::crd::{ClusterMigrationSpec, FINALIZER, MIGRATION_LABEL};
use crate::domain::ids::{MigrationId, ProjectId};
use crate::store::migration_objects::{self, Tie};
use crate::worker::WorkError;

impl ManagementWorker {
    /// The tie of an object: by its uid, or by its place when the tie waits for an object that we
    /// made, or lost the one that it had and this one wishes the same.
    pub(super) async fn tie_of(
        &self,
        pass: &mut Pass<'_>,
        object: &Object,
        all: &[Object],
    ) -> Result<Option<Tie>, WorkError> {
        if let Some(tie) = pass.ties.iter().find(|tie| tie.uid == Some(object.uid)) {
            return Ok(Some(tie.clone()));
        }
        let is_missing = |tie: &Tie| match tie.uid {
            Some(uid) => !all.iter().any(|one| one.uid == uid),
            None => true,
        };
        let found = pass.ties.iter().position(|tie| {
            tie.released_at.is_none()
                && object.is_at(&tie.namespace, &tie.name)
                && is_missing(tie)
                && is_for(pass, tie, object)
        });
        let Some(at) = found else { return Ok(None) };
        let tie = &mut pass.ties[at];
        self.set_object(pass.lease, tie.migration, (&object.name, Some(object.uid))).await?;
        *tie = Tie { uid: Some(object.uid), taken_generation: 0, taken: None, ..tie.clone() };
        Ok(Some(tie.clone()))
    }

    async fn set_object(
        &self,
        lease: &crate::store::work::Lease,
        migration: MigrationId,
        object: (&str, Option<uuid::Uuid>),
    ) -> Result<(), WorkError> {
        let mut tx = self.context.fenced(lease).await?;
        migration_objects::set_object(&mut tx, migration, object).await?;
        Ok(tx.commit().await?)
    }

    /// Makes the objects that are missing.
    pub(super) async fn mirror(
        &self,
        pass: &mut Pass<'_>,
        all: &[Object],
    ) -> Result<(), WorkError> {
        self.tie_untied(pass).await?;
        for tie in pass.ties.clone() {
            let is_there = tie.uid.is_some_and(|uid| all.iter().any(|one| one.uid == uid));
            if !is_there && tie.released_at.is_none() {
                self.make(pass, tie, all).await?;
            }
        }
        Ok(())
    }

    /// Writes down which objects will be made, before they are.
    async fn tie_untied(&self, pass: &mut Pass<'_>) -> Result<(), WorkError> {
        let projects: Vec<ProjectId> = pass.projects.values().copied().collect();
        let untied = migration_objects::list_untied(self.context.store.pool(), &projects).await?;
        for one in untied {
            let mut namespaces = pass.projects.iter().filter(|(_, id)| **id == one.project);
            let Some((namespace, _)) = namespaces.next() else { continue };
            let tie = Tie {
                migration: one.migration,
                namespace: namespace.clone(),
                name: name(&one.cluster, one.migration),
                uid: None,
                taken_generation: 0,
                taken: None,
                released_at: None,
            };
            let mut tx = self.context.fenced(pass.lease).await?;
            migration_objects::insert(&mut tx, &tie, self.context.now()).await?;
            tx.commit().await?;
            pass.views.extend(self.views([one.migration]).await?);
            pass.ties.push(tie);
        }
        Ok(())
    }

    /// Makes the object of a tie that has none. What is over needs none any more.
    async fn make(&self, pass: &Pass<'_>, mut tie: Tie, all: &[Object]) -> Result<(), WorkError> {
        let Some(view) = pass.views.get(&tie.migration) else { return Ok(()) };
        if view.row.phase.is_final() {
            let mut tx = self.context.fenced(pass.lease).await?;
            migration_objects::release(&mut tx, tie.migration, self.context.now()).await?;
            return Ok(tx.commit().await?);
        }
        if !pass.may(&tie.namespace, view) {
            return Ok(());
        }
        let is_taken = all.iter().any(|one| one.is_at(&tie.namespace, &tie.name));
        if is_taken {
            tie.name = format!("{}-{}", view.cluster.name, tie.migration);
        }
        if is_taken || tie.uid.is_some() {
            self.set_object(pass.lease, tie.migration, (&tie.name, None)).await?;
        }
        let spec = ClusterMigrationSpec::of(&view.cluster.name, &view.row.spec);
        let agreed = Agreed { generation: 1, wishes: Wishes::of(&spec) };
        let (annotation, text) = agreed.annotation();
        let body = json!({
            "apiVersion": "zcp.io/v1alpha1",
            "kind": "ClusterMigration",
            "metadata": {
                "name": tie.name,
                "namespace": tie.namespace,
                "labels": {MIGRATION_LABEL: tie.migration},
                "annotations": {annotation: text},
                "finalizers": [FINALIZER],
            },
            "spec": spec,
        });
        let call = pass.client.create(&tie.namespace, body);
        let made = self.context.call(pass.lease, "create object", call).await??;
        let Some(object) = Object::read(&made) else { return Ok(()) };
        self.set_object(pass.lease, tie.migration, (&tie.name, Some(object.uid))).await?;
        self.report_tied(pass, (&object, tie.migration), &[]).await
    }
}

/// Whether an object at a tie's place is the tie's: made by us for it, or wishing the same.
fn is_for(pass: &Pass<'_>, tie: &Tie, object: &Object) -> bool {
    if let Some(label) = &object.label {
        return *label == tie.migration.to_string();
    }
    let Some(view) = pass.views.get(&tie.migration) else { return false };
    let is_same = object
        .spec
        .as_ref()
        .is_ok_and(|spec| spec.cluster == view.cluster.name && spec.wish() == view.row.spec);
    is_same && pass.may(&object.namespace, view) && !view.row.phase.is_final()
}

/// The name of the object of a migration that was started elsewhere: the same each time.
fn name(cluster: &str, migration: MigrationId) -> String {
    let id = migration.0.simple().to_string();
    format!("{cluster}-{}", &id[id.len() - 12..])
}
