//! Exec probes and hooks of a pod, reduced to what their processes can be told by.

use super::{period_seconds, timeout_seconds};
use crate::kube::names::is_label;
use crate::kube::objects::{Container, ExecAction, Hook};
use probe_core::exec::{ExecHook, ExecUse, names_of};
use probe_core::probes::ProbeType;

/// The exec probes. Where a probe has several handlers, which the API refuses, the kubelet takes the command.
pub(super) fn probes(containers: &[&Container]) -> Vec<ExecUse> {
    let mut probes = Vec::new();
    for container in containers.iter().filter(|container| is_label(&container.name)) {
        let all = [&container.liveness_probe, &container.readiness_probe, &container.startup_probe];
        for (probe_type, probe) in ProbeType::ALL.into_iter().zip(all) {
            let Some(probe) = probe else { continue };
            let Some(ExecAction { command }) = &probe.exec else { continue };
            probes.push(ExecUse {
                container: container.name.clone(),
                probe_type,
                names: names_of(command),
                timeout_seconds: timeout_seconds(probe),
                period_seconds: period_seconds(probe),
            });
        }
    }
    probes
}

/// The hooks that run a command.
pub(super) fn hooks(containers: &[&Container]) -> Vec<ExecHook> {
    let mut hooks = Vec::new();
    for container in containers.iter().filter(|container| is_label(&container.name)) {
        let all = [(true, &container.lifecycle.post_start), (false, &container.lifecycle.pre_stop)];
        for (at_start, hook) in all {
            let Some(Hook { exec: Some(ExecAction { command }), .. }) = hook else { continue };
            hooks.push(ExecHook { container: container.name.clone(), at_start, names: names_of(command) });
        }
    }
    hooks
}
