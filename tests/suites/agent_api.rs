//! The agent's real Kubernetes client against the API server stand-in: what it asks for, what it makes of the answers, and
//! how it gets over outages, expired versions, cut streams and garbage.
//!
//! Unprivileged, loopback only, no kernel side. [`watches`] looks at the facts that reach the core, [`agent`] at a whole
//! agent from outside.
#![expect(clippy::wildcard_enum_match_arm, reason = "each question is about a few kinds of fact")]

#[path = "agent_api/agent.rs"]
mod agent;
#[path = "agent_api/credentials.rs"]
mod credentials;
#[path = "agent_api/events.rs"]
mod events;
#[path = "agent_api/explain.rs"]
mod explain;
#[path = "agent_api/faults.rs"]
mod faults;
#[path = "agent_api/garbage.rs"]
mod garbage;
#[path = "agent_api/kubelet.rs"]
mod kubelet;
#[path = "agent_api/mirror.rs"]
mod mirror;
#[path = "agent_api/mirror_exec.rs"]
mod mirror_exec;
#[path = "agent_api/recorded.rs"]
mod recorded;
#[path = "agent_api/watches.rs"]
mod watches;

use drainscope::kube::client::Api;
use drainscope::kube::namespaces;
use drainscope::kube::retry::Timing;
use drainscope::kube::table::WatchTable;
use drainscope::kube::watch::{Shared, Watch};
use probe_core::event::{Anomaly, Event, Fact, WatchHealth, WatchKind};
use probe_core::monitor::Known;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use world::apiserver::{Options, Server, Store};

/// Bound of every wait for a condition.
const WAIT: Duration = Duration::from_secs(20);
const NODE: &str = "node-1";

/// Short waits, so that what takes minutes against a real server takes moments here.
fn timing() -> Timing {
    Timing {
        request: Duration::from_secs(5),
        idle: Duration::from_secs(2),
        quiet: Duration::from_millis(100),
        backoff_min: Duration::from_millis(20),
        backoff_max: Duration::from_millis(200),
    }
}

/// A server with bookmarks often enough for [`timing`].
fn serve(store: &Store) -> Server {
    let options = Options { bookmark_interval: Duration::from_millis(500), ..Options::default() };
    Server::serve_with(store, options).expect("a free loopback port")
}

/// A kubeconfig file that goes away with its value.
struct Kubeconfig(PathBuf);

impl Kubeconfig {
    fn of(server: &Server) -> Self {
        Self::with(&server.kubeconfig())
    }

    fn with(text: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("drainscope-kubeconfig-{}-{number}", std::process::id()));
        std::fs::write(&path, text).expect("temporary file");
        Self(path)
    }
}

impl Drop for Kubeconfig {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

/// The agent's watches, with the facts that they report.
struct Watches {
    runtime: Runtime,
    facts: mpsc::Receiver<Event>,
    table: Arc<WatchTable>,
    /// Every fact so far.
    seen: Vec<Fact>,
}

/// The agent's client of this server, and what runs it.
fn connected(server: &Server) -> (Runtime, Api) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
    let file = Kubeconfig::of(server);
    let api = runtime.block_on(Api::connect(Some(&file.0))).expect("a usable kubeconfig");
    (runtime, api)
}

impl Watches {
    /// Watches as the agent does; a namespace without local pods lingers for `linger`.
    fn begin(server: &Server, linger: Duration) -> Self {
        let (runtime, api) = connected(server);
        let (sink, facts) = mpsc::channel(1024);
        let table = Arc::new(WatchTable::default());
        let shared = Shared { api, sink, table: Arc::clone(&table), timing: timing() };
        let (wanted, namespaces) = watch::channel(None);
        runtime.spawn(Watch::pods(shared.clone(), NODE, wanted).run());
        runtime.spawn(async move { namespaces::run(shared, namespaces, linger, &Known::default()).await });
        Self { runtime, facts, table, seen: Vec::new() }
    }

    fn of(server: &Server) -> Self {
        Self::begin(server, Duration::from_secs(60))
    }

    /// Takes facts until the condition holds over all of them; panics after a while.
    fn until(&mut self, what: &str, condition: impl Fn(&[Fact]) -> bool) {
        let deadline = self.runtime.block_on(async { Instant::now() }) + WAIT;
        while !condition(&self.seen) {
            match self.runtime.block_on(async { timeout_at(deadline, self.facts.recv()).await }) {
                Ok(Some(event)) => self.seen.push(event.fact),
                Ok(None) => panic!("the watches ended before {what}"),
                Err(_) => panic!("waited in vain until {what}; seen: {:#?}", self.seen),
            }
        }
    }

    /// Takes facts until the pod's newest fact fits; `None` stands for "gone".
    fn until_pod(
        &mut self,
        what: &str,
        uid: &str,
        condition: impl Fn(Option<&probe_core::event::Pod>) -> bool,
    ) {
        self.until(what, |seen| {
            let newest = seen.iter().rev().find_map(|fact| match fact {
                Fact::Pod(pod) if pod.uid == uid => Some(Some(&**pod)),
                Fact::PodGone { uid: gone } if gone == uid => Some(None),
                _ => None,
            });
            newest.is_some_and(&condition)
        });
    }

    fn until_health(&mut self, watch: WatchKind, namespace: &str, health: WatchHealth) {
        let wanted = Fact::Watch { watch, namespace: namespace.into(), health };
        self.until(&format!("{wanted:?}"), |seen| seen.contains(&wanted));
    }

    /// The pods that the facts leave standing, by name, with the uid.
    fn pods(&self) -> BTreeMap<String, String> {
        let mut pods = BTreeMap::new();
        for fact in &self.seen {
            match fact {
                Fact::Pod(pod) => drop(pods.insert(pod.key.name.clone(), pod.uid.clone())),
                Fact::PodGone { uid } => pods.retain(|_, known| known != uid),
                _ => {}
            }
        }
        pods
    }

    fn count(&self, wanted: impl Fn(&Fact) -> bool) -> usize {
        self.seen.iter().filter(|fact| wanted(fact)).count()
    }

    fn bad_objects(&self) -> u64 {
        bad_objects(&self.seen)
    }
}

fn bad_objects(seen: &[Fact]) -> u64 {
    seen.iter()
        .map(|fact| match fact {
            Fact::Anomaly { kind: Anomaly::BadObject, count } => *count,
            _ => 0,
        })
        .sum()
}

fn health_count(seen: &[Fact], watch: WatchKind, wanted: WatchHealth) -> usize {
    seen.iter()
        .filter(
            |fact| matches!(fact, Fact::Watch { watch: of, health, .. } if *of == watch && *health == wanted),
        )
        .count()
}

fn pod(namespace: &str, name: &str, node: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": "web"}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "ports": [{"containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": "10.1.0.1", "podIPs": [{"ip": "10.1.0.1"}]}
    })
}

fn service(namespace: &str, name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": namespace}, "spec": {"clusterIP": "10.96.0.1"}})
}

fn slice(namespace: &str, name: &str, service: &str, pod_uid: &str, ready: bool) -> Value {
    json!({
        "metadata": {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"port": 8080}],
        "endpoints": [{"addresses": ["10.1.0.1"], "conditions": {"ready": ready}, "targetRef": {"kind": "Pod", "uid": pod_uid}}]
    })
}

fn uid(object: &Value) -> String {
    object["metadata"]["uid"].as_str().expect("a uid").to_owned()
}
