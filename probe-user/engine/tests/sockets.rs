//! Probes against real servers on loopback, each with one habit: what a pod's server may do, good and bad. Verdict, message and
//! time are checked, and that memory and time stay bounded; the expected messages are those of the kubelet's own code.

#[path = "sockets/bad.rs"]
mod bad;
#[path = "sockets/exec.rs"]
mod exec;
#[path = "sockets/grpc.rs"]
mod grpc;
#[path = "sockets/http.rs"]
mod http;
#[path = "sockets/http2_server.rs"]
mod http2_server;
#[path = "sockets/server.rs"]
mod server;
#[path = "sockets/tcp.rs"]
mod tcp;
#[path = "sockets/tls.rs"]
mod tls;

use std::time::Duration;

use probe_engine::{Handler, HttpGet, Outcome, Probe, Scheme, run};

/// Runs it as the kubelet 1.36 would.
fn probe(handler: Handler, timeout: Duration) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let probe = Probe { handler, timeout, user_agent: "kube-probe/1.36".to_owned() };
    runtime.block_on(run(&probe))
}

/// `GET /` in the clear.
fn get(port: u16) -> HttpGet {
    HttpGet {
        scheme: Scheme::Http,
        host: "127.0.0.1".to_owned(),
        port,
        path: "/".to_owned(),
        headers: Vec::new(),
        h2c: false,
        follow_other_hosts: false,
    }
}

const SECOND: Duration = Duration::from_secs(1);
