//! What is known of one port of a pod: who names it, and what it speaks by the best that anything in the API says.

use crate::event::{HintSource, PortHint};
use probe_ebpf::protocol::Protocol;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// What a port speaks, and what says so.
pub(crate) type Hint = (HintSource, Protocol);

/// What a port of a pod is named by, besides its spec's list of ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct PortUse {
    /// By a probe.
    pub(crate) probe: bool,
    /// By a service.
    pub(crate) service: bool,
    /// What it speaks, and what says so.
    pub(crate) hint: Option<Hint>,
}

impl PortUse {
    /// What it speaks.
    pub(crate) fn protocol(&self) -> Protocol {
        self.hint.map(|(_, protocol)| protocol).unwrap_or_default()
    }

    /// With what is said more of it. Services may change their minds, and are heard together: what they say replaces what was
    /// said before. It stays when they let the pod go, which is how a pod ends.
    pub(crate) fn and(self, more: Self) -> Self {
        let outranks =
            |said: Hint| said.0 >= HintSource::ServicePort || self.hint.is_none_or(|known| known.0 <= said.0);
        Self {
            probe: self.probe || more.probe,
            service: self.service || more.service,
            hint: more.hint.filter(|said| outranks(*said)).or(self.hint),
        }
    }
}

/// The hint to trust for each port: that of the best source; of two that contradict each other the one that is nearer to plain
/// HTTP/1.
pub(crate) fn best_hints<'a>(hints: impl Iterator<Item = &'a PortHint>) -> BTreeMap<u16, Hint> {
    let mut best = BTreeMap::new();
    for hint in hints {
        let said = (hint.source, hint.protocol);
        let known = best.entry(hint.port).or_insert(said);
        if (said.0, Reverse(said.1)) > (known.0, Reverse(known.1)) {
            *known = said;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use HintSource::{AppProtocol, ContainerPort, Probe, ServicePort};
    use Protocol::{Http, Https, Multiplexed, Raw, Tls};

    #[test]
    fn the_best_source_is_trusted_and_the_order_does_not_matter() {
        let cases: [(&[Hint], Hint); 6] = [
            (&[(Probe, Http)], (Probe, Http)),
            (&[(Probe, Http), (ContainerPort, Multiplexed)], (ContainerPort, Multiplexed)),
            (&[(Probe, Http), (ContainerPort, Http), (ServicePort, Https)], (ServicePort, Https)),
            (&[(ServicePort, Http), (AppProtocol, Multiplexed)], (AppProtocol, Multiplexed)),
            (&[(AppProtocol, Raw), (AppProtocol, Tls), (ServicePort, Http)], (AppProtocol, Tls)),
            (&[(Probe, Multiplexed), (Probe, Http)], (Probe, Http)),
        ];
        for (said, wanted) in cases {
            let hint =
                |(source, protocol): &Hint| PortHint { port: 80, source: *source, protocol: *protocol };
            let mut hints: Vec<PortHint> = said.iter().map(hint).collect();
            for _ in 0..hints.len() {
                hints.rotate_left(1);
                assert_eq!(best_hints(hints.iter()), BTreeMap::from([(80, wanted)]), "{hints:?}");
            }
            hints.reverse();
            assert_eq!(best_hints(hints.iter()), BTreeMap::from([(80, wanted)]), "{hints:?}");
        }
    }

    #[test]
    fn services_may_change_their_minds_and_the_pod_does_not_contradict_them() {
        let mut port = PortUse::default();
        for (source, protocol, wanted) in [
            (Some(Probe), Http, Http),
            (Some(ContainerPort), Raw, Raw),
            (Some(Probe), Http, Raw),
            (Some(AppProtocol), Multiplexed, Multiplexed),
            (Some(ContainerPort), Raw, Multiplexed),
            (Some(ServicePort), Https, Https),
            (None, Http, Https),
        ] {
            port = port.and(PortUse { hint: source.map(|source| (source, protocol)), ..PortUse::default() });
            assert_eq!(port.protocol(), wanted, "{source:?} says {protocol:?}");
        }
        assert!(!port.probe && !port.service);
        assert!(PortUse::default().protocol().is_unknown());
    }
}
