//! Runs mirrored probes: one task that sleeps until the next is due, and a task for each that is under way.
//!
//! No timer and no task for a probe that waits: thousands of them cost one sorted set. How many run at a time, and how many begin in a
//! second, is bounded by the manager; what a probe may cost by the engine. A probe that panics is one that brought nothing.

use super::{Mirror, now};
use crate::probe::command;
use crate::probe::spec::{SpecError, resolve};
use futures::FutureExt as _;
use probe_core::probes::manager::{Start, WorkerId};
use probe_core::probes::tally::{Parts, Ran};
use probe_core::probes::verdict::Outcome as Result;
use probe_core::time::Mono;
use probe_core::wallclock::Timestamp;
use probe_engine::{ContainerPort, Outcome, Phase, Verdict};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// What probes call themselves: the kubelet of the newest Kubernetes that the rules here are held against.
pub const KUBE_PROBE: &str = "kube-probe/1.36";

/// Longest sleep: whatever is due later is asked for again.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// Is told when a probe was due and when it began, in the order in which they ended.
pub type Observer = Box<dyn FnMut(Mono, Mono) + Send>;

/// Runs a node's mirrored probes.
pub struct Runner {
    mirror: Mirror,
    user_agent: Arc<str>,
    /// The container runtime's socket.
    runtime: Option<Arc<Path>>,
    observer: Option<Observer>,
    tasks: JoinSet<Ended>,
}

/// A probe that has ended.
struct Ended {
    id: WorkerId,
    due: Mono,
    began: Mono,
    ran: Option<Ran>,
}

impl Runner {
    /// `user_agent` is what HTTP and gRPC probes call themselves.
    #[must_use]
    pub fn new(mirror: Mirror, user_agent: &str) -> Self {
        Self { mirror, user_agent: user_agent.into(), runtime: None, observer: None, tasks: JoinSet::new() }
    }

    /// Has commands run by the container runtime with this socket; without one they cannot be run.
    #[must_use]
    pub fn with_runtime(mut self, socket: Option<&Path>) -> Self {
        self.runtime = socket.map(Arc::from);
        self
    }

    /// Has somebody watch how late probes begin.
    #[must_use]
    pub fn observed_by(mut self, observer: Observer) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Runs for ever; dropping it ends the probes that are under way.
    pub async fn run(mut self) {
        let mirror = self.mirror.clone();
        loop {
            let wait = self.begin_due();
            tokio::select! {
                Some(ended) = self.tasks.join_next() => {
                    self.end(ended);
                    while let Some(ended) = self.tasks.try_join_next() {
                        self.end(ended);
                    }
                }
                () = mirror.shared.changed.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Begins what is due; how long there is nothing more, unless something changes.
    fn begin_due(&mut self) -> Duration {
        let mut manager = self.mirror.manager();
        while let Some(start) = manager.poll(now()) {
            self.tasks.spawn(run_one(start, Arc::clone(&self.user_agent), self.runtime.clone()));
        }
        let now = now().mono;
        let wait = manager.next_due(now).map(|due| Duration::from_nanos(due.since(now)));
        wait.map_or(SLEEP_MAX, |wait| wait.min(SLEEP_MAX))
    }

    fn end(&mut self, ended: std::result::Result<Ended, tokio::task::JoinError>) {
        // A task catches its own panics and is ended by nobody but the drop of all of them.
        let Ok(Ended { id, due, began, ran }) = ended else { return };
        if let Some(observer) = &mut self.observer {
            observer(due, began);
        }
        self.mirror.manager().finish(id, ran, now());
    }
}

async fn run_one(start: Start, user_agent: Arc<str>, runtime: Option<Arc<Path>>) -> Ended {
    let began = now();
    let ran = probe(&start, &user_agent, runtime.as_deref(), began.wall);
    let ran = AssertUnwindSafe(ran).catch_unwind().await;
    Ended { id: start.id, due: start.due, began: began.mono, ran: ran.ok() }
}

/// Makes the probe; one that cannot be made (no such port, no runtime) is Unknown and says why.
async fn probe(start: &Start, user_agent: &str, runtime: Option<&Path>, at: Timestamp) -> Ran {
    let container = &start.container;
    let ports: Vec<ContainerPort<'_>> =
        container.ports.iter().map(|(name, number)| ContainerPort { name, number: *number }).collect();
    let spec = container.probe(start.kind).ok_or(SpecError::NoHandler);
    let resolved = spec.and_then(|spec| match (resolve(spec, &start.address, &ports, user_agent), runtime) {
        (Err(SpecError::Exec), Some(socket)) => {
            command::resolve(spec, &container.env, &start.container_id, socket, user_agent)
        }
        (resolved, _) => resolved,
    });
    let outcome = match resolved {
        Ok(probe) => Box::pin(probe_engine::run(&probe)).await,
        Err(error) => return unmade(at, error.to_string()),
    };
    Ran {
        at,
        result: match outcome.verdict {
            Verdict::Success => Result::Success,
            Verdict::Warning => Result::Warning,
            Verdict::Failure => Result::Failure,
            Verdict::Unknown => Result::Unknown,
        },
        duration_ns: nanoseconds(outcome.duration),
        parts: parts_of(&outcome),
        is_refused: outcome.is_refused,
        output: outcome.output,
    }
}

fn unmade(at: Timestamp, output: String) -> Ran {
    Ran { at, result: Result::Unknown, output, duration_ns: 0, parts: Parts::default(), is_refused: false }
}

fn parts_of(outcome: &Outcome) -> Parts {
    let part = |phase| outcome.phases.get(phase).map(nanoseconds);
    Parts {
        connect: part(Phase::Connect),
        tls: part(Phase::Tls),
        first_byte: part(Phase::FirstByte),
        body: part(Phase::Body),
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
