//! The control plane's part of the test world: the endpoint controller and the workload controller, both on the store, with settable delays.
//!
//! In: pods and services. Out: endpoint slices by Kubernetes' rules; pods of a Deployment, replaced one by one in a rolling update.

mod delay;
mod deployment;
mod endpoints;

pub use delay::Delay;
pub(crate) use delay::{DelayedWatch, Delivery};
pub use deployment::{Deployment, PodRef};
pub use endpoints::EndpointController;
