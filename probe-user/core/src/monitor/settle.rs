//! When an end is over, and what follows: totals, history, findings, and the slot goes back.

use super::Monitor;
use crate::conclude;
use crate::endpoints::Stage;
use crate::episode::{End, Over, Plan, is_replaced};
use crate::event::{Anomaly, WatchKind};
use crate::limits::SECOND;
use crate::pods::{Container, PodState};
use crate::report::{self, Scope, report};
use crate::series;
use crate::termination::{Restart, State, Termination};
use crate::time::Mono;

/// How long a slot waits for a last reading: the driver reads terminating ones many times a second, so none comes.
const LAST_READING_NS: u64 = 5 * SECOND;

impl Monitor {
    /// Looks at the pod as it is now: is its end over, or when is it next to be looked at?
    pub(super) fn evaluate(&mut self, pod: &mut PodState, now: Mono) {
        let next = loop {
            match self.step(pod, now) {
                Progress::Again => {}
                Progress::Wait(next) => break next,
            }
        };
        // A moment that has passed would fire for ever.
        self.set_timer(pod, next.map(|at| at.max(now.after(1))));
    }

    fn step(&mut self, pod: &mut PodState, now: Mono) -> Progress {
        let Some(end) = End::of(pod) else { return self.step_without_end(pod, now) };
        let namespace = pod.fact.as_ref().map_or("", |fact| fact.key.namespace.as_str());
        let (due, over) =
            match end.plan(self.health(WatchKind::EndpointSlices, namespace), self.pods_synced()) {
                Plan::Fact => {
                    self.hold(pod);
                    return Progress::Wait(None);
                }
                Plan::Until(due, over) => (due, over),
            };
        if due > now {
            self.hold(pod);
            return Progress::Wait(Some(due));
        }
        if let Some(deadline) = self.last_reading(pod, now) {
            return Progress::Wait(Some(deadline));
        }
        match over {
            Over::Termination => self.finish_termination(pod, now),
            Over::Containers => self.finish_containers(pod, now),
            Over::Nothing => self.close_episode(pod),
        }
        Progress::Again
    }

    /// Something came after all: it is not over yet.
    fn hold(&self, pod: &mut PodState) {
        if let Some(episode) = pod.episode.as_mut() {
            episode.last_reading_since = None;
        }
    }

    /// Until when to wait for a reading after the end was over; `None` if there is none to wait for.
    fn last_reading(&self, pod: &mut PodState, now: Mono) -> Option<Mono> {
        let slot = pod.slot;
        let read_at = pod.ledger.read_at();
        let since = *pod.episode.as_mut()?.last_reading_since.get_or_insert(now);
        let deadline = since.after(LAST_READING_NS);
        if slot.is_none() || read_at.is_some_and(|at| at >= since) {
            return None;
        }
        if now < deadline {
            return Some(deadline);
        }
        if let Some(episode) = pod.episode.as_mut() {
            episode.trouble("no_last_reading");
        }
        None
    }

    /// A pod that went without an end to conclude gives its slot back, after a last reading.
    fn step_without_end(&mut self, pod: &mut PodState, now: Mono) -> Progress {
        let has_ended = pod.terminal.is_some() || pod.gone.is_some();
        let is_unknown = pod.fact.is_none() && pod.cgroup.is_none() && pod.containers.is_empty();
        if pod.slot.is_none() || !(has_ended || is_unknown || pod.done) {
            if has_ended && !pod.done {
                pod.done = true;
                self.detach(pod);
            }
            return Progress::Wait(None);
        }
        let since = *pod.releasing.get_or_insert(now);
        let deadline = since.after(LAST_READING_NS);
        if now < deadline && pod.ledger.read_at().is_none_or(|at| at < since) {
            return Progress::Wait(Some(deadline));
        }
        self.credit(pod, now);
        pod.done = true;
        self.detach(pod);
        Progress::Wait(None)
    }

    fn finish_termination(&mut self, pod: &mut PodState, now: Mono) {
        self.credit(pod, now);
        let Some(end) = End::of(pod) else { return };
        let item = report(end, Scope::Pod, State::Ended, &self.node);
        let at = report::wall(end, now);
        self.count_termination(end, &item, now);
        for finding in conclude::findings(&item, at) {
            if self.findings.len() < self.limits.outbox {
                self.findings.push_back(finding);
            } else {
                self.note(Anomaly::TooMany, 1);
            }
        }
        if self.ended.len() < self.limits.history {
            self.ended.push_back(item.clone());
        } else {
            self.note(Anomaly::TooMany, 1);
        }
        if !self.terminations.push(item) {
            self.note(Anomaly::HistoryDropped, 1);
        }
        self.close_episode(pod);
        pod.done = true;
        self.detach(pod);
    }

    fn count_termination(&mut self, end: End<'_>, item: &Termination, now: Mono) {
        self.totals.node_terminations = self.totals.node_terminations.saturating_add(1);
        let Some(workload) = end.pod.workload else { return };
        let number = series::pod_terminations(item.trigger, item.outcome, item.lost.total() > 0);
        self.totals.add(workload, number, 1, self.now, None);
        if item.silent {
            self.totals.add(workload, series::SILENT, 1, self.now, None);
        }
        if let Some(ns) = report::exit_duration(end) {
            self.totals.observe(workload, series::SIGNAL_TO_EXIT, ns, self.now);
        }
        if let (Some(signal), Some(close)) = (end.signalled(), report::unlistened(end)) {
            self.totals.observe(workload, series::SIGNAL_TO_LISTENER_CLOSE, close.since(signal), self.now);
        }
        let Some(seen) = end.episode.seen else { return };
        // What was seen only in a list came earlier, nobody knows how much: no measure.
        if end.episode.troubles.contains("seen_late") {
            self.totals.add(workload, series::TAIL_CENSORED, 1, self.now, None);
            return;
        }
        if let Some(signal) = end.signalled() {
            self.totals.observe(workload, series::PRESTOP, signal.since(seen), self.now);
        }
        // A change that a broken watch brought late is no measure of the control plane.
        let slice = end.endpoint(Stage::NotReady).filter(|_| !end.episode.troubles.contains("watch_gap"));
        // What the proxy sends on purpose is no sign that it is slow.
        let is_fallback = end.episode.fallback;
        let programmed = end.programmed().filter(|_| !is_fallback).map(|at| at.since(seen));
        if let Some(ns) = programmed {
            self.totals.observe(workload, series::STAGE_PROGRAMMED, ns, self.now);
        }
        if let Some(ns) = slice.map(|at| at.since(seen)) {
            self.totals.observe(workload, series::STAGE_API, ns, self.now);
            let last =
                [Some(ns), programmed, end.tail().filter(|_| !is_fallback)].into_iter().flatten().max();
            self.totals.observe(workload, series::REMOVAL, last.unwrap_or(ns), self.now);
        }
        match end.tail() {
            Some(ns) if !item.tail_censored => {
                self.totals.observe(workload, series::STAGE_TRAFFIC, ns, self.now);
                self.totals.observe(workload, series::TAIL, ns, self.now);
            }
            _ => self.totals.add(workload, series::TAIL_CENSORED, 1, now, None),
        }
    }

    /// Containers ended while their pod was not being stopped.
    pub(super) fn finish_containers(&mut self, pod: &mut PodState, now: Mono) {
        self.credit(pod, now);
        let Some(end) = End::of(pod) else { return };
        let mut items = Vec::new();
        let over: Vec<&Container> =
            end.containers().filter(|container| container.ended().is_some()).collect();
        for container in &over {
            let reason = reason(end, container);
            if let Some(workload) = pod.workload {
                self.totals.add(workload, series::container_terminations(reason), 1, self.now, None);
            }
            let mut item = report(end, Scope::Container(container), State::Ended, &self.node);
            if over.len() > 1 {
                // Counters are the pod's: what each of them lost cannot be told apart.
                item.anomalies.push("counts_shared".into());
                item.complete = false;
            }
            // A job that is done was not restarted and lost nothing: no item.
            let is_done = pod.terminal.is_some() && report::exit_code(end, container) == Some(0);
            if !is_done || item.lost.total() > 0 {
                items.push(Restart { container_restart: item, reason: reason.into() });
            }
        }
        for item in items {
            if !self.restarts.push(item) {
                self.note(Anomaly::HistoryDropped, 1);
            }
        }
        self.close_episode(pod);
        self.drop_replaced(pod);
    }

    /// Drops containers whose end is reported and whose place another has taken. Those without a successor keep their
    /// index: the kernel side tells the phase of their ports by it.
    pub(super) fn drop_replaced(&mut self, pod: &mut PodState) {
        let is_over = |container: &&Container| container.concluded && is_replaced(pod, container);
        let replaced: Vec<u64> =
            pod.containers.iter().filter(is_over).map(|container| container.cgroup).collect();
        self.drop_containers(pod, |container| replaced.contains(&container.cgroup));
    }

    /// What comes next belongs to another end.
    fn close_episode(&mut self, pod: &mut PodState) {
        for container in &mut pod.containers {
            container.concluded |= container.ended().is_some();
            if container.ended().is_none() {
                container.signal = None;
                container.ignored = false;
                container.ignored_counted = false;
                container.killed = None;
            }
        }
        pod.ledger.close_episode();
        let read_at = pod.ledger.read_at().unwrap_or_default();
        pod.evidence = std::mem::take(&mut pod.evidence).after(read_at);
        pod.listeners.clear();
        pod.was_ready = false;
        pod.episode = None;
        self.watch_vacancies(pod);
    }
}

enum Progress {
    /// Look again.
    Again,
    /// Wait for a fact, or for this moment.
    Wait(Option<Mono>),
}

/// Why a container ended while its pod was not being stopped.
fn reason(end: End<'_>, container: &Container) -> &'static str {
    if container.is_oom() {
        return "oom";
    }
    if container.signal.is_some() {
        // The kubelet stops a container of a pod that stays for a failed probe.
        return match container.started {
            Some(false) => "startup",
            Some(true) => "liveness",
            None if end.pod.was_ready => "liveness",
            None => "unknown",
        };
    }
    if container.exit.is_some() && !container.was_killed() { "exit" } else { "unknown" }
}
