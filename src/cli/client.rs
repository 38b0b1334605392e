//! Talks to the API.

use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

use super::Failure;
use super::profile::Profile;
use crate::api::Page;
use crate::api::problem::Problem;
use crate::clock::{Ids as _, SystemIds};

/// Beyond the API's own limit of 45 s, so that its answer is seen.
const TIMEOUT: Duration = Duration::from_mins(1);
const CONNECT: Duration = Duration::from_secs(5);
/// Waits between the tries of one request. Requests that change something carry an idempotency
/// key or are idempotent by themselves, so each may be sent again.
const PAUSES: [Duration; 2] = [Duration::from_millis(300), Duration::from_secs(1)];
/// Entries of one page.
const PAGE: &str = "200";

/// A client of the API.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<SecretString>,
}

impl Client {
    /// A client as the profile says.
    pub fn new(profile: &Profile) -> Result<Self, Failure> {
        let text = profile.url.as_deref().unwrap_or("http://127.0.0.1:8080");
        let base = text.parse::<Url>().ok().filter(Url::has_host);
        let base =
            base.filter(|url| matches!(url.scheme(), "http" | "https")).ok_or_else(|| {
                Failure::input(format!("the API's address {text:?} is not a URL"))
                    .with_hint("ZCP_URL must be like https://zcp.example")
            })?;
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("zcpctl/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Failure::ours(format!("start the HTTP client: {}", chain(&error))))?;
        Ok(Self { http, base, token: profile.token.clone() })
    }

    /// Reads one thing.
    pub async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, Failure> {
        self.read(self.request(Method::GET, (path, &[]))).await
    }

    /// Reads a list to its end.
    pub async fn list<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<Vec<T>, Failure> {
        let (mut items, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let mut query = query.to_vec();
            query.push(("limit", PAGE));
            query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
            let page: Page<T> = self.read(self.request(Method::GET, (path, &query))).await?;
            items.extend(page.items);
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(items);
            }
        }
    }

    /// Reads a list that comes as one page and takes no limit.
    pub async fn list_whole<T: DeserializeOwned>(&self, path: &[&str]) -> Result<Vec<T>, Failure> {
        Ok(self.get::<Page<T>>(path).await?.items)
    }

    /// Makes something, or asks for something to be done.
    pub async fn post<T: DeserializeOwned>(
        &self,
        path: &[&str],
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let key = SystemIds.uuid().to_string();
        let request =
            self.request(Method::POST, (path, &[])).header("idempotency-key", key).json(body);
        self.read(request).await
    }

    /// Changes something.
    pub async fn patch<T: DeserializeOwned>(
        &self,
        path: &[&str],
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.read(self.request(Method::PATCH, (path, &[])).json(body)).await
    }

    /// Sets something as a whole, unless it is no longer of the generation `seen`.
    pub async fn put<T: DeserializeOwned>(
        &self,
        path: &[&str],
        seen: Option<i64>,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let mut request = self.request(Method::PUT, (path, &[])).json(body);
        if let Some(seen) = seen {
            request = request.header("if-match", format!("\"{seen}\""));
        }
        self.read(request).await
    }

    /// Removes something.
    pub async fn delete(&self, path: &[&str]) -> Result<(), Failure> {
        self.send(self.request(Method::DELETE, (path, &[])).timeout(TIMEOUT)).await.map(|_| ())
    }

    /// Opens a stream of events, after the event `last` if given.
    pub async fn stream(
        &self,
        query: &[(&str, &str)],
        last: Option<&str>,
    ) -> Result<Response, Failure> {
        let mut headers = HeaderMap::new();
        if let Some(value) = last.and_then(|id| HeaderValue::from_str(id).ok()) {
            headers.insert(HeaderName::from_static("last-event-id"), value);
        }
        let path: &[&str] = &["v1", "events"];
        self.send(self.request(Method::GET, (path, query)).headers(headers)).await
    }

    /// Whether the service says that it is ready.
    pub async fn is_ready(&self) -> bool {
        let request = self.request(Method::GET, (&["readyz"], &[])).timeout(CONNECT);
        request.send().await.is_ok_and(|response| response.status().is_success())
    }

    fn request(&self, method: Method, (path, query): (&[&str], &[(&str, &str)])) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = self.http.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token.expose_secret()),
            None => request,
        }
    }

    async fn read<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Failure> {
        let response = self.send(request.timeout(TIMEOUT)).await?;
        let text = response.text().await.map_err(|error| self.unreachable(&error))?;
        serde_json::from_str(&text).map_err(|error| {
            Failure::ours(format!("the answer of {} is not understood: {error}", self.base))
                .with_hint("zcpctl and zcpd should be of one version")
        })
    }

    /// Sends a request, again if that may help.
    async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        for pause in PAUSES {
            let Some(again) = request.try_clone() else { break };
            match again.send().await {
                Ok(response) if may_pass(response.status()) => {}
                Ok(response) => return checked(response).await,
                Err(error) if error.is_connect() || error.is_request() => {}
                Err(error) => return Err(self.unreachable(&error)),
            }
            tokio::time::sleep(pause).await;
        }
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        checked(response).await
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        Failure::ours(format!("the API at {} cannot be reached: {}", self.base, chain(error)))
            .with_hint("ZCP_URL or the profile says where it is; is zcpd running there?")
    }
}

fn may_pass(status: StatusCode) -> bool {
    matches!(status.as_u16(), 502..=504)
}

async fn checked(response: Response) -> Result<Response, Failure> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let bytes = response.bytes().await.unwrap_or_default();
    if let Ok(problem) = serde_json::from_slice::<Problem>(&bytes) {
        return Err(Failure::of_problem(&problem));
    }
    // Something in between answers, such as a proxy.
    let said = serde_json::from_slice::<Value>(&bytes).map(|value| value.to_string());
    let said = said.unwrap_or_default();
    let text = format!("the API answers {status} {said}").trim_end().to_owned();
    Err(if status.is_client_error() { Failure::input(text) } else { Failure::ours(text) })
}

/// An error with its causes; reqwest's own text leaves them out.
fn chain(error: &reqwest::Error) -> String {
    let mut causes = Vec::new();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    // The last one says what it is: "Connection refused", "certificate has expired".
    causes.pop().unwrap_or_else(|| error.to_string())
}
