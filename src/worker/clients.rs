//! Clients of clouds: one for each account, one budget for each cloud.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use url::Url;

use super::WorkError;
use crate::clock::{SharedClock, SharedIds};
use crate::domain::credential::Credential as Stored;
use crate::domain::ids::{AccountId, CloudId};
use crate::openstack::{
    Budget, CallObserver, CloudAuth, CloudClient, Credential, DomainRef, Limits, ProjectRef,
    Timeouts, Transport, UserRef, Wiring,
};
use crate::store::Store;
use crate::store::cloud_progress::{self, AccountWork, CloudWork};
use crate::store::seal::{KeyRing, Place};

/// How requests to a cloud leave. Tests hand them to the simulation without sockets.
pub type MakeTransport = Arc<dyn Fn(&CloudWork) -> Result<Transport, String> + Send + Sync>;

/// Makes clients and keeps them. Cheap to clone.
#[derive(Clone)]
pub struct CloudClients {
    parts: Arc<Parts>,
}

struct Parts {
    clock: SharedClock,
    ids: SharedIds,
    keys: Arc<KeyRing>,
    transport: MakeTransport,
    observer: Option<CallObserver>,
    /// Limits that stand in for every cloud's own; for tests.
    limits: Option<Limits>,
    /// Replicas that share each cloud's calls per second.
    replicas: AtomicU32,
    budgets: Mutex<HashMap<CloudId, (i64, Arc<Budget>)>>,
    clients: Mutex<HashMap<AccountId, Kept>>,
}

/// A client, with the sealed credential and the generation of the cloud that it was made for.
type Kept = (Vec<u8>, i64, CloudClient);

impl fmt::Debug for CloudClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CloudClients")
    }
}

impl CloudClients {
    /// Clients over the network.
    pub fn network(
        (clock, ids): (SharedClock, SharedIds),
        keys: Arc<KeyRing>,
        observer: Option<CallObserver>,
    ) -> Self {
        let transport: MakeTransport = Arc::new(|cloud: &CloudWork| {
            Transport::network(cloud.spec.ca_pem.as_deref(), Timeouts::default())
                .map_err(|error| error.to_string())
        });
        Self::new((clock, ids), keys, (transport, None), observer)
    }

    /// Clients over any transport, with limits in place of the clouds' own if given.
    pub fn new(
        (clock, ids): (SharedClock, SharedIds),
        keys: Arc<KeyRing>,
        (transport, limits): (MakeTransport, Option<Limits>),
        observer: Option<CallObserver>,
    ) -> Self {
        let (budgets, clients) = (Mutex::default(), Mutex::default());
        let replicas = AtomicU32::new(1);
        let parts =
            Parts { clock, ids, keys, transport, observer, limits, replicas, budgets, clients };
        Self { parts: Arc::new(parts) }
    }

    /// A client for an account. Waits in the cloud's queue as `share`, so that clusters take turns.
    pub fn client(
        &self,
        cloud: &CloudWork,
        account: &AccountWork,
        share: &str,
    ) -> Result<CloudClient, WorkError> {
        let mut clients = self.parts.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((credential, generation, client)) = clients.get(&account.id)
            && *credential == account.credential.0
            && *generation == cloud.generation
        {
            return Ok(client.with_share(share));
        }
        let transport = (self.parts.transport)(cloud).map_err(WorkError::internal)?;
        let wiring = Wiring {
            transport,
            budget: self.budget(cloud),
            clock: self.parts.clock.clone(),
            ids: self.parts.ids.clone(),
            observer: self.parts.observer.clone(),
        };
        let client = CloudClient::new(&cloud.name, self.auth(cloud, account)?, wiring);
        let kept = (account.credential.0.clone(), cloud.generation, client.clone());
        clients.insert(account.id, kept);
        Ok(client.with_share(share))
    }

    /// Divides each cloud's calls per second among so many replicas. A cloud's limit is for all of
    /// them together, and they do not speak with each other but through the database.
    pub fn share_among(&self, replicas: u32) {
        if self.parts.replicas.swap(replicas.max(1), Ordering::Relaxed) != replicas.max(1) {
            self.parts.budgets.lock().unwrap_or_else(PoisonError::into_inner).clear();
            self.parts.clients.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    fn budget(&self, cloud: &CloudWork) -> Arc<Budget> {
        let mut budgets = self.parts.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((generation, budget)) = budgets.get(&cloud.id)
            && *generation == cloud.generation
        {
            return Arc::clone(budget);
        }
        let replicas = self.parts.replicas.load(Ordering::Relaxed);
        let rate = f64::from(cloud.spec.limits.calls_per_second) / f64::from(replicas);
        let limits = self.parts.limits.unwrap_or_else(|| Limits {
            calls_per_second: rate,
            burst: rate * 2.0,
            ..Limits::default()
        });
        let budget = Budget::new(limits, self.parts.clock.clone());
        budgets.insert(cloud.id, (cloud.generation, Arc::clone(&budget)));
        budget
    }

    fn auth(&self, cloud: &CloudWork, account: &AccountWork) -> Result<CloudAuth, WorkError> {
        let place = Place::new("accounts", account.id.0, "credential");
        let opened = self
            .parts
            .keys
            .open(place, &account.credential)
            .map_err(|error| WorkError::internal(format!("open credential: {error}")))?;
        let stored: Stored = serde_json::from_slice(&opened)
            .map_err(|error| WorkError::internal(format!("read credential: {error}")))?;
        let auth_url = Url::parse(&cloud.spec.auth_url)
            .map_err(|error| WorkError::internal(format!("auth_url: {error}")))?;
        Ok(CloudAuth {
            auth_url,
            region: cloud.spec.region.clone(),
            interface: cloud.spec.interface,
            credential: credential(stored),
            ca_pem: cloud.spec.ca_pem.clone(),
        })
    }

    /// The proxy through which the cluster API servers of a cloud are reached.
    pub async fn api_proxy(&self, store: &Store, cloud: CloudId) -> Result<Option<Url>, WorkError> {
        let clouds = cloud_progress::load(store.pool(), &[cloud]).await?;
        let proxy = clouds.first().and_then(|cloud| cloud.spec.api_proxy.as_ref());
        proxy
            .map(|text| Url::parse(text))
            .transpose()
            .map_err(|error| WorkError::internal(format!("api_proxy: {error}")))
    }
}

fn credential(stored: Stored) -> Credential {
    match stored {
        Stored::Password { username, user_domain, password, project, project_domain } => {
            Credential::Password {
                user: UserRef::Name { name: username, domain: DomainRef::Name(user_domain) },
                password: password.into(),
                project: ProjectRef::Name {
                    name: project,
                    domain: DomainRef::Name(project_domain),
                },
            }
        }
        Stored::ApplicationCredential { id, secret } => {
            Credential::ApplicationCredential { id, secret: secret.into() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{SystemClock, SystemIds};
    use crate::domain::cloud::CloudPhase;

    #[test]
    fn replicas_share_the_calls_of_a_cloud() {
        let (clock, ids): (SharedClock, SharedIds) = (Arc::new(SystemClock), Arc::new(SystemIds));
        let keys = Arc::new(KeyRing::parse(&KeyRing::generate("k", ids.as_ref())).unwrap());
        let clients = CloudClients::network((clock, ids), keys, None);
        let spec = serde_json::json!({
            "auth_url": "http://cloud.test/v3", "region": "east",
            "limits": {"calls_per_second": 30, "builds_in_flight": 1},
            "defaults": {"network": "n", "security_group": "s", "flavor": "f"},
        });
        let cloud = CloudWork {
            id: CloudId(uuid::Uuid::nil()),
            name: "east".to_owned(),
            spec: serde_json::from_value(spec).unwrap(),
            generation: 1,
            phase: CloudPhase::Ready,
            inventory: None,
            inventory_at: None,
            check_wanted: 0,
        };
        let rate = || clients.budget(&cloud).limits().calls_per_second;
        assert!((rate() - 30.0).abs() < f64::EPSILON);
        clients.share_among(3);
        assert!((rate() - 10.0).abs() < f64::EPSILON);
        clients.share_among(0);
        assert!((rate() - 30.0).abs() < f64::EPSILON, "one replica at least: this one");
    }
}
