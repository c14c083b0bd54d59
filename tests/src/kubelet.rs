//! The kubelet stand-in: starts the pods that are assigned to its node, reports their status, and ends them as the real one does.
//!
//! In: pods from the store, a settable time late. Out: processes in sandboxes, pod status, the removal of ended pods from the store, and a
//! [`Journal`] of its own acts. It runs in the root cgroup of the machine, so stop signals come from outside the pod's cgroups.
//! Not here: volumes, init containers that end, liveness probes and evictions of its own accord (a test asks for them), manifests in files (a
//! static pod's object is made by the test), HTTP hooks, resources other than a memory limit.

mod container;
mod image;
mod journal;
mod metrics;
mod probe;
mod probing;
mod status;
mod termination;
mod verdicts;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

pub use journal::{Journal, Record, Step, monotonic_ns};
pub use metrics::{AUTHORITY, Certificate, Manner, MetricsServer};
pub use status::Disruption;
pub use verdicts::{ProbeLabels, Verdicts};

use crate::apiserver::{Kind, Store, Verb};
use crate::controllers::{Delay, DelayedWatch, Delivery};
use crate::node::Node;
use worker::{Message, Worker};

/// The API's default for pods that do not say.
const DEFAULT_GRACE_SECONDS: u64 = 30;

/// What a kubelet needs to know.
#[derive(Clone, Debug)]
pub struct KubeletConfig {
    /// Pods with this `spec.nodeName` are its own.
    pub node_name: String,
    /// The program behind the image `testserver`.
    pub testserver: PathBuf,
    /// From a change of a pod to the kubelet's learning of it.
    pub delay: Delay,
    /// From the last container's exit to the removal of the sandbox.
    pub sandbox_delay: Delay,
}

/// What the pods' workers share.
#[derive(Debug)]
pub(crate) struct Shared {
    node: Arc<Node>,
    store: Store,
    journal: Journal,
    testserver: PathBuf,
    sandbox_delay: Delay,
    verdicts: Verdicts,
    failures: Mutex<Vec<String>>,
    inboxes: Mutex<BTreeMap<String, Sender<Message>>>,
}

/// The running kubelet; dropping it stops it without ending its pods' processes (the node does that).
#[derive(Debug)]
pub struct Kubelet {
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Kubelet {
    /// Starts it, on threads of its own in the calling thread's network namespace (which has to be the node's).
    pub fn start(
        node: Arc<Node>,
        store: &Store,
        journal: &Journal,
        config: KubeletConfig,
    ) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            node,
            store: store.clone(),
            journal: journal.clone(),
            testserver: config.testserver,
            sandbox_delay: config.sandbox_delay,
            verdicts: Verdicts::default(),
            failures: Mutex::new(Vec::new()),
            inboxes: Mutex::default(),
        });
        let stop = Arc::new(AtomicBool::new(false));
        let mut pods = Pods {
            shared: Arc::clone(&shared),
            node_name: config.node_name,
            workers: BTreeMap::new(),
            seen: BTreeSet::new(),
        };
        let mut watch = DelayedWatch::start(store, &config.delay);
        let stopped = Arc::clone(&stop);
        let run = move || {
            while !stopped.load(Ordering::Relaxed) {
                match watch.next(None) {
                    Some(Delivery::Resync) => pods.resync(),
                    Some(Delivery::Change(change)) if change.kind == Kind::Pods => {
                        pods.observe(&change.object, change.verb == Verb::Deleted);
                    }
                    Some(Delivery::Change(_)) | None => {}
                }
            }
            pods.abandon();
        };
        let thread =
            thread::Builder::new().name("kubelet".to_owned()).spawn(run).context("start the kubelet")?;
        Ok(Self { shared, stop, thread: Some(thread) })
    }

    /// Ends a pod that nobody deleted; its object stays.
    pub fn evict(&self, uid: &str, disruption: Disruption, grace: Duration) -> anyhow::Result<()> {
        self.tell(uid, Message::Evict { disruption, grace })
    }

    /// Ends a static pod, as when its manifest is taken away: its object goes when it has ended. Such a pod has the annotation
    /// `kubernetes.io/config.mirror`, which names its cgroups.
    pub fn take_manifest(&self, uid: &str) -> anyhow::Result<()> {
        self.tell(uid, Message::ManifestGone)
    }

    /// Ends a container of a pod that goes on, as after a failed liveness probe.
    pub fn kill_container(&self, uid: &str, name: &str, grace: Duration) -> anyhow::Result<()> {
        self.tell(uid, Message::Kill { container: name.to_owned(), grace })
    }

    /// What its probes came to, for [`MetricsServer::start`].
    pub fn verdicts(&self) -> &Verdicts {
        &self.shared.verdicts
    }

    fn tell(&self, uid: &str, message: Message) -> anyhow::Result<()> {
        let inboxes = self.shared.inboxes.lock().unwrap_or_else(PoisonError::into_inner);
        let told = inboxes.get(uid).and_then(|inbox| inbox.send(message).ok());
        told.with_context(|| format!("pod {uid} does not run"))
    }

    /// Pods that could not be run, in words; empty when all is well.
    pub fn failures(&self) -> Vec<String> {
        self.shared.failures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// A pod's worker as the kubelet's thread sees it.
struct Handle {
    inbox: Sender<Message>,
    thread: JoinHandle<()>,
}

/// The kubelet's thread's own state.
struct Pods {
    shared: Arc<Shared>,
    node_name: String,
    workers: BTreeMap<String, Handle>,
    /// Every pod that ever had a worker: what comes late about an ended one must not start it again.
    seen: BTreeSet<String>,
}

impl Pods {
    fn resync(&mut self) {
        let (_, pods) = self.shared.store.list(Kind::Pods);
        let present: BTreeSet<_> = pods.iter().map(|pod| uid_of(pod)).collect();
        for (_, worker) in self.workers.iter().filter(|(uid, _)| !present.contains(*uid)) {
            worker.terminate(Duration::ZERO);
        }
        for pod in &pods {
            self.observe(pod, false);
        }
    }

    fn observe(&mut self, pod: &Value, removed: bool) {
        if pod["spec"]["nodeName"] != self.node_name.as_str() {
            return;
        }
        let uid = uid_of(pod);
        let ending = removed || pod["metadata"]["deletionTimestamp"].is_string();
        self.workers.retain(|_, worker| !worker.thread.is_finished());
        if ending {
            if let Some(worker) = self.workers.get(&uid) {
                worker.terminate(if removed { Duration::ZERO } else { grace_of(pod) });
            } else if !removed && self.seen.insert(uid) {
                // Deleted before it was ever started: nothing to end.
                let name = |field: &str| pod["metadata"][field].as_str().unwrap_or_default();
                drop(self.shared.store.delete_pod(name("namespace"), name("name"), 0));
            }
        } else if self.seen.insert(uid.clone())
            && let Err(error) = self.start_worker(uid, pod)
        {
            self.shared.fail(pod, &error);
        }
    }

    fn start_worker(&mut self, uid: String, pod: &Value) -> anyhow::Result<()> {
        let (inbox, messages) = channel();
        let worker = Worker::new(Arc::clone(&self.shared), pod, inbox.clone(), messages)?;
        let (shared, pod) = (Arc::clone(&self.shared), pod.clone());
        let run = move || {
            if let Err(error) = worker.run() {
                shared.fail(&pod, &error);
            }
        };
        let thread = thread::Builder::new().name("pod".to_owned()).spawn(run)?;
        let mut inboxes = self.shared.inboxes.lock().unwrap_or_else(PoisonError::into_inner);
        inboxes.insert(uid.clone(), inbox.clone());
        drop(inboxes);
        self.workers.insert(uid, Handle { inbox, thread });
        Ok(())
    }

    /// Ends all workers and waits for them; the containers' processes are the node's to end.
    fn abandon(self) {
        for worker in self.workers.values() {
            drop(worker.inbox.send(Message::Abandon));
        }
        for worker in self.workers.into_values() {
            drop(worker.thread.join());
        }
    }
}

impl Handle {
    /// A worker that has just ended needs no telling.
    fn terminate(&self, grace: Duration) {
        drop(self.inbox.send(Message::Terminate { grace }));
    }
}

impl Shared {
    fn fail(&self, pod: &Value, error: &anyhow::Error) {
        let failure =
            format!("pod {}: {error:#}", pod["metadata"]["name"].as_str().unwrap_or("without name"));
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
    }
}

fn uid_of(pod: &Value) -> String {
    pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
}

fn grace_of(pod: &Value) -> Duration {
    let granted = pod["metadata"]["deletionGracePeriodSeconds"].as_u64();
    let own = pod["spec"]["terminationGracePeriodSeconds"].as_u64();
    Duration::from_secs(granted.or(own).unwrap_or(DEFAULT_GRACE_SECONDS))
}

/// A container id as containerd makes them: 64 hexadecimal digits.
fn random_id() -> anyhow::Result<String> {
    let mut bytes = [0_u8; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let mut id = String::with_capacity(64);
    for byte in bytes {
        write!(id, "{byte:02x}")?;
    }
    Ok(id)
}
