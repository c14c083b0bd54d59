//! The kubelet's verdicts: a reading goes to the pods that it tells of, and the listing.

use super::Monitor;
use crate::time::Mono;
use crate::verdicts::{Reading, Taken, Told, VerdictItem};
use probe_ebpf::wire::anomaly;
use std::collections::BTreeMap;

/// The kernel side's counters of ends of probes' connections that have no record.
const UNTOLD: [u32; 3] = [anomaly::RING_FULL, anomaly::PROBES_FULL, anomaly::PROBES_UNSEEN];

impl Monitor {
    pub(super) fn handle_verdicts(&mut self, answered: Mono, reading: &Reading) {
        let mut told: BTreeMap<&str, Vec<&Told>> = BTreeMap::new();
        for one in &reading.told {
            told.entry(&one.pod_uid).or_default().push(one);
        }
        let lost = UNTOLD.iter().filter_map(|index| self.kernel.get(*index as usize));
        let lost = lost.fold(0_u64, |sum, count| sum.saturating_add(*count));
        // Before the first sample of the clock, which comes with the agent's first turn, no span can begin: it would have no time.
        let Some(offset) = self.wall.offset() else { return };
        let taken = Taken { reading, answered, at: offset.wall(answered), lost };
        for pod in self.pods.iter_mut() {
            let Some(fact) = pod.fact.as_deref() else { continue };
            // Without a slot nothing of it is seen.
            let probes = if pod.slot.is_some() { fact.probes.as_slice() } else { &[] };
            let told = told.remove(fact.cgroup_uid.as_str()).unwrap_or_default();
            pod.verdicts.take(&taken, &told, probes);
        }
    }

    /// The kubelet's verdicts on the local pods' probes, by pod's uid, container and kind of probe.
    pub fn verdicts(&self) -> Vec<VerdictItem> {
        let now = self.window.watermark();
        let pods = self.pods.iter().filter(|pod| !pod.done);
        let items = pods.filter_map(|pod| Some((pod, pod.fact.as_deref()?)));
        let items = items.flat_map(|(pod, fact)| pod.verdicts.items(&fact.uid, &fact.probes, now));
        let mut items: Vec<VerdictItem> = items.collect();
        items.sort_by(|a, b| {
            (&a.pod_uid, &a.container, a.probe_type).cmp(&(&b.pod_uid, &b.container, b.probe_type))
        });
        items
    }
}
