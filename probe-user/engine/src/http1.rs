//! One HTTP/1.1 exchange: writes a request, reads the head of the answer and at most so much of its body.
//!
//! A reader of our own, because what counts is what Go's client takes: folded and thousands of headers, `HTTP/2.0` in a status
//! line, status 000, heads of 10 MiB; and because nothing of a head is kept but what the probe needs. Content codings are left as they are.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::quote::quoted;
use crate::tls::stream_error;
use crate::trace::Trace;

/// Most that is read of heads (Go's `MaxResponseHeaderBytes`).
const HEAD_BYTES: u64 = 10 << 20;

/// Most that is kept of one line.
const LINE_BYTES: usize = 64 << 10;

/// Longest line of a chunk's size, and most that chunks may have beside their data (Go's limits).
const CHUNK_LINE_BYTES: usize = 4096;
const CHUNK_EXCESS: u64 = 16 << 10;

/// How the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

/// What the probe needs of a head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) location: Option<String>,
    pub(crate) framing: Framing,
}

/// Why there is no head or no body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The connection ended.
    Eof,
    /// The connection failed.
    Io(String),
    /// What came is not HTTP.
    Malformed(String),
}

impl Broken {
    /// As the kubelet says it of a head. `begun`: something had come.
    pub(crate) fn of_head(&self, begun: bool) -> String {
        let broken = "net/http: HTTP/1.x transport connection broken";
        match self {
            Self::Eof if !begun => "EOF".to_owned(),
            Self::Eof => format!("{broken}: unexpected EOF"),
            Self::Io(text) if !begun => text.clone(),
            Self::Io(text) | Self::Malformed(text) => format!("{broken}: {text}"),
        }
    }

    /// As the kubelet says it of a body.
    pub(crate) fn of_body(&self) -> String {
        match self {
            Self::Eof => "unexpected EOF".to_owned(),
            Self::Io(text) | Self::Malformed(text) => text.clone(),
        }
    }
}

/// One connection, for one exchange.
#[derive(Debug)]
pub(crate) struct Exchange<S> {
    stream: S,
    ends: Option<(SocketAddr, SocketAddr)>,
    buffer: Vec<u8>,
    at: usize,
    head_left: u64,
    /// Something has come.
    pub(crate) begun: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Exchange<S> {
    pub(crate) fn new(stream: S, ends: Option<(SocketAddr, SocketAddr)>) -> Self {
        Self { stream, ends, buffer: Vec::with_capacity(4096), at: 0, head_left: HEAD_BYTES, begun: false }
    }

    /// Sends the request. A server may have answered and left before it has read all: that is for the reader to find out.
    pub(crate) async fn send(&mut self, request: &[u8]) {
        let _told_by_the_reader = self.stream.write_all(request).await;
        let _told_by_the_reader = self.stream.flush().await;
    }

    /// The head of the final answer; those of `100 Continue` and the like are passed over.
    pub(crate) async fn head(&mut self, trace: &mut Trace) -> Result<Head, Broken> {
        loop {
            if self.at == self.buffer.len() && !self.fill().await? {
                return Err(Broken::Eof);
            }
            trace.first_byte();
            let line = self.line().await?;
            let (status, at_least_1_1) = parse_status(&line).map_err(Broken::Malformed)?;
            let fields = self.fields().await?;
            if (100..200).contains(&status) && status != 101 {
                continue;
            }
            let framing = fields.framing(status, at_least_1_1).map_err(Broken::Malformed)?;
            return Ok(Head { status, location: fields.location, framing });
        }
    }

    /// At most so much of the body.
    pub(crate) async fn body(&mut self, framing: Framing, most: usize) -> Result<Vec<u8>, Broken> {
        let mut body = Vec::new();
        match framing {
            Framing::Length(length) => {
                let wanted = usize::try_from(length).unwrap_or(usize::MAX).min(most);
                if self.take(&mut body, wanted).await? < wanted {
                    return Err(Broken::Eof);
                }
            }
            Framing::UntilClose => {
                self.take(&mut body, most).await?;
            }
            Framing::Chunked => self.chunks(&mut body, most).await?,
        }
        Ok(body)
    }

    /// Says goodbye, as far as that is possible without waiting for the server.
    pub(crate) async fn close(mut self) {
        let _either_way_it_is_closed = self.stream.shutdown().await;
    }

    /// Reads more; false at the end.
    async fn fill(&mut self) -> Result<bool, Broken> {
        self.buffer.clear();
        self.at = 0;
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) => Ok(false),
            Ok(_) => {
                self.begun = true;
                Ok(true)
            }
            // TLS that ends without a word: many servers do that.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(Broken::Io(stream_error(&error, self.ends))),
        }
    }

    /// A line of the head without its end. At the end of the stream the rest counts as one; if there is none, it is the end.
    async fn line(&mut self) -> Result<Vec<u8>, Broken> {
        let (mut line, mut length) = (Vec::new(), 0_u64);
        loop {
            let rest = &self.buffer[self.at..];
            let end = rest.iter().position(|&byte| byte == b'\n');
            let part = &rest[..end.map_or(rest.len(), |end| end + 1)];
            length += part.len() as u64;
            if length > self.head_left {
                let text = format!("net/http: server response headers exceeded {HEAD_BYTES} bytes; aborted");
                return Err(Broken::Malformed(text));
            }
            line.extend_from_slice(&part[..part.len().min(LINE_BYTES - line.len())]);
            self.at += part.len();
            if end.is_some() || !self.fill().await? {
                break;
            }
        }
        if length == 0 {
            return Err(Broken::Eof);
        }
        self.head_left -= length;
        if line.ends_with(b"\n") {
            line.pop();
            if line.ends_with(b"\r") {
                line.pop();
            }
        }
        Ok(line)
    }

    /// The lines up to the empty one.
    async fn fields(&mut self) -> Result<Fields, Broken> {
        let mut fields = Fields::default();
        let mut field: Option<Vec<u8>> = None;
        loop {
            let line = self.line().await;
            let folded = matches!(&line, Ok(line) if line.starts_with(b" ") || line.starts_with(b"\t"));
            if let (true, Ok(line)) = (folded, &line) {
                let Some(field) = &mut field else {
                    let text = format!("malformed MIME header initial line: {}", quoted(line));
                    return Err(Broken::Malformed(text));
                };
                let room = LINE_BYTES.saturating_sub(field.len() + 1);
                let more = line.trim_ascii();
                field.push(b' ');
                field.extend_from_slice(&more[..more.len().min(room)]);
                continue;
            }
            if let Some(field) = field.take() {
                fields.add(field.trim_ascii()).map_err(Broken::Malformed)?;
            }
            let line = line?;
            if line.is_empty() {
                return Ok(fields);
            }
            if !line.contains(&b':') {
                let text = format!("malformed MIME header: missing colon: {}", quoted(&line));
                return Err(Broken::Malformed(text));
            }
            field = Some(line);
        }
    }

    /// Takes so many bytes, fewer at the end of the stream only.
    async fn take(&mut self, body: &mut Vec<u8>, count: usize) -> Result<usize, Broken> {
        let mut left = count;
        while left > 0 {
            if self.at == self.buffer.len() && !self.fill().await? {
                break;
            }
            let rest = &self.buffer[self.at..];
            let part = &rest[..rest.len().min(left)];
            body.extend_from_slice(part);
            self.at += part.len();
            left -= part.len();
        }
        Ok(count - left)
    }

    async fn chunks(&mut self, body: &mut Vec<u8>, most: usize) -> Result<(), Broken> {
        let malformed = |text: &str| Broken::Malformed(text.to_owned());
        let mut excess = 0_u64;
        while body.len() < most {
            let line = self.chunk_line().await?;
            let digits = line.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
            let size = chunk_size(digits).map_err(malformed)?;
            excess =
                (excess + line.len() as u64 + 4).saturating_sub(size.saturating_mul(2).saturating_add(16));
            if excess > CHUNK_EXCESS {
                return Err(malformed("chunked encoding contains too much non-data"));
            }
            if size == 0 {
                return self.trailer().await;
            }
            let wanted = usize::try_from(size).unwrap_or(usize::MAX).min(most - body.len());
            if self.take(body, wanted).await? < wanted {
                return Err(Broken::Eof);
            }
            if body.len() == most {
                break;
            }
            let mut end = Vec::new();
            if self.take(&mut end, 2).await? < 2 {
                return Err(Broken::Eof);
            }
            if end != b"\r\n" {
                return Err(malformed("malformed chunked encoding"));
            }
        }
        Ok(())
    }

    /// A line with a chunk's size.
    async fn chunk_line(&mut self) -> Result<Vec<u8>, Broken> {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            if line.len() >= CHUNK_LINE_BYTES {
                return Err(Broken::Malformed("header line too long".to_owned()));
            }
            if self.take(&mut line, 1).await? == 0 {
                return Err(Broken::Eof);
            }
        }
        match line.strip_suffix(b"\r\n") {
            Some(line) if !line.contains(&b'\r') => Ok(line.to_vec()),
            Some(_) => Err(Broken::Malformed("invalid CR in chunked line".to_owned())),
            None => Err(Broken::Malformed("chunked line ends with bare LF".to_owned())),
        }
    }

    /// What follows the last chunk.
    async fn trailer(&mut self) -> Result<(), Broken> {
        match self.fields().await {
            Ok(_of_no_use) => Ok(()),
            Err(Broken::Eof) => Err(Broken::Malformed("http: unexpected EOF reading trailer".to_owned())),
            Err(broken) => Err(broken),
        }
    }
}

/// The few fields that matter.
#[derive(Debug, Default)]
struct Fields {
    location: Option<String>,
    lengths: Vec<String>,
    codings: Vec<String>,
}

/// Values of one field that are kept; more make no difference to the verdict.
const MOST_VALUES: usize = 8;

impl Fields {
    fn add(&mut self, field: &[u8]) -> Result<(), String> {
        let malformed = || format!("malformed MIME header line: {}", quoted(field));
        let colon = field.iter().position(|&byte| byte == b':').ok_or_else(malformed)?;
        let (name, value) = (&field[..colon], field[colon + 1..].trim_ascii());
        let of_name = |&byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~ ".contains(&byte);
        if name.is_empty()
            || !name.iter().all(of_name)
            || value.iter().any(|&b| (b < b' ' && b != b'\t') || b == 0x7f)
        {
            return Err(malformed());
        }
        let text = || String::from_utf8_lossy(value).into_owned();
        if name.eq_ignore_ascii_case(b"location") {
            self.location.get_or_insert_with(text);
        } else if name.eq_ignore_ascii_case(b"content-length") && self.lengths.len() < MOST_VALUES {
            self.lengths.push(text());
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") && self.codings.len() < MOST_VALUES {
            self.codings.push(text());
        }
        Ok(())
    }

    fn framing(&self, status: u16, at_least_1_1: bool) -> Result<Framing, String> {
        let chunked = match (at_least_1_1, self.codings.as_slice()) {
            (false, _) | (true, []) => false,
            (true, [one]) if one.eq_ignore_ascii_case("chunked") => true,
            (true, [one]) => {
                return Err(format!("unsupported transfer encoding: {}", quoted(one.as_bytes())));
            }
            (true, many) => return Err(format!("too many transfer encodings: {}", list(many))),
        };
        let length = match self.lengths.as_slice() {
            _ if chunked => None,
            [] => None,
            [first, others @ ..] if others.iter().any(|other| other != first) => {
                let lengths = list(&self.lengths);
                return Err(format!(
                    "http: message cannot contain multiple Content-Length headers; got {lengths}"
                ));
            }
            [first, ..] => {
                let digits = first.bytes().all(|byte| byte.is_ascii_digit());
                match first.parse::<u64>().ok().filter(|length| digits && *length < 1 << 63) {
                    Some(length) => Some(length),
                    None => return Err(format!("bad Content-Length {}", quoted(first.as_bytes()))),
                }
            }
        };
        Ok(match (status, chunked, length) {
            (100..200 | 204 | 304, _, _) => Framing::Length(0),
            (_, true, _) => Framing::Chunked,
            (_, false, Some(length)) => Framing::Length(length),
            (_, false, None) => Framing::UntilClose,
        })
    }
}

fn list(values: &[String]) -> String {
    let quoted: Vec<String> = values.iter().map(|value| quoted(value.as_bytes())).collect();
    format!("[{}]", quoted.join(" "))
}

/// Status, and whether the version is 1.1 or later.
fn parse_status(line: &[u8]) -> Result<(u16, bool), String> {
    let mut parts = line.splitn(2, |&byte| byte == b' ');
    let version = parts.next().unwrap_or_default();
    let Some(rest) = parts.next() else { return Err(format!("malformed HTTP response {}", quoted(line))) };
    let rest = &rest[rest.iter().position(|&byte| byte != b' ').unwrap_or(rest.len())..];
    let code = rest.split(|&byte| byte == b' ').next().unwrap_or_default();
    let number = |code: &[u8]| std::str::from_utf8(code).ok()?.parse::<u16>().ok();
    let Some(status) = number(code).filter(|_| code.len() == 3) else {
        return Err(format!("malformed HTTP status code {}", quoted(code)));
    };
    match version {
        [b'H', b'T', b'T', b'P', b'/', major @ b'0'..=b'9', b'.', minor @ b'0'..=b'9'] => {
            Ok((status, (*major, *minor) >= (b'1', b'1')))
        }
        _ => Err(format!("malformed HTTP version {}", quoted(version))),
    }
}

fn chunk_size(digits: &[u8]) -> Result<u64, &'static str> {
    if digits.is_empty() {
        return Err("empty hex number for chunk length");
    }
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err("invalid byte in chunk length");
    }
    let text = std::str::from_utf8(digits).unwrap_or_default();
    u64::from_str_radix(text, 16).ok().filter(|_| digits.len() <= 16).ok_or("http chunk length too large")
}
