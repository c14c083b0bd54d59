//! What a client sends in a turn: one request or several at once, all of it or piece by piece.
//!
//! Pure: when a piece is due is said here, waiting is the connection's.

use std::time::Duration;

use super::clock::{SECOND_NS, nanos};
use super::config::Config;

/// Pieces that a slow client reads or writes in a second.
pub(super) const PIECES_PER_SECOND: u64 = 10;

/// The bytes of as many equal requests as are sent at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    bytes: Vec<u8>,
    /// Bytes of one of them, and of its head.
    length: usize,
    head_length: usize,
    write_rate: Option<u64>,
    body_delay: Duration,
}

/// Bytes that are sent without a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    pub(super) bytes: &'a [u8],
    /// When, in nanoseconds from the first one.
    pub(super) due_ns: u64,
}

impl Request {
    /// As it goes over the wire. One-shot clients say that they are: the connection ends with the response.
    pub(super) fn new(config: &Config, keep: bool) -> Self {
        let mut one = match config.redis {
            None => http(config, keep),
            Some(seconds) => redis(seconds),
        }
        .into_bytes();
        let head_length = one.len();
        one.resize(head_length + config.body, b'x');
        let at_once = if keep { usize::try_from(config.pipeline).unwrap_or(1) } else { 1 };
        Self {
            length: one.len(),
            bytes: one.repeat(at_once),
            head_length,
            write_rate: config.write_rate,
            body_delay: config.body_delay,
        }
    }

    /// Bytes of one request.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// The piece after `sent` bytes of `count` requests; `None` when all are sent.
    pub(super) fn piece(&self, sent: usize, count: usize) -> Option<Piece<'_>> {
        let all = self.bytes.get(..self.length * count)?;
        let in_head = !self.body_delay.is_zero() && sent < self.head_length;
        let rest = all.get(sent..if in_head { self.head_length } else { all.len() })?;
        let late_ns = if in_head { 0 } else { nanos(self.body_delay) };
        let (size, due_ns) = match self.write_rate {
            None => (rest.len(), late_ns),
            Some(rate) => (piece_size(rate), late_ns + due_ns(sent, rate)),
        };
        let bytes = rest.get(..size.min(rest.len()))?;
        (!bytes.is_empty()).then_some(Piece { bytes, due_ns })
    }
}

fn http(config: &Config, keep: bool) -> String {
    let method = if config.body == 0 { "GET" } else { "POST" };
    let connection = if keep { "" } else { "Connection: close\r\n" };
    let length =
        if config.body == 0 { String::new() } else { format!("Content-Length: {}\r\n", config.body) };
    format!("{method} {} HTTP/1.1\r\nHost: {}\r\n{connection}{length}\r\n", config.path, config.target)
}

/// A command as an array of strings (RESP).
fn redis(seconds: u32) -> String {
    let seconds_text = seconds.to_string();
    let words: &[&str] = if seconds == 0 { &["PING"] } else { &["BLPOP", "empty", &seconds_text] };
    let strings: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    format!("*{}\r\n{strings}", words.len())
}

/// Bytes that a slow client reads or writes at a time.
pub(super) fn piece_size(rate: u64) -> usize {
    usize::try_from((rate / PIECES_PER_SECOND).max(1)).unwrap_or(usize::MAX)
}

/// When the byte after the first `count` ones is due at a rate, in nanoseconds from the first one.
pub(super) fn due_ns(count: usize, rate: u64) -> u64 {
    let ns =
        u128::try_from(count).unwrap_or(u128::MAX).saturating_mul(u128::from(SECOND_NS)) / u128::from(rate);
    u64::try_from(ns).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn config() -> Config {
        Config { keepalive: 1, ..Config::new(SocketAddr::from(([127, 0, 0, 1], 80))) }
    }

    /// The pieces of `count` requests: text and milliseconds.
    fn pieces(config: &Config, keep: bool, count: usize) -> Vec<(String, u64)> {
        let request = Request::new(config, keep);
        let (mut sent, mut pieces) = (0, Vec::new());
        while let Some(piece) = request.piece(sent, count) {
            sent += piece.bytes.len();
            pieces.push((String::from_utf8_lossy(piece.bytes).into_owned(), piece.due_ns / 1_000_000));
        }
        pieces
    }

    const GET: &str = "GET / HTTP/1.1\r\nHost: 127.0.0.1:80\r\n\r\n";

    #[test]
    fn requests_say_what_they_are() {
        assert_eq!(pieces(&config(), true, 1), [(GET.to_owned(), 0)]);
        let post =
            "POST / HTTP/1.1\r\nHost: 127.0.0.1:80\r\nConnection: close\r\nContent-Length: 2\r\n\r\nxx";
        assert_eq!(pieces(&Config { body: 2, ..config() }, false, 1), [(post.to_owned(), 0)]);
    }

    #[test]
    fn redis_is_asked_in_its_own_words() {
        let text = |seconds| pieces(&Config { redis: Some(seconds), ..config() }, true, 1);
        assert_eq!(text(0), [("*1\r\n$4\r\nPING\r\n".to_owned(), 0)]);
        assert_eq!(text(12), [("*3\r\n$5\r\nBLPOP\r\n$5\r\nempty\r\n$2\r\n12\r\n".to_owned(), 0)]);
    }

    #[test]
    fn requests_at_once_are_one_piece() {
        let pipelined = Config { pipeline: 3, ..config() };
        assert_eq!(pieces(&pipelined, true, 3), [(GET.repeat(3), 0)]);
        assert_eq!(pieces(&pipelined, true, 2), [(GET.repeat(2), 0)]);
    }

    #[test]
    fn a_late_body_follows_its_head() {
        let late = Config { body: 2, body_delay: Duration::from_secs(1), ..config() };
        let pieces = pieces(&late, true, 1);
        assert!(
            matches!(&pieces[..], [(head, 0), (body, 1000)] if head.ends_with("\r\n\r\n") && body == "xx")
        );
    }

    #[test]
    fn a_slow_request_is_ten_pieces_a_second() {
        let slow = Config { write_rate: Some(100), ..config() };
        let pieces = pieces(&slow, true, 1);
        assert_eq!(pieces.iter().map(|(text, _)| text.as_str()).collect::<String>(), GET);
        assert!(pieces.iter().rev().skip(1).all(|(text, _)| text.len() == 10));
        assert!(pieces.iter().map(|(_, due)| *due).eq((0..).step_by(100).take(pieces.len())));
    }
}
