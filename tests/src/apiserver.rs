//! A stand-in for the Kubernetes API server: an object store and an HTTP server that speaks list and watch as the real one does.
//!
//! In: objects that the test world creates, changes and deletes in the [`Store`]. Out: the real protocol on a loopback port, so that an
//! unmodified Kubernetes client lists and watches it; [`Faults`] make it misbehave the ways real API servers and networks do.
//! It is not an API server: no validation beyond names, no admission, no finalizers, no writes over HTTP
//! but of Events, no
//! authorization but what [`Faults::forbid`] takes away.

mod audit;
mod connection;
mod faults;
mod history;
mod http;
mod kind;
mod list;
mod pod_deletion;
mod query;
mod selector;
mod status;
mod store;
mod stream;

pub use audit::RequestSeen;
pub use faults::{Faults, Gone};
pub use history::{Change, Expired, HISTORY_LIMIT, Verb, Watch};
pub use http::{Options, Server};
pub use kind::Kind;
pub use store::{Store, StoreError};
