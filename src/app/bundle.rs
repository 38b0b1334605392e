//! The handover of a cluster's keys to its control-plane servers.
//!
//! A token opens once, for 20 minutes, only from the address and for the server for which it was
//! made. Whoever reads a server's user data later finds a token that opens nothing any more.

use std::net::IpAddr;

use serde_json::json;

use super::clusters::keys;
use super::{App, Error};
use crate::bootstrap::bundle::Bundle;
use crate::bootstrap::tokens::token_hash;
use crate::domain::node::Desired;
use crate::store::audit::{self, AuditRecord};
use crate::store::bundles::{self, BundleRow};

/// Who asks for a bundle.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The token of its user data.
    pub token: &'a str,
    /// Which server it says it is.
    pub server_id: &'a str,
    /// From where it asks.
    pub peer: IpAddr,
}

/// Hands the bundle over, once.
pub async fn fetch(app: &App, request: Request<'_>) -> Result<Bundle, Error> {
    let mut tx = app.store.begin().await?;
    let row = bundles::lock(&mut tx, &token_hash(request.token)).await?;
    let row = row.ok_or(Error::Unauthenticated("the token is unknown"))?;
    let now = app.now();
    check(&row, request, now)?;
    bundles::set_used(&mut tx, row.node_id, now).await?;
    let pki = keys::open(app, &mut tx, row.cluster_id).await?;
    let record = AuditRecord {
        id: app.ids.uuid(),
        at: now,
        actor: format!("node:{}", row.node_id),
        action: "bundle.fetch".to_owned(),
        project: None,
        resource_kind: "node".to_owned(),
        resource: row.node_id.0,
        detail: json!({ "server_id": request.server_id, "peer": request.peer }),
    };
    audit::record(&mut tx, &record).await?;
    tx.commit().await.map_err(|error| Error::Store(error.into()))?;
    Ok(Bundle::new(&pki))
}

fn check(row: &BundleRow, request: Request<'_>, now: jiff::Timestamp) -> Result<(), Error> {
    let refuse = |why: &str| Err(Error::Forbidden(why.to_owned()));
    if row.desired == Desired::Absent {
        return refuse("the node is not wanted any more");
    }
    if row.used_at.is_some() {
        return refuse("the token was used");
    }
    if row.expires_at.is_none_or(|end| now >= end) {
        return refuse("the token has ended");
    }
    let address = row.address.as_deref().and_then(|text| text.parse::<IpAddr>().ok());
    if address != Some(request.peer.to_canonical()) {
        return refuse("the token is for another address");
    }
    match &row.server_id {
        // The server boots before its creation is recorded; its next try will find it.
        None => Err(Error::TooEarly("the server is not recorded yet: ask again")),
        Some(id) if id == request.server_id => Ok(()),
        Some(_) => refuse("the token is for another server"),
    }
}
