//! zcp: Kubernetes as a service on private OpenStack clouds.
//!
//! Postgres holds what is wanted, clouds hold what is true, workers close the gap.
//!
//! | module | is | may use |
//! |---|---|---|
//! | [`domain`] | what the words mean: pure data and rules | nothing |
//! | [`clock`] | time and ids, injected everywhere | nothing |
//! | [`plan`] | snapshot to ordered steps, each with a reason; pure | domain |
//! | [`bootstrap`] | what a server is given: PKI, kubeadm configuration, user data | domain, clock |
//! | [`openstack`], [`kubernetes`] | adapters, one outside world each | domain, clock, telemetry |
//! | [`crd`] | a migration as an object of a Kubernetes API; pure | domain |
//! | [`sim`] | simulated clouds and clusters behind the real HTTP APIs | domain, clock |
//! | [`store`] | the only module with SQL | domain, clock, telemetry |
//! | [`app`] | use cases: permission, one transaction, audit, wake | domain, plan, bootstrap, clock, store |
//! | [`worker`] | reconcilers: snapshot, plan, execute | all but api, http, cli, dev, sim |
//! | [`api`] | request and response types | domain |
//! | [`http`] | routes; thin | api, app, domain, clock, telemetry |
//! | [`telemetry`] | logging, and every metric of the service in one struct | domain |
//! | [`config`] | one typed configuration; only the binaries read it | domain |
//! | [`service`] | puts the service together: listeners, workers, metrics | all but cli, dev, sim |
//! | [`cli`] | zcpctl | api, clock, domain |
//! | [`dev`] | `zcpd dev`: private Postgres and child processes | api, cli, clock, domain |
//!
//! `tests/it/tidy.rs` fails on any edge that is not in this table.

pub mod api;
pub mod app;
pub mod bootstrap;
pub mod cli;
pub mod clock;
pub mod config;
pub mod crd;
pub mod dev;
pub mod domain;
pub mod http;
pub mod kubernetes;
pub mod openstack;
pub mod plan;
pub mod service;
pub mod sim;
pub mod store;
pub mod telemetry;
pub mod worker;
