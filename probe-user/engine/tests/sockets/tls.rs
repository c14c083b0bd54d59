//! Probes with TLS: any certificate will do, and what is not TLS is told.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use probe_engine::{Handler, HttpGet, Outcome, Phase, Scheme, Verdict};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, Stream};

use crate::server::{Server, finish, gone, send};
use crate::{SECOND, get, probe};

/// Made for these tests, by nobody that anybody knows, for `somebody.else`.
const CERTIFICATE: &[u8] = include_bytes!("certificate.pem");
const KEY: &[u8] = include_bytes!("key.pem");

/// A server's side that speaks these protocols.
pub(crate) fn configuration(protocols: &[&str]) -> Arc<ServerConfig> {
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(KEY).expect("a key");
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("usual versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("the key is the certificate's");
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Arc::new(config)
}

fn https(port: u16) -> Outcome {
    probe(Handler::Http(HttpGet { scheme: Scheme::Https, ..get(port) }), SECOND)
}

#[test]
fn a_certificate_of_another_name_by_nobody_is_taken_and_the_end_is_said() {
    let config = configuration(&["http/1.1"]);
    let server = Server::new(move |mut stream| {
        let mut tls = ServerConnection::new(Arc::clone(&config)).expect("a connection");
        let mut both = Stream::new(&mut tls, &mut stream);
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            // The connection that ends the server says nothing.
            let Ok(1) = both.read(&mut byte) else { return };
            head.push(byte[0]);
        }
        both.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").expect("the client reads");
        assert_eq!(both.read(&mut byte).expect("a goodbye, not a broken connection"), 0);
    });
    let outcome = https(server.port);
    assert_eq!((outcome.verdict, outcome.output.as_str()), (Verdict::Success, "ok"), "{outcome:?}");
    assert_eq!(outcome.protocol, Some("HTTP/1.1"));
    assert!(outcome.phases.get(Phase::Tls).is_some_and(|time| time > Duration::ZERO));
}

#[test]
fn a_server_that_ends_tls_without_a_word_has_answered() {
    let config = configuration(&[]);
    let server = Server::new(move |mut stream| {
        let mut tls = ServerConnection::new(Arc::clone(&config)).expect("a connection");
        let mut both = Stream::new(&mut tls, &mut stream);
        if both.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {
            both.write_all(b"HTTP/1.1 200 OK\r\n\r\nok").expect("the client reads");
            finish(&mut stream);
        }
    });
    let outcome = https(server.port);
    assert_eq!((outcome.verdict, outcome.output.as_str()), (Verdict::Success, "ok"), "{outcome:?}");
}

#[test]
fn what_is_not_tls_is_told() {
    for (answer, expected) in [
        (&b"\x15\x03\x03\x00\x02\x02\x28"[..], "remote error: tls: handshake failure"),
        (b"\x15\x03\x03\x00\x02\x02\x70", "remote error: tls: unrecognized name"),
        (b"\x15\x03\x03\x00\x02\x02\x74", "remote error: tls: certificate required"),
        (b"220 mail ESMTP\r\n", "tls: first record does not look like a TLS handshake"),
        (b"HTTP/1.0 400 Bad Request\r\n\r\n", "http: server gave HTTP response to HTTPS client"),
        (b"", "EOF"),
    ] {
        let server = Server::new(move |mut stream| {
            let begun = stream.read(&mut [0; 4096]);
            if begun.is_ok_and(|count| count > 0) {
                send(&mut stream, answer);
                finish(&mut stream);
            }
        });
        let outcome = https(server.port);
        let expected = format!("Get \"https://127.0.0.1:{}/\": {expected}", server.port);
        assert_eq!((outcome.verdict, outcome.output), (Verdict::Failure, expected));
    }
}

#[test]
fn a_server_that_leaves_after_the_handshake_is_a_failure_at_once() {
    for protocols in [&["h2"][..], &["http/1.1"]] {
        let config = configuration(protocols);
        let server = Server::new(move |mut stream| {
            let mut tls = ServerConnection::new(Arc::clone(&config)).expect("a connection");
            // Not `complete_io`, which may wait for more than the handshake.
            while tls.is_handshaking() {
                let read = tls.read_tls(&mut stream).is_ok_and(|count| count > 0);
                if !read || tls.process_new_packets().is_err() {
                    // The connection that ends the server has no handshake.
                    return;
                }
                while tls.wants_write() {
                    tls.write_tls(&mut stream).expect("the client reads");
                }
            }
            finish(&mut stream);
        });
        for _ in 0..10 {
            let outcome =
                probe(Handler::Http(HttpGet { scheme: Scheme::Https, ..get(server.port) }), 10 * SECOND);
            assert_eq!(outcome.verdict, Verdict::Failure, "{outcome:?}");
            assert!(outcome.duration < 5 * SECOND, "{outcome:?}");
        }
    }
}

#[test]
fn a_handshake_that_stalls_is_a_timeout_of_tls() {
    let server = Server::new(|mut stream: TcpStream| gone(&mut stream));
    let handler = Handler::Http(HttpGet { scheme: Scheme::Https, ..get(server.port) });
    let outcome = probe(handler, Duration::from_millis(300));
    assert_eq!(
        outcome.output,
        format!("Get \"https://127.0.0.1:{}/\": context deadline exceeded", server.port)
    );
    assert_eq!((outcome.verdict, outcome.timed_out_in), (Verdict::Failure, Some(Phase::Tls)));
}
