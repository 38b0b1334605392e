//! What tests share.

mod db;

pub use db::TestDb;

/// What a test returns.
pub type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
