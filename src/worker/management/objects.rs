//! One object: taken up, steered, reported on, let go.

use serde_json::{Value, json};

use super::object::Object;
use super::{ManagementWorker, Pass, TRY_AGAIN, internal, status};
use crate::app::authz::Caller;
use crate::app::migrations::{self, NewObject};
use crate::app::{Ask, Error};
use crate::crd::wishes::{self, Agreed, Wishes};
use crate::crd::{ClusterMigrationSpec, ClusterMigrationStatus, FINALIZER, field_path};
use crate::domain::ids::{MigrationId, ProjectId};
use crate::domain::migration::{Direction, Phase, Verb};
use crate::store::migration_objects::{self, Tie};
use crate::worker::WorkError;

impl ManagementWorker {
    /// Brings one object and its migration into agreement.
    pub(super) async fn object(
        &self,
        pass: &mut Pass<'_>,
        object: &Object,
        all: &[Object],
    ) -> Result<(), WorkError> {
        match self.tie_of(pass, object, all).await? {
            Some(tie) if object.is_leaving => self.leaving(pass, object, &tie).await,
            Some(tie) => {
                let view = pass.views.get(&tie.migration);
                let is_open = view.is_some_and(|view| {
                    !view.row.phase.is_final() && pass.may(&object.namespace, view)
                });
                // Somebody may have taken the finalizer off.
                let held = if is_open { self.hold(pass, object).await? } else { object.clone() };
                self.tied(pass, &held, &tie).await
            }
            None if object.is_leaving => self.let_go(pass, object).await,
            None => self.untied(pass, object).await,
        }
    }

    /// An object without a migration: a wish, if it may be one.
    async fn untied(&self, pass: &mut Pass<'_>, object: &Object) -> Result<(), WorkError> {
        if object.label.is_some() {
            let why = "it bears the label zcp.io/migration, which zcpd gives to the objects that \
                       it makes: take it off to make this a wish of its own";
            return self.refuse(pass, object, ("NotTheMirror", why)).await;
        }
        let Some(project) = pass.projects.get(&object.namespace).copied() else {
            let why = "the namespace names no project of zcp: an administrator labels it with \
                       zcp.io/project=NAME";
            return self.refuse(pass, object, ("NamespaceNotMapped", why)).await;
        };
        let spec = match &object.spec {
            Ok(spec) if spec.direction == Direction::Back => {
                let why = "spec.direction: a new migration goes forward";
                return self.refuse(pass, object, ("InvalidSpec", why)).await;
            }
            Ok(spec) => spec,
            Err(problem) => return self.refuse(pass, object, ("InvalidSpec", problem)).await,
        };
        if self.was_tried(object) {
            return Ok(());
        }
        let held = self.hold(pass, object).await?;
        match self.accept(&held, spec, project).await {
            Ok(id) => {
                pass.views.extend(self.views([id]).await?);
                self.report_tied(pass, (&held, id), &[]).await
            }
            Err(error) => {
                let (reason, why) = refusal(error)?;
                self.refuse(pass, &held, (reason, &why)).await
            }
        }
    }

    async fn accept(
        &self,
        object: &Object,
        spec: &ClusterMigrationSpec,
        project: ProjectId,
    ) -> Result<MigrationId, Error> {
        let wish = spec.wish();
        let new = NewObject {
            uid: object.uid,
            namespace: &object.namespace,
            name: &object.name,
            cluster: &spec.cluster,
            spec: &wish,
            taken: (object.generation, wishes_json(&Wishes::of(spec))),
            verbs: if spec.paused { &[Verb::Pause] } else { &[] },
        };
        migrations::create_by_object(&self.app, &caller(object, project), &new).await
    }

    /// An object with its migration: wishes go there, wishes of others come here, and the status.
    async fn tied(&self, pass: &mut Pass<'_>, object: &Object, tie: &Tie) -> Result<(), WorkError> {
        let Some(view) = pass.views.get(&tie.migration) else { return Ok(()) };
        if !pass.may(&object.namespace, view) {
            return Ok(());
        }
        let project = view.cluster.project_id;
        let Ok(spec) = &object.spec else {
            return self.report_tied(pass, (object, tie.migration), &[]).await;
        };
        let agreed = agreed(object, tie);
        let asked = wishes::asked(spec, (object.generation, &agreed), &status::service(view));
        let is_new = wishes::is_new(spec, (object.generation, &agreed));
        let is_over = view.row.phase.is_final();
        let mut refused = asked.refused.clone();
        if !asked.verbs.is_empty() || (is_new && refused.is_empty() && !is_over) {
            // A refused wish stays new, and with it a wish to retry would be one again and again.
            let verbs = asked.verbs.iter().copied();
            let verbs: Vec<Verb> =
                verbs.filter(|verb| refused.is_empty() || *verb != Verb::Retry).collect();
            let taken =
                refused.is_empty().then(|| (object.generation, wishes_json(&Wishes::of(spec))));
            let ask = caller(object, project);
            let work = (tie.migration, verbs.as_slice());
            match migrations::steer_by_object(&self.app, &ask, work, taken).await {
                Ok(()) => {}
                Err(error) => refused.push(refusal(error)?.1),
            }
            pass.views.extend(self.views([tie.migration]).await?);
        }
        // What was refused, and what is wished of a migration that is over, stays its owner's.
        if refused.is_empty() && !(is_new && is_over) {
            self.write_back(pass, object, (tie, spec)).await?;
        }
        self.report_tied(pass, (object, tie.migration), &refused).await
    }

    /// Writes into the spec what others wished of the migration.
    async fn write_back(
        &self,
        pass: &Pass<'_>,
        object: &Object,
        (tie, spec): (&Tie, &ClusterMigrationSpec),
    ) -> Result<(), WorkError> {
        let Some(view) = pass.views.get(&tie.migration) else { return Ok(()) };
        let service = status::service(view);
        let Some(written) = wishes::written(spec, &service) else { return Ok(()) };
        // The revision makes this exact: nobody changed the spec since, so it is the next one.
        let agreed = Agreed { generation: object.generation + 1, wishes: written.wishes.clone() };
        let (annotation, text) = agreed.annotation();
        let patch = json!({
            "metadata": {
                "resourceVersion": object.revision,
                "annotations": {annotation: text},
            },
            "spec": written.patch(),
        });
        let call = pass.client.patch(object.place(), patch);
        self.context.call(pass.lease, "write object", call).await??;
        Ok(())
    }

    /// An object that is being deleted: before the old nodes are deleted, its migration turns back
    /// first.
    async fn leaving(
        &self,
        pass: &mut Pass<'_>,
        object: &Object,
        tie: &Tie,
    ) -> Result<(), WorkError> {
        let Some(view) = pass.views.get(&tie.migration) else {
            return self.let_go(pass, object).await;
        };
        let is_over = view.row.phase.is_final() || view.row.phase == Phase::Committing;
        if is_over || !pass.may(&object.namespace, view) {
            let mut tx = self.context.fenced(pass.lease).await?;
            migration_objects::release(&mut tx, tie.migration, self.context.now()).await?;
            tx.commit().await?;
            return self.let_go(pass, object).await;
        }
        let service = status::service(view);
        let mut refused = Vec::new();
        if service.direction == Direction::Forward && !view.row.wants_cancel {
            let verb = wishes::turn_back(&service.legal);
            let ask = caller(object, view.cluster.project_id);
            match migrations::steer_by_object(&self.app, &ask, (tie.migration, &[verb]), None).await
            {
                Ok(()) => {}
                Err(error) => refused.push(refusal(error)?.1),
            }
            pass.views.extend(self.views([tie.migration]).await?);
        }
        self.report_tied(pass, (object, tie.migration), &refused).await
    }

    /// Puts our finalizer on, so that a deletion cannot pass unseen.
    async fn hold(&self, pass: &Pass<'_>, object: &Object) -> Result<Object, WorkError> {
        if object.is_held() {
            return Ok(object.clone());
        }
        let mut finalizers = object.finalizers.clone();
        finalizers.push(FINALIZER.to_owned());
        let patch = finalizers_patch(object, &finalizers);
        let call = pass.client.patch(object.place(), patch);
        let answer = self.context.call(pass.lease, "hold object", call).await??;
        Object::read(&answer).ok_or_else(|| WorkError::internal("an object without a uid"))
    }

    /// Takes our finalizer off; the object goes when nobody else holds it.
    async fn let_go(&self, pass: &Pass<'_>, object: &Object) -> Result<(), WorkError> {
        if !object.is_held() {
            return Ok(());
        }
        let left: Vec<String> =
            object.finalizers.iter().filter(|one| *one != FINALIZER).cloned().collect();
        let patch = finalizers_patch(object, &left);
        let call = pass.client.patch(object.place(), patch);
        self.context.call(pass.lease, "release object", call).await??;
        Ok(())
    }

    pub(super) async fn report_tied(
        &self,
        pass: &Pass<'_>,
        (object, migration): (&Object, MigrationId),
        refused: &[String],
    ) -> Result<(), WorkError> {
        let Some(view) = pass.views.get(&migration) else { return Ok(()) };
        let told = status::of(view, object, (refused, self.context.now()));
        self.report(pass, object, told).await
    }

    async fn refuse(
        &self,
        pass: &Pass<'_>,
        object: &Object,
        why: (&str, &str),
    ) -> Result<(), WorkError> {
        let told = status::refused(object, why, self.context.now());
        self.report(pass, object, told).await
    }

    /// Writes the status, if it says something new.
    async fn report(
        &self,
        pass: &Pass<'_>,
        object: &Object,
        told: ClusterMigrationStatus,
    ) -> Result<(), WorkError> {
        if told == object.status {
            return Ok(());
        }
        let value = serde_json::to_value(&told).unwrap_or(Value::Null);
        let uid = object.uid.to_string();
        let call = pass.client.write_status(object.place(), (&uid, value));
        Ok(self.context.call(pass.lease, "report object", call).await??)
    }

    /// Whether a refused object was tried a moment ago as it is now; notes that it is tried.
    fn was_tried(&self, object: &Object) -> bool {
        let now = self.context.now();
        let mut tried = self.tried.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let last = tried.get(&object.uid);
        if last.is_some_and(|(generation, at)| {
            *generation == object.generation && now.duration_since(*at) < TRY_AGAIN
        }) {
            return true;
        }
        tried.insert(object.uid, (object.generation, now));
        false
    }

    /// Forgets objects that are gone.
    pub(super) fn forget_tried(&self, all: &[Object]) {
        let mut tried = self.tried.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        tried.retain(|uid, _| all.iter().any(|object| object.uid == *uid));
    }
}

fn finalizers_patch(object: &Object, finalizers: &[String]) -> Value {
    json!({"metadata": {"resourceVersion": object.revision, "finalizers": finalizers}})
}

fn wishes_json(wishes: &Wishes) -> Value {
    serde_json::to_value(wishes).unwrap_or(Value::Null)
}

/// The later of what the database and the object say was agreed.
fn agreed(object: &Object, tie: &Tie) -> Agreed {
    let taken = tie.taken.clone().and_then(|taken| serde_json::from_value(taken).ok());
    let taken = Agreed { generation: tie.taken_generation, wishes: taken.unwrap_or_default() };
    taken.later(object.agreed.clone())
}

fn caller(object: &Object, project: ProjectId) -> Ask {
    Ask::from(Caller::of_object(&object.namespace, &object.name, project))
}

/// A refusal in the words of a condition; what is nobody's wish is an error.
fn refusal(error: Error) -> Result<(&'static str, String), WorkError> {
    match error {
        Error::Fields(errors) => {
            let said =
                errors.0.iter().map(|one| format!("{}: {}", field_path(&one.field), one.problem));
            Ok(("InvalidSpec", said.collect::<Vec<_>>().join("; ")))
        }
        Error::Conflict { .. } => Ok(("Conflict", error.to_string())),
        Error::Forbidden(_) | Error::Absent { .. } => Ok(("NotAllowed", error.to_string())),
        other => Err(internal(other)),
    }
}
