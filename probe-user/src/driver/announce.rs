//! From ended terminations to notices in the outbox: the driver's side of Kubernetes Events. What is said is the core's to
//! decide, when it is sent the sender's.

use crate::kube::events::outbox::Outbox;
use probe_core::monitor::Monitor;
use probe_core::notice::Notices;
use probe_core::termination::{Filter, Termination};
use std::sync::Arc;

/// Has ends told.
#[derive(Debug)]
pub struct Announcer {
    notices: Notices,
    outbox: Arc<Outbox>,
}

impl Announcer {
    /// Goes on where the agent before this one was, as far as `monitor` knows its ends.
    #[must_use]
    pub fn new(monitor: &Monitor, outbox: Arc<Outbox>) -> Self {
        let mut notices = Notices::new(monitor.node().to_owned());
        for termination in monitor.polled() {
            notices.remember(termination);
        }
        Self { notices, outbox }
    }

    /// An end, with what the core knows of its workload.
    pub(super) fn ended(&mut self, termination: &Termination, monitor: &Monitor) {
        let filter = Filter {
            namespace: Some(termination.pod.namespace.clone()),
            workload: Some(termination.workload.name.clone()),
            ..Filter::default()
        };
        // Looked up for the few ends that lost something.
        let advised = if termination.lost.total() > 0 { monitor.advice(&filter) } else { Vec::new() };
        let advice = advised.iter().find(|advised| advised.workload == termination.workload);
        for notice in self.notices.handle(termination, advice.map(|advised| &advised.advice)) {
            self.outbox.push(notice);
        }
    }
}
