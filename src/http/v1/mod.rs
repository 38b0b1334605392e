//! Handlers of `/v1`, one file a noun.

pub(super) mod cloud_pairs;
pub(super) mod clouds;
pub(super) mod clusters;
pub(super) mod events;
pub(super) mod migrations;
mod nodes;
pub(super) mod offerings;
pub(super) mod preflights;
pub(super) mod projects;
pub(super) mod tokens;
pub(super) mod work;

use axum::http::header;
use axum::response::AppendHeaders;

use crate::api;
use crate::app::Page;

/// The header that carries a generation.
type Tag = AppendHeaders<[(header::HeaderName, String); 1]>;

fn tag(generation: i64) -> Tag {
    AppendHeaders([(header::ETAG, format!("\"{generation}\""))])
}

fn page<T, U>(page: Page<T>, map: impl FnMut(T) -> U) -> axum::Json<api::Page<U>> {
    axum::Json(api::Page {
        items: page.items.into_iter().map(map).collect(),
        next_cursor: page.next,
    })
}
