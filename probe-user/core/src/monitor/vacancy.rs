//! Services that a pod's end leaves without endpoints: the kernel side counts what this node's clients are refused there, for the
//! pod whose end took the last one. What other nodes' clients meet is not known here.

use super::Monitor;
use crate::command::Command;
use crate::episode::End;
use crate::event::{Anomaly, Key};
use crate::pods::PodState;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Addresses and ports of Services that one end has counted: sixteen Services of both families with two ports.
const MAX_TARGETS: usize = 64;

impl Monitor {
    /// Brings what the kernel side counts for this end in line with the services that it left without endpoints. They stay until
    /// the end is over, for the service proxy may go on refusing when the next endpoint is there.
    pub(super) fn watch_vacancies(&mut self, pod: &mut PodState) {
        let Some(slot) = pod.slot else { return };
        let wanted = self.vacant_targets(pod);
        for (address, port) in pod.vacant.difference(&wanted) {
            self.command(Command::RemoveService { address: *address, port: *port, slot });
        }
        for (address, port) in wanted.difference(&pod.vacant) {
            self.command(Command::AddService { address: *address, port: *port, slot });
        }
        pod.vacant = wanted;
    }

    fn vacant_targets(&mut self, pod: &PodState) -> BTreeSet<(IpAddr, u16)> {
        let Some(end) = End::of(pod) else { return BTreeSet::new() };
        let namespace = pod.fact.as_ref().map_or("", |fact| fact.key.namespace.as_str());
        let mut targets: BTreeSet<(IpAddr, u16)> = BTreeSet::new();
        for (name, _) in end.vacancies() {
            let service = Key { namespace: namespace.to_owned(), name: name.clone() };
            targets.extend(self.endpoints.targets(&service));
        }
        if targets.len() > MAX_TARGETS {
            self.note(Anomaly::TooMany, 1);
        }
        targets.into_iter().take(MAX_TARGETS).collect()
    }
}
