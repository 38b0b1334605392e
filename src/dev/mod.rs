//! `zcpd dev`: everything on one machine, with nothing set up beforehand.

pub mod postgres;
