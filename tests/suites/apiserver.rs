//! The API server stand-in against real sockets: what a raw HTTP client sees on the wire, and what the real Kubernetes client makes of it.
//!
//! Unprivileged, loopback only. The agent's own use of it is tested with the agent.

#[path = "apiserver/faults.rs"]
mod faults;
#[path = "apiserver/kube_client.rs"]
mod kube_client;
#[path = "apiserver/protocol.rs"]
mod protocol;
#[path = "apiserver/raw.rs"]
mod raw;
#[path = "apiserver/store.rs"]
mod store;

use serde_json::{Value, json};

/// A scheduled pod of the namespace `shop`.
fn pod(name: &str, node: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop", "labels": {"app": name}}, "spec": {"nodeName": node, "containers": []}})
}
