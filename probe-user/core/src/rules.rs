//! Kubernetes' own rules as pure functions: what a pod's end is given in time, what makes a container, a pod and an endpoint ready,
//! what goes into EndpointSlices, which endpoints a service proxy uses.
//!
//! Objects in, conclusions out. Nothing here knows a clock, the API or the agent's `Monitor`; where the agent, the test world and the
//! command line need such a rule, they need this one. The rules are those of Kubernetes 1.36; each is held by the conformance cases.

pub mod deletion;
pub mod endpoint;
pub mod facts;
pub mod grace;
pub mod object;
pub mod proxy;
pub mod readiness;
pub mod shutdown;
pub mod slices;
pub mod trigger;
