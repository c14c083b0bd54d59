//! A TCP forwarder from the machine's own loopback into the node's network, for a person's browser or curl.
//!
//! Userland copying on two threads a connection; a convenience, never part of a measurement.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;

use super::netns::NetNs;

/// Connections at a time; more are closed at once.
const MAX_CONNECTIONS: usize = 64;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Listens on 127.0.0.1 of `outside` (port 0: any) and connects to `target` inside `inside`, until the process ends. Returns where it listens.
pub(super) fn start(
    outside: &NetNs,
    inside: &NetNs,
    port: u16,
    target: SocketAddr,
) -> anyhow::Result<SocketAddr> {
    let listener = outside
        .inside(|| TcpListener::bind((Ipv4Addr::LOCALHOST, port)))?
        .with_context(|| format!("listen on 127.0.0.1:{port} for {target}"))?;
    let address = listener.local_addr()?;
    let inside = inside.clone();
    let open = Arc::new(AtomicUsize::new(0));
    let accept = move || {
        // A socket belongs to the namespace of the thread that makes it: this thread listens for the one and connects in the other.
        if inside.enter().is_err() {
            return;
        }
        for client in listener.incoming().flatten() {
            if open.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
                open.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let open = Arc::clone(&open);
            thread::spawn(move || {
                // The person at the other end sees the connection close; there is nobody else to tell.
                drop(relay(&client, target));
                open.fetch_sub(1, Ordering::Relaxed);
            });
        }
    };
    thread::Builder::new().name("forward".to_owned()).spawn(accept).context("start the forwarder")?;
    Ok(address)
}

fn relay(client: &TcpStream, target: SocketAddr) -> io::Result<()> {
    let server = TcpStream::connect_timeout(&target, CONNECT_TIMEOUT)?;
    thread::scope(|scope| {
        scope.spawn(|| copy(client, &server));
        copy(&server, client)
    })
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
    let copied = io::copy(&mut from, &mut to);
    to.shutdown(Shutdown::Write)?;
    copied.map(drop)
}
