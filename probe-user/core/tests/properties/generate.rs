//! Generators of events: any fact at any time, from few pods, addresses and slots, so that facts meet. Nothing of them is
//! as a real cluster would have it.

use probe_core::conntrack::{Entry, EntryState, Tracked};
use probe_core::event::{
    Address, Anomaly, ContainerStatus, Deletion, Endpoint, Event, Fact, HintSource, Key, Loss, Pod, PortHint,
    Service, Slice, WatchHealth, WatchKind, Workload,
};
use probe_core::exec::{ExecHook, ExecUse, Execed};
use probe_core::kubelet::{ProbeUse, Seen};
use probe_core::limits::{Limits, SECOND};
use probe_core::probes::ProbeType;
use probe_core::probes::pod::HandlerKind;
use probe_core::time::Mono;
use probe_core::verdicts::{Counts, Reading, Told};
use probe_ebpf::class::{Class, Confidence, Phase};
use probe_ebpf::protocol::Protocol;
use probe_ebpf::wire::{Counters, SlotRef};
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr};

/// Small bounds, so that arbitrary lists meet them.
pub(crate) fn limits() -> Limits {
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

pub(crate) fn number() -> impl Strategy<Value = u64> {
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
            // Its own or, of one that was started again, that of the one before.
            terminated_id: format!("id{}", id.saturating_sub(u8::from(exit_code.is_none()))),
            exit_code,
            started,
        },
    )
}

pub(crate) fn hints() -> impl Strategy<Value = Vec<PortHint>> {
    let sources =
        [HintSource::Probe, HintSource::ContainerPort, HintSource::ServicePort, HintSource::AppProtocol];
    let hint = (78u16..82, 0usize..4, 0usize..6).prop_map(move |(port, source, protocol)| PortHint {
        port,
        source: sources[source],
        protocol: Protocol::ALL[protocol],
    });
    prop::collection::vec(hint, 0..3)
}

fn probe(port: u16) -> ProbeUse {
    let probe_type = ProbeType::ALL[usize::from(port % 3)];
    let (timeout_seconds, period_seconds) = (u32::from(port % 4), 10);
    ProbeUse {
        container: "c0".to_owned(),
        probe_type,
        handler: HandlerKind::Http,
        port,
        timeout_seconds,
        period_seconds,
    }
}

fn exec_probe(number: u8) -> ExecUse {
    ExecUse {
        container: format!("c{}", number % 2),
        probe_type: ProbeType::ALL[usize::from(number % 3)],
        names: vec![format!("n{}", number % 3)],
        timeout_seconds: 1,
        period_seconds: u32::from(number % 4),
    }
}

prop_compose! {
    fn execed()(slot in slot(), container in small(), name in 0u8..4, started in number(), lasted in number(), cpu_ns in number(),
                status in small(), terminal in prop::bool::weighted(0.1)) -> Fact {
        let started = Mono(started);
        let comm = if name == 3 { "runc:[2:INIT]".to_owned() } else { format!("n{name}") };
        Fact::Execed(Execed { slot, container, pid: 1, comm, started, ended: started.after(lasted), cpu_ns, status, terminal })
    }
}

prop_compose! {
    fn pod()(
        uid in uid(),
        workload in 0u8..6,
        host_network in prop::bool::weighted(0.1),
        addresses in prop::collection::vec(address(), 0..3),
        ports in prop::collection::vec(prop_oneof![any::<u16>(), 78u16..82], 0..3),
        hints in hints(),
        deletion in prop::option::of((prop_oneof![4 => 990i64..1100, 1 => any::<i64>()], prop_oneof![4 => 0i64..40, 1 => any::<i64>()])),
        terminal in prop::bool::weighted(0.15),
        ready in any::<bool>(),
        disruption in prop_oneof![6 => Just(""), 1 => Just("Terminated"), 1 => Just("EvictionByEvictionAPI")],
        grace_seconds in prop_oneof![5 => 0u32..60, 1 => any::<u32>()],
        execs in prop::collection::vec(any::<u8>(), 0..3),
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
            probes: ports.iter().map(|port| probe(*port)).collect(),
            exec_hooks: execs.iter().map(|number| {
                let ExecUse { container, names, .. } = exec_probe(number.wrapping_add(1));
                ExecHook { container, at_start: number % 2 == 0, names }
            }).collect(),
            exec_probes: execs.into_iter().map(exec_probe).collect(),
            ports,
            hints,
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
        connect: false,
            attempts: 1,
        }
    }
}

fn tracked((loss, lost, replied, state, expires): (Loss, u64, bool, u8, u64)) -> Fact {
    use EntryState::{Close, Open, Other, SynSent};
    let state = [SynSent, Open, Close, Other][usize::from(state)];
    let expires = Mono(expires);
    let entry = Entry { original: loss.peer, replied, state, expires, expired: expires };
    let entry = Some(entry).filter(|_| lost != 1);
    Fact::Tracked(Tracked { slot: loss.slot, lost: Mono(lost), peer: loss.peer, local: loss.local, entry })
}

prop_compose! {
    fn probed()(slot in slot(), container in prop::option::of(small()), port in 78u16..82, flags in any::<u16>(),
                begun in 0u64..6, moments in prop::collection::vec(prop::option::of(0u64..9), 5),
                dropped in small(), throttled_ns in prop::option::of(number())) -> Fact {
        let moment = |place: usize| moments[place].map(|second| Mono(second * SECOND));
        Fact::Probed(Seen {
            slot, container, port, flags, dropped, throttled_ns,
            opener: 1,
            begun: Mono(begun * SECOND),
            connected: moment(0),
            established: moment(0),
            picked_up: moment(1),
            answered: moment(2),
            last_read: moment(3),
            received: moment(4),
        })
    }
}

fn told() -> impl Strategy<Value = Told> {
    (uid(), 0u8..2, 0usize..3, number(), number(), number()).prop_map(
        |(pod_uid, container, probe_type, success, failure, unknown)| Told {
            pod_uid,
            container: format!("c{container}"),
            probe_type: ProbeType::ALL[probe_type],
            counts: Counts { success, failure, unknown },
        },
    )
}

fn verdicts() -> impl Strategy<Value = Fact> {
    (0u64..40, 0u64..2, prop::collection::vec(told(), 0..4)).prop_map(|(asked, life, told)| {
        Fact::Verdicts(Box::new(Reading { asked: Mono(asked * SECOND), life, told }))
    })
}

fn counters() -> impl Strategy<Value = Counters> {
    (prop::collection::vec((0usize..10, 0usize..3, 0usize..2, number()), 0..4), number(), number(), 0u64..40)
        .prop_map(|(lost, opened, probes, last)| {
            let mut counters = Counters { opened, probes, ..Counters::default() };
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
    (key(), 0u8..3, hints(), prop::collection::vec(endpoint, 0..3)).prop_map(
        |(key, service, hints, endpoints)| Slice {
            key,
            service: format!("s{service}"),
            ports: vec![80],
            hints,
            endpoints,
        },
    )
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

fn rules() -> impl Strategy<Value = Fact> {
    prop_oneof![
        3 => (address(), any::<bool>()).prop_map(|(address, used)| Fact::Rules { address, used }),
        1 => prop::collection::vec(address(), 0..4).prop_map(|addresses| Fact::RulesRead { addresses }),
    ]
}

fn service() -> impl Strategy<Value = Service> {
    let addresses = prop::collection::vec(address(), 0..3);
    let ports = prop::collection::vec(any::<u16>(), 0..3);
    (key(), any::<bool>(), any::<bool>(), addresses, ports).prop_map(
        |(key, headless, publish_not_ready, addresses, ports)| Service {
            key,
            headless,
            publish_not_ready,
            addresses,
            ports,
        },
    )
}

pub(crate) fn from_api() -> impl Strategy<Value = Fact> {
    prop_oneof![
        6 => pod().prop_map(|pod| Fact::Pod(Box::new(pod))),
        2 => uid().prop_map(|uid| Fact::PodGone { uid }),
        1 => service().prop_map(Fact::Service),
        1 => key().prop_map(|key| Fact::ServiceGone { key }),
        3 => slice().prop_map(Fact::Slice),
        1 => key().prop_map(|key| Fact::SliceGone { key }),
        2 => watch(),
        2 => rules(),
        1 => prop_oneof![3 => 0i64..10, 1 => any::<i64>()].prop_map(|s| Fact::Clock { unix_ns: s.saturating_add(1000).saturating_mul(1_000_000_000) }),
    ]
}

pub(crate) fn from_kernel() -> impl Strategy<Value = Fact> {
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
        1 => probed(),
        1 => verdicts(),
        2 => execed(),
        1 => (loss(), number(), any::<bool>(), 0u8..4, number()).prop_map(tracked),
        4 => (slot(), counters()).prop_map(|(slot, counters)| Fact::Reading { slot, counters: Box::new(counters) }),
        1 => prop::collection::vec(number(), 0..12).prop_map(|values| Fact::KernelAnomalies { values }),
        1 => (0usize..Anomaly::ALL.len(), number()).prop_map(|(kind, count)| Fact::Anomaly { kind: Anomaly::ALL[kind], count }),
    ]
}

/// Events with distinct moments, some milliseconds to some ten seconds apart.
pub(crate) fn events(count: usize) -> impl Strategy<Value = Vec<Event>> {
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
