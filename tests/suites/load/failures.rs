//! Each way to lose a request, met on purpose: one failed attempt each, of the right kind and stage, and never a retry.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::mpsc::channel;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, getsockname, listen, socket,
};
use world::load::{Config, ErrorKind, Stage};

use crate::run_logged;
use crate::server::{OK, answer_and_close, read_request, reset, serve};

/// A bound socket that does not listen, and its address.
fn bound() -> (OwnedFd, SocketAddr) {
    let socket =
        socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::from(([127, 0, 0, 1], 0))))
        .expect("a free port");
    let address: SockaddrStorage = getsockname(socket.as_raw_fd()).expect("an address");
    let address = address.as_sockaddr_in().expect("IPv4");
    (socket, SocketAddr::from((address.ip(), address.port())))
}

/// Ten attempts of a keep-alive and of a new-connection client against a server that fails each of them in the same way.
fn check(handler: fn(TcpStream), error: ErrorKind, stage: Stage) {
    for (keepalive, new) in [(1, 0), (0, 1)] {
        let (requests, seen) = channel();
        let server = serve(move |mut stream, _| {
            read_request(&mut stream).expect("a request");
            requests.send(()).expect("the test waits");
            handler(stream);
        });
        // Where a timeout is not what is met, none may be met: the machine may be busy.
        let timeout = Duration::from_millis(if error == ErrorKind::Timeout { 200 } else { 60_000 });
        let config =
            Config { keepalive, new, timeout, max_requests: Some(10), ..Config::new(server.address) };
        let (summary, attempts) = run_logged(config);
        assert_eq!(summary.total.by_error.get(&error), Some(&10), "{:?}", summary.total.by_error);
        assert_eq!((summary.total.failed, summary.total.ok, summary.total.connections), (10, 0, 10));
        assert!(
            attempts.iter().all(|attempt| attempt.stage == Some(stage) && attempt.nth == 1),
            "{attempts:?}"
        );
        assert!(
            attempts.iter().all(|attempt| (attempt.received > 0) == (stage == Stage::Body)),
            "{attempts:?}"
        );
        assert_eq!(attempts.iter().map(|attempt| attempt.local).collect::<Vec<_>>(), server.peers());
        assert_eq!(seen.try_iter().count(), 10, "the server got each request once");
    }
}

#[test]
fn closed_without_an_answer_is_eof() {
    check(drop, ErrorKind::Eof, Stage::FirstByte);
}

#[test]
fn reset_without_an_answer_is_reset() {
    check(reset, ErrorKind::Reset, Stage::FirstByte);
}

#[test]
fn reset_inside_the_answer_is_reset_in_the_body() {
    let handler = |mut stream: TcpStream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").expect("written");
        reset(stream);
    };
    check(handler, ErrorKind::Reset, Stage::Body);
}

#[test]
fn closed_inside_the_answer_is_truncated() {
    check(
        |stream| answer_and_close(stream, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"),
        ErrorKind::Truncated,
        Stage::Body,
    );
    check(|stream| answer_and_close(stream, b"HTTP/1.1 200 OK\r\nConte"), ErrorKind::Truncated, Stage::Body);
    let chunked = |stream| {
        answer_and_close(stream, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
    };
    check(chunked, ErrorKind::Truncated, Stage::Body);
}

#[test]
fn no_answer_is_a_timeout() {
    // Holds the connection until the client gives up.
    check(|mut stream| drop(read_request(&mut stream)), ErrorKind::Timeout, Stage::FirstByte);
}

#[test]
fn half_an_answer_is_a_timeout_in_the_body() {
    let handler = |mut stream: TcpStream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").expect("written");
        drop(read_request(&mut stream));
    };
    check(handler, ErrorKind::Timeout, Stage::Body);
}

#[test]
fn a_slow_drip_does_not_stretch_the_timeout() {
    let server = serve(|mut stream, _| {
        read_request(&mut stream).expect("a request");
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n").expect("written");
        while stream.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let timeout = Duration::from_millis(300);
    let config = Config { new: 1, timeout, max_requests: Some(1), ..Config::new(server.address) };
    let (summary, attempts) = run_logged(config);
    assert_eq!(summary.total.by_error.get(&ErrorKind::Timeout), Some(&1));
    let took = Duration::from_nanos(attempts[0].end_ns - attempts[0].t_ns);
    assert!(took >= timeout, "{took:?}");
    assert!(took < timeout * 10, "{took:?}: the bound is on the whole request");
}

#[test]
fn what_is_not_http_is_a_bad_response() {
    check(|stream| answer_and_close(stream, b"SSH-2.0-OpenSSH\r\n"), ErrorKind::BadResponse, Stage::Body);
}

#[test]
fn a_closed_port_refuses_and_the_log_names_the_source() {
    let (_socket, address) = bound();
    let config = Config { keepalive: 1, new: 1, max_requests: Some(20), ..Config::new(address) };
    let (summary, attempts) = run_logged(config);
    assert_eq!(summary.total.by_error.get(&ErrorKind::ConnectRefused), Some(&20));
    assert_eq!(summary.total.connections, 0);
    assert!(attempts.iter().all(|attempt| attempt.stage == Some(Stage::Connect) && attempt.sent == 0));
    assert!(attempts.iter().all(|attempt| attempt.errno == Some(Errno::ECONNREFUSED as i32)));
    let mut locals: Vec<_> = attempts.iter().map(|attempt| attempt.local).collect();
    assert!(locals.iter().all(|local| local.ip() == address.ip() && local.port() != 0));
    locals.sort_unstable();
    locals.dedup();
    assert_eq!(locals.len(), 20, "every attempt has its own port");
}

#[test]
fn a_full_accept_queue_is_a_connect_timeout() {
    let (socket, address) = bound();
    listen(&socket, Backlog::new(0).expect("a valid backlog")).expect("listening");
    // A queue of length 0 holds one connection; the next SYN is dropped.
    let _queued = TcpStream::connect(address).expect("queued");
    let connect_timeout = Duration::from_millis(200);
    let config = Config { new: 1, connect_timeout, max_requests: Some(2), ..Config::new(address) };
    let (summary, attempts) = run_logged(config);
    assert_eq!(summary.total.by_error.get(&ErrorKind::ConnectTimeout), Some(&2));
    assert!(attempts.iter().all(|attempt| attempt.end_ns - attempt.t_ns >= 190_000_000), "{attempts:?}");
}

#[test]
fn a_client_that_looks_loses_nothing_and_a_blind_one_loses_one_request_a_connection() {
    for (blind, ok, failed, connections, found_closed) in [(false, 100, 0, 34, 33), (true, 75, 25, 25, 0)] {
        let server = serve(|mut stream, _| {
            for _ in 0..2 {
                read_request(&mut stream).expect("a request");
                stream.write_all(OK).expect("the client reads");
            }
            read_request(&mut stream).expect("a request");
            answer_and_close(stream, OK);
        });
        let config = Config { keepalive: 1, blind, max_requests: Some(100), ..Config::new(server.address) };
        let (summary, attempts) = run_logged(config);
        let total = &summary.total;
        assert_eq!((total.ok, total.failed), (ok, failed), "blind: {blind}");
        assert_eq!((total.connections, total.found_closed), (connections, found_closed), "blind: {blind}");
        for attempt in &attempts {
            assert_eq!(
                (attempt.error, attempt.stage, attempt.nth),
                (Some(ErrorKind::Eof), Some(Stage::FirstByte), 4)
            );
            assert!(attempt.sent > 0 && attempt.received == 0);
        }
    }
}
