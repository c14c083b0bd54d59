//! Clients that speak TLS, against a server with a certificate that nobody would believe.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, Stream};
use world::load::{Config, ErrorKind, Stage};

use crate::run_logged;
use crate::server::{OK, Server, reset, serve};

/// Made for this suite; it signs nothing else.
const CERTIFICATE: &[u8] = include_bytes!("tls/certificate.pem");
const KEY: &[u8] = include_bytes!("tls/key.pem");

fn configuration() -> Arc<ServerConfig> {
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(KEY).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("usual versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("the key is the certificate's");
    Arc::new(config)
}

/// How a client's connection went on at the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The client said that it is over.
    Said,
    /// It is over without a word.
    Cut,
}

/// Not every test listens.
fn tell(ends: &Sender<End>, end: End) {
    let _unheard = ends.send(end);
}

/// Answers so many requests of each connection, then does `last` with it when more comes; or waits for the client's end and tells it.
fn serve_tls(requests: usize, last: Option<fn(TcpStream)>, ends: Sender<End>) -> Server {
    serve_answers(OK.to_vec(), requests, last, ends)
}

/// The same with this answer.
fn serve_answers(answer: Vec<u8>, requests: usize, last: Option<fn(TcpStream)>, ends: Sender<End>) -> Server {
    let config = configuration();
    serve(move |mut stream, _| {
        let mut tls = ServerConnection::new(Arc::clone(&config)).expect("a connection");
        for _ in 0..requests {
            let mut both = Stream::new(&mut tls, &mut stream);
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") {
                match both.read(&mut byte) {
                    Ok(1) => head.push(byte[0]),
                    Ok(_) => return tell(&ends, End::Said),
                    Err(_) => return tell(&ends, End::Cut),
                }
            }
            both.write_all(&answer).expect("the client reads");
            both.flush().expect("the client reads");
        }
        if let Some(last) = last {
            assert!(stream.peek(&mut [0]).is_ok_and(|count| count > 0), "the client goes on");
            last(stream);
        }
    })
}

#[test]
fn requests_and_answers_pass_through_tls_and_the_client_says_goodbye() {
    for (keepalive, new, connections) in [(1, 0, 1), (0, 1, 6)] {
        let (ends, seen) = channel();
        let server = serve_tls(usize::MAX, None, ends);
        let config =
            Config { keepalive, new, tls: true, max_requests: Some(6), ..Config::new(server.address) };
        let (summary, _) = run_logged(config);
        assert_eq!(
            (summary.total.ok, summary.total.failed, summary.total.connections),
            (6, 0, connections),
            "{:?}",
            summary.total.by_error
        );
        for _ in 0..connections {
            assert_eq!(seen.recv_timeout(Duration::from_secs(10)), Ok(End::Said));
        }
    }
}

#[test]
fn a_large_answer_passes_through_tls() {
    let size = 1_000_000;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n");
    let answer = [head.as_bytes(), &vec![b'x'; size]].concat();
    let length = u64::try_from(answer.len()).expect("fits");
    let server = serve_answers(answer, usize::MAX, None, channel().0);
    let config = Config { keepalive: 1, tls: true, max_requests: Some(3), ..Config::new(server.address) };
    let (summary, _) = run_logged(config);
    assert_eq!((summary.total.ok, summary.total.received), (3, 3 * length), "{:?}", summary.total.by_error);
}

#[test]
fn a_slow_reader_and_a_pipelining_client_may_speak_tls_too() {
    for (pipeline, read_rate) in [(3, None), (1, Some(400))] {
        let server = serve_tls(usize::MAX, None, channel().0);
        let config = Config {
            keepalive: 1,
            tls: true,
            pipeline,
            read_rate,
            max_requests: Some(6),
            ..Config::new(server.address)
        };
        let (summary, _) = run_logged(config);
        assert_eq!((summary.total.ok, summary.total.connections), (6, 1), "{:?}", summary.total.by_error);
    }
}

#[test]
fn a_connection_that_ends_in_or_after_the_handshake_loses_its_request() {
    let read_and_close = |mut stream: TcpStream| {
        assert!(stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0));
    };
    for (requests, last, error) in [
        (0, reset as fn(TcpStream), ErrorKind::Reset),
        (0, read_and_close, ErrorKind::Eof),
        (1, reset, ErrorKind::Reset),
        (1, read_and_close, ErrorKind::Eof),
    ] {
        let server = serve_tls(requests, Some(last), channel().0);
        let all = u64::try_from(requests).expect("few") + 1;
        let config = Config {
            keepalive: 1,
            tls: true,
            blind: true,
            max_requests: Some(all),
            ..Config::new(server.address)
        };
        let (summary, attempts) = run_logged(config);
        assert_eq!((summary.total.failed, summary.total.requests), (1, all));
        let [attempt] = &attempts[..] else { panic!("{attempts:?}") };
        assert_eq!((attempt.error, u64::from(attempt.nth)), (Some(error), all));
        let stage = if requests == 0 { Stage::Send } else { Stage::FirstByte };
        assert_eq!(attempt.stage, Some(stage));
    }
}

#[test]
fn what_is_not_tls_is_a_bad_response() {
    let server = serve(|mut stream, _| {
        let mut hello = [0; 5];
        stream.read_exact(&mut hello).expect("a hello");
        stream.write_all(OK).expect("written");
        drop(stream.read(&mut [0; 4096]));
        drop(stream.read(&mut [0; 4096]));
    });
    let config = Config { new: 1, tls: true, max_requests: Some(1), ..Config::new(server.address) };
    let (summary, _) = run_logged(config);
    assert_eq!(summary.total.by_error.get(&ErrorKind::BadResponse), Some(&1), "{:?}", summary.total.by_error);
}
