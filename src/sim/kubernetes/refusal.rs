//! Refusals, in the words and the shape of a real API server's `Status` objects.

use serde_json::{Value, json};

use super::resource::Resource;

/// A request that is answered with a `Status` of failure.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Refusal {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    /// `null` when there are none.
    pub details: Value,
}

pub(super) type Outcome<T> = Result<T, Refusal>;

impl Refusal {
    pub(super) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Value::Null }
    }

    fn on(mut self, resource: &Resource, name: &str) -> Self {
        self.details = json!({"kind": resource.plural});
        if !name.is_empty() {
            self.details["name"] = name.into();
        }
        if !resource.group.is_empty() {
            self.details["group"] = resource.group.into();
        }
        self
    }

    pub(super) fn not_found(resource: &Resource, name: &str) -> Self {
        let message = format!("{} {name:?} not found", qualified(resource));
        Self::new(404, "NotFound", message).on(resource, name)
    }

    /// A path that nothing serves.
    pub(super) fn no_such_path() -> Self {
        let mut refusal =
            Self::new(404, "NotFound", "the server could not find the requested resource");
        refusal.details = json!({});
        refusal
    }

    pub(super) fn already_exists(resource: &Resource, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", qualified(resource));
        Self::new(409, "AlreadyExists", message).on(resource, name)
    }

    pub(super) fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        let message =
            format!("Operation cannot be fulfilled on {} {name:?}: {why}", qualified(resource));
        Self::new(409, "Conflict", message).on(resource, name)
    }

    /// Somebody else wrote the object since it was read.
    pub(super) fn stale(resource: &Resource, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version \
                   and try again";
        Self::conflict(resource, name, why)
    }

    pub(super) fn wrong_uid(resource: &Resource, name: &str, uids: (&str, &str)) -> Self {
        let (wanted, found) = uids;
        let why = format!(
            "Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}"
        );
        Self::conflict(resource, name, &why)
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// One field has a value that the API does not take.
    pub(super) fn invalid(resource: &Resource, name: &str, field: &str, why: &str) -> Self {
        let kind = resource.kind.name();
        let kind = if resource.group.is_empty() {
            kind.to_owned()
        } else {
            format!("{kind}.{}", resource.group)
        };
        let message = format!("{kind} {name:?} is invalid: {field}: {why}");
        let mut refusal = Self::new(422, "Invalid", message).on(resource, name);
        refusal.details["kind"] = resource.kind.name().into();
        refusal.details["causes"] =
            json!([{"reason": "FieldValueInvalid", "message": why, "field": field}]);
        refusal
    }

    pub(super) fn forbidden(resource: &Resource, name: &str, why: &str) -> Self {
        let what = qualified(resource);
        let message = if name.is_empty() {
            format!("{what} is forbidden: {why}")
        } else {
            format!("{what} {name:?} is forbidden: {why}")
        };
        Self::new(403, "Forbidden", message).on(resource, name)
    }

    pub(super) fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        let mut refusal = Self::new(405, "MethodNotAllowed", message);
        refusal.details = json!({});
        refusal
    }

    pub(super) fn unsupported_media_type(found: &str) -> Self {
        let message = format!("the body of the request was in an unknown format: {found}");
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// A resourceVersion whose history is no longer kept.
    pub(super) fn expired(wanted: u64, oldest: u64) -> Self {
        Self::new(410, "Expired", format!("too old resource version: {wanted} ({oldest})"))
    }

    /// The pod's disruption budget does not allow an eviction now.
    pub(super) fn budget(why: String, retry_after_seconds: u32) -> Self {
        let message = "Cannot evict pod as it would violate the pod's disruption budget.";
        let mut refusal = Self::new(429, "TooManyRequests", message);
        refusal.details = json!({"causes": [{"reason": "DisruptionBudget", "message": why}]});
        if retry_after_seconds > 0 {
            refusal.details["retryAfterSeconds"] = retry_after_seconds.into();
        }
        refusal
    }

    /// The `Status` object.
    pub(super) fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }

    /// What the `Retry-After` header says, if there is one.
    pub(super) fn retry_after(&self) -> Option<i64> {
        self.details["retryAfterSeconds"].as_i64().filter(|seconds| *seconds > 0)
    }
}

fn qualified(resource: &Resource) -> String {
    if resource.group.is_empty() {
        resource.plural.to_owned()
    } else {
        format!("{}.{}", resource.plural, resource.group)
    }
}
