//! What an installation has once: its id, its node-facing authority, its first operator.

use std::path::Path;

use zeroize::Zeroizing;

use super::{Foundation, ServiceError, doing};
use crate::app::tokens;
use crate::bootstrap::pki::Authority;
use crate::domain::ids::InstallId;
use crate::store::installation::{self, Installation};
use secrecy::ExposeSecret as _;

/// This installation, with the key of its authority opened.
pub struct Own {
    /// Its id.
    pub id: InstallId,
    /// Signs the node listener's certificate.
    pub authority: Authority,
}

impl std::fmt::Debug for Own {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Own({}, ***)", self.id)
    }
}

/// The installation, made if there is none. Fails at once when the sealing keys are not those
/// that the database was written with.
pub async fn ensure(foundation: &Foundation) -> Result<Own, ServiceError> {
    let app = &foundation.app;
    let found =
        installation::find(app.store.pool()).await.map_err(doing("read the installation"))?;
    let row = match found {
        Some(row) => row,
        None => insert(foundation).await?,
    };
    let key = row.open_key(&foundation.keys).map_err(doing("open the node authority's key"))?;
    let key = Zeroizing::new(String::from_utf8_lossy(&key).into_owned());
    let authority = Authority::from_pem(row.node_ca_pem, key.as_str().to_owned().into());
    Ok(Own { id: row.id, authority })
}

async fn insert(foundation: &Foundation) -> Result<Installation, ServiceError> {
    let app = &foundation.app;
    let id = InstallId(foundation.ids.uuid());
    let authority = Authority::generate("zcp-node-ca", foundation.clock.now())
        .map_err(doing("make the node authority"))?;
    let key = authority.key_pem().expose_secret().as_bytes();
    let new = Installation {
        id,
        node_ca_pem: authority.cert_pem().to_owned(),
        node_ca_key: foundation.keys.seal(Installation::key_place(id), key, &*foundation.ids),
        created_at: foundation.clock.now(),
    };
    let mut tx = app.store.begin().await.map_err(doing("begin to write the installation"))?;
    let row = installation::ensure(&mut tx, &new).await.map_err(doing("write the installation"))?;
    tx.commit().await.map_err(doing("write the installation"))?;
    Ok(row)
}

/// Makes sure that the secret in `file` opens the door as an operator.
pub async fn ensure_operator(foundation: &Foundation, file: &Path) -> Result<(), ServiceError> {
    let secret = std::fs::read_to_string(file)
        .map_err(doing(format!("read api.operator_token_file {}", file.display())))?;
    let secret = Zeroizing::new(secret);
    let secret = secret.trim();
    // 128 bits in base64 are 22 characters; what is shorter was typed by a person.
    if secret.len() < 22 {
        let problem = "its secret has fewer than 22 characters";
        return Err(doing(format!("use api.operator_token_file {}", file.display()))(problem));
    }
    tokens::ensure_operator_token(&foundation.app, "operator", secret)
        .await
        .map_err(doing("write the operator's token"))
}
