//! One integration-test binary: it links once.

mod driver;
mod postgres;
mod store_work;
mod support;
