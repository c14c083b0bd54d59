//! The hooks, and what they have in common: `load` reads kernel memory, `maps` are the tables, `identity` finds the
//! slot of a namespace, address, task or port, `account` counts and writes evidence.

mod account;
mod cgroup;
mod connection;
mod drop;
mod exit;
mod identity;
mod load;
mod maps;
mod packet;
mod probe;
mod read;
mod reset;
mod signal;
mod state;
