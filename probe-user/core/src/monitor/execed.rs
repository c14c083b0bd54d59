//! Commands that were run in containers from outside: which were the kubelet's exec probes, summed by workload and node.

use super::Monitor;
use crate::event::Anomaly;
use crate::exec::{Execed, Verdict};
use crate::pods::PodState;
use crate::series;

impl Monitor {
    pub(super) fn handle_execed(&mut self, execed: Execed) {
        let Some(ix) = self.pod_of_slot(execed.slot) else { return };
        if execed.is_runtimes() {
            return;
        }
        self.with_pod(ix, |monitor, pod| {
            if pod.container_mut(execed.container).is_none() {
                monitor.note(Anomaly::StaleSlot, 1);
            } else if !pod.execs.wait(execed) {
                // A container that the API never names: of the sandbox, or one that runs before the others.
                monitor.note(Anomaly::EvidenceDropped, 1);
            }
            monitor.judge_execs(pod);
        });
    }

    /// Judges the commands whose containers have a name: a probe may be over before the container's status has come.
    pub(super) fn judge_execs(&mut self, pod: &mut PodState) {
        let (Some(workload), Some(fact)) = (pod.workload, pod.fact.as_deref()) else { return };
        for execed in std::mem::take(&mut pod.execs.waiting) {
            let Some(container) = pod.containers.iter().find(|one| one.index == Some(execed.container))
            else {
                self.note(Anomaly::StaleSlot, 1);
                continue;
            };
            let Some(name) = &container.name else {
                pod.execs.waiting.push_back(execed);
                continue;
            };
            let (now, cpu_ns) = (self.now, execed.cpu_ns);
            match pod.execs.take(fact, name, &execed) {
                Verdict::Probe(label) => {
                    self.totals.add(workload, series::exec_probes(label), 1, now, None);
                    self.totals.add(workload, series::exec_cpu(label), cpu_ns, now, None);
                    self.totals.observe_exec(label, execed.lasted(), cpu_ns, now);
                }
                Verdict::Ambiguous => {
                    self.totals.add(workload, series::OTHER_EXECS_AMBIGUOUS, 1, now, None);
                }
                Verdict::Other => self.totals.add(workload, series::OTHER_EXECS, 1, now, None),
            }
        }
    }
}
