//! The faults that the service must survive, by their numbers. `tests/FAULTS.md` is the table.

mod crash;
mod database;
mod migration;
mod table;
