//! The one error body, after RFC 9457.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::field::FieldError;

/// Media type of [`Problem`].
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Stable word for machines, such as `invalid-field`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same in words, the same for every problem of this type.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong with this very request.
    pub detail: String,
    /// Every wrong field.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldError>,
    /// What the caller may do instead, such as the verbs that are legal now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub legal: Vec<String>,
    /// Name this when you ask an operator about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}
