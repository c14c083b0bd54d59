//! The runner with real sockets on loopback: what the manager's own tests cannot show.

use super::*;
use probe_core::probes::ProbeType;
use probe_core::probes::manager::{Counts, Settings};
use probe_core::probes::pace::Caps;
use probe_core::probes::pod::{ProbedContainer, ProbedPod};
use probe_core::probes::spec::{HttpGet, Port, Probe, TcpSocket};
use probe_core::rules::facts::{ContainerState, ContainerStatus, Phase as PodPhase, PodStatus};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Instant;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

const PATIENCE: Duration = Duration::from_secs(20);

fn mirror(concurrency: usize) -> Mirror {
    let caps = Caps { concurrency, per_second: 10_000 };
    Mirror::new(Settings { caps, period_max_seconds: None, exec: false })
}

fn pod(uid: &str, probe: Probe) -> ProbedPod {
    let status = ContainerStatus {
        name: "c".to_owned(),
        id: "c1".to_owned(),
        state: ContainerState::Running { since: Timestamp(0) },
        started: Some(true),
        ready: true,
    };
    let probe = Probe { period_seconds: 1, ..probe }.with_defaults();
    let container = ProbedContainer {
        name: "c".to_owned(),
        probes: vec![(ProbeType::Readiness, probe)],
        ..ProbedContainer::default()
    };
    ProbedPod {
        uid: uid.to_owned(),
        address: "127.0.0.1".to_owned(),
        status: PodStatus { phase: PodPhase::Running, containers: vec![status], init_containers: Vec::new() },
        containers: vec![Arc::new(container)],
        ..ProbedPod::default()
    }
}

fn tcp(address: SocketAddr) -> Probe {
    let port = Port::Number(i32::from(address.port()));
    Probe { tcp_socket: Some(TcpSocket { port, host: String::new() }), ..Probe::default() }
}

fn http(address: SocketAddr) -> Probe {
    let port = Port::Number(i32::from(address.port()));
    Probe { http_get: Some(HttpGet { port, ..HttpGet::default() }), ..Probe::default() }
}

/// Waits until it is so; says what it was at last.
async fn until<T: std::fmt::Debug>(mut look: impl FnMut() -> (bool, T)) {
    let end = Instant::now() + PATIENCE;
    loop {
        let (is_so, seen) = look();
        if is_so {
            return;
        }
        assert!(Instant::now() < end, "{seen:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn attempts(mirror: &Mirror, result: Result) -> Vec<u64> {
    mirror.manager().targets().map(|target| target.tally.attempts(result)).collect()
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

#[tokio::test]
async fn probes_run_at_their_period_and_who_watches_is_told_how_late_each_began() {
    let (listener, address) = listener().await;
    let accept = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(stream);
        }
    });
    let mirror = mirror(100);
    let (told, delays) = mpsc::channel();
    let runner = Runner::new(mirror.clone(), "kube-probe/1.36")
        .observed_by(Box::new(move |due, began| told.send((due, began)).expect("the test waits")));
    let running = tokio::spawn(runner.run());
    let begun = Instant::now();
    for number in 0..20 {
        mirror.handle_pod(pod(&format!("u{number}"), tcp(address)));
    }
    until(|| {
        let successes = attempts(&mirror, Result::Success);
        (successes.len() == 20 && successes.iter().all(|count| *count >= 3), successes)
    })
    .await;
    let seconds = begun.elapsed().as_secs();
    let most = attempts(&mirror, Result::Success).into_iter().max().expect("some");
    assert!(most <= seconds + 2, "{most} in {seconds} s: never faster than the spec");
    mirror.retain(&BTreeSet::new());
    running.abort();
    let delays: Vec<_> = delays.try_iter().collect();
    assert!(delays.len() >= 60, "{}", delays.len());
    assert!(delays.iter().all(|(due, began)| began >= due), "nothing begins before it is due");
    assert_eq!(mirror.manager().counts(), Counts::default());
    accept.abort();
}

#[tokio::test]
async fn a_refusal_is_dated_and_an_answer_ends_it() {
    let (listener, address) = listener().await;
    let mirror = mirror(10);
    let running = tokio::spawn(Runner::new(mirror.clone(), "kube-probe/1.36").run());
    let serve = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await);
        }
    });
    mirror.handle_pod(pod("u", http(address)));
    until(|| {
        let successes = attempts(&mirror, Result::Success);
        (successes == [1], successes)
    })
    .await;
    let refused_since = || mirror.manager().targets().find_map(|target| target.tally.refused_since());
    assert_eq!(refused_since(), None);
    let output = mirror.manager().targets().find_map(|target| Some(target.tally.last()?.output.clone()));
    assert_eq!(output.as_deref(), Some("ok"));
    serve.abort();
    until(|| (refused_since().is_some(), attempts(&mirror, Result::Failure))).await;
    let since = refused_since();
    until(|| {
        let failures = attempts(&mirror, Result::Failure);
        (failures[0] >= 2, failures)
    })
    .await;
    assert_eq!(refused_since(), since, "the first of the row");
    let _listener = TcpListener::bind(address).await.expect("the port is free");
    until(|| (refused_since().is_none(), attempts(&mirror, Result::Failure))).await;
    running.abort();
}

#[tokio::test]
async fn no_more_run_at_a_time_than_the_cap_allows() {
    // Accepted by the kernel alone: no answer comes.
    let (_silent, address) = listener().await;
    let mirror = mirror(3);
    let running = tokio::spawn(Runner::new(mirror.clone(), "kube-probe/1.36").run());
    for number in 0..9 {
        mirror.handle_pod(pod(&format!("u{number}"), http(address)));
    }
    let mut most = 0;
    until(|| {
        let manager = mirror.manager();
        most = most.max(manager.running());
        let ran: u64 = manager.targets().map(|target| target.tally.attempts(Result::Failure)).sum();
        (ran >= 6, manager.counts())
    })
    .await;
    assert_eq!(most, 3);
    assert!(mirror.manager().counts().delayed_by_concurrency > 0);
    running.abort();
}

#[tokio::test]
async fn a_probe_that_cannot_be_made_is_unknown_and_says_why() {
    let mirror = mirror(3);
    let running = tokio::spawn(Runner::new(mirror.clone(), "kube-probe/1.36").run());
    let named = TcpSocket { port: Port::Name("web".to_owned()), host: String::new() };
    mirror.handle_pod(pod("u", Probe { tcp_socket: Some(named), ..Probe::default() }));
    until(|| {
        let unknown = attempts(&mirror, Result::Unknown);
        (unknown == [1], unknown)
    })
    .await;
    let manager = mirror.manager();
    let target = manager.targets().next().expect("a target");
    assert_eq!((target.believes, target.run), (None, 0), "older than the agent, and nothing known of it");
    let output = target.tally.last().map(|ran| ran.output.as_str());
    assert_eq!(output, Some("strconv.Atoi: parsing \"web\": invalid syntax"));
    drop(manager);
    running.abort();
}
