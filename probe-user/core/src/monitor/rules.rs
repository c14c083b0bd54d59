//! Facts of this node's service proxy: to which addresses its rules send new connections.

use super::Monitor;
use crate::event::Anomaly;
use crate::pods::PodState;
use crate::time::Mono;
use std::collections::BTreeSet;
use std::net::IpAddr;

impl Monitor {
    pub(super) fn handle_rules(&mut self, at: Mono, address: IpAddr, used: bool) {
        if used {
            if self.rules.len() >= self.limits.objects && !self.rules.contains(&address) {
                self.note(Anomaly::TooMany, 1);
                return;
            }
            self.rules.insert(address);
            self.change_routes(at, address, |pod| pod.routes.enter(address));
        } else if self.rules.remove(&address) {
            self.change_routes(at, address, |pod| pod.routes.leave(address, at));
        }
    }

    /// The whole of it, read anew: what went meanwhile did so at a moment that nobody knows.
    pub(super) fn handle_rules_read(&mut self, at: Mono, addresses: &[IpAddr]) {
        let surplus = addresses.len().saturating_sub(self.limits.objects);
        self.note(Anomaly::TooMany, u64::try_from(surplus).unwrap_or(u64::MAX));
        let now: BTreeSet<IpAddr> = addresses.iter().take(self.limits.objects).copied().collect();
        let before = std::mem::replace(&mut self.rules, now.clone());
        for address in before.difference(&now) {
            self.change_routes(at, *address, |pod| pod.routes.lose(*address, at));
        }
        for address in now.difference(&before) {
            self.change_routes(at, *address, |pod| pod.routes.enter(*address));
        }
    }

    /// What the rules say of an address is of the pod that has it now.
    fn change_routes(&mut self, at: Mono, address: IpAddr, change: impl FnOnce(&mut PodState)) {
        let Some(ix) = self.addresses.get(&address).copied() else { return };
        self.with_pod(ix, |monitor, pod| {
            change(pod);
            monitor.evaluate(pod, at);
        });
    }
}
