//! The test world: a small Kubernetes-like world made of real parts, in which the agent is tested and shown.
//!
//! Real sockets, processes, namespaces and the real list-and-watch protocol; nothing here is linked into the agent, and the load generator shares no
//! code, file or pipe with it. Suites (`suites/`) and the demo are built from these modules.

pub mod agent;
pub mod apiserver;
pub mod clients;
pub mod controllers;
pub mod cri;
pub mod judge;
pub mod kubelet;
pub mod load;
pub mod node;
pub mod proxy;
pub mod suite;
pub mod wait;

mod world;
pub use world::{Delays, PodTemplate, ServiceAddresses, World, WorldConfig};
