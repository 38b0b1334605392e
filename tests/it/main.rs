//! One integration-test binary: it links once.

mod api_input;
mod api_migrations;
mod api_nouns;
mod api_openapi;
mod api_roles;
mod api_streams;
mod cli;
mod config;
mod contract;
mod crash_matrix;
mod dev;
mod driver;
mod kubernetes_adapter;
mod kubernetes_network;
mod lifecycle;
mod openstack_faults;
mod postgres;
mod sim_guests;
mod sim_kubernetes;
mod sim_openstack;
mod sim_serve;
mod store_records;
mod store_work;
mod support;
mod tidy;
mod trouble;
