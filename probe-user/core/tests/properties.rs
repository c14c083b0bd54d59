//! Properties of the monitor over arbitrary event lists: the same facts give the same bytes however their sources were
//! interleaved, nothing is lost in between, bounds hold, counters never go back, and nothing panics.

#![expect(clippy::unwrap_used, reason = "a test that panics fails")]

use probe_core::catalogue::{self, LAG_BUCKETS, OTHER};
use probe_core::command::Command;
use probe_core::event::{
    Address, Anomaly, ContainerStatus, Deletion, Endpoint, Event, Fact, Key, Loss, Pod, Service, Slice,
    WatchHealth, WatchKind, Workload,
};
use probe_core::limits::{Limits, SECOND};
use probe_core::monitor::Monitor;
use probe_core::snapshot::{Snapshot, Value};
use probe_core::termination::Filter;
use probe_core::time::Mono;
use probe_ebpf::class::{Class, Confidence, Phase};
use probe_ebpf::wire::{Counters, SlotRef};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

const WINDOW_NS: u64 = 100_000_000;

/// Small bounds, so that arbitrary lists meet them.
fn limits() -> Limits {
    Limits {
        history: 3,
        series: 160,
        series_ttl_ns: 20 * SECOND,
        evidence: 2,
        pods: 4,
        slots: 3,
        containers: 5,
        objects: 3,
        endpoints: 4,
        ..Limits::default()
    }
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0u64..6, 1 => Just(u64::MAX), 1 => any::<u64>()]
}

fn small() -> impl Strategy<Value = u32> {
    prop_oneof![12 => 0u32..4, 1 => any::<u32>()]
}

fn slot() -> impl Strategy<Value = SlotRef> {
    let generation = prop_oneof![6 => Just(1u32), 1 => small()];
    (small(), generation).prop_map(|(slot, generation)| SlotRef { slot, generation })
}

fn uid() -> impl Strategy<Value = String> {
    prop_oneof![12 => (0u8..5).prop_map(|n| format!("u{n}")), 1 => Just(String::new())]
}

fn address() -> impl Strategy<Value = IpAddr> {
    (0u8..4).prop_map(|n| IpAddr::V4(Ipv4Addr::new(10, 0, 0, n)))
}

fn key() -> impl Strategy<Value = Key> {
    (0u8..2, 0u8..4)
        .prop_map(|(namespace, name)| Key { namespace: format!("ns{namespace}"), name: format!("x{name}") })
}

fn container() -> impl Strategy<Value = ContainerStatus> {
    (0u8..2, 0u8..5, 0u32..3, prop::option::of(any::<i32>()), prop::option::of(any::<bool>())).prop_map(
        |(name, id, restarts, exit_code, started)| ContainerStatus {
            name: format!("c{name}"),
            id: if id == 0 { String::new() } else { format!("id{id}") },
            restarts,
            terminated_reason: if id == 1 { "OOMKilled".to_owned() } else { String::new() },
            exit_code,
            started,
        },
    )
}

prop_compose! {
    fn pod()(
        uid in uid(),
        workload in 0u8..6,
        host_network in prop::bool::weighted(0.1),
        addresses in prop::collection::vec(address(), 0..3),
        ports in prop::collection::vec(any::<u16>(), 0..3),
        deletion in prop::option::of((prop_oneof![4 => 990i64..1100, 1 => any::<i64>()], prop_oneof![4 => 0i64..40, 1 => any::<i64>()])),
        terminal in prop::bool::weighted(0.15),
        ready in any::<bool>(),
        disruption in prop_oneof![6 => Just(""), 1 => Just("Terminated"), 1 => Just("EvictionByEvictionAPI")],
        grace_seconds in prop_oneof![5 => 0u32..60, 1 => any::<u32>()],
        containers in prop::collection::vec(container(), 0..3),
    ) -> Pod {
        Pod {
            cgroup_uid: uid.clone(),
            key: Key { namespace: "ns0".to_owned(), name: format!("pod-{uid}") },
            uid,
            workload: Workload { kind: "Deployment".to_owned(), name: format!("w{workload}") },
            host_network,
            addresses,
            probe_ports: ports.clone(),
            ports,
            deletion: deletion.map(|(deadline_unix_s, grace_seconds)| Deletion { deadline_unix_s, grace_seconds }),
            terminal,
            ready,
            disruption: disruption.to_owned(),
            grace_seconds,
            containers,
            ..Pod::default()
        }
    }
}

prop_compose! {
    fn loss()(slot in slot(), container in prop::option::of(small()), peer in address(), local in address(),
              port in 0u16..4, class in 0usize..10, confidence in 0usize..2, phase in 0usize..3, late in any::<bool>()) -> Loss {
        Loss {
            slot,
            container,
            peer: Address { ip: peer, port },
            local: Address { ip: local, port: 8080 },
            request: 1,
            class: Class::ALL[class],
            confidence: Confidence::ALL[confidence],
            phase: Phase::ALL[phase],
            late,
            late_connection: late,
            unread: 0,
            unacked: 0,
            attempted: None,
        }
    }
}

fn counters() -> impl Strategy<Value = Counters> {
    (prop::collection::vec((0usize..10, 0usize..3, 0usize..2, number()), 0..4), number(), number(), 0u64..40)
        .prop_map(|(lost, opened, probes, last)| {
            let mut counters = Counters { opened, probes_refused: [0, probes, 1], ..Counters::default() };
            counters.late_connections[1][1] = opened;
            counters.late_requests[0][1] = probes;
            counters.last_new_ns = last * SECOND;
            for (class, phase, confidence, count) in lost {
                counters.lost[class][phase][confidence] = count;
            }
            counters
        })
}

fn slice() -> impl Strategy<Value = Slice> {
    let endpoint = (uid(), any::<bool>(), any::<bool>(), any::<bool>())
        .prop_map(|(pod_uid, ready, serving, terminating)| Endpoint { pod_uid, ready, serving, terminating });
    (key(), 0u8..3, prop::collection::vec(endpoint, 0..3)).prop_map(|(key, service, endpoints)| Slice {
        key,
        service: format!("s{service}"),
        ports: vec![80],
        endpoints,
    })
}

fn watch() -> impl Strategy<Value = Fact> {
    let kinds = [WatchKind::Pods, WatchKind::Services, WatchKind::EndpointSlices];
    let healths = [WatchHealth::Synced, WatchHealth::Broken, WatchHealth::Ended];
    (0usize..3, 0usize..3).prop_map(move |(kind, health)| Fact::Watch {
        watch: kinds[kind],
        namespace: if kind == 0 { String::new() } else { "ns0".to_owned() },
        health: healths[health],
    })
}

fn from_api() -> impl Strategy<Value = Fact> {
    prop_oneof![
        6 => pod().prop_map(|pod| Fact::Pod(Box::new(pod))),
        2 => uid().prop_map(|uid| Fact::PodGone { uid }),
        1 => (key(), any::<bool>(), any::<bool>()).prop_map(|(key, headless, publish_not_ready)| {
            Fact::Service(Service { key, headless, publish_not_ready })
        }),
        1 => key().prop_map(|key| Fact::ServiceGone { key }),
        3 => slice().prop_map(Fact::Slice),
        1 => key().prop_map(|key| Fact::SliceGone { key }),
        2 => watch(),
        1 => prop_oneof![3 => 0i64..10, 1 => any::<i64>()].prop_map(|s| Fact::Clock { unix_ns: s.saturating_add(1000).saturating_mul(1_000_000_000) }),
    ]
}

fn from_kernel() -> impl Strategy<Value = Fact> {
    let signals = prop_oneof![3 => Just(15u32), 1 => Just(9), 1 => any::<u32>()];
    prop_oneof![
        4 => (0u64..8, uid(), 0u8..5).prop_map(|(id, pod_uid, container)| Fact::Cgroup {
            id,
            pod_uid,
            container_id: if container == 0 { String::new() } else { format!("id{container}") },
        }),
        1 => (0u64..8).prop_map(|id| Fact::CgroupGone { id }),
        3 => (slot(), small(), signals, any::<bool>(), number()).prop_map(|(slot, container, signal, ignored, open)| {
            Fact::Signal { slot, container, signal, ignored, open }
        }),
        3 => (slot(), small(), any::<u32>(), number()).prop_map(|(slot, container, status, open)| {
            Fact::Exit { slot, container, status, open }
        }),
        1 => (slot(), small(), number()).prop_map(|(slot, container, at)| {
            Fact::Exited { slot, container, exited: Mono(at) }
        }),
        1 => (slot(), prop::option::of(small()), any::<u16>(), any::<bool>()).prop_map(|(slot, container, port, open)| {
            Fact::Listener { slot, container, port, open, listeners: 0 }
        }),
        2 => loss().prop_map(Fact::Loss),
        1 => loss().prop_map(Fact::ProbeRefused),
        4 => (slot(), counters()).prop_map(|(slot, counters)| Fact::Reading { slot, counters: Box::new(counters) }),
        1 => prop::collection::vec(number(), 0..12).prop_map(|values| Fact::KernelAnomalies { values }),
        1 => (0usize..Anomaly::ALL.len(), number()).prop_map(|(kind, count)| Fact::Anomaly { kind: Anomaly::ALL[kind], count }),
    ]
}

/// Events with distinct moments, some milliseconds to some ten seconds apart.
fn events(count: usize) -> impl Strategy<Value = Vec<Event>> {
    let gap = prop_oneof![8 => 1u64..40_000_000, 2 => 1u64..20 * SECOND];
    let fact = prop_oneof![from_api(), from_kernel()];
    prop::collection::vec((gap, fact), 1..count).prop_map(|list| {
        let mut at = SECOND;
        list.into_iter()
            .map(|(gap, fact)| {
                at += gap;
                Event { at: Mono(at), fact }
            })
            .collect()
    })
}

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
    // Refused attempts wait for one more reading, in which a probe would be taken off.
    let last = 3 * (9 * 3 * 15 + 3 * 12);
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
