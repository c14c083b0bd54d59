//! Probes of the kubelet, as the kernel programs saw them: sums by workload and node, and the listing.

use super::Monitor;
use crate::event::Pod;
use crate::exec::ExecUse;
use crate::kubelet::{Observed, Phase, ProbeItem, ProbeUse, Seen};
use crate::pods::PodState;
use crate::probes::pod::HandlerKind;
use crate::series::{self, ProbeLabel};
use crate::termination::PodName;
use crate::time::Mono;
use std::net::SocketAddr;

/// The probes of a port. Several cannot be told apart: they come from one opener to one port.
fn probes_of(fact: &Pod, port: u16) -> Vec<&ProbeUse> {
    fact.probes.iter().filter(|probe| probe.port == port).collect()
}

impl Monitor {
    pub(super) fn handle_probed(&mut self, at: Mono, seen: &Seen) {
        let Some(ix) = self.pod_of_slot(seen.slot) else { return };
        let Some(pod) = self.pods.get_mut(ix) else { return };
        let Some(fact) = pod.fact.as_deref() else { return };
        let probes = probes_of(fact, seen.port);
        if probes.is_empty() {
            // The spec's word is that of a newer pod.
            return;
        }
        let label = match probes[..] {
            [only] => ProbeLabel::Of(only.probe_type),
            _ => ProbeLabel::Unknown,
        };
        let cause = seen.timeout(at, &probes);
        let workload = pod.workload;
        pod.verdicts.saw(seen, at);
        pod.probed.entry(seen.port).or_default().take(seen, cause);
        for phase in Phase::ALL {
            if let Some(ns) = seen.phase(phase) {
                self.totals.observe_probe(label, phase, ns, self.now);
            }
        }
        if let (Some(workload), Some(cause)) = (workload, cause) {
            self.totals.add(workload, series::probe_timeouts(label, cause), 1, self.now, None);
        }
    }

    /// Containers whose probes the kernel programs see: index and cgroup.
    pub fn probed_containers(&self) -> Vec<(u32, u64)> {
        let mut all = Vec::new();
        for pod in self.pods.iter() {
            let Some(fact) = pod.fact.as_deref().filter(|fact| !fact.probes.is_empty()) else { continue };
            let has_probe = |name: &str| fact.probes.iter().any(|probe| probe.container == name);
            let named = pod.named().filter(|one| one.name.as_deref().is_some_and(has_probe));
            all.extend(named.filter_map(|one| Some((one.index?, one.cgroup))));
        }
        all
    }

    /// The probes of the local pods, in the order of their names, and what was seen of them.
    pub fn probes(&self) -> Vec<ProbeItem> {
        let mut items: Vec<ProbeItem> = self.pods.iter().flat_map(items_of).collect();
        items.sort_by(|a, b| {
            let key = |item: &ProbeItem| {
                let ProbeItem { pod: PodName { namespace, name, uid }, container, probe_type, .. } = item;
                [namespace, name, uid, container, probe_type].map(String::clone)
            };
            key(a).cmp(&key(b))
        });
        items
    }
}

fn items_of(pod: &PodState) -> Vec<ProbeItem> {
    let Some(fact) = pod.fact.as_deref().filter(|_| !pod.done) else { return Vec::new() };
    let name = || PodName {
        namespace: fact.key.namespace.clone(),
        name: fact.key.name.clone(),
        uid: fact.uid.clone(),
    };
    let item = |probe: &ProbeUse| {
        let shared = probes_of(fact, probe.port).len() > 1;
        let address = fact.addresses.first().map(|ip| SocketAddr::new(*ip, probe.port).to_string());
        ProbeItem {
            pod: name(),
            workload: fact.workload.clone(),
            container: probe.container.clone(),
            probe_type: probe.probe_type.to_string(),
            handler: probe.handler,
            target: address.unwrap_or_default(),
            period_seconds: probe.period_seconds,
            kubelet: pod.probed.get(&probe.port).map(|seen| seen.observed(shared)),
        }
    };
    let command = |probe: &ExecUse| ProbeItem {
        pod: name(),
        workload: fact.workload.clone(),
        container: probe.container.clone(),
        probe_type: probe.probe_type.to_string(),
        handler: HandlerKind::Exec,
        target: String::new(),
        period_seconds: probe.period_seconds,
        kubelet: pod.execs.observed(probe).map(Observed::of_exec),
    };
    fact.probes.iter().map(item).chain(fact.exec_probes.iter().map(command)).collect()
}
