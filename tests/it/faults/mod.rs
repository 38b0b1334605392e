//! The faults that the service must survive, by their numbers. `tests/FAULTS.md` is the table.

mod bed;
mod clouds;
mod crash;
mod database;
mod join;
mod migration;
mod openstack;
mod table;
