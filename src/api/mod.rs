//! Request and response types of the HTTP API, shared by the server and `zcpctl`.
//!
//! Requests refuse unknown fields. Responses only grow: a client ignores what it does not know.
//! Names of fields in error answers are paths into these types.

pub mod cloud_pairs;
pub mod clouds;
pub mod clusters;
pub mod events;
pub mod migrations;
pub mod nodes;
pub mod offerings;
pub mod preflights;
pub mod problem;
pub mod projects;
pub mod tokens;
pub mod work;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The entries, in order.
    pub items: Vec<T>,
    /// Give this as `cursor` to read the next page; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}
