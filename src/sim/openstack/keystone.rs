//! Keystone: tokens by password or application credential, and the catalog.

use http::Method;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use super::ask::Cx;
use super::reply::{Refusal, Reply};
use crate::sim::cloud::{Token, User};

pub(super) fn operation(method: &Method, path: &[&str]) -> &'static str {
    match (method.as_str(), path) {
        ("POST", ["v3", "auth", "tokens"]) => "authenticate",
        ("GET" | "HEAD", ["v3", "auth", "tokens"]) => "check_token",
        ("DELETE", ["v3", "auth", "tokens"]) => "revoke_token",
        ("GET", [] | ["v3"]) => "versions",
        ("GET", ["v3", "auth", "catalog"]) => "catalog",
        _ => "other",
    }
}

pub(super) fn answer(cx: &mut Cx) -> Result<Reply, Refusal> {
    match (cx.asked.method.as_str(), &cx.path[..]) {
        ("GET", []) => {
            Ok(Reply::json(300, json!({"versions": {"values": [version(&cx.asked.base)]}})))
        }
        ("GET", ["v3"]) => Ok(Reply::ok(json!({"version": version(&cx.asked.base)}))),
        ("POST", ["v3", "auth", "tokens"]) => authenticate(cx),
        ("GET" | "HEAD", ["v3", "auth", "tokens"]) => check(cx),
        ("DELETE", ["v3", "auth", "tokens"]) => revoke(cx),
        ("GET", ["v3", "auth", "catalog"]) => {
            cx.user()?;
            Ok(Reply::ok(json!({"catalog": catalog(cx), "links": {}})))
        }
        _ => Err(Refusal::new(404, "The resource could not be found.")),
    }
}

fn version(base: &str) -> Value {
    json!({
        "id": "v3.14", "status": "stable", "updated": "2020-04-07T00:00:00Z",
        "links": [{"rel": "self", "href": format!("{base}/identity/v3/")}],
        "media-types": [{"base": "application/json",
            "type": "application/vnd.openstack.identity-v3+json"}],
    })
}

#[derive(Deserialize)]
struct AuthRequest {
    auth: Auth,
}

#[derive(Deserialize)]
struct Auth {
    identity: AuthIdentity,
    scope: Option<Value>,
}

#[derive(Deserialize)]
struct AuthIdentity {
    methods: Vec<String>,
    password: Option<PasswordAuth>,
    application_credential: Option<CredentialAuth>,
}

#[derive(Deserialize)]
struct PasswordAuth {
    user: UserRef,
}

#[derive(Deserialize)]
struct CredentialAuth {
    id: Option<String>,
    name: Option<String>,
    secret: String,
    user: Option<UserRef>,
}

#[derive(Deserialize)]
struct UserRef {
    id: Option<String>,
    name: Option<String>,
    domain: Option<DomainRef>,
    password: Option<String>,
}

#[derive(Deserialize)]
struct DomainRef {
    id: Option<String>,
    name: Option<String>,
}

impl DomainRef {
    fn is_default(&self) -> bool {
        self.id.as_deref() == Some("default") || self.name.as_deref() == Some("Default")
    }
}

impl UserRef {
    fn is(&self, user: &User) -> bool {
        match (&self.id, &self.name) {
            (Some(id), _) => *id == user.id,
            (None, Some(name)) => {
                *name == user.name && self.domain.as_ref().is_some_and(DomainRef::is_default)
            }
            (None, None) => false,
        }
    }
}

fn authenticate(cx: &mut Cx) -> Result<Reply, Refusal> {
    let request: AuthRequest = cx.body().map_err(|refusal| {
        Refusal::new(400, format!("Expecting to find valid auth in request. {}", refusal.message))
    })?;
    let identity = &request.auth.identity;
    let method = identity.methods.first().map(String::as_str).unwrap_or_default();
    let user = match method {
        "password" => by_password(cx, identity)?,
        "application_credential" => {
            if request.auth.scope.is_some() {
                return Err(Refusal::new(401, "Application credentials cannot request a scope."));
            }
            by_credential(cx, identity)?
        }
        other => {
            return Err(Refusal::new(
                401,
                format!("Attempted to authenticate with an unsupported method: {other}."),
            ));
        }
    };
    if let Some(scope) = &request.auth.scope {
        check_scope(&user, scope)?;
    }
    let expires_at = cx.now + SignedDuration::from_secs(cx.cloud.settings.token_seconds);
    let text = new_token(cx, &user, expires_at);
    let unscoped = method == "password" && request.auth.scope.is_none();
    let body = token_body(cx, &user, expires_at, (method, unscoped));
    Ok(Reply::json(201, body)
        .with_header("x-subject-token", text)
        .with_header("vary", "X-Auth-Token"))
}

fn by_password(cx: &Cx, identity: &AuthIdentity) -> Result<User, Refusal> {
    let given = identity
        .password
        .as_ref()
        .ok_or_else(|| Refusal::new(400, "Expecting to find password in identity."))?;
    let users = &cx.cloud.identity.users;
    users
        .iter()
        .find(|user| given.user.is(user))
        .filter(|user| given.user.password.as_deref() == Some(user.password.as_str()))
        .cloned()
        .ok_or_else(Refusal::unauthorized)
}

fn by_credential(cx: &Cx, identity: &AuthIdentity) -> Result<User, Refusal> {
    let given = identity.application_credential.as_ref().ok_or_else(|| {
        Refusal::new(400, "Expecting to find application_credential in identity.")
    })?;
    let matches = |user: &&User| {
        let Some(credential) = &user.credential else { return false };
        let named = match &given.id {
            Some(id) => *id == credential.id,
            None => {
                given.name.as_ref() == Some(&credential.name)
                    && given.user.as_ref().is_some_and(|wanted| wanted.is(user))
            }
        };
        named && given.secret == credential.secret
    };
    cx.cloud.identity.users.iter().find(matches).cloned().ok_or_else(Refusal::unauthorized)
}

/// Only the user's own project can be asked for.
fn check_scope(user: &User, scope: &Value) -> Result<(), Refusal> {
    let Some(project) = scope.get("project") else { return Ok(()) };
    let text = |name: &str| project.get(name).and_then(Value::as_str);
    let domain = project.get("domain").cloned().unwrap_or_default();
    let domain: Option<DomainRef> = serde_json::from_value(domain).ok();
    let good = match (text("id"), text("name")) {
        (Some(id), _) => id == user.project_id,
        (None, Some(name)) => name == user.project && domain.is_some_and(|d| d.is_default()),
        (None, None) => false,
    };
    if good { Ok(()) } else { Err(Refusal::unauthorized()) }
}

fn new_token(cx: &mut Cx, user: &User, expires_at: Timestamp) -> String {
    let tokens = &mut cx.cloud.identity.tokens;
    let now = cx.now;
    tokens.retain(|_, token| token.expires_at > now);
    let (a, b) = (cx.cloud.dice.uuid(), cx.cloud.dice.uuid());
    let text = format!("gAAAAAB{}{}", a.simple(), b.simple());
    tokens.insert(text.clone(), Token { user_id: user.id.clone(), expires_at });
    text
}

fn token_body(
    cx: &Cx,
    user: &User,
    expires_at: Timestamp,
    (method, unscoped): (&str, bool),
) -> Value {
    let default = json!({"id": "default", "name": "Default"});
    let precise = |at: Timestamp| at.strftime("%Y-%m-%dT%H:%M:%S.000000Z").to_string();
    let mut token = json!({
        "methods": [method],
        "user": {"id": user.id, "name": user.name, "domain": default, "password_expires_at": null},
        "audit_ids": ["c2ltdWxhdGVkLWNsb3Vk"],
        "expires_at": precise(expires_at),
        "issued_at": precise(cx.now),
    });
    if !unscoped {
        let roles: &[&str] =
            if user.is_admin { &["admin", "member", "reader"] } else { &["member", "reader"] };
        token["project"] = json!({"id": user.project_id, "name": user.project, "domain": default});
        token["is_domain"] = json!(false);
        token["roles"] = roles.iter().map(|name| json!({"id": name, "name": name})).collect();
        token["catalog"] = catalog(cx);
    }
    if let Some(credential) = &user.credential
        && method == "application_credential"
    {
        token["application_credential"] =
            json!({"id": credential.id, "name": credential.name, "restricted": true});
    }
    json!({"token": token})
}

fn catalog(cx: &Cx) -> Value {
    let services = [
        ("identity", "keystone", "/identity/v3"),
        ("compute", "nova", "/compute/v2.1"),
        ("network", "neutron", "/network"),
        ("image", "glance", "/image"),
        ("placement", "placement", "/placement"),
    ];
    let region = &cx.cloud.settings.name;
    let entry = |(kind, name, path): (&str, &str, &str)| {
        let endpoint = |interface: &str| {
            json!({
                "id": format!("{name}-{interface}"), "interface": interface, "region": region,
                "region_id": region, "url": format!("{}{path}", cx.asked.base),
            })
        };
        let endpoints = ["public", "internal", "admin"].map(endpoint);
        json!({"id": name, "type": kind, "name": name, "endpoints": endpoints})
    };
    services.into_iter().map(entry).collect()
}

fn check(cx: &Cx) -> Result<Reply, Refusal> {
    cx.user()?;
    let subject = cx.asked.header("x-subject-token").unwrap_or_default();
    let user = cx
        .user_of(subject)
        .ok_or_else(|| Refusal::new(404, format!("Could not find token: {subject}.")))?;
    let expires_at = cx.cloud.identity.tokens[subject].expires_at;
    Ok(Reply::ok(token_body(cx, &user, expires_at, ("password", false))))
}

fn revoke(cx: &mut Cx) -> Result<Reply, Refusal> {
    cx.user()?;
    let subject = cx.asked.header("x-subject-token").unwrap_or_default();
    cx.cloud.identity.tokens.remove(subject);
    Ok(Reply::empty(204))
}
