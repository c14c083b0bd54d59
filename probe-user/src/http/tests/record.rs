//! `/api/v1/record` over real sockets: how long it may last, how many there may be, and readers that do not read.

use super::*;

/// A recording whose answer has begun; what came of it so far.
fn recording(servers: &Servers) -> (TcpStream, Vec<u8>) {
    let mut stream = TcpStream::connect(servers.private).expect("connect");
    stream.set_read_timeout(Some(WAIT)).expect("timeout");
    stream.write_all(b"GET /api/v1/record HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("write");
    let mut said = Vec::new();
    read_until(&mut stream, &mut said, "\"drainscope_log\":1");
    (stream, said)
}

fn read_until(stream: &mut TcpStream, said: &mut Vec<u8>, what: &str) {
    let mut piece = vec![0; 64 << 10];
    while !said.windows(what.len()).any(|window| window == what.as_bytes()) {
        let read = stream.read(&mut piece).expect("more");
        assert_ne!(read, 0, "it ended before {what}: {}", String::from_utf8_lossy(said));
        said.extend_from_slice(&piece[..read]);
    }
}

#[test]
fn a_recording_outlives_a_connections_usual_life_and_ends_with_the_agent() {
    let (head, life) = (Duration::from_millis(100), Duration::from_millis(100));
    let servers = Servers::new(Limits { head, life, ..Limits::default() });
    let (mut stream, mut said) = recording(&servers);
    let began = Instant::now();
    for number in 0.. {
        let uid = format!("gone-{number}.");
        servers.send(Fact::PodGone { uid: uid.clone() });
        read_until(&mut stream, &mut said, &uid);
        if began.elapsed() > 5 * (head + life) {
            break;
        }
    }
    servers.stop.send_replace(true);
    stream.read_to_end(&mut said).expect("the rest");
    let text = String::from_utf8_lossy(&said);
    assert!(text.to_lowercase().contains("content-type: application/x-ndjson\r\n"), "{text}");
    assert!(text.ends_with("{\"end\":\"agent_ended\"}\n\r\n0\r\n\r\n"), "{text}");
}

#[test]
fn recordings_are_few_and_a_place_is_free_again_when_its_reader_goes() {
    let servers = Servers::new(Limits::default());
    let readers: Vec<_> = (0..crate::eventlog::tape::RECORDINGS).map(|_| recording(&servers)).collect();
    let refused = get(servers.private, "/api/v1/record", "");
    assert_eq!(refused.status, 503);
    assert_eq!(refused.json()["error"], "2 recordings are under way already: end one of them first");
    drop(readers);
    eventually("the places are free again", || {
        servers.send(Fact::PodGone { uid: "u".into() });
        let mut stream = TcpStream::connect(servers.private).expect("connect");
        stream.set_read_timeout(Some(WAIT)).expect("timeout");
        stream.write_all(b"GET /api/v1/record HTTP/1.1\r\nHost: x\r\n\r\n").expect("write");
        let mut status = [0; 12];
        stream.read_exact(&mut status).expect("an answer");
        &status == b"HTTP/1.1 200"
    });
    assert_eq!(get(servers.public, "/api/v1/record", "").status, 404, "it names clients");
}

/// More than the queue, the connection's buffers and the sockets' hold.
fn flood(servers: &Servers) {
    let uid = "x".repeat(1 << 20);
    (0..64).for_each(|_| servers.send(Fact::PodGone { uid: uid.clone() }));
}

#[test]
fn a_reader_that_is_too_slow_is_told_so() {
    let servers = Servers::new(Limits::default());
    let (mut stream, mut said) = recording(&servers);
    flood(&servers);
    stream.read_to_end(&mut said).expect("it ends");
    let last = String::from_utf8_lossy(&said[said.len() - 100..]).into_owned();
    assert!(last.ends_with("{\"end\":\"slow_reader\"}\n\r\n0\r\n\r\n"), "{last}");
}

#[test]
fn a_reader_that_reads_nothing_loses_its_connection() {
    let (head, life) = (Duration::from_millis(300), Duration::from_millis(300));
    let servers = Servers::new(Limits { connections: 1, head, life, ..Limits::default() });
    let (_stalled, _) = recording(&servers);
    assert!(raw(servers.private, b"").is_empty(), "the one place is taken");
    flood(&servers);
    eventually("the place is free again", || {
        let request = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        raw(servers.private, request).ends_with(b"ok")
    });
}
