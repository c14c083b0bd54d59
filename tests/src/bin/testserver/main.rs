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
use nix::sys::signal::{SigSet, Signal};

fn main() -> anyhow::Result<()> {
    let options = options::Options::parse();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    if options.second_thread {
        return serve_without_first_thread(options);
    }
    server::Server::new(options)?.run()
}

/// Serves on a second thread while the first one is gone; the process exits as the server's end says.
fn serve_without_first_thread(options: options::Options) -> anyhow::Result<()> {
    // Here too: a signal without handler that the first thread does not block is ignored for pid 1, even when that thread is gone.
    SigSet::from(Signal::SIGTERM).thread_block()?;
    std::thread::spawn(move || {
        let served = server::Server::new(options).and_then(server::Server::run);
        std::process::exit(i32::from(served.is_err()));
    });
    // SAFETY: ends this thread alone, which holds no lock and whose stack nobody else uses.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!("the thread has ended");
}
