//! One pod from its start to the removal of its API object: the kubelet's pod worker, a thread per pod.
//!
//! It owns the sandbox and the containers and is the only writer of the pod's status. Exits, probe verdicts and the deletion arrive in one inbox;
//! everything that waits is a deadline of the same loop. The steps of the end are in `termination.rs`.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use jiff::Timestamp;
use serde_json::Value;

use super::container::{Container, State};
use super::image::command_of;
use super::journal::Step;
use super::probe::Role;
use super::status::{Disruption, StatusInput, status_of};
use super::{Shared, grace_of, random_id};
use crate::apiserver::Kind;
use crate::node::{Exit, Pids, PodAddresses, ProcessSpec, Sandbox};

/// The first restart comes at once, the next after this, then twice as long each time.
const FIRST_BACKOFF: Duration = Duration::from_secs(10);
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);

/// What a pod worker hears.
#[derive(Debug)]
pub(super) enum Message {
    /// The API wants the pod to end within so long.
    Terminate {
        grace: Duration,
    },
    /// The node ends the pod by itself; its object stays.
    Evict {
        disruption: Disruption,
        grace: Duration,
    },
    /// A static pod's manifest is gone.
    ManifestGone,
    /// A container is to be ended and started again.
    Kill {
        container: String,
        grace: Duration,
    },
    /// The node stops: end without ceremony.
    Abandon,
    HookDone {
        container: usize,
        id: String,
    },
    Exited {
        container: usize,
        id: String,
        exit: Exit,
    },
    Probed {
        container: usize,
        id: String,
        role: Role,
        passed: bool,
    },
}

/// A pod and its thread's state.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    /// The name of its cgroups: the hash of its manifest for a static pod, else its uid.
    cgroup_uid: String,
    pub(super) containers: Vec<Container>,
    pub(super) sandbox: Option<Sandbox>,
    /// When the termination began, and the whole grace.
    pub(super) termination: Option<(Instant, Duration)>,
    /// Its own grace, without a word of the API.
    pub(super) grace: Duration,
    restart_policy: String,
    host_network: bool,
    share_pids: bool,
    host_pids: bool,
    disruption: Option<Disruption>,
    /// The API wants it to end.
    deleted: bool,
    pub(super) addresses: Option<PodAddresses>,
    directory: PathBuf,
    started: Timestamp,
    finished: bool,
    inbox: Receiver<Message>,
    pub(super) outbox: Sender<Message>,
}

impl Worker {
    pub(super) fn new(
        shared: Arc<Shared>,
        pod: &Value,
        outbox: Sender<Message>,
        inbox: Receiver<Message>,
    ) -> anyhow::Result<Self> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let uid = text(&pod["metadata"]["uid"]);
        let manifest = &pod["metadata"]["annotations"]["kubernetes.io/config.mirror"];
        let list = |field: &str| pod["spec"][field].as_array().into_iter().flatten();
        let specs = list("initContainers").chain(list("containers"));
        let directory = shared.node.directory().join(&uid);
        fs::create_dir_all(&directory)?;
        Ok(Self {
            namespace: text(&pod["metadata"]["namespace"]),
            name: text(&pod["metadata"]["name"]),
            containers: specs.map(Container::new).collect::<Result<_, _>>()?,
            cgroup_uid: if manifest.is_string() { text(manifest) } else { uid.clone() },
            grace: grace_of(pod),
            host_network: pod["spec"]["hostNetwork"] == true,
            share_pids: pod["spec"]["shareProcessNamespace"] == true,
            host_pids: pod["spec"]["hostPID"] == true,
            restart_policy: pod["spec"]["restartPolicy"].as_str().unwrap_or("Always").to_owned(),
            shared,
            uid,
            directory,
            sandbox: None,
            termination: None,
            addresses: None,
            started: Timestamp::now(),
            finished: false,
            disruption: None,
            deleted: false,
            inbox,
            outbox,
        })
    }

    /// The pod's whole life.
    pub(super) fn run(mut self) -> anyhow::Result<()> {
        let create = if self.host_network { Sandbox::create_on_host } else { Sandbox::create };
        let sandbox =
            create(&self.shared.node, &self.cgroup_uid, &random_id()?).context("make the sandbox")?;
        self.addresses = Some(sandbox.addresses());
        self.sandbox = Some(sandbox);
        self.record(Step::SandboxCreated);
        let mut changed = true;
        loop {
            self.start_due()?;
            self.advance_stops()?;
            if !self.finished
                && self.containers.iter().all(|container| matches!(container.state, State::Terminated))
            {
                self.finish()?;
            }
            if self.finished && self.deleted {
                self.remove_object();
                return Ok(());
            }
            // While a pod terminates, only readiness flips get through; exits are reported with the final status.
            if changed {
                self.publish_status();
            }
            changed = self.termination.is_none();
            match self.inbox.recv_timeout(self.patience()) {
                Ok(Message::Terminate { grace }) => {
                    self.deleted = true;
                    self.begin_termination(grace);
                }
                Ok(Message::Evict { disruption, grace }) => {
                    self.disruption = Some(disruption);
                    self.begin_termination(grace);
                }
                Ok(Message::ManifestGone) => {
                    self.deleted = true;
                    self.begin_termination(self.grace);
                }
                Ok(Message::Kill { container, grace }) => self.kill_container(&container, grace),
                Ok(Message::HookDone { container, id }) => self.on_hook_done(container, &id),
                Ok(Message::Abandon) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Ok(Message::Exited { container, id, exit }) => self.on_exit(container, &id, exit),
                Ok(Message::Probed { container, id, role, passed }) => {
                    self.on_probed(container, &id, role, passed)?;
                    changed = true;
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    pub(super) fn record(&self, step: Step) {
        self.shared.journal.record(&self.uid, step);
    }

    /// Starts what waits and is due.
    fn start_due(&mut self) -> anyhow::Result<()> {
        for index in 0..self.containers.len() {
            if matches!(self.containers[index].state, State::Waiting { until, .. } if until <= Instant::now())
            {
                self.start_container(index)?;
            }
        }
        Ok(())
    }

    fn start_container(&mut self, index: usize) -> anyhow::Result<()> {
        let (Some(sandbox), Some(addresses)) = (&self.sandbox, self.addresses) else { return Ok(()) };
        let container = &mut self.containers[index];
        let (spec, name, id) = (&container.spec, container.name.clone(), random_id()?);
        let command = command_of(spec, &self.shared.testserver, &self.name, &self.directory)?;
        let pids = match (self.host_pids, self.share_pids) {
            (true, _) => Pids::Node,
            (false, true) => sandbox.pids(),
            (false, false) => Pids::Own,
        };
        let cgroup = self.shared.node.cgroups().create_container(&self.cgroup_uid, &id)?;
        let process = Arc::new(self.shared.node.spawn(ProcessSpec {
            program: command.program,
            arguments: command.arguments,
            environment: environment_of(spec, &self.name, &self.namespace, addresses),
            cgroup,
            network: Some(sandbox.network().clone()),
            pids,
            log: self.directory.join(format!("{name}.log")),
        })?);
        let (outbox, waited, exited_id) = (self.outbox.clone(), Arc::clone(&process), id.clone());
        let wait = move || {
            if let Ok(exit) = waited.wait() {
                // Without a receiver the pod's worker has ended and nobody asks any more.
                drop(outbox.send(Message::Exited { container: index, id: exited_id, exit }));
            }
        };
        thread::Builder::new().name("wait".to_owned()).spawn(wait)?;
        let pid = process.pid();
        if let Some(bytes) = spec["resources"]["limits"]["memory"].as_u64() {
            container.memory = Some(self.shared.node.cgroups().limit_memory(&id, pid, bytes)?);
        }
        container.restarts += u32::from(container.ended.is_some());
        container.id.clone_from(&id);
        container.state = State::Running { process, since: Timestamp::now() };
        self.record(Step::ContainerStarted { container: name, pid, container_id: id });
        if !self.start_probe(index, Role::Startup)? {
            self.containers[index].is_started = true;
            self.start_probe(index, Role::Readiness)?;
        }
        Ok(())
    }

    /// Runs a command in a container that runs, as exec hooks do; its end is told by a message.
    pub(super) fn run_hook(&self, index: usize, hook: &Value) -> anyhow::Result<()> {
        let container = &self.containers[index];
        let (State::Running { process, .. }, Some(sandbox), Some(addresses)) =
            (&container.state, &self.sandbox, self.addresses)
        else {
            return Ok(());
        };
        let command = command_of(hook, &self.shared.testserver, &self.name, &self.directory)?;
        let hook = self.shared.node.spawn(ProcessSpec {
            program: command.program,
            arguments: command.arguments,
            environment: environment_of(&container.spec, &self.name, &self.namespace, addresses),
            cgroup: self.shared.node.cgroups().create_container(&self.cgroup_uid, &container.id)?,
            network: Some(sandbox.network().clone()),
            pids: Pids::Of(process.pid()),
            log: self.directory.join(format!("{}.log", container.name)),
        })?;
        let (outbox, id) = (self.outbox.clone(), container.id.clone());
        let wait = move || {
            // A hook that fails is over all the same; without a receiver nobody asks any more.
            drop(hook.wait());
            drop(outbox.send(Message::HookDone { container: index, id }));
        };
        thread::Builder::new().name("hook".to_owned()).spawn(wait)?;
        Ok(())
    }

    fn on_exit(&mut self, index: usize, id: &str, exit: Exit) {
        let container = &mut self.containers[index];
        if container.id != id {
            return;
        }
        container.note_exit(exit);
        let restarts = match self.restart_policy.as_str() {
            _ if container.is_sidecar => true,
            "Never" => false,
            "OnFailure" => exit.code() != 0,
            _ => true,
        };
        if restarts && self.termination.is_none() {
            let backoff = match container.restarts {
                0 => Duration::ZERO,
                earlier => (FIRST_BACKOFF * 2_u32.saturating_pow(earlier.min(16) - 1)).min(LONGEST_BACKOFF),
            };
            container.state = State::Waiting { reason: "CrashLoopBackOff", until: Instant::now() + backoff };
        }
        let step = Step::Exited { container: container.name.clone(), code: exit.code() };
        self.record(step);
    }

    /// Writes the pod's status; an object that is gone is not an error (it was deleted by force).
    fn publish_status(&self) {
        let input = StatusInput {
            containers: &self.containers,
            addresses: self.addresses,
            sandbox: self.sandbox.is_some(),
            started: self.started,
            finished: self.finished,
            disruption: self.disruption.filter(|_| self.finished),
        };
        drop(self.shared.store.update(Kind::Pods, &self.namespace, &self.name, |pod| {
            if pod["metadata"]["uid"] == self.uid.as_str() {
                pod["status"] = status_of(&input, &pod["status"]);
            }
        }));
    }

    /// How long nothing has to be done unless a message comes.
    fn patience(&self) -> Duration {
        let next = self.containers.iter().filter_map(Container::deadline).min();
        next.map_or(LONGEST_BACKOFF, |next| next.saturating_duration_since(Instant::now()))
    }

    /// All containers have stopped for good: the sandbox goes, then the final status is written, then the cgroups go.
    fn finish(&mut self) -> anyhow::Result<()> {
        thread::sleep(self.shared.sandbox_delay.get());
        if let Some(sandbox) = self.sandbox.take() {
            self.record(Step::SandboxRemoval);
            sandbox.remove(&self.shared.node).context("remove the sandbox")?;
            self.record(Step::SandboxRemoved);
        }
        self.finished = true;
        self.shared.verdicts.remove(&self.uid);
        self.publish_status();
        self.shared.node.cgroups().remove_pod(&self.cgroup_uid)
    }

    /// The kubelet's last deletion, with grace 0; if the object is gone already, somebody deleted it by force.
    fn remove_object(&self) {
        self.record(Step::ObjectRemoval);
        let pod = self.shared.store.get(Kind::Pods, &self.namespace, &self.name);
        if pod.is_ok_and(|pod| pod["metadata"]["uid"] == self.uid.as_str()) {
            drop(self.shared.store.delete_pod(&self.namespace, &self.name, 0));
        }
    }
}

/// The container's own variables after those that every pod of this world gets.
fn environment_of(
    spec: &Value,
    pod: &str,
    namespace: &str,
    addresses: PodAddresses,
) -> Vec<(String, String)> {
    let fixed = [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
        ("POD_NAME", pod.to_owned()),
        ("POD_NAMESPACE", namespace.to_owned()),
        ("POD_IP", addresses.v4().to_string()),
    ];
    let own = spec["env"].as_array().into_iter().flatten();
    let own = own
        .filter_map(|entry| Some((entry["name"].as_str()?.to_owned(), entry["value"].as_str()?.to_owned())));
    fixed.into_iter().map(|(name, value)| (name.to_owned(), value)).chain(own).collect()
}
