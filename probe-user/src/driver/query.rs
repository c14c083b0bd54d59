//! Questions to the driver from the servers: a bounded queue, one answer each, and a bound on the wait. A driver that is
//! busy or gone costs the asker an error, never a hang.

use crate::kernel::{MapUsage, ProgramStats};
use probe_core::advice::WorkloadAdvice;
use probe_core::snapshot::Snapshot;
use probe_core::termination::{Filter, Listing, Restart, Termination};
use std::collections::BTreeMap;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

/// Questions that wait at a time: more scrapers and API clients than that are turned away.
const QUEUE: usize = 32;
/// Longest wait for an answer; scrapes time out after ten seconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// No answer; the server says 503.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum QueryError {
    /// Too many questions wait.
    #[error("too many requests at a time")]
    Busy,
    /// It took too long.
    #[error("no answer within {PATIENCE:?}")]
    Late,
    /// The agent is ending.
    #[error("the agent is ending")]
    Ending,
}

/// What the driver sees at one moment: the core's series and the kernel side's state.
pub struct Observation {
    /// The core's series, after fresh readings.
    pub snapshot: Snapshot,
    /// The kernel side.
    pub kernel: KernelNow,
}

/// The kernel side at one moment; empty without kernel programs.
#[derive(Default)]
pub struct KernelNow {
    /// Programs' runs.
    pub programs: Vec<ProgramStats>,
    /// How full the maps are.
    pub maps: Vec<MapUsage>,
    /// Ring records received, by kind.
    pub records: BTreeMap<&'static str, u64>,
    /// What the programs could not do, by name.
    pub anomalies: Vec<(&'static str, u64)>,
}

/// A question.
pub(crate) enum Query {
    /// For `/metrics` (`scrape`: births of series count from it) and `/status`.
    Observe {
        scrape: bool,
        reply: oneshot::Sender<Observation>,
    },
    Terminations(Filter, oneshot::Sender<Listing<Termination>>),
    Restarts(Filter, oneshot::Sender<Listing<Restart>>),
    Advice(Filter, oneshot::Sender<Vec<WorkloadAdvice>>),
}

/// The asking side; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    queries: mpsc::Sender<Query>,
}

impl Handle {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Query>) {
        let (queries, receiver) = mpsc::channel(QUEUE);
        (Self { queries }, receiver)
    }

    /// Takes fresh readings and a snapshot. `scrape` says that it will be served to a scraper.
    pub async fn observe(&self, scrape: bool) -> Result<Observation, QueryError> {
        self.ask(|reply| Query::Observe { scrape, reply }).await
    }

    /// Terminations, newest first.
    pub async fn terminations(&self, filter: Filter) -> Result<Listing<Termination>, QueryError> {
        self.ask(|reply| Query::Terminations(filter, reply)).await
    }

    /// Container restarts, newest first.
    pub async fn restarts(&self, filter: Filter) -> Result<Listing<Restart>, QueryError> {
        self.ask(|reply| Query::Restarts(filter, reply)).await
    }

    /// What the last rollout of each workload advises.
    pub async fn advice(&self, filter: Filter) -> Result<Vec<WorkloadAdvice>, QueryError> {
        self.ask(|reply| Query::Advice(filter, reply)).await
    }

    async fn ask<T>(&self, query: impl FnOnce(oneshot::Sender<T>) -> Query) -> Result<T, QueryError> {
        let (reply, answer) = oneshot::channel();
        self.queries.try_send(query(reply)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => QueryError::Busy,
            mpsc::error::TrySendError::Closed(_) => QueryError::Ending,
        })?;
        let answer = tokio::time::timeout(PATIENCE, answer).await.map_err(|_elapsed| QueryError::Late)?;
        answer.map_err(|_gone| QueryError::Ending)
    }
}
