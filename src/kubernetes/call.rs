//! One call to an API server: sent once, limited in time and size, its failure named by kind.

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use kube::core::Status;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::ClusterClient;
use crate::domain::outside::{OutsideError, OutsideKind};

/// Total time of a call. Shorter than what is left of a lease when a step begins.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer read: 5,000 nodes of 10 KiB fit.
const ANSWER_LIMIT: usize = 64 * 1024 * 1024;
/// Objects asked for in one page of a list.
const PAGE: &str = "500";

/// A request to an API server.
#[derive(Debug, Clone)]
pub(super) struct Call {
    operation: &'static str,
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    accept: &'static str,
    body: Option<(&'static str, Value)>,
}

/// What the API server answered, whatever the status.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    headers: HeaderMap,
    pub(super) text: String,
}

impl Call {
    pub(super) fn new(operation: &'static str, method: Method, path: impl Into<String>) -> Self {
        let accept = "application/json";
        Self { operation, method, path: path.into(), query: vec![], accept, body: None }
    }

    pub(super) fn get(operation: &'static str, path: impl Into<String>) -> Self {
        Self::new(operation, Method::GET, path)
    }

    pub(super) fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    /// Asks for the metadata of objects only: their content does not leave the API server.
    pub(super) fn metadata_only(mut self) -> Self {
        self.accept = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
        self
    }

    pub(super) fn json(self, body: Value) -> Self {
        self.body("application/json", body)
    }

    pub(super) fn merge_patch(self, body: Value) -> Self {
        self.body("application/merge-patch+json", body)
    }

    /// A server-side apply in our name. JSON is YAML.
    pub(super) fn apply(self, body: Value) -> Self {
        self.query("fieldManager", "zcpd")
            .query("force", "true")
            .body("application/apply-patch+yaml", body)
    }

    fn body(mut self, content_type: &'static str, body: Value) -> Self {
        self.body = Some((content_type, body));
        self
    }

    fn request(&self) -> Result<http::Request<kube::client::Body>, OutsideError> {
        let mut target = self.path.clone();
        if !self.query.is_empty() {
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            query.extend_pairs(&self.query);
            let _ = write!(target, "?{}", query.finish());
        }
        let mut request = http::Request::builder()
            .method(&self.method)
            .uri(target)
            .header(http::header::ACCEPT, self.accept);
        let bytes = match &self.body {
            Some((content_type, body)) => {
                request = request.header(http::header::CONTENT_TYPE, *content_type);
                body.to_string().into_bytes()
            }
            None => vec![],
        };
        request
            .body(kube::client::Body::from(bytes))
            .map_err(|error| self.error(OutsideKind::Invalid, error.to_string()))
    }

    pub(super) fn error(&self, kind: OutsideKind, message: impl Into<String>) -> OutsideError {
        OutsideError::new(kind, format!("kubernetes {}", self.operation), message)
    }

    /// A call that was sent and not answered: reads can be repeated, writes may have happened.
    fn unanswered(&self) -> OutsideKind {
        if self.method == Method::GET { OutsideKind::Transient } else { OutsideKind::Unclear }
    }

    /// The failure that an answer means.
    pub(super) fn refusal(&self, answer: &Answer) -> OutsideError {
        let status = answer.kubernetes_status();
        let reason = status.as_ref().map_or("", |status| status.reason.as_str());
        let kind = match answer.status.as_u16() {
            401 | 403 => OutsideKind::Denied,
            404 | 410 => OutsideKind::Absent,
            409 if reason == "AlreadyExists" => OutsideKind::Exists,
            409 | 429 => OutsideKind::Busy,
            503 if answer.retry_after().is_some() => OutsideKind::Busy,
            500.. => self.unanswered(),
            _ => OutsideKind::Invalid,
        };
        let message = match status {
            Some(status) if !status.message.is_empty() => status.message,
            _ => answer.text.chars().take(300).collect(),
        };
        OutsideError {
            status: Some(answer.status.as_u16()),
            request_id: answer.header("audit-id").map(ToOwned::to_owned),
            retry_after: answer.retry_after(),
            ..self.error(kind, message)
        }
    }
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The `Status` object that API servers answer failures with.
    pub(super) fn kubernetes_status(&self) -> Option<Status> {
        serde_json::from_str(&self.text).ok()
    }

    /// Whether the server has too much to do. A disruption budget and a webhook answer 429 too,
    /// but that is about one pod.
    fn is_limit(&self) -> bool {
        self.status == StatusCode::TOO_MANY_REQUESTS
            && self.kubernetes_status().is_none_or(|status| {
                let causes = status.details.as_ref().map(|details| details.causes.as_slice());
                let of_budget =
                    |cause: &kube::core::response::StatusCause| cause.reason == "DisruptionBudget";
                !causes.unwrap_or_default().iter().any(of_budget)
                    && !status.message.contains("admission webhook")
            })
    }

    /// How long the server asks us to wait, by header or in the status.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let header = self.header("retry-after").and_then(|text| text.trim().parse().ok());
        let body = || {
            let details = self.kubernetes_status()?.details?;
            Some(u64::from(details.retry_after_seconds)).filter(|seconds| *seconds > 0)
        };
        header.or_else(body).map(Duration::from_secs)
    }
}

/// Whether a refusal tells that the object of our UID is gone. The status does not tell, and the
/// words differ: of preconditions in two places of the API server, of an apply that found none,
/// and of an apply that found another.
pub(super) fn is_other_object(message: &str) -> bool {
    ["UID in precondition", "UID in the precondition", "uid mismatch", "metadata.uid"]
        .iter()
        .any(|words| message.contains(words))
}

impl ClusterClient {
    /// Sends a call and gives back whatever was answered.
    pub(super) async fn send(&self, call: &Call) -> Result<Answer, OutsideError> {
        if let Some(left) = self.pace.left() {
            let busy = call.error(OutsideKind::Busy, "the API server has asked us to slow down");
            return Err(OutsideError { retry_after: Some(left), ..busy });
        }
        let request = call.request()?;
        let exchange = async {
            let response =
                self.client.send(request).await.map_err(|error| transport(call, &error))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, ANSWER_LIMIT).collect().await.map_err(|error| {
                call.error(call.unanswered(), format!("read the answer: {}", chain(&*error)))
            })?;
            let text = String::from_utf8(body.to_bytes().into())
                .map_err(|error| call.error(OutsideKind::Invalid, error.to_string()))?;
            Ok(Answer { status: head.status, headers: head.headers, text })
        };
        let answer = tokio::time::timeout(CALL_TIMEOUT, exchange).await.unwrap_or_else(|_| {
            Err(call.error(call.unanswered(), format!("no answer within {CALL_TIMEOUT:?}")))
        })?;
        if answer.is_limit() {
            self.pace.slow_down(answer.retry_after());
        }
        Ok(answer)
    }

    /// Sends a call; any status but success is an error.
    pub(super) async fn expect(&self, call: &Call) -> Result<Answer, OutsideError> {
        let answer = self.send(call).await?;
        if answer.status.is_success() { Ok(answer) } else { Err(call.refusal(&answer)) }
    }

    /// Sends a call and reads what it answered.
    pub(super) async fn read<T: DeserializeOwned>(&self, call: &Call) -> Result<T, OutsideError> {
        let answer = self.expect(call).await?;
        serde_json::from_str(&answer.text)
            .map_err(|error| call.error(OutsideKind::Invalid, format!("read the answer: {error}")))
    }

    /// Reads one object; `None` if there is none.
    pub(super) async fn find<T: DeserializeOwned>(
        &self,
        call: &Call,
    ) -> Result<Option<T>, OutsideError> {
        match self.read(call).await {
            Err(error) if error.is_absent() => Ok(None),
            other => other.map(Some),
        }
    }

    /// Reads a whole list from the API server's cache in one answer.
    pub(super) async fn list_cached<T: DeserializeOwned>(
        &self,
        call: Call,
    ) -> Result<Vec<T>, OutsideError> {
        let list: List<T> = self.read(&call.query("resourceVersion", "0")).await?;
        Ok(list.items)
    }

    /// Reads a whole list, page by page, as it is stored now.
    ///
    /// A page that has expired starts the list anew, once.
    pub(super) async fn list<T: DeserializeOwned>(
        &self,
        call: &Call,
    ) -> Result<Vec<T>, OutsideError> {
        Ok(self.list_upto(call, usize::MAX).await?.0)
    }

    /// Reads a list as [`Self::list`] does, but not much more than `most` objects of it. Says
    /// whether it is whole.
    pub(super) async fn list_upto<T: DeserializeOwned>(
        &self,
        call: &Call,
        most: usize,
    ) -> Result<(Vec<T>, bool), OutsideError> {
        match self.list_once(call, most).await {
            Err(error) if error.status == Some(410) => self.list_once(call, most).await,
            other => other,
        }
    }

    async fn list_once<T: DeserializeOwned>(
        &self,
        call: &Call,
        most: usize,
    ) -> Result<(Vec<T>, bool), OutsideError> {
        let mut items = vec![];
        let mut next = String::new();
        loop {
            let mut page = call.clone();
            if !page.query.iter().any(|(name, _)| *name == "limit") {
                page = page.query("limit", PAGE);
            }
            if !next.is_empty() {
                page = page.query("continue", next);
            }
            let list: List<T> = self.read(&page).await?;
            items.extend(list.items);
            next = list.metadata.continue_token;
            if next.is_empty() || items.len() >= most {
                return Ok((items, next.is_empty()));
            }
        }
    }
}

#[derive(serde::Deserialize)]
#[serde(bound = "T: DeserializeOwned")]
struct List<T> {
    #[serde(default)]
    metadata: ListMetadata,
    #[serde(default = "Vec::new", deserialize_with = "null_is_empty")]
    items: Vec<T>,
}

#[derive(Default, serde::Deserialize)]
struct ListMetadata {
    #[serde(default, rename = "continue")]
    continue_token: String,
}

/// Go writes an empty slice as null in some lists.
fn null_is_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: DeserializeOwned,
{
    Ok(<Option<Vec<T>> as serde::Deserialize>::deserialize(deserializer)?.unwrap_or_default())
}

/// What it means that a call was not answered.
fn transport(call: &Call, error: &kube::Error) -> OutsideError {
    let kind = match first_cause(error) {
        Some(Cause::Untrusted) => OutsideKind::Denied,
        Some(Cause::NotSent) => OutsideKind::Transient,
        None => call.unanswered(),
    };
    call.error(kind, chain(error))
}

enum Cause {
    /// The connection was not made.
    NotSent,
    /// The server's certificate is not of the cluster's CA: nothing that waiting would heal.
    Untrusted,
}

fn first_cause(error: &(dyn Error + 'static)) -> Option<Cause> {
    let mut found = None;
    for cause in causes(error) {
        if let Some(rustls::Error::InvalidCertificate(_)) = cause.downcast_ref() {
            return Some(Cause::Untrusted);
        }
        let refused = cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        let unconnected = cause
            .downcast_ref::<hyper_util::client::legacy::Error>()
            .is_some_and(hyper_util::client::legacy::Error::is_connect);
        if refused || unconnected {
            found = Some(Cause::NotSent);
        }
    }
    found
}

/// An error and its sources. `io::Error` hides what it wraps from `source`, so it is opened.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| {
        let error: &'a (dyn Error + 'static) = *error;
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        }
    })
    .take(16)
}

/// The texts of an error and its sources, without repetition.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for cause in causes(error) {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            let _ = write!(text, ": {cause}");
        }
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Arc, Mutex};

    use axum::body::to_bytes;
    use axum::extract::Request;
    use axum::response::{IntoResponse as _, Response};
    use uuid::Uuid;

    use super::*;
    use crate::domain::ids::ClusterId;
    use crate::kubernetes::{ClusterAccess, Connector};

    /// What a scripted API server was asked.
    #[derive(Debug, Clone, PartialEq)]
    pub(in crate::kubernetes) struct Asked {
        pub(in crate::kubernetes) line: String,
        pub(in crate::kubernetes) content_type: String,
        pub(in crate::kubernetes) body: Value,
    }

    /// An API server that gives its answers in order and notes what it was asked.
    #[derive(Clone)]
    pub(in crate::kubernetes) struct Script {
        answers: Arc<Mutex<std::vec::IntoIter<Response>>>,
        asked: Arc<Mutex<Vec<Asked>>>,
    }

    impl Script {
        pub(in crate::kubernetes) fn new(answers: Vec<Response>) -> Self {
            Self { answers: Arc::new(Mutex::new(answers.into_iter())), asked: Arc::default() }
        }

        pub(in crate::kubernetes) fn client(&self) -> ClusterClient {
            let script = self.clone();
            let router = axum::Router::new().fallback(move |request: Request| {
                let script = script.clone();
                async move { script.answer(request).await }
            });
            let connector = Connector::in_process(Arc::new(move |_| Some(router.clone())));
            connector.connect(cluster(1), 1, &access()).unwrap()
        }

        /// A client that slows down when it is told to.
        pub(in crate::kubernetes) fn paced_client(
            &self,
            clock: crate::clock::SharedClock,
        ) -> ClusterClient {
            ClusterClient { pace: crate::kubernetes::pace::Pace::new(Some(clock)), ..self.client() }
        }

        async fn answer(&self, request: Request) -> Response {
            let (head, body) = request.into_parts();
            let body = to_bytes(body, usize::MAX).await.unwrap();
            let content_type = head.headers.get("content-type");
            self.asked.lock().unwrap().push(Asked {
                line: format!("{} {}", head.method, head.uri),
                content_type: content_type
                    .map(|value| value.to_str().unwrap().to_owned())
                    .unwrap_or_default(),
                body: serde_json::from_slice(&body).unwrap_or(Value::Null),
            });
            let answer = self.answers.lock().unwrap().next();
            answer.unwrap_or_else(|| panic!("not in the script: {} {}", head.method, head.uri))
        }

        /// What was asked; the script must be used up.
        pub(in crate::kubernetes) fn asked(&self) -> Vec<Asked> {
            assert_eq!(self.answers.lock().unwrap().len(), 0, "not all was asked for");
            self.asked.lock().unwrap().clone()
        }

        pub(in crate::kubernetes) fn lines(&self) -> Vec<String> {
            self.asked().into_iter().map(|asked| asked.line).collect()
        }
    }

    pub(in crate::kubernetes) fn ok(body: Value) -> Response {
        axum::Json(body).into_response()
    }

    pub(in crate::kubernetes) fn status(code: u16, reason: &str, message: &str) -> Response {
        let body = serde_json::json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure",
            "reason": reason, "message": message, "code": code,
        });
        (StatusCode::from_u16(code).unwrap(), axum::Json(body)).into_response()
    }

    pub(in crate::kubernetes) fn cluster(n: u128) -> ClusterId {
        ClusterId(Uuid::from_u128(n))
    }

    pub(in crate::kubernetes) fn access() -> ClusterAccess {
        ClusterAccess {
            endpoint: "https://127.0.0.1:6443".parse().unwrap(),
            ca_pem: String::new(),
            client_cert_pem: String::new(),
            client_key_pem: "very secret".into(),
            proxy: None,
        }
    }

    fn write() -> Call {
        Call::new("write", Method::POST, "/x").json(Value::Null)
    }

    #[tokio::test]
    async fn failures_are_named_by_what_to_do_next() {
        use OutsideKind::{Absent, Busy, Denied, Exists, Invalid, Transient, Unclear};
        let cases = [
            (400, "BadRequest", Invalid, Invalid),
            (401, "Unauthorized", Denied, Denied),
            (403, "Forbidden", Denied, Denied),
            (404, "NotFound", Absent, Absent),
            (409, "AlreadyExists", Exists, Exists),
            (409, "Conflict", Busy, Busy),
            (422, "Invalid", Invalid, Invalid),
            (429, "TooManyRequests", Busy, Busy),
            (500, "InternalError", Transient, Unclear),
            (503, "ServiceUnavailable", Transient, Unclear),
            (504, "Timeout", Transient, Unclear),
        ];
        for (code, reason, reading, writing) in cases {
            let script = Script::new(vec![status(code, reason, "no"), status(code, reason, "no")]);
            let client = script.client();
            let read = client.expect(&Call::get("read", "/x")).await.unwrap_err();
            let write = client.expect(&write()).await.unwrap_err();
            assert_eq!((read.kind, write.kind), (reading, writing), "{code} {reason}");
            assert_eq!(read.to_string(), format!("kubernetes read: no (HTTP {code})"));
        }
    }

    #[tokio::test]
    async fn a_refused_connection_was_certainly_not_sent() {
        let connector = Connector::in_process(Arc::new(|_| None));
        let client = connector.connect(cluster(1), 1, &access()).unwrap();
        let error = client.expect(&write()).await.unwrap_err();
        assert_eq!(error.kind, OutsideKind::Transient);
        assert!(error.message.contains("refused"), "{error}");
    }

    #[tokio::test]
    async fn the_servers_wish_to_wait_is_kept() {
        let mut answer = status(429, "TooManyRequests", "slow down");
        answer.headers_mut().insert("retry-after", "7".parse().unwrap());
        answer.headers_mut().insert("audit-id", "a-1".parse().unwrap());
        let error =
            Script::new(vec![answer]).client().expect(&Call::get("read", "/x")).await.unwrap_err();
        assert_eq!(error.retry_after, Some(Duration::from_secs(7)));
        assert_eq!(error.request_id.as_deref(), Some("a-1"));
    }

    #[tokio::test]
    async fn a_list_is_read_to_its_last_page_and_begun_anew_when_a_page_expired() {
        let page = |items: Value, next: &str| {
            ok(serde_json::json!({"metadata": {"continue": next}, "items": items}))
        };
        let script = Script::new(vec![
            page(serde_json::json!([1, 2]), "two"),
            status(410, "Expired", "too old"),
            page(serde_json::json!([1, 2]), "two & more"),
            page(Value::Null, ""),
        ]);
        let items: Vec<u8> = script.client().list(&Call::get("list", "/x")).await.unwrap();
        assert_eq!(items, [1, 2]);
        assert_eq!(
            script.lines(),
            [
                "GET /x?limit=500",
                "GET /x?limit=500&continue=two",
                "GET /x?limit=500",
                "GET /x?limit=500&continue=two+%26+more"
            ]
        );
    }

    #[test]
    fn a_wrong_certificate_is_for_a_human() {
        let inner = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let error = kube::Error::Service(Box::new(io::Error::other(inner)));
        let error = transport(&Call::get("read", "/x"), &error);
        assert_eq!(error.kind, OutsideKind::Denied);
    }
}
