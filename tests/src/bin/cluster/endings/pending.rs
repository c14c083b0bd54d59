//! A client with one request in flight, straight to a pod's port for clients.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use world::agent::Termination;

/// The pod's port for clients.
const PORT: u16 = 8080;
/// The bound on connects and on the wait for the pod's end.
const PATIENCE: Duration = Duration::from_secs(120);

/// A request that the server answers after a minute, if ever.
pub(crate) struct Pending {
    stream: TcpStream,
    own: SocketAddr,
    pod: SocketAddr,
}

impl Pending {
    /// Sends it.
    pub(crate) fn start(pod: &Value) -> anyhow::Result<Self> {
        let mut stream = connect(pod)?;
        write!(stream, "GET /?delay=60s HTTP/1.1\r\nHost: pod\r\n\r\n")?;
        Ok(Self { own: stream.local_addr()?, pod: stream.peer_addr()?, stream })
    }

    /// Waits for the connection's end, and checks that the agent has this one loss and no other: its class, and its phase at the loss.
    pub(crate) fn lost(mut self, end: &Termination, phase: &str) -> anyhow::Result<String> {
        self.stream.set_read_timeout(Some(PATIENCE))?;
        let mut answer = Vec::new();
        match self.stream.read_to_end(&mut answer) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => return Err(error).context("the connection does not end"),
        }
        ensure!(answer.is_empty(), "the request was answered");
        let shown: Vec<String> = end
            .evidence
            .iter()
            .map(|item| format!("{} of {} at {} in phase {}", item.class, item.peer, item.local, item.phase))
            .collect();
        let wanted = format!("unanswered of {} at {} in phase {phase}", self.own, self.pod);
        ensure!(
            shown == [wanted.clone()] && end.lost_total() == 1,
            "lost {:?}, evidence {shown:?}; wanted {wanted}",
            end.lost
        );
        Ok(format!("1 unanswered while {phase}"))
    }
}

/// `GET path` at the pod, answered.
pub(crate) fn get(pod: &Value, path: &str) -> anyhow::Result<()> {
    let mut stream = connect(pod)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    Ok(())
}

fn connect(pod: &Value) -> anyhow::Result<TcpStream> {
    let address = pod["status"]["podIP"].as_str().context("the pod has an address")?;
    Ok(TcpStream::connect_timeout(&SocketAddr::new(address.parse()?, PORT), PATIENCE)?)
}
