//! Login: one token for all clones of a client, the catalog, and who we are.
//!
//! Whoever finds no token, an old one, or a refused one, takes the lock; the first logs in and the
//! others find its result, be it a token of a later generation or its failure.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderValue, Request};
use jiff::{SignedDuration, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;
use url::Url;

use super::auth::{CloudAuth, Credential, DomainRef, ProjectRef, UserRef};
use super::client::{Attempt, CloudClient, Service};
use super::fault::Effect;
use crate::domain::outside::{OutsideError, OutsideKind};

/// A refused credential is not tried again for this long: Keystone may lock the user out.
const DENIED_FOR: SignedDuration = SignedDuration::from_secs(10);
/// A token is replaced when this is left, or a quarter of its life if that is less.
const RENEW_BEFORE: SignedDuration = SignedDuration::from_secs(120);
const LOGIN: &str = "keystone log in";

/// Who a credential is, and what it can reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudIdentity {
    /// Keystone's id of the project.
    pub project_id: String,
    /// Name of the project.
    pub project_name: String,
    /// Keystone's id of the user.
    pub user_id: String,
    /// Name of the user.
    pub user_name: String,
    /// Roles of the user in the project.
    pub roles: Vec<String>,
    /// Services with an endpoint in our region and interface: type and URL.
    pub services: Vec<(String, String)>,
    /// When the token ends, by Keystone's clock.
    pub expires_at: Timestamp,
}

/// One token and what came with it.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) generation: u64,
    token: SecretString,
    renew_at: Timestamp,
    catalog: Vec<CatalogService>,
    identity: CloudIdentity,
}

/// The token that all clones of a client share.
#[derive(Debug, Default)]
pub(super) struct Login {
    held: Mutex<Held>,
    attempts: AtomicU64,
}

#[derive(Debug, Default)]
struct Held {
    session: Option<Arc<Session>>,
    failure: Option<(Timestamp, OutsideError)>,
}

impl CloudClient {
    /// Logs in anew and says who we are there. Fails if a service that clusters need is missing.
    pub async fn check(&self) -> Result<CloudIdentity, OutsideError> {
        let end = Instant::now() + Duration::from_secs(30);
        let session = {
            let mut held = self.shared.login.held.lock().await;
            self.log_in(&mut held, end).await?
        };
        for service in [Service::Compute, Service::Network, Service::Image] {
            session.endpoint(&self.shared.auth, service)?;
        }
        Ok(session.identity.clone())
    }

    /// The shared session; a later one than `stale`, if that is given.
    pub(super) async fn session(
        &self,
        stale: Option<u64>,
        end: Instant,
    ) -> Result<Arc<Session>, OutsideError> {
        let login = &self.shared.login;
        let attempts = login.attempts.load(Ordering::Acquire);
        let Ok(mut held) = tokio::time::timeout_at(end, login.held.lock()).await else {
            let message = "somebody else's login did not end before the deadline";
            return Err(OutsideError::new(OutsideKind::Transient, LOGIN, message));
        };
        let now = self.shared.wiring.clock.now();
        let usable = |session: &&Arc<Session>| {
            session.renew_at > now && stale.is_none_or(|stale| session.generation > stale)
        };
        if let Some(session) = held.session.as_ref().filter(usable) {
            return Ok(Arc::clone(session));
        }
        if let Some((at, failure)) = &held.failure {
            let was_tried_meanwhile = login.attempts.load(Ordering::Acquire) != attempts;
            let is_denied = failure.kind == OutsideKind::Denied && *at + DENIED_FOR > now;
            if was_tried_meanwhile || is_denied {
                return Err(failure.clone());
            }
        }
        self.log_in(&mut held, end).await
    }

    async fn log_in(&self, held: &mut Held, end: Instant) -> Result<Arc<Session>, OutsideError> {
        let result = self.ask_for_token(end).await;
        let number = self.shared.login.attempts.fetch_add(1, Ordering::AcqRel);
        match result {
            Ok(session) => {
                let session = Arc::new(Session { generation: number + 1, ..session });
                held.failure = None;
                held.session = Some(Arc::clone(&session));
                Ok(session)
            }
            Err(error) => {
                held.failure = Some((self.shared.wiring.clock.now(), error.clone()));
                Err(error)
            }
        }
    }

    async fn ask_for_token(&self, end: Instant) -> Result<Session, OutsideError> {
        let auth = &self.shared.auth;
        let url = format!("{}/auth/tokens", keystone_url(&auth.auth_url));
        let request = Request::post(&url);
        let body = login_body(&auth.credential);
        // A login changes nothing that matters, so it counts as a read.
        let answer = self
            .exchange(Attempt { operation: LOGIN, effect: Effect::Read, end }, request, Some(&body))
            .await
            .map_err(|error| explain(auth, error))?;
        let token = answer
            .headers
            .get("x-subject-token")
            .and_then(|token| token.to_str().ok())
            .map(|token| SecretString::from(token.to_owned()))
            .ok_or_else(|| {
                let message = format!("{url} answered without a token; is it a Keystone v3?");
                OutsideError::new(OutsideKind::Invalid, LOGIN, message)
            })?;
        let TokenBody { token: body } = answer.json()?;
        Ok(self.session_from(token, body))
    }

    fn session_from(&self, token: SecretString, body: Token) -> Session {
        // By the length of its life, not by its end: Keystone's clock may differ from ours.
        let life = match body.issued_at {
            Some(issued_at) => body.expires_at.duration_since(issued_at),
            None => body.expires_at.duration_since(self.shared.wiring.clock.now()),
        };
        let renew_in = life - RENEW_BEFORE.min(life / 4);
        let project = body.project.unwrap_or_default();
        let mut session = Session {
            generation: 0,
            token,
            renew_at: self.shared.wiring.clock.now() + renew_in,
            catalog: body.catalog,
            identity: CloudIdentity {
                project_id: project.id,
                project_name: project.name,
                user_id: body.user.id,
                user_name: body.user.name,
                roles: body.roles.into_iter().map(|role| role.name).collect(),
                services: Vec::new(),
                expires_at: body.expires_at,
            },
        };
        session.identity.services = session.services(&self.shared.auth);
        session
    }
}

impl Session {
    /// Keystone's id of our project.
    pub(super) fn project_id(&self) -> &str {
        &self.identity.project_id
    }

    pub(super) fn token_header(&self) -> HeaderValue {
        let mut value = HeaderValue::from_str(self.token.expose_secret())
            .expect("it came out of a header of the answer");
        value.set_sensitive(true);
        value
    }

    /// Where `service` is, up to and with its version.
    pub(super) fn endpoint(
        &self,
        auth: &CloudAuth,
        service: Service,
    ) -> Result<String, OutsideError> {
        let found = self
            .catalog
            .iter()
            .filter(|entry| entry.kind == service.as_str())
            .find_map(|entry| entry.url(auth));
        match found {
            Some(url) => Ok(versioned(url, service)),
            None => Err(OutsideError::new(
                OutsideKind::Invalid,
                "keystone read catalog",
                self.missing(auth, service),
            )),
        }
    }

    fn missing(&self, auth: &CloudAuth, service: Service) -> String {
        let regions: BTreeSet<&str> =
            self.catalog.iter().flat_map(|entry| &entry.endpoints).map(Endpoint::region).collect();
        let regions = regions.into_iter().collect::<Vec<_>>().join(", ");
        format!(
            "region '{}' has no {} endpoint for the {} interface; regions of this cloud: {regions}",
            auth.region,
            service.as_str(),
            auth.interface.as_str()
        )
    }

    fn services(&self, auth: &CloudAuth) -> Vec<(String, String)> {
        let url = |entry: &CatalogService| {
            entry.url(auth).map(|url| (entry.kind.clone(), url.to_owned()))
        };
        self.catalog.iter().filter_map(url).collect()
    }
}

/// Keystone's address, up to and with `/v3`.
fn keystone_url(auth_url: &Url) -> String {
    let url = auth_url.as_str().trim_end_matches('/');
    if url.ends_with("/v3") { url.to_owned() } else { format!("{url}/v3") }
}

/// Catalogs write `http://host:8774`, `.../v2.1` and `.../v2.1/<project>` for the same service.
fn versioned(url: &str, service: Service) -> String {
    let url = url.trim_end_matches('/');
    let start = url.find("://").map_or(0, |at| at + 3);
    let is_version = |part: &str| {
        part.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let mut end = url.len();
    let mut at = start;
    for (index, part) in url[start..].split('/').enumerate() {
        if index > 0 && is_version(part) {
            end = at - 1;
            break;
        }
        at += part.len() + 1;
    }
    let version = match service {
        Service::Compute => "/v2.1",
        Service::Network => "/v2.0",
        Service::Image => "/v2",
        Service::Placement => "",
    };
    format!("{}{version}", &url[..end])
}

fn login_body(credential: &Credential) -> Value {
    match credential {
        Credential::Password { user, password, project } => {
            let mut user = user_json(user);
            user["password"] = json!(password.expose_secret());
            json!({"auth": {
                "identity": {"methods": ["password"], "password": {"user": user}},
                "scope": {"project": project_json(project)},
            }})
        }
        Credential::ApplicationCredential { id, secret } => {
            application_credential(json!({"id": id, "secret": secret.expose_secret()}))
        }
        Credential::NamedApplicationCredential { name, user, secret } => {
            let user = user_json(user);
            application_credential(
                json!({"name": name, "user": user, "secret": secret.expose_secret()}),
            )
        }
    }
}

fn application_credential(credential: Value) -> Value {
    json!({"auth": {"identity": {
        "methods": ["application_credential"],
        "application_credential": credential,
    }}})
}

fn user_json(user: &UserRef) -> Value {
    match user {
        UserRef::Id(id) => json!({"id": id}),
        UserRef::Name { name, domain } => json!({"name": name, "domain": domain_json(domain)}),
    }
}

fn project_json(project: &ProjectRef) -> Value {
    match project {
        ProjectRef::Id(id) => json!({"id": id}),
        ProjectRef::Name { name, domain } => json!({"name": name, "domain": domain_json(domain)}),
    }
}

fn domain_json(domain: &DomainRef) -> Value {
    match domain {
        DomainRef::Id(id) => json!({"id": id}),
        DomainRef::Name(name) => json!({"name": name}),
    }
}

/// Says which part of the entry is likely wrong. "Absent" never comes out of a login: a caller
/// would take it for the thing that it asked for.
fn explain(auth: &CloudAuth, mut error: OutsideError) -> OutsideError {
    let url = &auth.auth_url;
    match error.status {
        Some(401) => {
            error.kind = OutsideKind::Denied;
            error.message = match &auth.credential {
                Credential::Password { user, project, .. } => format!(
                    "{url} refuses {user} for {project}: wrong name, domain or password, no such \
                     project, or no role in it (Keystone does not say which)"
                ),
                Credential::ApplicationCredential { id, .. } => format!(
                    "{url} refuses application credential '{id}': wrong id or secret, or it has \
                     expired or was deleted"
                ),
                Credential::NamedApplicationCredential { name, user, .. } => format!(
                    "{url} refuses application credential '{name}' of {user}: wrong name or \
                     secret, or it has expired or was deleted"
                ),
            };
        }
        Some(404 | 405 | 410) => {
            error.kind = OutsideKind::Invalid;
            error.message = format!("{url} is not a Keystone v3 endpoint: {}", error.message);
        }
        _ => {
            if error.kind == OutsideKind::Absent {
                error.kind = OutsideKind::Invalid;
            }
            error.message = format!("{url}: {}", error.message);
        }
    }
    error
}

#[derive(Deserialize)]
struct TokenBody {
    token: Token,
}

#[derive(Deserialize)]
struct Token {
    user: Named,
    project: Option<Named>,
    #[serde(default)]
    roles: Vec<Named>,
    #[serde(default)]
    catalog: Vec<CatalogService>,
    expires_at: Timestamp,
    issued_at: Option<Timestamp>,
}

#[derive(Default, Deserialize)]
struct Named {
    id: String,
    name: String,
}

#[derive(Debug, Deserialize)]
struct CatalogService {
    #[serde(rename = "type")]
    kind: String,
    endpoints: Vec<Endpoint>,
}

#[derive(Debug, Deserialize)]
struct Endpoint {
    interface: String,
    // Keystone writes it twice; `region` is the older word.
    region_id: Option<String>,
    region: Option<String>,
    url: String,
}

impl Endpoint {
    fn region(&self) -> &str {
        self.region_id.as_deref().or(self.region.as_deref()).unwrap_or_default()
    }
}

impl CatalogService {
    fn url(&self, auth: &CloudAuth) -> Option<&str> {
        self.endpoints
            .iter()
            .find(|endpoint| {
                endpoint.region() == auth.region && endpoint.interface == auth.interface.as_str()
            })
            .map(|endpoint| endpoint.url.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_catalog_url_is_cut_at_its_version() {
        for (url, service, base) in [
            ("http://c:8774", Service::Compute, "http://c:8774/v2.1"),
            ("http://c:8774/v2.1/", Service::Compute, "http://c:8774/v2.1"),
            ("http://c:8774/v2.1/0a1b", Service::Compute, "http://c:8774/v2.1"),
            ("https://c/compute/v2/0a1b", Service::Compute, "https://c/compute/v2.1"),
            ("http://v2.example:9696/", Service::Network, "http://v2.example:9696/v2.0"),
            ("http://n/networking/v2.0", Service::Network, "http://n/networking/v2.0"),
            ("http://i:9292", Service::Image, "http://i:9292/v2"),
            ("http://p/placement/", Service::Placement, "http://p/placement"),
        ] {
            assert_eq!(versioned(url, service), base);
        }
    }

    #[test]
    fn an_auth_url_may_end_with_or_without_its_version() {
        for url in ["http://k:5000", "http://k:5000/", "http://k:5000/v3", "http://k:5000/v3/"] {
            let url = Url::parse(url).expect("a URL");
            assert_eq!(keystone_url(&url), "http://k:5000/v3");
        }
    }
}
