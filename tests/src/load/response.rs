//! Reading an HTTP/1 response: status line, headers, and where the body ends (length, chunks, or the close of the connection); and the
//! one-line answers of redis.
//!
//! The body's bytes are counted and thrown away. Nothing is allocated.

use httparse::{EMPTY_HEADER, Header, Status};

/// Headers of one response; more is a bad response.
const HEADER_LIMIT: usize = 64;

/// What came is not of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bad;

/// A response whose head has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) status: u16,
    /// Another request may follow on the connection.
    pub(super) reusable: bool,
    body: Body,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    /// Bytes still to come; 0 is the end.
    Length(u64),
    Chunked(Chunk),
    UntilClose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    /// The size so far and its digits.
    Size(u64, u32),
    /// The rest of the size's line.
    Extension(u64),
    SizeEnd(u64),
    Data(u64),
    DataCr,
    DataLf,
    /// At the start of a trailer line.
    Trailer,
    TrailerLine,
    LastLf,
    End,
}

impl Response {
    /// Reads a head at the front of `bytes`: the response and the head's length, or `None` if it is not all there.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, Bad> {
        let mut headers = [EMPTY_HEADER; HEADER_LIMIT];
        let mut head = httparse::Response::new(&mut headers);
        let length = match head.parse(bytes) {
            Ok(Status::Complete(length)) => length,
            Ok(Status::Partial) => return Ok(None),
            Err(_) => return Err(Bad),
        };
        let (Some(status), Some(version)) = (head.code, head.version) else { return Err(Bad) };
        let keeps = match (version, connection_option(head.headers)) {
            (_, Some(Keep::Close)) | (0, None) => false,
            (_, Some(Keep::Alive)) | (_, None) => true,
        };
        let body = body_of(status, head.headers)?;
        Ok(Some((Self { status, reusable: keeps && body != Body::UntilClose, body }, length)))
    }

    /// The same for an answer of redis to a PING or an empty list: one line, as status 200, or 500 for an error.
    pub(super) fn parse_redis(bytes: &[u8]) -> Result<Option<(Self, usize)>, Bad> {
        let Some(end) = bytes.windows(2).position(|window| window == b"\r\n") else { return Ok(None) };
        let status = match bytes.get(..end) {
            Some(b"+PONG" | b"*-1") => 200,
            Some([b'-', ..]) => 500,
            _ => return Err(Bad),
        };
        Ok(Some((Self { status, reusable: true, body: Body::Length(0) }, end + 2)))
    }

    /// An interim response: the real one follows.
    pub(super) fn interim(&self) -> bool {
        (100..200).contains(&self.status)
    }

    /// Takes bytes of the body; gives what follows its end.
    pub(super) fn take<'a>(&mut self, mut bytes: &'a [u8]) -> Result<&'a [u8], Bad> {
        while !bytes.is_empty() && !self.complete() {
            match &mut self.body {
                Body::UntilClose => return Ok(&[]),
                Body::Length(left) => bytes = skip(left, bytes),
                Body::Chunked(Chunk::Data(left)) => {
                    bytes = skip(left, bytes);
                    if *left == 0 {
                        self.body = Body::Chunked(Chunk::DataCr);
                    }
                }
                Body::Chunked(chunk) => {
                    if let Some((byte, rest)) = bytes.split_first() {
                        *chunk = chunk.after(*byte)?;
                        bytes = rest;
                    }
                }
            }
        }
        Ok(bytes)
    }

    /// The whole response has come.
    pub(super) fn complete(&self) -> bool {
        matches!(self.body, Body::Length(0) | Body::Chunked(Chunk::End))
    }

    /// The close of the connection is the response's proper end.
    pub(super) fn ends_with_close(&self) -> bool {
        self.body == Body::UntilClose
    }
}

impl Chunk {
    /// The state after one byte of framing.
    fn after(self, byte: u8) -> Result<Self, Bad> {
        match (self, byte) {
            (Self::Size(size, digits), _) if byte.is_ascii_hexdigit() && digits < 15 => {
                let digit = char::from(byte).to_digit(16).ok_or(Bad)?;
                Ok(Self::Size(size * 16 + u64::from(digit), digits + 1))
            }
            (Self::Size(size, 1..), b'\r') | (Self::Extension(size), b'\r') => Ok(Self::SizeEnd(size)),
            (Self::Size(size, 1..), b';' | b' ' | b'\t') | (Self::Extension(size), _) => {
                Ok(Self::Extension(size))
            }
            (Self::SizeEnd(0), b'\n') => Ok(Self::Trailer),
            (Self::SizeEnd(size), b'\n') => Ok(Self::Data(size)),
            (Self::DataCr, b'\r') => Ok(Self::DataLf),
            (Self::DataLf, b'\n') => Ok(Self::Size(0, 0)),
            (Self::Trailer, b'\r') => Ok(Self::LastLf),
            (Self::TrailerLine, b'\n') => Ok(Self::Trailer),
            (Self::Trailer | Self::TrailerLine, _) => Ok(Self::TrailerLine),
            (Self::LastLf, b'\n') => Ok(Self::End),
            _ => Err(Bad),
        }
    }
}

enum Keep {
    Alive,
    Close,
}

fn connection_option(headers: &[Header<'_>]) -> Option<Keep> {
    let options = headers.iter().filter(|header| header.name.eq_ignore_ascii_case("connection"));
    let mut found = None;
    for option in options.flat_map(|header| header.value.split(|byte| *byte == b',')) {
        if option.trim_ascii().eq_ignore_ascii_case(b"close") {
            return Some(Keep::Close);
        }
        if option.trim_ascii().eq_ignore_ascii_case(b"keep-alive") {
            found = Some(Keep::Alive);
        }
    }
    found
}

fn body_of(status: u16, headers: &[Header<'_>]) -> Result<Body, Bad> {
    if (100..200).contains(&status) || status == 204 || status == 304 {
        return Ok(Body::Length(0));
    }
    let value = |name: &str| {
        headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    };
    if let Some(coding) = value("transfer-encoding") {
        let chunked = coding.trim_ascii().eq_ignore_ascii_case(b"chunked");
        return if chunked { Ok(Body::Chunked(Chunk::Size(0, 0))) } else { Ok(Body::UntilClose) };
    }
    match value("content-length") {
        None => Ok(Body::UntilClose),
        Some(length) => {
            let length = std::str::from_utf8(length.trim_ascii()).ok().and_then(|length| length.parse().ok());
            length.map(Body::Length).ok_or(Bad)
        }
    }
}

/// Passes over as many bytes as are left.
fn skip<'a>(left: &mut u64, bytes: &'a [u8]) -> &'a [u8] {
    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
    *left -= u64::try_from(count).unwrap_or(u64::MAX);
    bytes.get(count..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Status, completeness and reusability after the whole text, given in pieces of every size. What follows the end is left.
    fn check(text: &str, expected: Result<(u16, bool, bool), Bad>) {
        for size in 1..=text.len() {
            assert_eq!(read(text.as_bytes(), size), expected, "{text:?} in pieces of {size}");
        }
    }

    fn read(bytes: &[u8], size: usize) -> Result<(u16, bool, bool), Bad> {
        let Some((mut response, head)) = Response::parse(bytes)? else { return Err(Bad) };
        let mut left = 0;
        for piece in bytes[head..].chunks(size) {
            left += response.take(piece)?.len();
        }
        Ok((response.status, response.complete(), response.reusable && left == 0))
    }

    #[test]
    fn bodies_end_where_the_head_says() {
        check("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", Ok((200, true, true)));
        check("HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n", Ok((503, true, true)));
        check("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", Ok((200, false, true)));
        check("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd", Ok((200, true, false)));
        check("HTTP/1.1 204 No Content\r\n\r\n", Ok((204, true, true)));
        check("HTTP/1.1 200 OK\r\n\r\nabc", Ok((200, false, false)));
        check(
            "HTTP/1.1 200 OK\r\nConnection: x, Close\r\nContent-Length: 1\r\n\r\na",
            Ok((200, true, false)),
        );
        check("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", Ok((200, true, false)));
        check(
            "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na",
            Ok((200, true, true)),
        );
    }

    #[test]
    fn chunks_end_with_the_empty_one() {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        check(&format!("{head}3\r\nabc\r\n0\r\n\r\n"), Ok((200, true, true)));
        check(
            &format!("{head}A;x=\"y\"\r\n0123456789\r\n1 \r\na\r\n0\r\nTrailer: x\r\n\r\n"),
            Ok((200, true, true)),
        );
        check(&format!("{head}3\r\nabc\r\n"), Ok((200, false, true)));
        check(&format!("{head}3\r\nabc\r\n0\r\n\r\nmore"), Ok((200, true, false)));
        check(&format!("{head}3\r\nabcd\r\n"), Err(Bad));
        check(&format!("{head}x\r\n"), Err(Bad));
        check(&format!("{head}\r\n"), Err(Bad));
        check(&format!("{head}FFFFFFFFFFFFFFFF\r\n"), Err(Bad));
    }

    #[test]
    fn redis_answers_in_a_line() {
        for (text, expected) in [
            ("+PONG\r\n", Ok(Some((200, 7)))),
            ("*-1\r\n+PO", Ok(Some((200, 5)))),
            ("-LOADING\r\n", Ok(Some((500, 10)))),
            ("+PON", Ok(None)),
            ("HTTP/1.1 200 OK\r\n", Err(Bad)),
        ] {
            let parsed = Response::parse_redis(text.as_bytes());
            let shown = parsed.map(|whole| whole.map(|(response, length)| (response.status, length)));
            assert_eq!(shown, expected, "{text:?}");
        }
    }

    #[test]
    fn nonsense_is_no_response() {
        for text in
            ["SSH-2.0-OpenSSH\r\n", "HTTP/1.1 abc\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"]
        {
            assert_eq!(Response::parse(text.as_bytes()), Err(Bad), "{text:?}");
        }
        assert_eq!(Response::parse(b"HTTP/1.1 200 OK\r\nContent-Le"), Ok(None));
        let interim = Response::parse(b"HTTP/1.1 100 Continue\r\n\r\n").expect("valid").expect("whole").0;
        assert!(interim.interim() && interim.complete());
    }
}
