//! Signs of life that the driver leaves for others: when it last went round, how many pods are left on the node, and
//! whether the API knows any of those that run here.

use crate::clock::mono_now;
use probe_core::event::{Fact, WatchHealth, WatchKind};
use probe_core::time::Mono;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

/// When the driver last went round its loop.
#[derive(Debug)]
pub struct Pulse(AtomicU64);

impl Default for Pulse {
    fn default() -> Self {
        Self(AtomicU64::new(mono_now().0))
    }
}

impl Pulse {
    pub(crate) fn beat(&self, now: Mono) {
        self.0.store(now.0, Ordering::Relaxed);
    }

    /// Nanoseconds since the last round.
    #[must_use]
    pub fn age_ns(&self) -> u64 {
        mono_now().since(Mono(self.0.load(Ordering::Relaxed)))
    }
}

/// Counts the node's pods, the agent's own and ended ones left out, from the facts that pass by.
#[derive(Debug)]
pub(crate) struct OtherPods {
    own: Option<String>,
    alive: BTreeSet<String>,
    listed: bool,
    left: watch::Sender<Option<usize>>,
}

impl OtherPods {
    /// `own`: the uid of the agent's pod, as its cgroup has it. The receiver has `None` until the first list is in.
    pub(crate) fn new(own: Option<String>) -> (Self, watch::Receiver<Option<usize>>) {
        let (left, receiver) = watch::channel(None);
        (Self { own, alive: BTreeSet::new(), listed: false, left }, receiver)
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "all other facts say nothing about pods that are left"
    )]
    pub(crate) fn note(&mut self, fact: &Fact) {
        match fact {
            Fact::Pod(pod) if pod.terminal || self.own.as_ref() == Some(&pod.cgroup_uid) => {
                self.alive.remove(&pod.uid);
            }
            Fact::Pod(pod) => {
                self.alive.insert(pod.uid.clone());
            }
            Fact::PodGone { uid } => {
                self.alive.remove(uid);
            }
            Fact::Watch { watch: WatchKind::Pods, health: WatchHealth::Synced, .. } => self.listed = true,
            _ => return,
        }
        if self.listed {
            let left = Some(self.alive.len());
            self.left.send_if_modified(|known| std::mem::replace(known, left) != left);
        }
    }
}

/// Looks out for a node whose pods the API has under another name: pods have cgroups here, and the API lists none.
#[derive(Debug)]
pub(crate) struct Strangers {
    listed: bool,
    known: BTreeSet<String>,
    /// Pods by their cgroups' ids.
    cgroups: BTreeMap<u64, String>,
    count: watch::Sender<usize>,
}

impl Strangers {
    /// The receiver has how many pods run here while the API lists none; 0 if it lists some.
    pub(crate) fn new() -> (Self, watch::Receiver<usize>) {
        let (count, receiver) = watch::channel(0);
        (Self { listed: false, known: BTreeSet::new(), cgroups: BTreeMap::new(), count }, receiver)
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "all other facts say nothing about what runs here")]
    pub(crate) fn note(&mut self, fact: &Fact) {
        match fact {
            Fact::Pod(pod) => drop(self.known.insert(pod.uid.clone())),
            Fact::PodGone { uid } => drop(self.known.remove(uid)),
            Fact::Cgroup { id, pod_uid, .. } => drop(self.cgroups.insert(*id, pod_uid.clone())),
            Fact::CgroupGone { id } => drop(self.cgroups.remove(id)),
            Fact::Watch { watch: WatchKind::Pods, health: WatchHealth::Synced, .. } => self.listed = true,
            _ => return,
        }
        let is_strange = self.listed && self.known.is_empty();
        let count = if is_strange { self.cgroups.values().collect::<BTreeSet<_>>().len() } else { 0 };
        self.count.send_if_modified(|known| std::mem::replace(known, count) != count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use probe_core::event::Pod;

    #[test]
    fn own_and_ended_pods_do_not_count() {
        let (mut pods, left) = OtherPods::new(Some("own".into()));
        let pod = |uid: &str, terminal| {
            Fact::Pod(Box::new(Pod { uid: uid.into(), cgroup_uid: uid.into(), terminal, ..Pod::default() }))
        };
        for fact in [pod("own", false), pod("a", false), pod("b", false), pod("done", true)] {
            pods.note(&fact);
        }
        assert_eq!(*left.borrow(), None, "not before the list is in");
        pods.note(&Fact::Watch {
            watch: WatchKind::Pods,
            namespace: String::new(),
            health: WatchHealth::Synced,
        });
        assert_eq!(*left.borrow(), Some(2));
        pods.note(&pod("a", true));
        pods.note(&Fact::PodGone { uid: "b".into() });
        assert_eq!(*left.borrow(), Some(0));
    }

    #[test]
    fn pods_are_strangers_while_the_api_lists_none() {
        let (mut strangers, count) = Strangers::new();
        let cgroup = |id, pod: &str| Fact::Cgroup { id, pod_uid: pod.into(), container_id: String::new() };
        let listed =
            Fact::Watch { watch: WatchKind::Pods, namespace: String::new(), health: WatchHealth::Synced };
        let known = Fact::Pod(Box::new(Pod { uid: "a".into(), ..Pod::default() }));
        for (fact, expected) in [
            (cgroup(1, "a"), 0),
            (cgroup(2, "a"), 0),
            (cgroup(3, "b"), 0),
            (listed, 2),
            (known, 0),
            (Fact::PodGone { uid: "a".into() }, 2),
            (Fact::CgroupGone { id: 3 }, 1),
        ] {
            strangers.note(&fact);
            assert_eq!(*count.borrow(), expected, "{fact:?}");
        }
    }
}
