//! Saving the whole monitor and going on from it: a restored one behaves as the saved one would have. What follows from
//! other parts is not saved but made anew, so that it cannot contradict them; every index is checked.

use super::{EventCounts, Monitor, Timer};
use crate::command::Command;
use crate::endpoints::Endpoints;
use crate::event::{Anomaly, WatchHealth, WatchKind};
use crate::finding::Finding;
use crate::history::{History, with_began};
use crate::limits::Limits;
use crate::pods::Pods;
use crate::reorder::Window;
use crate::saved::{self, RestoreError};
use crate::slots::{Indexes, PodIx, Slots};
use crate::termination::{Restart, Termination};
use crate::time::Mono;
use crate::totals::Totals;
use crate::wallclock::WallClock;
use probe_ebpf::wire::anomaly;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

/// The saved fields of [`Monitor`]; the compiler sees to it that none is missing.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Monitor")]
struct Saved {
    #[serde(skip)]
    limits: Limits,
    node: String,
    wall: WallClock,
    window: Window,
    counts: EventCounts,
    now: Mono,
    timers: BTreeSet<(Mono, Timer)>,
    anomalies: BTreeMap<Anomaly, u64>,
    #[serde(with = "by_name")]
    kernel: [u64; anomaly::NAMES.len()],
    #[serde(with = "by_name")]
    kernel_before: [u64; anomaly::NAMES.len()],
    watches: BTreeMap<(WatchKind, String), (WatchHealth, Mono)>,
    watch_restarts: BTreeMap<WatchKind, u64>,
    endpoints: Endpoints,
    pods: Pods,
    slots: Slots,
    indexes: Indexes,
    addresses: BTreeMap<IpAddr, PodIx>,
    node_addresses: BTreeSet<IpAddr>,
    #[serde(default)]
    rules: BTreeSet<IpAddr>,
    totals: Totals,
    terminations: History<Termination>,
    restarts: History<Restart>,
    commands: VecDeque<Command>,
    findings: VecDeque<Finding>,
    #[serde(with = "with_began")]
    ended: VecDeque<Termination>,
}

/// The kernel side's own counters, by name: their numbers may change.
mod by_name {
    use super::anomaly::NAMES;
    use serde::{Deserialize as _, Deserializer, Serializer};
    use std::collections::BTreeMap;

    pub(super) fn serialize<S: Serializer>(
        counts: &[u64; NAMES.len()],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(NAMES.iter().zip(counts))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<[u64; NAMES.len()], D::Error> {
        let saved = BTreeMap::<String, u64>::deserialize(deserializer)?;
        Ok(NAMES.map(|name| saved.get(name).copied().unwrap_or_default()))
    }
}

impl Monitor {
    /// Everything that it knows, for [`Self::restore`]. Its size is that of the evidence (350 bytes each): at the default
    /// limits up to 7 MB each of ended terminations and restarts, and 350 kB for a pod whose end is under way. A node of 250
    /// pods has 0.6 MB without any. A release build takes a millisecond for 1 MB.
    pub fn save(&self) -> Vec<u8> {
        let mut bytes = saved::begin();
        let mut serializer = rmp_serde::Serializer::new(&mut bytes).with_struct_map();
        let done = Saved::serialize(self, &mut serializer);
        // Memory takes every byte, and every length is known: nothing is left that could fail. An unsealed state is refused.
        debug_assert!(done.is_ok(), "{done:?}");
        if done.is_ok() {
            saved::seal(&mut bytes);
        }
        bytes
    }

    /// The bounds that it was made with: a restored monitor goes on as this one only within the same.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The node that it is for.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// A monitor that goes on where the saved one was, within `limits`: where one is lower now, what is beyond it goes as
    /// it does in a running monitor, and is counted. Commands, findings and ended terminations that had not been polled
    /// are there to be polled. Next, the kernel side and the sources must be brought in line: [`Self::adopt`] or
    /// [`Self::begin_kernel_anew`], then [`Self::known`].
    pub fn restore(bytes: &[u8], limits: Limits, node: String) -> Result<Self, RestoreError> {
        let body = saved::open(bytes)?;
        let mut monitor = Saved::deserialize(&mut rmp_serde::Deserializer::from_read_ref(body))?;
        if monitor.node != node {
            return Err(RestoreError::Node { found: monitor.node, own: node });
        }
        let size = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        for (table, found, own) in [
            ("slots", monitor.slots.count(), size(limits.slots)),
            ("containers", size(monitor.indexes.count()), size(limits.containers)),
        ] {
            if found != own {
                return Err(RestoreError::Tables { table, found, own });
            }
        }
        monitor.limits = limits;
        monitor.rebuild()?;
        monitor.bound();
        Ok(monitor)
    }

    /// Makes what is not saved, and checks what refers to each other.
    fn rebuild(&mut self) -> Result<(), RestoreError> {
        let check = |is_so: bool, what| if is_so { Ok(()) } else { Err(RestoreError::Inconsistent(what)) };
        check(self.pods.rebuild(), "the table of pods")?;
        for pod in self.pods.iter() {
            check(pod.slot.is_none_or(|slot| self.slots.own(slot, pod.ix)), "a pod's slot")?;
        }
        check(self.slots.is_consistent(), "the table of slots")?;
        let containers = || self.pods.iter().flat_map(|pod| &pod.containers);
        check(
            self.indexes.is_consistent(containers().filter_map(|container| container.index)),
            "the table of containers",
        )?;
        check(self.addresses.values().all(|ix| self.pods.get(*ix).is_some()), "the table of addresses")?;
        let workloads = self.pods.iter().filter_map(|pod| pod.workload);
        check(self.totals.rebuild(self.limits.series, workloads), "the table of workloads")?;
        self.timers.retain(|(_, timer)| matches!(timer, Timer::Workload(_)));
        self.timers.extend(self.pods.iter().filter_map(|pod| Some((pod.timer?, Timer::Pod(pod.ix)))));
        Ok(())
    }

    /// Puts the limits that hold now into force.
    fn bound(&mut self) {
        let limits = self.limits;
        let lost = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let refused = self.endpoints.rebuild(limits.objects, limits.endpoints);
        self.note(Anomaly::TooMany, lost(refused));
        let dropped = self.pods.iter_mut().map(|pod| pod.evidence.rebuild(limits.evidence));
        let dropped = dropped.fold(0, u64::saturating_add);
        self.note(Anomaly::EvidenceDropped, dropped);
        let dropped = self.terminations.rebuild(limits.history, limits.evidence)
            + self.restarts.rebuild(limits.history, limits.evidence);
        self.note(Anomaly::HistoryDropped, lost(dropped));
        self.window.rebuild(limits.pending);
        loop {
            let early = self.window.relieve();
            if early == 0 {
                break;
            }
            self.note(Anomaly::TooMany, lost(early));
            self.run();
        }
    }
}
