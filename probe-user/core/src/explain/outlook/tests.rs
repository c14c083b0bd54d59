//! Bounds by hand, and held against the worker itself: whatever its ticks and however long its runs, it keeps to them.

use super::*;
use crate::probes::ProbeResult;
use crate::probes::schedule::Schedule;
use crate::probes::worker::{Next, Worker, WorkerConfig};
use crate::rules::facts::{self, Phase, PodStatus, RestartPolicy, Restarts};

/// When the container starts.
const SINCE: i64 = 1000;

const fn at(seconds: i64) -> Timestamp {
    Timestamp(seconds * NS)
}

fn probe(delay: i32, period: i32, timeout: i32, thresholds: [i32; 2]) -> Probe {
    let [success_threshold, failure_threshold] = thresholds;
    Probe {
        initial_delay_seconds: delay,
        period_seconds: period,
        timeout_seconds: timeout,
        success_threshold,
        failure_threshold,
        ..Probe::default()
    }
}

fn told(kind: ProbeType, probe: &Probe, (ready, restart_count): (bool, i64), now: i64) -> Outlook {
    let status = ContainerStatus { ready, restart_count, ..ContainerStatus::default() };
    outlook(kind, probe, &status, at(SINCE), at(SINCE + now))
}

#[test]
fn bounds_follow_from_period_timeout_delay_and_thresholds() {
    use ProbeType::{Liveness, Readiness, Startup};
    let usual = probe(0, 10, 1, [1, 3]);
    let delayed = probe(30, 10, 1, [1, 3]);
    let slow = probe(0, 5, 20, [2, 3]);
    // Seconds after the container's start: from and by of the next run, passes by, fails from and by.
    for (name, kind, probe, status, now, next, passes, fails) in [
        ("young, live", Liveness, &usual, (false, 0), 4, [4, 14], None, Some([20, 35])),
        ("old, live", Liveness, &usual, (false, 0), 100, [100, 110], None, Some([100, 131])),
        ("restarted: failures may be counted", Liveness, &usual, (false, 1), 4, [4, 14], None, Some([4, 35])),
        ("delayed", Liveness, &delayed, (false, 0), 4, [30, 40], None, Some([50, 61])),
        ("delayed again", Liveness, &delayed, (false, 2), 4, [30, 40], None, Some([30, 61])),
        ("the delay is over", Liveness, &delayed, (false, 0), 30, [30, 40], None, Some([50, 61])),
        ("starting", Startup, &usual, (false, 0), 4, [4, 14], Some(15), Some([20, 35])),
        ("unready", Readiness, &usual, (false, 0), 100, [100, 110], Some(111), None),
        ("ready", Readiness, &usual, (true, 0), 100, [100, 110], None, Some([100, 131])),
        ("slower than its period", Readiness, &slow, (false, 0), 100, [100, 160], Some(200), None),
        ("slower, ready", Readiness, &slow, (true, 0), 100, [100, 160], None, Some([100, 220])),
    ] {
        let since = |moment: Timestamp| moment.0 / NS - SINCE;
        let told = told(kind, probe, status, now);
        assert_eq!([since(told.next_from), since(told.next_by)], next, "{name}");
        assert_eq!(told.passes_by.map(since), passes, "{name}");
        assert_eq!(told.fails.map(|fails| [since(fails.from), since(fails.by)]), fails, "{name}");
    }
}

#[test]
fn absurd_numbers_are_bounds_too() {
    for number in [i32::MIN, -1, 0, i32::MAX] {
        let probe = probe(number, number, number, [number, number]);
        let told = told(ProbeType::Startup, &probe, (false, 0), 5);
        let fails = told.fails.expect("it has not");
        assert!(told.next_from <= told.next_by && fails.from <= fails.by, "{number} {told:?}");
    }
}

/// A worker's runs: from when to when, and what was believed after each.
struct Run {
    begin: i64,
    end: i64,
    believed: Option<ProbeResult>,
}

/// Steps a worker whose first tick comes so long before its container starts; `succeeds` is told a run's number.
fn runs(
    kind: ProbeType,
    probe: &Probe,
    phase: i64,
    duration: i64,
    succeeds: impl Fn(usize) -> bool,
) -> Vec<Run> {
    let mut worker = Worker::new(WorkerConfig {
        kind,
        container: "c".to_owned(),
        is_sidecar: false,
        restarts: Restarts { pod: RestartPolicy::Always, own: None, rules: Vec::new() },
        initial_delay_seconds: probe.initial_delay_seconds,
        success_threshold: probe.success_threshold,
        failure_threshold: probe.failure_threshold,
        deleted: false,
        manager_started: at(0),
    });
    let status = PodStatus {
        phase: Phase::Running,
        containers: vec![facts::ContainerStatus {
            name: "c".to_owned(),
            id: "1".to_owned(),
            state: facts::ContainerState::Running { since: at(SINCE) },
            started: Some(kind != ProbeType::Startup),
            ready: false,
        }],
        init_containers: Vec::new(),
    };
    let mut schedule = Schedule::new(at(SINCE - phase), u64::MAX, probe.period_seconds, 0.0);
    let (mut runs, mut free) = (Vec::new(), 0);
    while runs.len() < 20 && free < SINCE + 1000 {
        let now = (schedule.due().0 / NS).max(free);
        schedule.begin(at(now));
        free = now;
        let runs_now = now >= SINCE && worker.look(Some(&status), at(now)) == Next::Probe;
        if runs_now {
            free = now + duration;
            let succeeds = succeeds(runs.len());
            worker.take(Some(if succeeds { ProbeResult::Success } else { ProbeResult::Failure }));
            runs.push(Run { begin: now, end: free, believed: worker.cached() });
        }
        if worker.on_hold() {
            break;
        }
    }
    runs
}

/// What one way of running says of the bounds, each second of it.
fn keeps_to_its_bounds(
    kind: ProbeType,
    probe: &Probe,
    phase: i64,
    duration: i64,
    turn: usize,
    ends_well: bool,
) {
    let runs = runs(kind, probe, phase, duration, |number| (number < turn) != ends_well);
    let last = runs.last().expect("it runs");
    let turned = if ends_well { ProbeResult::Success } else { ProbeResult::Failure };
    for now in SINCE..last.begin {
        let believed = runs.iter().rev().find(|run| run.end <= now).and_then(|run| run.believed);
        let told = told(kind, probe, (believed == Some(ProbeResult::Success), 0), now - SINCE);
        let next = runs.iter().position(|run| run.begin >= now).expect("before the last");
        let begin = at(runs[next].begin);
        let what =
            format!("{kind} {probe:?} phase {phase} duration {duration} turn {turn} at {now}: {told:?}");
        assert!((told.next_from..=told.next_by).contains(&begin), "{begin} {what}");
        let verdict = runs[next..].iter().find(|run| run.believed == Some(turned)).map(|run| at(run.end));
        if let (false, Some(fails), Some(verdict)) = (ends_well, told.fails, verdict) {
            assert!(fails.from <= verdict, "{verdict} {what}");
            assert!(next < turn || verdict <= fails.by, "{verdict} {what}");
        }
        if let (true, Some(passes_by), Some(verdict)) = (ends_well, told.passes_by, verdict) {
            assert!(next < turn || verdict <= passes_by, "{verdict} {what}");
        }
    }
}

#[test]
fn the_worker_keeps_to_them_whatever_its_ticks() {
    for kind in ProbeType::ALL {
        for (period, timeout) in [(1, 1), (3, 1), (3, 7), (10, 3)] {
            for (delay, thresholds) in [(0, [1, 1]), (0, [1, 3]), (4, [1, 2]), (11, [3, 2])] {
                // Only readiness may ask for more.
                let passes = if kind == ProbeType::Readiness { thresholds[0] } else { 1 };
                let probe = probe(delay, period, timeout, [passes, thresholds[1]]);
                for phase in 0..i64::from(period) {
                    for duration in 0..=i64::from(timeout) {
                        for turn in 0..4 {
                            keeps_to_its_bounds(kind, &probe, phase, duration, turn, true);
                            keeps_to_its_bounds(kind, &probe, phase, duration, turn, false);
                        }
                    }
                }
            }
        }
    }
}
