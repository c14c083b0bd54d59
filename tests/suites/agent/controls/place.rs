//! Where a scene happens: the networks of client, node and pod, and the pod's addresses; and connections made by hand, without any retry.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use nix::sys::socket::{setsockopt, sockopt::Linger};
use world::World;
use world::controllers::PodRef;
use world::load::Summary;
use world::node::NetNs;

use crate::SOON;

/// How often each scene does what it does, in each phase.
pub(super) const TIMES: usize = 20;
/// The port that the Service names.
pub(super) const PORT: u16 = 8080;
/// Longest head of an answer.
const HEAD: usize = 4096;

/// A pod and the networks around it.
pub(super) struct Place {
    pub(super) client: NetNs,
    pub(super) node: NetNs,
    pod: NetNs,
    cgroup: PathBuf,
    addresses: Vec<IpAddr>,
}

impl Place {
    pub(super) fn of(world: &World, pod: &PodRef) -> anyhow::Result<Self> {
        let (pid, container) = world.journal().started(&pod.uid, "server").context("it was started")?;
        let addresses = world.addresses(pod)?;
        ensure!(addresses.len() == 2, "{}: an address of each family is wanted: {addresses:?}", pod.name);
        Ok(Self {
            client: world.node().client().clone(),
            node: world.node().network().clone(),
            pod: NetNs::of_process(pid)?,
            cgroup: world.node().cgroups().pod(&pod.uid).join(container),
            addresses,
        })
    }

    /// The pod's address, of both families in turn.
    pub(super) fn at(&self, nth: usize, port: u16) -> SocketAddr {
        SocketAddr::new(self.addresses[nth % self.addresses.len()], port)
    }

    /// Does something so many times as a client outside the node.
    pub(super) fn each(
        &self,
        action: impl Fn(usize, SocketAddr) -> anyhow::Result<()> + Send + Sync,
    ) -> anyhow::Result<()> {
        self.client.inside(|| (0..TIMES).try_for_each(|nth| action(nth, self.at(nth, PORT))))?
    }

    /// The client's address as the pod knows it.
    pub(super) fn client_address(&self) -> anyhow::Result<IpAddr> {
        let pod = self.at(0, PORT);
        self.client.inside(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(pod)?;
            Ok(socket.local_addr()?.ip())
        })?
    }

    /// Runs the load generator as a process of the pod's container: in its network and its cgroup.
    pub(super) fn load_from_pod(&self, target: SocketAddr, arguments: &str) -> anyhow::Result<Summary> {
        // The shell enters the cgroup, so that the program is born in it.
        let output = self
            .pod
            .command(Path::new("/bin/sh"))
            .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
            .arg(self.cgroup.join("cgroup.procs"))
            .arg(env!("CARGO_BIN_EXE_load"))
            .args(["--target", &target.to_string(), "--new", "2"])
            .args(["--max-requests", &TIMES.to_string()])
            .args(arguments.split_whitespace())
            .output()?;
        ensure!(
            output.status.success(),
            "load: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout).context("the load's summary")
    }
}

/// A connection with bounds on everything.
pub(crate) fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, SOON).with_context(|| format!("connect {address}"))?;
    stream.set_read_timeout(Some(SOON))?;
    stream.set_write_timeout(Some(SOON))?;
    Ok(stream)
}

/// A request's head: `method path`, headers with their line ends.
pub(crate) fn request(line: &str, headers: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: pod\r\n{headers}\r\n")
}

/// Sends this and reads the whole answer; its status.
pub(super) fn ask(stream: &mut TcpStream, request: &str) -> anyhow::Result<u16> {
    stream.write_all(request.as_bytes())?;
    answer(stream)
}

/// Reads one whole answer and not a byte more; its status.
pub(super) fn answer(stream: &mut TcpStream) -> anyhow::Result<u16> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).context("read an answer")?;
        head.push(byte[0]);
        ensure!(head.len() < HEAD, "an endless answer");
    }
    let head = String::from_utf8(head)?;
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).context("a length")?;
    stream.read_exact(&mut vec![0; length.parse()?]).context("read a body")?;
    head.get(9..12).and_then(|status| status.parse().ok()).context("a status")
}

/// Waits for the server's FIN, after which nothing may come.
pub(crate) fn read_end(stream: &mut TcpStream) -> anyhow::Result<()> {
    let length = stream.read(&mut [0; 64]).context("wait for the end of a connection")?;
    ensure!(length == 0, "{length} bytes in place of the end");
    Ok(())
}

/// Leaves with a RST.
pub(super) fn reset(stream: TcpStream) -> anyhow::Result<()> {
    setsockopt(&stream, Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    drop(stream);
    Ok(())
}
