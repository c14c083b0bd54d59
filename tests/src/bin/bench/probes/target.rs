//! What is probed: one server at many addresses of the loopback, as fast as it can be made without making it another subject of the measurement.
//!
//! It answers a request with a short 200 and closes, and lets go a client that says nothing and leaves. It counts both: what a prober has
//! done is told by the server, the same for every tool.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::Handler;

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
/// Most of a request's head that is read.
const HEAD_BYTES: usize = 4096;

/// What the server has counted.
#[derive(Debug, Default)]
struct Counts {
    /// Requests that were answered.
    answered: AtomicU64,
    /// Connections that were closed by the client without a word.
    touched: AtomicU64,
}

/// The running server; it ends with the process.
#[derive(Debug)]
pub(crate) struct Target {
    port: u16,
    counts: Arc<Counts>,
}

impl Target {
    /// Starts it on a thread of its own, in the calling thread's network and on its CPU.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).context("listen")?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let counts = Arc::new(Counts::default());
        let counted = Arc::clone(&counts);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        thread::Builder::new().name("target".to_owned()).spawn(move || {
            runtime.block_on(accept(listener, counted)).expect("an open listener accepts");
        })?;
        Ok(Self { port, counts })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Probes of this sort that have come to their end.
    pub(crate) fn done(&self, handler: Handler) -> u64 {
        let count = match handler {
            Handler::Http => &self.counts.answered,
            Handler::Tcp => &self.counts.touched,
        };
        count.load(Ordering::Relaxed)
    }
}

/// The address of the target of this number: each has ports of its own, so that none is used twice within a TIME_WAIT.
pub(crate) fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 0).to_bits() + 1 + number)
}

async fn accept(listener: std::net::TcpListener, counts: Arc<Counts>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let counts = Arc::clone(&counts);
        tokio::spawn(async move {
            // A client that fails has made no probe.
            drop(serve(stream, &counts).await);
        });
    }
}

async fn serve(mut stream: TcpStream, counts: &Counts) -> io::Result<()> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            if head.is_empty() {
                counts.touched.fetch_add(1, Ordering::Relaxed);
            }
            return Ok(());
        }
        if head.ends_with(b"\r\n\r\n") {
            stream.write_all(ANSWER).await?;
            counts.answered.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        if head.len() >= HEAD_BYTES {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::time::Duration;

    use world::wait::wait_for;

    use super::*;

    #[test]
    fn a_request_and_a_mere_connection_count_each_as_its_own() {
        let target = Target::start().expect("a server");
        let connect =
            |number| std::net::TcpStream::connect((address(number), target.port())).expect("connected");
        let mut answer = String::new();
        let mut asking = connect(0);
        asking.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
        asking.read_to_string(&mut answer).expect("answered and closed");
        assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
        drop(connect(1999));
        let counted = || Ok(target.done(Handler::Http) == 1 && target.done(Handler::Tcp) == 1);
        wait_for("both are counted", Duration::from_secs(20), counted).expect("they are");
    }
}
