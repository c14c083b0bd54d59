//! The steps of a pod's end in time: preStop, the turn of sidecars, stop signal, SIGKILL.
//!
//! In: for each container how long its hook runs and how long it takes to exit after its signal. Out: when each step happens, in
//! nanoseconds from the begin of the end. The kubelet counts whole seconds, so fractions are given away in the container's favour.

use super::grace::SHORTEST_STOP_SECONDS;
use serde::{Deserialize, Serialize};

const NS: u64 = 1_000_000_000;

/// A preStop hook and what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// How long it runs; `None`: until its container is gone.
    pub runs_ns: Option<u64>,
    /// It fails in the end.
    #[serde(default)]
    pub fails: bool,
}

/// One container of a pod that ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EndingContainer {
    /// Name.
    pub name: String,
    /// A restartable init container.
    pub sidecar: bool,
    /// Its preStop hook.
    pub hook: Option<Hook>,
    /// How long it takes to exit after its stop signal; `None`: it ignores that.
    pub exits_ns: Option<u64>,
    /// It has ended before.
    pub exited: bool,
}

/// When a container's end comes to what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stop {
    /// The hook was started.
    pub hook_ran: bool,
    /// Event `FailedPreStopHook`: the hook failed, within the grace.
    pub hook_failed: bool,
    /// Whole seconds that it waited for its turn.
    pub waited_seconds: i64,
    /// The stop signal.
    pub signal_ns: u64,
    /// The timeout that the runtime is given.
    pub timeout_seconds: i64,
    /// SIGKILL, if it has not exited before.
    pub kill_ns: u64,
    /// Its exit.
    pub exit_ns: u64,
}

/// The end of all these containers, in their order: init containers as the spec declares them, before or after the regular ones.
pub fn stops_of(containers: &[EndingContainer], grace_seconds: i64) -> Vec<Stop> {
    let mut stops = vec![Stop::default(); containers.len()];
    let mut free_ns = 0;
    let (sidecars, regular): (Vec<_>, Vec<_>) =
        containers.iter().enumerate().partition(|(_, container)| container.sidecar);
    for (index, container) in regular {
        stops[index] = stop_of(container, grace_seconds, None);
        free_ns = stops[index].exit_ns.max(free_ns);
    }
    // Each waits for all regular ones and for the sidecar that was declared after it.
    for (index, container) in sidecars.into_iter().rev() {
        stops[index] = stop_of(container, grace_seconds, Some(free_ns));
        free_ns = stops[index].exit_ns.max(free_ns);
    }
    stops
}

/// The end of one container, whose turn comes at `turn_ns` if it has to wait for one.
fn stop_of(container: &EndingContainer, grace_seconds: i64, turn_ns: Option<u64>) -> Stop {
    if container.exited {
        return Stop::default();
    }
    let mut stop = Stop::default();
    let mut left = grace_seconds;
    let mut now_ns = 0;
    if let Some(hook) = container.hook.filter(|_| left > 0) {
        let limit_ns = in_ns(left);
        stop.hook_ran = true;
        stop.hook_failed = hook.fails && hook.runs_ns.is_some_and(|ns| ns <= limit_ns);
        now_ns = hook.runs_ns.unwrap_or(u64::MAX).min(limit_ns);
        left -= whole_seconds(now_ns);
    }
    if let Some(turn_ns) = turn_ns.filter(|_| left > 0) {
        let waited_ns = turn_ns.saturating_sub(now_ns).min(in_ns(left));
        stop.waited_seconds = whole_seconds(waited_ns);
        now_ns += waited_ns;
        left -= stop.waited_seconds;
    }
    stop.timeout_seconds = left.max(SHORTEST_STOP_SECONDS);
    stop.signal_ns = now_ns;
    stop.kill_ns = now_ns.saturating_add(in_ns(stop.timeout_seconds));
    stop.exit_ns = stop.kill_ns.min(container.exits_ns.map_or(u64::MAX, |ns| now_ns.saturating_add(ns)));
    stop
}

fn in_ns(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or(0).saturating_mul(NS)
}

fn whole_seconds(ns: u64) -> i64 {
    i64::try_from(ns / NS).unwrap_or(i64::MAX)
}
