//! A cluster's own PKI: made with it, sealed key by key.

use secrecy::{ExposeSecret as _, SecretString};

use crate::app::{App, Error};
use crate::bootstrap::pki::{Authority, ClusterPki, KeyPairPem};
use crate::domain::ids::ClusterId;
use crate::store::Tx;
use crate::store::clusters::{self, KeyKind, KeyRow};
use crate::store::seal::Place;

fn place(id: ClusterId, kind: KeyKind) -> Place<'static> {
    Place::new("cluster_keys", id.0, kind.as_str())
}

/// Seals the keys for the database.
pub(super) fn seal(app: &App, id: ClusterId, pki: &ClusterPki) -> Vec<KeyRow> {
    let row = |kind: KeyKind, public: &str, private: &SecretString| KeyRow {
        kind,
        public_pem: public.to_owned(),
        private_key: app.keys.seal(place(id, kind), private.expose_secret().as_bytes(), &*app.ids),
    };
    let authority =
        |kind, authority: &Authority| row(kind, authority.cert_pem(), authority.key_pem());
    let service_account = &pki.service_account;
    vec![
        authority(KeyKind::ClusterCa, &pki.cluster),
        authority(KeyKind::FrontProxyCa, &pki.front_proxy),
        authority(KeyKind::EtcdCa, &pki.etcd),
        row(KeyKind::ServiceAccount, &service_account.public_pem, &service_account.private_pem),
    ]
}

/// The keys of a cluster.
pub(in crate::app) async fn open(
    app: &App,
    tx: &mut Tx,
    id: ClusterId,
) -> Result<ClusterPki, Error> {
    let rows = clusters::list_keys(&mut **tx, id).await?;
    let pair = |kind: KeyKind| -> Result<(String, SecretString), Error> {
        let row = rows.iter().find(|row| row.kind == kind);
        let row = row.ok_or_else(|| Error::internal("find the keys of a cluster", "none"))?;
        let key = app.keys.open(place(id, kind), &row.private_key);
        let key = key.map_err(|error| Error::internal("open the key of a cluster", error))?;
        let text = std::str::from_utf8(&key);
        let text = text.map_err(|error| Error::internal("read the key of a cluster", error))?;
        Ok((row.public_pem.clone(), SecretString::from(text.to_owned())))
    };
    let authority = |kind| pair(kind).map(|(cert, key)| Authority::from_pem(cert, key));
    let (public_pem, private_pem) = pair(KeyKind::ServiceAccount)?;
    Ok(ClusterPki {
        cluster: authority(KeyKind::ClusterCa)?,
        front_proxy: authority(KeyKind::FrontProxyCa)?,
        etcd: authority(KeyKind::EtcdCa)?,
        service_account: KeyPairPem { public_pem, private_pem },
    })
}
