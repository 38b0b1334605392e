//! What an answer means. One reader for the error bodies of all services.
//!
//! The same code means different things in different services: a quota is 403 in Nova, 409 in
//! Neutron and 413 in Cinder; 409 is also "busy", "in use" and "no address left". So the body
//! decides where the code cannot.

use std::time::Duration;

use http::header::{LOCATION, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde_json::Value;

use crate::domain::outside::{OutsideError, OutsideKind};

/// Longest message that is kept of an answer.
const MAX_MESSAGE: usize = 500;

/// What a call does to the cloud; decides what a missing answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Changes nothing.
    Read,
    /// Makes something; doing it twice makes two.
    Create,
    /// Changes something that exists.
    Change,
    /// Removes something; doing it twice is the same as once.
    Remove,
}

impl Effect {
    /// Whether the call can be sent again without looking first.
    pub(super) fn is_repeatable(self) -> bool {
        matches!(self, Self::Read | Self::Remove)
    }

    /// What it means that the call was sent and not answered.
    pub(super) fn unanswered(self) -> OutsideKind {
        if self.is_repeatable() { OutsideKind::Transient } else { OutsideKind::Unclear }
    }
}

/// An error body, whichever service wrote it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fault {
    /// The service's name for the error, such as `OverQuota`; often empty.
    pub(super) name: String,
    /// The service's words.
    pub(super) message: String,
    /// Whether it has the form of an OpenStack service, not of a proxy before it.
    pub(super) is_openstack: bool,
}

impl Fault {
    /// Reads the body of any service.
    pub(super) fn read(body: &[u8]) -> Self {
        let Ok(Value::Object(fields)) = serde_json::from_slice::<Value>(body) else {
            return Self { message: plain_text(body), ..Self::default() };
        };
        let text = |value: &Value, key: &str| {
            value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        // Placement: {"errors": [{"title", "detail", "code"}]}
        if let Some(first) = fields.get("errors").and_then(|errors| errors.get(0)) {
            return Self::openstack(text(first, "code"), text(first, "detail"));
        }
        // Octavia: {"faultcode", "faultstring"}
        if let Some(message) = fields.get("faultstring").and_then(Value::as_str) {
            return Self::openstack(String::new(), message.to_owned());
        }
        // Nova {"badRequest": {..}}, Keystone {"error": {..}}, Neutron {"NeutronError": {..}}
        for (name, inner) in &fields {
            let message = match inner {
                Value::String(message) if name.ends_with("Error") || name == "message" => message,
                Value::Object(inner) => match inner.get("message") {
                    Some(Value::String(message)) => message,
                    _ => continue,
                },
                _ => continue,
            };
            let kind = text(inner, "type");
            let name = if kind.is_empty() { name.clone() } else { kind };
            return Self::openstack(name, message.clone());
        }
        Self { message: plain_text(body), ..Self::default() }
    }

    fn openstack(name: String, message: String) -> Self {
        let message = shorten(&message);
        Self { name, message, is_openstack: true }
    }

    fn says(&self, words: &[&str]) -> bool {
        let message = self.message.to_lowercase();
        words.iter().any(|word| message.contains(word))
    }

    /// "Policy doesn't allow os_compute_api:os-quota-sets" is not about a quota.
    fn is_quota(&self) -> bool {
        self.name == "OverQuota"
            || (self.says(&["quota"]) && self.says(&["exceed"]))
            || self.says(&["over limit for", "is over limit", "maximum number of ports exceeded"])
    }

    fn is_no_address(&self) -> bool {
        matches!(self.name.as_str(), "IpAddressGenerationFailure" | "NoMoreFixedIps")
            || self.says(&["no more ip addresses", "no more fixed ips", "no valid host"])
    }

    /// Nova says so of a zone all of whose hosts are down or disabled, as of one that never was;
    /// that it exists is checked against the inventory beforehand.
    fn is_zone_down(&self) -> bool {
        self.says(&["availability zone is not available"])
    }
}

/// Turns an answer that is not a success into an error.
pub(super) fn refuse(
    (operation, effect): (&str, Effect),
    status: StatusCode,
    headers: &HeaderMap,
    (body, now): (&[u8], Timestamp),
) -> OutsideError {
    let fault = Fault::read(body);
    let retry_after = retry_after(headers, now);
    let request_id = request_id(headers);
    let from_service = fault.is_openstack || request_id.is_some();
    let kind = match status.as_u16() {
        403 | 413 if fault.is_quota() => OutsideKind::NoCapacity,
        400 if fault.is_zone_down() => OutsideKind::NoCapacity,
        401 | 403 => OutsideKind::Denied,
        // Something that the new thing needs is not there.
        404 if from_service && effect == Effect::Create => OutsideKind::Invalid,
        404 | 410 if from_service => OutsideKind::Absent,
        409 => conflict(&fault, effect),
        412 | 429 => OutsideKind::Busy,
        413 | 503 if retry_after.is_some() => OutsideKind::Busy,
        404 | 410 | 500 | 502..=599 => effect.unanswered(),
        // 400, 501, redirects, and what nobody thought of.
        _ => OutsideKind::Invalid,
    };
    OutsideError {
        kind,
        operation: operation.to_owned(),
        message: message(status, headers, &fault, from_service),
        status: Some(status.as_u16()),
        request_id,
        retry_after,
    }
}

fn conflict(fault: &Fault, effect: Effect) -> OutsideKind {
    if fault.is_quota() || fault.is_no_address() {
        return OutsideKind::NoCapacity;
    }
    // A person locked it: waiting does not help, and unlocking is not ours to do.
    if fault.says(&["is locked", "instance locked"]) {
        return OutsideKind::Denied;
    }
    if fault.says(&["task_state", "vm_state"]) {
        return OutsideKind::Busy;
    }
    if effect == Effect::Create { OutsideKind::Exists } else { OutsideKind::Busy }
}

fn message(status: StatusCode, headers: &HeaderMap, fault: &Fault, from_service: bool) -> String {
    if status.is_redirection() {
        let to = headers.get(LOCATION).and_then(|to| to.to_str().ok()).unwrap_or("elsewhere");
        return format!(
            "the cloud redirects to {to}; redirects are refused because the token would follow"
        );
    }
    let words = match fault.message.as_str() {
        "" => status.canonical_reason().unwrap_or("no reason given"),
        words => words,
    };
    match status.as_u16() {
        404 | 410 if !from_service => {
            format!("something that is not OpenStack answered 'not found': {words}")
        }
        409 if fault.says(&["is locked", "instance locked"]) => {
            format!("locked by an operator: {words}")
        }
        _ => words.to_owned(),
    }
}

/// The id that the service gave to the request.
pub(super) fn request_id(headers: &HeaderMap) -> Option<String> {
    ["x-openstack-request-id", "x-compute-request-id"]
        .iter()
        .find_map(|name| headers.get(*name))
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned)
}

/// `Retry-After`, in seconds or as a date.
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    Some(Duration::try_from(date.duration_since(now)).unwrap_or_default())
}

/// The words of a body that is not JSON: HTML of Glance or a proxy, or plain text.
fn plain_text(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(8 * MAX_MESSAGE)]);
    let mut words = String::new();
    let mut is_tag = false;
    for character in text.chars() {
        match character {
            '<' => is_tag = true,
            '>' if is_tag => {
                is_tag = false;
                words.push(' ');
            }
            _ if !is_tag => words.push(character),
            _ => {}
        }
    }
    shorten(&words.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => format!("{} ...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, effect: Effect, body: &str) -> OutsideError {
        let mut headers = HeaderMap::new();
        headers.insert("x-openstack-request-id", "req-1".parse().expect("a value"));
        let status = StatusCode::from_u16(status).expect("a status");
        refuse(("nova test", effect), status, &headers, (body.as_bytes(), Timestamp::UNIX_EPOCH))
    }

    #[test]
    fn the_message_of_every_service_is_found() {
        for (body, name, message) in [
            (
                r#"{"badRequest": {"code": 400, "message": "Bad flavor"}}"#,
                "badRequest",
                "Bad flavor",
            ),
            (r#"{"error": {"code": 401, "message": "No", "title": "x"}}"#, "error", "No"),
            (
                r#"{"NeutronError": {"type": "OverQuota", "message": "Full", "detail": ""}}"#,
                "OverQuota",
                "Full",
            ),
            (r#"{"NeutronError": "Boom"}"#, "NeutronError", "Boom"),
            (
                r#"{"errors": [{"status": 404, "code": "placement.undefined", "detail": "None"}]}"#,
                "placement.undefined",
                "None",
            ),
            (r#"{"faultcode": "Client", "faultstring": "Immutable"}"#, "", "Immutable"),
        ] {
            let fault = Fault::read(body.as_bytes());
            assert_eq!((fault.name.as_str(), fault.message.as_str()), (name, message));
            assert!(fault.is_openstack);
        }
        let html = b"<html><head><title>404</title></head><body>No image\n found</body></html>";
        let fault = Fault::read(html);
        assert_eq!(fault.message, "404 No image found");
        assert!(!fault.is_openstack);
    }

    fn nova(message: &str) -> String {
        format!(r#"{{"word": {{"message": "{message}"}}}}"#)
    }

    fn neutron(kind: &str) -> String {
        format!(r#"{{"NeutronError": {{"type": "{kind}", "message": "x", "detail": ""}}}}"#)
    }

    #[test]
    fn a_full_cloud_is_told_from_a_refusal_by_the_body() {
        let kind = |status, body: &str| refused(status, Effect::Create, body).kind;
        for message in [
            "Quota exceeded for cores: Requested 2, but already used 9 of 10 cores",
            "Quota exceeded, too many servers in group",
            "Resource servers is over limit of 10",
        ] {
            assert_eq!(kind(403, &nova(message)), OutsideKind::NoCapacity, "{message}");
            assert_eq!(kind(413, &nova(message)), OutsideKind::NoCapacity, "{message}");
        }
        for name in ["OverQuota", "IpAddressGenerationFailure"] {
            assert_eq!(kind(409, &neutron(name)), OutsideKind::NoCapacity, "{name}");
        }
        let policy = nova("Policy doesn't allow os-quota-sets:show to be performed.");
        assert_eq!(kind(403, &policy), OutsideKind::Denied);
    }

    #[test]
    fn a_conflict_is_told_by_call_and_body() {
        use Effect::{Change, Create, Remove};
        use OutsideKind::{Busy, Denied, Exists};
        for (effect, body, kind) in [
            (Create, nova("Port x is still in use."), Exists),
            (Create, neutron("IpAddressAlreadyAllocated"), Exists),
            (Remove, neutron("SecurityGroupInUse"), Busy),
            (Change, nova("Cannot 'stop' instance while it is in task_state deleting"), Busy),
            (Remove, nova("Instance x is locked"), Denied),
        ] {
            assert_eq!(refused(409, effect, &body).kind, kind, "{body}");
        }
    }

    #[test]
    fn a_lost_answer_depends_on_the_call() {
        use OutsideKind::{Absent, Busy, Invalid, Transient, Unclear};
        for (status, effect, kind) in [
            (500, Effect::Create, Unclear),
            (504, Effect::Change, Unclear),
            (504, Effect::Remove, Transient),
            (503, Effect::Read, Transient),
            (501, Effect::Read, Invalid),
            (400, Effect::Create, Invalid),
            (412, Effect::Change, Busy),
            (404, Effect::Remove, Absent),
            (404, Effect::Create, Invalid),
        ] {
            assert_eq!(refused(status, effect, &nova("x")).kind, kind, "{status} {effect:?}");
        }
    }

    #[test]
    fn a_zone_whose_hosts_are_down_has_no_room() {
        let error =
            refused(400, Effect::Create, &nova("The requested availability zone is not available"));
        assert_eq!(error.kind, OutsideKind::NoCapacity);
    }

    #[test]
    fn a_proxy_cannot_say_that_a_thing_is_absent() {
        let error = refuse(
            ("nova show server", Effect::Read),
            StatusCode::NOT_FOUND,
            &HeaderMap::new(),
            (b"<h1>Not Found</h1>", Timestamp::UNIX_EPOCH),
        );
        assert_eq!(error.kind, OutsideKind::Transient);
        assert!(error.message.contains("not OpenStack"), "{error}");
    }

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let wait = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().expect("a value"));
            retry_after(&headers, Timestamp::UNIX_EPOCH)
        };
        assert_eq!(wait("30"), Some(Duration::from_secs(30)));
        assert_eq!(wait("Thu, 01 Jan 1970 00:01:00 GMT"), Some(Duration::from_mins(1)));
        assert_eq!(wait("soon"), None);
    }

    #[test]
    fn a_redirect_names_where_it_points() {
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, "http://evil.example/".parse().expect("a value"));
        let error = refuse(
            ("nova list servers", Effect::Read),
            StatusCode::FOUND,
            &headers,
            (b"", Timestamp::UNIX_EPOCH),
        );
        assert_eq!(error.kind, OutsideKind::Invalid);
        assert!(error.message.contains("evil.example"));
    }
}
