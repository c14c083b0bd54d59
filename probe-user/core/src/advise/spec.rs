//! What the check makes of a pod's spec, beyond what the rules read there.

use crate::probes::ProbeType;
use crate::probes::spec::Probe;
pub use crate::rules::object::{Container, Hook, PodSpec};

/// `terminationGracePeriodSeconds` where the spec has none (the API's default).
pub const DEFAULT_GRACE: i64 = 30;

/// What makes pods of a spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// It runs to an end and serves nobody (Job, CronJob).
    pub is_batch: bool,
    /// How many such pods one node may have.
    pub pods_per_node: u32,
}

impl PodSpec {
    /// The grace of a deletion, with the API's default.
    pub fn grace_seconds(&self) -> i64 {
        self.termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE)
    }

    /// Containers that may have probes: regular ones, and sidecars.
    pub fn probed_containers(&self) -> impl Iterator<Item = &Container> + '_ {
        self.containers.iter().chain(self.init_containers.iter().filter(|container| container.is_sidecar()))
    }
}

impl Container {
    /// Its probes, with their kinds.
    pub fn probes(&self) -> impl Iterator<Item = (ProbeType, &Probe)> + '_ {
        [
            (ProbeType::Startup, &self.startup_probe),
            (ProbeType::Liveness, &self.liveness_probe),
            (ProbeType::Readiness, &self.readiness_probe),
        ]
        .into_iter()
        .filter_map(|(kind, probe)| Some((kind, probe.as_ref()?)))
    }

    /// With the API's defaults in its probes.
    #[must_use]
    pub fn with_defaults(self) -> Self {
        Self {
            liveness_probe: self.liveness_probe.map(Probe::with_defaults),
            readiness_probe: self.readiness_probe.map(Probe::with_defaults),
            startup_probe: self.startup_probe.map(Probe::with_defaults),
            ..self
        }
    }

    /// Without the probes of these kinds.
    #[must_use]
    pub(super) fn without(&self, kinds: &[ProbeType]) -> Self {
        let keep = |kind, probe: &Option<Probe>| probe.clone().filter(|_| !kinds.contains(&kind));
        Self {
            liveness_probe: keep(ProbeType::Liveness, &self.liveness_probe),
            readiness_probe: keep(ProbeType::Readiness, &self.readiness_probe),
            startup_probe: keep(ProbeType::Startup, &self.startup_probe),
            ..self.clone()
        }
    }
}

impl Hook {
    /// The seconds that it waits: `sleep`, or a command that is nothing but a sleep. `None`: nobody can tell from the spec.
    pub fn sleep_seconds(&self) -> Option<i64> {
        let Some(exec) = &self.exec else { return self.sleep.as_ref().map(|sleep| sleep.seconds) };
        let words: Vec<&str> = exec.command.iter().map(String::as_str).collect();
        let words = match words[..] {
            [shell, "-c", line] if is_program(shell, &["sh", "bash", "ash", "dash"]) => {
                line.split_whitespace().collect()
            }
            _ => words,
        };
        match words[..] {
            [program, seconds] if is_program(program, &["sleep"]) => {
                seconds.strip_suffix('s').unwrap_or(seconds).parse().ok()
            }
            _ => None,
        }
    }
}

fn is_program(word: &str, names: &[&str]) -> bool {
    names.contains(&word.rsplit('/').next().unwrap_or(word))
}
