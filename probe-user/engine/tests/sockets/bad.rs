//! Servers that misbehave: what comes of it is a clear result, in bounded time and memory.

use std::net::TcpStream;
use std::thread::sleep;
use std::time::Duration;

use probe_engine::{Handler, MAX_ATTEMPTS, Outcome, Phase, Verdict};

use crate::server::{Server, finish, gone, head, reset, send};
use crate::{SECOND, get, probe};

/// The words of the kubelet's HTTP client about an answer that is none.
const BROKEN: &str = "net/http: HTTP/1.x transport connection broken";

/// What the timeouts here are: long enough for a busy machine to get to the point that is looked at.
const SHORT: Duration = Duration::from_millis(400);

/// The run took its timeout so many times, and not much more.
fn took(outcome: &Outcome, times: u32) {
    let expected = SHORT * times;
    assert!(outcome.duration >= expected && outcome.duration < expected + SECOND, "{:?}", outcome.duration);
}

/// Resident memory of this process now.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("procfs");
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("a number") * 4096
}

#[test]
fn what_is_not_http_is_quoted() {
    for (answer, expected) in [
        (&b"SSH-2.0-OpenSSH_9.9\r\n"[..], r#"malformed HTTP response "SSH-2.0-OpenSSH_9.9""#),
        (b"\x00\x01\"\\\xff\n", r#"malformed HTTP response "\x00\x01\"\\\xff""#),
        (b"220 mail ESMTP\r\n", r#"malformed HTTP status code "mail""#),
        (b"ICY 200 OK\r\n\r\nok", r#"malformed HTTP version "ICY""#),
        (b"HTTP/3 200 OK\r\n\r\nok", r#"malformed HTTP version "HTTP/3""#),
        (b"HTTP/1.1 9999 X\r\n\r\n", r#"malformed HTTP status code "9999""#),
        (b"HTTP/1.1 -1 X\r\n\r\n", r#"malformed HTTP status code "-1""#),
        (b"\r\nHTTP/1.1 200 OK\r\n\r\nok", r#"malformed HTTP response """#),
        (b"HTTP/1.1 2", r#"malformed HTTP status code "2""#),
        (b"HTTP/1.1 200 OK\r\nContent-", r#"malformed MIME header: missing colon: "Content-""#),
        (b"HTTP/1.1 200 OK\r\n: a\r\n\r\nok", r#"malformed MIME header line: ": a""#),
        (b"HTTP/1.1 200 OK\r\nX@\"Y: a\r\n\r\nok", r#"malformed MIME header line: "X@\"Y: a""#),
        (b"HTTP/1.1 200 OK\r\n x: a\r\n\r\nok", r#"malformed MIME header initial line: " x: a""#),
        (b"HTTP/1.1 200 OK\r\nX: a\r\n", "unexpected EOF"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "unexpected EOF"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nab", r#"unsupported transfer encoding: "gzip""#),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nab", r#"bad Content-Length "-5""#),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
            r#"http: message cannot contain multiple Content-Length headers; got ["2" "3"]"#,
        ),
    ] {
        let server = Server::answering(answer);
        let outcome = probe(Handler::Http(get(server.port)), SECOND);
        let expected = format!("Get \"http://127.0.0.1:{}/\": {BROKEN}: {expected}", server.port);
        assert_eq!((outcome.verdict, outcome.output), (Verdict::Failure, expected));
    }
}

#[test]
fn a_connection_that_ends_without_an_answer_is_a_failure() {
    for (serve, expected) in [
        (finish_at_once as fn(TcpStream), "EOF".to_owned()),
        (reset, "read: connection reset by peer".to_owned()),
    ] {
        let server = Server::new(serve);
        let outcome = probe(Handler::Http(get(server.port)), SECOND);
        assert_eq!(outcome.verdict, Verdict::Failure);
        assert!(outcome.output.ends_with(&expected), "{}", outcome.output);
    }
}

fn finish_at_once(mut stream: TcpStream) {
    head(&mut stream);
    finish(&mut stream);
}

#[test]
fn a_server_that_says_nothing_is_a_failure_when_the_time_is_over() {
    for (what, begin) in [
        ("nothing", &b""[..]),
        ("half a status line", b"HTTP/1.1 2"),
        ("half a head", b"HTTP/1.1 200 OK\r\nX"),
    ] {
        let server = Server::new(move |mut stream| {
            head(&mut stream);
            send(&mut stream, begin);
            gone(&mut stream);
        });
        let outcome = probe(Handler::Http(get(server.port)), SHORT);
        let why = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
        assert_eq!(outcome.output, format!("Get \"http://127.0.0.1:{}/\": {why}", server.port), "{what}");
        assert_eq!((outcome.verdict, outcome.attempts), (Verdict::Failure, 1));
        let phase = if begin.is_empty() { Phase::FirstByte } else { Phase::Body };
        assert_eq!(outcome.timed_out_in, Some(phase), "{what}");
        took(&outcome, 1);
    }
}

#[test]
fn a_head_of_a_byte_at_a_time_does_not_prolong_the_timeout() {
    let server = Server::new(|mut stream| {
        head(&mut stream);
        send(&mut stream, b"HTTP/1.1 200 OK\r\nX: ");
        while send(&mut stream, b"a") {
            sleep(Duration::from_millis(20));
        }
    });
    let outcome = probe(Handler::Http(get(server.port)), SHORT);
    assert_eq!(outcome.verdict, Verdict::Failure);
    took(&outcome, 1);
}

#[test]
fn a_body_that_breaks_off_is_no_verdict_and_tried_three_times() {
    for (rest, expected) in [
        (&b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nab"[..], "unexpected EOF"),
        (b"HTTP/1.1 500 X\r\nContent-Length: 100\r\n\r\nab", "unexpected EOF"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", "unexpected EOF"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "invalid byte in chunk length"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc", "malformed chunked encoding"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n11111111111111111\r\n",
            "http chunk length too large",
        ),
    ] {
        let server = Server::answering(rest);
        let outcome = probe(Handler::Http(get(server.port)), SECOND);
        assert_eq!((outcome.verdict, outcome.output.as_str()), (Verdict::Unknown, expected));
        assert_eq!(outcome.attempts, MAX_ATTEMPTS);
        assert_eq!(server.connections(), 3);
    }
}

#[test]
fn a_body_that_stalls_or_drips_is_no_verdict_after_three_timeouts() {
    for drips in [false, true] {
        let server = Server::new(move |mut stream| {
            head(&mut stream);
            send(&mut stream, b"HTTP/1.1 200 OK\r\n\r\n");
            while drips && send(&mut stream, b"a") {
                sleep(Duration::from_millis(20));
            }
            gone(&mut stream);
        });
        let outcome = probe(Handler::Http(get(server.port)), SHORT);
        let expected =
            "context deadline exceeded (Client.Timeout or context cancellation while reading body)";
        assert_eq!((outcome.verdict, outcome.output.as_str()), (Verdict::Unknown, expected));
        assert_eq!((outcome.timed_out_in, outcome.attempts), (Some(Phase::Body), 3));
        took(&outcome, 3);
    }
}

#[test]
fn endless_heads_end_at_ten_mebibytes_and_are_not_kept() {
    for (what, line) in [("lines", true), ("one line", false)] {
        let server = Server::new(move |mut stream| {
            head(&mut stream);
            send(&mut stream, b"HTTP/1.1 200 OK\r\nX: ");
            let block = vec![b'y'; 1 << 16];
            while send(&mut stream, &block) {
                if line && !send(&mut stream, b"\r\nX: ") {
                    break;
                }
            }
        });
        let before = resident_bytes();
        let outcome = probe(Handler::Http(get(server.port)), 10 * SECOND);
        let grown = resident_bytes().saturating_sub(before);
        let expected = "net/http: server response headers exceeded 10485760 bytes; aborted";
        assert!(outcome.output.ends_with(expected), "{what}: {}", outcome.output);
        assert_eq!(outcome.verdict, Verdict::Failure);
        // The other tests of this process grow as well, but not by what was sent here.
        assert!(grown < 8 << 20, "{what}: {grown} bytes");
    }
}

#[test]
fn thousands_of_headers_are_no_trouble() {
    let headers: String = (0..2000).map(|i| format!("X-{i}: y\r\n")).collect();
    let server = Server::answering(format!("HTTP/1.1 200 OK\r\n{headers}\r\nok"));
    let outcome = probe(Handler::Http(get(server.port)), SECOND);
    assert_eq!((outcome.verdict, outcome.output.as_str()), (Verdict::Success, "ok"));
}

#[test]
fn a_compressed_bomb_stays_compressed() {
    // A stored block of a gzip stream is enough: whoever looked into it would see other bytes than these.
    let mut bomb = b"\x1f\x8b\x08\0\0\0\0\0\0\x03".to_vec();
    bomb.resize(20_000, 0xaa);
    let mut answer = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 20000\r\n\r\n".to_vec();
    answer.extend_from_slice(&bomb);
    let server = Server::answering(answer);
    let outcome = probe(Handler::Http(get(server.port)), SECOND);
    assert_eq!(outcome.verdict, Verdict::Success);
    assert_eq!(outcome.output, String::from_utf8_lossy(&bomb[..10_240]));
}

#[test]
fn chunks_of_nothing_but_extensions_are_given_up() {
    let server = Server::new(|mut stream| {
        head(&mut stream);
        send(&mut stream, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let chunk = format!("1;{}\r\nx\r\n", "e".repeat(3000));
        while send(&mut stream, chunk.as_bytes()) {}
    });
    let outcome = probe(Handler::Http(get(server.port)), SECOND);
    assert_eq!(
        (outcome.verdict, outcome.output.as_str()),
        (Verdict::Unknown, "chunked encoding contains too much non-data")
    );
}

#[test]
fn redirects_end_after_ten() {
    let server = Server::answering("HTTP/1.1 302 X\r\nLocation: /loop\r\nContent-Length: 0\r\n\r\n");
    let outcome = probe(Handler::Http(get(server.port)), 5 * SECOND);
    assert_eq!(
        (outcome.verdict, outcome.output.as_str()),
        (Verdict::Failure, "Get \"/loop\": stopped after 10 redirects")
    );
    assert_eq!((server.connections(), outcome.redirects.len()), (10, 9));
}

#[test]
fn slow_redirects_share_one_timeout() {
    let server = Server::new(|mut stream| {
        head(&mut stream);
        sleep(SHORT / 4);
        send(&mut stream, b"HTTP/1.1 302 X\r\nLocation: /loop\r\nContent-Length: 0\r\n\r\n");
        finish(&mut stream);
    });
    let outcome = probe(Handler::Http(get(server.port)), SHORT);
    assert_eq!(outcome.verdict, Verdict::Failure);
    assert!(
        outcome.output.contains("/loop\": context deadline exceeded (Client.Timeout exceeded"),
        "{}",
        outcome.output
    );
    took(&outcome, 1);
}

#[test]
fn a_redirect_that_leads_nowhere_says_why() {
    for (location, expected) in [
        (
            "http://%zz/",
            r#"failed to parse Location header "http://%zz/": parse "http://%zz/": invalid URL escape "%zz""#,
        ),
        ("ftp://127.0.0.1/", r#"unsupported protocol scheme "ftp""#),
        ("http://127.0.0.1:1/x", "dial tcp 127.0.0.1:1: connect: connection refused"),
        ("http://127.0.0.1:99999/", "dial tcp: address 99999: invalid port"),
    ] {
        let server = Server::answering(format!("HTTP/1.1 302 X\r\nLocation: {location}\r\n\r\n"));
        let outcome = probe(Handler::Http(get(server.port)), SECOND);
        assert_eq!(outcome.verdict, Verdict::Failure);
        assert!(outcome.output.ends_with(expected), "{}", outcome.output);
    }
}
