//! The node-facing listener: a control-plane server fetches its keys here, once.
//!
//! It is no part of the public API and listens elsewhere, with a certificate of the installation's
//! own CA, which is pinned in the server's user data.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::{Api, Refusal, extract};
use crate::app::bundle;

/// From where a request comes. Set by a test, else taken from the connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

impl<S: Sync> FromRequestParts<S> for Peer {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        if let Some(peer) = parts.extensions.get::<Self>() {
            return Ok(*peer);
        }
        let connection = parts.extensions.get::<ConnectInfo<SocketAddr>>();
        connection.map(|info| Self(info.0.ip())).ok_or_else(|| {
            let detail = "the address of the caller is not known";
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BundleRequest {
    server_id: String,
}

/// Hands over the files that a member of the control plane needs.
pub(super) async fn bundle(
    State(api): State<Api>,
    Peer(peer): Peer,
    headers: HeaderMap,
    body: axum::body::Bytes,
) -> Result<Response, Refusal> {
    let token = extract::bearer(&headers)?.to_owned();
    let BundleRequest { server_id } = extract::parse(&body)?;
    let bundle = api
        .run(|app| async move {
            let request = bundle::Request { token: &token, server_id: &server_id, peer };
            bundle::fetch(&app, request).await
        })
        .await?;
    Ok(([(header::CACHE_CONTROL, "no-store")], axum::Json(bundle)).into_response())
}
