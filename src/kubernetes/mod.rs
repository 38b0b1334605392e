//! Drives one tenant cluster over its Kubernetes API.
//!
//! Every call goes through [`ClusterClient`], which sends it once, within a time limit, and says
//! what came of it in the kinds of [`crate::domain::outside`]. It never repeats a call: a disruption
//! budget answers 429, which kube's own retries would sit out inside the call (kube 5 tries up to
//! 15 times). A 429 that is about us and not about a pod slows every call to that cluster down.

pub mod apply;
mod call;
pub mod client;
pub mod drain;
mod ledger;
pub mod management;
pub mod nodes;
mod pace;
mod pods;
pub mod probe;
pub mod survey;
mod survey_items;
pub mod tokens;
pub mod workloads;

pub use client::{ClusterAccess, ClusterClient, Connector};
pub use management::ManagementClient;
