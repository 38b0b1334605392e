//! Use cases: one function per API verb.
//!
//! Each checks permission, then reads or changes in one transaction: the change, its audit record,
//! its event and the wake-up of the worker commit together or not at all. Nothing here calls a
//! cloud or a cluster; what a cloud can do is read from its inventory.

mod act;
pub mod authz;
pub mod bundle;
pub mod cloud_pairs;
pub mod clouds;
pub mod clusters;
mod error;
pub mod events;
pub mod migrations;
pub mod offerings;
pub mod preflights;
pub mod projects;
pub mod tokens;
pub mod work;

use std::sync::Arc;

use jiff::Timestamp;

use crate::clock::{SharedClock, SharedIds};
use crate::store::Store;
use crate::store::seal::KeyRing;

pub use crate::store::idempotency::KeyedRequest;
pub use crate::store::page::{MAX_LIMIT, Page, PageRequest};
pub use act::Ask;
pub use error::Error;

/// What every use case works with. Cheap to clone.
#[derive(Debug, Clone)]
pub struct App {
    /// The database.
    pub store: Store,
    /// The present moment.
    pub clock: SharedClock,
    /// New ids and secrets.
    pub ids: SharedIds,
    /// Seals and opens what is secret in the database.
    pub keys: Arc<KeyRing>,
}

impl App {
    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), Error> {
        Ok(self.store.ping().await?)
    }

    /// The present moment.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }
}
