//! The HTTP probe against servers that behave.

use std::net::TcpStream;
use std::sync::mpsc::channel;
use std::time::Duration;

use probe_engine::{Handler, HttpGet, Phase, Verdict};

use crate::server::{Server, finish, head, send};
use crate::{SECOND, get, probe};

/// Sends the request back as the body.
fn echo(mut stream: TcpStream) {
    let request = head(&mut stream);
    send(&mut stream, format!("HTTP/1.1 200 OK\r\n\r\n{request}").as_bytes());
    finish(&mut stream);
}

#[test]
fn the_request_is_the_kubelets_byte_for_byte() {
    let server = Server::new(echo);
    let port = server.port;
    let outcome = probe(Handler::Http(get(port)), SECOND);
    let expected = format!(
        "GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUser-Agent: kube-probe/1.36\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    assert_eq!((outcome.verdict, outcome.output), (Verdict::Success, expected));
    assert_eq!((outcome.status, outcome.protocol, outcome.attempts), (Some(200), Some("HTTP/1.1"), 1));
    assert_eq!(outcome.peer.map(|peer| peer.port()), Some(port));
}

#[test]
fn the_phases_say_where_the_time_went() {
    let server = Server::new(|mut stream| {
        head(&mut stream);
        std::thread::sleep(Duration::from_millis(120));
        send(&mut stream, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n");
        std::thread::sleep(Duration::from_millis(60));
        send(&mut stream, b"ok");
        finish(&mut stream);
    });
    let outcome =
        probe(Handler::Http(HttpGet { host: "localhost".to_owned(), ..get(server.port) }), 5 * SECOND);
    assert_eq!((outcome.verdict, outcome.output.as_str()), (Verdict::Success, "ok"));
    let phase = |phase| outcome.phases.get(phase).expect("there was such a phase");
    assert!(phase(Phase::FirstByte) >= Duration::from_millis(120));
    // On a busy machine the first byte is seen late, and the body takes what is left.
    assert!(phase(Phase::FirstByte) + phase(Phase::Body) >= Duration::from_millis(180));
    assert_eq!(outcome.phases.get(Phase::Tls), None);
    let sum: Duration = Phase::ALL.into_iter().filter_map(|phase| outcome.phases.get(phase)).sum();
    assert!(phase(Phase::Resolve) > Duration::ZERO && phase(Phase::Connect) > Duration::ZERO);
    assert!(sum <= outcome.duration);
}

#[test]
fn redirects_have_connections_of_their_own_and_say_where_they_come_from() {
    let server = Server::new(|mut stream| {
        let request = head(&mut stream);
        match request.starts_with("GET /echo") {
            true => drop(send(&mut stream, format!("HTTP/1.1 200 OK\r\n\r\n{request}").as_bytes())),
            false => drop(send(&mut stream, b"HTTP/1.1 302 Found\r\nLocation: /echo?a=b#c\r\n\r\n")),
        }
        finish(&mut stream);
    });
    let port = server.port;
    let headers = vec![("host".to_owned(), "shop.example".to_owned())];
    let outcome = probe(Handler::Http(HttpGet { headers, ..get(port) }), SECOND);
    let expected = format!(
        "GET /echo?a=b HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: kube-probe/1.36\r\nAccept: */*\r\n\
         Referer: http://127.0.0.1:{port}/\r\nConnection: close\r\n\r\n"
    );
    assert_eq!((outcome.verdict, outcome.output), (Verdict::Success, expected));
    assert_eq!(outcome.redirects, [format!("http://127.0.0.1:{port}/echo?a=b#c")]);
    assert_eq!(server.connections(), 2);
}

#[test]
fn an_absolute_redirect_has_the_host_of_its_url() {
    let server = Server::new(|mut stream| {
        let port = stream.local_addr().expect("an address").port();
        let request = head(&mut stream);
        match request.starts_with("GET /echo") {
            true => drop(send(&mut stream, format!("HTTP/1.1 200 OK\r\n\r\n{request}").as_bytes())),
            false => drop(send(
                &mut stream,
                format!("HTTP/1.1 307 X\r\nLocation: http://127.0.0.1:{port}/echo\r\n\r\n").as_bytes(),
            )),
        }
        finish(&mut stream);
    });
    let port = server.port;
    let headers = vec![("Host".to_owned(), "shop.example".to_owned())];
    let outcome = probe(Handler::Http(HttpGet { headers, ..get(port) }), SECOND);
    assert!(outcome.output.contains(&format!("\r\nHost: 127.0.0.1:{port}\r\n")), "{}", outcome.output);
}

#[test]
fn a_redirect_to_another_host_is_a_warning_and_nobody_is_asked() {
    let (asked, asks) = channel();
    let other = Server::new(move |mut stream| {
        // The connection that ends the server sends nothing.
        if !head(&mut stream).is_empty() {
            asked.send(()).expect("the test listens");
        }
    });
    let location = format!("http://localhost:{}/", other.port);
    let answer = format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 4\r\n\r\nelse");
    let server = Server::answering(answer);
    let outcome = probe(Handler::Http(get(server.port)), SECOND);
    assert_eq!(outcome.verdict, Verdict::Warning);
    assert_eq!(outcome.output, "Probe terminated redirects, Response body: else");
    assert_eq!((outcome.status, outcome.redirects.len()), (Some(302), 0));
    drop(other);
    assert!(asks.recv().is_err());
}

#[test]
fn a_body_is_cut_at_ten_kibibytes_and_the_rest_is_not_waited_for() {
    let server = Server::new(|mut stream| {
        head(&mut stream);
        send(&mut stream, b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
        send(&mut stream, &[b'a'; 10_241]);
        // Nothing more: only the client's leaving ends this.
        crate::server::gone(&mut stream);
    });
    let outcome = probe(Handler::Http(get(server.port)), 5 * SECOND);
    assert_eq!((outcome.verdict, outcome.output.len()), (Verdict::Success, 10_240));
    assert!(outcome.duration < SECOND);
}

#[test]
fn answers_are_taken_as_go_takes_them() {
    for (answer, verdict, output) in [
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3;x=y\r\ncde\r\n0\r\nX: y\r\n\r\n",
            Verdict::Success,
            "abcde",
        ),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\nyes", Verdict::Success, "yes"),
        ("HTTP/1.1 200\r\n\r\nok", Verdict::Success, "ok"),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok", Verdict::Success, "ok"),
        ("HTTP/2.0 200 OK\r\n\r\nok", Verdict::Success, "ok"),
        ("HTTP/1.1 200 OK\nX: a\n\nok", Verdict::Success, "ok"),
        ("HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\nok", Verdict::Success, "ok"),
        (
            "HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 2\r\ncontent-length: 2\r\n\r\nokay",
            Verdict::Success,
            "ok",
        ),
        ("HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n", Verdict::Success, ""),
        ("HTTP/1.1 299 X\r\n\r\nok", Verdict::Success, "ok"),
        ("HTTP/1.1 300 X\r\n\r\nmany", Verdict::Warning, "Probe terminated redirects, Response body: many"),
        (
            "HTTP/1.1 302 X\r\n\r\nnowhere",
            Verdict::Warning,
            "Probe terminated redirects, Response body: nowhere",
        ),
        (
            "HTTP/1.1 304 X\r\nLocation: /new\r\n\r\n",
            Verdict::Warning,
            "Probe terminated redirects, Response body: ",
        ),
        ("HTTP/1.1 101 X\r\n\r\n", Verdict::Failure, "HTTP probe failed with statuscode: 101"),
        ("HTTP/1.1 404 X\r\n\r\nsecret", Verdict::Failure, "HTTP probe failed with statuscode: 404"),
        ("HTTP/1.1 600 X\r\n\r\n", Verdict::Failure, "HTTP probe failed with statuscode: 600"),
        ("HTTP/1.1 000 X\r\n\r\n", Verdict::Failure, "HTTP probe failed with statuscode: 0"),
    ] {
        let server = Server::answering(answer);
        let outcome = probe(Handler::Http(get(server.port)), SECOND);
        assert_eq!((outcome.verdict, outcome.output.as_str()), (verdict, output), "{answer}");
    }
}
