//! The bounded log of changes and the cursor that follows it: what a watch cache is in the real API server.
//!
//! Every change has its own resource version, one greater than the last. A cursor reads on from any version that the log still covers, from async
//! code or from a thread with a bounded wait; one that fell behind the log learns so ([`Expired`]) instead of missing changes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::watch;

use super::kind::Kind;
use super::store::Store;

/// Changes kept for watches that resume; an older resource version is expired.
pub const HISTORY_LIMIT: usize = 4096;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// It did not exist before.
    Added,
    /// It existed and differs now.
    Modified,
    /// It is gone.
    Deleted,
}

/// One change of one object.
#[derive(Clone, Debug)]
pub struct Change {
    /// The object's kind.
    pub kind: Kind,
    /// What happened.
    pub verb: Verb,
    /// Its namespace; empty for a cluster-scoped kind.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its state after the change; for [`Verb::Deleted`] its last state with the deletion's resource version.
    pub object: Arc<Value>,
    /// Its state before the change; absent for [`Verb::Added`].
    pub previous: Option<Arc<Value>>,
    /// The change's own resource version.
    pub resource_version: u64,
}

/// The log no longer reaches back to the wanted resource version: list again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version: {wanted} ({oldest})")]
pub struct Expired {
    /// The version that was asked for.
    pub wanted: u64,
    /// The oldest version from which a watch can still start.
    pub oldest: u64,
}

/// The changes after `compacted`, oldest first.
#[derive(Debug)]
pub(super) struct History {
    changes: VecDeque<Arc<Change>>,
    compacted: u64,
}

impl History {
    pub(super) fn starting_at(revision: u64) -> Self {
        Self { changes: VecDeque::new(), compacted: revision }
    }

    pub(super) fn push(&mut self, change: Arc<Change>) {
        if self.changes.len() == HISTORY_LIMIT
            && let Some(dropped) = self.changes.pop_front()
        {
            self.compacted = dropped.resource_version;
        }
        self.changes.push_back(change);
    }

    pub(super) fn compact(&mut self) {
        if let Some(last) = self.changes.back() {
            self.compacted = last.resource_version;
        }
        self.changes.clear();
    }

    /// The oldest version from which a watch misses nothing.
    pub(super) fn oldest(&self) -> u64 {
        self.compacted
    }

    /// The first change after `version`, if there is one yet.
    pub(super) fn after(&self, version: u64) -> Result<Option<Arc<Change>>, Expired> {
        if version < self.compacted {
            return Err(Expired { wanted: version, oldest: self.compacted });
        }
        let next = self.changes.partition_point(|change| change.resource_version <= version);
        Ok(self.changes.get(next).map(Arc::clone))
    }
}

/// A cursor in the log of changes of all kinds. It holds no changes itself: a slow reader costs nothing and is told when it is too late.
#[derive(Debug)]
pub struct Watch {
    store: Store,
    seen: u64,
    revision: watch::Receiver<u64>,
}

impl Watch {
    pub(super) fn new(store: Store, seen: u64, revision: watch::Receiver<u64>) -> Self {
        Self { store, seen, revision }
    }

    /// The version up to which this cursor has delivered everything.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// The next change, if it has happened already.
    pub fn try_next(&mut self) -> Result<Option<Arc<Change>>, Expired> {
        let change = self.store.change_after(self.seen)?;
        if let Some(change) = &change {
            self.seen = change.resource_version;
        }
        Ok(change)
    }

    /// The next change, waiting for it. Cancel safe.
    pub async fn next(&mut self) -> Result<Arc<Change>, Expired> {
        loop {
            self.revision.borrow_and_update();
            if let Some(change) = self.try_next()? {
                return Ok(change);
            }
            self.revision.changed().await.expect("the cursor's own store keeps the sender alive");
        }
    }

    /// The next change, waiting at most `timeout` on this thread; `None` when the time has passed.
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Arc<Change>>, Expired> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(change) = self.try_next()? {
                return Ok(Some(change));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.store.wait_beyond(self.seen, left);
        }
    }
}
