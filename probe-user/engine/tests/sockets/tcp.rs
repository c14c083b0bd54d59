//! The TCP probe.

use std::io::Read as _;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::time::Duration;

use probe_engine::{Handler, HttpGet, Phase, TcpSocket, Verdict};

use crate::server::Server;
use crate::{SECOND, get, probe};

fn tcp(host: &str, port: i32) -> Handler {
    Handler::Tcp(TcpSocket { host: host.to_owned(), port })
}

#[test]
fn the_connection_is_closed_at_once_and_in_order() {
    let (ended, ends) = channel();
    let server = Server::new(move |mut stream| {
        let end = stream.read(&mut [0]).map_err(|error| error.kind());
        // Nobody listens for the connection that ends the server.
        let _unheard = ended.send(end);
    });
    let outcome = probe(tcp("127.0.0.1", i32::from(server.port)), SECOND);
    assert_eq!((outcome.verdict, outcome.output.as_str()), (Verdict::Success, ""));
    assert_eq!(ends.recv().expect("the server saw the end"), Ok(0), "an end, not a reset, and not a byte");
    assert!(outcome.phases.get(Phase::Connect).is_some());
}

#[test]
fn who_does_not_listen_is_named() {
    for (host, port, expected) in [
        ("127.0.0.1", 1, "dial tcp 127.0.0.1:1: connect: connection refused"),
        ("::1", 1, "dial tcp [::1]:1: connect: connection refused"),
        ("", 1, "dial tcp :1: connect: connection refused"),
        ("127.0.0.1", -1, "dial tcp: address -1: invalid port"),
        ("127.0.0.1", 65_536, "dial tcp: address 65536: invalid port"),
        ("no.such.invalid", 1, "dial tcp: lookup no.such.invalid: no such host"),
    ] {
        let outcome = probe(tcp(host, port), 5 * SECOND);
        assert_eq!((outcome.verdict, outcome.output.as_str()), (Verdict::Failure, expected));
    }
}

#[test]
fn ipv6_has_brackets_where_it_needs_them() {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    let outcome = probe(tcp("::1", i32::from(port)), SECOND);
    assert_eq!(outcome.verdict, Verdict::Success);
    drop(listener);
    let outcome = probe(Handler::Http(HttpGet { host: "::1".to_owned(), ..get(port) }), SECOND);
    let expected =
        format!("Get \"http://[::1]:{port}/\": dial tcp [::1]:{port}: connect: connection refused");
    assert_eq!((outcome.verdict, outcome.output), (Verdict::Failure, expected));
}

/// A listener whose accept queue is full, and what fills it.
fn full_listener() -> (TcpListener, Vec<TcpStream>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
    // A smaller queue, so that few connections fill it; one more than asked for fits.
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).expect("a backlog"))
        .expect("still listens");
    let address = listener.local_addr().expect("an address");
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        waiting.push(stream);
        assert!(waiting.len() < 16, "the queue is full at some time");
    }
    (listener, waiting)
}

#[test]
fn a_full_accept_queue_is_a_timeout_of_the_connect() {
    let (listener, _waiting) = full_listener();
    let port = listener.local_addr().expect("an address").port();
    let timeout = Duration::from_millis(400);
    let outcome = probe(tcp("127.0.0.1", i32::from(port)), timeout);
    assert_eq!(outcome.output, format!("dial tcp 127.0.0.1:{port}: i/o timeout"));
    assert_eq!((outcome.verdict, outcome.timed_out_in), (Verdict::Failure, Some(Phase::Connect)));
    assert!(outcome.duration < timeout + SECOND);
    let outcome = probe(Handler::Http(get(port)), timeout);
    let why = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
    assert_eq!(outcome.output, format!("Get \"http://127.0.0.1:{port}/\": {why}"));
    assert_eq!((outcome.verdict, outcome.timed_out_in), (Verdict::Failure, Some(Phase::Connect)));
}
