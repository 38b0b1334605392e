//! The transaction of one request.

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::domain::ids::{ClusterId, ProjectId};
use crate::store::Tx;
use crate::store::audit::{self, AuditRecord};
use crate::store::events::{self, EventType, NewEvent};
use crate::store::idempotency::{self, Answer, Begun, KeyedRequest};
use crate::store::work::{self, ResourceId, WorkKind};

use super::authz::Caller;
use super::{App, Error};

/// Who asks, and under which idempotency key.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Who asks.
    pub caller: Caller,
    /// The key that makes repeating harmless, if the caller gave one.
    pub key: Option<KeyedRequest>,
}

impl From<Caller> for Ask {
    fn from(caller: Caller) -> Self {
        Self { caller, key: None }
    }
}

/// What a change is about, for audit and timeline.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject {
    pub kind: &'static str,
    pub id: Uuid,
    pub project: Option<ProjectId>,
    pub cluster: Option<ClusterId>,
}

/// A request whose changes commit together with their audit record, event and wake-ups.
pub(super) struct Act<'a> {
    /// The use cases' surroundings.
    pub app: &'a App,
    /// Who asks.
    pub ask: &'a Ask,
    /// The transaction.
    pub tx: Tx,
    /// The moment of the request.
    pub now: Timestamp,
}

/// How a request begins.
pub(super) enum Start<'a> {
    /// It is to be done.
    Fresh(Act<'a>),
    /// It was done before, and made this.
    Done(Uuid),
}

impl<'a> Act<'a> {
    /// Begins a request that may carry an idempotency key.
    pub async fn start(app: &'a App, ask: &'a Ask) -> Result<Start<'a>, Error> {
        let mut act = Self::begin(app, ask).await?;
        let Some(key) = &ask.key else { return Ok(Start::Fresh(act)) };
        match idempotency::begin(&mut act.tx, key).await? {
            Begun::Fresh => Ok(Start::Fresh(act)),
            Begun::OtherRequest => Err(Error::KeyReused),
            Begun::Running => {
                Err(Error::conflict("a request with this Idempotency-Key is being done right now"))
            }
            Begun::Repeated(answer) => {
                let id = answer.response.get("id").and_then(Value::as_str);
                let id = id.and_then(|id| id.parse().ok()).ok_or_else(|| {
                    Error::internal("read an idempotency key", "the answer holds no id")
                })?;
                Ok(Start::Done(id))
            }
        }
    }

    /// Begins a request that is repeatable by its nature.
    pub async fn begin(app: &'a App, ask: &'a Ask) -> Result<Self, Error> {
        Ok(Self { app, ask, tx: app.store.begin().await?, now: app.now() })
    }

    /// Records who asked for what. `detail` holds no secrets.
    pub async fn audit(
        &mut self,
        action: &str,
        subject: Subject,
        detail: Value,
    ) -> Result<(), Error> {
        let record = AuditRecord {
            id: self.app.ids.uuid(),
            at: self.now,
            actor: self.ask.caller.actor(),
            action: action.to_owned(),
            project: subject.project,
            resource_kind: subject.kind.to_owned(),
            resource: subject.id,
            detail,
        };
        Ok(audit::record(&mut self.tx, &record).await?)
    }

    /// Records on the timeline what happened.
    pub async fn event(
        &mut self,
        subject: Subject,
        reason: &'static str,
        message: String,
    ) -> Result<(), Error> {
        let event = NewEvent {
            project: subject.project,
            cluster: subject.cluster,
            resource_kind: subject.kind,
            resource: subject.id,
            event_type: EventType::Normal,
            reason,
            message,
            data: json!({ "by": self.ask.caller.name }),
        };
        Ok(events::record(&mut self.tx, event, self.now).await?)
    }

    /// Wakes a worker.
    pub async fn wake(&mut self, kind: WorkKind, id: impl Into<ResourceId>) -> Result<(), Error> {
        Ok(work::wake(&mut self.tx, kind, id, self.now).await?)
    }

    /// Commits; a repetition under the same key will be answered with `made`.
    pub async fn commit(mut self, made: Uuid) -> Result<(), Error> {
        if let Some(key) = &self.ask.key {
            let answer = Answer { status: 200, response: json!({ "id": made }) };
            idempotency::finish(&mut self.tx, key, &answer, self.now).await?;
        }
        self.tx.commit().await.map_err(|error| Error::Store(error.into()))
    }
}
