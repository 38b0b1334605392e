//! Sends one call: budget, login, request, answer, retry; and whole lists, page by page.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderName, Method, Request, Response};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;
use url::form_urlencoded;

use super::auth::CloudAuth;
use super::budget::{Budget, Contact, Refused};
use super::discovery::{Discovery, Microversion};
use super::fault::{self, Effect};
use super::http::{Transport, TransportError, TransportErrorKind};
use super::keystone::{Login, Session};
use super::pages;
use crate::clock::{SharedClock, SharedIds};
use crate::domain::outside::{OutsideError, OutsideKind};

/// A call that says nothing else ends after this: above Nova's own time for slow calls.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(30);
/// How often a read or delete is sent at most.
const MAX_SENDS: u32 = 3;
/// A list with more pages than this is not a list but a loop.
const MAX_PAGES: usize = 10_000;
/// Page size asked of services that page only when asked to.
pub(super) const PAGE: usize = 500;

/// Names and values, in the order they are sent.
pub(super) type Query = Vec<(Cow<'static, str>, String)>;

/// A part of OpenStack with an endpoint of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Service {
    /// Nova.
    Compute,
    /// Neutron.
    Network,
    /// Glance.
    Image,
    /// Placement.
    Placement,
}

impl Service {
    /// Its type in the catalog.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::Network => "network",
            Self::Image => "image",
            Self::Placement => "placement",
        }
    }
}

/// What a client is made of besides its credential.
#[derive(Clone)]
pub struct Wiring {
    /// How requests leave.
    pub transport: Transport,
    /// The cloud's budget, shared by all its clients.
    pub budget: Arc<Budget>,
    /// For the ends of tokens.
    pub clock: SharedClock,
    /// For request ids and jitter.
    pub ids: SharedIds,
    /// Told of every call; `None` where nobody counts.
    pub observer: Option<CallObserver>,
}

/// Told of every call that was sent or refused by the budget.
pub type CallObserver = Arc<dyn Fn(&CallSeen<'_>) + Send + Sync>;

/// One call, for metrics. All fields but the time have few values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallSeen<'a> {
    /// Name of the cloud.
    pub cloud: &'a str,
    /// Such as `nova`.
    pub service: &'a str,
    /// Such as `create server`.
    pub operation: &'a str,
    /// `ok`, or the error's kind in lower case.
    pub outcome: &'static str,
    /// From the request's leaving to its answer.
    pub took: Duration,
}

/// Drives one project of one cloud. Cheap to clone; clones share the token.
#[derive(Clone)]
pub struct CloudClient {
    pub(super) shared: Arc<Shared>,
    deadline: Duration,
    share: Arc<str>,
}

pub(super) struct Shared {
    pub(super) cloud: String,
    pub(super) auth: CloudAuth,
    pub(super) login: Login,
    pub(super) discovery: Discovery,
    pub(super) wiring: Wiring,
}

impl fmt::Debug for CloudClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloudClient").field("cloud", &self.shared.cloud).finish_non_exhaustive()
    }
}

/// One request to a service, before it has a token and an address.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) operation: &'static str,
    pub(super) service: Service,
    pub(super) effect: Effect,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: Query,
    pub(super) version: Option<Microversion>,
    pub(super) headers: Vec<(HeaderName, String)>,
    pub(super) body: Option<Value>,
}

impl Call {
    fn new(operation: &'static str, service: Service, effect: Effect) -> Self {
        Self {
            operation,
            service,
            effect,
            method: Method::GET,
            path: String::new(),
            query: Vec::new(),
            version: None,
            headers: Vec::new(),
            body: None,
        }
    }

    /// Reads `path`.
    pub(super) fn get(service: Service, operation: &'static str, path: impl Into<String>) -> Self {
        Self { path: path.into(), ..Self::new(operation, service, Effect::Read) }
    }

    /// Makes something below `path`.
    pub(super) fn post(service: Service, operation: &'static str, path: impl Into<String>) -> Self {
        let call = Self::new(operation, service, Effect::Create);
        Self { path: path.into(), method: Method::POST, ..call }
    }

    /// Changes what is at `path`.
    pub(super) fn put(service: Service, operation: &'static str, path: impl Into<String>) -> Self {
        let call = Self::new(operation, service, Effect::Change);
        Self { path: path.into(), method: Method::PUT, ..call }
    }

    /// Removes what is at `path`.
    pub(super) fn delete(
        service: Service,
        operation: &'static str,
        path: impl Into<String>,
    ) -> Self {
        let call = Self::new(operation, service, Effect::Remove);
        Self { path: path.into(), method: Method::DELETE, ..call }
    }

    /// The same call that only counts as `effect`.
    pub(super) fn with_effect(self, effect: Effect) -> Self {
        Self { effect, ..self }
    }

    /// With one more query parameter.
    pub(super) fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((Cow::Borrowed(name), value.into()));
        self
    }

    /// With a body.
    pub(super) fn body(self, body: Value) -> Self {
        Self { body: Some(body), ..self }
    }

    /// In a microversion.
    pub(super) fn version(self, version: Microversion) -> Self {
        Self { version: Some(version), ..self }
    }

    fn query_string(&self) -> String {
        form_urlencoded::Serializer::new(String::new()).extend_pairs(&self.query).finish()
    }

    /// An error about this call that no service spoke.
    pub(super) fn error(&self, kind: OutsideKind, message: impl Into<String>) -> OutsideError {
        OutsideError::new(kind, self.operation, message)
    }
}

/// One sending of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt {
    pub(super) operation: &'static str,
    pub(super) effect: Effect,
    /// When it must have ended.
    pub(super) end: Instant,
}

/// A successful answer.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    operation: &'static str,
    request_id: Option<String>,
    pub(super) body: Bytes,
    pub(super) headers: http::HeaderMap,
}

impl Answer {
    /// Reads the body as `T`; the error names the place that does not fit.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, OutsideError> {
        let mut json = serde_json::Deserializer::from_slice(&self.body);
        serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let message =
                format!("the answer cannot be read at '{}': {}", error.path(), error.inner());
            OutsideError {
                request_id: self.request_id.clone(),
                ..OutsideError::new(OutsideKind::Invalid, self.operation, message)
            }
        })
    }
}

impl CloudClient {
    /// A client for the cloud called `cloud`; nothing is sent yet.
    pub fn new(cloud: impl Into<String>, auth: CloudAuth, wiring: Wiring) -> Self {
        let shared = Shared {
            cloud: cloud.into(),
            login: Login::default(),
            discovery: Discovery::default(),
            auth,
            wiring,
        };
        Self { shared: Arc::new(shared), deadline: DEFAULT_DEADLINE, share: Arc::from("") }
    }

    /// The same client, whose calls end after `deadline`, waits and retries included.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { deadline, ..self.clone() }
    }

    /// The same client, whose calls wait in the budget's queue as `share` (a cluster's id).
    #[must_use]
    pub fn with_share(&self, share: &str) -> Self {
        Self { share: Arc::from(share), ..self.clone() }
    }

    /// How long one call may take in all.
    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Name of the cloud.
    pub fn cloud(&self) -> &str {
        &self.shared.cloud
    }

    /// Sends a call; reads and deletes up to three times.
    pub(super) async fn send(&self, call: &Call) -> Result<Answer, OutsideError> {
        let end = Instant::now() + self.deadline;
        let mut sends = 1;
        loop {
            let error = match self.send_with_login(call, end).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let may_repeat = call.effect.is_repeatable() && error.kind == OutsideKind::Transient;
            let wait = self.backoff(sends);
            if !may_repeat || sends == MAX_SENDS || Instant::now() + wait >= end {
                return Err(error);
            }
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            sends += 1;
        }
    }

    /// Sends a call and reads its answer as `T`.
    pub(super) async fn fetch<T: DeserializeOwned>(&self, call: &Call) -> Result<T, OutsideError> {
        self.send(call).await?.json()
    }

    /// Reads a whole list of `T`, whose rows stand under `key`. A page that fails fails the list.
    pub(super) async fn fetch_list<T: DeserializeOwned + Send>(
        &self,
        call: Call,
        key: &str,
    ) -> Result<Vec<T>, OutsideError> {
        let mut rows = Vec::new();
        self.fetch_each(call, key, |row| rows.push(row)).await?;
        Ok(rows)
    }

    /// Hands over each row of a whole list. Pages are read and forgotten one by one: the list of a
    /// large account would be hundreds of MiB.
    pub(super) async fn fetch_each<T: DeserializeOwned>(
        &self,
        mut call: Call,
        key: &str,
        mut take: impl FnMut(T) + Send,
    ) -> Result<(), OutsideError> {
        let mut asked = BTreeSet::new();
        let filters = call.query.clone();
        while asked.insert(call.query_string()) && asked.len() <= MAX_PAGES {
            let answer = self.send(&call).await?;
            let end =
                pages::read(&answer.body, key, &mut take).map_err(|message| OutsideError {
                    request_id: answer.request_id.clone(),
                    ..call.error(OutsideKind::Invalid, message)
                })?;
            if end.rows.is_none() {
                let message = format!("the answer has no list '{key}'");
                return Err(call.error(OutsideKind::Invalid, message));
            }
            let by_marker = || end.next_by_marker(&filters, (&answer.body, key));
            let Some(next) = end.next_query().or_else(by_marker) else { return Ok(()) };
            call.query = next;
        }
        Err(call.error(OutsideKind::Invalid, "the list leads back to a page already read"))
    }

    /// Jittered, so that the calls that failed together do not come back together.
    fn backoff(&self, sends: u32) -> Duration {
        let base = self.shared.wiring.budget.limits().retry_base * (1 << sends.min(6));
        base.mul_f64(0.5 + self.shared.wiring.ids.fraction() / 2.0)
    }

    async fn send_with_login(&self, call: &Call, end: Instant) -> Result<Answer, OutsideError> {
        let session = self.session(None, end).await?;
        let first = self.send_as(call, &session, end).await;
        if !matches!(&first, Err(error) if error.status == Some(401)) {
            return first;
        }
        let fresh = self.session(Some(session.generation), end).await?;
        self.send_as(call, &fresh, end).await.map_err(|mut error| {
            if error.status == Some(401) {
                error.message = format!("refused also with a fresh token: {}", error.message);
            }
            error
        })
    }

    async fn send_as(
        &self,
        call: &Call,
        session: &Session,
        end: Instant,
    ) -> Result<Answer, OutsideError> {
        let base = session.endpoint(&self.shared.auth, call.service)?;
        let query = call.query_string();
        let mark = if query.is_empty() { "" } else { "?" };
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(format!("{base}{}{mark}{query}", call.path))
            .header("x-auth-token", session.token_header());
        if let Some(version) = call.version {
            let service = call.service.as_str();
            request = request.header("openstack-api-version", format!("{service} {version}"));
            if call.service == Service::Compute {
                request = request.header("x-openstack-nova-api-version", version.to_string());
            }
        }
        for (name, value) in &call.headers {
            request = request.header(name, value);
        }
        let attempt = Attempt { operation: call.operation, effect: call.effect, end };
        self.exchange(attempt, request, call.body.as_ref()).await
    }

    /// Sends one request, with neither login nor retry, and reads what the answer means.
    pub(super) async fn exchange(
        &self,
        attempt: Attempt,
        request: http::request::Builder,
        body: Option<&Value>,
    ) -> Result<Answer, OutsideError> {
        let Attempt { operation, end, .. } = attempt;
        let wiring = &self.shared.wiring;
        let our_id = format!("req-{}", wiring.ids.uuid());
        let request = request
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/json")
            .header("x-openstack-request-id", &our_id)
            .body(body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string())))
            .map_err(|error| {
                OutsideError::new(OutsideKind::Invalid, operation, error.to_string())
            })?;
        let left = end.saturating_duration_since(Instant::now());
        let permit = wiring.budget.acquire(&self.share, left).await;
        let started = Instant::now();
        let result = match permit {
            Err(refused) => Err(busy(operation, &refused)),
            Ok(_permit) => {
                let sent = tokio::time::timeout_at(end, wiring.transport.send(request)).await;
                self.judge(attempt, sent)
            }
        };
        self.observe(operation, &result, started.elapsed());
        result
    }

    fn judge(
        &self,
        Attempt { operation, effect, .. }: Attempt,
        sent: Result<Result<Response<Bytes>, TransportError>, tokio::time::error::Elapsed>,
    ) -> Result<Answer, OutsideError> {
        let budget = &self.shared.wiring.budget;
        let answer = match sent {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                budget.record(Contact::Lost);
                let kind = match error.kind {
                    TransportErrorKind::NotSent => OutsideKind::Transient,
                    TransportErrorKind::Unclear => effect.unanswered(),
                };
                return Err(OutsideError::new(kind, operation, error.message));
            }
            Err(_) => {
                budget.record(Contact::Lost);
                let kind = effect.unanswered();
                return Err(OutsideError::new(kind, operation, "no answer before the deadline"));
            }
        };
        let (head, body) = answer.into_parts();
        let is_gateway = matches!(head.status.as_u16(), 502..=504);
        budget.record(if is_gateway { Contact::Lost } else { Contact::Reached });
        if head.status.is_success() {
            let request_id = fault::request_id(&head.headers);
            return Ok(Answer { operation, request_id, body, headers: head.headers });
        }
        let now = self.shared.wiring.clock.now();
        let error = fault::refuse((operation, effect), head.status, &head.headers, (&body, now));
        if let (OutsideKind::Busy, Some(pause)) = (error.kind, error.retry_after) {
            budget.pause(pause);
        }
        Err(error)
    }

    fn observe(&self, operation: &str, result: &Result<Answer, OutsideError>, took: Duration) {
        let (service, operation) = operation.split_once(' ').unwrap_or(("", operation));
        let cloud = self.cloud();
        let outcome = result.as_ref().map_or_else(|error| outcome(error.kind), |_| "ok");
        let request_id = match result {
            Ok(answer) => answer.request_id.as_deref(),
            Err(error) => error.request_id.as_deref(),
        };
        tracing::debug!(
            cloud.name = cloud,
            cloud.service = service,
            cloud.operation = operation,
            cloud.request_id = request_id,
            outcome,
            duration_ms = took.as_millis(),
            "{cloud}: {service} {operation}: {outcome}"
        );
        if let Some(observer) = &self.shared.wiring.observer {
            observer(&CallSeen { cloud, service, operation, outcome, took });
        }
    }
}

fn busy(operation: &str, refused: &Refused) -> OutsideError {
    OutsideError {
        retry_after: Some(refused.retry_after),
        ..OutsideError::new(OutsideKind::Busy, operation, refused.reason.clone())
    }
}

/// A kind in lower case, for labels.
fn outcome(kind: OutsideKind) -> &'static str {
    match kind {
        OutsideKind::Transient => "transient",
        OutsideKind::Busy => "busy",
        OutsideKind::NoCapacity => "no_capacity",
        OutsideKind::Absent => "absent",
        OutsideKind::Exists => "exists",
        OutsideKind::Unclear => "unclear",
        OutsideKind::Denied => "denied",
        OutsideKind::Invalid => "invalid",
    }
}
