//! Source addresses and ports, walked one after another: no pair comes twice before all have been used.
//!
//! A reused 4-tuple could meet an old conntrack entry or the other side's TIME_WAIT and make a loss of its own. One counter serves all clients; the
//! walk begins where the clock says, so that a run does not begin with the ports of the run before.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};

use super::clock::now_ns;
use super::config::Config;

#[derive(Debug)]
pub(super) struct Ports {
    sources: Vec<IpAddr>,
    first: u16,
    count: u64,
    start: u64,
    used: AtomicU64,
}

impl Ports {
    pub(super) fn new(config: &Config) -> io::Result<Self> {
        let (first, last) = match config.ports {
            Some(range) => range,
            None => ephemeral_range()?,
        };
        let sources = match config.sources.as_slice() {
            [] => vec![route_source(config.target)?],
            sources => sources.to_vec(),
        };
        let count = u64::from(last - first) + 1;
        Ok(Self { sources, first, count, start: now_ns() % count, used: AtomicU64::new(0) })
    }

    /// The next pair to bind to.
    pub(super) fn next(&self) -> SocketAddr {
        let turn = self.used.fetch_add(1, Ordering::Relaxed);
        let sources = u64::try_from(self.sources.len()).unwrap_or(1);
        let source = usize::try_from(turn % sources).unwrap_or(0);
        let port = (turn / sources + self.start) % self.count;
        let port = self.first + u16::try_from(port).expect("the count of ports fits u16 plus one");
        SocketAddr::new(*self.sources.get(source).expect("an index below the length"), port)
    }

    /// How many pairs there are.
    pub(super) fn pairs(&self) -> u64 {
        self.count * u64::try_from(self.sources.len()).unwrap_or(1)
    }

    /// How many pairs have been handed out, repeated ones included.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

fn ephemeral_range() -> io::Result<(u16, u16)> {
    // The IPv4 name governs IPv6 as well.
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let mut ports = text.split_whitespace().map(str::parse::<u16>);
    match (ports.next(), ports.next()) {
        (Some(Ok(first)), Some(Ok(last))) if first <= last => Ok((first, last)),
        _ => Err(io::Error::other(format!("ip_local_port_range: {text:?}"))),
    }
}

/// The source address that the routes choose: an unsent datagram's.
fn route_source(target: SocketAddr) -> io::Result<IpAddr> {
    let any = if target.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0_u16; 8]) };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(target)?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_pair_comes_once_before_any_comes_twice() {
        let sources: Vec<IpAddr> =
            vec!["127.0.0.1".parse().expect("valid"), "127.0.0.2".parse().expect("valid")];
        let target = SocketAddr::from(([127, 0, 0, 1], 80));
        let config = Config { sources, ports: Some((65_530, 65_535)), ..Config::new(target) };
        let ports = Ports::new(&config).expect("ports");
        assert_eq!(ports.pairs(), 12);
        let first: BTreeSet<_> = (0..12).map(|_| ports.next()).collect();
        assert_eq!(first.len(), 12);
        assert!(first.iter().all(|pair| pair.port() >= 65_530));
        assert!(first.contains(&ports.next()));
        assert_eq!(ports.used(), 13);
    }
}
