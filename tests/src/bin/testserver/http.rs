//! Requests in, answers out, as bytes: no I/O here.

use std::time::Duration;

/// Headers that a request may have.
const MAX_HEADERS: usize = 64;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// Anything else: a small body with the server's name, or so many bytes.
    Hello { bytes: Option<u64> },
    /// `/healthz`: 200.
    Healthz,
    /// `/readyz`: 200 or 503.
    Readyz,
    /// `/ready?value=BOOL`: what `/readyz` says from now on.
    SetReady(bool),
    /// `/exit?code=N`: the process exits at once, unanswered.
    Exit(i32),
    /// `/status/N`: a small body with this status line.
    Status(&'static str),
    /// `/drop`: the connection is closed, unanswered.
    Drop,
}

/// The status line's end for rubbish.
pub(crate) const BAD_REQUEST: &str = "400 Bad Request";

/// One request's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) route: Route,
    /// `?delay_ms=`: how long the answer is held back.
    pub(crate) delay: Duration,
    pub(crate) head_length: usize,
    pub(crate) body_length: u64,
    /// The client wants the connection closed after the answer.
    pub(crate) close: bool,
}

/// What the bytes received so far amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    Incomplete,
    Malformed,
    Request(Request),
}

/// Reads one request head from the front of `input`.
pub(crate) fn parse(input: &[u8]) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let head_length = match head.parse(input) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Parsed::Incomplete,
        Err(_) => return Parsed::Malformed,
    };
    let mut body_length = 0;
    let mut close = head.version == Some(0);
    for header in head.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            let length = std::str::from_utf8(header.value).ok().and_then(|value| value.trim().parse().ok());
            let Some(length) = length else { return Parsed::Malformed };
            body_length = length;
        } else if header.name.eq_ignore_ascii_case("connection") {
            close |= header.value.eq_ignore_ascii_case(b"close");
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Parsed::Malformed;
        }
    }
    let (path, query) = split_target(head.path.unwrap_or("/"));
    let route = match path {
        "/healthz" => Route::Healthz,
        "/readyz" => Route::Readyz,
        "/ready" => Route::SetReady(parameter(query, "value") != Some("false")),
        "/exit" => Route::Exit(number(query, "code").unwrap_or(1)),
        "/drop" => Route::Drop,
        _ => match path.strip_prefix("/status/") {
            Some(code) => Route::Status(status_line(code)),
            None => Route::Hello { bytes: number(query, "bytes") },
        },
    };
    let delay = Duration::from_millis(number(query, "delay_ms").unwrap_or(0));
    Parsed::Request(Request { route, delay, head_length, body_length, close })
}

/// The statuses that can be asked for; any other is 404.
fn status_line(code: &str) -> &'static str {
    match code {
        "400" => BAD_REQUEST,
        "413" => "413 Content Too Large",
        "429" => "429 Too Many Requests",
        "500" => "500 Internal Server Error",
        "502" => "502 Bad Gateway",
        "503" => "503 Service Unavailable",
        _ => "404 Not Found",
    }
}

fn split_target(target: &str) -> (&str, &str) {
    target.split_once('?').unwrap_or((target, ""))
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query
        .split('&')
        .find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value))
}

fn number<T: std::str::FromStr>(query: &str, name: &str) -> Option<T> {
    parameter(query, name)?.parse().ok()
}

/// The head of an answer, appended to `output`.
pub(crate) fn write_head(output: &mut Vec<u8>, status: &str, length: u64, close: bool) {
    let mut digits = [0; 20];
    output.extend_from_slice(b"HTTP/1.1 ");
    output.extend_from_slice(status.as_bytes());
    output.extend_from_slice(b"\r\nContent-Type: text/plain\r\nContent-Length: ");
    output.extend_from_slice(decimal(length, &mut digits));
    output.extend_from_slice(if close { b"\r\nConnection: close\r\n\r\n" } else { b"\r\n\r\n" });
}

fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        if number == 0 {
            return &digits[start..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Request {
        match parse(text.as_bytes()) {
            Parsed::Request(request) => request,
            other @ (Parsed::Incomplete | Parsed::Malformed) => panic!("{text:?} is {other:?}"),
        }
    }

    #[test]
    fn a_query_sets_delay_and_size() {
        let get = request("GET /x?delay_ms=20&bytes=7 HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(get.route, Route::Hello { bytes: Some(7) });
        assert_eq!(get.delay, Duration::from_millis(20));
        assert!(!get.close);
    }

    #[test]
    fn a_path_names_a_status() {
        let route = |path: &str| request(&format!("GET {path} HTTP/1.1\r\n\r\n")).route;
        assert_eq!(route("/status/503?delay_ms=1"), Route::Status("503 Service Unavailable"));
        assert_eq!(route("/status/9"), Route::Status("404 Not Found"));
        assert_eq!(route("/drop"), Route::Drop);
    }

    #[test]
    fn a_body_is_announced_by_its_length() {
        let post = request("POST / HTTP/1.1\r\ncontent-length: 12\r\nConnection: Close\r\n\r\nabc");
        assert_eq!(post.body_length, 12);
        assert!(post.close);
    }

    #[test]
    fn half_a_head_is_incomplete_and_rubbish_is_malformed() {
        assert_eq!(parse(b"GET / HTTP/1.1\r\nHost"), Parsed::Incomplete);
        assert_eq!(parse(b"\x16\x03\x01\x02\x00\x01"), Parsed::Malformed);
        assert_eq!(parse(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), Parsed::Malformed);
    }

    #[test]
    fn numbers_are_written_in_decimal() {
        let mut digits = [0; 20];
        assert_eq!(decimal(0, &mut digits), b"0");
        assert_eq!(decimal(u64::MAX, &mut digits), b"18446744073709551615");
    }
}
