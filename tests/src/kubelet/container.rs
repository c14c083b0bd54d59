//! One container of a pod through its restarts: what runs, what ran last, and what its status in the API is.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::probe::{Probe, ProbeHandle, Role};
use crate::node::{Exit, Process, has_killed};

/// Where a container is.
#[derive(Debug)]
pub(super) enum State {
    /// Not started yet, or waiting to be started again.
    Waiting { reason: &'static str, until: Instant },
    /// Its process runs.
    Running { process: Arc<Process>, since: Timestamp },
    /// Its process has ended and will not be started again.
    Terminated,
}

/// What of the container's end has happened, once the pod terminates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The preStop hook runs.
    InHook { until: Instant },
    /// The stop signal is out.
    Signalled { kill_at: Instant },
    /// SIGKILL is out.
    Killed,
}

/// An ended process of the container.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    exit: Exit,
    container_id: String,
    started: Timestamp,
    finished: Timestamp,
    for_memory: bool,
}

/// A container and its history.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) spec: Value,
    pub(super) name: String,
    pub(super) id: String,
    pub(super) state: State,
    pub(super) stop: Option<Stop>,
    pub(super) ended: Option<Ended>,
    pub(super) restarts: u32,
    /// It runs, and its startup probe has passed, if it has one.
    pub(super) is_started: bool,
    pub(super) probe_verdict: bool,
    pub(super) probe: Option<ProbeHandle>,
    /// The group that limits its memory.
    pub(super) memory: Option<PathBuf>,
    /// It is being stopped although its pod goes on: since when, and with which grace.
    pub(super) killing: Option<(Instant, Duration)>,
    /// A restartable init container: it starts before the others and ends after them.
    pub(super) is_sidecar: bool,
    has_probe: bool,
}

impl Container {
    pub(super) fn new(spec: &Value) -> anyhow::Result<Self> {
        Ok(Self {
            spec: spec.clone(),
            name: spec["name"].as_str().unwrap_or_default().to_owned(),
            id: String::new(),
            state: State::Waiting { reason: "ContainerCreating", until: Instant::now() },
            stop: None,
            ended: None,
            restarts: 0,
            is_started: false,
            probe_verdict: false,
            probe: None,
            memory: None,
            killing: None,
            is_sidecar: spec["restartPolicy"] == "Always",
            has_probe: Probe::of_container(spec, Role::Readiness)?.is_some(),
        })
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// Started, and what its readiness probe says, if it has one.
    pub(super) fn is_ready(&self) -> bool {
        self.is_started && (self.probe_verdict || !self.has_probe)
    }

    /// The exit code of its last process, if that has ended.
    pub(super) fn exit_code(&self) -> Option<i32> {
        self.ended.as_ref().map(|ended| ended.exit.code())
    }

    /// When something is to be done with it next, if nothing happens before.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match (&self.state, self.stop) {
            (&State::Waiting { until, .. }, _)
            | (State::Running { .. }, Some(Stop::InHook { until } | Stop::Signalled { kill_at: until })) => {
                Some(until)
            }
            (State::Running { .. }, Some(Stop::Killed) | None) | (State::Terminated, _) => None,
        }
    }

    /// Notes the end of the running process.
    pub(super) fn note_exit(&mut self, exit: Exit) {
        if let State::Running { since, .. } = self.state {
            self.ended = Some(Ended {
                exit,
                container_id: self.id.clone(),
                started: since,
                finished: Timestamp::now(),
                for_memory: self.memory.as_deref().is_some_and(has_killed),
            });
        }
        self.state = State::Terminated;
        self.stop = None;
        self.killing = None;
        self.probe = None;
        self.is_started = false;
        self.probe_verdict = false;
    }

    /// Its entry in `status.containerStatuses`.
    pub(super) fn status(&self) -> Value {
        let ended = || json!({"terminated": self.ended.as_ref().map(Ended::status)});
        let (state, last) = match &self.state {
            State::Waiting { reason, .. } if self.ended.is_none() => {
                (json!({"waiting": {"reason": reason}}), json!({}))
            }
            State::Waiting { reason, .. } => (json!({"waiting": {"reason": reason}}), ended()),
            State::Running { since, .. } => {
                let last = if self.ended.is_some() { ended() } else { json!({}) };
                (json!({"running": {"startedAt": whole_seconds(*since)}}), last)
            }
            State::Terminated if self.ended.is_none() => {
                (json!({"waiting": {"reason": "ContainerCreating"}}), json!({}))
            }
            State::Terminated => (ended(), json!({})),
        };
        let image = self.spec["image"].as_str().unwrap_or_default();
        let mut status = json!({
            "name": self.name, "image": image, "imageID": image, "ready": self.is_ready(), "started": self.is_started,
            "restartCount": self.restarts, "state": state, "lastState": last,
        });
        if !self.id.is_empty() {
            status["containerID"] = json!(format!("containerd://{}", self.id));
        }
        status
    }
}

impl Ended {
    fn status(&self) -> Value {
        let code = self.exit.code();
        // containerd reports the shell's 128 + n and never the signal field.
        let reason = match code {
            _ if self.for_memory => "OOMKilled",
            0 => "Completed",
            _ => "Error",
        };
        json!({
            "exitCode": code, "reason": reason,
            "startedAt": whole_seconds(self.started), "finishedAt": whole_seconds(self.finished),
            "containerID": format!("containerd://{}", self.container_id),
        })
    }
}

/// Times in the API have whole seconds.
pub(super) fn whole_seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
