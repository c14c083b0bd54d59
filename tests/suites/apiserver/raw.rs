//! A plain HTTP client on a blocking socket: it shows status, headers and chunks as they come, and how a stream ends.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// Longer than anything the server does on its own here; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// A whole response.
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: String,
    pub(crate) body: Value,
}

/// How a watch's stream ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The last chunk came.
    Clean,
    /// The connection closed without the last chunk.
    Broken,
}

/// A response whose body is still coming.
pub(crate) struct Stream {
    reader: BufReader<TcpStream>,
    pub(crate) status: u16,
    headers: String,
    chunk_left: u64,
    /// Bytes after the last full line.
    pub(crate) rest: Vec<u8>,
}

pub(crate) fn open(address: SocketAddr, request: &str) -> Stream {
    let mut socket = TcpStream::connect(address).expect("the server listens");
    socket.set_read_timeout(Some(PATIENCE)).expect("a valid timeout");
    socket.write_all(request.as_bytes()).expect("the server reads");
    let mut reader = BufReader::new(socket);
    let mut headers = String::new();
    while !headers.ends_with("\r\n\r\n") {
        assert!(
            reader.read_line(&mut headers).expect("a response head") > 0,
            "closed in the head: {headers:?}"
        );
    }
    let status = headers.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
    Stream { reader, status, headers: headers.to_ascii_lowercase(), chunk_left: 0, rest: Vec::new() }
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Response {
    request(address, &format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"))
}

pub(crate) fn request(address: SocketAddr, request: &str) -> Response {
    let mut stream = open(address, request);
    let mut body = Vec::new();
    stream.reader.read_to_end(&mut body).expect("a whole body");
    let body = serde_json::from_slice(&body)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into_owned()));
    Response { status: stream.status, headers: stream.headers, body }
}

pub(crate) fn watch(address: SocketAddr, path: &str) -> Stream {
    let stream = open(address, &format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    if stream.status == 200 {
        assert!(stream.headers.contains("transfer-encoding: chunked"), "{}", stream.headers);
    }
    stream
}

impl Stream {
    /// The next line of the chunked body, or how it ended.
    pub(crate) fn line(&mut self) -> Result<String, End> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            if self.chunk_left == 0 {
                self.chunk_left = self.chunk_size()?;
            }
            let mut part = Vec::new();
            let read =
                self.reader.by_ref().take(self.chunk_left).read_to_end(&mut part).expect("bytes in time");
            self.rest.extend_from_slice(&part);
            self.chunk_left -= u64::try_from(read).expect("a chunk fits");
            if self.chunk_left > 0 {
                return Err(End::Broken);
            }
            let mut crlf = [0; 2];
            if self.reader.read_exact(&mut crlf).is_err() {
                return Err(End::Broken);
            }
        }
    }

    fn chunk_size(&mut self) -> Result<u64, End> {
        let mut size = String::new();
        if self.reader.read_line(&mut size).expect("bytes in time") == 0 {
            return Err(End::Broken);
        }
        match u64::from_str_radix(size.trim_end(), 16).expect("a chunk size") {
            0 => Err(End::Clean),
            size => Ok(size),
        }
    }

    pub(crate) fn event(&mut self) -> Value {
        let line = self.line().expect("an event");
        serde_json::from_str(&line).expect("a JSON line")
    }

    /// The next events as `TYPE name`.
    pub(crate) fn names(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| name_of(&self.event())).collect()
    }

    /// Nothing has come for this long.
    pub(crate) fn silent_for(&mut self, time: Duration) -> bool {
        self.reader.get_ref().set_read_timeout(Some(time)).expect("a valid timeout");
        let silent = self.rest.is_empty() && self.reader.fill_buf().is_err();
        self.reader.get_ref().set_read_timeout(Some(PATIENCE)).expect("a valid timeout");
        silent
    }
}

pub(crate) fn name_of(event: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!("{} {}", text(&event["type"]), text(&event["object"]["metadata"]["name"]))
}
