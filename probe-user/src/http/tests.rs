//! Both servers over real sockets, with a real driver and core and no kernel side.

mod record;

use super::server::{Limits, serve};
use super::*;
use crate::args::LogFormat;
use crate::clock::mono_now;
use crate::driver::{Driver, Parts};
use crate::host::rules::Watched;
use crate::journal::Journal;
use crate::kernel::HookState;
use probe_core::event::{ContainerStatus, Deletion, Event, Fact, Key, Pod, WatchHealth, WatchKind, Workload};
use probe_core::monitor::Monitor;
use probe_core::probes::manager::Settings;
use probe_core::probes::pace::Caps;
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;

const WAIT: Duration = Duration::from_secs(20);

/// The servers of an agent, in a runtime of their own so that the tests can block.
struct Servers {
    runtime: Runtime,
    public: SocketAddr,
    private: SocketAddr,
    app: App,
    stop: watch::Sender<bool>,
}

impl Servers {
    fn new(limits: Limits) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("runtime");
        let guard = runtime.enter();
        let (driver, links) = Driver::new(Parts {
            monitor: Monitor::new(probe_core::limits::Limits { slots: 0, ..Default::default() }, "n1".into()),
            kernel: None,
            hierarchy: None,
            announcer: None,
            asker: None,
            journal: Journal { format: LogFormat::Text },
            kernel_log: None,
            own_pod: None,
        });
        let hook = Hook {
            name: "tcp_send_reset",
            program: "tcp_send_reset",
            feature: "refused attempts",
            state: HookState::Unsupported("before 6.10".into()),
        };
        let start = Start {
            node: "n1".into(),
            at: mono_now(),
            kernel_error: Some("built without kernel programs".into()),
            hooks: vec![hook],
            cgroup_error: None,
            pins: None,
            pin_error: None,
            probes: false,
        };
        let (rules, outbox) = (Watched::default(), None);
        let caps = Caps { concurrency: 1, per_second: 1 };
        let app = App {
            links,
            table: Arc::default(),
            rules,
            lookups: Lookups::default(),
            outbox,
            readings: Readings::default(),
            mirror: Mirror::new(Settings { caps, period_max_seconds: None, exec: false }),
            start: Arc::new(start),
        };
        let (stop, stopping) = watch::channel(false);
        runtime.spawn(driver.run(stopping.clone()));
        let listen = || runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let (public_listener, private_listener) = (listen(), listen());
        let address = |listener: &TcpListener| listener.local_addr().expect("bound");
        let (public_at, private_at) = (address(&public_listener), address(&private_listener));
        runtime.spawn(serve(public_listener, public(app.clone()), limits, stopping.clone()));
        runtime.spawn(serve(private_listener, private(app.clone()), limits, stopping));
        drop(guard);
        Self { runtime, public: public_at, private: private_at, app, stop }
    }

    fn send(&self, fact: Fact) {
        let event = Event { at: mono_now(), fact };
        self.runtime.block_on(self.app.links.sink.send(event)).expect("the driver takes facts");
    }

    /// Makes a termination begin: a running pod, and then its deletion.
    fn delete_pod(&self, namespace: &str, name: &str) {
        let status =
            ContainerStatus { name: "c".into(), id: format!("id-{name}"), ..ContainerStatus::default() };
        let mut pod = Pod {
            uid: format!("uid-{name}"),
            cgroup_uid: format!("uid-{name}"),
            key: Key { namespace: namespace.into(), name: name.into() },
            workload: Workload { kind: "Deployment".into(), name: "web".into() },
            ready: true,
            grace_seconds: 30,
            containers: vec![status],
            ..Pod::default()
        };
        self.send(Fact::Pod(Box::new(pod.clone())));
        let deadline_unix_s = crate::clock::unix_now_ns() / 1_000_000_000 + 30;
        pod.deletion = Some(Deletion { deadline_unix_s, grace_seconds: 30 });
        self.send(Fact::Pod(Box::new(pod)));
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

/// Sends bytes and reads whatever comes until the server closes.
fn raw(address: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(WAIT)).expect("timeout");
    // The server may close before it has read all of it.
    drop(stream.write_all(request));
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    answer
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

fn answer(bytes: &[u8]) -> Answer {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a whole head");
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    Answer { status, head, body: bytes[end + 4..].to_vec() }
}

fn get(address: SocketAddr, path: &str, headers: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
    answer(&raw(address, request.as_bytes()))
}

/// Looks again until `condition` holds; panics after a while.
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + WAIT;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn health_names_what_is_missing_and_turns_ready_with_the_first_lists() {
    let servers = Servers::new(Limits::default());
    for address in [servers.public, servers.private] {
        let alive = get(address, "/livez", "");
        assert_eq!((alive.status, alive.text()), (200, "ok"));
        let waiting = get(address, "/readyz", "");
        assert_eq!(waiting.status, 503);
        assert!(waiting.text().contains("[-]api-lists failed\nreadyz check failed\n"), "{}", waiting.text());
    }
    let table = &servers.app.table;
    table.started(WatchKind::Pods, "");
    table.health(WatchKind::Pods, "", WatchHealth::Broken, Some("connection refused".into()));
    let waiting = get(servers.public, "/readyz?verbose", "");
    assert!(waiting.text().contains("[-]api-lists failed: pods: connection refused"), "{}", waiting.text());
    table.health(WatchKind::Pods, "", WatchHealth::Synced, None);
    table.namespaces_started();
    assert_eq!(get(servers.public, "/readyz", "").text(), "ok");
    let verbose = get(servers.public, "/readyz?verbose", "");
    let expected = "[+]driver ok\n\
         [+]kernel ok: degraded: kernel programs: built without kernel programs; tcp_send_reset: unsupported: before 6.10\n\
         [+]cgroups ok\n[+]proxy-rules ok: disabled\n[+]conntrack ok: disabled\n[+]kubelet-metrics ok: disabled\n[+]api-lists ok\nreadyz check passed\n";
    assert_eq!((verbose.status, verbose.text()), (200, expected));
}

#[test]
fn metrics_come_in_the_format_that_is_asked_for() {
    let servers = Servers::new(Limits::default());
    let plain = get(servers.public, "/metrics", "");
    assert_eq!(plain.status, 200);
    assert!(plain.head.contains("content-type: text/plain; version=0.0.4"), "{}", plain.head);
    let open = get(servers.public, "/metrics", "Accept: application/openmetrics-text;version=1.0.0\r\n");
    assert!(open.head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{}", open.head);
    assert!(open.text().ends_with("# EOF\n") && !plain.text().contains("# EOF"));
    for text in [open.text(), plain.text()] {
        assert!(text.contains("drainscope_build_info{version="), "{text}");
        assert!(text.contains("drainscope_feature_degraded{feature=\"kernel_programs\"} 1.0"), "{text}");
        assert!(text.contains("drainscope_feature_degraded{feature=\"tcp_send_reset\"} 1.0"), "{text}");
        assert!(text.contains("process_resident_memory_bytes "), "{text}");
    }
    let packed = get(servers.public, "/metrics", "Accept-Encoding: gzip\r\n");
    assert!(packed.head.contains("content-encoding: gzip"), "{}", packed.head);
    let mut unpacked = String::new();
    flate2::read::GzDecoder::new(&packed.body[..]).read_to_string(&mut unpacked).expect("gzip");
    assert!(unpacked.contains("# TYPE drainscope_build_info gauge"), "{unpacked}");
    assert_eq!(get(servers.private, "/metrics", "").status, 404, "metrics are on the other server only");
}

#[test]
fn status_says_what_runs_and_what_does_not() {
    let servers = Servers::new(Limits::default());
    servers.app.table.started(WatchKind::Services, "shop");
    let status = get(servers.private, "/status", "");
    assert_eq!(status.status, 200);
    let json = status.json();
    assert_eq!(json["node"], "n1");
    assert_eq!(json["kernel"]["state"], "failed");
    assert_eq!(json["hooks"][0]["state"], "unsupported");
    assert_eq!(json["sources"][0]["name"], "services");
    assert_eq!(json["sources"][0]["namespace"], "shop");
    assert!(json["lost"]["agent"].is_object(), "{json}");
    assert_eq!(get(servers.public, "/status", "").status, 404, "it names clients");
}

#[test]
fn terminations_are_filtered_newest_first() {
    let servers = Servers::new(Limits::default());
    servers.delete_pod("shop", "a");
    servers.delete_pod("shop", "b");
    servers.delete_pod("bank", "c");
    let listed = |query: &str| {
        let answer = get(servers.private, &format!("/api/v1/terminations{query}"), "");
        assert_eq!(answer.status, 200, "{query}: {}", answer.text());
        let json = answer.json();
        let names: Vec<String> = json["items"]
            .as_array()
            .expect("items")
            .iter()
            .map(|item| item["pod"]["name"].as_str().expect("a name").to_owned())
            .collect();
        (names.concat(), json["truncated"].as_bool().expect("truncated"))
    };
    eventually("all three are known", || listed("").0.len() == 3);
    for (query, expected, truncated) in [
        ("", "cba", false),
        ("?namespace=shop", "ba", false),
        ("?workload=web&limit=2", "cb", true),
        ("?workload=other", "", false),
        ("?lost=true", "", false),
        ("?lost=false&namespace=bank", "c", false),
        ("?since=1h", "cba", false),
        ("?since=2100-01-01T00:00:00Z", "", false),
    ] {
        assert_eq!(listed(query), (expected.to_owned(), truncated), "{query}");
    }
    let one = get(servers.private, "/api/v1/terminations/shop/a", "");
    assert_eq!((one.status, one.json()["pod"]["uid"].clone()), (200, "uid-a".into()));
    assert_eq!(get(servers.private, "/api/v1/terminations/shop/z", "").status, 404);
    assert_eq!(get(servers.private, "/api/v1/restarts", "").json()["truncated"], false);
}

#[test]
fn what_makes_no_sense_is_refused_in_json() {
    let servers = Servers::new(Limits::default());
    for (path, status) in [
        ("/api/v1/terminations?limit=0", 400),
        ("/api/v1/terminations?limit=many", 400),
        ("/api/v1/terminations?lost=perhaps", 400),
        ("/api/v1/terminations?since=yesterday", 400),
        ("/api/v1/terminations?namespcae=shop", 400),
        ("/api/v1/restarts?limit=1001", 400),
        ("/api/v1/terminations/%ff/x", 400),
        ("/nothing", 404),
        ("/../../etc/passwd", 404),
    ] {
        let answer = get(servers.private, path, "");
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.json()["error"].as_str().is_some_and(|text| !text.is_empty()), "{path}");
    }
    let posted = answer(&raw(
        servers.private,
        b"POST /api/v1/terminations HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
    ));
    assert_eq!(posted.status, 405);
}

#[test]
fn rubbish_is_turned_away_and_hurts_nobody() {
    let servers = Servers::new(Limits::default());
    let huge_header = format!("GET /livez HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let many_headers = format!("GET /livez HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(1000));
    let huge_body = format!(
        "GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n{}",
        "b".repeat(1 << 20)
    );
    let long_path = format!("GET /{} HTTP/1.1\r\n\r\n", "p".repeat(100_000));
    let binary: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    for request in [
        b"\r\n\r\n\r\n".as_slice(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET /livez HTTP/9.9\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        huge_header.as_bytes(),
        many_headers.as_bytes(),
        huge_body.as_bytes(),
        long_path.as_bytes(),
        &binary,
    ] {
        let mut stream = TcpStream::connect(servers.public).expect("connect");
        stream.set_read_timeout(Some(WAIT)).expect("timeout");
        drop(stream.write_all(request));
        drop(stream.shutdown(Shutdown::Write));
        let mut said = Vec::new();
        drop(stream.read_to_end(&mut said));
        let shown = String::from_utf8_lossy(&request[..request.len().min(60)]).into_owned();
        assert!(said.len() < 4096, "{shown}: {} bytes", said.len());
        assert_eq!(get(servers.public, "/livez", "").text(), "ok", "after {shown}");
    }
}

#[test]
fn slow_and_silent_clients_are_cut_off() {
    let head = Duration::from_millis(300);
    let servers =
        Servers::new(Limits { connections: 2, head, life: Duration::from_secs(2), ..Limits::default() });
    let mut silent = TcpStream::connect(servers.public).expect("connect");
    let mut slow = TcpStream::connect(servers.public).expect("connect");
    slow.write_all(b"GET /livez HTTP/1.1\r\nHos").expect("write");
    // Both places are taken: a third client is closed at once, without an answer.
    eventually("the limit of connections holds", || raw(servers.public, b"").is_empty());
    for stream in [&mut silent, &mut slow] {
        stream.set_read_timeout(Some(WAIT)).expect("timeout");
        let began = Instant::now();
        let mut said = Vec::new();
        drop(stream.read_to_end(&mut said));
        assert!(began.elapsed() < WAIT / 2, "it was cut off");
        assert!(!String::from_utf8_lossy(&said).contains("200"), "{said:?}");
    }
    eventually("the places are free again", || {
        let request = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        raw(servers.public, request).ends_with(b"ok")
    });
    // One that asks again and again on its connection, and never reads the answers, is cut off by the connection's life.
    let mut greedy = TcpStream::connect(servers.public).expect("connect");
    greedy.set_write_timeout(Some(WAIT)).expect("timeout");
    let began = Instant::now();
    while greedy.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").is_ok() {
        assert!(began.elapsed() < WAIT, "a client that reads nothing is cut off");
    }
}

#[test]
fn servers_whose_driver_is_gone_say_so() {
    let servers = Servers::new(Limits::default());
    servers.stop.send_replace(true);
    let app = servers.app.clone();
    let answer = servers.runtime.block_on(async {
        let deadline = tokio::time::Instant::now() + WAIT;
        loop {
            let refused = app.links.handle.observe().await.err();
            if refused == Some(crate::driver::query::QueryError::Ending)
                || tokio::time::Instant::now() > deadline
            {
                return refused;
            }
        }
    });
    assert_eq!(answer, Some(crate::driver::query::QueryError::Ending));
    let response = servers
        .runtime
        .block_on(metrics::metrics(axum::extract::State(servers.app.clone()), axum::http::HeaderMap::new()));
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
}
