//! The steps of a container's end, as the kubelet and the runtime take them: preStop, stop signal, grace, SIGKILL.
//!
//! Containers end in parallel, sidecars after them in reverse order. A second deletion with a shorter grace does not interrupt a stop that is
//! under way, as with the real kubelet. Not here: httpGet hooks, and hooks of sidecars that overlap with the others' end.

use std::str::FromStr as _;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::container::{State, Stop};
use super::journal::Step;
use super::worker::Worker;

/// The runtime gets at least this long between stop signal and SIGKILL, even when preStop used the whole grace.
const SHORTEST_STOP: Duration = Duration::from_secs(2);
/// A graceful deletion has at least this grace.
const SHORTEST_GRACE: Duration = Duration::from_secs(1);

impl Worker {
    /// Begins the end; what still waits to be started never will be.
    pub(super) fn begin_termination(&mut self, grace: Duration) {
        if self.termination.is_some() {
            return;
        }
        self.record(Step::TerminationStarted);
        self.termination = Some((Instant::now(), grace.max(SHORTEST_GRACE)));
        for container in &mut self.containers {
            if matches!(container.state, State::Waiting { .. }) {
                container.state = State::Terminated;
            }
        }
    }

    /// Takes the next step of each container that is being stopped, if it is due.
    pub(super) fn advance_stops(&mut self) -> anyhow::Result<()> {
        for index in 0..self.containers.len() {
            let container = &self.containers[index];
            if let Some((began, grace)) =
                self.termination.filter(|_| self.is_its_turn(index)).or(container.killing)
            {
                self.advance_stop(index, began, grace)?;
            }
        }
        Ok(())
    }

    /// Sidecars wait for all others, and for the sidecars that were declared after them.
    fn is_its_turn(&self, index: usize) -> bool {
        let mut others = self.containers.iter().enumerate();
        !self.containers[index].is_sidecar
            || !others
                .any(|(other, container)| container.is_running() && (!container.is_sidecar || other > index))
    }

    fn advance_stop(&mut self, index: usize, began: Instant, grace: Duration) -> anyhow::Result<()> {
        let now = Instant::now();
        let container = &self.containers[index];
        let State::Running { process, .. } = &container.state else { return Ok(()) };
        let name = container.name.clone();
        let hook = &container.spec["lifecycle"]["preStop"];
        let next = match container.stop {
            None if hook["exec"].is_object() => {
                self.record(Step::PreStop { container: name });
                self.run_hook(index, &hook["exec"])?;
                Stop::InHook { until: began + grace }
            }
            None if let Some(sleep) = prestop_sleep_of(&container.spec) => {
                self.record(Step::PreStop { container: name });
                Stop::InHook { until: now + sleep.min(grace) }
            }
            None => self.send_stop_signal(index, began, grace)?,
            Some(Stop::InHook { until }) if until <= now => self.send_stop_signal(index, began, grace)?,
            Some(Stop::Signalled { kill_at }) if kill_at <= now => {
                self.record(Step::Signal { container: name, signal: Signal::SIGKILL as i32 });
                process.signal(Signal::SIGKILL)?;
                Stop::Killed
            }
            Some(waiting) => waiting,
        };
        self.containers[index].stop = Some(next);
        Ok(())
    }

    /// The hook has come to its end: its container's stop signal is due.
    pub(super) fn on_hook_done(&mut self, index: usize, id: &str) {
        let container = &mut self.containers[index];
        if container.id == id && matches!(container.stop, Some(Stop::InHook { .. })) {
            container.stop = Some(Stop::InHook { until: Instant::now() });
        }
    }

    /// Begins the end of a container whose pod goes on, as after a failed liveness probe.
    pub(super) fn kill_container(&mut self, name: &str, grace: Duration) {
        for container in self.containers.iter_mut().filter(|container| container.name == name) {
            container.killing = Some((Instant::now(), grace));
        }
    }

    /// The grace counts whole seconds spent, as the kubelet does.
    fn send_stop_signal(&self, index: usize, began: Instant, grace: Duration) -> anyhow::Result<Stop> {
        let container = &self.containers[index];
        let State::Running { process, .. } = &container.state else { return Ok(Stop::Killed) };
        let signal = stop_signal_of(&container.spec);
        let spent = Duration::from_secs(began.elapsed().as_secs());
        let remaining = grace.saturating_sub(spent).max(SHORTEST_STOP);
        self.record(Step::Signal { container: container.name.clone(), signal: signal as i32 });
        process.signal(signal)?;
        Ok(Stop::Signalled { kill_at: Instant::now() + remaining })
    }
}

fn prestop_sleep_of(spec: &Value) -> Option<Duration> {
    spec["lifecycle"]["preStop"]["sleep"]["seconds"]
        .as_u64()
        .filter(|seconds| *seconds > 0)
        .map(Duration::from_secs)
}

fn stop_signal_of(spec: &Value) -> Signal {
    let named = spec["lifecycle"]["stopSignal"].as_str();
    named.and_then(|name| Signal::from_str(name).ok()).unwrap_or(Signal::SIGTERM)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_stop_signal_is_the_containers_or_term() {
        assert_eq!(stop_signal_of(&json!({})), Signal::SIGTERM);
        assert_eq!(stop_signal_of(&json!({"lifecycle": {"stopSignal": "SIGQUIT"}})), Signal::SIGQUIT);
    }

    #[test]
    fn a_sleep_of_zero_is_no_hook() {
        let spec = |seconds: u64| json!({"lifecycle": {"preStop": {"sleep": {"seconds": seconds}}}});
        assert_eq!(prestop_sleep_of(&spec(0)), None);
        assert_eq!(prestop_sleep_of(&spec(3)), Some(Duration::from_secs(3)));
    }
}
