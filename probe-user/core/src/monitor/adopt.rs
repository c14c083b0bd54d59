//! After a restart: brings a restored monitor and the world in line. The kernel side went on by itself and may be some
//! commands ahead, or have been lost; sources begin anew and must be told what was there, to see what is gone.

use super::Monitor;
use crate::command::Command;
use crate::event::{Anomaly, Fact, Key, WatchHealth, WatchKind};
use crate::pods::PodState;
use probe_ebpf::wire::SlotRef;
use std::collections::{BTreeMap, BTreeSet};

/// What the kernel's tables hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelTables {
    /// Every slot with a generation other than 0.
    pub slots: BTreeSet<SlotRef>,
    /// Every cgroup with its container index.
    pub containers: BTreeMap<u64, u32>,
}

/// What the sources have told so far: a source that begins anew compares it with what it finds and tells what is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Uids of the pods that the API has, with namespace and name.
    pub pods: BTreeMap<String, Key>,
    /// Services.
    pub services: BTreeSet<Key>,
    /// EndpointSlices.
    pub slices: BTreeSet<Key>,
    /// Watches that were in sync; whatever they missed, they were broken in between.
    pub watches: BTreeSet<(WatchKind, String)>,
    /// Cgroups of pods and containers.
    pub cgroups: BTreeSet<u64>,
}

impl Monitor {
    /// True if commands wait. Whoever keeps the state across a restart saves it before they are polled and applied: a
    /// kernel side that is ahead of the saved state is brought in line by [`Self::adopt`], but only by commands that the
    /// state has.
    pub fn has_commands(&self) -> bool {
        !self.commands.is_empty()
    }

    /// The kernel side went on with tables that hold this. Commands that it has had are not given again (giving a slot or a
    /// container index twice would wipe what was counted since); what it holds and nobody knows is taken back; what it
    /// should hold and does not is given anew, and counted.
    pub fn adopt(&mut self, kernel: &KernelTables) {
        // They are applied in order: what one of them left behind proves those before it.
        let is_done = |command: &Command| match command {
            Command::WatchSlot { slot } => kernel.slots.contains(slot),
            Command::AddContainer { container, cgroup, .. } => {
                kernel.containers.get(cgroup) == Some(container)
            }
            Command::MarkDeleting { .. }
            | Command::SetServed { .. }
            | Command::ForgetSlot { .. }
            | Command::AddAddress { .. }
            | Command::RemoveAddress { .. }
            | Command::AddPort { .. }
            | Command::AddService { .. }
            | Command::RemoveService { .. }
            | Command::ForgetContainer { .. } => false,
        };
        let done = self.commands.iter().rposition(is_done).map_or(0, |last| last + 1);
        self.commands.drain(..done);
        self.take_back_unknown(kernel);
        let is_lost =
            |slot| !kernel.slots.contains(&slot) && !self.commands.contains(&Command::WatchSlot { slot });
        if self.slots.used().any(|(slot, _)| is_lost(slot)) {
            self.hear_out();
        }
        for ix in self.pods.places() {
            self.with_pod(ix, |monitor, pod| monitor.give_again(pod, kernel));
        }
    }

    /// The kernel side begins anew, with empty tables: its old ones cannot be used by this version or are gone. Every
    /// pod gets a slot again; totals go on.
    pub fn begin_kernel_anew(&mut self) {
        self.hear_out();
        self.commands.clear();
        self.kernel_before = self.kernel;
        for ix in self.pods.places() {
            self.with_pod(ix, |monitor, pod| monitor.give_again(pod, &KernelTables::default()));
        }
    }

    /// Applies what waits in the reorder window: it is of the slots as they were.
    fn hear_out(&mut self) {
        self.window.let_go();
        self.run();
    }

    fn take_back_unknown(&mut self, kernel: &KernelTables) {
        for slot in &kernel.slots {
            let forget = Command::ForgetSlot { slot: *slot };
            if self.slots.pod_of(*slot).is_none() && !self.commands.contains(&forget) {
                self.note(Anomaly::StaleSlot, 1);
                self.commands.push_front(forget);
            }
        }
        let owned: BTreeSet<(u64, u32)> = self
            .pods
            .iter()
            .flat_map(|pod| &pod.containers)
            .filter_map(|container| Some((container.cgroup, container.index?)))
            .collect();
        for (cgroup, container) in &kernel.containers {
            let forget = Command::ForgetContainer { container: *container, cgroup: *cgroup };
            if !owned.contains(&(*cgroup, *container)) && !self.commands.contains(&forget) {
                self.note(Anomaly::StaleSlot, 1);
                self.commands.push_front(forget);
            }
        }
    }

    /// Gives a slot, or the indexes of containers, to a pod whose own the kernel side has lost.
    fn give_again(&mut self, pod: &mut PodState, kernel: &KernelTables) {
        let Some(slot) = pod.slot else { return };
        if !kernel.slots.contains(&slot) && !self.commands.contains(&Command::WatchSlot { slot }) {
            self.lose_slot(pod, slot);
            return;
        }
        for container in &pod.containers {
            let Some(index) = container.index else { continue };
            let add = Command::AddContainer { container: index, cgroup: container.cgroup, slot };
            if kernel.containers.get(&container.cgroup) != Some(&index) && !self.commands.contains(&add) {
                if let Some(episode) = &mut pod.episode {
                    episode.trouble(Anomaly::SlotLost.name());
                }
                self.note(Anomaly::SlotLost, 1);
                self.command(add);
            }
        }
    }

    fn lose_slot(&mut self, pod: &mut PodState, slot: SlotRef) {
        self.note(Anomaly::SlotLost, 1);
        if let Some(episode) = &mut pod.episode {
            episode.trouble(Anomaly::SlotLost.name());
        }
        // What the kernel side still holds of it is void with its generation, but fills its tables.
        self.commands.retain(|command| slot_of(command) != Some(slot));
        for container in &mut pod.containers {
            if let Some(index) = container.index.take() {
                self.command(Command::ForgetContainer { container: index, cgroup: container.cgroup });
                self.indexes.release(index);
            }
        }
        self.slots.release(slot, self.now);
        pod.slot = None;
        pod.marked = false;
        pod.ledger.change_slot();
        self.attach(pod);
    }

    /// What the sources have told, facts that wait in the reorder window included.
    pub fn known(&self) -> Known {
        let mut known = Known {
            services: self.endpoints.services().cloned().collect(),
            slices: self.endpoints.slices().cloned().collect(),
            ..Known::default()
        };
        for pod in self.pods.iter() {
            if let Some(fact) = pod.fact.as_deref().filter(|_| pod.gone.is_none()) {
                known.pods.insert(pod.uid.clone(), fact.key.clone());
            }
            let there = pod.containers.iter().filter(|container| container.cgroup_gone.is_none());
            known.cgroups.extend(there.map(|container| container.cgroup).chain(pod.cgroup));
        }
        for ((watch, namespace), (health, _)) in &self.watches {
            if *health == WatchHealth::Synced {
                known.watches.insert((*watch, namespace.clone()));
            }
        }
        for event in self.window.pending() {
            known.learn(&event.fact);
        }
        known
    }
}

impl Known {
    #[expect(clippy::wildcard_enum_match_arm, reason = "all other facts are not of things that stay")]
    fn learn(&mut self, fact: &Fact) {
        match fact {
            Fact::Pod(pod) => drop(self.pods.insert(pod.uid.clone(), pod.key.clone())),
            Fact::PodGone { uid } => drop(self.pods.remove(uid)),
            Fact::Service(service) => drop(self.services.insert(service.key.clone())),
            Fact::ServiceGone { key } => drop(self.services.remove(key)),
            Fact::Slice(slice) => drop(self.slices.insert(slice.key.clone())),
            Fact::SliceGone { key } => drop(self.slices.remove(key)),
            Fact::Watch { watch, namespace, health } => {
                let key = (*watch, namespace.clone());
                match health {
                    WatchHealth::Synced => drop(self.watches.insert(key)),
                    WatchHealth::Broken | WatchHealth::Ended => drop(self.watches.remove(&key)),
                }
            }
            Fact::CgroupGone { id } => drop(self.cgroups.remove(id)),
            _ => {}
        }
    }
}

/// The slot that a command is about.
fn slot_of(command: &Command) -> Option<SlotRef> {
    match command {
        Command::WatchSlot { slot }
        | Command::MarkDeleting { slot }
        | Command::SetServed { slot, .. }
        | Command::ForgetSlot { slot }
        | Command::AddAddress { slot, .. }
        | Command::RemoveAddress { slot, .. }
        | Command::AddPort { slot, .. }
        | Command::AddService { slot, .. }
        | Command::RemoveService { slot, .. }
        | Command::AddContainer { slot, .. } => Some(*slot),
        Command::ForgetContainer { .. } => None,
    }
}
