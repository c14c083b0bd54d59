//! What a port speaks: `appProtocol`, then the Service's name for it, then the container's, then the kind of its probe, in
//! whatever order they become known.

use super::generate::{hints, limits};
use probe_core::command::Command;
use probe_core::event::{Endpoint, Event, Fact, HintSource, Key, Pod, PortHint, Slice};
use probe_core::limits::SECOND;
use probe_core::monitor::Monitor;
use probe_core::time::Mono;
use probe_ebpf::protocol::Protocol;
use proptest::prelude::*;

const PORT: u16 = 80;

/// The word of the best source; of several words the one nearest to plain HTTP/1.
fn best<'a>(hints: impl Iterator<Item = &'a PortHint> + Clone) -> Option<Protocol> {
    let sources =
        [HintSource::AppProtocol, HintSource::ServicePort, HintSource::ContainerPort, HintSource::Probe];
    sources.into_iter().find_map(|source| {
        hints
            .clone()
            .filter(|hint| hint.port == PORT && hint.source == source)
            .map(|hint| hint.protocol)
            .min()
    })
}

/// Sources that the edge would not mix: a pod's and a Service's.
fn of_pod(hint: &PortHint) -> bool {
    matches!(hint.source, HintSource::Probe | HintSource::ContainerPort)
}

fn pod(hints: &[PortHint]) -> Fact {
    let key = Key { namespace: "ns0".to_owned(), name: "p".to_owned() };
    Fact::Pod(Box::new(Pod {
        uid: "u1".to_owned(),
        cgroup_uid: "u1".to_owned(),
        key,
        ports: vec![PORT],
        hints: hints.to_vec(),
        ..Pod::default()
    }))
}

fn slice(service: usize, hints: &[PortHint]) -> Fact {
    let endpoint = Endpoint { pod_uid: "u1".to_owned(), ready: true, serving: true, terminating: false };
    Fact::Slice(Slice {
        key: Key { namespace: "ns0".to_owned(), name: format!("s{service}-1") },
        service: format!("s{service}"),
        ports: vec![PORT],
        hints: hints.to_vec(),
        endpoints: vec![endpoint],
    })
}

proptest! {
    /// Two services tell of a pod's port, again and again; the pod becomes known somewhere in between.
    #[test]
    fn the_best_source_says_what_a_port_speaks(
        own in hints(),
        told in prop::collection::vec((0usize..2, hints()), 0..5),
        pod_at in 0usize..5,
    ) {
        let own: Vec<PortHint> = own.into_iter().filter(of_pod).collect();
        let mut monitor = Monitor::new(limits(), "n1".to_owned());
        let mut said: [Vec<PortHint>; 2] = [Vec::new(), Vec::new()];
        let (mut services, mut is_known, mut in_kernel) = (None, false, None);
        let mut steps: Vec<Option<(usize, Vec<PortHint>)>> = told.into_iter().map(Some).collect();
        steps.insert(pod_at.min(steps.len()), None);
        for (at, step) in (1..).zip(steps) {
            let fact = match step {
                None => {
                    is_known = true;
                    pod(&own)
                }
                Some((service, hints)) => {
                    let hints: Vec<PortHint> = hints.into_iter().filter(|hint| !of_pod(hint)).collect();
                    said[service].clone_from(&hints);
                    slice(service, &hints)
                }
            };
            monitor.handle(Event { at: Mono(at * SECOND), fact });
            monitor.handle_timeout(Mono(at * SECOND + SECOND / 2));
            while let Some(command) = monitor.poll_command() {
                if let Command::AddPort { port: PORT, protocol, .. } = command {
                    in_kernel = Some(protocol);
                }
            }
            if is_known {
                // Services that say nothing any more leave what they said: so a pod's end keeps its protocol.
                services = best(said.iter().flatten()).or(services);
                prop_assert_eq!(in_kernel, Some(services.or(best(own.iter())).unwrap_or_default()));
            }
        }
    }
}
