//! What a call to the outside (a cloud, a tenant cluster) can end in.
//!
//! The kind decides the next move, never the text. Where the kinds come from: OpenStack's API
//! guide on faults, and the eviction answers of the Kubernetes API server.

use std::fmt;
use std::time::Duration;

/// The kinds of failure, by what to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutsideKind {
    /// 502 to 504 on a read, connection refused or reset before the request was sent: back off.
    Transient,
    /// 429, 409 with a task state, 503 with Retry-After: wait as told; not a failure.
    Busy,
    /// Quota or `NoValidHost`: park and look again slowly.
    NoCapacity,
    /// 404: success when deleting.
    Absent,
    /// 409 on a create: read it; adopt it if it is ours.
    Exists,
    /// A write was sent and not answered (time-out, reset, 5xx): look before doing it again.
    Unclear,
    /// 401 or 403 that is not a quota: park for a human.
    Denied,
    /// 400, or an answer that we cannot read: park for a human.
    Invalid,
}

/// A failed call to the outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutsideError {
    /// What to do next.
    pub kind: OutsideKind,
    /// Who answered, and what was asked, such as `nova create server`.
    pub operation: String,
    /// The service's own words, or those of the transport.
    pub message: String,
    /// HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// The service's request id, if it gave one (`x-openstack-request-id`, `audit-id`).
    pub request_id: Option<String>,
    /// How long the service asks us to wait.
    pub retry_after: Option<Duration>,
}

impl OutsideError {
    /// An error with only a kind, an operation and a message.
    pub fn new(
        kind: OutsideKind,
        operation: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            operation: operation.into(),
            message: message.into(),
            status: None,
            request_id: None,
            retry_after: None,
        }
    }

    /// Whether the thing asked for is not there.
    pub fn is_absent(&self) -> bool {
        self.kind == OutsideKind::Absent
    }
}

impl fmt::Display for OutsideError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.operation, self.message)?;
        if let Some(status) = self.status {
            write!(f, " (HTTP {status}")?;
            if let Some(id) = &self.request_id {
                write!(f, ", {id}")?;
            }
            write!(f, ")")?;
        }
        Ok(())
    }
}

impl std::error::Error for OutsideError {}

/// Treats "not there" as done: for deletes.
pub fn absent_is_done<T: Default>(result: Result<T, OutsideError>) -> Result<T, OutsideError> {
    match result {
        Err(error) if error.is_absent() => Ok(T::default()),
        other => other,
    }
}
