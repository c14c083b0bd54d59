//! The health of every watch, shared between the watch tasks, the driver and the servers: for readiness, `/status` and
//! `watch_lag_seconds`. Small and behind a mutex that is held for a map operation only.

use crate::clock::mono_now;
use probe_core::event::{WatchHealth, WatchKind};
use probe_core::time::Mono;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

const KINDS: [WatchKind; 3] = [WatchKind::Pods, WatchKind::Services, WatchKind::EndpointSlices];

/// The kind's name in labels and in `/status`.
#[must_use]
pub const fn kind_name(kind: WatchKind) -> &'static str {
    match kind {
        WatchKind::Pods => "pods",
        WatchKind::Services => "services",
        WatchKind::EndpointSlices => "endpointslices",
    }
}

/// One watch's health.
#[derive(Clone, Debug)]
pub struct WatchState {
    /// Its last list is in and the watch after it stands.
    pub synced: bool,
    /// A first list came in.
    pub ever_synced: bool,
    /// Newest event or bookmark; before the first, the start.
    pub newest: Mono,
    /// How often it broke.
    pub restarts: u64,
    /// Why it is not in sync.
    pub error: Option<String>,
}

#[derive(Debug, Default)]
struct Inner {
    watches: BTreeMap<(WatchKind, String), WatchState>,
    /// Watches of the namespaces of the first list of pods have been started.
    namespaces_started: bool,
    /// Latched: the first lists are in.
    ready: bool,
}

/// The table.
#[derive(Debug, Default)]
pub struct WatchTable(Mutex<Inner>);

impl WatchTable {
    /// A watch begins.
    pub fn started(&self, kind: WatchKind, namespace: &str) {
        let state =
            WatchState { synced: false, ever_synced: false, newest: mono_now(), restarts: 0, error: None };
        self.lock().watches.insert((kind, namespace.to_owned()), state);
    }

    /// The watches of the first namespaces have begun.
    pub fn namespaces_started(&self) {
        self.lock().namespaces_started = true;
    }

    /// An event or bookmark came.
    pub fn touched(&self, kind: WatchKind, namespace: &str) {
        self.update(kind, namespace, |state| state.newest = mono_now());
    }

    /// Its health changed; `error` says why it broke.
    pub fn health(&self, kind: WatchKind, namespace: &str, health: WatchHealth, error: Option<String>) {
        match health {
            WatchHealth::Ended => {
                self.lock().watches.remove(&(kind, namespace.to_owned()));
            }
            WatchHealth::Synced => self.update(kind, namespace, |state| {
                (state.synced, state.ever_synced, state.error) = (true, true, None);
            }),
            WatchHealth::Broken => self.update(kind, namespace, |state| {
                state.restarts += u64::from(state.synced);
                state.synced = false;
                state.error = error;
            }),
        }
    }

    /// The first API lists are in: pods, and Services and EndpointSlices of each namespace that had one then.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let mut inner = self.lock();
        if !inner.ready {
            let pods =
                inner.watches.get(&(WatchKind::Pods, String::new())).is_some_and(|state| state.ever_synced);
            inner.ready =
                pods && inner.namespaces_started && inner.watches.values().all(|state| state.ever_synced);
        }
        inner.ready
    }

    /// Every watch with its kind and namespace, in order.
    #[must_use]
    pub fn states(&self) -> Vec<((WatchKind, String), WatchState)> {
        self.lock().watches.iter().map(|(key, state)| (key.clone(), state.clone())).collect()
    }

    /// Age of the newest event or bookmark of each kind that is watched: of its oldest watch.
    #[must_use]
    pub fn lags(&self, now: Mono) -> Vec<(WatchKind, u64)> {
        let inner = self.lock();
        let oldest = |kind| {
            inner.watches.iter().filter(|((of, _), _)| *of == kind).map(|(_, state)| state.newest).min()
        };
        KINDS.iter().filter_map(|kind| oldest(*kind).map(|newest| (*kind, now.since(newest)))).collect()
    }

    fn update(&self, kind: WatchKind, namespace: &str, change: impl FnOnce(&mut WatchState)) {
        if let Some(state) = self.lock().watches.get_mut(&(kind, namespace.to_owned())) {
            change(state);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_that_the_first_lists_are_in_and_stays_so() {
        let table = WatchTable::default();
        assert!(!table.is_ready());
        table.started(WatchKind::Pods, "");
        table.health(WatchKind::Pods, "", WatchHealth::Synced, None);
        assert!(!table.is_ready(), "the namespaces' watches have not begun");
        table.started(WatchKind::Services, "n");
        table.namespaces_started();
        assert!(!table.is_ready(), "services are not in");
        table.health(WatchKind::Services, "n", WatchHealth::Synced, None);
        assert!(table.is_ready());
        table.health(WatchKind::Pods, "", WatchHealth::Broken, Some("refused".into()));
        table.started(WatchKind::Services, "m");
        assert!(table.is_ready(), "an outage later on does not take the agent out");
    }

    #[test]
    fn the_lag_of_a_kind_is_that_of_its_oldest_watch() {
        let table = WatchTable::default();
        table.started(WatchKind::Services, "old");
        let old = table.states()[0].1.newest;
        table.started(WatchKind::Services, "new");
        table.touched(WatchKind::Services, "new");
        assert_eq!(table.lags(Mono(old.0 + 7)), [(WatchKind::Services, 7)]);
        table.health(WatchKind::Services, "old", WatchHealth::Ended, None);
        table.health(WatchKind::Services, "new", WatchHealth::Ended, None);
        assert!(table.lags(mono_now()).is_empty());
    }
}
