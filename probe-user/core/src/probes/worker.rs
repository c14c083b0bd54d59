//! The kubelet's probe worker: whether one container is to be probed now, and what is believed of it.
//!
//! One worker for a container and a kind of probe, for the pod's whole life: containers come and go under it. Its steps and their order
//! are the kubelet's. Two that surprise: its count of equal results goes on across a container's restart, and a probe that could not be
//! made neither adds to that count nor breaks it. When to look is for `schedule`; what an attempt comes to for `verdict`.

use super::{ProbeResult, ProbeType};
use crate::rules::facts::{ContainerState, PodStatus, Restarts};
use crate::wallclock::Timestamp;

const NS: i64 = 1_000_000_000;
/// A container that started so long before its worker's manager is older than the manager's own start.
const RESTART_MARGIN_NS: i64 = 10 * NS;

/// What a worker is told once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerConfig {
    /// What is probed for.
    pub kind: ProbeType,
    /// Container's name.
    pub container: String,
    /// A restartable init container.
    pub is_sidecar: bool,
    /// When the container starts again.
    pub restarts: Restarts,
    /// `initialDelaySeconds`.
    pub initial_delay_seconds: i32,
    /// `successThreshold`.
    pub success_threshold: i32,
    /// `failureThreshold`.
    pub failure_threshold: i32,
    /// The pod had a deletion timestamp when the worker came to be. It is never told of a later one.
    pub deleted: bool,
    /// When the manager of all workers (the kubelet) was started.
    pub manager_started: Timestamp,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing; look again at the next tick.
    Wait,
    /// Run the probe and tell [`Worker::take`].
    Probe,
    /// The worker has ended.
    Stop,
}

/// What keeps a running container from being probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Its pod is being deleted.
    Ended,
    /// The initial delay.
    Delayed {
        /// Until when.
        until: Timestamp,
    },
    /// Its startup probe has passed, and this is it.
    Passed,
    /// Its startup probe has not passed.
    BehindStartup,
    /// Nothing.
    Due,
}

/// The gates in their order, for a container that runs since then. The delay is counted in whole seconds.
pub fn gate(
    kind: ProbeType,
    is_ended: bool,
    since: Timestamp,
    started: bool,
    initial_delay_seconds: i32,
    now: Timestamp,
) -> Gate {
    let delay_s = i64::from(initial_delay_seconds);
    match kind {
        _ if is_ended => Gate::Ended,
        _ if now.0.saturating_sub(since.0) / NS < delay_s => {
            Gate::Delayed { until: Timestamp(since.0.saturating_add(delay_s * NS)) }
        }
        ProbeType::Startup if started => Gate::Passed,
        ProbeType::Liveness | ProbeType::Readiness if !started => Gate::BehindStartup,
        ProbeType::Startup | ProbeType::Liveness | ProbeType::Readiness => Gate::Due,
    }
}

/// A change of what is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// The container that it is about.
    pub container_id: String,
    /// What is believed now.
    pub result: ProbeResult,
}

/// The state machine.
#[derive(Clone, Debug)]
pub struct Worker {
    config: WorkerConfig,
    container_id: String,
    cached: Option<ProbeResult>,
    last: Option<ProbeResult>,
    run: i32,
    on_hold: bool,
    stopped: bool,
    updates: Vec<Update>,
}

impl Worker {
    /// A worker that has seen nothing.
    pub fn new(config: WorkerConfig) -> Self {
        Self {
            config,
            container_id: String::new(),
            cached: None,
            last: None,
            run: 0,
            on_hold: false,
            stopped: false,
            updates: Vec::new(),
        }
    }

    /// What is believed of the container; `None`: nothing.
    pub const fn cached(&self) -> Option<ProbeResult> {
        self.cached
    }

    /// How many equal results came in a row.
    pub const fn run(&self) -> i32 {
        self.run
    }

    /// It waits for another container.
    pub const fn on_hold(&self) -> bool {
        self.on_hold
    }

    /// Changes since this was called last, at most two for a look and one for a result.
    pub fn poll_updates(&mut self) -> Vec<Update> {
        std::mem::take(&mut self.updates)
    }

    /// Ends it: nothing is believed any more. Ending it twice is once.
    pub fn stop(&mut self) {
        self.stopped = true;
        self.cached = None;
    }

    /// Whether to probe, by the pod's newest status (`None`: there is none yet).
    pub fn look(&mut self, status: Option<&PodStatus>, now: Timestamp) -> Next {
        let Some(status) = status.filter(|_| !self.stopped) else {
            return if self.stopped { Next::Stop } else { Next::Wait };
        };
        if status.phase.is_terminal() {
            return Next::Stop;
        }
        let Some(container) = status.probed_container(&self.config.container) else { return Next::Wait };
        if self.container_id != container.id {
            self.container_id.clone_from(&container.id);
            self.cached = None;
            let is_started = container.started == Some(true);
            if self.config.is_sidecar && self.config.kind == ProbeType::Startup && is_started {
                self.believe(ProbeResult::Success);
            }
            if !self.is_older_than_manager(&container.state) {
                self.believe(self.config.kind.initial());
            }
            self.on_hold = false;
        }
        if self.on_hold {
            return Next::Wait;
        }
        let since = match container.state {
            ContainerState::Running { since } => since,
            ContainerState::Waiting => {
                self.believe(ProbeResult::Failure);
                return Next::Wait;
            }
            ContainerState::Terminated { exit_code } => {
                self.believe(ProbeResult::Failure);
                return if self.config.restarts.after(exit_code) { Next::Wait } else { Next::Stop };
            }
        };
        let WorkerConfig { kind, deleted, initial_delay_seconds, .. } = self.config;
        let is_ended = deleted && kind != ProbeType::Readiness;
        match gate(kind, is_ended, since, container.started == Some(true), initial_delay_seconds, now) {
            Gate::Ended => {
                self.believe(ProbeResult::Success);
                Next::Stop
            }
            Gate::Delayed { .. } | Gate::Passed | Gate::BehindStartup => Next::Wait,
            Gate::Due => Next::Probe,
        }
    }

    /// Takes what a probe came to; `None`: it was discarded, for it could not be made or did not end.
    pub fn take(&mut self, result: Option<ProbeResult>) {
        let Some(result) = result.filter(|_| !self.stopped) else { return };
        if self.last == Some(result) {
            self.run = self.run.saturating_add(1);
        } else {
            self.last = Some(result);
            self.run = 1;
        }
        let is_below_threshold = match result {
            ProbeResult::Failure => self.run < self.config.failure_threshold,
            ProbeResult::Success => self.run < self.config.success_threshold,
            ProbeResult::Unknown => false,
        };
        if is_below_threshold {
            return;
        }
        self.believe(result);
        // It will be restarted, or has started: there is nothing to ask until there is another container.
        let is_final = match self.config.kind {
            ProbeType::Liveness => result == ProbeResult::Failure,
            ProbeType::Readiness => false,
            ProbeType::Startup => true,
        };
        if is_final {
            self.on_hold = true;
            self.run = 0;
        }
    }

    fn believe(&mut self, result: ProbeResult) {
        if self.cached != Some(result) {
            self.cached = Some(result);
            self.updates.push(Update { container_id: self.container_id.clone(), result });
        }
    }

    /// It ran before this manager did: the first belief would make it unready for a restart of the kubelet alone.
    fn is_older_than_manager(&self, state: &ContainerState) -> bool {
        let margin = self.config.manager_started.0.saturating_sub(RESTART_MARGIN_NS);
        matches!(state, ContainerState::Running { since } if since.0 < margin)
    }
}
