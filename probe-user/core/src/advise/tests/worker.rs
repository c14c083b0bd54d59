//! The bounds against the kubelet's worker and its schedule themselves, stepped through every whole second of a period and the
//! nanosecond after it.

use super::super::timing::{Bounds, detection, start_budget};
use crate::probes::schedule::Schedule;
use crate::probes::spec::Probe;
use crate::probes::worker::{Next, Worker, WorkerConfig};
use crate::probes::{ProbeResult, ProbeType};
use crate::rules::facts::{ContainerState, ContainerStatus, Phase, PodStatus, Restarts};
use crate::wallclock::Timestamp;

const NS: i64 = 1_000_000_000;

fn probe(initial: i32, period: i32, failures: i32) -> Probe {
    Probe {
        initial_delay_seconds: initial,
        period_seconds: period,
        failure_threshold: failures,
        ..Probe::default()
    }
    .with_defaults()
}

/// When liveness fails: the container starts at `started`, from `broken` on each run fails after `lasts_ns`.
fn fails_at(probe: &Probe, started: i64, broken: i64, lasts_ns: i64) -> i64 {
    let mut worker = Worker::new(WorkerConfig {
        kind: ProbeType::Liveness,
        container: "c".into(),
        is_sidecar: false,
        restarts: Restarts::default(),
        initial_delay_seconds: probe.initial_delay_seconds,
        success_threshold: 1,
        failure_threshold: probe.failure_threshold,
        deleted: false,
        manager_started: Timestamp(-1000 * NS),
    });
    let status = PodStatus {
        phase: Phase::Running,
        containers: vec![ContainerStatus {
            name: "c".into(),
            id: "1".into(),
            state: ContainerState::Running { since: Timestamp(started) },
            started: Some(true),
            ready: true,
        }],
        init_containers: Vec::new(),
    };
    let mut schedule = Schedule::new(Timestamp(0), u64::MAX, probe.period_seconds, 0.0);
    let mut now = 0;
    for _ in 0..1000 {
        now = schedule.due().0.max(now);
        schedule.begin(Timestamp(now));
        let known = Some(&status).filter(|_| now >= started);
        if worker.look(known, Timestamp(now)) != Next::Probe {
            continue;
        }
        if now < broken {
            worker.take(Some(ProbeResult::Success));
            continue;
        }
        now += lasts_ns;
        worker.take(Some(ProbeResult::Failure));
        if worker.cached() == Some(ProbeResult::Failure) {
            return now;
        }
    }
    panic!("it never fails");
}

/// The least and the most, where the most is never quite reached.
fn bounds_of(seen: impl Iterator<Item = i64>) -> Bounds {
    let seen: Vec<i64> = seen.collect();
    let (least, most) = (seen.iter().min().expect("some"), seen.iter().max().expect("some"));
    assert_eq!((least % NS, most % NS), (0, NS - 1), "{seen:?}");
    Bounds { from: least / NS, to: most / NS + 1 }
}

/// Each whole second of a period, and a nanosecond after it.
fn moments(period: i32) -> impl Iterator<Item = i64> {
    (0..i64::from(period)).flat_map(|second| [second * NS, second * NS + 1])
}

#[test]
fn detection_takes_as_long_as_the_worker_takes() {
    for (period, failures, lasts) in [
        (10, 3, 0),
        (10, 3, 1),
        (10, 3, 10),
        (10, 3, 25),
        (1, 1, 0),
        (1, 1, 5),
        (5, 1, 5),
        (7, 4, 3),
        (3, 5, 4),
        (2, 3, 7),
    ] {
        let probe = probe(0, period, failures);
        let first = 4 * i64::from(period) * NS;
        let seen = moments(period).map(|moment| {
            let broken = first + moment;
            fails_at(&probe, -100 * NS, broken, lasts * NS) - broken
        });
        assert_eq!(bounds_of(seen), detection(&probe, lasts), "{period} {failures} {lasts}");
    }
}

#[test]
fn a_start_has_the_time_that_the_worker_leaves_it() {
    for (initial, period, failures) in
        [(0, 10, 3), (0, 10, 30), (15, 10, 3), (7, 3, 2), (30, 1, 1), (0, 1, 1), (4, 9, 1)]
    {
        let probe = probe(initial, period, failures);
        let seen = moments(period).map(|moment| fails_at(&probe, moment, 0, 0) - moment);
        assert_eq!(bounds_of(seen), start_budget(&probe), "{initial} {period} {failures}");
    }
}
