//! The hooks, and what they have in common: `load` reads kernel memory, `maps` are the tables, `identity` finds the
//! slot of a namespace, address, task or port, `account` counts and writes evidence; `closing`, `listener`, `probe`,
//! `probed`, `queue` and `service` are what the state hook does at a connection's end, at a listener's turns, for probes, and for
//! Services without endpoints.

mod account;
mod bare;
mod cgroup;
mod closing;
mod connection;
mod drop;
mod exec;
mod exit;
mod identity;
mod known;
mod listener;
mod load;
mod maps;
mod misrouted;
mod packet;
mod probe;
mod probed;
mod queue;
mod read;
mod reset;
mod service;
mod signal;
mod state;
