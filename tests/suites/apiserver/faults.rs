//! Fault injection on the wire: each fault happens exactly as often as asked for, and the store's truth is reached afterwards.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;
use world::apiserver::{Gone, Kind, Server, Store};

use crate::pod;
use crate::raw::{self, End, Stream};

fn world() -> (Store, Server) {
    let store = Store::new();
    let server = Server::serve(&store).expect("a server");
    (store, server)
}

/// A watch of all pods from the empty store on.
fn watch(server: &Server) -> Stream {
    raw::watch(server.address(), "/api/v1/pods?watch=true&resourceVersion=1")
}

fn create(store: &Store, names: &[&str]) {
    for name in names {
        store.create(Kind::Pods, pod(name, "n1")).expect("created");
    }
}

#[test]
fn requests_fail_exactly_as_often_as_asked() {
    let (_store, server) = world();
    server.faults().fail_requests(2, 429, Some(3));
    for expected in [429, 429, 200] {
        let response = raw::get(server.address(), "/api/v1/pods");
        assert_eq!(response.status, expected);
        assert_eq!(response.headers.contains("retry-after: 3\r\n"), expected == 429);
    }
    server.faults().only(Some(Kind::Services));
    server.faults().fail_requests(1, 500, None);
    assert_eq!(raw::get(server.address(), "/api/v1/pods").status, 200);
    assert_eq!(raw::get(server.address(), "/api/v1/services").status, 500);
    assert_eq!(raw::get(server.address(), "/api/v1/services").status, 200);
}

#[test]
fn a_watch_expires_on_demand_in_both_ways() {
    let (store, server) = world();
    create(&store, &["a"]);
    server.faults().expire_watches(1, Gone::Http);
    assert_eq!(watch(&server).status, 410);
    server.faults().expire_watches(1, Gone::Event);
    let mut stream = watch(&server);
    assert_eq!((stream.status, &stream.event()["object"]["code"]), (200, &json!(410)));
    assert_eq!(stream.line(), Err(End::Clean));
    assert_eq!(watch(&server).names(1), ["ADDED a"]);
}

#[test]
fn events_are_doubled_swapped_and_preceded_by_garbage() {
    let (store, server) = world();
    let mut stream = watch(&server);
    server.faults().duplicate_events(1);
    create(&store, &["a", "b"]);
    assert_eq!(stream.names(3), ["ADDED a", "ADDED a", "ADDED b"]);
    server.faults().reorder_events(1);
    create(&store, &["c", "d", "e"]);
    assert_eq!(stream.names(3), ["ADDED d", "ADDED c", "ADDED e"]);
    server.faults().garbage_line("{\"type\":");
    create(&store, &["f"]);
    assert_eq!(stream.line().as_deref(), Ok("{\"type\":"));
    assert_eq!(stream.names(1), ["ADDED f"]);
}

#[test]
fn a_swapped_event_without_a_successor_comes_before_the_stream_ends() {
    let (store, server) = world();
    server.faults().reorder_events(1);
    let mut stream =
        raw::watch(server.address(), "/api/v1/pods?watch=true&resourceVersion=1&timeoutSeconds=1");
    create(&store, &["a"]);
    assert_eq!(stream.names(1), ["ADDED a"]);
    assert_eq!(stream.line(), Err(End::Clean));
}

#[test]
fn a_truncated_event_ends_in_the_middle_of_its_line() {
    let (store, server) = world();
    let mut stream = watch(&server);
    create(&store, &["a"]);
    assert_eq!(stream.names(1), ["ADDED a"]);
    server.faults().truncate_events(1);
    create(&store, &["b"]);
    assert_eq!(stream.line(), Err(End::Broken));
    let part = String::from_utf8_lossy(&stream.rest).into_owned();
    assert!(part.starts_with("{\"type\":\"ADDED\",") && part.len() > 40, "{part:?}");
    assert!(serde_json::from_str::<serde_json::Value>(&part).is_err_and(|error| error.is_eof()));
    assert_eq!(watch(&server).names(2), ["ADDED a", "ADDED b"]);
}

#[test]
fn a_cut_watch_breaks_off_and_the_next_one_goes_on() {
    let (store, server) = world();
    create(&store, &["a"]);
    let mut stream = watch(&server);
    assert_eq!(stream.names(1), ["ADDED a"]);
    server.faults().cut_watches();
    assert_eq!(stream.line(), Err(End::Broken));
    create(&store, &["b"]);
    assert_eq!(watch(&server).names(2), ["ADDED a", "ADDED b"]);
}

#[test]
fn a_stalled_watch_is_silent_and_loses_nothing() {
    let (store, server) = world();
    let mut stream = watch(&server);
    create(&store, &["a"]);
    assert_eq!(stream.names(1), ["ADDED a"]);
    server.faults().stall_watches(true);
    create(&store, &["b", "c"]);
    assert!(stream.silent_for(Duration::from_millis(200)));
    server.faults().stall_watches(false);
    assert_eq!(stream.names(2), ["ADDED b", "ADDED c"]);
}

#[test]
fn responses_are_delayed() {
    let (_store, server) = world();
    server.faults().delay_responses(Duration::from_millis(200));
    let start = Instant::now();
    raw::get(server.address(), "/api/v1/pods");
    assert!(start.elapsed() >= Duration::from_millis(200));
    server.faults().clear();
    assert_eq!(raw::get(server.address(), "/api/v1/pods").status, 200);
}

#[test]
fn an_outage_refuses_connects_and_ends_on_the_same_port() {
    let (store, server) = world();
    let mut stream = watch(&server);
    create(&store, &["a"]);
    assert_eq!(stream.names(1), ["ADDED a"]);
    for round in 0..3 {
        server.stop().expect("stopped");
        if round == 0 {
            assert_eq!(stream.line(), Err(End::Broken));
        }
        let refused = TcpStream::connect(server.address()).expect_err("nobody listens");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        server.start().expect("started");
        assert_eq!(watch(&server).names(1), ["ADDED a"]);
    }
}

#[test]
fn garbage_is_served_as_it_was_stored() {
    let (store, server) = world();
    let mut stream = watch(&server);
    store.put_raw(Kind::Pods, "shop", "text", json!("not an object"));
    store.put_raw(Kind::Pods, "shop", "empty", json!({}));
    store.put_raw(
        Kind::Pods,
        "shop",
        "empty",
        json!({"metadata": {"name": 7, "annotations": {"big": "x".repeat(1 << 20)}}}),
    );
    store.remove(Kind::Pods, "shop", "text").expect("removed");
    store.delete_pod("shop", "empty", 30).expect("deleted");
    assert_eq!(stream.event(), json!({"type": "ADDED", "object": "not an object"}));
    assert_eq!(stream.event(), json!({"type": "ADDED", "object": {}}));
    let big = stream.event();
    assert_eq!(big["object"]["metadata"]["annotations"]["big"].as_str().map(str::len), Some(1 << 20));
    assert!(big["object"]["metadata"].get("resourceVersion").is_none());
    assert_eq!(stream.event(), json!({"type": "DELETED", "object": "not an object"}));
}
