//! A client on its own feet: plain sockets made in the client's network, one line per step, no retry.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use world::World;

/// Longest wait for a connect or a read.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection from the client's network.
pub(crate) struct Client {
    stream: TcpStream,
    /// Received beyond the last answer.
    rest: Vec<u8>,
}

/// How a read ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// One whole answer.
    Answer(String),
    /// The server's FIN before any byte.
    Eof,
    /// An error.
    Error(ErrorKind),
}

impl Client {
    pub(crate) fn connect(world: &World, address: impl Into<IpAddr>, port: u16) -> io::Result<Self> {
        let address = SocketAddr::new(address.into(), port);
        let stream = world
            .node()
            .client()
            .inside(|| TcpStream::connect_timeout(&address, PATIENCE))
            .map_err(io::Error::other)??;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, rest: Vec::new() })
    }

    pub(crate) fn send(&mut self, path: &str) -> io::Result<()> {
        self.stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes())
    }

    /// Reads one answer with a Content-Length.
    pub(crate) fn receive(&mut self) -> Seen {
        let mut buffer = [0; 4096];
        loop {
            if let Some(length) = length_of_answer(&self.rest) {
                let answer: Vec<_> = self.rest.drain(..length).collect();
                return Seen::Answer(String::from_utf8_lossy(&answer).into_owned());
            }
            match self.stream.read(&mut buffer) {
                Ok(0) if self.rest.is_empty() => return Seen::Eof,
                Ok(0) => return Seen::Error(ErrorKind::UnexpectedEof),
                Ok(length) => self.rest.extend_from_slice(&buffer[..length]),
                Err(error) => return Seen::Error(error.kind()),
            }
        }
    }

    /// As [`Self::ask`], with a patience of its own.
    pub(crate) fn ask_briefly(&mut self, path: &str, patience: Duration) -> Seen {
        self.stream.set_read_timeout(Some(patience)).expect("a timeout above zero");
        let seen = self.ask(path);
        self.stream.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero");
        seen
    }

    pub(crate) fn ask(&mut self, path: &str) -> Seen {
        self.send(path).map_or_else(|error| Seen::Error(error.kind()), |()| self.receive())
    }
}

/// Length of the whole answer at the front of `bytes`, if all of it is there.
fn length_of_answer(bytes: &[u8]) -> Option<usize> {
    let head_length = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..head_length]).ok()?;
    let body_length: usize =
        head.lines().find_map(|line| line.strip_prefix("Content-Length: "))?.parse().ok()?;
    Some(head_length + body_length).filter(|length| *length <= bytes.len())
}

impl Seen {
    /// Whether this is an answer with that status that contains `part`.
    pub(crate) fn is(&self, status: u16, part: &str) -> bool {
        matches!(self, Self::Answer(text) if text.starts_with(&format!("HTTP/1.1 {status} ")) && text.contains(part))
    }
}

/// One request on a connection of its own.
pub(crate) fn get(world: &World, address: impl Into<IpAddr>, port: u16, path: &str) -> io::Result<Seen> {
    Ok(Client::connect(world, address, port)?.ask(path))
}

/// How a connect fails, if it fails.
pub(crate) fn connect_error(world: &World, address: impl Into<IpAddr>, port: u16) -> Option<ErrorKind> {
    Client::connect(world, address, port).err().map(|error| error.kind())
}
