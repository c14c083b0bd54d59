//! A pod worker's probes: which of them runs when, and what follows from a verdict.
//!
//! A container's startup probe comes first and alone; when it fails, the container is ended and started again. How to ask is in `probe.rs`.

use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;

use super::container::State;
use super::journal::Step;
use super::probe::{Probe, Role};
use super::verdicts::ProbeLabels;
use super::worker::{Message, Worker};

impl Worker {
    /// Probes a container that runs from now on, in place of any probe before; whether it has such a probe.
    pub(super) fn start_probe(&mut self, index: usize, role: Role) -> anyhow::Result<bool> {
        let Some(addresses) = self.addresses else { return Ok(false) };
        let container = &mut self.containers[index];
        let State::Running { since, .. } = container.state else { return Ok(false) };
        let Some(probe) = Probe::of_container(&container.spec, role)? else { return Ok(false) };
        let age = Timestamp::now().duration_since(since).unsigned_abs();
        let (outbox, id) = (self.outbox.clone(), container.id.clone());
        let report = move |passed| {
            drop(outbox.send(Message::Probed { container: index, id: id.clone(), role, passed }))
        };
        let labels = ProbeLabels {
            namespace: self.namespace.clone(),
            pod: self.name.clone(),
            pod_uid: self.uid.clone(),
            container: container.name.clone(),
            probe_type: role.name(),
        };
        let verdicts = self.shared.verdicts.clone();
        let counted = move |passed| verdicts.count(&labels, if passed { "successful" } else { "failed" });
        container.probe = Some(probe.start(IpAddr::V4(addresses.v4()), age, counted, report)?);
        Ok(true)
    }

    pub(super) fn on_probed(
        &mut self,
        index: usize,
        id: &str,
        role: Role,
        passed: bool,
    ) -> anyhow::Result<()> {
        let container = &mut self.containers[index];
        if container.id != id || !container.is_running() {
            return Ok(());
        }
        let name = container.name.clone();
        match role {
            Role::Readiness => {
                container.probe_verdict = passed;
                self.record(Step::Readiness { container: name, ready: passed });
            }
            // A pod that ends is not asked any more whether it has started.
            Role::Startup if self.termination.is_some() => {}
            Role::Startup => {
                self.record(Step::Startup { container: name.clone(), passed });
                if passed {
                    self.containers[index].is_started = true;
                    self.start_probe(index, Role::Readiness)?;
                } else {
                    let own =
                        self.containers[index].spec["startupProbe"]["terminationGracePeriodSeconds"].as_u64();
                    self.kill_container(&name, own.map_or(self.grace, Duration::from_secs));
                }
            }
        }
        Ok(())
    }
}
