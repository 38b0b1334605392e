//! The tenant clusters of a world: which servers carry them, and whether they answer.
//!
//! An API server answers while more than half of its cluster's control-plane servers run. A server
//! that is deleted leaves its etcd cluster in good order, as if its member had been removed just
//! before; one that is only switched off stays a member that is missing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::kubernetes::{KubeCluster, KubeSnapshot};

/// A cluster and the servers that carry it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TenantCluster {
    /// The cluster's objects and controllers.
    #[serde(serialize_with = "write_cluster", deserialize_with = "read_cluster")]
    pub kube: Arc<KubeCluster>,
    /// Its CA, as PEM.
    pub ca_pem: String,
    /// Certificate and key of the API servers, as PEM.
    pub serving: Serving,
    /// Its control-plane members, by server.
    pub members: BTreeMap<Uuid, Member>,
    /// Names and addresses in the certificate besides those of members.
    names: Vec<String>,
    ca_key_pem: String,
    /// Whether its API answered when members were last looked at.
    was_up: bool,
    /// Version of its API when members were last looked at.
    version: String,
}

/// What an API server shows to its clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    /// Certificate, signed by the cluster's CA.
    pub certificate_pem: String,
    /// Its key.
    pub key_pem: String,
}

/// A control-plane member.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Member {
    /// Whether its server runs.
    pub is_on: bool,
    /// Its Kubernetes version.
    pub version: String,
    /// Its address.
    pub address: IpAddr,
}

/// The cluster's CA as the first member fetched it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClusterCa {
    /// Certificate as PEM.
    pub cert_pem: String,
    /// Key as PEM.
    pub key_pem: String,
}

impl TenantCluster {
    /// A cluster without members yet; the error says what is wrong with the CA.
    pub fn new(kube: Arc<KubeCluster>, ca: ClusterCa, names: Vec<String>) -> Result<Self, String> {
        let serving = serving(&ca, &names)?;
        Ok(Self {
            kube,
            serving,
            members: BTreeMap::new(),
            names,
            ca_pem: ca.cert_pem,
            ca_key_pem: ca.key_pem,
            was_up: true,
            version: String::new(),
        })
    }

    /// The same cluster with other servers, names and addresses; `kube` holds its objects.
    pub(super) fn copy(
        &self,
        kube: Arc<KubeCluster>,
        id: &dyn Fn(&Uuid) -> Result<Uuid, String>,
        rename: &dyn Fn(&str) -> String,
    ) -> Result<Self, String> {
        let ca = ClusterCa { cert_pem: self.ca_pem.clone(), key_pem: self.ca_key_pem.clone() };
        let names = self.names.iter().map(|name| rename(name)).collect();
        let mut copy = Self::new(kube, ca, names)?;
        for (server, member) in &self.members {
            let address = rename(&member.address.to_string());
            let address = address.parse().map_err(|_| format!("{address} is no address"))?;
            let member = Member { address, version: member.version.clone(), ..*member };
            copy.add_member(id(server)?, member)?;
        }
        copy.version.clone_from(&self.version);
        Ok(copy)
    }

    /// Whether its API answers.
    pub fn answers(&self) -> bool {
        let on = self.members.values().filter(|member| member.is_on).count();
        on * 2 > self.members.len()
    }

    /// Adds a member, whose address the certificate names from then on.
    pub fn add_member(&mut self, server: Uuid, member: Member) -> Result<(), String> {
        self.members.insert(server, member);
        let mut names = self.names.clone();
        names.extend(self.members.values().map(|member| member.address.to_string()));
        let ca = ClusterCa { cert_pem: self.ca_pem.clone(), key_pem: self.ca_key_pem.clone() };
        self.serving = serving(&ca, &names)?;
        Ok(())
    }

    /// Lets the cluster's API follow its members: whether it answers, and its version, which is
    /// the oldest of theirs. Faults that a test ordered stay as they are until something changes.
    pub fn follow_members(&mut self, now: Timestamp) {
        let is_up = self.answers();
        if is_up != self.was_up {
            self.was_up = is_up;
            self.kube.set_faults(now, |faults| faults.is_api_down = !is_up);
        }
        let number = |member: &Member| {
            let parts = member.version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
            (parts.collect::<Vec<u32>>(), member.version.clone())
        };
        if let Some((_, oldest)) = self.members.values().map(number).min()
            && oldest != self.version
        {
            self.kube.set_version(&oldest, now);
            self.version = oldest;
        }
    }

    /// Whether one of the hashes is that of the CA's public key, as kubeadm writes it.
    pub fn is_trusted_by(&self, hashes: &[String]) -> bool {
        ca_hash(&self.ca_pem).is_some_and(|own| hashes.contains(&own))
    }
}

/// `sha256:` of a certificate's public key.
pub fn ca_hash(pem: &str) -> Option<String> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    let certificate = pem.parse_x509().ok()?;
    let key = certificate.tbs_certificate.subject_pki.raw;
    Some(format!("sha256:{}", hex::encode(Sha256::digest(key))))
}

/// The certificate of an API server.
fn serving(ca: &ClusterCa, names: &[String]) -> Result<Serving, String> {
    let fault = |error: rcgen::Error| format!("certificate of the API server: {error}");
    let ca_key = KeyPair::from_pem(&ca.key_pem).map_err(fault)?;
    let issuer = Issuer::from_ca_cert_pem(&ca.cert_pem, ca_key).map_err(fault)?;
    let usual = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"];
    let mut all: Vec<String> = usual.map(str::to_owned).into();
    all.extend(["127.0.0.1".to_owned(), "10.96.0.1".to_owned()]);
    all.extend(names.iter().cloned());
    all.sort();
    all.dedup();
    let mut params = CertificateParams::default();
    for name in all {
        params.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.try_into().map_err(fault)?),
        });
    }
    params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().map_err(fault)?;
    let certificate = params.signed_by(&key, &issuer).map_err(fault)?;
    Ok(Serving { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
}

fn write_cluster<S: Serializer>(
    cluster: &Arc<KubeCluster>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    cluster.to_snapshot().serialize(serializer)
}

fn read_cluster<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<KubeCluster>, D::Error> {
    KubeSnapshot::deserialize(deserializer).map(KubeCluster::from_snapshot)
}
