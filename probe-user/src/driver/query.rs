//! Questions to the driver from the servers: a bounded queue, one answer each, and a bound on the wait. A driver that is
//! busy or gone costs the asker an error, never a hang.

use crate::eventlog::tape::Recording;
use crate::kernel::{MapUsage, ProgramStats};
use probe_core::advice::WorkloadAdvice;
use probe_core::kubelet::ProbeItem;
use probe_core::snapshot::{Series, Snapshot};
use probe_core::termination::{Filter, Listing, Restart, Termination};
use probe_core::verdicts::VerdictItem;
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
    Observe(oneshot::Sender<Observation>),
    /// For `/metrics`: births of series count from it.
    Scrape(Vec<Series>, oneshot::Sender<Vec<Series>>),
    Terminations(Filter, oneshot::Sender<Listing<Termination>>),
    Restarts(Filter, oneshot::Sender<Listing<Restart>>),
    Advice(Filter, oneshot::Sender<Vec<WorkloadAdvice>>),
    Probes(oneshot::Sender<(Vec<ProbeItem>, Vec<VerdictItem>)>),
    Record(oneshot::Sender<Option<Recording>>),
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

    /// Takes fresh readings and a snapshot.
    pub async fn observe(&self) -> Result<Observation, QueryError> {
        self.ask(Query::Observe).await
    }

    /// The same for a scraper: the series of the core and of the kernel side, and `own`, what the agent says of itself.
    pub async fn scrape(&self, own: Vec<Series>) -> Result<Vec<Series>, QueryError> {
        self.ask(|reply| Query::Scrape(own, reply)).await
    }

    /// Begins an event log; `None` if there are as many as there may be.
    pub async fn record(&self) -> Result<Option<Recording>, QueryError> {
        self.ask(Query::Record).await
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

    /// The local pods' probes, what was seen of the kubelet's, and its verdicts.
    pub async fn probes(&self) -> Result<(Vec<ProbeItem>, Vec<VerdictItem>), QueryError> {
        self.ask(Query::Probes).await
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
