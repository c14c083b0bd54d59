//! Exec probes and hooks of a pod, reduced to what their processes can be told by.

use crate::kube::names::is_label;
use crate::kube::objects::{Container, ExecAction, Hook, Probe};
use probe_core::exec::{ExecHook, ExecUse, names_of};
use probe_core::probes::ProbeType;

/// The API's default of `timeoutSeconds`.
const TIMEOUT_SECONDS: u32 = 1;
/// The API's default of `periodSeconds`.
const PERIOD_SECONDS: u32 = 10;

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

pub(super) fn timeout_seconds(probe: &Probe) -> u32 {
    seconds(probe.timeout_seconds, TIMEOUT_SECONDS)
}

pub(super) fn period_seconds(probe: &Probe) -> u32 {
    seconds(probe.period_seconds, PERIOD_SECONDS)
}

/// The API's default for what is not set or not a number of seconds.
fn seconds(value: Option<i64>, default: u32) -> u32 {
    value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default)
}
