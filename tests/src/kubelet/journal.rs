//! What the world's own parts did and when, on the kernel's monotonic clock: the truth that a test holds an agent's timeline against.
//!
//! Each record is stamped just *before* the act that it names begins, except where the step's documentation says otherwise.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use nix::time::{ClockId, clock_gettime};

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The sandbox with the pod's addresses is there (stamped after).
    SandboxCreated,
    /// A container's process runs its program (stamped after).
    ContainerStarted {
        /// Container name.
        container: String,
        /// Pid of its first process as the node sees it.
        pid: i32,
        /// 64 hexadecimal digits.
        container_id: String,
    },
    /// A readiness probe's verdict changed (stamped after the probe).
    Readiness {
        /// Container name.
        container: String,
        /// The new verdict.
        ready: bool,
    },
    /// A startup probe's verdict (stamped after the probe).
    Startup {
        /// Container name.
        container: String,
        /// It has started; if not, it is ended and started again.
        passed: bool,
    },
    /// The kubelet begins with the pod's end.
    TerminationStarted,
    /// A container's preStop hook begins.
    PreStop {
        /// Container name.
        container: String,
    },
    /// A signal goes to a container's first process: the stop signal, or SIGKILL (9) at the end of the grace.
    Signal {
        /// Container name.
        container: String,
        /// Its number.
        signal: i32,
    },
    /// A container's first process has ended (stamped after it was reaped).
    Exited {
        /// Container name.
        container: String,
        /// Exit code, 128 + n for a signal.
        code: i32,
    },
    /// The sandbox, and with it the pod's addresses, is being removed.
    SandboxRemoval,
    /// The sandbox is gone (stamped after).
    SandboxRemoved,
    /// The API object is being removed.
    ObjectRemoval,
    /// The endpoint controller is about to write slices in which this pod has these conditions; `None`: it is no longer in them.
    Endpoint {
        /// Service name.
        service: String,
        /// ready, serving, terminating.
        conditions: Option<(bool, bool, bool)>,
    },
    /// The service proxy's rules now send new connections to this pod, or no longer do (stamped after the commit).
    Rules {
        /// Service name.
        service: String,
        /// The pod's address in question: families are programmed one by one, as slices come.
        address: IpAddr,
        /// Whether the pod is used.
        used: bool,
        /// When the commit began: the rules changed between then and this record.
        began_ns: u64,
    },
}

/// One step of one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// `CLOCK_MONOTONIC` in nanoseconds.
    pub monotonic_ns: u64,
    /// The pod's uid.
    pub pod_uid: String,
    /// The step.
    pub step: Step,
}

/// The journal; clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Journal(Arc<Mutex<Vec<Record>>>);

impl Journal {
    /// Adds a step with the present time.
    pub fn record(&self, pod_uid: &str, step: Step) {
        let record = Record { monotonic_ns: monotonic_ns(), pod_uid: pod_uid.to_owned(), step };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(record);
    }

    /// Everything recorded so far.
    pub fn records(&self) -> Vec<Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A pod's records.
    pub fn of_pod(&self, pod_uid: &str) -> Vec<Record> {
        let mut records = self.records();
        records.retain(|record| record.pod_uid == pod_uid);
        records
    }

    /// Pid (as the node sees it) and container id of the process that a pod's container started last.
    pub fn started(&self, pod_uid: &str, container: &str) -> Option<(i32, String)> {
        self.of_pod(pod_uid).into_iter().rev().find_map(|record| {
            let Step::ContainerStarted { container: name, pid, container_id } = record.step else {
                return None;
            };
            (name == container).then_some((pid, container_id))
        })
    }

    /// When a pod's first step that fits was done.
    pub fn first(&self, pod_uid: &str, fits: impl Fn(&Step) -> bool) -> Option<u64> {
        self.of_pod(pod_uid).into_iter().find(|record| fits(&record.step)).map(|record| record.monotonic_ns)
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds: the clock of the kernel's `bpf_ktime_get_ns`.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux has a monotonic clock");
    u64::try_from(now.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap_or(0)
}
