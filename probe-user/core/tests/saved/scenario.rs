//! A node's facts as a real one has them: pods of a service, one of which is deleted while clients still come.

use probe_core::event::{
    Address, ContainerStatus, Deletion, Endpoint, Event, Fact, Key, Loss, Pod, Service, Slice, WatchHealth,
    WatchKind, Workload,
};
use probe_core::limits::SECOND;
use probe_core::monitor::Monitor;
use probe_core::time::Mono;
use probe_ebpf::class::{Class, Confidence, Phase};
use probe_ebpf::wire::{Counters, SlotRef};
use std::net::{IpAddr, Ipv4Addr};

pub(crate) const NODE: &str = "n1";
pub(crate) const POD_CGROUP: u64 = 100;
pub(crate) const CONTAINER: u64 = 101;

/// One pod, its slot and container index, and what is told of it.
struct Story {
    number: u32,
    slot: SlotRef,
    container: u32,
    /// When its deletion is seen.
    deleted: u64,
    /// Attempts that it loses.
    lost: u32,
    events: Vec<Event>,
}

impl Story {
    fn tell(&mut self, ms: u64, fact: Fact) {
        self.events.push(Event { at: Mono(self.deleted + ms * 1_000_000), fact });
    }

    fn name(&self) -> String {
        format!("api-{}", self.number)
    }

    fn cgroup(&self) -> u64 {
        u64::from(self.number) * POD_CGROUP
    }

    fn address(&self) -> Address {
        let ip = IpAddr::V4(Ipv4Addr::from(0x0a01_0000 + self.number));
        Address { ip, port: 8080 }
    }

    fn pod(&self, deleted: bool) -> Fact {
        let name = self.name();
        Fact::Pod(Box::new(Pod {
            uid: format!("u{}", self.number),
            cgroup_uid: format!("u{}", self.number),
            key: Key { namespace: "shop".to_owned(), name },
            workload: Workload { kind: "Deployment".to_owned(), name: "api".to_owned() },
            addresses: vec![self.address().ip],
            ports: vec![8080],
            probe_ports: vec![8081],
            deletion: deleted.then_some(Deletion { deadline_unix_s: 1_000_030, grace_seconds: 30 }),
            ready: true,
            grace_seconds: 30,
            containers: vec![ContainerStatus {
                name: "app".to_owned(),
                id: format!("id{}", self.number),
                started: Some(true),
                ..ContainerStatus::default()
            }],
            ..Pod::default()
        }))
    }

    fn slice(&self, ready: bool) -> Fact {
        Fact::Slice(Slice {
            key: slice_key(self.number),
            service: service_key(self.number).name,
            ports: vec![8080],
            hints: Vec::new(),
            endpoints: vec![Endpoint {
                pod_uid: format!("u{}", self.number),
                ready,
                serving: true,
                terminating: !ready,
            }],
        })
    }

    fn loss(&self, number: u32) -> Fact {
        Fact::Loss(Loss {
            slot: self.slot,
            container: Some(self.container),
            peer: Address {
                ip: IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1)),
                port: u16::try_from(40_000 + number).unwrap(),
            },
            local: self.address(),
            request: 1,
            class: Class::Unread,
            confidence: Confidence::Observed,
            phase: Phase::Stopping,
            late: true,
            late_connection: true,
            unread: 120,
            unacked: 0,
            attempted: None,
            connect: false,
            attempts: 1,
        })
    }

    fn reading(&self, lost: u32) -> Fact {
        let lost = u64::from(lost);
        let mut counters =
            Counters { opened: 40 + lost, closed: 40 + lost, evidence: lost, ..Counters::default() };
        counters.lost[Class::Unread as usize][Phase::Stopping as usize][0] = lost;
        counters.late_opened = 25 + lost;
        counters.late_connections[1][0] = 25;
        counters.last_new_ns = self.deleted + 2 * SECOND;
        Fact::Reading { slot: self.slot, counters: Box::new(counters) }
    }

    fn begin(&mut self) {
        let (cgroup, pod_uid) = (self.cgroup(), format!("u{}", self.number));
        let container_id = format!("id{}", self.number);
        let pod = Fact::Cgroup { id: cgroup, pod_uid: pod_uid.clone(), container_id: String::new() };
        self.events.push(Event { at: Mono(2 * SECOND), fact: pod });
        let container = Fact::Cgroup { id: cgroup + 1, pod_uid, container_id };
        self.events.push(Event { at: Mono(2 * SECOND), fact: container });
        for fact in [
            self.pod(false),
            Fact::Service(Service { key: service_key(self.number), ..Service::default() }),
            self.slice(true),
            Fact::Reading {
                slot: self.slot,
                counters: Box::new(Counters { opened: 9, closed: 4, ..Counters::default() }),
            },
        ] {
            self.events.push(Event { at: Mono(3 * SECOND), fact });
        }
    }

    fn end(&mut self) {
        let (slot, container) = (self.slot, self.container);
        self.tell(0, self.pod(true));
        self.tell(300, self.slice(false));
        self.tell(500, Fact::Signal { slot, container, signal: 15, ignored: false, open: 5 });
        self.tell(
            600,
            Fact::Listener { slot, container: Some(container), port: 8080, open: false, listeners: 0 },
        );
        for number in 0..self.lost {
            self.tell(700 + u64::from(number) * 10, self.loss(number));
            self.tell(750 + u64::from(number) * 10, self.reading(number + 1));
        }
        self.tell(2500, Fact::Exit { slot, container, status: 0, open: 0 });
        self.tell(2600, Fact::CgroupGone { id: self.cgroup() + 1 });
        self.tell(2700, Fact::CgroupGone { id: self.cgroup() });
        self.tell(2800, Fact::SliceGone { key: slice_key(self.number) });
        self.tell(2900, Fact::PodGone { uid: format!("u{}", self.number) });
        for quarter in 12..60 {
            self.tell(quarter * 250, self.reading(self.lost));
        }
        self.events.sort_by_key(|event| event.at);
    }
}

fn service_key(number: u32) -> Key {
    let name = if number == 1 { "api".to_owned() } else { format!("api{number}") };
    Key { namespace: "shop".to_owned(), name }
}

fn slice_key(number: u32) -> Key {
    Key { namespace: "shop".to_owned(), name: service_key(number).name + "-x" }
}

fn world() -> Vec<Event> {
    let synced = |watch, namespace: &str| Fact::Watch {
        watch,
        namespace: namespace.to_owned(),
        health: WatchHealth::Synced,
    };
    [
        Fact::Clock { unix_ns: 1_000_000 * 1_000_000_000 },
        synced(WatchKind::Pods, ""),
        synced(WatchKind::Services, "shop"),
        synced(WatchKind::EndpointSlices, "shop"),
    ]
    .map(|fact| Event { at: Mono(SECOND), fact })
    .into()
}

fn story(number: u32, deleted_s: u64, lost: u32) -> Story {
    let slot = SlotRef { slot: number - 1, generation: 1 };
    Story { number, slot, container: number - 1, deleted: deleted_s * SECOND, lost, events: Vec::new() }
}

/// One pod from its birth to its end, which loses three requests.
pub(crate) fn events() -> Vec<Event> {
    let mut story = story(1, 10, 3);
    story.begin();
    story.end();
    world().into_iter().chain(story.events).collect()
}

/// A second pod that comes later and ends as the first did.
pub(crate) fn second() -> Vec<Event> {
    let mut story = story(2, 60, 3);
    story.begin();
    for event in &mut story.events {
        event.at = event.at.after(45 * SECOND);
    }
    story.end();
    story.events
}

/// Many pods, some of which have ended and lost `lost` requests each.
pub(crate) fn fill(monitor: &mut Monitor, pods: u32, ended: u32, lost: u32) {
    let mut all = world();
    for number in 1..=pods {
        let mut story = story(number, 10 + u64::from(number) / 10, lost);
        story.begin();
        if number <= ended {
            story.end();
            // Their services and slices stay for this.
            story.events.retain(|event| !matches!(event.fact, Fact::SliceGone { .. }));
            let gone = story.slice(false);
            story.tell(2800, gone);
        }
        all.extend(story.events);
    }
    all.sort_by_key(|event| event.at);
    all.into_iter().for_each(|event| monitor.handle(event));
    monitor.handle_timeout(Mono(200 * SECOND));
}

/// The same facts of the kernel side under another slot and container index.
#[expect(clippy::wildcard_enum_match_arm, reason = "all other facts name no slot here")]
pub(crate) fn renumbered(events: &[Event], to: SlotRef, index: u32) -> Vec<Event> {
    let mut events = events.to_vec();
    for event in &mut events {
        match &mut event.fact {
            Fact::Reading { slot, .. } => *slot = to,
            Fact::Exit { slot, container, .. } => (*slot, *container) = (to, index),
            _ => {}
        }
    }
    events
}
