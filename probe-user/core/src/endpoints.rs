//! Services and EndpointSlices, and what they say of one pod: by targetRef uid over all slices of a service, for
//! endpoints move between slices (absent in one is not removed) and may be in two at once.

use crate::event::{Key, Service, Slice};
use crate::ports::{Hint, best_hints};
use crate::rules::endpoint::Conditions;
use crate::rules::proxy::{Use, in_use};
use crate::time::Mono;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// A change of conditions up to so long before the deletion was seen is taken for its effect: the two come by different
/// watches.
pub(crate) const WATCH_SKEW_NS: u64 = 1_000_000_000;

/// Addresses of one Service that are kept: one per family.
const ADDRESSES: usize = 2;
/// Ports of one Service that are kept: as many as a slice has by the API's limit.
const PORTS: usize = 100;

/// What all slices of one service say of one pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    pub(crate) present: bool,
    pub(crate) ready: bool,
    pub(crate) serving: bool,
    pub(crate) terminating: bool,
}

impl Status {
    /// What the service's proxy may use it for.
    fn usable(self) -> Use {
        let Self { present, ready, serving, terminating } = self;
        if present { Conditions { ready, serving, terminating }.usable() } else { Use::Never }
    }
}

/// The history of one pod in one service.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Membership {
    pub(crate) now: Status,
    /// It reaches the pod on ports that it names, not on all.
    pub(crate) names_ports: bool,
    not_ready: Option<Change>,
    unserving: Option<Change>,
    gone: Option<Change>,
    /// The service lost its last usable endpoint with this one.
    pub(crate) vacancy: Option<Vacancy>,
}

/// A service without an endpoint that its proxy would use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Vacancy {
    pub(crate) from: Mono,
    /// `None` while it lasts.
    pub(crate) until: Option<Mono>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Change {
    at: Mono,
    terminating: bool,
}

impl Membership {
    /// Takes the newest status. `vacant`: the service has no usable endpoint.
    pub(crate) fn update(&mut self, at: Mono, now: Status, vacant: bool) {
        if vacant && self.now.usable() != Use::Never {
            self.vacancy = Some(Vacancy { from: at, until: None });
        } else if !vacant && let Some(vacancy) = &mut self.vacancy {
            vacancy.until = vacancy.until.or(Some(at));
        }
        let change = Change { at, terminating: now.terminating };
        let step = |slot: &mut Option<Change>, was: bool, is: bool| {
            if is {
                *slot = None;
            } else if was {
                *slot = Some(change);
            }
        };
        step(&mut self.not_ready, self.now.ready, now.ready);
        step(&mut self.unserving, self.now.serving, now.serving);
        step(&mut self.gone, self.now.present, now.present);
        self.now = now;
    }
}

/// Which change of the conditions is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stage {
    NotReady,
    Unserving,
    Gone,
}

/// When the pod's endpoint reached the stage in the slowest of its services, as an effect of what began at `since`.
/// `None` while one of them has not, and without a service.
pub(crate) fn reached<'a>(
    memberships: impl Iterator<Item = &'a Membership>,
    stage: Stage,
    since: Mono,
) -> Option<Mono> {
    let mut slowest = None;
    for membership in memberships {
        let (change, still) = match stage {
            Stage::NotReady => (membership.not_ready, membership.now.ready),
            Stage::Unserving => (membership.unserving, membership.now.serving),
            Stage::Gone => (membership.gone, membership.now.present),
        };
        if still {
            return None;
        }
        let effect = change.filter(|change| change.terminating || change.at.after(WATCH_SKEW_NS) >= since);
        slowest = slowest.max(effect.map(|change| change.at));
    }
    slowest
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Flags {
    headless: bool,
    publish_not_ready: bool,
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
}

/// All services and slices of the namespaces that have a local pod.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Endpoints {
    services: BTreeMap<Key, Flags>,
    slices: BTreeMap<Key, Slice>,
    /// Follows from `slices`, as `count` does: not saved.
    #[serde(skip)]
    by_service: BTreeMap<Key, BTreeSet<String>>,
    #[serde(skip)]
    count: usize,
}

/// An object did not fit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl Endpoints {
    pub(crate) fn put_service(&mut self, service: &Service, objects: usize) -> Result<(), Full> {
        if self.services.len() >= objects && !self.services.contains_key(&service.key) {
            return Err(Full);
        }
        let flags = Flags {
            headless: service.headless,
            publish_not_ready: service.publish_not_ready,
            addresses: service.addresses.iter().copied().take(ADDRESSES).collect(),
            ports: service.ports.iter().copied().take(PORTS).collect(),
        };
        self.services.insert(service.key.clone(), flags);
        Ok(())
    }

    pub(crate) fn remove_service(&mut self, key: &Key) {
        self.services.remove(key);
    }

    /// Takes a slice; tells which services it touches (it may have belonged to another).
    pub(crate) fn put_slice(
        &mut self,
        slice: Slice,
        objects: usize,
        endpoints: usize,
    ) -> Result<BTreeSet<Key>, Full> {
        let old = self.slices.get(&slice.key).map_or(0, |old| old.endpoints.len());
        let is_new = !self.slices.contains_key(&slice.key);
        if (is_new && self.slices.len() >= objects) || self.count - old + slice.endpoints.len() > endpoints {
            return Err(Full);
        }
        let mut touched = self.remove_slice(&slice.key);
        let service = service_of(&slice);
        self.by_service.entry(service.clone()).or_default().insert(slice.key.name.clone());
        touched.insert(service);
        self.count += slice.endpoints.len();
        self.slices.insert(slice.key.clone(), slice);
        Ok(touched)
    }

    /// Forgets a slice; tells which service it belonged to.
    pub(crate) fn remove_slice(&mut self, key: &Key) -> BTreeSet<Key> {
        let mut touched = BTreeSet::new();
        if let Some(old) = self.slices.remove(key) {
            self.count -= old.endpoints.len();
            let service = service_of(&old);
            if let Some(names) = self.by_service.get_mut(&service) {
                names.remove(&key.name);
                if names.is_empty() {
                    self.by_service.remove(&service);
                }
            }
            touched.insert(service);
        }
        touched
    }

    /// After a restore: what is not saved, and the bounds that hold now. Tells how many objects did not fit.
    pub(crate) fn rebuild(&mut self, objects: usize, endpoints: usize) -> usize {
        let before = self.services.len() + self.slices.len();
        self.services = std::mem::take(&mut self.services).into_iter().take(objects).collect();
        let slices = std::mem::take(&mut self.slices);
        for (key, slice) in slices {
            // What does not fit is told again by the new watch's list, and refused there.
            if key == slice.key {
                let _refused = self.put_slice(slice, objects, endpoints).is_err();
            }
        }
        before - self.services.len() - self.slices.len()
    }

    /// Names of all services.
    pub(crate) fn services(&self) -> impl Iterator<Item = &Key> + '_ {
        self.services.keys()
    }

    /// Names of all slices.
    pub(crate) fn slices(&self) -> impl Iterator<Item = &Key> + '_ {
        self.slices.keys()
    }

    fn slices_of(&self, service: &Key) -> impl Iterator<Item = &Slice> + '_ {
        let namespace = service.namespace.clone();
        self.by_service.get(service).into_iter().flatten().filter_map(move |name| {
            self.slices.get(&Key { namespace: namespace.clone(), name: name.clone() })
        })
    }

    /// What the slices of a service say of a pod.
    pub(crate) fn status(&self, service: &Key, uid: &str) -> Status {
        let mut status = Status::default();
        for endpoint in
            self.slices_of(service).flat_map(|slice| &slice.endpoints).filter(|e| e.pod_uid == uid)
        {
            status.present = true;
            status.ready |= endpoint.ready;
            status.serving |= endpoint.serving;
            status.terminating |= endpoint.terminating;
        }
        status
    }

    /// The ports on which a service reaches a pod.
    pub(crate) fn ports(&self, service: &Key, uid: &str) -> BTreeSet<u16> {
        self.slices_of(service)
            .filter(|slice| slice.endpoints.iter().any(|endpoint| endpoint.pod_uid == uid))
            .flat_map(|slice| slice.ports.iter().copied())
            .collect()
    }

    /// What these services together say that the pod's ports speak.
    pub(crate) fn hints(&self, services: impl Iterator<Item = Key>, uid: &str) -> BTreeMap<u16, Hint> {
        let mut hints = Vec::new();
        for service in services {
            let slices = self.slices_of(&service).filter(|slice| !slice.hints.is_empty());
            let slices =
                slices.filter(|slice| slice.endpoints.iter().any(|endpoint| endpoint.pod_uid == uid));
            slices.for_each(|slice| hints.extend(&slice.hints));
        }
        best_hints(hints.iter().copied())
    }

    /// The services of a namespace that have the pod in a slice.
    pub(crate) fn services_of(&self, namespace: &str, uid: &str) -> BTreeSet<Key> {
        let first = Key { namespace: namespace.to_owned(), name: String::new() };
        self.slices
            .range(first..)
            .take_while(|(key, _)| key.namespace == namespace)
            .filter(|(_, slice)| slice.endpoints.iter().any(|endpoint| endpoint.pod_uid == uid))
            .map(|(_, slice)| service_of(slice))
            .collect()
    }

    /// True if the service proxy sends traffic to this terminating endpoint on purpose: the Service publishes
    /// not-ready addresses, or it has no ready endpoint left and this one still serves. A headless one has no proxy.
    pub(crate) fn is_fallback(&self, service: &Key, status: Status) -> bool {
        let Some(flags) = self.services.get(service) else { return false };
        if flags.headless || !status.present {
            return false;
        }
        flags.publish_not_ready || (status.usable() == Use::Fallback && self.in_use(service) == Use::Fallback)
    }

    /// True if the service's proxy has no endpoint to send anything to, and so refuses. A headless one has no proxy. `status`: of one of its
    /// pods, which may say already that it has.
    pub(crate) fn is_vacant(&self, service: &Key, status: Status) -> bool {
        status.usable() == Use::Never
            && self.services.get(service).is_some_and(|flags| !flags.headless)
            && self.in_use(service) == Use::Never
    }

    /// Addresses and ports at which clients reach the service.
    pub(crate) fn targets(&self, service: &Key) -> impl Iterator<Item = (IpAddr, u16)> + '_ {
        let flags = self.services.get(service).into_iter();
        flags.flat_map(|flags| {
            flags.addresses.iter().flat_map(|address| flags.ports.iter().map(|port| (*address, *port)))
        })
    }

    fn in_use(&self, service: &Key) -> Use {
        in_use(self.slices_of(service).flat_map(|slice| &slice.endpoints).map(|endpoint| Conditions {
            ready: endpoint.ready,
            serving: endpoint.serving,
            terminating: endpoint.terminating,
        }))
    }
}

fn service_of(slice: &Slice) -> Key {
    Key { namespace: slice.key.namespace.clone(), name: slice.service.clone() }
}

#[cfg(test)]
mod tests;
