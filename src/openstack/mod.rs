//! Drives one OpenStack cloud for one project.
//!
//! | file | is |
//! |---|---|
//! | `http` | the transport: over the network, or straight into a router |
//! | `budget` | what one cloud may be asked: rate, calls in flight, pauses, circuit breaker |
//! | `client` | [`CloudClient`]: sends one call, logs in, retries, pages through lists |
//! | `fault` | what an answer means: one reader for the error bodies of all services |
//! | `keystone`, `discovery` | token, catalog, extensions, microversions |
//! | `nova`, `neutron`, `glance`, `placement` | the calls, by service |
//! | `inventory` | all that a project can see and use, in one value |
//! | `clouds_yaml` | reads the file that operators already have |
//!
//! Rules that hold for every call:
//!
//! - Only reads and deletes are repeated here, and few times. A create or change that was sent and
//!   not answered is [`OutsideKind::Unclear`](crate::domain::outside::OutsideKind::Unclear): the
//!   caller looks before it does it again.
//! - A 401 means one shared login and one more try. Waiting callers share its result.
//! - `Retry-After` stops the whole cloud, not only the call that got it.
//! - A list is whole or an error; a page that fails fails the list.
//! - "Absent" is said only by a service that speaks OpenStack, never by a proxy in front of it and
//!   never by Keystone or discovery.
//! - Redirects are refused: the token would go to wherever they point.
//! - Bodies, tokens and user data are never logged.

pub mod auth;
pub mod budget;
pub mod client;
pub mod clouds_yaml;
mod discovery;
mod fault;
mod glance;
pub mod http;
mod inventory;
pub mod keystone;
pub mod neutron;
pub mod nova;
mod pages;
pub mod placement;
#[cfg(test)]
mod tests;

pub use auth::{CloudAuth, Credential, DomainRef, ProjectRef, UserRef};
pub use budget::{Budget, Limits};
pub use client::{CallObserver, CallSeen, CloudClient, Wiring};
pub use http::{Timeouts, Transport, TransportError, TransportErrorKind};
pub use keystone::CloudIdentity;
