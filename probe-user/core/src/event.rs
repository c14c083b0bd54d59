//! The events that the core consumes: facts, each with the moment at which it became known here. Sources (kernel ring,
//! kernel counters, API watches, cgroupfs) reduce what they see to these; the event log is a list of them, one JSON
//! object a line. No conclusion is drawn here.

use crate::conntrack::Tracked;
use crate::exec::{ExecHook, ExecUse, Execed};
use crate::kubelet::{ProbeUse, Seen};
use crate::time::Mono;
use crate::verdicts;
use probe_ebpf::class::{Class, Confidence, Phase};
use probe_ebpf::protocol::Protocol;
use probe_ebpf::wire::{Counters, SlotRef};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// One fact and when it became known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// For kernel records the kernel's own stamp; for all else the receipt.
    pub at: Mono,
    /// What became known.
    pub fact: Fact,
}

/// What can become known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact {
    /// The wall clock, sampled: nanoseconds since 1970 at the event's moment.
    Clock {
        /// Unix time in nanoseconds.
        unix_ns: i64,
    },
    /// A pod of this node was added or changed.
    Pod(Box<Pod>),
    /// A pod of this node left the API.
    PodGone {
        /// Its uid.
        uid: String,
    },
    /// A Service in a namespace that has a local pod was added or changed.
    Service(Service),
    /// A Service left the API.
    ServiceGone {
        /// Namespace and name.
        key: Key,
    },
    /// An EndpointSlice in a namespace that has a local pod was added or changed.
    Slice(Slice),
    /// An EndpointSlice left the API.
    SliceGone {
        /// Namespace and name.
        key: Key,
    },
    /// This node's service proxy began, or ceased, to send new connections to an address, on whatever port.
    Rules {
        /// A pod's address.
        address: IpAddr,
        /// Began, else ceased.
        used: bool,
    },
    /// All addresses to which it sends them, read anew: changes before it may have been missed.
    RulesRead {
        /// Pods' addresses.
        addresses: Vec<IpAddr>,
    },
    /// A watch changed its health.
    Watch {
        /// Which resource.
        watch: WatchKind,
        /// Namespace; empty for pods.
        namespace: String,
        /// How it is now.
        health: WatchHealth,
    },
    /// A cgroup below a pod's was made or found (or the pod's own: then without a container id).
    Cgroup {
        /// Its id (inode number).
        id: u64,
        /// Uid of the pod that its path names.
        pod_uid: String,
        /// Container id that its path names, without the runtime's prefix; empty for the pod's own.
        container_id: String,
    },
    /// A cgroup was removed.
    CgroupGone {
        /// Its id.
        id: u64,
    },
    /// A signal that stops a container, was ignored by it, or kills it.
    Signal {
        /// Slot and generation.
        slot: SlotRef,
        /// Container index.
        container: u32,
        /// Signal number.
        signal: u32,
        /// The target ignored it.
        ignored: bool,
        /// Open inbound connections of the pod.
        open: u64,
    },
    /// Exit of a container's init.
    Exit {
        /// Slot and generation.
        slot: SlotRef,
        /// Container index.
        container: u32,
        /// As wait(2) has it.
        status: u32,
        /// Open inbound connections of the pod.
        open: u64,
    },
    /// The kernel's table of containers says that an init has exited: looked at when the full ring may have refused the
    /// record of it. The status is not in that table.
    Exited {
        /// Slot and generation.
        slot: SlotRef,
        /// Container index.
        container: u32,
        /// When it exited, by the kernel's stamp; the event's own moment is that of the look.
        exited: Mono,
    },
    /// A listener came or went.
    Listener {
        /// Slot and generation.
        slot: SlotRef,
        /// Container index; `None` if the kernel could not tell.
        container: Option<u32>,
        /// Port.
        port: u16,
        /// Came, else went.
        open: bool,
        /// Listeners left on the port.
        listeners: u32,
    },
    /// Evidence of a lost attempt (the counters have it already).
    Loss(Loss),
    /// What connection tracking has of a lost connect, asked for after it.
    Tracked(Tracked),
    /// A connection of a probe of the kubelet ended.
    Probed(Seen),
    /// A reading of the kubelet's own counters of verdicts.
    Verdicts(Box<verdicts::Reading>),
    /// A command that came into a container from outside ended.
    Execed(Execed),
    /// A reading of a slot's counters.
    Reading {
        /// Slot and generation.
        slot: SlotRef,
        /// The counters.
        counters: Box<Counters>,
    },
    /// A reading of the node-wide anomaly counters of the kernel side, by index of `wire::anomaly::NAMES`.
    KernelAnomalies {
        /// Their values.
        values: Vec<u64>,
    },
    /// A source met input that it could not use: counted, dropped.
    Anomaly {
        /// Which kind.
        kind: Anomaly,
        /// How many.
        count: u64,
    },
}

impl Fact {
    /// A monitor restored from a state without it will not learn it again, or only later than it happened: worth saving
    /// the state soon. Counters are read again, and evidence is detail.
    pub fn is_told_once(&self) -> bool {
        match self {
            Self::Pod(_)
            | Self::PodGone { .. }
            | Self::Service(_)
            | Self::ServiceGone { .. }
            | Self::Slice(_)
            | Self::SliceGone { .. }
            | Self::Rules { .. }
            | Self::RulesRead { .. }
            | Self::Watch { .. }
            | Self::Cgroup { .. }
            | Self::CgroupGone { .. }
            | Self::Signal { .. }
            | Self::Exit { .. }
            | Self::Exited { .. }
            | Self::Listener { .. }
            | Self::Anomaly { .. } => true,
            Self::Clock { .. }
            | Self::Loss(_)
            | Self::Tracked(_)
            | Self::Probed(_)
            | Self::Verdicts(_)
            | Self::Execed(_)
            | Self::Reading { .. }
            | Self::KernelAnomalies { .. } => false,
        }
    }
}

/// Namespace and name of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// The owner that a team knows its pods by: the top of the owner references as far as names tell it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Workload {
    /// Deployment, StatefulSet, DaemonSet, Job, CronJob, Pod, …
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// What the core needs of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Uid.
    pub uid: String,
    /// Uid that its cgroups' paths carry: the config hash for static pods, else the uid.
    pub cgroup_uid: String,
    /// Namespace and name.
    pub key: Key,
    /// Its workload.
    pub workload: Workload,
    /// Shares the node's network namespace.
    pub host_network: bool,
    /// Its addresses, all families.
    pub addresses: Vec<IpAddr>,
    /// TCP ports that its spec declares.
    pub ports: Vec<u16>,
    /// TCP ports that its spec's probes go to.
    pub probe_ports: Vec<u16>,
    /// Those probes.
    pub probes: Vec<ProbeUse>,
    /// Its spec's exec probes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exec_probes: Vec<ExecUse>,
    /// Its spec's hooks that run a command.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exec_hooks: Vec<ExecHook>,
    /// What its ports' names and its probes say that they speak.
    pub hints: Vec<PortHint>,
    /// Deletion, once requested.
    pub deletion: Option<Deletion>,
    /// Phase Succeeded or Failed.
    pub terminal: bool,
    /// Condition Ready.
    pub ready: bool,
    /// `DisruptionTarget` condition's reason, or a status reason such as `Evicted` or `Terminated`; empty if none.
    pub disruption: String,
    /// `terminationGracePeriodSeconds`.
    pub grace_seconds: u32,
    /// Longest `preStop.sleep` of its containers, in seconds; other hooks have no length that the spec tells.
    pub prestop_sleep_seconds: Option<u32>,
    /// It has a preStop hook of any kind.
    pub has_prestop: bool,
    /// Its containers (sidecars too) as the status has them.
    pub containers: Vec<ContainerStatus>,
}

/// What something in the API says that a port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortHint {
    /// Number on the pod.
    pub port: u16,
    /// What says so.
    pub source: HintSource,
    /// What it speaks.
    pub protocol: Protocol,
}

/// What says that a port speaks a protocol; a later one is more to be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HintSource {
    /// The kind of a probe.
    Probe,
    /// The name of a container's port.
    ContainerPort,
    /// The name of a Service's port.
    ServicePort,
    /// `appProtocol` of a Service's port.
    AppProtocol,
}

/// `deletionTimestamp` and `deletionGracePeriodSeconds`. The timestamp is the deadline, not the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deletion {
    /// The deadline, Unix seconds.
    pub deadline_unix_s: i64,
    /// The grace that it includes.
    pub grace_seconds: i64,
}

/// What the core needs of a container's status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerStatus {
    /// Name in the spec.
    pub name: String,
    /// Container id without the runtime's prefix; empty until there is one.
    pub id: String,
    /// Restarts so far.
    pub restarts: u32,
    /// Reason of the running or last termination (`OOMKilled`, `Error`, …); empty if none.
    pub terminated_reason: String,
    /// Id of the instance that ended so: `id`, or the one before it; empty if none.
    pub terminated_id: String,
    /// Exit code of the current termination.
    pub exit_code: Option<i32>,
    /// `started`: its startup probe has passed (or it has none); `None` if the status does not say.
    pub started: Option<bool>,
}

/// What the core needs of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Namespace and name.
    pub key: Key,
    /// `clusterIP: None`: no proxy in front.
    pub headless: bool,
    /// `publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// Its cluster addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Its TCP ports.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
}

/// What the core needs of an EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Slice {
    /// Namespace and name.
    pub key: Key,
    /// Name of its Service.
    pub service: String,
    /// TCP ports.
    pub ports: Vec<u16>,
    /// What the Service says that they speak.
    pub hints: Vec<PortHint>,
    /// Endpoints that are pods.
    pub endpoints: Vec<Endpoint>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    /// `targetRef.uid`.
    pub pod_uid: String,
    /// Condition; nil means true.
    pub ready: bool,
    /// Condition; nil means true.
    pub serving: bool,
    /// Condition; nil means false.
    pub terminating: bool,
}

/// A watched resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WatchKind {
    /// Pods of this node.
    Pods,
    /// Services of a namespace.
    Services,
    /// EndpointSlices of a namespace.
    EndpointSlices,
}

/// Health of a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WatchHealth {
    /// The first list, or a list after a gap, is in.
    Synced,
    /// It broke: until the next `Synced` anything may have been missed.
    Broken,
    /// Its namespace has no local pod any more: it ended.
    Ended,
}

/// Evidence of one attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// Slot and generation.
    pub slot: SlotRef,
    /// Container that listens on the port.
    pub container: Option<u32>,
    /// Client.
    pub peer: Address,
    /// Pod.
    pub local: Address,
    /// Number of the request on its connection, from 1.
    pub request: u32,
    /// Why.
    pub class: Class,
    /// How sure.
    pub confidence: Confidence,
    /// Phase in which it was lost.
    pub phase: Phase,
    /// It arrived late (else in flight at the stop).
    pub late: bool,
    /// Its connection arrived late.
    pub late_connection: bool,
    /// Bytes never read.
    pub unread: u32,
    /// Bytes not acknowledged.
    pub unacked: u32,
    /// When the attempt was lost, where that is before the event's moment: a packet may be dropped long after it was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempted: Option<Mono>,
    /// It was a connect, and no socket of the pod took part in it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub connect: bool,
    /// How many attempts this stands for: more than one where the kernel counts packets and does not tell whose they were.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub attempts: u32,
}

pub(crate) const fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
pub(crate) const fn is_one(count: &u32) -> bool {
    *count == 1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// Address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Address {
    /// Address, IPv4-mapped ones as IPv4.
    pub ip: IpAddr,
    /// Port.
    pub port: u16,
}

/// Input that could not be used as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Anomaly {
    /// A ring record that does not parse.
    BadRecord,
    /// An API object without what identifies it, or with values out of range.
    BadObject,
    /// A cgroup path that names no pod although it lies below kubepods.
    BadCgroup,
    /// An event older than the reorder window.
    BehindWindow,
    /// No free slot for a pod: it is not watched.
    SlotsFull,
    /// No free index for a container.
    ContainersFull,
    /// A record or reading of a slot generation that is no more.
    StaleSlot,
    /// A counter went back.
    CounterWentBack,
    /// A map write failed.
    MapWrite,
    /// Evidence beyond the bound of a termination, or of what waits for a container's name.
    EvidenceDropped,
    /// A termination beyond the history's bound.
    HistoryDropped,
    /// The event queue between sources and core was full.
    QueueFull,
    /// The wall clock stepped.
    ClockStep,
    /// More pods, services, slices, endpoints or pending events than the bound.
    TooMany,
    /// The kernel programs had not counted for a while: nobody had moved their end on, or pinned maps were of no use.
    KernelSilent,
    /// The kernel side does not have a slot or container that it was told to watch: its counts begin anew.
    SlotLost,
    /// Notifications of the service proxy's rules were lost: they were read anew.
    RulesMissed,
}

impl Anomaly {
    /// Every kind, in their order.
    pub const ALL: [Self; 17] = [
        Self::BadRecord,
        Self::BadObject,
        Self::BadCgroup,
        Self::BehindWindow,
        Self::SlotsFull,
        Self::ContainersFull,
        Self::StaleSlot,
        Self::CounterWentBack,
        Self::MapWrite,
        Self::EvidenceDropped,
        Self::HistoryDropped,
        Self::QueueFull,
        Self::ClockStep,
        Self::TooMany,
        Self::KernelSilent,
        Self::SlotLost,
        Self::RulesMissed,
    ];

    /// The label value, and the name in a termination's `anomalies`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadRecord => "bad_record",
            Self::BadObject => "bad_object",
            Self::BadCgroup => "bad_cgroup",
            Self::BehindWindow => "behind_window",
            Self::SlotsFull => "slots_full",
            Self::ContainersFull => "containers_full",
            Self::StaleSlot => "stale_slot",
            Self::CounterWentBack => "counter_went_back",
            Self::MapWrite => "map_write",
            Self::EvidenceDropped => "evidence_dropped",
            Self::HistoryDropped => "history_dropped",
            Self::QueueFull => "queue_full",
            Self::ClockStep => "clock_step",
            Self::TooMany => "too_many",
            Self::KernelSilent => "kernel_silent",
            Self::SlotLost => "slot_lost",
            Self::RulesMissed => "rules_missed",
        }
    }
}
