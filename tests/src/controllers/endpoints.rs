//! The endpoint controller: pods and services in, endpoint slices out, by Kubernetes' rules and a settable time late.
//!
//! `serving` is the pod's Ready condition, `terminating` its deletion timestamp, `ready` is serving and not terminating (always true with
//! `publishNotReadyAddresses`). An endpoint leaves at the terminal phase or with the object. One set of slices per address family and
//! per set of port numbers that a named port stands for.
//! Not here: trigger-time annotations, topology, the real controller's packing of slices (ours are filled in order).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::delay::{Delay, DelayedWatch, Delivery};
use super::deployment::is_condition_true;
use crate::apiserver::{Kind, Store, Verb};
use crate::kubelet::{Journal, Step};

/// The real controller's default for endpoints in a slice.
const MAX_ENDPOINTS: usize = 100;
const MANAGED_BY: &str = "endpointslice-controller.k8s.io";

/// ready, serving, terminating.
type Conditions = (bool, bool, bool);
/// Namespace and name.
type Key = (String, String);

/// The running controller; dropping it stops it.
#[derive(Debug)]
pub struct EndpointController {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl EndpointController {
    /// Starts it; each change of a pod or service takes `delay` to reach it.
    pub fn start(store: &Store, journal: &Journal, delay: &Delay) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut watch = DelayedWatch::start(store, delay);
        let mut state = State {
            store: store.clone(),
            journal: journal.clone(),
            pods: BTreeMap::new(),
            services: BTreeMap::new(),
            known: BTreeMap::new(),
            port_sets: BTreeMap::new(),
        };
        let stopped = Arc::clone(&stop);
        let run = move || {
            while !stopped.load(Ordering::Relaxed) {
                match watch.next(None) {
                    Some(Delivery::Resync) => state.resync(),
                    Some(Delivery::Change(change)) => {
                        state.apply(
                            change.kind,
                            change.verb,
                            &change.namespace,
                            &change.name,
                            &change.object,
                        );
                    }
                    None => {}
                }
            }
        };
        let thread = thread::Builder::new()
            .name("endpoints".to_owned())
            .spawn(run)
            .context("start the endpoint controller")?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for EndpointController {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// What the controller has learned so far, which is its delay behind the store.
struct State {
    store: Store,
    journal: Journal,
    pods: BTreeMap<Key, Arc<Value>>,
    services: BTreeMap<Key, Arc<Value>>,
    /// Conditions last written, by service and pod uid: for the journal.
    known: BTreeMap<Key, BTreeMap<String, Conditions>>,
    /// The sets of ports that each service's slices ever had, in the order of their coming: a slice keeps its name.
    port_sets: BTreeMap<Key, Vec<Vec<Value>>>,
}

impl State {
    fn resync(&mut self) {
        let all =
            |kind| self.store.list(kind).1.into_iter().map(|object| (key_of(&object), object)).collect();
        (self.pods, self.services) = (all(Kind::Pods), all(Kind::Services));
        let services: Vec<_> = self.services.keys().cloned().collect();
        services.iter().for_each(|service| self.sync(service));
    }

    fn apply(&mut self, kind: Kind, verb: Verb, namespace: &str, name: &str, object: &Arc<Value>) {
        let key = (namespace.to_owned(), name.to_owned());
        let objects = match kind {
            Kind::Pods => &mut self.pods,
            Kind::Services => &mut self.services,
            Kind::EndpointSlices | Kind::Events | Kind::Nodes | Kind::Namespaces => return,
        };
        match verb {
            Verb::Deleted => objects.remove(&key),
            Verb::Added | Verb::Modified => objects.insert(key.clone(), Arc::clone(object)),
        };
        if kind == Kind::Services {
            self.sync(&key);
        } else {
            let services: Vec<_> =
                self.services.keys().filter(|service| service.0 == namespace).cloned().collect();
            services.iter().for_each(|service| self.sync(service));
        }
    }

    /// Brings one service's slices in line with what is known.
    fn sync(&mut self, key: &Key) {
        let service = self.services.get(key).cloned();
        let wanted = service.map(|service| self.slices_of(key, &service)).unwrap_or_default();
        self.note(key, &wanted);
        let (_, present) = self.store.list_namespace(Kind::EndpointSlices, &key.0);
        let label = |slice: &Value, label: &str, value: &str| slice["metadata"]["labels"][label] == value;
        let ours = present.iter().filter(|slice| {
            label(slice, "kubernetes.io/service-name", &key.1)
                && label(slice, "endpointslice.kubernetes.io/managed-by", MANAGED_BY)
        });
        let present: BTreeSet<_> = ours.map(|slice| key_of(slice).1).collect();
        for (name, slice) in &wanted {
            // Only this controller writes these slices, so neither call can fail for another writer's sake.
            drop(if present.contains(name) {
                self.store.update(Kind::EndpointSlices, &key.0, name, |object| {
                    object["endpoints"] = slice["endpoints"].clone();
                    object["ports"] = slice["ports"].clone();
                })
            } else {
                self.store.create(Kind::EndpointSlices, slice.clone())
            });
        }
        for name in present.iter().filter(|name| !wanted.contains_key(*name)) {
            drop(self.store.remove(Kind::EndpointSlices, &key.0, name));
        }
    }

    fn slices_of(&mut self, key: &Key, service: &Value) -> BTreeMap<String, Value> {
        let families: Vec<_> = match service["spec"]["ipFamilies"].as_array() {
            Some(families) if !families.is_empty() => families.iter().filter_map(Value::as_str).collect(),
            _ => vec!["IPv4"],
        };
        let mut slices = BTreeMap::new();
        if !service["spec"]["selector"].is_object() {
            return slices;
        }
        let pods: Vec<_> =
            self.pods.iter().filter(|(pod, object)| pod.0 == key.0 && selects(service, object)).collect();
        let port_sets = self.port_sets.entry(key.clone()).or_default();
        for family in families {
            let mut endpoints: BTreeMap<usize, Vec<Value>> = BTreeMap::new();
            for (_, pod) in &pods {
                if let Some(endpoint) = endpoint_of(service, pod, family) {
                    let ports = ports_of(service, pod);
                    let known = port_sets.iter().position(|known| *known == ports);
                    let place = known.unwrap_or_else(|| {
                        port_sets.push(ports);
                        port_sets.len() - 1
                    });
                    endpoints.entry(place).or_default().push(endpoint);
                }
            }
            // A service without endpoints has one slice all the same.
            let sets = if endpoints.is_empty() { BTreeMap::from([(0, Vec::new())]) } else { endpoints };
            for (place, endpoints) in sets {
                let ports = port_sets.get(place).cloned().unwrap_or_default();
                let set = if place == 0 { String::new() } else { format!("ports{place}-") };
                let count = endpoints.len().div_ceil(MAX_ENDPOINTS).max(1);
                for index in 0..count {
                    let name = format!("{}-{}-{set}{index}", key.1, family.to_lowercase());
                    let own: Vec<_> =
                        endpoints.iter().skip(index * MAX_ENDPOINTS).take(MAX_ENDPOINTS).collect();
                    let slice = slice_of(key, service, &name, family, &own, &ports);
                    slices.insert(name, slice);
                }
            }
        }
        slices
    }

    /// Writes into the journal what changes for each pod, just before it is written.
    fn note(&mut self, key: &Key, slices: &BTreeMap<String, Value>) {
        let endpoints = slices.values().flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
        let now: BTreeMap<_, _> = endpoints
            .map(|endpoint| (text(&endpoint["targetRef"]["uid"]), conditions_of(endpoint)))
            .collect();
        let before = self.known.insert(key.clone(), now.clone()).unwrap_or_default();
        let record = |uid: &str, conditions| {
            self.journal.record(uid, Step::Endpoint { service: key.1.clone(), conditions });
        };
        for (uid, conditions) in now.iter().filter(|(uid, conditions)| before.get(*uid) != Some(conditions)) {
            record(uid, Some(*conditions));
        }
        for uid in before.keys().filter(|uid| !now.contains_key(*uid)) {
            record(uid, None);
        }
    }
}

fn slice_of(
    key: &Key,
    service: &Value,
    name: &str,
    family: &str,
    endpoints: &[&Value],
    ports: &[Value],
) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": key.0,
            "labels": {"kubernetes.io/service-name": key.1, "endpointslice.kubernetes.io/managed-by": MANAGED_BY},
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": key.1, "uid": service["metadata"]["uid"],
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "addressType": family, "endpoints": endpoints, "ports": ports,
    })
}

/// A pod's endpoint in one address family, if it has one.
fn endpoint_of(service: &Value, pod: &Value, family: &str) -> Option<Value> {
    if matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let mut addresses =
        pod["status"]["podIPs"].as_array()?.iter().filter_map(|address| address["ip"].as_str());
    let address = addresses.find(|address| address.contains(':') == (family == "IPv6"))?;
    let serving = is_condition_true(pod, "Ready");
    let terminating = pod["metadata"]["deletionTimestamp"].is_string();
    let ready = service["spec"]["publishNotReadyAddresses"] == true || (serving && !terminating);
    Some(json!({
        "addresses": [address],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        "nodeName": pod["spec"]["nodeName"],
        "targetRef": {
            "kind": "Pod", "namespace": pod["metadata"]["namespace"], "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"],
        },
    }))
}

/// The ports of a pod's slice; a named target port is the pod's own.
fn ports_of(service: &Value, pod: &Value) -> Vec<Value> {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let target = |port: &Value| {
        let Some(name) = port["targetPort"].as_str() else {
            return port["targetPort"].as_u64().or(port["port"].as_u64());
        };
        let containers = pod["spec"]["containers"].as_array()?.iter();
        let mut declared =
            containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
        declared.find(|declared| declared["name"] == name)?["containerPort"].as_u64()
    };
    let slice_port = |port: &Value| {
        let mut slice_port = json!({"name": port["name"].as_str().unwrap_or_default(), "port": target(port)?, "protocol": "TCP"});
        if port["appProtocol"].is_string() {
            slice_port["appProtocol"] = port["appProtocol"].clone();
        }
        Some(slice_port)
    };
    ports.filter_map(slice_port).collect()
}

fn selects(service: &Value, pod: &Value) -> bool {
    let mut selector = service["spec"]["selector"].as_object().into_iter().flatten();
    selector.all(|(label, value)| pod["metadata"]["labels"][label] == *value)
}

fn conditions_of(endpoint: &Value) -> Conditions {
    let condition = |name: &str| endpoint["conditions"][name] == true;
    (condition("ready"), condition("serving"), condition("terminating"))
}

fn key_of(object: &Value) -> Key {
    (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(phase: &str, ready: bool, deleted: bool) -> Value {
        let mut pod = json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"app": "web", "more": "x"}},
            "spec": {"nodeName": "node-1", "containers": [{"ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {
                "phase": phase, "podIPs": [{"ip": "10.77.0.2"}, {"ip": "fd77::2"}],
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
            },
        });
        if deleted {
            pod["metadata"]["deletionTimestamp"] = json!("2026-03-01T10:00:30Z");
        }
        pod
    }

    #[test]
    fn conditions_follow_readiness_and_deletion() {
        let service = json!({"spec": {}});
        for (ready, deleted, wanted) in [
            (true, false, (true, true, false)),
            (true, true, (false, true, true)),
            (false, true, (false, false, true)),
            (false, false, (false, false, false)),
        ] {
            let endpoint =
                endpoint_of(&service, &pod("Running", ready, deleted), "IPv4").expect("an endpoint");
            assert_eq!(conditions_of(&endpoint), wanted, "ready {ready}, deleted {deleted}");
        }
    }

    #[test]
    fn a_service_that_publishes_unready_addresses_keeps_them_ready() {
        let service = json!({"spec": {"publishNotReadyAddresses": true}});
        let endpoint = endpoint_of(&service, &pod("Running", false, true), "IPv6").expect("an endpoint");
        assert_eq!(conditions_of(&endpoint), (true, false, true));
        assert_eq!(endpoint["addresses"], json!(["fd77::2"]));
    }

    #[test]
    fn a_finished_pod_has_no_endpoint() {
        for phase in ["Succeeded", "Failed"] {
            assert_eq!(endpoint_of(&json!({}), &pod(phase, true, true), "IPv4"), None);
        }
    }

    #[test]
    fn a_named_target_port_is_the_containers() {
        let service = json!({"spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}});
        let pod = pod("Running", true, false);
        assert!(selects(&service, &pod));
        assert_eq!(ports_of(&service, &pod), [json!({"name": "http", "port": 8080, "protocol": "TCP"})]);
    }

    #[test]
    fn pods_with_other_numbers_behind_a_named_port_have_slices_of_their_own() {
        let (store, journal) = (Store::new(), Journal::default());
        let mut pods = BTreeMap::new();
        for (name, port) in [("a", 8080), ("b", 8081), ("c", 8080)] {
            let mut pod = pod("Running", true, false);
            pod["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(port);
            pods.insert(("n".to_owned(), name.to_owned()), Arc::new(pod));
        }
        let (services, known, port_sets) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut state = State { store, journal, pods, services, known, port_sets };
        let service = json!({"spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}});
        let key = ("n".to_owned(), "web".to_owned());
        let seen = |state: &mut State| -> Vec<(String, Value, usize)> {
            let slices = state.slices_of(&key, &service).into_iter();
            let numbers = |slice: &Value| {
                (slice["ports"][0]["port"].clone(), slice["endpoints"].as_array().map_or(0, Vec::len))
            };
            slices
                .map(|(name, slice)| (name, numbers(&slice)))
                .map(|(name, (port, count))| (name, port, count))
                .collect()
        };
        let first = ("web-ipv4-0".to_owned(), json!(8080), 2);
        let second = ("web-ipv4-ports1-0".to_owned(), json!(8081), 1);
        assert_eq!(seen(&mut state), [first.clone(), second.clone()]);
        state.pods.retain(|pod, _| pod.1 == "b");
        assert_eq!(seen(&mut state), [second], "a slice keeps its name");
        state.pods.clear();
        assert_eq!(seen(&mut state), [("web-ipv4-0".to_owned(), json!(8080), 0)]);
    }
}
