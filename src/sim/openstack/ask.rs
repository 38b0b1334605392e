//! A request as the simulated services read it.

use axum::extract::Request;
use http::{HeaderMap, Method};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

use super::reply::Refusal;
use crate::sim::cloud::{Cloud, User};

/// Biggest body that is read; user data is at most 64 KiB.
const BODY_LIMIT: usize = 1 << 20;

/// What came in.
pub(super) struct Asked {
    pub method: Method,
    pub path: String,
    pub query: Query,
    pub headers: HeaderMap,
    pub body: bytes::Bytes,
    /// `http://host:port` as the client wrote it, for links.
    pub base: String,
    pub request_id: String,
}

impl Asked {
    /// Reads a request; None when its body breaks off.
    pub async fn read(request: Request) -> Option<Self> {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, BODY_LIMIT).await.ok()?;
        let host = parts.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
        let authority = parts.uri.authority().map(http::uri::Authority::as_str);
        let base = format!("http://{}", authority.or(host).unwrap_or("sim.invalid"));
        Some(Self {
            method: parts.method,
            path: parts.uri.path().to_owned(),
            query: Query::parse(parts.uri.query().unwrap_or_default()),
            request_id: request_id(&parts.headers),
            headers: parts.headers,
            body,
            base,
        })
    }

    /// Non-empty parts of the path.
    pub fn segments(&self) -> Vec<&str> {
        self.path.split('/').filter(|part| !part.is_empty()).collect()
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// The service's id of a request. Real services draw it at random; here nothing depends on it, so
/// it comes from a counter and does not use up a cloud's dice.
fn request_id(headers: &HeaderMap) -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let asked = headers.get("x-openstack-request-id").and_then(|id| id.to_str().ok());
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let seed = asked.map_or(number, |text| {
        text.bytes().fold(number, |sum, byte| sum.rotate_left(5) ^ u64::from(byte))
    });
    let value = (u128::from(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15)) << 64) | u128::from(number);
    format!("req-{}", uuid::Builder::from_random_bytes(value.to_be_bytes()).into_uuid())
}

/// Query options in the order they came; a name may come more than once.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str) -> Self {
        let pairs = url::form_urlencoded::parse(text.as_bytes());
        Self(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    /// First value of an option.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All values of an option.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    }

    /// All options.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The same options but with another `marker`, encoded.
    pub fn with_marker(&self, marker: &str) -> String {
        let mut pairs = url::form_urlencoded::Serializer::new(String::new());
        for (name, value) in self.iter().filter(|(name, _)| *name != "marker") {
            pairs.append_pair(name, value);
        }
        pairs.append_pair("marker", marker);
        pairs.finish()
    }
}

/// One request being carried out on a cloud.
pub(super) struct Cx<'a> {
    pub cloud: &'a mut Cloud,
    pub asked: &'a Asked,
    /// Path after the service's prefix.
    pub path: Vec<&'a str>,
    pub now: Timestamp,
    /// Minor of the compute or placement microversion that was asked for.
    pub minor: u32,
}

impl<'a> Cx<'a> {
    pub fn new(cloud: &'a mut Cloud, asked: &'a Asked, path: &[&'a str], now: Timestamp) -> Self {
        Self { cloud, asked, path: path.to_vec(), now, minor: 0 }
    }

    /// Who asks, by a token that is good now.
    pub fn user(&self) -> Result<User, Refusal> {
        let text = self.asked.header("x-auth-token").ok_or_else(Refusal::unauthorized)?;
        self.user_of(text).ok_or_else(Refusal::unauthorized)
    }

    /// Whose token that is, if it is good now.
    pub fn user_of(&self, token: &str) -> Option<User> {
        let token = self.cloud.identity.tokens.get(token)?;
        if token.expires_at <= self.now {
            return None;
        }
        self.cloud.identity.users.iter().find(|user| user.id == token.user_id).cloned()
    }

    /// The body as JSON of any shape.
    pub fn json(&self) -> Result<Value, Refusal> {
        self.body()
    }

    /// The body as JSON of a known shape.
    pub fn body<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        serde_json::from_slice(&self.asked.body)
            .map_err(|error| Refusal::new(400, format!("Malformed request body: {error}")))
    }

    /// `limit` of a list: what was asked for, at most `most`.
    pub fn limit(&self, most: usize) -> Result<usize, Refusal> {
        let Some(text) = self.asked.query.get("limit") else { return Ok(most) };
        let wrong = || Refusal::new(400, "limit param must be an integer".to_owned());
        Ok(text.parse::<usize>().map_err(|_| wrong())?.min(most))
    }

    /// Seconds since the epoch as text of the form `2026-11-23T01:27:40Z`.
    pub fn clock_text(at: Timestamp) -> String {
        at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }
}

/// An id in a path.
pub(super) fn id_of(text: &str) -> Option<Uuid> {
    text.parse().ok()
}
