//! The test world's HTTP server: HTTP/1.1 with keep-alive, whose way to end is a flag.
//!
//! One thread, one epoll set: accepting, serving, the stop signal and every timer are turns of the same loop, so that what happens at the
//! stop happens at one known point and nothing else runs beside it. It is also the bench's server: the request path allocates nothing.
//! It speaks no TLS and no HTTP/2, and it reads request bodies only to pass over them (no chunked ones).

mod connection;
mod http;
mod options;
mod server;

use clap::Parser as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

fn main() -> anyhow::Result<()> {
    let options = options::Options::parse();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    server::Server::new(options)?.run()
}
