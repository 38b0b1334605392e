//! What went wrong, as status and body; the only such mapping.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::{error, warn};

use crate::api::problem::{PROBLEM_JSON, Problem};
use crate::app::Error;
use crate::domain::field::{FieldError, FieldErrors};

/// A request that is not done.
#[derive(Debug, Clone)]
pub struct Refusal(Box<Problem>);

impl Refusal {
    /// A problem of this status; `kind` is its stable slug, `detail` is about this request.
    pub fn new(status: StatusCode, kind: &str, detail: impl Into<String>) -> Self {
        Self(Box::new(Problem {
            kind: kind.to_owned(),
            title: title(kind, status).to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            fields: Vec::new(),
            legal: Vec::new(),
            request_id: None,
        }))
    }

    /// One wrong field.
    pub fn field(field: impl Into<String>, problem: impl Into<String>) -> Self {
        fields(FieldErrors::one(field, problem))
    }
}

/// The type of a request whose transaction the database broke off in favour of others.
const CONTENDED: &str = "contended";
/// How often such a request is done before the caller is told. Deadlocks of three or four requests
/// end one by one.
const TRIES: u32 = 5;

/// What a type of problem is called.
fn title(kind: &str, status: StatusCode) -> &'static str {
    match kind {
        "invalid-field" => "A field of the request is wrong",
        "malformed" => "The request can't be read",
        "unauthenticated" => "The caller is not known",
        "forbidden" => "The caller may not do this",
        "absent" => "There is no such thing",
        "conflict" => "The present state forbids this",
        "stale" => "It was changed meanwhile",
        "idempotency-key-reused" => "The Idempotency-Key belongs to another request",
        "too-early" => "Not yet",
        CONTENDED => "Too many changes at once",
        "unavailable" => "Something that this needs is down",
        "internal" => "A bug of ours",
        _ => status.canonical_reason().unwrap_or("Problem"),
    }
}

fn fields(errors: FieldErrors) -> Refusal {
    let mut refusal = Refusal::new(StatusCode::BAD_REQUEST, "invalid-field", errors.to_string());
    refusal.0.fields = errors.0;
    refusal
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        match error {
            Error::Fields(errors) => fields(errors),
            Error::Unauthenticated(_) => {
                Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail)
            }
            Error::Forbidden(_) => Self::new(StatusCode::FORBIDDEN, "forbidden", detail),
            Error::Absent { .. } => Self::new(StatusCode::NOT_FOUND, "absent", detail),
            Error::Conflict { legal, .. } => {
                let mut refusal = Self::new(StatusCode::CONFLICT, "conflict", detail);
                refusal.0.legal = legal;
                refusal
            }
            Error::Stale(_) => Self::new(StatusCode::PRECONDITION_FAILED, "stale", detail),
            Error::KeyReused => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency-key-reused", detail)
            }
            Error::TooEarly(_) => Self::new(StatusCode::TOO_EARLY, "too-early", detail),
            error @ (Error::Store(_) | Error::Internal { .. }) => ours(&error),
        }
    }
}

/// What is not the caller's fault: logged with its causes, told without them.
fn ours(problem: &Error) -> Refusal {
    let chain = chain(problem);
    if problem.is_contended() {
        warn!(error = chain, "the database broke a request off: {chain}");
        let told = "others change the same things: try again";
        return Refusal::new(StatusCode::SERVICE_UNAVAILABLE, CONTENDED, told);
    }
    if problem.is_temporary() {
        warn!(error = chain, "a request fails for now: {chain}");
        let told = "the database does not answer: try again";
        return Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", told);
    }
    error!(error = chain, "a request fails: {chain}");
    let told = "this is a bug of ours; the log says more under the request id";
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", told)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status);
        let mut response = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR).into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Does a request again whose transaction the database broke off: nothing of it was stored.
pub(super) async fn again(request: Request, next: Next) -> Response {
    if request.method().is_safe() {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let Ok(bytes) = axum::body::to_bytes(body, usize::MAX).await else {
        // The limit of bodies lies around this.
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let mut tries = 0;
    loop {
        let request = Request::from_parts(parts.clone(), Body::from(bytes.clone()));
        let response = next.clone().run(request).await;
        tries += 1;
        let refusal = response.extensions().get::<Refusal>();
        if tries == TRIES || refusal.is_none_or(|refusal| refusal.0.kind != CONTENDED) {
            return response;
        }
        // Not all at the same moment: the winner of the last round needs some milliseconds.
        tokio::time::sleep(Duration::from_millis(10 << tries)).await;
    }
}

/// Gives every refusal its body, also those of the framework, and the id of the request.
pub(super) async fn finish(request: Request, next: Next) -> Response {
    let id = request.headers().get("x-request-id").and_then(|value| value.to_str().ok());
    let id = id.filter(|id| id.len() <= 128).map(str::to_owned);
    let mut response = next.run(request).await;
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    let refusal = response.extensions_mut().remove::<Refusal>();
    let Refusal(mut problem) = refusal.unwrap_or_else(|| of_framework(status));
    problem.request_id = id;
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_EARLY) {
        parts.headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
    }
    let body = serde_json::to_vec(&problem).expect("a problem is plain data");
    Response::from_parts(parts, Body::from(body))
}

fn of_framework(status: StatusCode) -> Refusal {
    let (kind, detail) = match status {
        StatusCode::NOT_FOUND => ("absent", "there is no such path"),
        StatusCode::METHOD_NOT_ALLOWED => ("method", "the path is there, but not this method"),
        StatusCode::PAYLOAD_TOO_LARGE => ("too-large", "a body may have 1 MiB"),
        StatusCode::SERVICE_UNAVAILABLE => ("unavailable", "the request took too long"),
        StatusCode::INTERNAL_SERVER_ERROR => ("internal", "this is a bug of ours"),
        _ => ("malformed", "the request can't be read"),
    };
    Refusal::new(status, kind, detail)
}

/// Turns what serde says about a body into a named field.
pub(super) fn of_json(error: &serde_path_to_error::Error<serde_json::Error>) -> Refusal {
    use serde_json::error::Category;
    let inner = error.inner();
    if matches!(inner.classify(), Category::Syntax | Category::Eof | Category::Io) {
        let detail = format!("the body is no JSON: {inner}");
        return Refusal::new(StatusCode::BAD_REQUEST, "malformed", detail);
    }
    let text = inner.to_string();
    // Without its tail, which gives a line and column of a body that was written by a program.
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(head, _)| head);
    let path = error.path().to_string();
    fields(FieldErrors(vec![named(&path, text)]))
}

/// Names the field that serde means: for unknown and missing ones it stands in the text only.
pub(super) fn named(path: &str, text: &str) -> FieldError {
    let path = if path == "." { "" } else { path };
    let mentioned = ["unknown field `", "missing field `", "duplicate field `"]
        .iter()
        .find_map(|start| text.strip_prefix(start)?.split_once('`'))
        .map(|(name, _)| name);
    let field = match mentioned {
        Some(name) if path.is_empty() => name.to_owned(),
        Some(name) if path != name && !path.ends_with(&format!(".{name}")) => {
            format!("{path}.{name}")
        }
        _ if path.is_empty() => "body".to_owned(),
        _ => path.to_owned(),
    };
    FieldError { field, problem: text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serde_texts_name_the_field() {
        for (path, text, field) in [
            (".", "unknown field `x`, expected `name`", "x"),
            ("pools[0]", "missing field `name`", "pools[0].name"),
            ("pools[0].x", "unknown field `x`, there are no fields", "pools[0].x"),
            ("waves[1].upto", "must be a number", "waves[1].upto"),
            (".", "invalid type: sequence, expected a map", "body"),
        ] {
            assert_eq!(named(path, text).field, field, "{path} {text}");
        }
    }
}
