//! The pure core: facts in, counters, terminations and findings out.
//!
//! No clock, I/O, async, logging, randomness or hash order: the same events give the same bytes. It cannot fail: odd
//! input becomes a counted anomaly.
#![forbid(unsafe_code)]

pub mod advice;
pub mod advise;
pub mod catalogue;
pub mod command;
mod conclude;
pub mod conntrack;
mod endpoints;
mod episode;
pub mod event;
pub mod exec;
pub mod explain;
pub mod finding;
mod history;
pub mod kubelet;
mod ledger;
pub mod limits;
pub mod monitor;
pub mod notice;
mod pods;
mod ports;
pub mod probes;
mod reorder;
mod report;
mod routes;
pub mod rules;
pub mod saved;
mod series;
mod slots;
pub mod snapshot;
pub mod termination;
#[cfg(test)]
mod test_data;
pub mod time;
mod totals;
pub mod verdicts;
pub mod wallclock;
