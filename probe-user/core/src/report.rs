//! From an end under way (or just over) to the [`Termination`] that users see.

use crate::endpoints::{Stage, Vacancy};
use crate::episode::End;
use crate::event::{Anomaly, Workload};
use crate::pods::Container;
use crate::ports::PortUse;
use crate::termination::{
    BySource, Connections, ContainerEnd, Evidence, Lost, Name, PodName, Requests, ServiceWithoutEndpoints,
    State, Step, StepSource, Termination, TimelineStep,
};
use crate::time::Mono;
use crate::totals::seconds;
use crate::wallclock::Timestamp;
use probe_ebpf::class::{Class, Confidence, Phase};
use probe_ebpf::wire::{ANSWERED, Counters};

/// The API's deletion timestamp counts whole seconds.
const REQUEST_ACCURACY_NS: u64 = 1_000_000_000;
/// Kernel stamps are taken at the event itself.
const KERNEL_ACCURACY_NS: u64 = 1;

/// Which containers a report is about.
#[derive(Clone, Copy)]
pub(crate) enum Scope<'a> {
    /// The pod.
    Pod,
    /// One container that ended by itself.
    Container(&'a Container),
}

/// Makes the report.
pub(crate) fn report(end: End<'_>, scope: Scope<'_>, state: State, node: &str) -> Termination {
    let fact = end.pod.fact.as_deref();
    let counters = end.counters();
    let (lost, lost_inferred) = lost(&counters);
    let same_node = end.pod.evidence.same_node.min(lost.total());
    let troubles = troubles(end, state, &counters);
    let grace = end.episode.grace.and_then(|grace| u64::try_from(grace).ok());
    Termination {
        pod: PodName {
            namespace: fact.map_or_else(String::new, |fact| fact.key.namespace.clone()),
            name: fact.map_or_else(String::new, |fact| fact.key.name.clone()),
            uid: end.pod.uid.clone(),
        },
        workload: fact.map_or_else(Workload::default, |fact| fact.workload.clone()),
        node: node.to_owned(),
        trigger: end.trigger(),
        outcome: end.outcome(),
        silent: end.is_silent(),
        state,
        timeline: timeline(end, scope),
        containers: containers(end, scope),
        connections: Connections {
            open_at_stop: end.episode.open_at_stop.map_or(0, |(_, open)| open),
            late: counters.late_opened,
        },
        requests: Requests {
            late_answered: counters.late_requests.iter().fold(0, |sum, of| sum.saturating_add(of[ANSWERED])),
        },
        lost,
        lost_inferred,
        lost_stale_entries: end.pod.evidence.stale_entries.min(lost.total()),
        by_source: BySource { same_node, unknown: lost.total() - same_node, ..BySource::default() },
        service_refused: counters.service_refused,
        services_without_endpoints: services_without_endpoints(end, counters.service_refused),
        expected: end.episode.expected,
        probes_excluded: counters.probes,
        tail_seconds: end.tail().map(seconds),
        tail_censored: end.tail_censored(),
        prestop_sleep_seconds: fact.and_then(|fact| fact.prestop_sleep_seconds),
        grace_seconds: grace.unwrap_or_else(|| fact.map_or(0, |fact| u64::from(fact.grace_seconds))),
        exit_seconds: exit_duration(end).map(seconds),
        evidence: evidence(end),
        evidence_dropped: end.pod.evidence.dropped,
        evidence_refused: counters.evidence_refused,
        // A bound on detail touches no count and no step; a step whose moment is not known is left out.
        complete: troubles
            .iter()
            .all(|trouble| ["evidence_dropped", "rules_missed"].contains(&trouble.as_ref())),
        anomalies: troubles,
        began: end.episode.began,
        began_wall: wall(end, end.episode.began),
    }
}

/// Those at which somebody was refused: a Service that nobody uses needs no endpoint.
fn services_without_endpoints(end: End<'_>, refused: u64) -> Vec<ServiceWithoutEndpoints> {
    let of = |(service, vacancy): (&String, Vacancy)| ServiceWithoutEndpoints {
        service: service.clone(),
        from: wall(end, vacancy.from),
        until: vacancy.until.map(|at| wall(end, at)),
    };
    if refused == 0 { Vec::new() } else { end.vacancies().map(of).collect() }
}

/// Stop signal to exit of the slowest container.
pub(crate) fn exit_duration(end: End<'_>) -> Option<u64> {
    end.containers()
        .filter_map(|c| c.signal.zip(c.exit).map(|((signal, _), (exit, _))| exit.since(signal)))
        .max()
}

/// Last close of a port's last listener after the stop signal.
pub(crate) fn unlistened(end: End<'_>) -> Option<Mono> {
    let signal = end.signalled()?;
    end.pod.listeners.iter().map(|close| close.at).filter(|at| *at >= signal).max()
}

/// A moment by the wall clock of the episode; by the monotonic clock alone if that was never sampled.
pub(crate) fn wall(end: End<'_>, at: Mono) -> Timestamp {
    end.episode
        .offset
        .map_or_else(|| Timestamp(i64::try_from(at.0).unwrap_or(i64::MAX)), |offset| offset.wall(at))
}

/// By time: records that came behind the reorder window are in the order of their arrival.
fn evidence(end: End<'_>) -> Vec<Evidence> {
    let mut all: Vec<Evidence> = end
        .pod
        .evidence
        .items
        .iter()
        .map(|(at, _, loss)| {
            let protocol = end.pod.ports.get(&loss.local.port).map(PortUse::protocol).unwrap_or_default();
            let met = end.pod.evidence.met(*at, loss);
            Evidence::of(loss, protocol, wall(end, loss.attempted.unwrap_or(*at)), met)
        })
        .collect();
    all.sort_by_key(|evidence| evidence.at);
    all
}

/// What the pod's end lost: what was lost while it ran is not of its end.
fn lost(counters: &Counters) -> (Lost, u64) {
    let mut lost = Lost::default();
    let mut inferred = 0u64;
    for class in Class::ALL {
        for phase in [Phase::Deleting, Phase::Stopping] {
            let counts = counters.lost[class as usize][phase as usize];
            lost.0[class as usize] =
                counts.iter().fold(lost.0[class as usize], |sum, n| sum.saturating_add(*n));
            inferred = inferred.saturating_add(counts[Confidence::Inferred as usize]);
        }
    }
    (lost, inferred)
}

fn troubles(end: End<'_>, state: State, counters: &Counters) -> Vec<Name> {
    let mut troubles = end.episode.troubles.clone();
    let mut add = |is: bool, name: &'static str| {
        if is {
            troubles.insert(name.into());
        }
    };
    add(!end.pod.was_watched, "not_watched");
    add(end.episode.offset.is_none(), "no_wall_clock");
    add(counters.evidence_refused > 0, "evidence_refused");
    add(counters.closed_refused > 0, "closed_refused");
    add(end.pod.evidence.dropped > 0, "evidence_dropped");
    add(end.pod.routes.is_missed(end.since()), Anomaly::RulesMissed.name());
    if matches!(state, State::Ended) {
        add(end.pod.was_watched && end.pod.ledger.read_at().is_none(), "no_reading");
        add(counters.evidence > end.pod.evidence.received, "evidence_missing");
        add(end.pod.named().next().is_none(), "no_container_known");
        add(end.containers().any(|c| c.exit.is_none_or(|(_, status)| status.is_none())), "exit_not_seen");
    }
    troubles.into_iter().collect()
}

fn in_scope<'a>(end: End<'a>, scope: Scope<'a>) -> impl Iterator<Item = &'a Container> {
    let only = match scope {
        Scope::Pod => None,
        Scope::Container(container) => Some(container.cgroup),
    };
    end.containers().filter(move |container| only.is_none_or(|only| container.cgroup == only))
}

fn containers(end: End<'_>, scope: Scope<'_>) -> Vec<ContainerEnd> {
    let mut ends: Vec<ContainerEnd> = in_scope(end, scope)
        .map(|container| ContainerEnd {
            name: container.name.clone().unwrap_or_default(),
            signal: container.signal.map(|(_, signal)| signal),
            signal_ignored: container.ignored,
            exit_code: exit_code(end, container),
            exited_at: container.exit.map(|(at, _)| wall(end, at)),
            killed: container.was_killed(),
        })
        .collect();
    // Those that only the API knows.
    if let (Scope::Pod, Some(fact)) = (scope, end.pod.fact.as_deref()) {
        for status in fact.containers.iter().filter(|status| !status.id.is_empty()) {
            if !ends.iter().any(|known| known.name == status.name) {
                ends.push(ContainerEnd {
                    name: status.name.clone(),
                    signal: None,
                    signal_ignored: false,
                    exit_code: status.exit_code,
                    exited_at: None,
                    killed: false,
                });
            }
        }
    }
    ends.sort_by(|a, b| a.name.cmp(&b.name).then(a.exited_at.cmp(&b.exited_at)));
    ends
}

/// Exit code as the kubelet tells it: 128 + number if a signal killed the init.
pub(crate) fn exit_code(end: End<'_>, container: &Container) -> Option<i32> {
    if let Some((_, Some(status))) = container.exit {
        let signal = status & 0x7f;
        return i32::try_from(if signal == 0 { status >> 8 & 0xff } else { 128 + signal }).ok();
    }
    let fact = end.pod.fact.as_deref()?;
    fact.containers.iter().find(|status| status.id == container.id)?.exit_code
}

fn timeline(end: End<'_>, scope: Scope<'_>) -> Vec<TimelineStep> {
    let mut steps = Vec::new();
    let mut add = |step, at: Option<Mono>, container: Option<&Container>, port| {
        let Some(at) = at else { return };
        let (source, accuracy_ns) = match step {
            Step::Requested
            | Step::Seen
            | Step::SliceNotReady
            | Step::SliceUnserving
            | Step::SliceGone
            | Step::Gone => (StepSource::Api, None),
            Step::Programmed => (StepSource::NfTables, None),
            Step::StopSignal
            | Step::ListenerClosed
            | Step::LastNewConnection
            | Step::LastRequest
            | Step::Killed
            | Step::Exited => (StepSource::Kernel, Some(KERNEL_ACCURACY_NS)),
        };
        let container = container.and_then(|container| container.name.clone());
        steps.push(TimelineStep { step, at: wall(end, at), container, port, source, accuracy_ns });
    };
    for container in in_scope(end, scope) {
        add(Step::StopSignal, container.signal.map(|(at, _)| at), Some(container), None);
        add(Step::Killed, container.killed, Some(container), None);
        add(Step::Exited, container.exit.map(|(at, _)| at), Some(container), None);
    }
    for close in &end.pod.listeners {
        let of = end
            .pod
            .containers
            .iter()
            .find(|container| close.container.is_some() && container.index == close.container);
        // Of a container that restarted shortly before, or of another one.
        if let (Scope::Container(restarted), Some(of)) = (scope, of)
            && restarted.cgroup != of.cgroup
        {
            continue;
        }
        add(Step::ListenerClosed, Some(close.at), of, Some(close.port));
    }
    if matches!(scope, Scope::Pod) {
        add(Step::Seen, end.episode.seen, None, None);
        add(Step::SliceNotReady, end.endpoint(Stage::NotReady), None, None);
        add(Step::SliceUnserving, end.endpoint(Stage::Unserving), None, None);
        add(Step::SliceGone, end.endpoint(Stage::Gone), None, None);
        add(Step::Programmed, end.programmed(), None, None);
        add(Step::Gone, end.pod.gone, None, None);
    }
    let counters = end.counters();
    let stamp = |ns: u64| if ns == 0 { None } else { Some(Mono(ns)) };
    add(Step::LastNewConnection, stamp(counters.last_new_ns), None, None);
    add(Step::LastRequest, stamp(counters.last_request_ns), None, None);
    if let (Scope::Pod, Some(unix_ns)) = (scope, end.episode.requested_unix_ns) {
        steps.push(TimelineStep {
            step: Step::Requested,
            at: Timestamp(unix_ns),
            container: None,
            port: None,
            source: StepSource::Api,
            accuracy_ns: Some(REQUEST_ACCURACY_NS),
        });
    }
    steps.sort_by(|a, b| (a.at, a.step, &a.container, a.port).cmp(&(b.at, b.step, &b.container, b.port)));
    steps
}
