//! Who calls, and what they may do.
//!
//! In process there is no caller, and everything is allowed. Over TLS a caller is the subject of
//! a client certificate, the bearer of a bootstrap token, or anonymous. `system:masters` may do
//! everything, bootstrap tokens what `kubeadm join` needs, anonymous callers read cluster-info
//! and health; for all others the stored roles and bindings decide.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::object;
use super::refusal::{Outcome, Refusal};
use super::resource::Kind;
use super::rest::{Call, Verb};
use super::state::State;

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    pub user: String,
    pub groups: Vec<String>,
}

impl Caller {
    pub(super) fn anonymous() -> Self {
        Self {
            user: "system:anonymous".to_owned(),
            groups: vec!["system:unauthenticated".to_owned()],
        }
    }

    /// The subject of a client certificate: common name and organizations.
    pub(super) fn certified(user: String, mut groups: Vec<String>) -> Self {
        groups.push("system:authenticated".to_owned());
        Self { user, groups }
    }

    fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|one| one == group)
    }

    pub(super) fn is_anonymous(&self) -> bool {
        self.is_in("system:unauthenticated")
    }
}

/// Why a bootstrap token is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is not of the form `abcdef.0123456789abcdef`.
    #[error("the bootstrap token is malformed")]
    Malformed,
    /// There is no such token, or its secret is another.
    #[error("the bootstrap token is unknown")]
    Unknown,
    /// It is over.
    #[error("the bootstrap token has expired")]
    Expired,
    /// It is not for authentication.
    #[error("the bootstrap token is not for authentication")]
    NotForAuthentication,
}

/// Finds the bearer of a bootstrap token.
pub(super) fn bootstrap_caller(state: &State, token: &str) -> Result<Caller, TokenError> {
    let (id, secret) = token.split_once('.').ok_or(TokenError::Malformed)?;
    if id.len() != 6 || secret.len() != 16 {
        return Err(TokenError::Malformed);
    }
    let name = format!("bootstrap-token-{id}");
    let stored = state.store.get(Kind::Secret, "kube-system", &name).ok_or(TokenError::Unknown)?;
    if stored["type"] != "bootstrap.kubernetes.io/token"
        || text_of(stored, "token-id").as_deref() != Some(id)
        || text_of(stored, "token-secret").as_deref() != Some(secret)
    {
        return Err(TokenError::Unknown);
    }
    if let Some(end) = text_of(stored, "expiration") {
        let end: jiff::Timestamp = end.parse().map_err(|_| TokenError::Expired)?;
        if end <= state.now {
            return Err(TokenError::Expired);
        }
    }
    if text_of(stored, "usage-bootstrap-authentication").as_deref() != Some("true") {
        return Err(TokenError::NotForAuthentication);
    }
    let mut groups = vec!["system:bootstrappers".to_owned(), "system:authenticated".to_owned()];
    let more = text_of(stored, "auth-extra-groups").unwrap_or_default();
    groups.extend(more.split(',').filter(|group| !group.is_empty()).map(str::to_owned));
    Ok(Caller { user: format!("system:bootstrap:{id}"), groups })
}

fn text_of(secret: &Value, key: &str) -> Option<String> {
    String::from_utf8(STANDARD.decode(secret["data"][key].as_str()?).ok()?).ok()
}

/// Whether the caller may do this.
pub(super) fn check(state: &State, caller: &Caller, call: &Call) -> Outcome<()> {
    if caller.is_in("system:masters")
        || is_cluster_info(call)
        || (caller.is_in("system:bootstrappers") && is_for_joining(call))
        || roles_allow(state, caller, call)
    {
        return Ok(());
    }
    let scope = if call.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", call.namespace)
    };
    let why = format!(
        "User {:?} cannot {} resource {:?} in API group {:?} {scope}",
        caller.user,
        call.verb.word(),
        call.target(),
        call.resource.group,
    );
    Err(Refusal::forbidden(call.resource, &call.name, &why))
}

fn is_cluster_info(call: &Call) -> bool {
    call.verb == Verb::Get
        && call.resource.kind == Kind::ConfigMap
        && call.namespace == "kube-public"
        && call.name == "cluster-info"
}

/// What kubeadm's own roles allow to a joining node.
fn is_for_joining(call: &Call) -> bool {
    match call.resource.kind {
        Kind::CertificateSigningRequest => {
            matches!(call.verb, Verb::Create | Verb::Get | Verb::List | Verb::Watch)
        }
        Kind::Node => call.verb == Verb::Get,
        Kind::ConfigMap => {
            call.verb == Verb::Get
                && call.namespace == "kube-system"
                && matches!(call.name.as_str(), "kubeadm-config" | "kubelet-config" | "kube-proxy")
        }
        _ => false,
    }
}

fn roles_allow(state: &State, caller: &Caller, call: &Call) -> bool {
    let cluster_wide = state.store.all(Kind::ClusterRoleBinding);
    let local = state
        .store
        .all(Kind::RoleBinding)
        .filter(|(place, _)| !call.namespace.is_empty() && place.0 == call.namespace);
    cluster_wide.chain(local).any(|(place, binding)| {
        let subjects = object::items(binding, "/subjects");
        subjects.iter().any(|subject| is_subject(subject, caller))
            && role_of(state, &place.0, binding).is_some_and(|role| role_allows(role, call))
    })
}

fn is_subject(subject: &Value, caller: &Caller) -> bool {
    match (subject["kind"].as_str(), subject["name"].as_str()) {
        (Some("User"), Some(name)) => caller.user == name,
        (Some("Group"), Some(name)) => caller.is_in(name),
        _ => false,
    }
}

fn role_of<'a>(state: &'a State, namespace: &str, binding: &Value) -> Option<&'a Value> {
    let name = object::text(binding, "/roleRef/name");
    let role = match binding["roleRef"]["kind"].as_str()? {
        "ClusterRole" => state.store.get(Kind::ClusterRole, "", name),
        _ => state.store.get(Kind::Role, namespace, name),
    };
    role.map(|role| &**role)
}

fn role_allows(role: &Value, call: &Call) -> bool {
    let target = call.target();
    object::items(role, "/rules").iter().any(|rule| {
        let has = |list: &str, wanted: &str| {
            let items = object::items(rule, list);
            items.iter().any(|one| one == "*" || one == wanted)
        };
        let names = object::items(rule, "/resourceNames");
        has("/verbs", call.verb.word())
            && has("/apiGroups", call.resource.group)
            && has("/resources", &target)
            && (names.is_empty() || names.iter().any(|one| *one == call.name.as_str()))
    })
}
