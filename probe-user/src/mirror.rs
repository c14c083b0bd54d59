//! Mirror mode: the pods' own probes, run from this node as the kubelet runs them.
//!
//! In: pods that are to be probed, as the watch reduces them. Out: what their probes came to, for the servers. When a probe runs and what
//! it comes to is the core's to say (`probes::manager`), how it is made the engine's; here are the clock and the sockets ([`runner`]).

pub mod runner;

use crate::clock::{mono_now, unix_now_ns};
use crate::kube::retry::random;
use probe_core::probes::manager::{Manager, Now, Settings};
use probe_core::probes::pod::ProbedPod;
use probe_core::wallclock::Timestamp;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The node's mirrored probes. Copies are of the same ones; what is asked or told takes no longer than it takes to say.
#[derive(Clone, Debug)]
pub struct Mirror {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    manager: Mutex<Manager>,
    /// A pod came or changed: something may be due sooner.
    changed: Notify,
}

impl Mirror {
    /// No pod yet. Nothing runs without a [`runner::Runner`].
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let manager = Mutex::new(Manager::new(settings, now()));
        Self { shared: Arc::new(Shared { manager, changed: Notify::new() }) }
    }

    /// A pod that is to be probed came or changed.
    pub fn handle_pod(&self, pod: ProbedPod) {
        self.manager().handle_pod(pod, now(), &mut || f64::from(random()) / f64::from(u32::MAX));
        self.shared.changed.notify_one();
    }

    /// A pod left, or is not to be probed any more.
    pub fn remove(&self, uid: &str) {
        self.manager().remove(uid, now());
    }

    /// These are all the pods that are to be probed.
    pub fn retain(&self, wanted: &BTreeSet<String>) {
        self.manager().retain(wanted, now());
    }

    /// What is known of all workers. Whoever holds it keeps probes from beginning.
    pub fn manager(&self) -> MutexGuard<'_, Manager> {
        // Each change of it is whole, whatever its caller does next.
        self.shared.manager.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Both clocks now.
fn now() -> Now {
    Now { mono: mono_now(), wall: Timestamp(unix_now_ns()) }
}
