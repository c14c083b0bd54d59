//! Clients of HTTP/2 and gRPC, against small servers in frames (RFC 9113), each with one habit.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::channel;
use std::time::Duration;

use world::load::{Attempt, Config, ErrorKind, Stage, Summary};

use crate::run_logged;
use crate::server::{answer_and_close, reset, serve};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `:status: 200` by its place in HPACK's table.
const STATUS_200: u8 = 0x88;
const REFUSED_STREAM: u8 = 7;
const INTERNAL_ERROR: u8 = 2;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("a short frame");
    [&[0, 0, length, kind, flags][..], &stream.to_be_bytes(), payload].concat()
}

/// A whole answer.
fn answer(stream: u32) -> Vec<u8> {
    let head = frame(HEADERS, END_HEADERS, stream, &[STATUS_200]);
    [head, frame(DATA, END_STREAM, stream, b"ok")].concat()
}

/// No stream after this one is looked at.
fn go_away(last: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), [0; 4]].concat())
}

/// A server's side of a connection.
struct Peer(TcpStream);

impl Peer {
    /// Reads the preface and sends settings, none.
    fn greet(stream: TcpStream) -> Self {
        let mut peer = Self(stream);
        let mut preface = [0; 24];
        peer.0.read_exact(&mut preface).expect("a preface");
        assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        peer.send(SETTINGS, 0, 0, &[]);
        peer
    }

    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.0.write_all(&frame(kind, flags, stream, payload)).expect("the client reads");
    }

    /// Kind, stream and payload of the next frame; `None` when the client has left, or after the read timeout.
    fn frame(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).ok()?;
        let [high, middle, low, kind, _, stream @ ..] = head;
        let mut payload = vec![0; usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low)];
        self.0.read_exact(&mut payload).ok()?;
        Some((kind, u32::from_be_bytes(stream), payload))
    }

    /// The next stream that the client opens, and its fields.
    fn next(&mut self) -> Option<(u32, Vec<u8>)> {
        loop {
            let (kind, stream, payload) = self.frame()?;
            if kind == HEADERS {
                return Some((stream, payload));
            }
        }
    }

    /// The next `count` streams.
    fn streams(&mut self, count: usize) -> Vec<u32> {
        (0..count).map_while(|_| self.next()).map(|(stream, _)| stream).collect()
    }

    fn answer(&mut self, stream: u32) {
        self.0.write_all(&answer(stream)).expect("the client reads");
    }

    /// A message of nothing, and this status behind it.
    fn answer_grpc(&mut self, stream: u32, status: u8) {
        self.send(HEADERS, END_HEADERS, stream, &[STATUS_200]);
        self.send(DATA, 0, stream, &[0; 5]);
        // A field as it is, by name.
        let field = [&[0, 11][..], b"grpc-status", &[1, b'0' + status]].concat();
        self.send(HEADERS, END_HEADERS | END_STREAM, stream, &field);
    }

    fn reset_stream(&mut self, stream: u32, error: u8) {
        self.send(RST_STREAM, 0, stream, &[0, 0, 0, error]);
    }
}

/// One client with so many streams and so many attempts.
fn config(address: SocketAddr, streams: u32, attempts: u64) -> Config {
    Config { keepalive: 1, streams, max_requests: Some(attempts), ..Config::new(address) }
}

#[test]
fn a_kept_connection_carries_many_requests_and_a_new_one_a_single_one() {
    for (keepalive, new, connections) in [(2, 0, 2), (0, 2, 40)] {
        let server = serve(|stream, _| {
            let mut peer = Peer::greet(stream);
            while let Some((stream, _)) = peer.next() {
                peer.answer(stream);
            }
        });
        let (summary, _) = run_logged(Config { keepalive, new, ..config(server.address, 5, 40) });
        assert_eq!((summary.total.ok, summary.total.connections), (40, connections), "{:?}", summary.total);
        assert_eq!((summary.total.received, summary.total.found_closed), (80, 0));
        assert_eq!(summary.total.by_status.get(&200), Some(&40));
    }
}

#[test]
fn so_many_requests_are_under_way_at_once_and_no_more() {
    let server = serve(|stream, _| {
        let mut peer = Peer::greet(stream);
        let mut held = peer.streams(5);
        peer.0.set_read_timeout(Some(Duration::from_millis(100))).expect("a socket");
        assert!(peer.next().is_none(), "a sixth request while five are held");
        peer.0.set_read_timeout(None).expect("a socket");
        while !held.is_empty() {
            held.into_iter().for_each(|stream| peer.answer(stream));
            held = peer.streams(5);
        }
    });
    let (summary, _) = run_logged(config(server.address, 5, 40));
    assert_eq!((summary.total.ok, summary.total.connections), (40, 1), "{:?}", summary.total.by_error);
}

#[test]
fn a_schedule_does_not_wait_for_answers_while_streams_are_free() {
    let server = serve(|stream, _| {
        let mut peer = Peer::greet(stream);
        let streams = peer.streams(20);
        streams.into_iter().for_each(|stream| peer.answer(stream));
        peer.next();
    });
    let config = Config { keepalive_rate: Some(200.0), ..config(server.address, 20, 20) };
    let (summary, attempts) = run_logged(Config { log_all: true, ..config });
    assert_eq!((summary.total.ok, summary.total.connections), (20, 1));
    let mut numbers: Vec<u32> = attempts.iter().map(|attempt| attempt.nth).collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(1..=20));
}

/// Four requests are answered; `last` meets the four streams after them, the last requests of a client.
fn four_under_way(last: fn(Peer, &[u32])) -> (Summary, Vec<Attempt>) {
    let server = serve(move |stream, number| {
        assert_eq!(number, 0, "nothing is sent twice");
        let mut peer = Peer::greet(stream);
        peer.streams(4).into_iter().for_each(|stream| peer.answer(stream));
        let streams = peer.streams(4);
        assert_eq!(streams, [9, 11, 13, 15]);
        last(peer, &streams);
    });
    let (summary, attempts) = run_logged(config(server.address, 4, 8));
    let peers = server.peers();
    assert!(attempts.iter().all(|attempt| [attempt.local] == peers[..]), "{attempts:?}");
    assert_eq!(summary.total.connections, 1);
    (summary, attempts)
}

#[test]
fn each_request_under_way_at_the_end_of_its_connection_is_an_attempt() {
    let close: fn(Peer, &[u32]) = |peer, _| drop(peer);
    let reset: fn(Peer, &[u32]) = |peer, _| reset(peer.0);
    for (last, error) in [(close, ErrorKind::Eof), (reset, ErrorKind::Reset)] {
        let (summary, attempts) = four_under_way(last);
        assert_eq!((summary.total.ok, summary.total.failed), (4, 4));
        assert_eq!(summary.total.by_error.get(&error), Some(&4), "{:?}", summary.total.by_error);
        let mut numbers: Vec<u32> = attempts.iter().map(|attempt| attempt.nth).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [5, 6, 7, 8]);
        assert!(attempts.iter().all(|attempt| attempt.stage == Some(Stage::FirstByte)), "{attempts:?}");
    }
}

#[test]
fn a_stream_fails_by_itself_or_with_its_connection() {
    let (summary, attempts) = four_under_way(|mut peer, streams| {
        let [refused, reset, cut, answered] = *streams else { panic!("{streams:?}") };
        peer.reset_stream(refused, REFUSED_STREAM);
        peer.reset_stream(reset, INTERNAL_ERROR);
        peer.send(HEADERS, END_HEADERS, cut, &[STATUS_200]);
        peer.answer(answered);
    });
    assert_eq!((summary.total.ok, summary.total.failed), (5, 3));
    let met = |nth| {
        attempts.iter().find(|attempt| attempt.nth == nth).map(|attempt| (attempt.error, attempt.stage))
    };
    assert_eq!(met(5), Some((Some(ErrorKind::StreamRefused), Some(Stage::FirstByte))));
    assert_eq!(met(6), Some((Some(ErrorKind::StreamReset), Some(Stage::FirstByte))));
    assert_eq!(met(7), Some((Some(ErrorKind::Truncated), Some(Stage::Body))));
}

#[test]
fn a_goaway_refuses_the_streams_after_its_last_one_and_the_others_are_waited_for() {
    let (summary, attempts) = four_under_way(|mut peer, streams| {
        let [first, second, ..] = *streams else { panic!("{streams:?}") };
        peer.0.write_all(&go_away(second)).expect("the client reads");
        peer.answer(first);
        peer.answer(second);
        assert!(peer.next().is_none(), "the client leaves by itself");
    });
    assert_eq!((summary.total.ok, summary.total.failed), (6, 2));
    assert_eq!(
        summary.total.by_error.get(&ErrorKind::StreamRefused),
        Some(&2),
        "{:?}",
        summary.total.by_error
    );
    let mut numbers: Vec<u32> = attempts.iter().map(|attempt| attempt.nth).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [7, 8]);
}

#[test]
fn a_connection_that_goes_away_between_two_requests_is_replaced_and_nothing_is_lost() {
    // With the answer, so that it is there when the next request is due.
    let close: fn(Peer, u32) = |peer, stream| answer_and_close(peer.0, &answer(stream));
    let go_away: fn(Peer, u32) = |mut peer, stream| {
        peer.0.write_all(&[answer(stream), go_away(stream)].concat()).expect("the client reads");
        assert!(peer.next().is_none(), "the client leaves by itself");
    };
    for end in [close, go_away] {
        let server = serve(move |stream, _| {
            let mut peer = Peer::greet(stream);
            // What is not read at the close makes it a reset.
            let (mut request, mut is_acknowledged) = (None, false);
            while request.is_none() || !is_acknowledged {
                let (kind, stream, payload) = peer.frame().expect("a request, and settings acknowledged");
                request = request.or((kind == HEADERS).then_some(stream));
                is_acknowledged |= kind == SETTINGS && payload.is_empty();
            }
            end(peer, request.expect("a stream"));
        });
        let (summary, _) = run_logged(config(server.address, 1, 6));
        assert_eq!((summary.total.ok, summary.total.failed), (6, 0), "{:?}", summary.total.by_error);
        assert_eq!((summary.total.connections, summary.total.found_closed), (6, 5));
    }
}

#[test]
fn a_request_that_times_out_takes_no_other_with_it_and_its_connection_gets_no_more() {
    let server = serve(|stream, number| {
        let mut peer = Peer::greet(stream);
        if number == 0 {
            let [held, other] = peer.streams(2)[..] else { panic!("two streams") };
            let given_up = loop {
                let (kind, stream, _) = peer.frame().expect("the client stays");
                assert_ne!(kind, HEADERS, "no more requests here");
                if kind == RST_STREAM {
                    break stream;
                }
            };
            assert_eq!(given_up, held);
            peer.answer(other);
            assert!(peer.next().is_none(), "the client leaves by itself");
        } else {
            while let Some((stream, _)) = peer.next() {
                peer.answer(stream);
            }
        }
    });
    // The second request is sent half a second after the first, and has that long when the first is given up.
    let timeout = Duration::from_secs(1);
    let (summary, attempts) =
        run_logged(Config { timeout, keepalive_rate: Some(2.0), ..config(server.address, 2, 4) });
    assert_eq!(summary.total.by_error.get(&ErrorKind::Timeout), Some(&1), "{:?}", summary.total.by_error);
    assert_eq!((summary.total.ok, attempts.len(), summary.total.connections), (3, 1, 2));
}

#[test]
fn grpc_asks_the_health_service_and_its_status_decides() {
    let (seen, calls) = channel();
    let server = serve(move |stream, _| {
        let mut peer = Peer::greet(stream);
        let mut status = 0;
        while let Some((stream, fields)) = peer.next() {
            let (kind, of, message) = peer.frame().expect("a message");
            seen.send((fields.len(), kind, of == stream, message)).expect("the test waits");
            peer.answer_grpc(stream, status);
            status = 5 - status;
        }
    });
    let (summary, attempts) = run_logged(Config { grpc: Some(0), ..config(server.address, 1, 4) });
    assert_eq!((summary.total.ok, summary.total.received), (2, 20));
    assert_eq!(summary.total.by_error.get(&ErrorKind::GrpcStatus), Some(&2), "{:?}", summary.total.by_error);
    assert!(attempts.iter().all(|attempt| attempt.stage == Some(Stage::Body) && attempt.received == 5));
    for (index, (fields, kind, of_it, message)) in calls.try_iter().enumerate() {
        assert_eq!((kind, of_it, &message[..]), (DATA, true, &[0; 5][..]));
        // The path and other fields are spelled out once.
        assert_eq!(fields > 40, index == 0, "{fields} bytes");
    }
}

#[test]
fn a_connect_that_fails_is_one_attempt_and_what_is_not_http2_a_bad_response() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let (summary, _) = run_logged(config(nobody.expect("an address"), 8, 5));
    assert_eq!(
        summary.total.by_error.get(&ErrorKind::ConnectRefused),
        Some(&5),
        "{:?}",
        summary.total.by_error
    );
    let server = serve(|mut stream, _| {
        stream.write_all(&[b'x'; 64]).expect("written");
        while stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
    });
    let (summary, _) = run_logged(config(server.address, 1, 1));
    assert_eq!(summary.total.by_error.get(&ErrorKind::BadResponse), Some(&1), "{:?}", summary.total.by_error);
}
