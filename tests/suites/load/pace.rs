//! Clients that send several requests at once, or that read and write slowly.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use world::load::{Config, ErrorKind, Stage};

use crate::run_logged;
use crate::server::{OK, answer_and_close, read_request, reset, serve};

/// Reads until so many heads have come; gives how many reads that took, and `None` at the end of the connection.
fn read_heads(stream: &mut TcpStream, count: usize) -> Option<usize> {
    let (mut text, mut reads) = (Vec::new(), 0);
    while text.windows(4).filter(|window| window == b"\r\n\r\n").count() < count {
        let mut piece = [0; 4096];
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(length) => text.extend_from_slice(&piece[..length]),
        }
        reads += 1;
    }
    Some(reads)
}

#[test]
fn requests_at_once_are_answered_one_by_one() {
    for together in [false, true] {
        let server = serve(move |mut stream, _| {
            while let Some(reads) = read_heads(&mut stream, 4) {
                assert_eq!(reads, 1, "the four came in one piece");
                if together {
                    stream.write_all(&OK.repeat(4)).expect("the client reads");
                } else {
                    stream.set_nodelay(true).expect("a valid option");
                    (0..4).for_each(|_| stream.write_all(OK).expect("the client reads"));
                }
            }
        });
        let config = Config {
            keepalive: 1,
            pipeline: 4,
            max_requests: Some(40),
            log_all: true,
            ..Config::new(server.address)
        };
        let (summary, attempts) = run_logged(config);
        assert_eq!((summary.total.ok, summary.total.failed, summary.total.connections), (40, 0, 1));
        assert_eq!(summary.total.received, 40 * u64::try_from(OK.len()).expect("fits"));
        assert!(attempts.iter().map(|attempt| attempt.nth).eq(1..=40), "{attempts:?}");
    }
}

#[test]
fn a_lost_connection_loses_every_request_that_was_sent_and_not_answered() {
    const TRUNCATED: &[u8] =
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok";
    let (eof, reset_first) = ((ErrorKind::Eof, Stage::FirstByte), (ErrorKind::Reset, Stage::FirstByte));
    for (name, last, expected) in [
        ("closed", (|stream| answer_and_close(stream, OK)) as fn(TcpStream), vec![eof; 3]),
        (
            "truncated",
            |stream| answer_and_close(stream, TRUNCATED),
            vec![(ErrorKind::Truncated, Stage::Body), eof, eof],
        ),
        ("reset", reset, vec![reset_first; 4]),
    ] {
        let server = serve(move |mut stream, _| {
            read_heads(&mut stream, 4).expect("four requests");
            stream.write_all(&OK.repeat(4)).expect("the client reads");
            read_heads(&mut stream, 4).expect("four requests");
            last(stream);
        });
        let config =
            Config { keepalive: 1, pipeline: 4, max_requests: Some(8), ..Config::new(server.address) };
        let (summary, attempts) = run_logged(config);
        assert_eq!(summary.total.connections, 1, "{name}");
        let seen: Vec<_> = attempts
            .iter()
            .map(|attempt| (attempt.error.expect("it failed"), attempt.stage.expect("somewhere")))
            .collect();
        assert_eq!(seen, expected, "{name}");
        assert!(
            attempts.iter().rev().map(|attempt| attempt.nth).eq((1..=8).rev().take(seen.len())),
            "{name}"
        );
    }
}

#[test]
fn the_last_turn_sends_no_more_than_may_be_sent() {
    let server = serve(|mut stream, _| {
        while read_heads(&mut stream, 1).is_some() {
            stream.write_all(&OK.repeat(4)).expect("the client reads");
        }
    });
    let config = Config { keepalive: 1, pipeline: 4, max_requests: Some(6), ..Config::new(server.address) };
    let (summary, _) = run_logged(config);
    // Two of the last four answers are to nothing.
    assert_eq!((summary.total.ok, summary.total.failed, summary.total.connections), (6, 0, 1));
}

#[test]
fn a_refused_connect_is_one_attempt_however_many_requests_it_was_for() {
    let address = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("an address")
    };
    let config = Config { keepalive: 1, pipeline: 4, max_requests: Some(3), ..Config::new(address) };
    let (summary, _) = run_logged(config);
    assert_eq!(summary.total.by_error.get(&ErrorKind::ConnectRefused), Some(&3));
    assert_eq!(summary.total.requests, 3);
}

#[test]
fn a_slow_reader_takes_the_time_that_its_rate_says() {
    let size = 40_000;
    let server = serve(move |mut stream, _| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n");
        while read_request(&mut stream).is_some() {
            stream.write_all(head.as_bytes()).expect("written");
            stream.write_all(&vec![b'x'; size]).expect("written");
        }
    });
    let config = Config {
        keepalive: 1,
        read_rate: Some(100_000),
        max_requests: Some(2),
        log_all: true,
        ..Config::new(server.address)
    };
    let (summary, attempts) = run_logged(config);
    assert_eq!((summary.total.ok, summary.total.connections), (2, 1));
    for attempt in attempts {
        // Its first piece it takes at once.
        let took = Duration::from_nanos(attempt.end_ns - attempt.t_ns);
        assert!(took >= Duration::from_millis(300), "{took:?}");
    }
}

#[test]
fn a_slow_reader_gives_up_in_time() {
    let server = serve(|mut stream, _| {
        read_request(&mut stream).expect("a request");
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n").expect("written");
        drop(stream.write_all(&[b'x'; 100_000]));
        drop(read_request(&mut stream));
    });
    let timeout = Duration::from_millis(300);
    let config = Config {
        new: 1,
        read_rate: Some(1000),
        timeout,
        max_requests: Some(1),
        ..Config::new(server.address)
    };
    let (summary, attempts) = run_logged(config);
    assert_eq!(summary.total.by_error.get(&ErrorKind::Timeout), Some(&1));
    let [attempt] = &attempts[..] else { panic!("{attempts:?}") };
    assert_eq!(attempt.stage, Some(Stage::Body));
    let took = Duration::from_nanos(attempt.end_ns - attempt.t_ns);
    assert!(took >= timeout && took < timeout * 10, "{took:?}");
}

#[test]
fn a_slow_or_late_request_takes_its_time_and_is_whole() {
    for (name, write_rate, body_delay) in
        [("slow", Some(1000), Duration::ZERO), ("late", None, Duration::from_millis(300))]
    {
        let server = serve(|mut stream, _| {
            while let Some(request) = read_request(&mut stream) {
                let (_, body) = request.split_once("\r\n\r\n").expect("a head");
                assert_eq!(body.len(), 300);
                stream.write_all(OK).expect("the client reads");
            }
        });
        let config = Config {
            keepalive: 1,
            body: 300,
            write_rate,
            body_delay,
            max_requests: Some(2),
            log_all: true,
            ..Config::new(server.address)
        };
        let (summary, attempts) = run_logged(config);
        assert_eq!((summary.total.ok, summary.total.connections), (2, 1), "{name}");
        for attempt in attempts {
            // Head and body are more than 300 bytes: the fourth piece is due after 300 ms.
            let took = Duration::from_nanos(attempt.end_ns - attempt.t_ns);
            assert!(took >= Duration::from_millis(300), "{name}: {took:?}");
        }
    }
}

#[test]
fn a_slow_writer_whose_server_leaves_loses_one_request() {
    let server = serve(|mut stream, _| {
        assert!(stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0));
        reset(stream);
    });
    let config =
        Config { new: 1, write_rate: Some(200), max_requests: Some(3), ..Config::new(server.address) };
    let (summary, attempts) = run_logged(config);
    assert_eq!((summary.total.ok, summary.total.failed, summary.total.connections), (0, 3, 3));
    for attempt in attempts {
        let error = attempt.error.expect("it failed");
        assert!(matches!(error, ErrorKind::Reset | ErrorKind::SendError), "{error:?}");
        assert!((20..50).contains(&attempt.sent), "{attempt:?}");
    }
}
