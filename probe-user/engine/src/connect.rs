//! Connections: one attempt for each address of a host, none used again.
//!
//! The kubelet sets SO_LINGER to one second on these sockets. What the peer sees is the same without it, an orderly FIN, and
//! TIME_WAIT is as long. What differs is that `close` then waits for the peer's acknowledgement, up to that second, which would
//! stop every other probe of the thread.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};

use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::outcome::Phase;
use crate::quote::system_error;
use crate::trace::Trace;

/// Addresses of one name that are tried at most.
const MAX_ADDRESSES: usize = 8;

/// `host:port`, with brackets around an IPv6 address.
pub(crate) fn join_host_port(host: &str, port: i32) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

/// Connects; the error is the kubelet's text. An empty host is this machine.
pub(crate) async fn dial(host: &str, port: i32, trace: &mut Trace) -> Result<TcpStream, String> {
    let Ok(number) = u16::try_from(port) else {
        return Err(format!("dial tcp: address {port}: invalid port"));
    };
    let addresses = addresses(host, number, trace).await?;
    trace.enter(Phase::Connect);
    let mut first_error = None;
    for (at, address) in addresses.iter().enumerate() {
        trace.peer = Some(*address);
        // The last address has all the time that is left.
        let others = u32::try_from(addresses.len() - at - 1).unwrap_or_default();
        // Whatever ends the wait, a refusal was of another connect.
        trace.is_refused = false;
        let connecting = TcpStream::connect(address);
        let ended = match others {
            0 => Ok(connecting.await),
            _ => timeout(trace.time_left() / (others + 1), connecting).await,
        };
        let connected = match ended {
            Ok(connected) => connected.map_err(|error| {
                trace.is_refused = error.kind() == ErrorKind::ConnectionRefused;
                format!("connect: {}", system_error(&error))
            }),
            Err(_elapsed) => Err("i/o timeout".to_owned()),
        };
        match connected {
            Ok(stream) => {
                trace.leave();
                // Requests are written at once; a socket that refuses the option works as well.
                drop(stream.set_nodelay(true));
                return Ok(stream);
            }
            Err(text) => {
                let shown = if host.is_empty() { join_host_port("", port) } else { address.to_string() };
                first_error.get_or_insert(format!("dial tcp {shown}: {text}"));
            }
        }
    }
    trace.leave();
    Err(first_error.unwrap_or_else(|| format!("dial tcp: lookup {host}: no such host")))
}

async fn addresses(host: &str, port: u16, trace: &mut Trace) -> Result<Vec<SocketAddr>, String> {
    if host.is_empty() {
        return Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))]);
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    trace.enter(Phase::Resolve);
    let found = lookup_host((host, port)).await;
    trace.leave();
    match found {
        Ok(found) => Ok(found.take(MAX_ADDRESSES).collect()),
        Err(_) => Err(format!("dial tcp: lookup {host}: no such host")),
    }
}

/// The text of a connection that the timeout has ended.
pub(crate) fn timed_out(host: &str, port: i32, trace: &Trace) -> String {
    match trace.phase() {
        Some(Phase::Resolve) => format!("dial tcp: lookup {host}: i/o timeout"),
        _ => {
            let shown = trace.peer.map_or_else(|| join_host_port(host, port), |peer| peer.to_string());
            format!("dial tcp {shown}: i/o timeout")
        }
    }
}
