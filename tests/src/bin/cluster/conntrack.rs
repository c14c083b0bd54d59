//! Whose a rewritten connection is: the kernel's own account of each connection's two ends, before and after address translation.
//!
//! kube-proxy gives connections to a Service another source address and a random port, so what a client and what the pod's side call a connection differ. A
//! `conntrack` that listens during a run knows both names. It says what the kernel did, not what the agent thought.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::kubectl;

/// Connections as the pods' side sees them (client, pod), and the clients' own names for themselves, in the order of their connections: a port that
/// translation chose is free for the next one as soon as a connection was refused.
pub(crate) type Clients = BTreeMap<(SocketAddr, SocketAddr), Vec<SocketAddr>>;

/// Room for events that are not read yet.
const BUFFER_BYTES: &str = "16777216";
/// As /proc/net/netlink writes NETLINK_NETFILTER.
const NETFILTER: &str = "12";
/// The bit of NFNLGRP_CONNTRACK_NEW.
const NEW_CONNECTIONS: u32 = 1;
/// The bound on its start.
const PATIENCE: Duration = Duration::from_secs(20);

/// A listening `conntrack`.
pub(crate) struct Listener {
    child: Child,
    reader: JoinHandle<std::io::Result<Clients>>,
}

impl Listener {
    /// Forgets earlier connections to this address of a Service (a port that is used again could meet one that still leads to a dead pod) and no others,
    /// for the agent's own watches go through a Service too; then listens.
    pub(crate) fn start(target: SocketAddr) -> anyhow::Result<Self> {
        let (address, port) = (target.ip().to_string(), target.port().to_string());
        Command::new("conntrack")
            .args(["-D", "-p", "tcp", "-d", &address, "--dport", &port])
            // One line for each; status 1 where there is none.
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .context("start conntrack")?;
        let mut child = Command::new("conntrack")
            .args(["-E", "-p", "tcp", "-e", "NEW", "--buffer-size", BUFFER_BYTES])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start conntrack")?;
        let lines = BufReader::new(child.stdout.take().context("conntrack has an output")?).lines();
        let reader = std::thread::spawn(move || {
            let mut clients = Clients::new();
            for line in lines {
                // Another node hands on what it was sent, under the name that it has there.
                if let Some(Rewritten { client, to, key }) = parse(&line?)
                    && to == target
                {
                    clients.entry(key).or_default().push(client);
                }
            }
            Ok(clients)
        });
        kubectl::wait("conntrack listens", PATIENCE, || Ok(listens()?.then_some(())))?;
        Ok(Self { child, reader })
    }

    /// Ends it; an error if it missed events.
    pub(crate) fn stop(mut self) -> anyhow::Result<Clients> {
        kill(Pid::from_raw(i32::try_from(self.child.id())?), Signal::SIGTERM)?;
        self.child.wait().context("wait for conntrack")?;
        let mut told = String::new();
        self.child.stderr.take().context("conntrack has an error output")?.read_to_string(&mut told)?;
        ensure!(!told.contains("WARNING"), "conntrack missed events: {told}");
        self.reader.join().ok().context("the reader of conntrack panicked")?.context("read conntrack")
    }
}

/// Whether a socket of this thread's network namespace is in netfilter's group of new connections.
fn listens() -> anyhow::Result<bool> {
    let sockets =
        std::fs::read_to_string("/proc/thread-self/net/netlink").context("read the netlink sockets")?;
    Ok(sockets.lines().any(|line| {
        let mut words = line.split_whitespace().skip(1);
        let protocol = words.next();
        let groups = words.nth(1).and_then(|groups| u32::from_str_radix(groups, 16).ok());
        protocol == Some(NETFILTER) && groups.is_some_and(|groups| groups & NEW_CONNECTIONS != 0)
    }))
}

/// A connection of a Service.
#[derive(Debug, PartialEq, Eq)]
struct Rewritten {
    /// What the client calls itself.
    client: SocketAddr,
    /// Where it meant to go.
    to: SocketAddr,
    /// What the pod's side calls the client and itself.
    key: (SocketAddr, SocketAddr),
}

/// `[NEW] tcp 6 120 SYN_SENT src=A dst=B sport=1 dport=2 [UNREPLIED] src=C dst=D sport=3 dport=4`: A:1 is the client, B:2 the Service, C:3 the pod, D:4 the
/// client's new name.
fn parse(line: &str) -> Option<Rewritten> {
    let value = |key: &str, nth: usize| {
        line.split_whitespace().filter_map(|word| word.strip_prefix(key)?.strip_prefix('=')).nth(nth)
    };
    let end = |address: &str, port: &str, nth: usize| {
        Some(SocketAddr::new(value(address, nth)?.parse().ok()?, value(port, nth)?.parse().ok()?))
    };
    Some(Rewritten {
        client: end("src", "sport", 0)?,
        to: end("dst", "dport", 0)?,
        key: (end("dst", "dport", 1)?, end("src", "sport", 1)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_names_of_a_connection_are_read() {
        let line = "    [NEW] tcp      6 120 SYN_SENT src=10.89.0.1 dst=10.96.0.80 sport=20001 dport=80 [UNREPLIED] \
                    src=10.88.0.4 dst=10.88.0.1 sport=8080 dport=51234";
        let address = |text: &str| text.parse().expect("an address");
        assert_eq!(
            parse(line),
            Some(Rewritten {
                client: address("10.89.0.1:20001"),
                to: address("10.96.0.80:80"),
                key: (address("10.88.0.1:51234"), address("10.88.0.4:8080")),
            })
        );
        assert_eq!(parse("conntrack v1.4.7 (conntrack-tools): 12 flow events have been shown."), None);
    }
}
