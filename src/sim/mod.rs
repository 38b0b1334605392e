//! Simulated OpenStack clouds and tenant clusters behind the real HTTP APIs.
//!
//! | file | is |
//! |---|---|
//! | [`world`] | the state core: clouds, clusters, time |
//! | [`settings`] | what a world is made of |
//! | [`agenda`] | what is due, and seeded randomness |
//! | [`cloud`], [`found`], [`compute`], [`network`] | one cloud: its rows, its start, how it moves on |
//! | [`faults`] | what goes wrong on order, and call counters |
//! | [`openstack`] | the HTTP faces of a cloud |
//! | [`kubernetes`] | tenant clusters: objects, controllers, kubelets, and their HTTP face |
//! | [`guest`], [`user_data`], [`node_facing`] | what happens inside servers |
//! | [`reach`], [`probing`] | what reaches what, and what canaries find of it |
//! | [`clusters`] | which servers carry which cluster |
//! | [`truth`], [`control`], [`serve`], [`knobs`] | for tests and demos; `zcpd sim` as a process |
//! | [`copies`] | fleets for benches |
//!
//! No code of the service knows that it talks to a simulation: it is held to the real thing by one
//! contract suite that runs against both.

pub mod agenda;
pub mod cloud;
pub mod clusters;
pub mod compute;
pub mod control;
pub mod copies;
pub mod faults;
pub mod found;
pub mod guest;
pub mod knobs;
pub mod kubernetes;
pub mod network;
pub mod node_facing;
pub mod openstack;
pub mod probing;
pub mod reach;
pub mod scaled_clock;
pub mod serve;
pub mod settings;
pub mod truth;
pub mod user_data;
pub mod world;

pub use node_facing::{Fetch, Fetched, NodeFacing};
pub use reach::Reach;
pub use settings::{CloudSettings, Timing, WorldSettings};
pub use truth::Truth;
pub use world::World;
