//! Facts from the kernel side: cgroups, signals, exits, listeners, evidence, and readings of counters.

use super::Monitor;
use super::api::MAX_NAME;
use crate::conntrack::Tracked;
use crate::event::{Anomaly, Loss, WatchKind};
use crate::pods::{Container, MAX_LISTENERS, PodState, Unlisten};
use crate::series;
use crate::snapshot::Exemplar;
use crate::time::Mono;
use probe_ebpf::class::{Class, Confidence, Phase};
use probe_ebpf::wire::{Counters, SlotRef, anomaly};

const SIGKILL: u32 = 9;
/// What OpenMetrics allows an exemplar's label names and values to have together.
const EXEMPLAR_CHARACTERS: usize = 128;

impl Monitor {
    /// A cgroup is there: its pod gets a slot, its container an index.
    pub(super) fn identify_cgroup(&mut self, id: u64, pod_uid: &str, container_id: &str) {
        if !is_cgroup(pod_uid, container_id) {
            return;
        }
        let Some(ix) = self.find_or_create(pod_uid, "") else { return };
        self.with_pod(ix, |monitor, pod| {
            if pod.done {
                return;
            }
            if container_id.is_empty() {
                pod.cgroup = Some(id);
                monitor.pods.own_cgroup(id, pod.ix);
            }
            if pod.slot.is_none() && !pod.was_watched {
                monitor.attach(pod);
            }
            if !container_id.is_empty() {
                monitor.add_container(pod, id, container_id.to_owned());
            }
        });
    }

    pub(super) fn handle_cgroup(&mut self, at: Mono, id: u64, pod_uid: &str, container_id: &str) {
        if !is_cgroup(pod_uid, container_id) {
            self.note(Anomaly::BadCgroup, 1);
            return;
        }
        let Some(ix) = self.pods.of_cgroup(id) else { return };
        self.with_pod(ix, |monitor, pod| {
            // The status may have named the id before its cgroup was found.
            if !container_id.is_empty() && !pod.done {
                monitor.name_containers(pod);
            }
            monitor.evaluate(pod, at);
        });
    }

    pub(super) fn handle_cgroup_gone(&mut self, at: Mono, id: u64) {
        // Most cgroups are not of pods, and those of pods that are over were forgotten.
        let Some(ix) = self.pods.of_cgroup(id) else { return };
        self.with_pod(ix, |monitor, pod| {
            if pod.cgroup == Some(id) {
                pod.cgroup = None;
                monitor.pods.disown_cgroup(id);
            }
            for container in pod.containers.iter_mut().filter(|container| container.cgroup == id) {
                container.cgroup_gone = container.cgroup_gone.or(Some(at));
            }
            let is_it = |container: &Container| container.cgroup == id;
            let named = pod.named().find(|container| is_it(container));
            let stopped = named.filter(|container| !container.concluded).and_then(Container::stopped);
            if let Some(stopped) = stopped {
                monitor.begin(pod, stopped);
            } else if named.is_none() && pod.episode.is_none() {
                // An init container's or a sandbox's: nothing hangs on its index.
                monitor.drop_containers(pod, is_it);
            }
            monitor.evaluate(pod, at);
        });
    }

    pub(super) fn handle_signal(
        &mut self,
        at: Mono,
        slot: SlotRef,
        index: u32,
        signal: u32,
        ignored: bool,
        open: u64,
    ) {
        self.stop((at, at), slot, index, Some(open), |container| {
            if signal == SIGKILL {
                container.killed = container.killed.or(Some(at));
            } else if container.exit.is_none_or(|(exit, _)| at <= exit) {
                // A handled signal after an ignored one is the stop.
                if container.signal.is_none() || (container.ignored && !ignored) {
                    container.signal = Some((at, signal));
                }
                container.ignored |= ignored;
            }
        });
    }

    pub(super) fn handle_exit(&mut self, at: Mono, slot: SlotRef, index: u32, status: u32, open: u64) {
        self.stop((at, at), slot, index, Some(open), |container| {
            // The table may have told the moment already, not the status.
            let known = container.exit.is_some_and(|(_, status)| status.is_some());
            if !known {
                container.exit = Some((at, Some(status)));
            }
        });
    }

    /// The exit is told by the kernel's table; its record may come yet, with the status.
    pub(super) fn handle_exited(&mut self, at: Mono, slot: SlotRef, index: u32, exited: Mono) {
        self.stop((at, exited), slot, index, None, |container| {
            container.exit = container.exit.or(Some((exited, None)));
        });
    }

    /// A container was signalled or has exited: told at the first moment, happened at the second.
    fn stop(
        &mut self,
        (told, at): (Mono, Mono),
        slot: SlotRef,
        index: u32,
        open: Option<u64>,
        change: impl FnOnce(&mut Container),
    ) {
        let Some(ix) = self.pod_of_slot(slot) else { return };
        let mut is_stale = false;
        self.with_pod(ix, |monitor, pod| {
            let Some(container) = pod.container_mut(index) else {
                is_stale = true;
                return;
            };
            change(container);
            if container.name.is_none() {
                // The sandbox, an init container, or one that the status does not name yet.
                monitor.evaluate(pod, told);
                return;
            }
            monitor.begin(pod, at);
            monitor.count_ignored(pod);
            let namespace = pod.fact.as_ref().map_or("", |fact| fact.key.namespace.as_str());
            let is_healthy = monitor.is_synced(WatchKind::Pods, "")
                && monitor.is_synced(WatchKind::EndpointSlices, namespace);
            let is_ready = is_healthy && pod.services.values().any(|service| service.now.ready);
            if let Some(episode) = pod.episode.as_mut() {
                episode.ready_at_stop = episode.ready_at_stop.or(Some(is_ready));
                if let Some(open) = open
                    && episode.open_at_stop.is_none_or(|(earlier, _)| at < earlier)
                {
                    episode.open_at_stop = Some((at, open));
                }
            }
            monitor.evaluate(pod, told);
        });
        if is_stale {
            self.note(Anomaly::StaleSlot, 1);
        }
    }

    /// Counts stop signals that an init ignored, once per container.
    pub(super) fn count_ignored(&mut self, pod: &mut PodState) {
        let Some(workload) = pod.workload else { return };
        for container in
            pod.containers.iter_mut().filter(|c| c.name.is_some() && c.ignored && !c.ignored_counted)
        {
            container.ignored_counted = true;
            self.totals.add(workload, series::IGNORED, 1, self.now, None);
        }
    }

    pub(super) fn handle_listener(
        &mut self,
        at: Mono,
        slot: SlotRef,
        container: Option<u32>,
        port: u16,
        is_open: bool,
    ) {
        let Some(ix) = self.pod_of_slot(slot) else { return };
        let Some(pod) = self.pods.get_mut(ix) else { return };
        // A successor that listens on the port does not undo the close of the one before it.
        pod.listeners.retain(|close| close.port != port || close.container != container || close.at > at);
        if is_open {
            return;
        }
        if pod.listeners.len() < MAX_LISTENERS {
            pod.listeners.push(Unlisten { at, port, container });
        } else {
            self.note(Anomaly::TooMany, 1);
        }
    }

    pub(super) fn handle_loss(&mut self, at: Mono, loss: Loss) {
        let Some(ix) = self.pod_of_slot(loss.slot) else { return };
        let Some(pod) = self.pods.get_mut(ix) else { return };
        let is_local =
            self.addresses.contains_key(&loss.peer.ip) || self.node_addresses.contains(&loss.peer.ip);
        if !pod.evidence.push(at, is_local, loss, self.limits.evidence) {
            self.note(Anomaly::EvidenceDropped, 1);
        }
    }

    /// The pod's end may be over by now: then the cause stays unknown.
    pub(super) fn handle_tracked(&mut self, tracked: &Tracked) {
        let pod = self.slots.pod_of(tracked.slot).and_then(|ix| self.pods.get_mut(ix));
        if let Some(pod) = pod {
            pod.evidence.track(tracked);
        }
    }

    pub(super) fn handle_reading(&mut self, at: Mono, slot: SlotRef, counters: &Counters) {
        if self.slots.is_leftover(slot, at) {
            return;
        }
        let Some(ix) = self.pod_of_slot(slot) else { return };
        let Some(pod) = self.pods.get_mut(ix) else { return };
        let grew = pod.ledger.take(at, counters);
        if !grew && let Some(episode) = pod.episode.as_mut() {
            episode.trouble(Anomaly::CounterWentBack.name());
        }
        if !grew {
            self.note(Anomaly::CounterWentBack, 1);
        }
        self.with_pod(ix, |monitor, pod| {
            monitor.credit(pod, at);
            if pod.is_terminating() {
                monitor.evaluate(pod, at);
            }
        });
    }

    /// Adds what was published since the last time to the workload's totals.
    pub(super) fn credit(&mut self, pod: &mut PodState, at: Mono) {
        // Before the pod has a name its counts wait.
        let Some(workload) = pod.workload else { return };
        let Some(delta) = pod.ledger.credit() else { return };
        let wall = pod.episode.as_ref().and_then(|episode| episode.offset).or(self.wall.offset());
        for class in Class::ALL {
            for phase in Phase::ALL {
                for confidence in Confidence::ALL {
                    let count = delta.lost[class as usize][phase as usize][confidence as usize];
                    if count > 0 {
                        let exemplar = wall.and_then(|wall| self.exemplar(pod, count, wall.wall(at).0));
                        let series = series::lost(class, confidence, phase != Phase::Running);
                        self.totals.add(workload, series, count, self.now, exemplar);
                        self.totals.node_lost = self.totals.node_lost.saturating_add(count);
                    }
                }
            }
        }
        // Expected for the whole time since the last reading, or not at all.
        let is_fallback =
            pod.fallback.is_some_and(|since| pod.ledger.read_before().is_some_and(|before| since <= before));
        for (phase, results) in delta.late_connections.iter().enumerate() {
            for (result, count) in results.iter().enumerate() {
                self.totals.add(
                    workload,
                    series::late_connections(phase, result, is_fallback),
                    *count,
                    self.now,
                    None,
                );
                if let (true, Some(episode)) = (is_fallback, pod.episode.as_mut()) {
                    episode.expected = episode.expected.saturating_add(*count);
                }
            }
        }
        for (connection, results) in delta.late_requests.iter().enumerate() {
            for (result, count) in results.iter().enumerate() {
                self.totals.add(workload, series::late_requests(connection, result), *count, self.now, None);
            }
        }
    }

    fn exemplar(&self, pod: &PodState, count: u64, unix_ns: i64) -> Option<Exemplar> {
        let name = &pod.fact.as_ref()?.key.name;
        let characters = "pod".len() + "node".len() + name.chars().count() + self.node.chars().count();
        (characters <= EXEMPLAR_CHARACTERS).then(|| Exemplar {
            labels: vec![("pod", name.clone()), ("node", self.node.clone())],
            value: count as f64,
            unix_ns,
        })
    }

    pub(super) fn handle_kernel_anomalies(&mut self, values: &[u64]) {
        let sums: Vec<u64> =
            values.iter().zip(&self.kernel_before).map(|(new, before)| new.saturating_add(*before)).collect();
        for (index, (old, new)) in (0u32..).zip(self.kernel.iter_mut().zip(sums)).collect::<Vec<_>>() {
            let grew = new > *old;
            *old = (*old).max(new);
            // A stale entry was met and ignored: that touches no pod that is. Nor does a probe without a record.
            if grew && index != anomaly::STALE_ENTRY && index != anomaly::PROBES_UNSEEN {
                for episode in self.pods.iter_mut().filter_map(|pod| pod.episode.as_mut()) {
                    episode.trouble(anomaly::NAMES[index as usize]);
                }
            }
        }
    }
}

fn is_cgroup(pod_uid: &str, container_id: &str) -> bool {
    !pod_uid.is_empty() && pod_uid.len() <= MAX_NAME && container_id.len() <= MAX_NAME
}
