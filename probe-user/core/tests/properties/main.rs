//! Properties of the monitor over arbitrary event lists: the same facts give the same bytes however their sources were
//! interleaved and however often the monitor is saved and restored, nothing is lost in between, bounds hold, counters
//! never go back, and nothing panics.

#![expect(clippy::unwrap_used, reason = "a test that panics fails")]

mod generate;
mod hints;
mod restart;

use generate::{events, from_api, from_kernel, limits, number};
use probe_core::catalogue::{self, LAG_BUCKETS, OTHER};
use probe_core::command::Command;
use probe_core::event::{Deletion, Event, Fact, Key, Pod, Workload};
use probe_core::limits::{Limits, SECOND};
use probe_core::monitor::Monitor;
use probe_core::snapshot::{Snapshot, Value};
use probe_core::termination::Filter;
use probe_core::time::Mono;
use probe_ebpf::wire::{Counters, SlotRef};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fmt::Write as _;

const WINDOW_NS: u64 = 100_000_000;

/// Everything that comes out.
fn transcript(monitor: &mut Monitor, out: &mut String) {
    while let Some(command) = monitor.poll_command() {
        writeln!(out, "{command:?}").unwrap();
    }
    while let Some(finding) = monitor.poll_finding() {
        writeln!(out, "{}", serde_json::to_string(&finding).unwrap()).unwrap();
    }
    while let Some(ended) = monitor.poll_ended() {
        writeln!(out, "{}", serde_json::to_string(&ended).unwrap()).unwrap();
    }
}

fn run(events: &[Event]) -> String {
    let mut monitor = Monitor::new(limits(), "n1".to_owned());
    for event in events {
        monitor.handle(event.clone());
    }
    let end = events.iter().map(|event| event.at).max().unwrap_or_default().after(500 * SECOND);
    monitor.handle_timeout(end);
    let mut out = String::new();
    transcript(&mut monitor, &mut out);
    let filter = Filter::default();
    write!(out, "{:?}{:?}", monitor.snapshot(), monitor.slots()).unwrap();
    out.push_str(&serde_json::to_string(&monitor.terminations(&filter)).unwrap());
    out.push_str(&serde_json::to_string(&monitor.restarts(&filter)).unwrap());
    out
}

fn counters_of(snapshot: &Snapshot) -> BTreeMap<(&'static str, Vec<String>), u64> {
    let count = |value: &Value| match value {
        Value::Counter(count) => Some(*count),
        Value::Histogram { counts, .. } => Some(counts.iter().sum()),
        Value::Seconds(_) | Value::Gauge(_) => None,
    };
    let series = snapshot.series.iter();
    series.filter_map(|one| Some(((one.family, one.labels.clone()), count(&one.value)?))).collect()
}

fn lines_of_workloads(snapshot: &Snapshot) -> usize {
    let is_of_workload = |labels: &[String]| labels.len() >= 3 && labels[0] != OTHER;
    let lines =
        |value: &Value| if matches!(value, Value::Histogram { .. }) { LAG_BUCKETS.len() + 3 } else { 1 };
    snapshot.series.iter().filter(|one| is_of_workload(&one.labels)).map(|one| lines(&one.value)).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn the_same_events_give_the_same_bytes(events in events(80)) {
        prop_assert_eq!(run(&events), run(&events));
    }

    /// Pods and cgroups arrive at their moment, for that is when they were received, and part of them is told to the
    /// kernel side at once; all else may come later by anything below the window.
    #[test]
    fn any_interleaving_inside_the_window_gives_the_same_result(
        (events, delays) in events(80).prop_flat_map(|events| {
            let count = events.len();
            (Just(events), prop::collection::vec(0..WINDOW_NS, count))
        })
    ) {
        let arrival = |event: &Event, delay: u64| {
            let is_prompt = matches!(event.fact, Fact::Pod(_) | Fact::Cgroup { .. });
            if is_prompt { event.at.0 } else { event.at.0 + delay }
        };
        let mut arrivals: Vec<(u64, Event)> =
            events.iter().zip(delays).map(|(event, delay)| (arrival(event, delay), event.clone())).collect();
        arrivals.sort_by_key(|(arrival, _)| *arrival);
        let arrived: Vec<Event> = arrivals.into_iter().map(|(_, event)| event).collect();
        prop_assert_eq!(run(&events), run(&arrived));
    }

    #[test]
    fn how_often_time_is_told_makes_no_difference(events in events(60)) {
        let mut out = String::new();
        let mut monitor = Monitor::new(limits(), "n1".to_owned());
        for event in &events {
            while let Some(at) = monitor.poll_timeout().filter(|at| *at < event.at) {
                monitor.handle_timeout(at);
            }
            monitor.handle(event.clone());
        }
        monitor.handle_timeout(events.last().unwrap().at.after(500 * SECOND));
        transcript(&mut monitor, &mut out);
        prop_assert!(run(&events).starts_with(&out));
    }

    #[test]
    fn events_in_are_applied_or_behind_or_waiting(mut events in events(60), shuffled in any::<bool>(), pending in 1usize..9) {
        if shuffled {
            events.reverse();
        }
        let mut monitor = Monitor::new(Limits { pending, ..limits() }, "n1".to_owned());
        for (count, event) in (1..).zip(events) {
            monitor.handle(event);
            let counts = monitor.events();
            prop_assert_eq!(counts.received, count);
            prop_assert_eq!(counts.applied + counts.behind + counts.waiting, count);
            prop_assert!(counts.waiting <= pending as u64);
        }
    }

    #[test]
    fn bounds_hold_and_counters_never_go_back(events in events(120)) {
        // Series that go and are born anew begin at 0: not here.
        let limits = Limits { series_ttl_ns: u64::MAX, ..limits() };
        let mut monitor = Monitor::new(limits, "n1".to_owned());
        let mut before: BTreeMap<(&'static str, Vec<String>), u64> = BTreeMap::new();
        for event in events {
            monitor.handle(event);
            let snapshot = monitor.snapshot();
            let now = counters_of(&snapshot);
            for (series, old) in &before {
                let new = now.get(series).copied();
                prop_assert!(new.is_some_and(|new| new >= *old), "{series:?}: {old} {new:?}");
            }
            before = now;
            monitor.scraped(snapshot.at);
            prop_assert!(monitor.slots().len() <= limits.slots as usize);
            prop_assert!(lines_of_workloads(&snapshot) <= limits.series);
            let all = monitor.terminations(&Filter::default()).items;
            prop_assert!(all.len() <= limits.history + limits.pods);
            prop_assert!(all.iter().all(|item| item.evidence.len() <= limits.evidence));
            prop_assert!(monitor.restarts(&Filter::default()).items.len() <= limits.history);
        }
    }

    #[test]
    fn series_are_sorted_unique_and_as_the_catalogue_says(events in events(80)) {
        let mut monitor = Monitor::new(limits(), "n1".to_owned());
        for event in events {
            monitor.handle(event);
        }
        let series = monitor.snapshot().series;
        let place = |family: &str| catalogue::CATALOGUE.iter().position(|known| known.name == family).unwrap();
        let keys: Vec<_> = series.iter().map(|one| (place(one.family), &one.labels)).collect();
        prop_assert!(keys.windows(2).all(|pair| pair[0] < pair[1]));
        for one in &series {
            let family = catalogue::family(one.family).unwrap();
            prop_assert_eq!(family.source, catalogue::Source::Core);
            prop_assert_eq!(family.labels.len(), one.labels.len());
        }
    }

    #[test]
    fn nothing_panics_at_any_time(facts in prop::collection::vec((number(), prop_oneof![from_api(), from_kernel()]), 1..60)) {
        let mut monitor = Monitor::new(limits(), "n1".to_owned());
        for (at, fact) in facts {
            monitor.handle(Event { at: Mono(at), fact });
        }
        monitor.handle_timeout(Mono(u64::MAX));
        let mut out = String::new();
        transcript(&mut monitor, &mut out);
        let all = monitor.terminations(&Filter::default());
        prop_assert!(serde_json::to_string(&all).is_ok());
        prop_assert!(monitor.advice(&Filter::default()).iter().all(|of| of.advice.terminations > 0));
    }
}

/// What was lost is in the sum over all workloads, `~other` included: the sum that alerts take.
#[test]
fn no_count_is_lost_between_readings_and_series() {
    let mut monitor = Monitor::new(limits(), "n1".to_owned());
    let mut at = SECOND;
    let mut next = |monitor: &mut Monitor, fact| {
        at += SECOND;
        monitor.handle(Event { at: Mono(at), fact });
    };
    for n in 0..3u32 {
        let pod = Pod {
            uid: format!("u{n}"),
            key: Key { namespace: "ns0".to_owned(), name: format!("p{n}") },
            workload: Workload { kind: "Deployment".to_owned(), name: format!("w{n}") },
            ..Pod::default()
        };
        next(&mut monitor, Fact::Pod(Box::new(pod)));
    }
    for count in 1..=5u64 {
        for slot in 0..3 {
            let mut counters = Counters::default();
            for of_phase in counters.lost.iter_mut().flatten() {
                *of_phase = [count, 2 * count];
            }
            next(
                &mut monitor,
                Fact::Reading { slot: SlotRef { slot, generation: 1 }, counters: Box::new(counters) },
            );
        }
    }
    monitor.handle_timeout(Mono(500 * SECOND));
    monitor.scraped(Mono(u64::MAX));
    let counters = counters_of(&monitor.snapshot());
    let sum: u64 =
        counters.iter().filter(|((family, _), _)| *family == "lost_requests").map(|(_, count)| count).sum();
    let last = 3 * 10 * 3 * 15;
    assert_eq!(sum, last);
    assert_eq!(counters[&("node_lost_requests", Vec::new())], last);
    assert!(counters[&("series_dropped", Vec::new())] > 0);
}

#[test]
fn a_new_container_and_a_deletion_are_told_to_the_kernel_side_without_delay() {
    let mut monitor = Monitor::new(limits(), "n1".to_owned());
    let slot = SlotRef { slot: 0, generation: 1 };
    let cgroup = Fact::Cgroup { id: 7, pod_uid: "u1".to_owned(), container_id: "id1".to_owned() };
    monitor.handle(Event { at: Mono(SECOND), fact: cgroup });
    assert_eq!(monitor.poll_command(), Some(Command::WatchSlot { slot }));
    assert_eq!(monitor.poll_command(), Some(Command::AddContainer { container: 0, cgroup: 7, slot }));
    let pod = Pod {
        uid: "u1".to_owned(),
        key: Key { namespace: "ns0".to_owned(), name: "p1".to_owned() },
        deletion: Some(Deletion { deadline_unix_s: 0, grace_seconds: 0 }),
        ..Pod::default()
    };
    monitor.handle(Event { at: Mono(SECOND + 1), fact: Fact::Pod(Box::new(pod)) });
    assert_eq!(monitor.poll_command(), Some(Command::MarkDeleting { slot }));
    assert_eq!(monitor.poll_command(), None);
    monitor.handle_timeout(Mono(2 * SECOND));
    assert_eq!(monitor.poll_command(), None);
}
