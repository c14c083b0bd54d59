//! The prober that `cargo xtask bench probes` measures: many pods with one probe each, once a second, run as mirror mode runs them.
//!
//! Arguments: `http` or `tcp`, the targets' port, how many there are (from 127.1.0.1 on). Each line on standard input is answered by one of JSON:
//! probes since the one before, how many did not succeed, and how late they began, from due to started. Ends with its input. No kernel programs, no API:
//! what those cost, the other benchmarks tell. Not part of the image.

use std::io::{Write as _, stdin, stdout};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, bail, ensure};
use drainscope::mirror::Mirror;
use drainscope::mirror::runner::Runner;
use probe_core::probes::ProbeType;
use probe_core::probes::manager::Settings;
use probe_core::probes::pace::Caps;
use probe_core::probes::pod::{ProbedContainer, ProbedPod};
use probe_core::probes::spec::{HttpGet, Port, Probe, TcpSocket};
use probe_core::probes::verdict::Outcome;
use probe_core::rules::facts::{ContainerState, ContainerStatus, Phase, PodStatus};
use probe_core::wallclock::Timestamp;

/// Address before that of the first target.
const BEFORE_FIRST: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 0);
/// Most targets, so that all are addresses of the loopback.
const TARGETS_MAX: u32 = 10_000;
/// No cap is to be met: what is measured is what the probes cost.
const CAPS: Caps = Caps { concurrency: 10_000, per_second: 100_000 };

/// Microseconds from due to started, of the probes since they were last asked for.
type Delays = Arc<Mutex<Vec<u32>>>;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [handler, port, targets] = arguments.as_slice() else { bail!("arguments: http|tcp PORT TARGETS") };
    let probe = probe(handler, port.parse().context("the port is no number")?)?;
    let targets: u32 = targets.parse().context("the targets are no number")?;
    ensure!(targets <= TARGETS_MAX, "more than {TARGETS_MAX} targets");
    // The agent's own runtime.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let entered = runtime.enter();
    let mirror = Mirror::new(Settings { caps: CAPS, period_max_seconds: None, exec: false });
    for number in 0..targets {
        mirror.handle_pod(pod(number, &probe));
    }
    let delays = Delays::default();
    let told = Arc::clone(&delays);
    let observer = move |due: probe_core::time::Mono, began: probe_core::time::Mono| {
        let late = u32::try_from(began.since(due) / 1000).unwrap_or(u32::MAX);
        told.lock().unwrap_or_else(PoisonError::into_inner).push(late);
    };
    runtime.spawn(Runner::new(mirror.clone(), "kube-probe/1.36").observed_by(Box::new(observer)).run());
    drop(entered);
    let mut failed_before = 0;
    for line in stdin().lines() {
        line?;
        let failed = failed(&mirror);
        let delays = std::mem::take(&mut *delays.lock().unwrap_or_else(PoisonError::into_inner));
        writeln!(stdout(), "{}", report(delays, failed - failed_before))?;
        failed_before = failed;
    }
    Ok(())
}

fn probe(handler: &str, port: u16) -> anyhow::Result<Probe> {
    let (port, host) = (Port::Number(i32::from(port)), String::new());
    let probe = Probe { period_seconds: 1, ..Probe::default() };
    Ok(match handler {
        "http" => {
            let get = HttpGet { path: "/healthz".to_owned(), port, ..HttpGet::default() };
            Probe { http_get: Some(get), ..probe }
        }
        "tcp" => Probe { tcp_socket: Some(TcpSocket { port, host }), ..probe },
        _ => bail!("no probe is named {handler}"),
    }
    .with_defaults())
}

fn pod(number: u32, probe: &Probe) -> ProbedPod {
    let status = ContainerStatus {
        name: "server".to_owned(),
        id: "containerd://1".to_owned(),
        state: ContainerState::Running { since: Timestamp(0) },
        started: Some(true),
        ready: true,
    };
    let container = ProbedContainer {
        name: "server".to_owned(),
        probes: vec![(ProbeType::Readiness, probe.clone())],
        ..ProbedContainer::default()
    };
    ProbedPod {
        uid: number.to_string(),
        address: Ipv4Addr::from_bits(BEFORE_FIRST.to_bits() + 1 + number).to_string(),
        status: PodStatus { phase: Phase::Running, containers: vec![status], init_containers: Vec::new() },
        containers: vec![Arc::new(container)],
        ..ProbedPod::default()
    }
}

/// Probes so far that did not succeed.
fn failed(mirror: &Mirror) -> u64 {
    let manager = mirror.manager();
    let of = |result| manager.targets().map(|target| target.tally.attempts(result)).sum::<u64>();
    of(Outcome::Warning) + of(Outcome::Failure) + of(Outcome::Unknown)
}

fn report(mut delays: Vec<u32>, failed: u64) -> serde_json::Value {
    delays.sort_unstable();
    let ms = |percent| f64::from(rank(&delays, percent)) / 1000.0;
    serde_json::json!({
        "probes": delays.len(), "failed": failed,
        "p50_ms": ms(50), "p99_ms": ms(99), "max_ms": ms(100),
    })
}

/// The least value that so many percent of the sorted values do not exceed.
fn rank(sorted: &[u32], percent: usize) -> u32 {
    sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_the_nearest_above() {
        let hundred: Vec<u32> = (1..=100).collect();
        assert_eq!([50, 99, 100].map(|percent| rank(&hundred, percent)), [50, 99, 100]);
        assert_eq!([50, 99, 100].map(|percent| rank(&[7, 9, 11], percent)), [9, 11, 11]);
        assert_eq!(rank(&[], 99), 0);
    }

    #[test]
    fn a_report_has_delays_in_milliseconds_whatever_their_order() {
        let report = report(vec![3000, 1000, 2000], 1);
        assert_eq!(
            report,
            serde_json::json!({"probes": 3, "failed": 1, "p50_ms": 2.0, "p99_ms": 3.0, "max_ms": 3.0})
        );
    }
}
