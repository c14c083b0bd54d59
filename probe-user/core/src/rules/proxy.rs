//! Which endpoints a service proxy sends new connections to, by kube-proxy's rules.
//!
//! Ready ones; if a set has none, those that serve while they terminate. The set of the traffic policy `Cluster` (with hints of topology)
//! and that of `Local` are chosen apart from each other.

use super::endpoint::{Conditions, EndpointConditions};
use serde::Deserialize;

/// What an endpoint is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// Nothing.
    Never,
    /// Traffic, if nobody is ready: it serves while it terminates.
    Fallback,
    /// Traffic.
    Ready,
}

impl Conditions {
    /// What an endpoint with these is good for.
    pub const fn usable(self) -> Use {
        match self {
            Self { ready: true, .. } => Use::Ready,
            Self { serving: true, terminating: true, .. } => Use::Fallback,
            Self { .. } => Use::Never,
        }
    }
}

/// Which endpoints of a set carry its traffic: those that are good for exactly this. [`Use::Never`]: none does.
pub fn in_use(endpoints: impl Iterator<Item = Conditions>) -> Use {
    endpoints.map(Conditions::usable).max().unwrap_or(Use::Never)
}

/// An endpoint as the proxy of one node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Backend {
    /// Conditions.
    pub conditions: EndpointConditions,
    /// It is on the proxy's node.
    pub local: bool,
    /// Zones that it is meant for.
    pub zones: Vec<String>,
    /// Nodes that it is meant for.
    pub nodes: Vec<String>,
}

/// What a Service says of its traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`; of no weight if it cannot be reached from outside.
    pub external_local: bool,
    /// It has a node port, a load balancer's address or an external address.
    pub external: bool,
}

impl Policy {
    /// Some of its traffic is by the policy `Cluster`: short cuts of external traffic inside the cluster are.
    pub const fn uses_cluster(self) -> bool {
        !self.internal_local || self.external
    }

    /// Some of its traffic is by the policy `Local`.
    pub const fn uses_local(self) -> bool {
        self.internal_local || (self.external_local && self.external)
    }
}

/// What becomes of a connection that no endpoint gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Refused at once.
    Reject,
    /// Not answered.
    Drop,
}

/// What a proxy uses, by place in the list that it was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// For the policy `Cluster`; `None`: no traffic is by it.
    pub cluster: Option<Vec<usize>>,
    /// For the policy `Local`; `None`: no traffic is by it.
    pub local: Option<Vec<usize>>,
    /// Either.
    pub all: Vec<usize>,
    /// There is a usable endpoint somewhere, on whatever node.
    pub any: bool,
}

impl Choice {
    /// What becomes of a new connection by the policy `Local`, or else `Cluster`; `None`: an endpoint gets it.
    pub fn refusal(&self, by_local: bool) -> Option<Refusal> {
        let set = if by_local { &self.local } else { &self.cluster };
        match set {
            _ if !self.any => Some(Refusal::Reject),
            Some(set) if !set.is_empty() => None,
            _ => Some(Refusal::Drop),
        }
    }
}

/// Chooses among a Service port's endpoints on this node.
pub fn choose(backends: &[Backend], policy: Policy, node: &str, zone: &str) -> Choice {
    let mut choice = Choice::default();
    if policy.uses_cluster() {
        let ready: Vec<_> =
            backends.iter().filter(|b| b.conditions.effective().usable() == Use::Ready).collect();
        let topology = Topology::of(&ready, node, zone);
        let set = places(backends, |_| true, |backend| topology.allows(backend, node, zone));
        choice.any |= !set.is_empty();
        choice.cluster = Some(set);
    }
    if policy.uses_local() {
        choice.any |= in_use(backends.iter().map(|backend| backend.conditions.effective())) != Use::Never;
        choice.local = Some(places(backends, |backend| backend.local, |_| true));
    }
    let sets = [&choice.cluster, &choice.local].into_iter().flatten().flatten();
    let mut all: Vec<usize> = sets.copied().collect();
    all.sort_unstable();
    all.dedup();
    choice.all = all;
    choice
}

/// The usable ones of a set; ready ones must also be allowed.
fn places(
    backends: &[Backend],
    in_set: impl Fn(&Backend) -> bool,
    allows_ready: impl Fn(&Backend) -> bool,
) -> Vec<usize> {
    let usable = |backend: &Backend| backend.conditions.effective().usable();
    let wanted = in_use(backends.iter().filter(|b| in_set(b)).map(|b| b.conditions.effective()));
    let is_chosen = |backend: &Backend| {
        wanted != Use::Never
            && in_set(backend)
            && usable(backend) == wanted
            && (wanted != Use::Ready || allows_ready(backend))
    };
    backends.iter().enumerate().filter(|(_, backend)| is_chosen(backend)).map(|(place, _)| place).collect()
}

/// Which hints count. They do when every ready endpoint has them and one names this node, or its zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Topology {
    None,
    Node,
    Zone,
}

impl Topology {
    fn of(ready: &[&Backend], node: &str, zone: &str) -> Self {
        let counts = |hints: fn(&Backend) -> &[String], own: &str| {
            !ready.is_empty()
                && ready.iter().all(|backend| !hints(backend).is_empty())
                && ready.iter().any(|backend| hints(backend).iter().any(|hint| hint == own))
        };
        if counts(|backend| &backend.nodes, node) {
            Self::Node
        } else if counts(|backend| &backend.zones, zone) {
            Self::Zone
        } else {
            Self::None
        }
    }

    fn allows(self, backend: &Backend, node: &str, zone: &str) -> bool {
        match self {
            Self::None => true,
            Self::Node => backend.nodes.iter().any(|hint| hint == node),
            Self::Zone => backend.zones.iter().any(|hint| hint == zone),
        }
    }
}

/// Whether kube-proxy ends a tracked connection to a Service whose endpoint it is not, or no longer: of UDP alone, and only while some
/// endpoint serves. Connections of TCP go on to where they began.
pub fn ends_tracked(protocol: &str, backend_serves: bool, any_serves: bool) -> bool {
    protocol == "UDP" && !backend_serves && any_serves
}
