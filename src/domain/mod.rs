//! What the words mean. Pure data and rules: no async, no I/O, no clock.

pub mod ids;
pub mod outside;
