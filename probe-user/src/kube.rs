//! The Kubernetes API as a source of facts: pods of this node, and Services and EndpointSlices of the namespaces that
//! have one. Objects are reduced here to what the core needs; nothing else of them is kept. Never reads one object at a
//! time: the load on the API grows with this node's pods and their namespaces. Writes nothing but [`events`], if asked to.

pub mod client;
pub mod events;
pub mod names;
pub mod namespaces;
pub mod objects;
pub mod page;
pub mod probed;
pub mod protocol;
pub mod reduce;
pub mod retry;
pub mod store;
pub mod stream;
pub mod table;
pub mod watch;
pub mod workload;
