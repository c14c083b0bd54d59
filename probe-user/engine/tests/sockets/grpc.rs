//! The gRPC probe, and HTTPS by HTTP/2.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use h2::Reason;
use probe_engine::{Grpc, Handler, HttpGet, Outcome, Phase, Scheme, Verdict};

use crate::http2_server::{Habit, Http2Server};
use crate::server::{Server, finish, gone, head, send};
use crate::{SECOND, get, probe};

fn failed(outcome: &Outcome, expected: &str) {
    assert_eq!((outcome.verdict, outcome.output.as_str()), (Verdict::Failure, expected), "{outcome:?}");
}

#[test]
fn a_server_that_serves_is_asked_for_its_service() {
    let server = Http2Server::new(Habit::Message(&[8, 1]), None);
    for service in ["", "shop.Cart"] {
        let outcome = probe(server.grpc(service, false), 5 * SECOND);
        assert_eq!((outcome.verdict, outcome.output.as_str()), (Verdict::Success, "service healthy"));
        assert_eq!((outcome.protocol, outcome.cause), (Some("HTTP/2.0"), None));
        let request = server.requests.recv().expect("a request");
        assert_eq!(
            (request.method().as_str(), request.uri().path()),
            ("POST", "/grpc.health.v1.Health/Check")
        );
        assert_eq!(
            request.uri().authority().map(|a| a.as_str().to_owned()),
            Some(format!("127.0.0.1:{}", server.port))
        );
        let header =
            |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).expect("a header");
        assert_eq!(header("user-agent"), "kube-probe/1.36");
        assert_eq!((header("content-type"), header("te")), ("application/grpc", "trailers"));
        assert!(header("grpc-timeout").ends_with('u'));
    }
}

#[test]
fn what_the_server_says_is_told_in_the_kubelets_words() {
    for (habit, expected) in [
        (Habit::Message(&[8, 2]), "service unhealthy (responded with \"NOT_SERVING\")"),
        (Habit::Message(&[8, 3]), "service unhealthy (responded with \"SERVICE_UNKNOWN\")"),
        (Habit::Message(&[]), "service unhealthy (responded with \"UNKNOWN\")"),
        (Habit::Message(&[8, 9]), "service unhealthy (responded with \"9\")"),
        (
            Habit::Status(12, "unknown service grpc.health.v1.Health"),
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): \
             unknown service grpc.health.v1.Health",
        ),
        (
            Habit::Status(5, "unknown%20service"),
            "error: health rpc probe failed: rpc error: code = NotFound desc = unknown service",
        ),
        (Habit::Status(4, "late"), "timeout: health rpc did not complete within 5s"),
        (Habit::Status(99, "x"), "error: health rpc probe failed: rpc error: code = Code(99) desc = x"),
        (
            Habit::Status(0, ""),
            "error: health rpc probe failed: rpc error: code = Internal desc = cardinality violation: received no \
             response message from non-server-streaming RPC",
        ),
        (
            Habit::MessageAndStatus(14),
            "error: health rpc probe failed: rpc error: code = Unavailable desc = late",
        ),
        (
            Habit::Http(404, "text/plain"),
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): unexpected HTTP \
             status code received from server: 404 (Not Found); transport: received unexpected content-type \"text/plain\"",
        ),
        (
            Habit::Http(200, "text/html"),
            "error: health rpc probe failed: rpc error: code = Unknown desc = unexpected HTTP status code received from \
             server: 200 (OK); transport: received unexpected content-type \"text/html\"",
        ),
        (
            Habit::NoTrailers,
            "error: health rpc probe failed: rpc error: code = Internal desc = server closed the stream without sending \
             trailers",
        ),
    ] {
        let server = Http2Server::new(habit, None);
        failed(&probe(server.grpc("", false), 5 * SECOND), expected);
    }
    let server = Http2Server::new(Habit::Reset(Reason::REFUSED_STREAM), None);
    let why = "code = Unavailable desc = stream terminated by RST_STREAM with error code: REFUSED_STREAM";
    failed(
        &probe(server.grpc("", false), 5 * SECOND),
        &format!("error: health rpc probe failed: rpc error: {why}"),
    );
}

#[test]
fn a_message_that_is_none_or_too_long_is_a_failure() {
    for (message, expected) in [
        (&[8][..], "code = Internal desc = grpc: failed to unmarshal the received message"),
        (
            &[0; 70_000],
            "code = ResourceExhausted desc = grpc: received message larger than max (70000 vs. 65536)",
        ),
    ] {
        let server = Http2Server::new(Habit::Message(message), None);
        let outcome = probe(server.grpc("", false), 5 * SECOND);
        assert_eq!(outcome.verdict, Verdict::Failure);
        assert!(outcome.output.contains(expected), "{}", outcome.output);
    }
}

#[test]
fn a_call_that_is_not_answered_is_a_timeout_of_the_call() {
    let server = Http2Server::new(Habit::Silence, None);
    let outcome = probe(server.grpc("", false), Duration::from_millis(500));
    failed(&outcome, "timeout: health rpc did not complete within 500ms");
    assert_eq!(outcome.timed_out_in, Some(Phase::FirstByte));
    assert!(outcome.duration < 2 * SECOND);
}

#[test]
fn a_server_that_keeps_to_the_timeout_makes_no_other_verdict() {
    let server = Http2Server::new(Habit::KeepsTheTimeout, None);
    for _ in 0..10 {
        let outcome = probe(server.grpc("", false), Duration::from_millis(150));
        failed(&outcome, "timeout: health rpc did not complete within 150ms");
    }
}

#[test]
fn what_does_not_speak_http2_is_a_timeout_whose_cause_is_told() {
    let silent = Server::new(|mut stream| gone(&mut stream));
    let http1 = Server::answering("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    let closing = Server::new(|mut stream| {
        head(&mut stream);
        finish(&mut stream);
    });
    let garbage = Server::new(|mut stream| {
        send(&mut stream, &[0xff; 4096]);
        finish(&mut stream);
    });
    for (server, cause) in [
        (&silent, None),
        (&http1, Some("the server does not speak HTTP/2")),
        (&closing, Some("the server does not speak HTTP/2")),
        (&garbage, Some("the server does not speak HTTP/2")),
    ] {
        let handler = Handler::Grpc(Grpc {
            host: "127.0.0.1".to_owned(),
            port: server.port,
            service: String::new(),
            tls: false,
        });
        let outcome = probe(handler, Duration::from_millis(600));
        let address = format!("127.0.0.1:{}", server.port);
        failed(
            &outcome,
            &format!(
                "timeout: failed to connect service \"{address}\" within 600ms: context deadline exceeded"
            ),
        );
        assert_eq!(outcome.cause.is_some(), cause.is_some(), "{outcome:?}");
        assert!(outcome.cause.unwrap_or_default().starts_with(cause.unwrap_or_default()));
    }
}

#[test]
fn refused_looks_like_a_timeout_and_the_next_dial_may_succeed() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
    let address = listener.local_addr().expect("an address");
    drop(listener);
    let handler = Handler::Grpc(Grpc {
        host: "127.0.0.1".to_owned(),
        port: address.port(),
        service: String::new(),
        tls: false,
    });
    let outcome = probe(handler.clone(), Duration::from_millis(300));
    failed(
        &outcome,
        &format!("timeout: failed to connect service \"{address}\" within 300ms: context deadline exceeded"),
    );
    assert_eq!(outcome.cause, Some(format!("dial tcp {address}: connect: connection refused")));
    assert_eq!(outcome.timed_out_in, None);
    // From here on somebody listens, but only after the first dial of the next probe was refused.
    let probing = std::thread::spawn(move || probe(handler, 10 * SECOND));
    std::thread::sleep(Duration::from_millis(300));
    let server = Http2Server::on(bind_again(address), Habit::Message(&[8, 1]), None);
    let outcome = probing.join().expect("a probe");
    assert_eq!((outcome.verdict, outcome.cause), (Verdict::Success, None));
    assert!(outcome.duration >= SECOND, "after the backoff: {:?}", outcome.duration);
    drop(server);
}

fn bind_again(address: SocketAddr) -> TcpListener {
    TcpListener::bind(address).expect("the port that was ours")
}

#[test]
fn tls_and_plaintext_do_not_mix() {
    let secure = Http2Server::new(Habit::Message(&[8, 1]), Some(&["h2"]));
    let outcome = probe(secure.grpc("", true), 5 * SECOND);
    assert_eq!(
        (outcome.verdict, outcome.output.as_str()),
        (Verdict::Success, "service healthy"),
        "{outcome:?}"
    );
    assert!(outcome.phases.get(Phase::Tls).is_some());
    let timeout = Duration::from_millis(500);
    let connect = |port| {
        format!(
            "timeout: failed to connect service \"127.0.0.1:{port}\" within 500ms: context deadline exceeded"
        )
    };
    failed(&probe(secure.grpc("", false), timeout), &connect(secure.port));
    let plain = Http2Server::new(Habit::Message(&[8, 1]), None);
    let outcome = probe(plain.grpc("", true), timeout);
    failed(&outcome, &connect(plain.port));
    assert_eq!(outcome.cause.as_deref(), Some("tls: first record does not look like a TLS handshake"));
}

#[test]
fn https_speaks_http2_where_the_server_does() {
    for (habit, verdict, output) in [
        (Habit::Body(200, 10_241), Verdict::Success, "a".repeat(10_240)),
        (Habit::Body(503, 3), Verdict::Failure, "HTTP probe failed with statuscode: 503".to_owned()),
        (Habit::Body(304, 0), Verdict::Warning, "Probe terminated redirects, Response body: ".to_owned()),
    ] {
        let server = Http2Server::new(habit, Some(&["h2", "http/1.1"]));
        let headers =
            vec![("Host".to_owned(), "shop.example".to_owned()), ("X-A".to_owned(), "b".to_owned())];
        let handler = Handler::Http(HttpGet { scheme: Scheme::Https, headers, ..get(server.port) });
        let outcome = probe(handler, 5 * SECOND);
        assert_eq!((outcome.verdict, outcome.output.clone()), (verdict, output), "{outcome:?}");
        assert_eq!(outcome.protocol, Some("HTTP/2.0"));
        let request = server.requests.recv().expect("a request");
        assert_eq!(request.uri().to_string(), "https://shop.example/");
        let mut names: Vec<&str> = request.headers().keys().map(|name| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "user-agent", "x-a"]);
    }
}

#[test]
fn http2_in_the_clear_is_spoken_where_the_spec_asks_for_it() {
    let server = Http2Server::new(Habit::Body(200, 3), None);
    let outcome = probe(Handler::Http(HttpGet { h2c: true, ..get(server.port) }), 5 * SECOND);
    assert_eq!((outcome.verdict, outcome.output.as_str()), (Verdict::Success, "aaa"), "{outcome:?}");
    assert_eq!(outcome.protocol, Some("HTTP/2.0"));
    let request = server.requests.recv().expect("a request");
    assert_eq!(request.uri().to_string(), format!("http://127.0.0.1:{}/", server.port));
    let http1 = Server::answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let outcome = probe(Handler::Http(HttpGet { h2c: true, ..get(http1.port) }), 5 * SECOND);
    assert_eq!(outcome.verdict, Verdict::Failure, "{outcome:?}");
}

#[test]
fn a_stream_that_stalls_or_is_reset_says_so() {
    let server = Http2Server::new(Habit::Silence, Some(&["h2"]));
    let handler = Handler::Http(HttpGet { scheme: Scheme::Https, ..get(server.port) });
    let outcome = probe(handler.clone(), Duration::from_millis(500));
    let why = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
    failed(&outcome, &format!("Get \"https://127.0.0.1:{}/\": {why}", server.port));
    let server = Http2Server::new(Habit::Reset(Reason::INTERNAL_ERROR), Some(&["h2"]));
    let outcome = probe(Handler::Http(HttpGet { scheme: Scheme::Https, ..get(server.port) }), SECOND);
    assert_eq!(outcome.verdict, Verdict::Failure);
    assert!(
        outcome.output.ends_with("stream error: stream ID 1; INTERNAL_ERROR; received from peer"),
        "{outcome:?}"
    );
}
