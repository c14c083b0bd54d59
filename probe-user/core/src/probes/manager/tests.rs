//! The manager stepped through time: nothing here waits.

use super::*;
use crate::limits::SECOND;
use crate::probes::spec::{Exec, Port, Probe, TcpSocket};
use crate::probes::tally::Parts;
use crate::probes::verdict::Outcome;
use crate::rules::facts::{ContainerState, ContainerStatus, Phase, PodStatus};

const MS: u64 = 1_000_000;
/// The manager's start on both clocks.
const START: Now = Now { mono: Mono(1000 * SECOND), wall: Timestamp(1_000_000 * SECOND as i64) };
const SETTINGS: Settings =
    Settings { caps: Caps { concurrency: 100, per_second: 10_000 }, period_max_seconds: None, exec: false };

fn at(ms: u64) -> Now {
    Now { mono: START.mono.after(ms * MS), wall: Timestamp(START.wall.0 + i64::try_from(ms * MS).unwrap()) }
}

fn manager(settings: Settings) -> Manager {
    Manager::new(settings, START)
}

fn tcp() -> Probe {
    let port = Port::Number(80);
    Probe { tcp_socket: Some(TcpSocket { port, host: String::new() }), ..Probe::default() }.with_defaults()
}

/// A pod whose container `c` runs since the manager's start and has these probes.
fn pod(uid: &str, probes: &[(ProbeType, Probe)]) -> ProbedPod {
    let status = ContainerStatus {
        name: "c".to_owned(),
        id: "c1".to_owned(),
        state: ContainerState::Running { since: START.wall },
        started: Some(true),
        ready: false,
    };
    let container =
        ProbedContainer { name: "c".to_owned(), probes: probes.to_vec(), ..ProbedContainer::default() };
    ProbedPod {
        uid: uid.to_owned(),
        address: "10.0.0.1".to_owned(),
        status: PodStatus { phase: Phase::Running, containers: vec![status], init_containers: Vec::new() },
        containers: vec![Arc::new(container)],
        ..ProbedPod::default()
    }
}

fn readiness(uid: &str) -> ProbedPod {
    pod(uid, &[(ProbeType::Readiness, tcp())])
}

fn ran(result: Outcome) -> Option<Ran> {
    let (at, parts) = (START.wall, Parts::default());
    Some(Ran { at, result, output: String::new(), duration_ns: 1, parts, is_refused: false })
}

fn begun(manager: &mut Manager, now: Now) -> Vec<Start> {
    std::iter::from_fn(|| manager.poll(now)).collect()
}

/// Runs all that is due each second of these, with this result; when probes began.
fn seconds(manager: &mut Manager, range: std::ops::Range<u64>, result: Outcome) -> Vec<u64> {
    let mut at_s = Vec::new();
    for second in range {
        for start in begun(manager, at(second * 1000)) {
            at_s.push(second);
            manager.finish(start.id, ran(result), at(second * 1000));
        }
    }
    at_s
}

fn believes(manager: &Manager) -> Vec<Option<ProbeResult>> {
    manager.targets().map(|target| target.believes).collect()
}

#[test]
fn first_probes_are_spread_over_a_period_while_the_manager_is_young_and_at_once_later() {
    let mut young = manager(SETTINGS);
    young.handle_pod(readiness("a"), at(0), &mut || 0.25);
    assert_eq!(young.next_due(at(0).mono), Some(at(2500).mono));
    assert!(begun(&mut young, at(2499)).is_empty());
    assert_eq!(begun(&mut young, at(2500)).len(), 1);
    let mut old = manager(SETTINGS);
    old.handle_pod(readiness("a"), at(10_000), &mut || 0.25);
    assert_eq!(seconds(&mut old, 10..40, Outcome::Success), [10, 20, 30]);
}

#[test]
fn the_period_is_the_specs_unless_a_shorter_one_is_asked_for() {
    for (asked, expected) in [(None, &[20, 30][..]), (Some(4), &[20, 24, 28, 32]), (Some(60), &[20, 30])] {
        let mut manager = manager(Settings { period_max_seconds: asked, ..SETTINGS });
        manager.handle_pod(readiness("a"), at(20_000), &mut || 0.0);
        assert_eq!(seconds(&mut manager, 20..36, Outcome::Success), expected, "{asked:?}");
    }
}

#[test]
fn verdicts_turn_at_the_thresholds_and_the_run_survives_a_restart() {
    let mut manager = manager(SETTINGS);
    manager.handle_pod(readiness("a"), at(20_000), &mut || 0.0);
    seconds(&mut manager, 20..30, Outcome::Success);
    assert_eq!(believes(&manager), [Some(ProbeResult::Success)]);
    seconds(&mut manager, 30..50, Outcome::Failure);
    assert_eq!(believes(&manager), [Some(ProbeResult::Success)], "two of three");
    let mut restarted = readiness("a");
    restarted.status.containers[0].id = "c2".to_owned();
    manager.handle_pod(restarted, at(50_000), &mut || 0.0);
    let start = begun(&mut manager, at(50_000)).pop().expect("a tick");
    assert_eq!(believes(&manager), [Some(ProbeResult::Failure)], "a new container is unready at first");
    manager.finish(start.id, ran(Outcome::Failure), at(50_000));
    assert_eq!(manager.targets().map(|target| target.run).collect::<Vec<_>>(), [3]);
}

#[test]
fn a_result_of_a_container_or_a_pod_that_has_gone_is_dropped() {
    let mut manager = manager(SETTINGS);
    manager.handle_pod(readiness("a"), at(20_000), &mut || 0.0);
    let start = begun(&mut manager, at(20_000)).pop().expect("a tick");
    let mut restarted = readiness("a");
    restarted.status.containers[0].id = "c2".to_owned();
    manager.handle_pod(restarted, at(20_500), &mut || 0.0);
    assert!(!manager.finish(start.id, ran(Outcome::Success), at(20_600)));
    assert_eq!(manager.targets().map(|target| target.run).collect::<Vec<_>>(), [0]);
    let start = begun(&mut manager, at(30_000)).pop().expect("it goes on");
    manager.remove("a", at(60_000));
    assert_eq!((manager.workers(), manager.running()), (0, 1), "it still counts against the cap");
    assert!(!manager.finish(start.id, ran(Outcome::Success), at(30_100)));
    assert_eq!((manager.counts().late_results, manager.running()), (2, 0));
    assert_eq!(manager.next_due(at(30_100).mono), None, "nothing is left of it");
}

#[test]
fn a_probe_longer_than_its_period_is_followed_at_once_and_is_never_beside_itself() {
    let mut manager = manager(SETTINGS);
    manager.handle_pod(readiness("a"), at(20_000), &mut || 0.0);
    let start = begun(&mut manager, at(20_000)).pop().expect("a tick");
    assert!(begun(&mut manager, at(45_000)).is_empty());
    manager.finish(start.id, ran(Outcome::Success), at(45_000));
    let next = begun(&mut manager, at(45_000)).pop().expect("one tick was kept");
    assert_eq!(next.due, at(45_000).mono, "its own slowness is no delay");
    manager.finish(next.id, ran(Outcome::Success), at(45_001));
    assert_eq!(manager.next_due(at(45_001).mono), Some(at(50_000).mono));
}

#[test]
fn deletion_stops_liveness_and_startup_and_readiness_goes_on() {
    let all = || pod("a", &ProbeType::ALL.map(|kind| (kind, tcp())));
    let kinds = |manager: &Manager| manager.targets().map(|target| target.kind).collect::<Vec<_>>();
    let mut manager = manager(SETTINGS);
    manager.handle_pod(all(), at(20_000), &mut || 0.0);
    assert_eq!(manager.workers(), 3);
    let deleted = ProbedPod { is_deleted: true, ..all() };
    manager.handle_pod(deleted.clone(), at(21_000), &mut || 0.0);
    assert_eq!(kinds(&manager), [ProbeType::Readiness]);
    assert_eq!(seconds(&mut manager, 21..50, Outcome::Success), [21, 31, 41]);
    manager.remove("a", at(60_000));
    manager.handle_pod(deleted, at(51_000), &mut || 0.0);
    assert_eq!(kinds(&manager), [ProbeType::Readiness], "also where the deletion came first");
    manager.retain(&BTreeSet::new(), at(60_000));
    assert_eq!((manager.workers(), manager.pods()), (0, 0));
}

#[test]
fn what_a_cap_delays_begins_later_in_order_and_is_counted_once() {
    let caps = Caps { concurrency: 2, per_second: 10_000 };
    let mut manager = manager(Settings { caps, ..SETTINGS });
    for uid in ["a", "b", "c", "d"] {
        manager.handle_pod(readiness(uid), at(20_000), &mut || 0.0);
    }
    let first = begun(&mut manager, at(20_000));
    assert_eq!((first.len(), manager.running()), (2, 2));
    assert!(begun(&mut manager, at(20_100)).is_empty());
    assert_eq!(manager.counts().delayed_by_concurrency, 2);
    assert_eq!(manager.next_due(at(20_100).mono), None, "an end makes room, not time");
    manager.remove("c", at(20_100));
    manager.finish(first[0].id, ran(Outcome::Success), at(20_200));
    let next = begun(&mut manager, at(20_200));
    assert_eq!(next.iter().map(|start| (start.id, start.due)).collect::<Vec<_>>(), [(3, at(20_000).mono)]);
    assert_eq!(manager.counts().delayed_by_concurrency, 2);
}

#[test]
fn the_rate_holds_for_all_together() {
    let caps = Caps { concurrency: 100, per_second: 10 };
    let mut manager = manager(Settings { caps, ..SETTINGS });
    for number in 0..20 {
        manager.handle_pod(readiness(&format!("u{number}")), at(20_000), &mut || 0.0);
    }
    assert_eq!(begun(&mut manager, at(20_000)).len(), 1);
    assert_eq!(manager.next_due(at(20_000).mono), Some(at(20_100).mono));
    assert_eq!(begun(&mut manager, at(20_099)).len(), 0);
    assert_eq!(begun(&mut manager, at(20_100)).len(), 1);
    assert_eq!(manager.counts().delayed_by_rate, 19);
}

#[test]
fn a_probe_that_waits_for_room_is_not_run_for_a_container_that_ended_meanwhile() {
    let caps = Caps { concurrency: 1, per_second: 10_000 };
    let mut manager = manager(Settings { caps, ..SETTINGS });
    manager.handle_pod(readiness("a"), at(20_000), &mut || 0.0);
    manager.handle_pod(readiness("b"), at(20_000), &mut || 0.0);
    let first = begun(&mut manager, at(20_000)).pop().expect("room for one");
    let mut ended = readiness("b");
    ended.status.containers[0].state = ContainerState::Terminated { exit_code: 0 };
    manager.handle_pod(ended, at(20_100), &mut || 0.0);
    manager.finish(first.id, ran(Outcome::Success), at(20_200));
    assert!(begun(&mut manager, at(20_200)).is_empty());
    assert_eq!(believes(&manager), [Some(ProbeResult::Success), Some(ProbeResult::Failure)]);
}

#[test]
fn exec_probes_are_targets_that_are_not_run_unless_asked_for() {
    let exec = Probe { exec: Some(Exec { command: vec!["true".to_owned()] }), ..Probe::default() };
    for (asked, runs) in [(false, 0), (true, 1)] {
        let mut manager = manager(Settings { exec: asked, ..SETTINGS });
        manager.handle_pod(
            pod("a", &[(ProbeType::Liveness, exec.clone().with_defaults())]),
            at(20_000),
            &mut || 0.0,
        );
        assert_eq!(begun(&mut manager, at(20_000)).len(), runs);
        let handlers: Vec<_> = manager.targets().map(|target| target.handler).collect();
        assert_eq!(handlers, [HandlerKind::Exec]);
    }
}

#[test]
fn commands_have_half_of_the_room_and_the_others_pass_those_that_wait() {
    let exec = Probe { exec: Some(Exec { command: vec!["true".to_owned()] }), ..Probe::default() };
    let exec = [(ProbeType::Liveness, exec.with_defaults())];
    let caps = Caps { concurrency: 4, per_second: 10_000 };
    let mut manager = manager(Settings { caps, exec: true, ..SETTINGS });
    for uid in ["a", "b", "c"] {
        manager.handle_pod(pod(uid, &exec), at(20_000), &mut || 0.0);
    }
    let commands = begun(&mut manager, at(20_000));
    assert_eq!((commands.len(), manager.counts().delayed_by_concurrency), (2, 1));
    for uid in ["d", "e", "f"] {
        manager.handle_pod(readiness(uid), at(21_000), &mut || 0.0);
    }
    let others = begun(&mut manager, at(21_000));
    assert_eq!(others.iter().map(|start| start.id).collect::<Vec<_>>(), [3, 4], "the rest of the room");
    assert_eq!((manager.running(), manager.counts().delayed_by_concurrency), (4, 2));
    manager.remove("a", at(22_000));
    assert!(begun(&mut manager, at(22_000)).is_empty(), "its command is still under way");
    manager.finish(commands[0].id, None, at(23_000));
    let next = begun(&mut manager, at(23_000));
    assert_eq!(next.iter().map(|start| start.id).collect::<Vec<_>>(), [2], "the one that is due the longest");
    manager.finish(others[0].id, ran(Outcome::Success), at(24_000));
    assert_eq!(begun(&mut manager, at(24_000)).iter().map(|start| start.id).collect::<Vec<_>>(), [5]);
    manager.retain(&BTreeSet::new(), at(25_000));
    for id in [1, 2, 4, 5] {
        manager.finish(id, None, at(25_000));
    }
    assert_eq!((manager.running(), manager.queue.len(), manager.workers()), (0, 0, 0));
}

#[test]
fn an_error_says_nothing_about_the_container() {
    let mut manager = manager(SETTINGS);
    manager.handle_pod(readiness("a"), at(20_000), &mut || 0.0);
    seconds(&mut manager, 20..60, Outcome::Unknown);
    let target = manager.targets().next().expect("a target");
    assert_eq!((target.run, target.tally.attempts(Outcome::Unknown)), (0, 4));
}

#[test]
fn pods_beyond_the_bound_are_refused_and_churn_leaves_nothing_behind() {
    let mut manager = manager(SETTINGS);
    for number in 0..PODS_MAX + 5 {
        manager.handle_pod(readiness(&format!("u{number:05}")), at(0), &mut || 0.5);
    }
    assert_eq!((manager.pods(), manager.workers(), manager.counts().refused), (PODS_MAX, PODS_MAX, 5));
    for number in 0..PODS_MAX {
        manager.remove(&format!("u{number:05}"), at(1));
    }
    assert_eq!((manager.pods(), manager.workers(), manager.due.len(), manager.queue.len()), (0, 0, 0, 0));
}

#[test]
fn a_pod_without_an_address_waits_for_one() {
    let mut manager = manager(SETTINGS);
    manager.handle_pod(ProbedPod { address: String::new(), ..readiness("a") }, at(20_000), &mut || 0.0);
    assert!(begun(&mut manager, at(20_000)).is_empty());
    manager.handle_pod(readiness("a"), at(21_000), &mut || 0.0);
    assert_eq!(seconds(&mut manager, 21..35, Outcome::Success), [30]);
}
