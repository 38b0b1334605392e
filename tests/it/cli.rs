//! zcpctl as a process, against an API that gives canned answers: what it sends, what it prints,
//! and what it exits with.

mod canned;
mod commands;
mod explain;
mod failures;
mod pairs;
