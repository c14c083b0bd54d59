//! A pod's end as users see it: the item of `/api/v1/terminations`, the log line, and (for a container that ended while
//! its pod went on) the item of `/api/v1/restarts`. Plain data; [`crate::episode`] makes it.

use crate::conntrack::Met;
use crate::event::{Address, Loss, Workload};
use crate::time::Mono;
use crate::wallclock::Timestamp;
use probe_ebpf::class::{Class, Confidence, Phase};
use probe_ebpf::decide::confidence_of;
use probe_ebpf::protocol::Protocol;
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// A name of a closed set; owned only where it was read back from saved state.
pub type Name = Cow<'static, str>;

/// What made Kubernetes stop the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// A deletion (rolling update, scale down, by hand).
    Delete,
    /// Eviction, preemption, taint manager, pressure.
    Eviction,
    /// Graceful node shutdown.
    NodeShutdown,
    /// Nothing in the API says.
    Unknown,
}

impl Trigger {
    /// All, in label order.
    pub const ALL: [Self; 4] = [Self::Delete, Self::Eviction, Self::NodeShutdown, Self::Unknown];

    /// The label value.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Eviction => "eviction",
            Self::NodeShutdown => "node_shutdown",
            Self::Unknown => "unknown",
        }
    }
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Each container exited within its grace.
    Exited,
    /// A container was killed after its grace.
    GraceExceeded,
    /// Grace 0, or the object went while processes lived.
    Forced,
    /// Not over yet, or never seen to be.
    Running,
}

impl Outcome {
    /// All, in label order.
    pub const ALL: [Self; 4] = [Self::Exited, Self::GraceExceeded, Self::Forced, Self::Running];

    /// The label value.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::GraceExceeded => "grace_exceeded",
            Self::Forced => "forced",
            Self::Running => "running",
        }
    }
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The deletion was seen.
    Deleting,
    /// A container got its stop signal or exited.
    Stopping,
    /// The last container has exited; something may still arrive.
    Settling,
    /// Over.
    Ended,
}

/// What happened, in the timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Deletion was requested (1 s resolution).
    Requested,
    /// The agent learned of it.
    Seen,
    /// Not ready any more in the slices of each of its services.
    SliceNotReady,
    /// Not serving any more.
    SliceUnserving,
    /// In no slice any more.
    SliceGone,
    /// This node's service proxy sends nothing to it any more.
    Programmed,
    /// The stop signal.
    StopSignal,
    /// The last listener on a port closed.
    ListenerClosed,
    /// Last connection attempt from outside the pod.
    LastNewConnection,
    /// Last request read.
    LastRequest,
    /// SIGKILL.
    Killed,
    /// Exit of a container's init.
    Exited,
    /// The object left the API.
    Gone,
}

/// Who saw a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepSource {
    /// A kernel program, at the moment itself.
    Kernel,
    /// An API watch, at its receipt.
    Api,
    /// A notification of nf_tables, at its receipt.
    NfTables,
}

/// Namespace, name and uid of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineStep {
    /// What.
    pub step: Step,
    /// When.
    pub at: Timestamp,
    /// Of which container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// On which port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Who saw it.
    pub source: StepSource,
    /// How far `at` may be off; `null` where no bound is known.
    pub accuracy_ns: Option<u64>,
}

/// One container's end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerEnd {
    /// Name.
    pub name: String,
    /// Stop signal that it got.
    pub signal: Option<u32>,
    /// Its init ignored it.
    pub signal_ignored: bool,
    /// Exit code; 128 + number if a signal killed it.
    pub exit_code: Option<i32>,
    /// Exit.
    pub exited_at: Option<Timestamp>,
    /// It got SIGKILL.
    pub killed: bool,
}

/// Connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// Open at the stop.
    pub open_at_stop: u64,
    /// Arrived late.
    pub late: u64,
}

/// Requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// Arrived late and were answered.
    pub late_answered: u64,
}

/// Lost attempts by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost(pub [u64; 10]);

impl Lost {
    /// All classes together.
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// Of one class.
    pub fn of(&self, class: Class) -> u64 {
        self.0[class as usize]
    }
}

impl Serialize for Lost {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(Class::ALL.len()))?;
        for class in Class::ALL {
            map.serialize_entry(class.name(), &self.of(class))?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Lost {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut lost = Self::default();
        for (class, count) in BTreeMap::<Class, u64>::deserialize(deserializer)? {
            lost.0[class as usize] = count;
        }
        Ok(lost)
    }
}

/// Lost attempts by where the client is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BySource {
    /// A pod of this node or the node itself.
    pub same_node: u64,
    /// Elsewhere in the cluster (not told apart yet).
    pub cluster: u64,
    /// Outside (not told apart yet).
    pub external: u64,
    /// Not known, or no evidence of the attempt.
    pub unknown: u64,
}

/// A Service of the pod that its end left without endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceWithoutEndpoints {
    /// Its name.
    pub service: String,
    /// When the last one that its proxy would use went, as the API told.
    pub from: Timestamp,
    /// When the next one came; `null` if none had when the end was over.
    pub until: Option<Timestamp>,
}

/// Evidence of one lost attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// When it was lost.
    pub at: Timestamp,
    /// Why.
    pub class: Class,
    /// How sure.
    pub confidence: Confidence,
    /// Phase in which it was lost.
    pub phase: Phase,
    /// Client; unspecified where the kernel does not tell it.
    pub peer: SocketAddr,
    /// Pod.
    pub local: SocketAddr,
    /// Number of the request on its connection, from 1.
    pub request: u32,
    /// How many attempts this stands for.
    #[serde(default = "crate::event::one", skip_serializing_if = "crate::event::is_one")]
    pub attempts: u32,
    /// What else the kernel saw.
    pub detail: String,
    /// Why the attempt came to this pod, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
}

/// Why an attempt came to a pod that was not there for it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// An entry of this node's connection tracking that was older than the attempt sent it there.
    StaleConntrack,
}

impl Evidence {
    /// `protocol`: what its port speaks.
    pub(crate) fn of(loss: &Loss, protocol: Protocol, at: Timestamp, met: Option<&Met>) -> Self {
        let arrival = match (loss.late_connection, loss.late) {
            (true, _) => "on a late connection",
            (false, true) => "late, on an older connection",
            (false, false) => "in flight",
        };
        // The kernel counts these packets, and nothing else is known of them.
        let is_packets = matches!(loss.class, Class::Overflow);
        let what = if is_packets { "packets that a full accept queue dropped" } else { arrival };
        let mut detail = what.to_owned();
        if loss.unread > 0 {
            detail.push_str(&format!(", {} bytes never read", loss.unread));
        }
        if loss.unacked > 0 {
            detail.push_str(&format!(", {} bytes not acknowledged", loss.unacked));
        }
        if confidence_of(protocol, loss.class, Confidence::Observed) == Confidence::Inferred {
            detail.push_str(", at least one request of its connection");
        }
        let stale = met.and_then(|met| met.stale);
        if let Some(Address { ip, port }) = stale {
            let to = SocketAddr::new(ip, port);
            detail.push_str(&format!(", sent here by an older entry of connection tracking for {to}"));
        }
        Self {
            at,
            class: loss.class,
            confidence: loss.confidence,
            phase: loss.phase,
            peer: SocketAddr::new(loss.peer.ip, loss.peer.port),
            local: SocketAddr::new(loss.local.ip, loss.local.port),
            request: loss.request,
            attempts: loss.attempts,
            detail,
            cause: stale.map(|_| Cause::StaleConntrack),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// One pod's end (or one container's, as an item of `/api/v1/restarts`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Termination {
    /// Which pod.
    pub pod: PodName,
    /// Its workload.
    pub workload: Workload,
    /// The node.
    pub node: String,
    /// What made Kubernetes stop it.
    pub trigger: Trigger,
    /// How it ended.
    pub outcome: Outcome,
    /// Without an API deletion while its endpoint was ready.
    pub silent: bool,
    /// How far it is.
    pub state: State,
    /// What happened, by time.
    pub timeline: Vec<TimelineStep>,
    /// Its containers.
    pub containers: Vec<ContainerEnd>,
    /// Connections.
    pub connections: Connections,
    /// Requests.
    pub requests: Requests,
    /// Lost attempts, every phase.
    pub lost: Lost,
    /// Of those, how many are inferred.
    pub lost_inferred: u64,
    /// Of those, how many a stale entry of this node's connection tracking is known to have sent.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost_stale_entries: u64,
    /// Of those, by the client's place.
    pub by_source: BySource,
    /// Connects of this node's clients that the service proxy refused, because the pod's end had left a Service without endpoints.
    /// No pod had them, so they are not in `lost`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub service_refused: u64,
    /// The Services at which they were refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services_without_endpoints: Vec<ServiceWithoutEndpoints>,
    /// Late connections that the service proxy sends on purpose.
    pub expected: u64,
    /// Late connections and refused attempts of probes, counted nowhere else.
    pub probes_excluded: u64,
    /// Deletion seen to last new connection, in seconds, where both are known.
    pub tail_seconds: Option<f64>,
    /// That tail is no measure of what a sleep must cover.
    pub tail_censored: bool,
    /// The preStop sleep of its spec, in seconds.
    pub prestop_sleep_seconds: Option<u32>,
    /// The grace that it had, in seconds.
    pub grace_seconds: u64,
    /// Stop signal to exit of the slowest container, in seconds.
    pub exit_seconds: Option<f64>,
    /// Evidence, newest last.
    pub evidence: Vec<Evidence>,
    /// Evidence beyond the bound.
    pub evidence_dropped: u64,
    /// Evidence that the full ring refused.
    pub evidence_refused: u64,
    /// No counted loss of information could have touched it.
    pub complete: bool,
    /// What was odd or missing.
    pub anomalies: Vec<Name>,
    /// When it began, for order and filters.
    #[serde(skip)]
    pub began: Mono,
    /// The same by the wall clock.
    #[serde(skip)]
    pub began_wall: Timestamp,
}

/// An item of `/api/v1/restarts`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Restart {
    /// The container's end, in the shape of a termination.
    pub container_restart: Termination,
    /// Why it ended: `liveness`, `startup`, `exit`, `oom` or `unknown`.
    pub reason: Name,
}

/// Which items are wanted. The default wants all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this namespace.
    pub namespace: Option<String>,
    /// Of the workload with this name.
    pub workload: Option<String>,
    /// Of the pod with this name.
    pub pod: Option<String>,
    /// Begun at or after this moment.
    pub since: Option<Timestamp>,
    /// Only those that lost (`Some(true)`) or did not (`Some(false)`).
    pub lost: Option<bool>,
    /// At most so many; `None`: all.
    pub limit: Option<usize>,
}

impl Filter {
    pub(crate) fn wants(&self, item: &Termination) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| *namespace == item.pod.namespace)
            && self.workload.as_ref().is_none_or(|workload| *workload == item.workload.name)
            && self.pod.as_ref().is_none_or(|pod| *pod == item.pod.name)
            && self.since.is_none_or(|since| item.began_wall >= since)
            && self.lost.is_none_or(|lost| (item.lost.total() > 0) == lost)
    }
}

/// Answer to a [`Filter`]: newest first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Listing<T> {
    /// Items.
    pub items: Vec<T>,
    /// There were more than the limit.
    pub truncated: bool,
}
