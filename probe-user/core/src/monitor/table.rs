//! Pods come and go; slots, container indexes, addresses and ports are given to them by commands.

use super::{Monitor, Timer};
use crate::command::Command;
use crate::event::Anomaly;
use crate::pods::{Container, MAX_CONTAINERS, MAX_PORTS, PodState};
use crate::ports::PortUse;
use crate::slots::PodIx;
use crate::time::Mono;
use probe_ebpf::wire::SlotRef;
use std::collections::BTreeMap;
use std::net::IpAddr;

impl Monitor {
    /// The pod with this uid (or this cgroup uid), made if there is room.
    pub(super) fn find_or_create(&mut self, uid: &str, cgroup_uid: &str) -> Option<PodIx> {
        if let Some(ix) = self.pods.find(uid).or_else(|| self.pods.find(cgroup_uid)) {
            self.alias(uid, cgroup_uid, ix);
            return Some(ix);
        }
        if self.pods.len() >= self.limits.pods {
            self.note(Anomaly::TooMany, 1);
            return None;
        }
        let ix = self.pods.insert(uid);
        self.alias(uid, cgroup_uid, ix);
        Some(ix)
    }

    fn alias(&mut self, uid: &str, cgroup_uid: &str, ix: PodIx) {
        for name in [uid, cgroup_uid] {
            if !name.is_empty() && self.pods.find(name) != Some(ix) {
                self.pods.alias(name, ix);
            }
        }
    }

    /// True once nothing can be learned of it any more.
    pub(super) fn is_of_no_interest(&self, pod: &PodState) -> bool {
        let known = pod.fact.is_some() && pod.gone.is_none();
        let running = !pod.done && (pod.cgroup.is_some() || !pod.containers.is_empty());
        !known && !running && pod.episode.is_none() && pod.slot.is_none()
    }

    /// Forgets a pod that was taken out of the table.
    pub(super) fn forget_pod(&mut self, pod: &PodState) {
        if let Some(at) = pod.timer {
            self.timers.remove(&(at, Timer::Pod(pod.ix)));
        }
        if let Some(workload) = pod.workload
            && self.totals.leave(workload, self.now)
        {
            self.timers.insert((self.now.after(self.limits.series_ttl_ns), Timer::Workload(workload)));
        }
        self.addresses.retain(|_, ix| *ix != pod.ix);
        self.pods.forget(pod);
    }

    pub(super) fn command(&mut self, command: Command) {
        if self.commands.len() < self.limits.outbox {
            self.commands.push_back(command);
        } else {
            self.note(Anomaly::TooMany, 1);
        }
    }

    /// Gives the pod a slot and tells the kernel side everything that is known of it.
    pub(super) fn attach(&mut self, pod: &mut PodState) {
        if pod.slot.is_some() || pod.done || pod.terminal.is_some() || pod.gone.is_some() {
            return;
        }
        let Some(slot) = self.slots.take(pod.ix) else {
            // Once per pod: it gets the next slot that is given back.
            if !std::mem::replace(&mut pod.slot_refused, true) {
                self.note(Anomaly::SlotsFull, 1);
            }
            return;
        };
        pod.slot = Some(slot);
        pod.was_watched = true;
        self.command(Command::WatchSlot { slot });
        for address in
            pod.fact.as_ref().filter(|fact| !fact.host_network).map_or(&[][..], |fact| &fact.addresses)
        {
            if self.addresses.get(address) == Some(&pod.ix) {
                self.command(Command::AddAddress { address: *address, slot });
            }
        }
        for (port, port_use) in std::mem::take(&mut pod.ports) {
            self.add_port(pod, port, port_use);
        }
        if pod.served {
            self.command(Command::SetServed { slot, served: true });
        }
        for place in 0..pod.containers.len() {
            self.index_container(pod, place);
        }
        if pod.episode.as_ref().is_some_and(|episode| episode.seen.is_some()) {
            self.mark_deleting(pod);
        }
        pod.vacant.clear();
        self.watch_vacancies(pod);
    }

    /// Tells the kernel side, once, that the pod is being deleted.
    pub(super) fn mark_deleting(&mut self, pod: &mut PodState) {
        if let Some(slot) = pod.slot
            && !pod.done
            && !std::mem::replace(&mut pod.marked, true)
        {
            self.command(Command::MarkDeleting { slot });
        }
    }

    fn index_container(&mut self, pod: &mut PodState, place: usize) {
        let (Some(slot), Some(container)) = (pod.slot, pod.containers.get_mut(place)) else { return };
        container.index = self.indexes.take();
        match container.index {
            Some(index) => {
                let cgroup = container.cgroup;
                self.command(Command::AddContainer { container: index, cgroup, slot });
            }
            None => {
                self.note(Anomaly::ContainersFull, 1);
                if let Some(episode) = &mut pod.episode {
                    episode.trouble(Anomaly::ContainersFull.name());
                }
            }
        }
    }

    /// A container's cgroup is there.
    pub(super) fn add_container(&mut self, pod: &mut PodState, cgroup: u64, id: String) {
        if pod.containers.iter().any(|container| container.cgroup == cgroup) {
            return;
        }
        if pod.containers.len() >= MAX_CONTAINERS {
            self.note(Anomaly::TooMany, 1);
            return;
        }
        self.pods.own_cgroup(cgroup, pod.ix);
        pod.containers.push(Container::new(cgroup, id, None));
        self.index_container(pod, pod.containers.len() - 1);
    }

    /// Drops containers that are over; their indexes are free again.
    pub(super) fn drop_containers(&mut self, pod: &mut PodState, is_over: impl Fn(&Container) -> bool) {
        let (over, kept) = std::mem::take(&mut pod.containers).into_iter().partition(is_over);
        pod.containers = kept;
        let over: Vec<Container> = over;
        for container in over {
            self.pods.disown_cgroup(container.cgroup);
            if let Some(index) = container.index {
                self.command(Command::ForgetContainer { container: index, cgroup: container.cgroup });
                self.indexes.release(index);
            }
        }
    }

    pub(super) fn add_port(&mut self, pod: &mut PodState, port: u16, more: PortUse) {
        let known = pod.ports.get(&port).copied();
        let now = known.unwrap_or_default().and(more);
        if port == 0 || known == Some(now) {
            return;
        }
        if known.is_none() && pod.ports.len() >= MAX_PORTS {
            self.note(Anomaly::TooMany, 1);
            return;
        }
        pod.ports.insert(port, now);
        let host_network = pod.fact.as_ref().is_some_and(|fact| fact.host_network);
        if let Some(slot) = pod.slot {
            self.command(add_port_command(slot, host_network, port, now));
        }
    }

    /// A pod that a service reaches on every port has no port that is no client's; nor has a hostNetwork pod, whose ports
    /// may be another's before. What was so stays so when the services let the pod go.
    pub(super) fn update_served(&mut self, pod: &mut PodState) {
        let mut present = pod.services.values().filter(|membership| membership.now.present).peekable();
        if present.peek().is_none() {
            return;
        }
        let host_network = pod.fact.as_ref().is_some_and(|fact| fact.host_network);
        let served = !host_network && present.all(|membership| membership.names_ports);
        if std::mem::replace(&mut pod.served, served) != served
            && let Some(slot) = pod.slot
        {
            self.command(Command::SetServed { slot, served });
        }
    }

    /// Takes over the addresses that are new to the pod, and gives up those that it no longer has.
    pub(super) fn update_addresses(
        &mut self,
        at: Mono,
        pod: &mut PodState,
        old: &[IpAddr],
        is_deleting: bool,
    ) {
        let new = pod.fact.as_ref().map_or_else(Vec::new, |fact| fact.addresses.clone());
        for address in new.iter().filter(|address| !old.contains(address)) {
            // Lists come in any order: a pod that is going does not take an address from one that came after it.
            let has_owner = self.addresses.get(address).is_some_and(|owner| *owner != pod.ix);
            if has_owner && is_deleting {
                continue;
            }
            if let Some(before) = self.addresses.insert(*address, pod.ix)
                && before != pod.ix
                && let Some(before) = self.pods.get_mut(before)
            {
                before.routes.lose(*address, at);
            }
            if self.rules.contains(address) {
                pod.routes.enter(*address);
            }
            if let Some(slot) = pod.slot {
                self.command(Command::AddAddress { address: *address, slot });
            }
        }
        // A pod that is over reports none; its address is kept until the slot goes, for what still comes to it.
        if pod.terminal.is_some() {
            return;
        }
        for address in old.iter().filter(|address| !new.contains(address)) {
            if self.addresses.get(address) == Some(&pod.ix) {
                self.addresses.remove(address);
                if let Some(slot) = pod.slot {
                    self.command(Command::RemoveAddress { address: *address, slot });
                }
            }
        }
    }

    /// Gives back the pod's slot and everything that hangs on it; the next pod in want gets one.
    pub(super) fn detach(&mut self, pod: &mut PodState) {
        self.drop_containers(pod, |_| true);
        pod.releasing = None;
        if let Some(cgroup) = pod.cgroup.take() {
            self.pods.disown_cgroup(cgroup);
        }
        let Some(slot) = pod.slot.take() else { return };
        self.command(Command::ForgetSlot { slot });
        pod.vacant.clear();
        self.slots.release(slot, self.now);
        if pod.fact.as_ref().is_some_and(|fact| fact.host_network) {
            self.declare_host_ports();
        }
        self.attach_waiting();
    }

    /// hostNetwork pods share one set of ports: one that a pod declared while another had it is its own when that goes.
    fn declare_host_ports(&mut self) {
        let mut commands = Vec::new();
        for pod in self.pods.iter().filter(|pod| pod.fact.as_ref().is_some_and(|fact| fact.host_network)) {
            let Some(slot) = pod.slot else { continue };
            let ports = pod.ports.iter();
            commands.extend(ports.map(|(port, port_use)| add_port_command(slot, true, *port, *port_use)));
        }
        for command in commands {
            self.command(command);
        }
    }

    fn attach_waiting(&mut self) {
        let is_waiting =
            |pod: &&PodState| !pod.was_watched && !pod.done && pod.terminal.is_none() && pod.gone.is_none();
        let next = self.pods.iter().find(is_waiting).map(|pod| pod.ix);
        if let Some(ix) = next {
            self.with_pod(ix, Self::attach);
        }
    }

    /// The pod's next turn in the timer queue.
    pub(super) fn set_timer(&mut self, pod: &mut PodState, at: Option<Mono>) {
        if pod.timer == at {
            return;
        }
        if let Some(old) = pod.timer {
            self.timers.remove(&(old, Timer::Pod(pod.ix)));
        }
        if let Some(new) = at {
            self.timers.insert((new, Timer::Pod(pod.ix)));
        }
        pod.timer = at;
    }

    /// The pod that has the slot; a stale one is counted.
    pub(super) fn pod_of_slot(&mut self, slot: SlotRef) -> Option<PodIx> {
        let pod = self.slots.pod_of(slot);
        if pod.is_none() {
            self.note(Anomaly::StaleSlot, 1);
        }
        pod
    }

    /// Terminating pods and their open connections, by workload.
    pub(super) fn gauges(&self) -> BTreeMap<usize, (u64, u64)> {
        let mut gauges: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
        for pod in self.pods.iter() {
            let is_terminating = crate::episode::End::of(pod).is_some_and(|end| end.is_termination());
            if let (true, Some(workload)) = (is_terminating, pod.workload) {
                let (pods, connections) = gauges.entry(workload).or_default();
                *pods += 1;
                *connections = connections.saturating_add(pod.ledger.open());
            }
        }
        gauges
    }
}

fn add_port_command(slot: SlotRef, host_network: bool, port: u16, port_use: PortUse) -> Command {
    let PortUse { probe, service, .. } = port_use;
    Command::AddPort { slot, host_network, port, probe, service, protocol: port_use.protocol() }
}
