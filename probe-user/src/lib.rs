//! drainscope, the node agent: sources (kernel, Kubernetes API, cgroupfs) reduce what they see to facts, the driver feeds
//! them to the pure core, and outputs (metrics, API, log) show what the core concludes.
//!
//! The binary is a thin shell around this library, so that tests run the same code.

pub mod advise;
pub mod args;
pub mod check;
pub mod cleanup;
pub mod clock;
pub mod config;
pub mod decode;
pub mod driver;
pub mod eventlog;
pub mod explain;
pub mod exposition;
pub mod feature;
pub mod host;
pub mod http;
pub mod journal;
pub mod kernel;
pub mod kube;
pub mod kubelet;
pub mod mirror;
pub mod probe;
pub mod run;
