//! The annotation `endpoints.kubernetes.io/last-change-trigger-time`: which change the newest version of a Service's slices is for.
//!
//! It has seconds, and it has them only for changes of Ready and for new Services: neither a deletion timestamp nor a pod's removal is a
//! trigger, and of several changes between two syncs the earliest stands for all.

use super::object::{Pod, Service};
use crate::wallclock::Timestamp;
use std::collections::BTreeMap;

/// What one Service's slices were last written for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TriggerTime {
    known: bool,
    service: Option<Timestamp>,
    pods: BTreeMap<String, Timestamp>,
}

impl TriggerTime {
    /// Takes a sync of the Service and its pods. Returns the annotation's value; `None`: it is removed. A Service that was deleted and comes
    /// again has a new one of these.
    pub fn sync(&mut self, service: &Service, pods: &[Pod]) -> Option<Timestamp> {
        let created = service.metadata.creation_timestamp.as_deref().and_then(Timestamp::parse);
        let ready = pods.iter().filter_map(|pod| {
            let since = pod.status.condition("Ready")?.last_transition_time.as_deref()?;
            Some((pod.metadata.name.clone(), Timestamp::parse(since)?))
        });
        let pods: BTreeMap<_, _> = ready.collect();
        let is_newer = |(name, at): &(&String, &Timestamp)| self.pods.get(*name).is_none_or(|old| *at > old);
        let newer_pods = pods.iter().filter(is_newer).map(|(_, at)| *at);
        let newer_service = created.filter(|at| self.service.is_none_or(|old| *at > old));
        let earliest = newer_pods.chain(newer_service).min();
        let trigger = if self.known { earliest } else { created };
        (self.known, self.service, self.pods) = (true, created, pods);
        trigger
    }
}
