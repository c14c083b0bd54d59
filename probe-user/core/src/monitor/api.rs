//! Facts from the API: pods, services, slices, and the health of their watches.

use super::Monitor;
use crate::episode::{End, Episode};
use crate::event::{Anomaly, Key, Pod, Service, Slice, WatchHealth, WatchKind};
use crate::limits::SECOND;
use crate::pods::{Container, MAX_CONTAINERS, MAX_PORTS, MAX_SERVICES, PodState};
use crate::ports::{PortUse, best_hints};
use crate::time::Mono;
use std::collections::BTreeSet;

/// Longest name that Kubernetes allows (DNS subdomain); uids and container ids are shorter.
pub(super) const MAX_NAME: usize = 253;
/// Addresses of one pod: one per family, and some.
const MAX_ADDRESSES: usize = 16;
/// Hints of one pod: its containers' ports and their probes.
const MAX_HINTS: usize = 2 * MAX_PORTS;
/// Addresses of the node itself: dual stack, and what they were before.
const MAX_NODE_ADDRESSES: usize = 64;
/// A deletion whose request lies further from its receipt than this is a garbage timestamp or another clock.
const MAX_SKEW_NS: i64 = 24 * 3600 * 1_000_000_000;

impl Monitor {
    pub(super) fn handle_pod(&mut self, at: Mono, mut fact: Box<Pod>) {
        if !is_usable(&fact) {
            self.note(Anomaly::BadObject, 1);
            return;
        }
        if cut(&mut fact) {
            self.note(Anomaly::TooMany, 1);
        }
        if fact.terminal && self.pods.find(&fact.uid).is_none() && self.pods.find(&fact.cgroup_uid).is_none()
        {
            // It ended before it was known: nothing of it can be watched.
            return;
        }
        let Some(ix) = self.find_or_create(&fact.uid, &fact.cgroup_uid) else { return };
        self.with_pod(ix, |monitor, pod| monitor.update_pod(at, pod, fact));
    }

    fn update_pod(&mut self, at: Mono, pod: &mut PodState, fact: Box<Pod>) {
        if pod.gone.is_some() {
            // A late copy of an object that left.
            return;
        }
        pod.uid.clone_from(&fact.uid);
        let old_addresses = pod.fact.as_mut().map_or_else(Vec::new, |old| std::mem::take(&mut old.addresses));
        pod.fact = Some(fact);
        let Some(fact) = pod.fact.as_deref() else { return };
        let (is_deleting, host_network) = (fact.deletion.is_some(), fact.host_network);
        pod.was_ready |= fact.ready;
        if fact.terminal {
            pod.terminal = pod.terminal.or(Some(at));
        }
        let with_id = fact.containers.iter().filter(|status| !status.id.is_empty()).count();
        if with_id > 0
            && with_id == fact.containers.len()
            && fact.containers.iter().all(|s| s.exit_code.is_some())
        {
            pod.api_exited = pod.api_exited.or(Some(at));
        } else {
            pod.api_exited = None;
        }
        if pod.workload.is_none() && !pod.done {
            pod.workload = Some(self.totals.enter(workload_of(fact)));
        }
        if host_network {
            let room = MAX_NODE_ADDRESSES.saturating_sub(self.node_addresses.len());
            self.node_addresses.extend(fact.addresses.iter().take(room));
        }
        let hints = best_hints(fact.hints.iter());
        let with = |ports: &[u16], probe| -> Vec<(u16, PortUse)> {
            let port_use = |port| PortUse { probe, service: false, hint: hints.get(port).copied() };
            ports.iter().map(|port| (*port, port_use(port))).collect()
        };
        let (ports, probe_ports) = (with(&fact.ports, false), with(&fact.probe_ports, true));
        if pod.done {
            return;
        }
        if !host_network && pod.terminal.is_none() {
            self.update_addresses(at, pod, &old_addresses, is_deleting);
        }
        for (port, port_use) in probe_ports.into_iter().chain(ports) {
            self.add_port(pod, port, port_use);
        }
        if pod.slot.is_none() && !pod.was_watched {
            self.attach(pod);
        }
        self.join_services(at, pod);
        self.name_containers(pod);
        self.see_deletion(at, pod);
        self.credit(pod, at);
        self.evaluate(pod, at);
    }

    /// The services that have the pod already, for a pod that became known after its slices.
    fn join_services(&mut self, at: Mono, pod: &mut PodState) {
        let Some(fact) = pod.fact.as_deref() else { return };
        if pod.services.is_empty() {
            for service in self.endpoints.services_of(&fact.key.namespace, &pod.uid) {
                self.update_membership(at, pod, &service);
            }
        }
    }

    /// Matches container ids with the status, and begins the end of one that stopped before it had a name.
    pub(super) fn name_containers(&mut self, pod: &mut PodState) {
        let Some(fact) = pod.fact.take() else { return };
        for container in &mut pod.containers {
            let is_its = |id: &str| !id.is_empty() && id == container.id;
            // One that died before a status could name it is named as the one before.
            let Some(status) = fact.containers.iter().find(|s| is_its(&s.id) || is_its(&s.terminated_id))
            else {
                continue;
            };
            if container.name.is_none() {
                container.name = Some(status.name.clone());
            }
            if is_its(&status.terminated_id) || (is_its(&status.id) && status.exit_code.is_some()) {
                container.terminated_reason.clone_from(&status.terminated_reason);
            } else if container.ended().is_none() {
                container.started = status.started;
            }
        }
        pod.fact = Some(fact);
        self.judge_execs(pod);
        self.count_ignored(pod);
        self.drop_replaced(pod);
        let stopped =
            pod.named().filter(|container| !container.concluded).filter_map(Container::stopped).min();
        if let Some(stopped) = stopped {
            self.begin(pod, stopped);
        }
    }

    fn see_deletion(&mut self, at: Mono, pod: &mut PodState) {
        let Some(deletion) = pod.fact.as_ref().and_then(|fact| fact.deletion) else { return };
        // What is over was not stopped by this, and what never ran has nothing to lose.
        let is_over =
            pod.terminal.is_some() && pod.episode.as_ref().is_none_or(|episode| episode.seen.is_none());
        let has_run = !pod.containers.is_empty()
            || pod
                .fact
                .as_ref()
                .is_some_and(|fact| fact.containers.iter().any(|status| !status.id.is_empty()));
        if is_over || !has_run {
            return;
        }
        if End::of(pod).is_some_and(|end| end.is_old_restart(at)) {
            // A back-off's long wait for the next start: what was lost before it is not the deletion's.
            self.finish_containers(pod, at);
        }
        let synced = self.is_synced(WatchKind::Pods, "");
        let is_alive = pod.is_alive();
        self.begin(pod, at);
        let Some(episode) = pod.episode.as_mut() else { return };
        // The kubelet's own last deletion has grace 0: a forced end is one that does not wait for the exits.
        if deletion.grace_seconds > 0 || is_alive {
            episode.grace = Some(deletion.grace_seconds);
        }
        if episode.seen.is_some() {
            return;
        }
        episode.seen = Some(at);
        if !synced {
            episode.trouble("seen_late");
        }
        let requested = deletion
            .deadline_unix_s
            .checked_sub(deletion.grace_seconds)
            .and_then(|seconds| seconds.checked_mul(i64::try_from(SECOND).unwrap_or(i64::MAX)));
        let now = episode.offset.map(|offset| offset.wall(at).0);
        let is_sane = |requested: i64| {
            now.is_none_or(|now| now.saturating_sub(requested).saturating_abs() < MAX_SKEW_NS)
        };
        match requested {
            Some(requested) if is_sane(requested) && (0..=MAX_SKEW_NS).contains(&deletion.grace_seconds) => {
                episode.requested_unix_ns = Some(requested);
            }
            _ => self.note(Anomaly::BadObject, 1),
        }
        self.mark_deleting(pod);
    }

    pub(super) fn handle_pod_gone(&mut self, at: Mono, uid: &str) {
        // Also for pods that were never known: nothing to do.
        let Some(ix) = self.pods.find(uid) else { return };
        let synced = self.is_synced(WatchKind::Pods, "");
        self.with_pod(ix, |monitor, pod| {
            if pod.gone.is_some() {
                return;
            }
            let was_alive = pod.is_alive() && !pod.done;
            pod.gone = Some(at);
            if was_alive {
                // Forced: the object goes first. In a gap of the watch the deletion was only missed.
                monitor.begin(pod, at);
                if let Some(episode) = pod.episode.as_mut()
                    && episode.seen.is_none()
                    && synced
                {
                    episode.seen = Some(at);
                    monitor.mark_deleting(pod);
                }
            }
            monitor.evaluate(pod, at);
        });
    }

    /// Begins an end of the pod at this moment, if none is under way.
    pub(super) fn begin(&mut self, pod: &mut PodState, at: Mono) {
        if pod.episode.is_some() || pod.done {
            return;
        }
        let mut episode = Episode::new(at, self.wall.offset());
        let namespace = pod.fact.as_ref().map_or("", |fact| fact.key.namespace.as_str());
        let has_gap =
            !self.is_synced(WatchKind::Pods, "") || !self.is_synced(WatchKind::EndpointSlices, namespace);
        if has_gap {
            episode.trouble("watch_gap");
        }
        if pod.containers.iter().any(|container| container.index.is_none()) && pod.slot.is_some() {
            episode.trouble(Anomaly::ContainersFull.name());
        }
        episode.fallback = pod.fallback.is_some();
        pod.episode = Some(episode);
        self.watch_vacancies(pod);
    }

    pub(super) fn handle_service(&mut self, at: Mono, service: &Service) {
        if service.key.name.is_empty() || service.key.name.len() > MAX_NAME {
            self.note(Anomaly::BadObject, 1);
        } else if self.endpoints.put_service(service, self.limits.objects).is_err() {
            self.note(Anomaly::TooMany, 1);
        } else {
            self.update_service(at, &service.key, &BTreeSet::new());
        }
    }

    pub(super) fn handle_service_gone(&mut self, at: Mono, key: &Key) {
        self.endpoints.remove_service(key);
        self.update_service(at, key, &BTreeSet::new());
    }

    pub(super) fn handle_slice(&mut self, at: Mono, slice: Slice) {
        if slice.key.name.is_empty() || slice.service.is_empty() || slice.key.name.len() > MAX_NAME {
            self.note(Anomaly::BadObject, 1);
            return;
        }
        let uids: BTreeSet<String> = slice
            .endpoints
            .iter()
            .map(|e| &e.pod_uid)
            .filter(|uid| self.pods.find(uid).is_some())
            .cloned()
            .collect();
        let limits = self.limits;
        match self.endpoints.put_slice(slice, limits.objects, limits.endpoints) {
            Ok(touched) => touched.iter().for_each(|service| self.update_service(at, service, &uids)),
            Err(_) => self.note(Anomaly::TooMany, 1),
        }
    }

    pub(super) fn handle_slice_gone(&mut self, at: Mono, key: &Key) {
        for service in self.endpoints.remove_slice(key) {
            self.update_service(at, &service, &BTreeSet::new());
        }
    }

    /// A service changed: its pods, and those that a slice newly names, look at it anew.
    fn update_service(&mut self, at: Mono, service: &Key, uids: &BTreeSet<String>) {
        for ix in self.pods.places() {
            let concerns = |pod: &PodState| {
                let is_here = pod.fact.as_ref().is_some_and(|fact| fact.key.namespace == service.namespace);
                is_here && (pod.services.contains_key(&service.name) || uids.contains(&pod.uid))
            };
            if self.pods.get(ix).is_some_and(concerns) {
                self.with_pod(ix, |monitor, pod| {
                    monitor.update_membership(at, pod, service);
                    monitor.evaluate(pod, at);
                });
            }
        }
    }

    fn update_membership(&mut self, at: Mono, pod: &mut PodState, service: &Key) {
        if !pod.services.contains_key(&service.name) && pod.services.len() >= MAX_SERVICES {
            // Those that it left while it ran are not its own any more.
            pod.services.retain(|_, membership| membership.now.present);
            if pod.services.len() >= MAX_SERVICES {
                self.note(Anomaly::TooMany, 1);
                return;
            }
        }
        let status = self.endpoints.status(service, &pod.uid);
        let vacant = self.endpoints.is_vacant(service, status);
        pod.services.entry(service.name.clone()).or_default().update(at, status, vacant);
        let ports = self.endpoints.ports(service, &pod.uid);
        if status.present {
            pod.services.entry(service.name.clone()).or_default().names_ports = !ports.is_empty();
        }
        let services = pod.services.keys().map(|name| Key { name: name.clone(), ..service.clone() });
        let hints = self.endpoints.hints(services, &pod.uid);
        for port in ports {
            self.add_port(
                pod,
                port,
                PortUse { probe: false, service: true, hint: hints.get(&port).copied() },
            );
        }
        self.update_served(pod);
        let is_fallback = pod.services.iter().any(|(name, membership)| {
            let key = Key { namespace: service.namespace.clone(), name: name.clone() };
            self.endpoints.is_fallback(&key, membership.now)
        });
        pod.fallback = if is_fallback { pod.fallback.or(Some(at)) } else { None };
        if let (true, Some(episode)) = (is_fallback, pod.episode.as_mut()) {
            episode.fallback = true;
        }
        self.watch_vacancies(pod);
    }

    pub(super) fn handle_watch(
        &mut self,
        at: Mono,
        watch: WatchKind,
        namespace: String,
        health: WatchHealth,
    ) {
        let key = (watch, namespace);
        if !self.watches.contains_key(&key) && self.watches.len() >= self.limits.objects {
            // Those that ended are kept only for pods that still settle.
            self.watches.retain(|_, (health, _)| *health != WatchHealth::Ended);
            if self.watches.len() >= self.limits.objects {
                self.note(Anomaly::TooMany, 1);
                return;
            }
        }
        self.watches.insert(key.clone(), (health, at));
        let is_broken = health == WatchHealth::Broken;
        if is_broken {
            let restarts = self.watch_restarts.entry(watch).or_default();
            *restarts = restarts.saturating_add(1);
        }
        for ix in self.pods.places() {
            self.with_pod(ix, |monitor, pod| {
                let namespace = pod.fact.as_ref().map_or("", |fact| fact.key.namespace.as_str());
                let concerns = watch == WatchKind::Pods || key.1 == namespace;
                if let (true, true, Some(episode)) = (concerns, is_broken, pod.episode.as_mut()) {
                    episode.trouble("watch_gap");
                }
                if concerns && pod.episode.is_some() {
                    monitor.evaluate(pod, at);
                }
            });
        }
    }

    /// The watch has delivered its list and is not broken since.
    pub(super) fn is_synced(&self, watch: WatchKind, namespace: &str) -> bool {
        self.health(watch, namespace) == Some(WatchHealth::Synced)
    }

    /// How the watch is; `None` if there never was one.
    pub(super) fn health(&self, watch: WatchKind, namespace: &str) -> Option<WatchHealth> {
        self.watches.get(&(watch, namespace.to_owned())).map(|(health, _)| *health)
    }

    /// Since when the pods are watched without a gap.
    pub(super) fn pods_synced(&self) -> Option<Mono> {
        let (health, since) = self.watches.get(&(WatchKind::Pods, String::new()))?;
        (*health == WatchHealth::Synced).then_some(*since)
    }
}

fn are_names(container: &str, names: &[String]) -> bool {
    container.len() <= MAX_NAME && names.len() <= MAX_NAME && names.iter().all(|name| name.len() <= MAX_NAME)
}

fn is_usable(fact: &Pod) -> bool {
    let is_name = |name: &str| !name.is_empty() && name.len() <= MAX_NAME;
    is_name(&fact.uid)
        && is_name(&fact.key.name)
        && is_name(&fact.key.namespace)
        && fact.cgroup_uid.len() <= MAX_NAME
        && fact.workload.name.len() <= MAX_NAME
        && fact.workload.kind.len() <= MAX_NAME
        && fact.disruption.len() <= MAX_NAME
        && fact.probes.iter().all(|probe| probe.container.len() <= MAX_NAME)
        && fact.exec_probes.iter().all(|probe| are_names(&probe.container, &probe.names))
        && fact.exec_hooks.iter().all(|hook| are_names(&hook.container, &hook.names))
        && fact.containers.iter().all(|status| {
            status.name.len() <= MAX_NAME
                && status.id.len() <= MAX_NAME
                && status.terminated_reason.len() <= MAX_NAME
                && status.terminated_id.len() <= MAX_NAME
        })
}

/// Cuts lists that no real pod has so long; true if it had to.
fn cut(fact: &mut Pod) -> bool {
    let is_long = fact.addresses.len() > MAX_ADDRESSES
        || fact.ports.len() > MAX_PORTS
        || fact.probe_ports.len() > MAX_PORTS
        || fact.probes.len() > MAX_PORTS
        || fact.exec_probes.len() > MAX_PORTS
        || fact.exec_hooks.len() > MAX_PORTS
        || fact.hints.len() > MAX_HINTS
        || fact.containers.len() > MAX_CONTAINERS;
    fact.addresses.truncate(MAX_ADDRESSES);
    fact.ports.truncate(MAX_PORTS);
    fact.probe_ports.truncate(MAX_PORTS);
    fact.probes.truncate(MAX_PORTS);
    fact.exec_probes.truncate(MAX_PORTS);
    fact.exec_hooks.truncate(MAX_PORTS);
    fact.hints.truncate(MAX_HINTS);
    fact.containers.truncate(MAX_CONTAINERS);
    is_long
}

/// Namespace, name and kind; a pod without an owner is its own workload.
fn workload_of(fact: &Pod) -> [String; 3] {
    if fact.workload.kind.is_empty() || fact.workload.name.is_empty() {
        return [fact.key.namespace.clone(), fact.key.name.clone(), "Pod".to_owned()];
    }
    [fact.key.namespace.clone(), fact.workload.name.clone(), fact.workload.kind.clone()]
}
