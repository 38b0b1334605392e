//! What tests share.

pub mod api;
mod canary;
mod db;
pub mod management;
pub mod proxy;
mod report;
mod tenant;
mod wait;
pub mod world;

pub use db::TestDb;
pub use wait::wait_for;

/// What a test returns.
pub type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
