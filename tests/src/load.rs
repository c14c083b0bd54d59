//! The load generator: clients of HTTP/1.1, HTTP/2 and gRPC (and redis, a little) that send each attempt once, never retry, and log every one
//! that fails.
//!
//! In: a [`Config`]. Out: a log of [`Attempt`]s and a [`Summary`], in files or in the process. One thread per client; blocking sockets, the system
//! calls in plain sight, no lock and no allocation per request, save for HTTP/2, which is the crate h2's. It shares no code, file or pipe with the
//! agent, whose findings are judged by it; it does not know about pods, and it does not interpret what it sees.

mod attempt;
mod client;
mod clock;
mod config;
mod connection;
mod exchange;
mod http2;
mod log;
mod ports;
mod request;
mod response;
mod run;
mod session;
mod summary;
mod tally;
mod tls;
mod wire;

pub use attempt::{Attempt, ClientKind, ErrorKind, Stage};
pub use config::{Config, ConfigError};
pub use log::{LogError, read_log};
pub use run::{LoadError, Progress, Running, Stopper, run, start};
pub use summary::{ByKind, Latency, Summary, Windows};
