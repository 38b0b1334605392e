//! Tokens of the API. Their text is shown once; only its hash is stored.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::act::{Act, Start, Subject};
use super::authz::{Action, Caller};
use super::{App, Ask, Error, projects};
use crate::clock::Ids;
use crate::domain::access::Role;
use crate::domain::field::FieldErrors;
use crate::domain::ids::{ProjectId, TokenId};
use crate::domain::name::{NAME_MAX, check_name};
use crate::store::page::{Page, PageRequest};
use crate::store::tokens::{self, Token, TokenFilter, TokenHash};

pub use crate::store::tokens::Token as TokenView;

/// Begins every token, so that secret scanners know one when they see it.
const PREFIX: &str = "zcp_";
/// Shortest and longest life of a token that ends by itself.
const LIFETIMES: std::ops::RangeInclusive<u32> = 60..=315_360_000;

/// What an operator asks for.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// What it is for.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Name or id of its project.
    pub project: Option<String>,
    /// Seconds for which it is good.
    pub lifetime_seconds: Option<u32>,
}

/// A token and its text.
#[derive(Clone)]
pub struct CreatedToken {
    /// The token.
    pub token: Token,
    /// What the client sends.
    pub secret: String,
}

/// Makes a token.
pub async fn create(app: &App, ask: &Ask, new: &NewToken) -> Result<CreatedToken, Error> {
    ask.caller.may(Action::ManageTokens)?;
    let project = check(app, new).await?;
    let mut act = match Act::start(app, ask).await? {
        Start::Fresh(act) => act,
        Start::Done(id) => {
            return Err(Error::conflict(format!(
                "this request made the token {id} already, and its secret is shown only once: \
                 revoke that token and make another with another Idempotency-Key"
            )));
        }
    };
    let lifetime = new.lifetime_seconds.map(|s| SignedDuration::from_secs(i64::from(s)));
    let made = fresh(app, (&new.name, new.role, project), act.now);
    let token = Token { expires_at: lifetime.map(|lifetime| act.now + lifetime), ..made.token };
    tokens::insert(&mut act.tx, &token, TokenHash::of(&made.secret)).await?;
    let subject = Subject { kind: "token", id: token.id.0, project, cluster: None };
    act.audit("token.create", subject, json!({ "name": new.name, "role": new.role })).await?;
    act.commit(token.id.0).await?;
    Ok(CreatedToken { token, secret: made.secret })
}

async fn check(app: &App, new: &NewToken) -> Result<Option<ProjectId>, Error> {
    let mut errors = check_name("name", &new.name, NAME_MAX);
    if new.lifetime_seconds.is_some_and(|seconds| !LIFETIMES.contains(&seconds)) {
        errors.push("lifetime_seconds", "must be 60 to 315360000");
    }
    let project = match (&new.project, new.role) {
        (None, Role::Operator) => None,
        (Some(_), Role::Operator) => {
            errors.push("project", "an operator's token is for all projects");
            None
        }
        (None, Role::Owner | Role::Viewer) => {
            errors.push("project", format!("a token with the role {} needs one", new.role));
            None
        }
        (Some(name), Role::Owner | Role::Viewer) => known_project(app, name, &mut errors).await?,
    };
    Ok(errors.into_result(project)?)
}

async fn known_project(
    app: &App,
    name: &str,
    errors: &mut FieldErrors,
) -> Result<Option<ProjectId>, Error> {
    let found = projects::find(app, name).await?;
    if found.is_none() {
        errors.push("project", format!("there is no project {name}"));
    }
    Ok(found.map(|project| project.id))
}

fn fresh(
    app: &App,
    (name, role, project): (&str, Role, Option<ProjectId>),
    now: Timestamp,
) -> CreatedToken {
    let token = Token {
        id: TokenId(app.ids.uuid()),
        name: name.to_owned(),
        role: role.as_str().to_owned(),
        project,
        created_at: now,
        expires_at: None,
        revoked_at: None,
    };
    CreatedToken { token, secret: new_secret(&*app.ids) }
}

/// The text of a new token.
pub fn new_secret(ids: &dyn Ids) -> String {
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(ids.secret()))
}

/// Tokens, newest first.
pub async fn list(app: &App, caller: &Caller, page: &PageRequest) -> Result<Page<Token>, Error> {
    caller.may(Action::ManageTokens)?;
    Ok(tokens::list(app.store.pool(), TokenFilter::default(), page).await?)
}

/// Ends a token.
pub async fn revoke(app: &App, ask: &Ask, id: TokenId) -> Result<(), Error> {
    ask.caller.may(Action::ManageTokens)?;
    let mut act = Act::begin(app, ask).await?;
    let token = tokens::revoke(&mut act.tx, id, act.now).await?;
    let token = token.ok_or_else(|| Error::absent("token", id))?;
    let subject = Subject { kind: "token", id: id.0, project: token.project, cluster: None };
    act.audit("token.revoke", subject, json!({ "name": token.name })).await?;
    act.commit(id.0).await
}

/// Makes sure that `secret` opens the door as an operator. For the first start, which reads the
/// secret from a file that only its operator knows.
pub async fn ensure_operator_token(app: &App, name: &str, secret: &str) -> Result<(), Error> {
    let mut tx = app.store.begin().await?;
    if tokens::find_by_hash(&mut *tx, TokenHash::of(secret)).await?.is_none() {
        let made = fresh(app, (name, Role::Operator, None), app.now());
        match tokens::insert(&mut tx, &made.token, TokenHash::of(secret)).await {
            // Another replica was first.
            Err(error) if error.constraint() == Some("api_tokens_hash_key") => return Ok(()),
            other => other?,
        }
    }
    tx.commit().await.map_err(|error| Error::Store(error.into()))
}
