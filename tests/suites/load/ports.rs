//! Source addresses and ports: each pair once, walked over what is taken, and closing with RST where asked.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener};
use std::sync::mpsc::channel;

use world::load::{Config, LoadError, run};

use crate::run_logged;
use crate::server::{OK, answer_all, read_request, serve};

fn sources(addresses: &[&str]) -> Vec<IpAddr> {
    addresses.iter().map(|address| address.parse().expect("an address")).collect()
}

#[test]
fn no_pair_is_used_twice_while_there_are_others() {
    let server = serve(|stream, _| answer_all(stream, OK));
    let base = Config {
        new: 3,
        sources: sources(&["127.0.0.1", "127.0.0.2"]),
        ports: Some((21_000, 21_099)),
        linger0: true,
        ..Config::new(server.address)
    };
    let (summary, _) = run_logged(Config { max_requests: Some(150), ..base.clone() });
    let peers = server.peers();
    let distinct: BTreeSet<_> = peers.iter().copied().collect();
    assert_eq!((peers.len(), distinct.len()), (150, 150));
    assert!(distinct.iter().all(|peer| (21_000..=21_099).contains(&peer.port())));
    assert_eq!(
        distinct.iter().map(|peer| peer.ip()).collect::<BTreeSet<_>>(),
        base.sources.iter().copied().collect()
    );
    assert!(!summary.ports_reused);

    let (summary, _) = run_logged(Config { max_requests: Some(450), ..base });
    assert_eq!((summary.total.ok, summary.total.failed), (450, 0));
    assert!(summary.ports_reused);
}

#[test]
fn ports_that_are_taken_are_passed_over_and_when_all_are_the_run_ends() {
    let server = serve(|stream, _| answer_all(stream, OK));
    let _taken = [
        TcpListener::bind("127.0.0.3:21200").expect("free"),
        TcpListener::bind("127.0.0.3:21202").expect("free"),
    ];
    let base =
        Config { new: 1, sources: sources(&["127.0.0.3"]), linger0: true, ..Config::new(server.address) };
    let (summary, _) =
        run_logged(Config { ports: Some((21_200, 21_203)), max_requests: Some(4), ..base.clone() });
    assert_eq!(summary.total.ok, 4);
    assert!(server.peers().iter().all(|peer| matches!(peer.port(), 21_201 | 21_203)));
    assert!(summary.ports_skipped >= 2, "{}", summary.ports_skipped);

    let none = run(Config { ports: Some((21_202, 21_202)), max_requests: Some(1), ..base });
    assert!(matches!(none, Err(LoadError::Local(_))), "{none:?}");
}

#[test]
fn linger0_closes_with_reset() {
    for linger0 in [false, true] {
        let (ends, seen) = channel();
        let server = serve(move |mut stream, _| {
            read_request(&mut stream).expect("a request");
            stream.write_all(OK).expect("the client reads");
            let end = stream.read(&mut [0; 16]).map_err(|error| error.kind());
            ends.send(end).expect("the test waits");
        });
        let config = Config { new: 1, linger0, max_requests: Some(5), ..Config::new(server.address) };
        run_logged(config);
        let expected = if linger0 { Err(std::io::ErrorKind::ConnectionReset) } else { Ok(0) };
        for end in seen.iter().take(5) {
            assert_eq!(end, expected, "linger0: {linger0}");
        }
    }
}
