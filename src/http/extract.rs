//! What handlers take from a request.

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::IntoParams;

use super::{Api, Refusal, error};
use crate::app::authz::{Caller, authenticate};
use crate::app::{Ask, KeyedRequest, MAX_LIMIT, PageRequest};

/// Longest idempotency key.
const KEY_MAX: usize = 128;

impl FromRequestParts<Api> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Refusal> {
        let secret = bearer(&parts.headers)?.to_owned();
        api.run(|app| async move { authenticate(&app, &secret).await }).await
    }
}

/// The text behind `Authorization: Bearer`.
pub(super) fn bearer(headers: &HeaderMap) -> Result<&str, Refusal> {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = value.and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    token.filter(|token| !token.is_empty()).ok_or_else(|| {
        Refusal::new(
            StatusCode::UNAUTHORIZED,
            "unauthenticated",
            "send a token as Authorization: Bearer ...",
        )
    })
}

/// Who asks, and a JSON body. An empty body is taken for `{}`.
pub struct Body<T> {
    /// Who asks, and under which idempotency key.
    pub ask: Ask,
    /// The body.
    pub value: T,
}

impl<T: DeserializeOwned> FromRequest<Api> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Refusal> {
        let (mut parts, body) = request.into_parts();
        let caller = Caller::from_request_parts(&mut parts, api).await?;
        let key = idempotency_key(&parts.headers)?;
        check_type(&parts.headers)?;
        let (method, path) = (parts.method.clone(), parts.uri.path().to_owned());
        let request = Request::from_parts(parts, body);
        let bytes = axum::body::Bytes::from_request(request, &()).await.map_err(|rejection| {
            use axum::response::IntoResponse as _;
            let status = rejection.into_response().status();
            Refusal::new(status, "too-large", "the body could not be read: it may have 1 MiB")
        })?;
        let value = parse(&bytes)?;
        let key = key.map(|key| {
            let parts = [method.as_str().as_bytes(), path.as_bytes(), &bytes];
            KeyedRequest::new(caller.actor(), key, &parts)
        });
        Ok(Self { ask: Ask { caller, key }, value })
    }
}

fn check_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let kind = kind.to_str().unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || essence.ends_with("+json") {
        return Ok(());
    }
    Err(Refusal::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "malformed",
        "a body must be application/json",
    ))
}

/// Reads a JSON body.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    let bytes = if bytes.trim_ascii().is_empty() { b"{}" } else { bytes };
    // Postgres stores no NUL in text, so nothing that we keep may hold one.
    if bytes.windows(6).any(|window| window == b"\\u0000") {
        return Err(Refusal::field("body", "must hold no NUL character"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer);
    let value = value.map_err(|problem| error::of_json(&problem))?;
    deserializer.end().map_err(|problem| {
        let detail = format!("the body is more than one JSON value: {problem}");
        Refusal::new(StatusCode::BAD_REQUEST, "malformed", detail)
    })?;
    Ok(value)
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    if text.is_empty() || text.len() > KEY_MAX {
        let problem = format!("must be 1 to {KEY_MAX} ASCII characters");
        return Err(Refusal::field("Idempotency-Key", problem));
    }
    Ok(Some(text.to_owned()))
}

/// The generation of `If-Match`, if the request has one. `*` matches every generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IfMatch(pub Option<i64>);

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let Some(value) = parts.headers.get(header::IF_MATCH) else { return Ok(Self(None)) };
        let text = value.to_str().unwrap_or_default().trim();
        if text == "*" {
            return Ok(Self(None));
        }
        let number = text.trim_start_matches("W/").trim_matches('"').parse();
        let wrong = |_| Refusal::field("If-Match", "must be a generation, such as \"3\"");
        number.map(|number| Self(Some(number))).map_err(wrong)
    }
}

/// The query of a request.
pub struct Query<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let pairs = parts.uri.query().unwrap_or_default();
        if url::form_urlencoded::parse(pairs.as_bytes()).any(|(_, value)| value.contains('\0')) {
            return Err(Refusal::field("query", "must hold no NUL character"));
        }
        match axum::extract::Query::<T>::try_from_uri(&parts.uri) {
            Ok(query) => Ok(Self(query.0)),
            Err(rejection) => {
                let text = rejection.body_text();
                let text = text.trim_start_matches("Failed to deserialize query string: ");
                let (path, text) = text.split_once(": ").unwrap_or((".", text));
                let named = error::named(path, text);
                Err(Refusal::field(named.field, named.problem))
            }
        }
    }
}

/// Which page of a list.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Most entries, 1 to 500. Default 100.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

impl PageQuery {
    /// The page.
    pub fn page(self) -> Result<PageRequest, Refusal> {
        page(self.limit, self.cursor)
    }
}

/// A page by limit and cursor.
pub fn page(limit: Option<u32>, cursor: Option<String>) -> Result<PageRequest, Refusal> {
    if limit.is_some_and(|limit| !(1..=MAX_LIMIT).contains(&limit)) {
        return Err(Refusal::field("limit", format!("must be 1 to {MAX_LIMIT}")));
    }
    Ok(PageRequest::new(limit, cursor))
}

/// A part of the path: text.
pub struct Segment(pub String);

/// Two parts of the path.
pub struct Segments(pub String, pub String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = axum::extract::Path::<String>::from_request_parts(parts, state).await;
        path.ok().filter(|path| !path.contains('\0')).map(|path| Self(path.0)).ok_or_else(no_path)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Segments {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = axum::extract::Path::<(String, String)>::from_request_parts(parts, state).await;
        let found = path.ok().filter(|path| !path.0.0.contains('\0') && !path.0.1.contains('\0'));
        found.map(|path| Self(path.0.0, path.0.1)).ok_or_else(no_path)
    }
}

fn no_path() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "absent", "there is no such path")
}

/// An id of the path; what is no id names nothing that there is.
pub fn id<T: std::str::FromStr>(what: &'static str, text: &str) -> Result<T, Refusal> {
    text.parse().map_err(|_| crate::app::Error::absent(what, text).into())
}
