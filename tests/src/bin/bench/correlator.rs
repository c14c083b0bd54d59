//! How many events a second the core takes on one core: a simulated node with 250 pods of which ten are replaced each second, losing
//! requests, with the readings that the driver makes of it.
//!
//! The events come in the order, number and form in which a live agent's sources would bring them; making them is not measured,
//! handling them and taking out what the core concludes is. What it concluded is checked, so that no cheap error path is measured.

mod objects;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use anyhow::ensure;
use objects::{container_cgroup, container_id, exited, key, loss, pod, pod_cgroup, service_of, uid};
use probe_core::command::Command;
use probe_core::event::{Deletion, Endpoint, Event, Fact, Pod, Service, Slice, WatchHealth, WatchKind};
use probe_core::limits::{Limits, SECOND};
use probe_core::monitor::Monitor;
use probe_core::snapshot::Value;
use probe_core::time::Mono;
use probe_ebpf::wire::{Counters, SlotRef, anomaly};

const PODS: u64 = 250;
/// Pods of one workload, behind one Service.
const REPLICAS: u64 = 5;
const NAMESPACE: &str = "shop";
/// The driver's turn for pods that are stopping; four make a second.
const TICK_NS: u64 = SECOND / 4;
const REPLACED_PER_SECOND: usize = 10;
/// Ticks from the deletion to the exit.
const ENDING_TICKS: u64 = 10;
/// Losses of an ending pod in each tick after the first.
const LOSSES_PER_TICK: u32 = 20;
/// Simulated seconds before the measurement: by then as many ends are over as begin.
const LEAD_IN_SECONDS: u64 = 90;
/// Time that is measured, and how often; the best counts.
const MEASURED: Duration = Duration::from_secs(1);
const ROUNDS: usize = 3;
/// 2026-01-01.
const UNIX_S: i64 = 1_767_225_600;

/// Events a second, best of three rounds; says what they were.
pub(crate) fn events_per_second() -> anyhow::Result<f64> {
    let mut best = 0.0_f64;
    for _ in 0..ROUNDS {
        let mut node = SimulatedNode::new();
        for _ in 0..LEAD_IN_SECONDS * 4 {
            node.tick();
        }
        let (mut spent, mut events) = (Duration::ZERO, 0_u32);
        node.mix.clear();
        while spent < MEASURED {
            let (time, count) = node.tick();
            spent += time;
            events += count;
        }
        node.check()?;
        eprintln!(
            "bench: core: {:.0} events/s; mix: {}",
            f64::from(events) / spent.as_secs_f64(),
            node.describe_mix()
        );
        best = best.max(f64::from(events) / spent.as_secs_f64());
    }
    Ok(best)
}

/// A pod as the kernel and the API know it.
struct SimulatedPod {
    serial: u64,
    /// Index and slot, once the core has given them.
    watched: Option<(u32, SlotRef)>,
    /// The tick of its deletion.
    deleted: Option<u64>,
}

struct SimulatedNode {
    monitor: Monitor,
    tick: u64,
    next_serial: u64,
    running: VecDeque<SimulatedPod>,
    ending: VecDeque<SimulatedPod>,
    /// By slot, as the kernel's table.
    counters: BTreeMap<u32, Counters>,
    /// Serials of each service's pods, and whether they are ready.
    services: BTreeMap<u64, Vec<(u64, bool)>>,
    facts: Vec<Fact>,
    ended: u64,
    lost: u64,
    mix: BTreeMap<&'static str, u32>,
}

impl SimulatedNode {
    fn new() -> Self {
        let mut node = Self {
            monitor: Monitor::new(Limits::default(), "node-1".to_owned()),
            tick: 0,
            next_serial: 0,
            running: VecDeque::new(),
            ending: VecDeque::new(),
            counters: BTreeMap::new(),
            services: BTreeMap::new(),
            facts: Vec::new(),
            ended: 0,
            lost: 0,
            mix: BTreeMap::new(),
        };
        for (watch, namespace) in
            [(WatchKind::Pods, ""), (WatchKind::Services, NAMESPACE), (WatchKind::EndpointSlices, NAMESPACE)]
        {
            let (namespace, health) = (namespace.to_owned(), WatchHealth::Synced);
            node.facts.push(Fact::Watch { watch, namespace, health });
        }
        for service in 0..PODS / REPLICAS {
            node.facts
                .push(Fact::Service(Service { key: key(&format!("app-{service}")), ..Service::default() }));
        }
        for _ in 0..PODS {
            node.add_pod();
        }
        node
    }

    /// A quarter of a second on the node: how long the core took for it, and for how many events.
    fn tick(&mut self) -> (Duration, u32) {
        self.tick += 1;
        if self.tick.is_multiple_of(4) {
            self.facts.push(Fact::KernelAnomalies { values: vec![0; anomaly::COUNT as usize] });
            for _ in 0..REPLACED_PER_SECOND {
                self.delete_oldest();
            }
        }
        if self.tick % 40 == 1 {
            let unix_ns = UNIX_S * 1_000_000_000 + i64::try_from(self.tick * TICK_NS).expect("a few hours");
            self.facts.insert(0, Fact::Clock { unix_ns });
        }
        self.advance_ending();
        self.read_slots();
        let (start, step) = (self.tick * TICK_NS, TICK_NS / (self.facts.len() as u64 + 1));
        let stamp = |(index, fact)| Event { at: Mono(start + index * step), fact };
        let events: Vec<Event> = (0..).zip(self.facts.drain(..)).map(stamp).collect();
        for event in &events {
            *self.mix.entry(name_of(&event.fact)).or_default() += 1;
        }
        let count = u32::try_from(events.len()).expect("thousands");
        let (mut commands, mut ended) = (Vec::new(), Vec::new());
        let began = Instant::now();
        for event in events {
            self.monitor.handle(event);
        }
        self.monitor.handle_timeout(Mono(start + TICK_NS));
        commands.extend(std::iter::from_fn(|| self.monitor.poll_command()));
        let findings = std::iter::from_fn(|| self.monitor.poll_finding()).count();
        ended.extend(std::iter::from_fn(|| self.monitor.poll_ended()));
        let time = began.elapsed();
        std::hint::black_box(findings);
        commands.iter().for_each(|command| self.apply(command));
        self.ended += ended.len() as u64;
        self.lost += ended.iter().map(|termination| termination.lost.total()).sum::<u64>();
        (time, count)
    }

    /// What the kernel's tables would do with a command.
    fn apply(&mut self, command: &Command) {
        if let Command::WatchSlot { slot } = command {
            self.counters.insert(slot.slot, Counters::default());
        }
        if let Command::AddContainer { container, cgroup, slot } = command {
            let pod = self.running.iter_mut().find(|pod| container_cgroup(pod.serial) == *cgroup);
            if let Some(pod) = pod {
                pod.watched = Some((*container, *slot));
            }
        }
    }

    fn add_pod(&mut self) {
        let serial = self.next_serial;
        self.next_serial += 1;
        self.facts.push(Fact::Cgroup {
            id: pod_cgroup(serial),
            pod_uid: uid(serial),
            container_id: String::new(),
        });
        let (id, container_id) = (container_cgroup(serial), container_id(serial));
        self.facts.push(Fact::Cgroup { id, pod_uid: uid(serial), container_id });
        self.facts.push(Fact::Pod(Box::new(pod(serial))));
        self.services.entry(service_of(serial)).or_default().push((serial, true));
        self.facts.push(self.slice(service_of(serial)));
        self.running.push_back(SimulatedPod { serial, watched: None, deleted: None });
    }

    /// Deletes the pod that has run for longest; another takes its place.
    fn delete_oldest(&mut self) {
        let Some(mut old) = self.running.pop_front() else { return };
        old.deleted = Some(self.tick);
        let deletion = Some(self.deletion());
        self.facts.push(Fact::Pod(Box::new(Pod { deletion, ..pod(old.serial) })));
        let endpoints = self.services.entry(service_of(old.serial)).or_default();
        endpoints
            .iter_mut()
            .filter(|(serial, _)| *serial == old.serial)
            .for_each(|(_, ready)| *ready = false);
        self.facts.push(self.slice(service_of(old.serial)));
        self.ending.push_back(old);
        self.add_pod();
    }

    /// Stop signal one tick after the deletion, then losses, then exit and removal.
    fn advance_ending(&mut self) {
        for pod in &self.ending {
            let (Some((container, slot)), Some(deleted)) = (pod.watched, pod.deleted) else { continue };
            let age = self.tick - deleted;
            if age == 1 {
                self.facts.push(Fact::Signal { slot, container, signal: 15, ignored: false, open: 8 });
                self.facts.push(Fact::Listener {
                    slot,
                    container: Some(container),
                    port: 8080,
                    open: false,
                    listeners: 0,
                });
            }
            if (1..ENDING_TICKS).contains(&age) {
                let counters = self.counters.entry(slot.slot).or_default();
                for number in 0..LOSSES_PER_TICK {
                    let loss = loss(pod.serial, slot, container, age, number);
                    counters.lost[loss.class as usize][loss.phase as usize][loss.confidence as usize] += 1;
                    self.facts.push(Fact::Loss(loss));
                }
            }
            if age == ENDING_TICKS {
                self.facts.push(Fact::Exit { slot, container, status: 0, open: 0 });
                self.facts.push(Fact::CgroupGone { id: container_cgroup(pod.serial) });
                self.facts.push(Fact::CgroupGone { id: pod_cgroup(pod.serial) });
                self.facts.push(Fact::Pod(Box::new(exited(pod.serial, self.deletion()))));
                self.facts.push(Fact::PodGone { uid: uid(pod.serial) });
            }
        }
        let is_over =
            |pod: &SimulatedPod| pod.deleted.is_some_and(|deleted| self.tick - deleted >= ENDING_TICKS);
        let over: Vec<u64> = self.ending.iter().filter(|pod| is_over(pod)).map(|pod| pod.serial).collect();
        self.ending.retain(|pod| !over.contains(&pod.serial));
        for serial in over {
            self.services.entry(service_of(serial)).or_default().retain(|(other, _)| *other != serial);
            self.facts.push(self.slice(service_of(serial)));
        }
    }

    /// All slots once a second, those of stopping pods at each tick, as the driver does.
    fn read_slots(&mut self) {
        for watched in self.monitor.slots() {
            if watched.terminating || self.tick.is_multiple_of(4) {
                let counters = self.counters.entry(watched.slot.slot).or_default();
                counters.opened += 25;
                counters.closed += 25;
                let (slot, counters) = (watched.slot, Box::new(*counters));
                self.facts.push(Fact::Reading { slot, counters });
            }
        }
    }

    fn deletion(&self) -> Deletion {
        let now = UNIX_S + i64::try_from(self.tick / 4).expect("a few hours");
        Deletion { deadline_unix_s: now + 30, grace_seconds: 30 }
    }

    fn slice(&self, service: u64) -> Fact {
        let name = format!("app-{service}");
        let endpoint = |&(serial, ready): &(u64, bool)| Endpoint {
            pod_uid: uid(serial),
            ready,
            serving: ready,
            terminating: !ready,
        };
        let endpoints = self.services.get(&service).into_iter().flatten().map(endpoint).collect();
        Fact::Slice(Slice {
            key: key(&format!("{name}-x7k2p")),
            service: name,
            ports: vec![8080],
            hints: Vec::new(),
            endpoints,
        })
    }

    fn describe_mix(&self) -> String {
        let all: u32 = self.mix.values().sum();
        let share = |count: u32| f64::from(count) / f64::from(all) * 100.0;
        let parts: Vec<_> =
            self.mix.iter().map(|(name, count)| format!("{name} {:.1} %", share(*count))).collect();
        parts.join(", ")
    }

    /// The core has concluded every end, with every loss, and met nothing odd.
    fn check(&self) -> anyhow::Result<()> {
        let each = u64::from(LOSSES_PER_TICK) * (ENDING_TICKS - 1);
        ensure!(self.ended > 0, "no termination ended in the simulated node");
        ensure!(
            self.lost == each * self.ended,
            "{} ends with {} losses, {each} each were fed",
            self.ended,
            self.lost
        );
        for series in self.monitor.snapshot().series {
            // The history keeps the newest 512, which is what it is for.
            if series.family == "anomalies" && series.labels != ["history_dropped"] {
                ensure!(series.value == Value::Counter(0), "the simulated node made an anomaly: {series:?}");
            }
        }
        let watched = self.running.iter().filter(|pod| pod.watched.is_some()).count();
        ensure!(
            watched >= self.running.len() - REPLACED_PER_SECOND,
            "only {watched} of {PODS} pods have a slot"
        );
        Ok(())
    }
}

fn name_of(fact: &Fact) -> &'static str {
    match fact {
        Fact::Reading { .. } => "readings",
        Fact::Loss(_) | Fact::Tracked(_) | Fact::Probed(_) | Fact::Execed(_) => "losses",
        Fact::Pod(_) | Fact::PodGone { .. } => "pods",
        Fact::Slice(_) | Fact::SliceGone { .. } | Fact::Service(_) | Fact::ServiceGone { .. } => "slices",
        Fact::Cgroup { .. } | Fact::CgroupGone { .. } => "cgroups",
        Fact::Signal { .. } | Fact::Exit { .. } | Fact::Exited { .. } | Fact::Listener { .. } => {
            "other records"
        }
        Fact::Rules { .. } | Fact::RulesRead { .. } => "rules",
        Fact::Verdicts(_) => "the kubelet's verdicts",
        Fact::Clock { .. } | Fact::Watch { .. } | Fact::KernelAnomalies { .. } | Fact::Anomaly { .. } => {
            "clock and health"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_simulated_node_is_understood_by_the_core() {
        let mut node = SimulatedNode::new();
        for _ in 0..LEAD_IN_SECONDS * 4 {
            node.tick();
        }
        node.check().expect("ends are concluded, losses add up, nothing is odd");
    }
}
