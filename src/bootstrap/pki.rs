//! Authorities and certificates of a cluster, and of the installation's node-facing listener.
//!
//! All keys are ECDSA P-256: made in a millisecond and taken by every Kubernetes since 1.10.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use x509_parser::pem::Pem;

/// Authorities live as long as kubeadm's own: ten years.
const AUTHORITY_LIFETIME: SignedDuration = SignedDuration::from_hours(10 * 365 * 24);
/// Certificates begin earlier than now, for servers whose clocks are late.
const BACKDATE: SignedDuration = SignedDuration::from_hours(1);

/// Making or reading a certificate failed.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The crypto library refused.
    #[error("make a key or certificate")]
    Make(#[from] rcgen::Error),
    /// The text is no certificate.
    #[error("read a certificate: {0}")]
    Read(String),
    /// Sealed keys have another shape than expected.
    #[error("read the keys of a cluster")]
    Shape(#[source] serde_json::Error),
    /// A time that certificates cannot say.
    #[error("{0} cannot be the end of a certificate")]
    Time(Timestamp),
}

/// When a certificate begins and how long it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The present moment; the certificate begins a little earlier.
    pub now: Timestamp,
    /// From now to its end.
    pub lifetime: SignedDuration,
}

/// Who a client certificate speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientName<'a> {
    /// Kubernetes takes it for the user.
    pub user: &'a str,
    /// Kubernetes takes it for the group, such as `system:masters`.
    pub group: Option<&'a str>,
}

/// A certificate and its key, both PEM.
#[derive(Clone)]
pub struct Certified {
    /// The certificate.
    pub cert_pem: String,
    /// Its key (PKCS#8).
    pub key_pem: SecretString,
}

impl fmt::Debug for Certified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certified(***)")
    }
}

/// A certificate authority.
#[derive(Debug, Clone)]
pub struct Authority(Certified);

/// Everything that kubeadm expects to find on a control-plane server.
#[derive(Debug, Clone)]
pub struct ClusterPki {
    /// Signs API servers, kubelets and clients.
    pub cluster: Authority,
    /// Signs the API server as a proxy in front of aggregated APIs.
    pub front_proxy: Authority,
    /// Signs etcd members and their clients.
    pub etcd: Authority,
    /// Signs service account tokens.
    pub service_account: KeyPairPem,
}

/// A bare key pair, both parts PEM.
#[derive(Clone)]
pub struct KeyPairPem {
    /// The public part.
    pub public_pem: String,
    /// The private part (PKCS#8).
    pub private_pem: SecretString,
}

impl fmt::Debug for KeyPairPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPairPem(***)")
    }
}

impl Authority {
    /// A new authority of this name.
    pub fn generate(name: &str, now: Timestamp) -> Result<Self, PkiError> {
        let key = new_key()?;
        let mut params = parameters(name, None, Validity { now, lifetime: AUTHORITY_LIFETIME })?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
            KeyUsagePurpose::KeyCertSign,
        ];
        // As kubeadm's own authorities have it.
        params.subject_alt_names = vec![rcgen::SanType::DnsName(name.to_lowercase().try_into()?)];
        let cert = params.self_signed(&key)?;
        Ok(Self(Certified { cert_pem: cert.pem(), key_pem: key.serialize_pem().into() }))
    }

    /// An authority made earlier.
    pub fn from_pem(cert_pem: String, key_pem: SecretString) -> Self {
        Self(Certified { cert_pem, key_pem })
    }

    /// Its certificate.
    pub fn cert_pem(&self) -> &str {
        &self.0.cert_pem
    }

    /// Its key. Only bundles and sealing need it.
    pub fn key_pem(&self) -> &SecretString {
        &self.0.key_pem
    }

    /// Issues a client certificate with a fresh key.
    pub fn issue_client(
        &self,
        name: ClientName<'_>,
        validity: Validity,
    ) -> Result<Certified, PkiError> {
        let mut params = parameters(name.user, name.group, validity)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    /// Issues a server certificate with a fresh key. Each of `names` is an address or a DNS name.
    pub fn issue_server(
        &self,
        names: &[String],
        validity: Validity,
    ) -> Result<Certified, PkiError> {
        let first = names.first().map_or("server", String::as_str);
        let mut params = parameters(first, None, validity)?;
        params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Result<Certified, PkiError> {
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.use_authority_key_identifier_extension = true;
        let signing_key = KeyPair::from_pem(self.0.key_pem.expose_secret())?;
        let issuer = Issuer::from_ca_cert_pem(&self.0.cert_pem, signing_key)?;
        let key = new_key()?;
        let cert = params.signed_by(&key, &issuer)?;
        Ok(Certified { cert_pem: cert.pem(), key_pem: key.serialize_pem().into() })
    }
}

impl ClusterPki {
    /// New authorities and a new service account key.
    pub fn generate(now: Timestamp) -> Result<Self, PkiError> {
        let service_account = new_key()?;
        Ok(Self {
            cluster: Authority::generate("kubernetes", now)?,
            front_proxy: Authority::generate("front-proxy-ca", now)?,
            etcd: Authority::generate("etcd-ca", now)?,
            service_account: KeyPairPem {
                public_pem: service_account.public_key_pem(),
                private_pem: service_account.serialize_pem().into(),
            },
        })
    }

    /// All of it as JSON, to be sealed and stored.
    pub fn to_secret_json(&self) -> SecretString {
        let text = |secret: &SecretString| secret.expose_secret().to_owned();
        let pair = |authority: &Authority| Pair {
            public: authority.cert_pem().to_owned(),
            private: text(authority.key_pem()),
        };
        json(&Stored {
            cluster: pair(&self.cluster),
            front_proxy: pair(&self.front_proxy),
            etcd: pair(&self.etcd),
            service_account: Pair {
                public: self.service_account.public_pem.clone(),
                private: text(&self.service_account.private_pem),
            },
        })
    }

    /// Reads what [`Self::to_secret_json`] gave.
    pub fn from_secret_json(json: &str) -> Result<Self, PkiError> {
        let stored: Stored = serde_json::from_str(json).map_err(PkiError::Shape)?;
        let authority = |pair: Pair| Authority::from_pem(pair.public, pair.private.into());
        Ok(Self {
            cluster: authority(stored.cluster),
            front_proxy: authority(stored.front_proxy),
            etcd: authority(stored.etcd),
            service_account: KeyPairPem {
                public_pem: stored.service_account.public,
                private_pem: stored.service_account.private.into(),
            },
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    cluster: Pair,
    front_proxy: Pair,
    etcd: Pair,
    service_account: Pair,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pair {
    public: String,
    private: String,
}

fn json(stored: &Stored) -> SecretString {
    serde_json::to_string(stored).expect("strings always serialize").into()
}

/// `sha256:<hex>` of a certificate's public key, as kubeadm pins an authority by.
pub fn ca_cert_hash(cert_pem: &str) -> Result<String, PkiError> {
    with_certificate(cert_pem, |certificate| {
        let digest = Sha256::digest(certificate.public_key().raw);
        Ok(format!("sha256:{}", hex::encode(digest)))
    })
}

/// When a certificate ends.
pub fn expires_at(cert_pem: &str) -> Result<Timestamp, PkiError> {
    with_certificate(cert_pem, |certificate| {
        let seconds = certificate.validity().not_after.timestamp();
        Timestamp::from_second(seconds).map_err(|error| PkiError::Read(error.to_string()))
    })
}

fn with_certificate<T>(
    cert_pem: &str,
    read: impl FnOnce(&x509_parser::certificate::X509Certificate<'_>) -> Result<T, PkiError>,
) -> Result<T, PkiError> {
    let pem = Pem::iter_from_buffer(cert_pem.as_bytes())
        .next()
        .ok_or_else(|| PkiError::Read("no PEM block".to_owned()))?
        .map_err(|error| PkiError::Read(error.to_string()))?;
    let certificate = pem.parse_x509().map_err(|error| PkiError::Read(error.to_string()))?;
    read(&certificate)
}

fn new_key() -> Result<KeyPair, PkiError> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

fn parameters(
    name: &str,
    group: Option<&str>,
    validity: Validity,
) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = moment(validity.now, -BACKDATE)?;
    params.not_after = moment(validity.now, validity.lifetime)?;
    Ok(params)
}

fn moment(now: Timestamp, offset: SignedDuration) -> Result<OffsetDateTime, PkiError> {
    let at = now.checked_add(offset).map_err(|_| PkiError::Time(now))?;
    OffsetDateTime::from_unix_timestamp(at.as_second()).map_err(|_| PkiError::Time(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-08-02T12:00:00Z".parse().unwrap()
    }

    fn day() -> Validity {
        Validity { now: now(), lifetime: SignedDuration::from_hours(24) }
    }

    #[test]
    fn authorities_hold_ten_years_and_leaves_as_long_as_asked() {
        let pki = ClusterPki::generate(now()).unwrap();
        let end = expires_at(pki.cluster.cert_pem()).unwrap();
        assert_eq!(end, now() + SignedDuration::from_hours(87_600));
        let name = ClientName { user: "zcpd", group: Some("system:masters") };
        let leaf = pki.cluster.issue_client(name, day()).unwrap();
        assert_eq!(expires_at(&leaf.cert_pem).unwrap(), now() + SignedDuration::from_hours(24));
    }

    #[test]
    fn a_leaf_is_signed_by_its_authority_and_names_its_user() {
        let pki = ClusterPki::generate(now()).unwrap();
        let name = ClientName { user: "zcpd", group: Some("system:masters") };
        let leaf = pki.cluster.issue_client(name, day()).unwrap();
        let (ca, leaf) = (pem(pki.cluster.cert_pem()), pem(&leaf.cert_pem));
        let (ca, leaf) = (ca.parse_x509().unwrap(), leaf.parse_x509().unwrap());
        leaf.verify_signature(Some(ca.public_key())).unwrap();
        assert_eq!(leaf.subject().to_string(), "O=system:masters, CN=zcpd");
        assert_eq!(leaf.issuer(), ca.subject());
        assert!(ca.is_ca() && !leaf.is_ca());
    }

    #[test]
    fn a_server_certificate_bears_addresses_and_names() {
        let ca = Authority::generate("zcp", now()).unwrap();
        let names = ["10.0.0.5".to_owned(), "zcp.example".to_owned()];
        let server = ca.issue_server(&names, day()).unwrap();
        let server = pem(&server.cert_pem);
        let server = server.parse_x509().unwrap();
        let names = server.subject_alternative_name().unwrap().unwrap().value;
        let names: Vec<String> = names.general_names.iter().map(ToString::to_string).collect();
        assert_eq!(names.len(), 2);
        assert!(names[1].contains("zcp.example"), "{names:?}");
    }

    #[test]
    fn keys_survive_storage_and_are_not_printed() {
        let pki = ClusterPki::generate(now()).unwrap();
        let json = pki.to_secret_json();
        let again = ClusterPki::from_secret_json(json.expose_secret()).unwrap();
        assert_eq!(again.to_secret_json().expose_secret(), json.expose_secret());
        assert!(!format!("{pki:?}").contains("BEGIN"));
        assert!(matches!(ClusterPki::from_secret_json("{}"), Err(PkiError::Shape(_))));
    }

    #[test]
    fn an_authority_is_pinned_by_its_public_key() {
        let ca = Authority::generate("zcp", now()).unwrap();
        let hash = ca_cert_hash(ca.cert_pem()).unwrap();
        assert_eq!(hash.len(), "sha256:".len() + 64);
        assert_eq!(ca_cert_hash(ca.cert_pem()).unwrap(), hash);
        assert!(ca_cert_hash("nothing").is_err());
    }

    fn pem(text: &str) -> Pem {
        Pem::iter_from_buffer(text.as_bytes()).next().unwrap().unwrap()
    }
}
