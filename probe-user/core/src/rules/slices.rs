//! The EndpointSlices of one Service: which are made, written anew and removed so that its pods are in them.
//!
//! As the endpoint slice controller does it: an endpoint stays where it is; free room of slices that are written anyway is filled first, then
//! the fullest one that takes the rest, then new ones; what would be removed is written anew in place of one that would be made.

use super::endpoint::{Endpoint, EndpointPort, Family, belongs, endpoint_of, is_same, ports_of};
use super::object::{Node, Pod, Service};
use std::collections::{BTreeMap, BTreeSet};

/// Most endpoints of a slice, by default.
pub const MAX_ENDPOINTS: usize = 100;
/// Label: the Service's name.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A slice as far as packing looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Name; empty: it is to be made.
    pub name: String,
    /// Family.
    pub family: Family,
    /// Ports.
    pub ports: Vec<EndpointPort>,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
    /// It is this very Service's, not one's of the same name before.
    pub owned: bool,
    /// Its labels are those that it should have.
    pub labelled: bool,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be made.
    pub create: Vec<Slice>,
    /// To be written anew.
    pub update: Vec<Slice>,
    /// Names, to be removed.
    pub delete: Vec<String>,
    /// Pods that were left out for want of their node; the whole is to be done again later.
    pub errors: Vec<String>,
}

/// `namespace/name` of the Service that a slice with these labels belongs to.
pub fn service_key(namespace: &str, labels: &BTreeMap<String, String>) -> Option<String> {
    labels.get(SERVICE_NAME).filter(|name| !name.is_empty()).map(|name| format!("{namespace}/{name}"))
}

/// Plans the slices of a Service: of its pods, the nodes that exist, the slices that there are.
pub fn reconcile<'a>(
    service: &Service,
    pods: &[Pod],
    node: impl Fn(&str) -> Option<&'a Node>,
    existing: Vec<Slice>,
    max_endpoints: usize,
) -> Plan {
    let families: BTreeSet<Family> = Family::of_service(service).into_iter().collect();
    let mut plan = Plan::default();
    let (mut mine, other): (Vec<_>, Vec<_>) =
        existing.into_iter().partition(|slice| families.contains(&slice.family));
    plan.delete.extend(other.into_iter().map(|slice| slice.name));
    for family in families {
        let (own, rest) = mine.into_iter().partition(|slice| slice.family == family);
        mine = rest;
        reconcile_family(service, pods, &node, own, (family, max_endpoints.max(1)), &mut plan);
    }
    plan
}

fn reconcile_family<'a>(
    service: &Service,
    pods: &[Pod],
    node: impl Fn(&str) -> Option<&'a Node>,
    existing: Vec<Slice>,
    (family, max_endpoints): (Family, usize),
    plan: &mut Plan,
) {
    let count = existing.len();
    let mut by_ports: BTreeMap<Vec<EndpointPort>, Vec<Slice>> = BTreeMap::new();
    let mut change = Change::default();
    for slice in existing {
        if slice.owned {
            let mut ports = slice.ports.clone();
            ports.sort();
            by_ports.entry(ports).or_default().push(slice);
        } else {
            change.delete.push(slice);
        }
    }
    let mut desired: BTreeMap<Vec<EndpointPort>, BTreeMap<Identity, Endpoint>> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| belongs(pod, true)) {
        let endpoints = desired.entry(ports_of(service, pod)).or_default();
        let node = node(&pod.spec.node_name);
        if node.is_none() && !service.spec.publish_not_ready_addresses {
            let (pod, on) = (&pod.metadata.name, &pod.spec.node_name);
            plan.errors.push(format!("pod {pod} is left out: there is no node {on}"));
            continue;
        }
        let endpoint = endpoint_of(service, pod, node, family);
        if !endpoint.addresses.is_empty() {
            endpoints.insert(identity(&endpoint), endpoint);
        }
    }
    for (ports, endpoints) in desired {
        change.pack(by_ports.remove(&ports).unwrap_or_default(), endpoints, &ports, (family, max_endpoints));
    }
    change.delete.extend(by_ports.into_values().flatten());
    if count == change.delete.len() && change.create.is_empty() {
        let is_placeholder = |slice: &Slice| {
            slice.owned && slice.labelled && slice.ports.is_empty() && slice.endpoints.is_empty()
        };
        if matches!(change.delete.as_slice(), [one] if is_placeholder(one)) {
            change.delete.clear();
        } else {
            change.create.push(new_slice(family, &[]));
        }
    }
    change.recycle();
    plan.create.append(&mut change.create);
    plan.update.append(&mut change.update);
    plan.delete.extend(change.delete.into_iter().map(|slice| slice.name));
}

/// What makes two endpoints the same one.
type Identity = (Vec<String>, Option<String>, Option<(String, String)>);

fn identity(endpoint: &Endpoint) -> Identity {
    let mut addresses = endpoint.addresses.clone();
    addresses.sort();
    let target = endpoint.target_ref.as_ref().map(|target| (target.namespace.clone(), target.name.clone()));
    (addresses, endpoint.hostname.clone(), target)
}

fn new_slice(family: Family, ports: &[EndpointPort]) -> Slice {
    Slice {
        name: String::new(),
        family,
        ports: ports.to_vec(),
        endpoints: Vec::new(),
        owned: true,
        labelled: true,
    }
}

/// Changes of one family's slices.
#[derive(Debug, Default)]
struct Change {
    create: Vec<Slice>,
    update: Vec<Slice>,
    delete: Vec<Slice>,
}

impl Change {
    /// The slices of one set of ports.
    fn pack(
        &mut self,
        existing: Vec<Slice>,
        mut desired: BTreeMap<Identity, Endpoint>,
        ports: &[EndpointPort],
        (family, max_endpoints): (Family, usize),
    ) {
        let (mut update, mut unchanged) = (Vec::new(), Vec::new());
        for mut slice in existing {
            let before = std::mem::take(&mut slice.endpoints);
            let mut is_changed = false;
            for old in &before {
                if let Some(new) = desired.remove(&identity(old)) {
                    is_changed |= !is_same(&new, old);
                    slice.endpoints.push(new);
                }
            }
            is_changed |= before.len() != slice.endpoints.len();
            if is_changed && slice.endpoints.is_empty() {
                slice.endpoints = before;
                self.delete.push(slice);
            } else if is_changed || !slice.labelled {
                update.push(slice);
            } else {
                unchanged.push(slice);
            }
        }
        let mut left: Vec<Endpoint> = desired.into_values().rev().collect();
        let fill = |slice: &mut Slice, left: &mut Vec<Endpoint>| {
            let room = max_endpoints.saturating_sub(slice.endpoints.len()).min(left.len());
            slice.endpoints.extend(left.drain(left.len() - room..).rev());
        };
        update.sort_by_key(|slice| std::cmp::Reverse(slice.endpoints.len()));
        update.iter_mut().for_each(|slice| fill(slice, &mut left));
        while !left.is_empty() {
            // One that takes all that is left, and is the fullest by that.
            let takes_all = |slice: &Slice| {
                let after = slice.endpoints.len() + left.len();
                (left.len() < max_endpoints && after <= max_endpoints).then_some(after)
            };
            let best = (0..unchanged.len()).filter_map(|at| Some((takes_all(&unchanged[at])?, at)));
            let best = best.max_by_key(|(after, at)| (*after, std::cmp::Reverse(*at)));
            let mut slice =
                best.map_or_else(|| new_slice(family, ports), |(_, at)| unchanged.swap_remove(at));
            fill(&mut slice, &mut left);
            if slice.name.is_empty() { self.create.push(slice) } else { update.push(slice) }
        }
        self.update.append(&mut update);
    }

    /// Slices that would be removed are written anew instead, as long as there are some to be made.
    fn recycle(&mut self) {
        let (create, update) = (&mut self.create, &mut self.update);
        self.delete.retain(|removed| {
            let Some(slice) = create.pop_if(|_| removed.owned) else { return true };
            update.push(Slice { name: removed.name.clone(), ..slice });
            false
        });
    }
}
