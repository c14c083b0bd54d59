//! Group D: the kubelet's probe worker, stepped through statuses and results, and the moments of its probes.

use anyhow::{Result, ensure};
use probe_core::probes::schedule::Schedule;
use probe_core::probes::worker::{Next, Worker, WorkerConfig};
use probe_core::probes::{ProbeResult, ProbeType};
use probe_core::rules::facts::{ContainerState, ContainerStatus, Phase, PodStatus, RestartPolicy, Restarts};
use probe_core::wallclock::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum Given {
    Worker(Box<Story>),
    Schedule(Moments),
}

/// A worker of container `c` and what it lives to see.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Story {
    kinds: Vec<ProbeType>,
    /// Only as a regular container or only as a sidecar; else both, which must not differ.
    sidecar: Option<bool>,
    restart_policy: RestartPolicy,
    initial_delay_seconds: i32,
    success_threshold: i32,
    failure_threshold: i32,
    deleted: bool,
    manager_started_ms: i64,
    steps: Vec<Step>,
}

impl Default for Story {
    fn default() -> Self {
        Self {
            kinds: ProbeType::ALL.to_vec(),
            sidecar: None,
            restart_policy: RestartPolicy::Always,
            initial_delay_seconds: 0,
            success_threshold: 1,
            failure_threshold: 1,
            deleted: false,
            manager_started_ms: -1_000_000,
            steps: Vec::new(),
        }
    }
}

/// One look; what it does not name is as in the step before. At first a container runs since 0, with its startup behind it unless that is
/// what is probed, and each probe passes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Step {
    at_ms: Option<i64>,
    /// The pod has a status.
    known: bool,
    phase: Option<Phase>,
    name: Option<String>,
    id: Option<String>,
    state: Option<State>,
    since_ms: Option<i64>,
    exit_code: i32,
    started: Option<bool>,
    result: Option<Brought>,
    /// The worker is ended before the look.
    stop: bool,
}

impl Default for Step {
    fn default() -> Self {
        Self {
            at_ms: None,
            known: true,
            phase: None,
            name: None,
            id: None,
            state: None,
            since_ms: None,
            exit_code: 0,
            started: None,
            result: None,
            stop: false,
        }
    }
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Waiting,
    Running,
    Terminated,
}

/// What a probe brings.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Brought {
    Success,
    Failure,
    Unknown,
    Error,
    Panic,
}

/// What comes of a case of this group.
pub(crate) fn run(given: &Value) -> Result<Value> {
    match Given::deserialize(given)? {
        Given::Worker(story) => {
            let told = story.kinds.iter().map(|kind| Ok((kind.to_string(), story.told(*kind)?)));
            Ok(Value::Object(told.collect::<Result<Map<_, _>>>()?))
        }
        Given::Schedule(moments) => Ok(json!(moments.begins_ms())),
    }
}

impl Story {
    fn told(&self, kind: ProbeType) -> Result<Value> {
        let (regular, sidecar) = (self.lived(kind, false), self.lived(kind, true));
        if self.sidecar.is_none() {
            ensure!(regular == sidecar, "as a sidecar: {sidecar}, else {regular}");
        }
        Ok(if self.sidecar == Some(true) { sidecar } else { regular })
    }

    fn lived(&self, kind: ProbeType, is_sidecar: bool) -> Value {
        let restarts = Restarts {
            pod: self.restart_policy,
            own: is_sidecar.then_some(RestartPolicy::Always),
            rules: Vec::new(),
        };
        let mut worker = Worker::new(WorkerConfig {
            kind,
            container: "c".to_owned(),
            is_sidecar,
            restarts,
            initial_delay_seconds: self.initial_delay_seconds,
            success_threshold: self.success_threshold,
            failure_threshold: self.failure_threshold,
            deleted: self.deleted,
            manager_started: ms(self.manager_started_ms),
        });
        let mut status = ContainerStatus {
            name: "c".to_owned(),
            id: "c1".to_owned(),
            state: ContainerState::Running { since: ms(0) },
            started: Some(kind != ProbeType::Startup),
            ready: false,
        };
        let (mut phase, mut now, mut brought) = (Phase::Running, ms(100_000), Brought::Success);
        let steps = self.steps.iter().map(|step| {
            step.apply(&mut status);
            phase = step.phase.unwrap_or(phase);
            now = step.at_ms.map_or(now, ms);
            brought = step.result.unwrap_or(brought);
            let own = vec![status.clone()];
            let (containers, init_containers) = if is_sidecar { (Vec::new(), own) } else { (own, Vec::new()) };
            let pod = PodStatus { phase, containers, init_containers };
            if step.stop {
                worker.stop();
            }
            let next = worker.look(step.known.then_some(&pod), now);
            if next == Next::Probe {
                worker.take(brought.result());
            }
            json!({
                "goes_on": next != Next::Stop,
                "probed": next == Next::Probe,
                "believes": worker.cached(),
                "run": worker.run(),
                "on_hold": worker.on_hold(),
                "updates": worker.poll_updates().into_iter().map(|update| json!(update.result)).collect::<Vec<_>>(),
            })
        });
        steps.collect()
    }
}

impl Step {
    fn apply(&self, status: &mut ContainerStatus) {
        let keep = |new: &Option<String>, old: &mut String| {
            if let Some(new) = new {
                old.clone_from(new);
            }
        };
        keep(&self.name, &mut status.name);
        keep(&self.id, &mut status.id);
        status.started = self.started.or(status.started);
        if let Some(since) = self.since_ms {
            status.state = ContainerState::Running { since: ms(since) };
        }
        match self.state {
            Some(State::Waiting) => status.state = ContainerState::Waiting,
            Some(State::Terminated) => {
                status.state = ContainerState::Terminated { exit_code: self.exit_code }
            }
            Some(State::Running) | None => {}
        }
    }
}

impl Brought {
    const fn result(self) -> Option<ProbeResult> {
        match self {
            Self::Success => Some(ProbeResult::Success),
            Self::Failure => Some(ProbeResult::Failure),
            Self::Unknown => Some(ProbeResult::Unknown),
            Self::Error | Self::Panic => None,
        }
    }
}

/// A worker that begins at 0: how long each of its probes takes, and when it is triggered.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Moments {
    manager_age_ms: u64,
    period_seconds: i32,
    #[serde(default)]
    random: f64,
    take_ms: Vec<i64>,
    #[serde(default)]
    triggered_ms: Vec<i64>,
}

impl Moments {
    fn begins_ms(&self) -> Vec<i64> {
        let mut schedule =
            Schedule::new(ms(0), self.manager_age_ms * 1_000_000, self.period_seconds, self.random);
        let mut triggers = self.triggered_ms.iter().copied().peekable();
        let mut free_ms = 0;
        let begins = self.take_ms.iter().map(|take_ms| {
            while let Some(trigger) =
                triggers.next_if(|trigger| *trigger <= free_ms.max(schedule.due().0 / 1_000_000))
            {
                schedule.trigger(ms(trigger));
            }
            let begin = free_ms.max(schedule.due().0 / 1_000_000);
            schedule.begin(ms(begin));
            free_ms = begin + take_ms;
            begin
        });
        begins.collect()
    }
}

fn ms(ms: i64) -> Timestamp {
    Timestamp(ms * 1_000_000)
}
