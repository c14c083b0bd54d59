//! One worker of the manager: the kubelet's state machine, its ticks, and what its probes came to.
//!
//! Ticks go by the monotonic clock; the schedule, which is told either, has its moments as numbers.

use super::{Now, Settings, Target};
use crate::probes::pod::{HandlerKind, ProbedContainer, ProbedPod};
use crate::probes::schedule::Schedule;
use crate::probes::series::RowKey;
use crate::probes::tally::{Ran, Tally};
use crate::probes::verdict::Outcome;
use crate::probes::worker::{Next, Worker, WorkerConfig};
use crate::probes::{ProbeResult, ProbeType};
use crate::rules::facts::PodStatus;
use crate::time::Mono;
use crate::wallclock::Timestamp;
use std::sync::Arc;

/// Where a worker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Waits for this moment.
    Due(Mono),
    /// Was due then and is to probe; a cap stands in the way.
    Queued(Mono),
    /// Probes this container.
    Running(String),
    /// Never probes.
    Idle,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) uid: String,
    pub(super) container: Arc<ProbedContainer>,
    pub(super) kind: ProbeType,
    pub(super) place: Place,
    /// Where it is counted.
    pub(super) row: Arc<RowKey>,
    pub(super) handler: HandlerKind,
    period_seconds: i32,
    worker: Worker,
    schedule: Schedule,
    tally: Tally,
}

impl Entry {
    /// `of`: its container, which of its probes, how that is made, and where it is counted. `clocks`: when the manager was started, and
    /// now.
    pub(super) fn new(
        pod: &ProbedPod,
        of: (&Arc<ProbedContainer>, ProbeType, HandlerKind, Arc<RowKey>),
        settings: &Settings,
        clocks: (Now, Now),
        random: f64,
    ) -> Self {
        let (container, kind, handler, row) = of;
        let probe = container.probe(kind).cloned().unwrap_or_default().with_defaults();
        let (started, now) = clocks;
        let period_seconds =
            settings.period_max_seconds.map_or(probe.period_seconds, |max| probe.period_seconds.min(max));
        let age_ns = now.mono.since(started.mono);
        let schedule = Schedule::new(number_of(now.mono), age_ns, period_seconds, random);
        let is_run = handler != HandlerKind::Exec || settings.exec;
        Self {
            uid: pod.uid.clone(),
            container: Arc::clone(container),
            kind,
            place: if is_run { Place::Due(mono_of(schedule.due())) } else { Place::Idle },
            handler,
            period_seconds,
            worker: Worker::new(WorkerConfig {
                kind,
                container: container.name.clone(),
                is_sidecar: container.is_sidecar,
                restarts: container.restarts.clone(),
                initial_delay_seconds: probe.initial_delay_seconds,
                success_threshold: probe.success_threshold,
                failure_threshold: probe.failure_threshold,
                deleted: pod.is_deleted,
                manager_started: started.wall,
            }),
            schedule,
            tally: Tally::default(),
            row,
        }
    }

    pub(super) fn believes(&self) -> Option<ProbeResult> {
        self.worker.cached()
    }

    pub(super) fn stops_with_pod(&self) -> bool {
        self.kind.stops_with_pod(self.container.is_sidecar)
    }

    /// Whether to probe. What changes is read off the worker when it is asked for: nobody waits for the changes themselves.
    pub(super) fn look(&mut self, status: Option<&PodStatus>, now: Timestamp) -> Next {
        let next = self.worker.look(status, now);
        self.worker.poll_updates();
        next
    }

    /// A tick is used up now; the moment of the next.
    pub(super) fn use_tick(&mut self, now: Mono) -> Mono {
        self.schedule.begin(number_of(now));
        mono_of(self.schedule.due())
    }

    /// The next tick after a probe that ended now: at once if it was missed meanwhile.
    pub(super) fn next_tick(&self, now: Mono) -> Mono {
        mono_of(self.schedule.due()).max(now)
    }

    /// What a probe brought; an error says nothing about the container.
    pub(super) fn take(&mut self, ran: Option<Ran>) {
        self.worker.take(ran.as_ref().and_then(|ran| match ran.result {
            Outcome::Success | Outcome::Warning => Some(ProbeResult::Success),
            Outcome::Failure => Some(ProbeResult::Failure),
            Outcome::Unknown => None,
        }));
        self.worker.poll_updates();
        if let Some(ran) = ran {
            self.tally.take(ran);
        }
    }

    pub(super) fn target<'a>(&'a self, pod: &'a ProbedPod) -> Target<'a> {
        Target {
            pod,
            container: &self.container,
            kind: self.kind,
            handler: self.handler,
            is_off: self.place == Place::Idle,
            period_seconds: self.period_seconds,
            believes: self.worker.cached(),
            run: self.worker.run(),
            tally: &self.tally,
            next: match self.place {
                Place::Due(at) | Place::Queued(at) if !self.worker.on_hold() => Some(at),
                Place::Due(_) | Place::Queued(_) | Place::Running(_) | Place::Idle => None,
            },
        }
    }
}

/// The schedule's form of a moment.
fn number_of(mono: Mono) -> Timestamp {
    Timestamp(i64::try_from(mono.0).unwrap_or(i64::MAX))
}

fn mono_of(number: Timestamp) -> Mono {
    Mono(u64::try_from(number.0).unwrap_or(0))
}
