//! What counts as an answer, and when a connection is kept.

use std::io::{Read as _, Write as _};

use world::load::{ClientKind, Config};

use crate::run_logged;
use crate::server::{OK, answer_all, answer_and_close, read_request, serve, serve_on};

#[test]
fn one_connection_serves_a_keepalive_client_and_one_each_the_others() {
    let server = serve(|stream, _| answer_all(stream, OK));
    let config = Config { keepalive: 1, max_requests: Some(100), ..Config::new(server.address) };
    let (summary, _) = run_logged(config);
    assert_eq!((summary.total.ok, summary.total.failed, summary.total.connections), (100, 0, 1));
    assert_eq!(summary.keepalive, summary.total);
    assert_eq!(summary.total.received, 100 * u64::try_from(OK.len()).expect("fits"));

    let config = Config { new: 2, max_requests: Some(100), log_all: true, ..Config::new(server.address) };
    let (summary, attempts) = run_logged(config);
    assert_eq!((summary.new.ok, summary.new.connections, summary.keepalive.requests), (100, 100, 0));
    assert_eq!(attempts.len(), 100);
    let mut locals: Vec<_> = attempts.iter().map(|attempt| attempt.local).collect();
    let mut peers = server.peers().split_off(1);
    locals.sort_unstable();
    peers.sort_unstable();
    assert_eq!(locals, peers, "the log names each connection as the server saw it");
    for attempt in attempts {
        assert_eq!((attempt.nth, attempt.kind, attempt.status), (1, ClientKind::New, Some(200)));
        assert!(attempt.start_ns <= attempt.t_ns && attempt.t_ns < attempt.end_ns);
        assert_eq!(attempt.remote, server.address);
    }
}

#[test]
fn every_complete_response_is_an_answer() {
    for (status, response) in [
        (500, "HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n"),
        (503, "HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nsorry\r\n0\r\n\r\n"),
        (204, "HTTP/1.1 204 None\r\n\r\n"),
        (200, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    ] {
        let server = serve(move |stream, _| answer_all(stream, response.as_bytes()));
        let config = Config { keepalive: 1, max_requests: Some(10), ..Config::new(server.address) };
        let (summary, _) = run_logged(config);
        assert_eq!((summary.total.ok, summary.total.connections), (10, 1), "{response:?}");
        assert_eq!(summary.total.by_status.get(&status), Some(&10), "{response:?}");
    }
}

#[test]
fn a_response_may_come_byte_by_byte() {
    let response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let server = serve(move |mut stream, _| {
        stream.set_nodelay(true).expect("a valid option");
        while read_request(&mut stream).is_some() {
            response.iter().for_each(|byte| stream.write_all(&[*byte]).expect("the client reads on"));
        }
    });
    let config = Config { keepalive: 1, max_requests: Some(5), ..Config::new(server.address) };
    let (summary, _) = run_logged(config);
    assert_eq!((summary.total.ok, summary.total.connections), (5, 1));
}

#[test]
fn a_response_that_ends_the_connection_costs_no_request() {
    for response in [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\n\r\nuntil the end",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ] {
        for blind in [false, true] {
            let server = serve(move |mut stream, _| {
                read_request(&mut stream).expect("a request");
                answer_and_close(stream, response.as_bytes());
            });
            let config =
                Config { keepalive: 1, blind, max_requests: Some(10), ..Config::new(server.address) };
            let (summary, _) = run_logged(config);
            let total = &summary.total;
            assert_eq!(
                (total.ok, total.connections, total.found_closed),
                (10, 10, 0),
                "{response:?} blind: {blind}"
            );
        }
    }
}

#[test]
fn a_body_is_sent_whole() {
    let size = 1_000_000;
    let server = serve(move |mut stream, _| {
        while let Some(request) = read_request(&mut stream) {
            let (head, body) = request.split_once("\r\n\r\n").expect("a head");
            let right = head.starts_with("POST /upload HTTP/1.1\r\n") && body.len() == size;
            let response: &[u8] = if right { OK } else { b"HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n" };
            stream.write_all(response).expect("the client reads");
        }
    });
    let path = "/upload".to_owned();
    let config = Config {
        keepalive: 1,
        path,
        body: size,
        max_requests: Some(3),
        log_all: true,
        ..Config::new(server.address)
    };
    let (summary, attempts) = run_logged(config);
    assert_eq!(summary.total.by_status.get(&200), Some(&3), "{summary:?}");
    assert!(attempts.iter().all(|attempt| attempt.sent > 1_000_000));
}

#[test]
fn redis_is_asked_and_answers_in_its_own_words() {
    for (redis, question, answer, status) in [
        (0, &b"*1\r\n$4\r\nPING\r\n"[..], &b"+PONG\r\n"[..], 200),
        (2, b"*3\r\n$5\r\nBLPOP\r\n$5\r\nempty\r\n$1\r\n2\r\n", b"*-1\r\n", 200),
        (0, b"*1\r\n$4\r\nPING\r\n", b"-LOADING it is\r\n", 500),
    ] {
        let server = serve(move |mut stream, _| {
            let mut asked = vec![0; question.len()];
            while stream.read_exact(&mut asked).is_ok() {
                assert_eq!(asked, question);
                stream.write_all(answer).expect("the client reads");
            }
        });
        let config =
            Config { keepalive: 1, redis: Some(redis), max_requests: Some(5), ..Config::new(server.address) };
        let (summary, _) = run_logged(config);
        assert_eq!((summary.total.ok, summary.total.connections), (5, 1));
        assert_eq!(summary.total.by_status.get(&status), Some(&5));
    }
}

#[test]
fn ipv6_works_the_same() {
    let server = serve_on("[::1]:0", |stream, _| answer_all(stream, OK));
    let config = Config { keepalive: 1, new: 1, max_requests: Some(20), ..Config::new(server.address) };
    let (summary, _) = run_logged(config);
    assert_eq!((summary.total.ok, summary.total.failed), (20, 0));
}
