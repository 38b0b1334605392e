//! Clients of clouds: one for each account, one budget for each cloud.

use std::collections::HashMap;
use std::fmt;
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
        let parts = Parts { clock, ids, keys, transport, observer, limits, budgets, clients };
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

    fn budget(&self, cloud: &CloudWork) -> Arc<Budget> {
        let mut budgets = self.parts.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((generation, budget)) = budgets.get(&cloud.id)
            && *generation == cloud.generation
        {
            return Arc::clone(budget);
        }
        let rate = f64::from(cloud.spec.limits.calls_per_second);
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
