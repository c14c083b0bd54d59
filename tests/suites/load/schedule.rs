//! The fixed schedule: how many slots there are, what happens to the late ones, and how a run is stopped.

use std::io::Write as _;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use world::load::{Config, start};

use crate::run_logged;
use crate::server::{OK, answer_all, read_request, serve};

#[test]
fn a_rate_gives_its_number_of_requests() {
    let server = serve(|stream, _| answer_all(stream, OK));
    let config = Config {
        keepalive: 3,
        new: 2,
        keepalive_rate: Some(100.0),
        new_rate: Some(50.0),
        duration: Some(Duration::from_secs(1)),
        window: Duration::from_millis(100),
        log_all: true,
        ..Config::new(server.address)
    };
    let (summary, attempts) = run_logged(config);
    // 100 and 50 slots a client; those that a busy machine did not come to are named.
    assert_eq!(summary.keepalive.requests + summary.keepalive.unsent, 300);
    assert_eq!(summary.new.requests + summary.new.unsent, 100);
    assert!(summary.total.ok >= 300, "{:?}", summary.total);
    for attempt in &attempts {
        let due_ns = attempt.due_ns.expect("a scheduled attempt");
        assert!(attempt.start_ns >= due_ns, "never early");
        assert!((due_ns - summary.start_ns) < 1_000_000_000);
    }
    assert!(summary.windows.ok.len() >= 10);
    assert_eq!(summary.windows.length_ns, 100_000_000);
}

#[test]
fn a_stalled_server_shows_in_the_latency_from_the_due_time() {
    let server = serve(|mut stream, _| {
        read_request(&mut stream).expect("a request");
        std::thread::sleep(Duration::from_millis(500));
        stream.write_all(OK).expect("the client reads");
        answer_all(stream, OK);
    });
    let config = Config {
        keepalive: 1,
        keepalive_rate: Some(100.0),
        duration: Some(Duration::from_secs(1)),
        ..Config::new(server.address)
    };
    let (summary, _) = run_logged(config);
    let from_due = summary.total.latency_from_due.expect("a scheduled run");
    // 50 of 100 slots became due during the stall, the first of them 500 ms, the tenth 400 ms before its end.
    assert!(from_due.p90_ns >= 350_000_000, "{from_due:?}");
    assert!(summary.total.latency.p75_ns < 350_000_000, "{:?}", summary.total.latency);
    assert_eq!(summary.total.requests + summary.total.unsent, 100);
}

#[test]
fn slots_that_were_never_tried_are_named() {
    let server = serve(|mut stream, _| while read_request(&mut stream).is_some() {});
    let config = Config {
        new: 1,
        new_rate: Some(100.0),
        timeout: Duration::from_millis(400),
        duration: Some(Duration::from_millis(300)),
        ..Config::new(server.address)
    };
    let (summary, _) = run_logged(config);
    assert_eq!((summary.total.requests, summary.total.failed, summary.total.unsent), (1, 1, 29));
}

#[test]
fn a_stop_finishes_the_attempts_under_way() {
    let (requests, seen) = channel();
    let (release, held) = channel::<()>();
    let held = std::sync::Mutex::new(held);
    let server = serve(move |mut stream, _| {
        read_request(&mut stream).expect("a request");
        requests.send(()).expect("the test waits");
        held.lock().expect("no panic").recv().expect("released");
        stream.write_all(OK).expect("the client reads");
    });
    let running = start(Config { keepalive: 1, ..Config::new(server.address) }).expect("a run");
    seen.recv_timeout(Duration::from_secs(10)).expect("a request");
    running.stopper().stop();
    assert_eq!(running.progress().ok, 0);
    release.send(()).expect("the server waits");
    let summary = running.wait().expect("a summary");
    assert_eq!((summary.total.ok, summary.total.failed), (1, 0));

    // A client that only waits for its turn ends at once.
    let idle = serve(|stream, _| answer_all(stream, OK));
    let running = start(Config { keepalive: 1, keepalive_rate: Some(0.01), ..Config::new(idle.address) })
        .expect("a run");
    let begin = Instant::now();
    while running.progress().ok == 0 {
        assert!(begin.elapsed() < Duration::from_secs(10), "the first slot is due at the start");
        std::thread::yield_now();
    }
    running.stop();
    let summary = running.wait().expect("a summary");
    assert_eq!(summary.total.ok, 1);
    assert!(begin.elapsed() < Duration::from_secs(10), "the next slot was 100 s away");
}
