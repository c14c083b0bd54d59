//! The kubelet's exec probes as the kernel saw them: by the processes that the container runtime puts into a container.
//!
//! In: commands that came into a container from outside and ended, the pod's exec probes and hooks. Out: which of them were probes, and
//! what those took. The kernel tells a process's name, its time and its end, not who asked for it: one that may be a probe and may be
//! something else counts apart. Not here: results, which only the kubelet knows.

mod names;

pub use names::names_of;

use crate::event::Pod;
use crate::limits::SECOND;
use crate::probes::ProbeType;
use crate::series::ProbeLabel;
use crate::time::Mono;
use crate::totals::seconds;
use probe_ebpf::wire::SlotRef;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// How long after its timeout a command may end by itself and still be a probe: the runtime may be late with its kill.
const LATE_NS: u64 = SECOND;
/// How long after its timeout it may be killed: what waits for a disk does not die.
const KILLED_NS: u64 = 30 * SECOND;
/// Commands of a pod that wait for their container's name at a time.
const WAITING: usize = 16;
/// How the processes of runc's own way into a container name themselves (libcontainer/nsenter/nsexec.c).
const RUNC: &str = "runc:[";
const SIGKILL: u32 = 9;

/// An exec probe of a pod's spec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecUse {
    /// Name of the container whose probe it is.
    pub container: String,
    /// What it is for.
    pub probe_type: ProbeType,
    /// Names that its process may have: [`names_of`] its command.
    pub names: Vec<String>,
    /// `timeoutSeconds`.
    pub timeout_seconds: u32,
    /// `periodSeconds`.
    pub period_seconds: u32,
}

/// A hook of a pod's spec that runs a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecHook {
    /// Name of the container whose hook it is.
    pub container: String,
    /// It is a postStart hook, else a preStop one.
    pub at_start: bool,
    /// Names that its process may have: [`names_of`] its command.
    pub names: Vec<String>,
}

/// A command that came into a container from outside and ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Execed {
    /// Slot and generation.
    pub slot: SlotRef,
    /// Container index.
    pub container: u32,
    /// Pid.
    pub pid: u32,
    /// Its name: of what it executed last, unless it named itself.
    pub comm: String,
    /// The runtime made its process, before it executed the command.
    pub started: Mono,
    /// Its last thread exited.
    pub ended: Mono,
    /// CPU time between the two, up to the last tick or switch, and that of the children that it waited for.
    pub cpu_ns: u64,
    /// As wait(2) has it.
    pub status: u32,
    /// It had a terminal, as no probe has.
    pub terminal: bool,
}

impl Execed {
    /// A step of the runtime's own on the way into the container.
    pub(crate) fn is_runtimes(&self) -> bool {
        self.comm.starts_with(RUNC)
    }

    pub(crate) fn lasted(&self) -> u64 {
        self.ended.since(self.started)
    }

    /// It had no more time than the probe's, or was killed when that was over.
    fn fits_time_of(&self, probe: &ExecUse) -> bool {
        let more = if self.status & 0x7f == SIGKILL { KILLED_NS } else { LATE_NS };
        self.lasted() <= u64::from(probe.timeout_seconds) * SECOND + more
    }
}

/// What a command was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A probe, or one of several that look the same.
    Probe(ProbeLabel),
    /// A probe or something else.
    Ambiguous,
    /// No probe.
    Other,
}

/// What was seen of a probe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct ProbeSeen {
    count: u64,
    last_ns: u64,
    cpu_ns: u64,
    /// Some of it was counted for another probe that looks the same as well.
    shared: bool,
    /// When it is due, were none early.
    due: Mono,
}

impl ProbeSeen {
    /// The kubelet begins no more than one in a period. It may be early by one (a manual trigger, a tick that had to wait), and
    /// none is delayed by the same time as the one before.
    fn is_due(&self, started: Mono, period_ns: u64) -> bool {
        started.after(period_ns + period_ns / 2) >= self.due
    }
}

/// What was seen of a container's exec probes, and what else was run in it from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct ContainerSeen {
    probes: BTreeMap<ProbeType, ProbeSeen>,
    ambiguous: u64,
    other: u64,
    /// Index of the instance in which a command with a probe's name was seen last.
    instance: Option<u32>,
}

/// What was run in a pod's containers from outside.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PodExecs {
    /// Of those that have exec probes, by name.
    containers: BTreeMap<String, ContainerSeen>,
    /// Commands in containers that the API has not named yet.
    pub(crate) waiting: VecDeque<Execed>,
}

impl PodExecs {
    /// Keeps a command until it can be judged; false if the oldest had to go.
    pub(crate) fn wait(&mut self, execed: Execed) -> bool {
        self.waiting.push_back(execed);
        let fits = self.waiting.len() <= WAITING;
        if !fits {
            self.waiting.pop_front();
        }
        fits
    }

    /// Takes a command that ended in the container of this name.
    pub(crate) fn take(&mut self, fact: &Pod, container: &str, execed: &Execed) -> Verdict {
        let probes: Vec<&ExecUse> =
            fact.exec_probes.iter().filter(|probe| probe.container == container).collect();
        if probes.is_empty() {
            return Verdict::Other;
        }
        let seen = self.containers.entry(container.to_owned()).or_default();
        let hooks = fact.exec_hooks.iter().filter(|hook| hook.container == container);
        let hooks: Vec<&ExecHook> = hooks.filter(|hook| hook.names.contains(&execed.comm)).collect();
        let verdict = seen.judge(&probes, &hooks, fact.deletion.is_some(), execed);
        match verdict {
            Verdict::Probe(_) => {}
            Verdict::Ambiguous => seen.ambiguous = seen.ambiguous.saturating_add(1),
            Verdict::Other => seen.other = seen.other.saturating_add(1),
        }
        verdict
    }

    /// For the API; `None` as long as nothing was seen in its container.
    pub(crate) fn observed(&self, probe: &ExecUse) -> Option<(bool, ExecObserved)> {
        let container = self.containers.get(&probe.container)?;
        let ProbeSeen { count, last_ns, cpu_ns, shared, .. } =
            container.probes.get(&probe.probe_type).cloned().unwrap_or_default();
        let (ambiguous, other) = (container.ambiguous, container.other);
        let duration_seconds = (count > 0).then(|| seconds(last_ns));
        let cpu_seconds = seconds(cpu_ns);
        Some((shared, ExecObserved { count, duration_seconds, cpu_seconds, ambiguous, other }))
    }
}

impl ContainerSeen {
    /// `hooks` are those whose command has this name.
    fn judge(
        &mut self,
        probes: &[&ExecUse],
        hooks: &[&ExecHook],
        is_ending: bool,
        execed: &Execed,
    ) -> Verdict {
        let named = || probes.iter().filter(|probe| probe.names.contains(&execed.comm));
        if named().next().is_none() || execed.terminal {
            return Verdict::Other;
        }
        // A postStart hook is the first that the runtime is asked for.
        let is_first = self.instance.replace(execed.container) != Some(execed.container);
        if hooks.iter().any(|hook| if hook.at_start { is_first } else { is_ending }) {
            return Verdict::Ambiguous;
        }
        let fitting: Vec<&ExecUse> = named().copied().filter(|probe| execed.fits_time_of(probe)).collect();
        let period_ns = |probe: &ExecUse| u64::from(probe.period_seconds) * SECOND;
        let due = fitting.iter().find(|probe| {
            let seen = self.probes.entry(probe.probe_type).or_default();
            seen.is_due(execed.started, period_ns(probe))
        });
        let Some(due) = due else { return Verdict::Ambiguous };
        let seen = self.probes.entry(due.probe_type).or_default();
        seen.due = seen.due.max(execed.started).after(period_ns(due));
        for probe in &fitting {
            let seen = self.probes.entry(probe.probe_type).or_default();
            seen.count = seen.count.saturating_add(1);
            seen.last_ns = execed.lasted();
            seen.cpu_ns = seen.cpu_ns.saturating_add(execed.cpu_ns);
            seen.shared |= fitting.len() > 1;
        }
        match fitting[..] {
            [only] => Verdict::Probe(ProbeLabel::Of(only.probe_type)),
            _ => Verdict::Probe(ProbeLabel::Unknown),
        }
    }
}

/// What the kernel programs saw of an exec probe.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExecObserved {
    /// Its commands that ended.
    pub count: u64,
    /// Seconds that the last one took; `null` if there was none.
    pub duration_seconds: Option<f64>,
    /// CPU seconds of all.
    pub cpu_seconds: f64,
    /// Commands in its container that may have been a probe, and something else as well; not counted here.
    pub ambiguous: u64,
    /// Commands that were run in its container from outside, and were no probe.
    pub other: u64,
}

#[cfg(test)]
mod tests;
