//! What the words mean. Pure data and rules: no async, no I/O, no clock.

pub mod access;
pub mod bootstrap_token;
pub mod canary;
pub mod cloud;
pub mod cloud_pair;
pub mod clouds_yaml;
pub mod cluster;
pub mod condition;
pub mod credential;
pub mod duration;
pub mod explanation;
pub mod field;
pub mod ids;
pub mod insight;
pub mod inventory;
pub mod migration;
pub mod name;
pub mod node;
pub mod node_view;
pub mod offering;
pub mod outside;
pub mod pod;
pub mod preflight;
pub mod survey;
pub mod version;
pub mod wave;
