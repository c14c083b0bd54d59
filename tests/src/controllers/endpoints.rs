//! The endpoint controller: pods, services and nodes in, endpoint slices out, by Kubernetes' rules and a settable time late.
//!
//! What is in a slice and how slices are packed is the core's to say (`probe_core::rules`); this reads and writes the store.
//! Not here: hints of topology, the Service's labels on its slices, requeues after an error (a change of a node is one).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::Context as _;
use probe_core::rules::endpoint::{Endpoint, Family};
use probe_core::rules::object::{Metadata, Node, Pod, Service};
use probe_core::rules::slices::{MAX_ENDPOINTS, Plan, SERVICE_NAME, Slice, reconcile};
use probe_core::rules::trigger::TriggerTime;
use probe_core::wallclock::Timestamp;
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::delay::{Delay, DelayedWatch, Delivery};
use crate::apiserver::{Kind, Store, Verb};
use crate::kubelet::{Journal, Step};

const MANAGED_BY: &str = "endpointslice-controller.k8s.io";
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

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
        let mut state = State::new(store, journal, MAX_ENDPOINTS);
        let stopped = Arc::clone(&stop);
        let run = move || {
            while !stopped.load(Ordering::Relaxed) {
                match watch.next(None) {
                    Some(Delivery::Resync) => drop(state.resync()),
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

    /// Brings the slices of all services in line once, on the calling thread; tells what it had to leave out.
    pub fn settle(store: &Store, max_endpoints: usize) -> Vec<String> {
        State::new(store, &Journal::default(), max_endpoints).resync()
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
    max_endpoints: usize,
    pods: BTreeMap<Key, Arc<Value>>,
    services: BTreeMap<Key, Arc<Value>>,
    /// Conditions last written, by service and pod uid: for the journal.
    known: BTreeMap<Key, BTreeMap<String, Conditions>>,
    triggers: BTreeMap<Key, TriggerTime>,
}

impl State {
    fn new(store: &Store, journal: &Journal, max_endpoints: usize) -> Self {
        Self {
            store: store.clone(),
            journal: journal.clone(),
            max_endpoints,
            pods: BTreeMap::new(),
            services: BTreeMap::new(),
            known: BTreeMap::new(),
            triggers: BTreeMap::new(),
        }
    }

    fn resync(&mut self) -> Vec<String> {
        let all =
            |kind| self.store.list(kind).1.into_iter().map(|object| (key_of(&object), object)).collect();
        (self.pods, self.services) = (all(Kind::Pods), all(Kind::Services));
        let services: Vec<_> = self.services.keys().cloned().collect();
        services.iter().flat_map(|service| self.sync(service)).collect()
    }

    fn apply(&mut self, kind: Kind, verb: Verb, namespace: &str, name: &str, object: &Arc<Value>) {
        let key = (namespace.to_owned(), name.to_owned());
        let objects = match kind {
            Kind::Pods => &mut self.pods,
            Kind::Services => &mut self.services,
            Kind::Nodes => return drop(self.resync()),
            Kind::EndpointSlices | Kind::Events | Kind::Namespaces => return,
        };
        let before = match verb {
            Verb::Deleted => objects.remove(&key),
            Verb::Added | Verb::Modified => objects.insert(key.clone(), Arc::clone(object)),
        };
        let services = match kind == Kind::Services {
            true => vec![key],
            // A change of labels may take a pod out of a service.
            false => self.services_of(namespace, before.iter().chain([object])),
        };
        for service in services {
            drop(self.sync(&service));
        }
    }

    /// The services of a namespace that select a pod, in one of its forms.
    fn services_of<'a>(&self, namespace: &str, forms: impl Iterator<Item = &'a Arc<Value>>) -> Vec<Key> {
        let forms: Vec<Metadata> =
            forms.filter_map(|pod| Metadata::deserialize(&pod["metadata"]).ok()).collect();
        let selects = |service: &Value| {
            Service::deserialize(service).is_ok_and(|service| forms.iter().any(|pod| service.selects(pod)))
        };
        let services = self.services.iter().filter(|(key, service)| key.0 == namespace && selects(service));
        services.map(|(key, _)| key.clone()).collect()
    }

    /// Brings one service's slices in line with what is known; tells what had to be left out.
    fn sync(&mut self, key: &Key) -> Vec<String> {
        let (_, present) = self.store.list_namespace(Kind::EndpointSlices, &key.0);
        let label = |slice: &Value, label: &str, value: &str| slice["metadata"]["labels"][label] == value;
        let ours = present.iter().filter(|slice| {
            label(slice, SERVICE_NAME, &key.1)
                && label(slice, "endpointslice.kubernetes.io/managed-by", MANAGED_BY)
        });
        let service = self.services.get(key).filter(|service| service["spec"]["selector"].is_object());
        let Some(service) = service.and_then(|service| Service::deserialize(&**service).ok()) else {
            self.triggers.remove(key);
            self.note(key, std::iter::empty());
            for slice in ours {
                // Only this controller writes these slices, so nobody else can have removed it.
                drop(self.store.remove(Kind::EndpointSlices, &key.0, &key_of(slice).1));
            }
            return Vec::new();
        };
        let existing: Vec<Slice> = ours.filter_map(|slice| slice_of(slice, &service)).collect();
        let pods = self.pods.iter().filter(|(pod, _)| pod.0 == key.0);
        let pods = pods.filter_map(|(_, pod)| Pod::deserialize(&**pod).ok());
        let pods: Vec<Pod> = pods.filter(|pod| service.selects(&pod.metadata)).collect();
        let nodes = self.store.list(Kind::Nodes).1.into_iter();
        let nodes: BTreeMap<String, Node> =
            nodes.filter_map(|node| Some((key_of(&node).1, Node::deserialize(&*node).ok()?))).collect();
        let plan = reconcile(&service, &pods, |name| nodes.get(name), existing.clone(), self.max_endpoints);
        let trigger = self.triggers.entry(key.clone()).or_default().sync(&service, &pods);
        let is_kept = |slice: &&Slice| {
            !plan.delete.contains(&slice.name) && !plan.update.iter().any(|new| new.name == slice.name)
        };
        let kept = existing.iter().filter(is_kept);
        self.note(key, kept.chain(&plan.update).chain(&plan.create).flat_map(|slice| &slice.endpoints));
        self.write(key, &service, &plan, trigger);
        plan.errors
    }

    /// Only this controller writes these slices, so no call can fail for another writer's sake.
    fn write(&self, key: &Key, service: &Service, plan: &Plan, trigger: Option<Timestamp>) {
        let annotations = trigger.map_or_else(|| json!({}), |at| json!({ TRIGGER_TIME: at }));
        let (_, present) = self.store.list_namespace(Kind::EndpointSlices, &key.0);
        let mut taken: BTreeSet<String> = present.iter().map(|slice| key_of(slice).1).collect();
        for slice in &plan.create {
            let names =
                (0..).map(|number| format!("{}-{}-{number}", key.1, slice.family.name().to_lowercase()));
            let name = names.filter(|name| !taken.contains(name)).take(1).collect::<String>();
            drop(
                self.store.create(Kind::EndpointSlices, object_of(key, service, &name, slice, &annotations)),
            );
            taken.insert(name);
        }
        for slice in &plan.update {
            drop(self.store.update(Kind::EndpointSlices, &key.0, &slice.name, |object| {
                object["endpoints"] = json!(slice.endpoints);
                object["ports"] = json!(slice.ports);
                object["metadata"]["annotations"] = annotations.clone();
            }));
        }
        for name in &plan.delete {
            drop(self.store.remove(Kind::EndpointSlices, &key.0, name));
        }
    }

    /// Writes into the journal what changes for each pod, just before it is written.
    fn note<'a>(&mut self, key: &Key, endpoints: impl Iterator<Item = &'a Endpoint>) {
        let now: BTreeMap<_, _> = endpoints
            .filter_map(|endpoint| {
                let conditions = endpoint.conditions.effective();
                let conditions = (conditions.ready, conditions.serving, conditions.terminating);
                Some((endpoint.target_ref.as_ref()?.uid.clone(), conditions))
            })
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

/// A slice of the store as the rules see it.
fn slice_of(object: &Value, service: &Service) -> Option<Slice> {
    let mut owners = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    Some(Slice {
        name: key_of(object).1,
        family: Family::deserialize(&object["addressType"]).ok()?,
        ports: Vec::deserialize(&object["ports"]).ok()?,
        endpoints: Vec::deserialize(&object["endpoints"]).ok()?,
        owned: owners
            .any(|owner| owner["kind"] == "Service" && owner["uid"] == service.metadata.uid.as_str()),
        labelled: true,
    })
}

fn object_of(key: &Key, service: &Service, name: &str, slice: &Slice, annotations: &Value) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": key.0, "annotations": annotations,
            "labels": {SERVICE_NAME: key.1, "endpointslice.kubernetes.io/managed-by": MANAGED_BY},
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": key.1, "uid": service.metadata.uid,
                "controller": true, "blockOwnerDeletion": true,
            }],
        },
        "addressType": slice.family, "endpoints": slice.endpoints, "ports": slice.ports,
    })
}

fn key_of(object: &Value) -> Key {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, port: u16) -> Value {
        json!({
            "metadata": {"name": name, "namespace": "n", "labels": {"app": "web"}},
            "spec": {"nodeName": "node-1", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": port}]}]},
            "status": {
                "phase": "Running", "podIP": "10.77.0.2", "podIPs": [{"ip": "10.77.0.2"}, {"ip": "fd77::2"}],
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-03-01T10:00:01Z"}],
            },
        })
    }

    /// Name, port and number of endpoints of each slice.
    fn slices(store: &Store) -> Vec<(String, Value, usize)> {
        let all = store.list(Kind::EndpointSlices).1.into_iter();
        all.map(|slice| {
            let count = slice["endpoints"].as_array().map_or(0, Vec::len);
            (key_of(&slice).1, slice["ports"][0]["port"].clone(), count)
        })
        .collect()
    }

    #[test]
    fn slices_follow_the_pods_and_go_with_the_service() {
        let store = Store::new();
        store.create(Kind::Nodes, json!({"metadata": {"name": "node-1"}})).expect("created");
        let service = json!({
            "metadata": {"name": "web", "namespace": "n"},
            "spec": {
                "selector": {"app": "web"}, "ipFamilies": ["IPv4"],
                "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
            },
        });
        store.create(Kind::Services, service).expect("created");
        for (name, port) in [("a", 8080), ("b", 8081), ("c", 8080)] {
            store.create(Kind::Pods, pod(name, port)).expect("created");
        }
        let mut state = State::new(&store, &Journal::default(), MAX_ENDPOINTS);
        assert_eq!(state.resync(), <[String; 0]>::default());
        let first = ("web-ipv4-0".to_owned(), json!(8080), 2);
        let second = ("web-ipv4-1".to_owned(), json!(8081), 1);
        assert_eq!(slices(&store), [first, second.clone()]);
        for name in ["a", "c"] {
            store.remove(Kind::Pods, "n", name).expect("removed");
        }
        state.resync();
        assert_eq!(slices(&store), [second]);
        store.remove(Kind::Pods, "n", "b").expect("removed");
        state.resync();
        assert_eq!(slices(&store), [("web-ipv4-1".to_owned(), Value::Null, 0)], "a placeholder");
        let key = ("n".to_owned(), "web".to_owned());
        state.apply(Kind::Services, Verb::Deleted, "n", "web", &Arc::new(Value::Null));
        assert_eq!(slices(&store), []);
        assert!(!state.triggers.contains_key(&key));
    }
}
