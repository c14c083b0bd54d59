//! Turns the bytes of one ring record into a core event, by the one parser of the wire format. Bytes that are no record
//! become an anomaly; cgroups that are not this agent's become nothing. No state, no I/O.

use crate::host::cgroup::Hierarchy;
use crate::host::cgroup_path::{self, CgroupPath};
use probe_core::event::{Address, Anomaly, Event, Fact, Loss};
use probe_core::exec::Execed;
use probe_core::kubelet::Seen;
use probe_core::time::Mono;
use probe_ebpf::record::{self, Record};
use probe_ebpf::wire::{
    EXEC_TERMINAL, ExecEnd, LOSS_CONNECT, LOSS_LATE, LOSS_LATE_CONNECTION, NONE, PROBE_RECEIVED, ProbeEnd,
    SlotRef,
};
use std::net::{IpAddr, Ipv6Addr};

/// Decodes one record. `now` stamps what carries no time of its own; `hierarchy` is the one whose cgroups the kernel
/// programs report. `None`: nothing that concerns this agent.
#[must_use]
pub fn decode(bytes: &[u8], hierarchy: Option<&Hierarchy>, now: Mono) -> Option<Event> {
    let Ok(record) = record::parse(bytes) else {
        return Some(anomaly(now, Anomaly::BadRecord));
    };
    let (at_ns, fact) = match record {
        Record::Loss { .. } => loss(record)?,
        Record::Signal { at_ns, slot, container, signal, ignored, open } => {
            (at_ns, Fact::Signal { slot, container, signal, ignored, open })
        }
        Record::Exit { at_ns, slot, container, status, open } => {
            (at_ns, Fact::Exit { slot, container, status, open })
        }
        Record::Listener { at_ns, slot, container, port, open, listeners } => {
            (at_ns, Fact::Listener { slot, container: index(container), port, open, listeners })
        }
        Record::Probe(end) => (end.at_ns, Fact::Probed(probed(&end))),
        Record::Exec(end) => (end.at_ns, Fact::Execed(execed(&end))),
        Record::Cgroup { at_ns, made, id, path } => {
            let path = String::from_utf8_lossy(path);
            (at_ns, cgroup(id, made, &cgroup_path::parse(hierarchy?.local(&path)?))?)
        }
    };
    Some(Event { at: Mono(at_ns), fact })
}

/// The event of one unusable input.
#[must_use]
pub fn anomaly(at: Mono, kind: Anomaly) -> Event {
    Event { at, fact: Fact::Anomaly { kind, count: 1 } }
}

/// The fact that a cgroup of this agent's subtree came (`made`) or went; `None` if it names nothing of interest.
#[must_use]
pub fn cgroup(id: u64, made: bool, path: &CgroupPath) -> Option<Fact> {
    let (pod_uid, container_id) = match path {
        CgroupPath::Pod { pod_uid } => (pod_uid, ""),
        CgroupPath::Container { pod_uid, container_id } => (pod_uid, container_id.as_str()),
        CgroupPath::Odd if made => return Some(Fact::Anomaly { kind: Anomaly::BadCgroup, count: 1 }),
        CgroupPath::Odd | CgroupPath::Foreign | CgroupPath::Grouping | CgroupPath::Inner => return None,
    };
    Some(if made {
        Fact::Cgroup { id, pod_uid: pod_uid.clone(), container_id: container_id.to_owned() }
    } else {
        Fact::CgroupGone { id }
    })
}

fn loss(record: Record<'_>) -> Option<(u64, Fact)> {
    let Record::Loss {
        at_ns,
        attempt_ns,
        slot,
        container,
        peer,
        peer_port,
        local,
        local_port,
        request,
        unread,
        unacked,
        class,
        confidence,
        phase,
        flags,
        attempts,
    } = record
    else {
        return None;
    };
    let loss = Loss {
        slot,
        container: index(container),
        peer: address(peer, peer_port),
        local: address(local, local_port),
        request,
        class,
        confidence,
        phase,
        late: flags & LOSS_LATE != 0,
        late_connection: flags & LOSS_LATE_CONNECTION != 0,
        unread,
        unacked,
        connect: flags & LOSS_CONNECT != 0,
        attempted: (attempt_ns < at_ns).then_some(Mono(attempt_ns)),
        attempts,
    };
    Some((at_ns, Fact::Loss(loss)))
}

fn probed(end: &ProbeEnd) -> Seen {
    let moment = |ns: u64| (ns != 0).then_some(Mono(ns));
    Seen {
        slot: SlotRef { slot: end.slot, generation: end.generation },
        container: index(end.container),
        port: end.port,
        opener: end.opener,
        begun: Mono(end.begun_ns),
        connected: moment(end.connected_ns),
        established: moment(end.established_ns),
        picked_up: moment(end.picked_up_ns),
        answered: moment(end.answered_ns),
        last_read: moment(end.last_read_ns),
        received: (end.flags & PROBE_RECEIVED != 0).then(|| received(end)),
        dropped: end.dropped,
        flags: end.flags,
        throttled_ns: None,
    }
}

fn execed(end: &ExecEnd) -> Execed {
    let comm = end.comm.split(|byte| *byte == 0).next().unwrap_or_default();
    Execed {
        slot: SlotRef { slot: end.slot, generation: end.generation },
        container: end.container,
        pid: end.pid,
        comm: String::from_utf8_lossy(comm).into_owned(),
        started: Mono(end.started_ns),
        ended: Mono(end.at_ns),
        cpu_ns: end.cpu_ns,
        status: end.status,
        terminal: end.flags & EXEC_TERMINAL != 0,
    }
}

/// When the client received data last. The kernel keeps it in jiffies, whose length differs: the probe's two ends are known in both
/// clocks.
fn received(end: &ProbeEnd) -> Mono {
    let jiffies = |until: u32| u64::from(until.wrapping_sub(end.begun_jiffies));
    let (all, until) = (jiffies(end.closed_jiffies), jiffies(end.received_jiffies));
    let waited = u128::from(end.at_ns.saturating_sub(end.begun_ns));
    if all == 0 || until > all {
        return Mono(end.at_ns);
    }
    let ns = waited * u128::from(until) / u128::from(all);
    Mono(end.begun_ns.saturating_add(u64::try_from(ns).unwrap_or(u64::MAX)))
}

fn index(container: u32) -> Option<u32> {
    (container != NONE).then_some(container)
}

fn address(ip: [u8; 16], port: u16) -> Address {
    Address { ip: IpAddr::V6(Ipv6Addr::from(ip)).to_canonical(), port }
}

#[cfg(test)]
mod tests {
    use super::*;
    use probe_ebpf::class::{Class, Confidence, Phase};
    use probe_ebpf::wire::{self, SlotRef};
    use std::path::PathBuf;

    const NOW: Mono = Mono(99);

    fn mapped(last: u8) -> [u8; 16] {
        std::net::Ipv4Addr::new(10, 0, 0, last).to_ipv6_mapped().octets()
    }

    /// A loss record field by field, in the order of `wire::Loss`.
    fn loss_bytes(kind: u32, class: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [kind, 3] {
            bytes.extend(u32::to_ne_bytes(word));
        }
        for long in [1234, 1200] {
            bytes.extend(u64::to_ne_bytes(long));
        }
        for word in [7, NONE] {
            bytes.extend(u32::to_ne_bytes(word));
        }
        bytes.extend(mapped(1));
        bytes.extend(mapped(2));
        for port in [40_000, 8080] {
            bytes.extend(u16::to_ne_bytes(port));
        }
        for word in [5, 11, 12] {
            bytes.extend(u32::to_ne_bytes(word));
        }
        bytes.extend([class, 0, 2, LOSS_LATE]);
        bytes.extend(u32::to_ne_bytes(3));
        assert_eq!(bytes.len(), size_of::<wire::Loss>());
        bytes
    }

    fn cgroup_bytes(made: u32, path: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [5, made] {
            bytes.extend(u32::to_ne_bytes(word));
        }
        for long in [55, 4242] {
            bytes.extend(u64::to_ne_bytes(long));
        }
        bytes.extend(path);
        bytes.resize(size_of::<wire::CgroupChange>(), 0);
        bytes
    }

    fn all() -> Hierarchy {
        Hierarchy::V2 { mount: PathBuf::from("/sys/fs/cgroup"), subtree: String::new() }
    }

    #[test]
    fn a_loss_keeps_every_field_and_shows_ipv4_as_ipv4() {
        let event = decode(&loss_bytes(1, 4), None, NOW).expect("an event");
        let expected = Loss {
            slot: SlotRef { slot: 3, generation: 7 },
            container: None,
            peer: Address { ip: [10, 0, 0, 1].into(), port: 40_000 },
            local: Address { ip: [10, 0, 0, 2].into(), port: 8080 },
            request: 5,
            class: Class::Unanswered,
            confidence: Confidence::Observed,
            phase: Phase::Stopping,
            late: true,
            late_connection: false,
            unread: 11,
            unacked: 12,
            attempted: Some(Mono(1200)),
            connect: false,
            attempts: 3,
        };
        assert_eq!(event, Event { at: Mono(1234), fact: Fact::Loss(expected) });
    }

    #[test]
    fn bytes_that_are_no_record_are_counted() {
        let whole = loss_bytes(1, 4);
        let mut inputs: Vec<Vec<u8>> = (0..whole.len()).map(|length| whole[..length].to_vec()).collect();
        inputs.push(loss_bytes(77, 4));
        inputs.push(loss_bytes(1, 10));
        inputs.push(cgroup_bytes(1, &[b'x'; 256]));
        for bytes in inputs {
            assert_eq!(
                decode(&bytes, Some(&all()), NOW),
                Some(anomaly(NOW, Anomaly::BadRecord)),
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn the_name_of_a_command_ends_at_its_zero_byte() {
        let named = |text: &[u8]| {
            let mut end = ExecEnd { flags: EXEC_TERMINAL, ..ExecEnd::default() };
            end.comm[..text.len()].copy_from_slice(text);
            execed(&end)
        };
        assert_eq!((named(b"sh\0garbage").comm.as_str(), named(b"sh").terminal), ("sh", true));
        assert_eq!(named(b"0123456789abcdef").comm, "0123456789abcdef", "without an end");
        assert_eq!(named(b"caf\xc3").comm, "caf\u{fffd}");
    }

    #[test]
    fn the_moment_of_an_answer_is_laid_from_jiffies_on_the_clock() {
        let end = |received_jiffies: u32, closed_jiffies: u32| ProbeEnd {
            begun_ns: 1000,
            at_ns: 5000,
            begun_jiffies: u32::MAX - 9,
            received_jiffies,
            closed_jiffies,
            ..ProbeEnd::default()
        };
        // Ten jiffies to the wrap, then ten more.
        assert_eq!(received(&end(u32::MAX - 4, 10)), Mono(2000));
        assert_eq!(received(&end(5, 10)), Mono(4000));
        assert_eq!(received(&end(u32::MAX - 9, u32::MAX - 9)), Mono(5000), "too short to tell");
        assert_eq!(received(&end(11, 10)), Mono(5000), "never after the close");
    }

    #[test]
    fn cgroups_become_facts_when_they_are_ours() {
        let container = b"/kubepods/burstable/podaaaa/c1";
        let made = decode(&cgroup_bytes(1, container), Some(&all()), NOW).expect("an event");
        let fact = Fact::Cgroup { id: 4242, pod_uid: "aaaa".into(), container_id: "c1".into() };
        assert_eq!(made, Event { at: Mono(55), fact });
        let gone = decode(&cgroup_bytes(0, container), Some(&all()), NOW).expect("an event");
        assert_eq!(gone.fact, Fact::CgroupGone { id: 4242 });
        let odd = decode(&cgroup_bytes(1, b"/kubepods/odd"), Some(&all()), NOW).expect("an event");
        assert_eq!(odd.fact, Fact::Anomaly { kind: Anomaly::BadCgroup, count: 1 });
        let other = Hierarchy::V2 { mount: PathBuf::from("/x"), subtree: "x".into() };
        assert_eq!(decode(&cgroup_bytes(1, container), Some(&other), NOW), None);
        assert_eq!(decode(&cgroup_bytes(1, b"/system.slice"), Some(&all()), NOW), None);
        assert_eq!(
            decode(&cgroup_bytes(1, b"/\xff/kubepods/podaaaa"), Some(&all()), NOW).map(|event| event.at),
            Some(Mono(55))
        );
    }
}
