//! The maps of the kernel programs, typed. Applies the core's commands, reads counters, sweeps what is old. Knows the
//! layouts only through the wire format.

use aya::maps::{Array, HashMap, Map, MapData, MapError};
use probe_core::command::Command;
use probe_core::monitor::KernelTables;
use probe_ebpf::wire::{
    self, CLOSED_NS, Closed, Container, Control, Counters, HOST_SCOPE, NONE, PORT_DECLARED, PORT_PROBE,
    PORT_PROTOCOL, PORT_PROTOCOL_SHIFT, PORT_SERVICE, Port, PortKey, SLOT_ADDRESSED, SLOT_DELETING,
    SLOT_SERVED, ServiceKey, Slot, SlotRef, TURNS_KERNEL, TURNS_USER, Tally, Tuple, Turns, UNSETTLED,
    anomaly,
};
use std::net::IpAddr;
use thiserror::Error;

/// BPF_NOEXIST.
const NO_EXIST: u64 = 1;

/// A map that the object should have cannot be used.
#[derive(Debug, Error)]
pub enum TableError {
    /// It is not there.
    #[error("the kernel programs have no map {0}")]
    Missing(&'static str),
    /// It is of another type or layout.
    #[error("map {name}: {source}")]
    Layout {
        /// Its name.
        name: &'static str,
        /// Why.
        source: MapError,
    },
}

/// A change of a map failed; the driver counts it and goes on.
#[derive(Debug, Error)]
#[error("{what}: {source}")]
pub struct ApplyError {
    what: &'static str,
    source: MapError,
}

/// A counter or a container's state could not be read; the driver counts it and tries again at the next turn.
#[derive(Debug, Error)]
#[error("{what} {index}: {source}")]
pub struct ReadError {
    what: &'static str,
    index: u32,
    source: MapError,
}

/// A value of the wire format as aya wants it.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct Plain<T>(pub(super) T);

macro_rules! plain {
    ($($name:ty),*) => { $(
        // SAFETY: `repr(C)` without padding (asserted in the wire format), valid for any bytes.
        unsafe impl aya::Pod for Plain<$name> {}
    )* };
}
plain!(Control, Slot, Container, Tally, Turns, SlotRef, PortKey, Port, ServiceKey, Tuple, Closed);

/// How full a map is.
pub struct MapUsage {
    /// Its name.
    pub name: &'static str,
    /// Entries in use.
    pub entries: u64,
    /// Most entries.
    pub capacity: u64,
}

/// Every map that user space touches.
pub(super) struct Tables {
    slots: Array<MapData, Plain<Slot>>,
    counters: Array<MapData, Plain<Tally>>,
    containers: Array<MapData, Plain<Container>>,
    cgroups: HashMap<MapData, u64, u32>,
    namespaces: HashMap<MapData, u64, Plain<SlotRef>>,
    addresses: HashMap<MapData, [u8; 16], Plain<SlotRef>>,
    former: HashMap<MapData, [u8; 16], Plain<SlotRef>>,
    ports: HashMap<MapData, Plain<PortKey>, Plain<Port>>,
    numbers: Array<MapData, u8>,
    closed: HashMap<MapData, Plain<Tuple>, Plain<Closed>>,
    anomalies: Array<MapData, u64>,
    services: HashMap<MapData, Plain<ServiceKey>, Plain<SlotRef>>,
    turns: Array<MapData, Plain<Turns>>,
}

/// Takes a map out of the object, with a type.
pub(super) fn take<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut aya::Ebpf,
    name: &'static str,
) -> Result<T, TableError> {
    let map = ebpf.take_map(name).ok_or(TableError::Missing(name))?;
    T::try_from(map).map_err(|source| TableError::Layout { name, source })
}

impl Tables {
    pub(super) fn of(ebpf: &mut aya::Ebpf) -> Result<Self, TableError> {
        Ok(Self {
            slots: take(ebpf, "SLOTS")?,
            counters: take(ebpf, "COUNTERS")?,
            containers: take(ebpf, "CONTAINERS")?,
            cgroups: take(ebpf, "CGROUPS")?,
            namespaces: take(ebpf, "NAMESPACES")?,
            addresses: take(ebpf, "ADDRESSES")?,
            former: take(ebpf, "FORMER")?,
            ports: take(ebpf, "PORTS")?,
            numbers: take(ebpf, "NUMBERS")?,
            closed: take(ebpf, "CLOSED")?,
            anomalies: take(ebpf, "ANOMALIES")?,
            services: take(ebpf, "SERVICES")?,
            turns: take(ebpf, "TURNS")?,
        })
    }

    /// Slots and containers that are given away.
    pub(super) fn held(&self) -> KernelTables {
        let states = (0..wire::SLOTS).zip(self.slots.iter());
        let slots = states.filter_map(|(slot, state)| {
            let generation = state.ok()?.0.generation;
            (generation != 0).then_some(SlotRef { slot, generation })
        });
        KernelTables {
            slots: slots.collect(),
            containers: self.cgroups.iter().filter_map(Result::ok).collect(),
        }
    }

    /// Makes one change. One that was made already changes nothing: an agent may be killed between a change and the
    /// moment at which it would have remembered it, and its successor makes it again.
    pub(super) fn apply(&mut self, command: &Command) -> Result<(), ApplyError> {
        let changed = self.change(command);
        self.next_epoch()?;
        changed
    }

    fn change(&mut self, command: &Command) -> Result<(), ApplyError> {
        match *command {
            Command::WatchSlot { slot } => self.watch(slot),
            Command::MarkDeleting { slot } => {
                let turns = self.turns(TURNS_USER)?;
                self.set_turns(Turns { stops: UNSETTLED, ..turns })?;
                self.flag(slot, SLOT_DELETING, true)
            }
            Command::SetServed { slot, served } => self.flag(slot, SLOT_SERVED, served),
            Command::ForgetSlot { slot } => self.forget(slot),
            Command::AddAddress { address, slot } => {
                let key = octets(address);
                if let Ok(owner) = self.addresses.get(&key, 0)
                    && owner.0 != slot
                {
                    self.former.insert(key, owner, 0).map_err(failed("move an address"))?;
                }
                self.addresses.insert(key, Plain(slot), 0).map_err(failed("add an address"))?;
                self.flag(slot, SLOT_ADDRESSED, true)
            }
            Command::RemoveAddress { address, slot } => self.remove_address(address, slot),
            Command::AddPort { slot, host_network, port, probe, service, protocol } => {
                let uses = [(probe, PORT_PROBE), (service, PORT_SERVICE)];
                let flags = uses.into_iter().filter(|(is_used, _)| *is_used).map(|(_, flag)| flag);
                let spoken = (protocol as u32) << PORT_PROTOCOL_SHIFT;
                self.add_port(
                    slot,
                    host_network,
                    port,
                    flags.fold(PORT_DECLARED | spoken, |all, flag| all | flag),
                )
            }
            Command::AddService { address, port, slot } => self.add_service(address, port, slot),
            Command::RemoveService { address, port, slot } => {
                let key = service_key(address, port);
                if self.services.get(&key, 0).is_ok_and(|owner| owner.0 == slot) {
                    self.services.remove(&key).map_err(failed("remove a service"))?;
                }
                Ok(())
            }
            Command::AddContainer { container, cgroup, slot } => {
                let known = self.containers.get(&container, 0).map_err(failed("read a container"))?.0;
                let is_known = (known.slot, known.generation) == (slot.slot, slot.generation);
                if is_known && self.cgroups.get(&cgroup, 0).is_ok_and(|index| index == container) {
                    return Ok(());
                }
                let state =
                    Container { slot: slot.slot, generation: slot.generation, ..Container::default() };
                self.containers.set(container, Plain(state), 0).map_err(failed("add a container"))?;
                self.cgroups.insert(cgroup, container, 0).map_err(failed("add a cgroup"))
            }
            Command::ForgetContainer { container, cgroup } => {
                let names_it = self.cgroups.get(&cgroup, 0).is_ok_and(|index| index == container);
                if names_it {
                    self.cgroups.remove(&cgroup).map_err(failed("remove a cgroup"))?;
                }
                Ok(())
            }
        }
    }

    /// Has the programs take the short way if no container is stopping and no pod is being deleted. A stop in the meantime is
    /// a higher number than the one that is written.
    pub(super) fn settle(&mut self) -> Result<(), ApplyError> {
        let seen = self.turns(TURNS_KERNEL)?.stops;
        let turns = self.turns(TURNS_USER)?;
        if turns.stops == seen {
            return Ok(());
        }
        let is_kept =
            |state: Result<Plain<Slot>, _>| state.is_ok_and(|slot| slot.0.flags & SLOT_DELETING == 0);
        let runs = |entry: Result<(u64, u32), _>| {
            entry.is_ok_and(|(_, index)| self.container(index).is_ok_and(|container| container.stop_ns == 0))
        };
        if !self.slots.iter().all(is_kept) || !self.cgroups.iter().all(runs) {
            return Ok(());
        }
        self.set_turns(Turns { stops: seen, ..turns })
    }

    /// Nothing that the programs have found in the tables before holds any more: to be called after each change, and by an agent
    /// that comes, because the one before it may have been killed between the two.
    pub(super) fn next_epoch(&mut self) -> Result<(), ApplyError> {
        let turns = self.turns(TURNS_USER)?;
        self.set_turns(Turns { changes: turns.changes.wrapping_add(1), ..turns })
    }

    fn turns(&self, whose: u32) -> Result<Turns, ApplyError> {
        self.turns.get(&whose, 0).map(|turns| turns.0).map_err(failed("read the turns"))
    }

    /// User space alone writes its own.
    fn set_turns(&mut self, turns: Turns) -> Result<(), ApplyError> {
        self.turns.set(TURNS_USER, Plain(turns), 0).map_err(failed("write the turns"))
    }

    /// Counters first, so that nothing is added to the old ones once the generation is valid.
    fn watch(&mut self, slot: SlotRef) -> Result<(), ApplyError> {
        if self.generation(slot)? >= slot.generation {
            return Ok(());
        }
        self.counters.set(slot.slot, Plain(Tally::default()), 0).map_err(failed("zero counters"))?;
        let state = Slot { generation: slot.generation, flags: 0 };
        self.slots.set(slot.slot, Plain(state), 0).map_err(failed("give a slot away"))
    }

    /// User space alone writes slots, so that nothing comes between reading and writing.
    fn flag(&mut self, slot: SlotRef, flag: u32, on: bool) -> Result<(), ApplyError> {
        let Plain(mut state) = self.slots.get(&slot.slot, 0).map_err(failed("read a slot"))?;
        if state.generation == slot.generation {
            state.flags = if on { state.flags | flag } else { state.flags & !flag };
            self.slots.set(slot.slot, Plain(state), 0).map_err(failed("mark a slot"))?;
        }
        Ok(())
    }

    /// Generation first: from then on no entry that names the slot is valid, and the order of the rest does not matter.
    fn forget(&mut self, slot: SlotRef) -> Result<(), ApplyError> {
        if ![0, slot.generation].contains(&self.generation(slot)?) {
            return Ok(());
        }
        self.slots.set(slot.slot, Plain(Slot::default()), 0).map_err(failed("take a slot back"))?;
        let old = |entry: SlotRef| entry == slot;
        for key in keys(&self.namespaces, |value| old(value.0)) {
            self.namespaces.remove(&key).map_err(failed("remove a namespace"))?;
        }
        for key in keys(&self.addresses, |value| old(value.0)) {
            self.addresses.remove(&key).map_err(failed("remove an address"))?;
        }
        for key in keys(&self.former, |value| old(value.0)) {
            self.former.remove(&key).map_err(failed("remove a former address"))?;
        }
        for key in
            keys(&self.ports, |value| old(SlotRef { slot: value.0.slot, generation: value.0.generation }))
        {
            self.ports.remove(&key).map_err(failed("remove a port"))?;
        }
        for key in keys(&self.services, |value| old(value.0)) {
            self.services.remove(&key).map_err(failed("remove a service"))?;
        }
        let is_of_it = |closed: Closed| old(SlotRef { slot: closed.slot, generation: closed.generation });
        for tuple in keys(&self.closed, |value| is_of_it(value.0)) {
            // The kernel removes entries too; what is gone is gone.
            let _gone = self.closed.remove(&tuple);
        }
        Ok(())
    }

    /// The generation that has the slot now; 0 if none has.
    fn generation(&self, slot: SlotRef) -> Result<u32, ApplyError> {
        self.slots.get(&slot.slot, 0).map(|state| state.0.generation).map_err(failed("read a slot"))
    }

    fn remove_address(&mut self, address: IpAddr, slot: SlotRef) -> Result<(), ApplyError> {
        let key = octets(address);
        if self.addresses.get(&key, 0).is_ok_and(|owner| owner.0 == slot) {
            self.addresses.remove(&key).map_err(failed("remove an address"))?;
        }
        Ok(())
    }

    fn add_port(
        &mut self,
        slot: SlotRef,
        host_network: bool,
        port: u16,
        flags: u32,
    ) -> Result<(), ApplyError> {
        let scope = if host_network { HOST_SCOPE } else { slot.slot };
        let key = Plain(PortKey { scope, port, reserved: 0 });
        let fresh = Port {
            slot: slot.slot,
            generation: slot.generation,
            container: NONE,
            flags: 0,
            listeners: 0,
            half_open: 0,
            probing: 0,
            probed: 0,
        };
        // First: the programs look for no port whose number is not there.
        self.numbers.set(wire::number(port), 1, 0).map_err(failed("add a port's number"))?;
        // The programs may make it at the same moment.
        let made = self.ports.insert(key, Plain(Port { flags, ..fresh }), NO_EXIST);
        let known = match (made, self.ports.get(&key, 0)) {
            (Ok(()), _) => return Ok(()),
            (Err(_), Ok(Plain(known))) => known,
            (Err(error), Err(_)) => return Err(failed("add a port")(error)),
        };
        let owner = SlotRef { slot: known.slot, generation: known.generation };
        // A hostNetwork pod has the port until the next one listens there, not until that is declared.
        if owner != slot && self.is_taken(owner) {
            return Ok(());
        }
        let mut value = if owner == slot { known } else { fresh };
        let now = value.flags & !PORT_PROTOCOL | flags;
        if now == value.flags {
            return Ok(());
        }
        // The programs change a port in place, and no map operation changes a part of a value: what they do between the reading above and this
        // writing is lost. That is some microseconds, once for each use that is new to a port that is there already. A listener that comes just
        // then is one too few in the moments of closing; a probe that connects just then passes for a client; a bit that is learnt from requests
        // is learnt from the next. Counters of requests and losses are elsewhere.
        value.flags = now;
        self.ports.insert(key, Plain(value), 0).map_err(failed("add a port"))
    }

    fn add_service(&mut self, address: IpAddr, port: u16, slot: SlotRef) -> Result<(), ApplyError> {
        let key = service_key(address, port);
        if self.services.get(&key, 0).is_ok_and(|owner| owner.0 != slot && self.is_taken(owner.0)) {
            return Ok(());
        }
        self.services.insert(key, Plain(slot), 0).map_err(failed("add a service"))
    }

    fn is_taken(&self, slot: SlotRef) -> bool {
        slot.generation != 0
            && self.slots.get(&slot.slot, 0).is_ok_and(|state| state.0.generation == slot.generation)
    }

    pub(super) fn reading(&self, slot: SlotRef) -> Result<Counters, ReadError> {
        self.counters.get(&slot.slot, 0).map(|plain| plain.0.sum()).map_err(|source| ReadError {
            what: "counters of slot",
            index: slot.slot,
            source,
        })
    }

    /// The state of a container, as the kernel programs keep it.
    pub(super) fn container(&self, index: u32) -> Result<Container, ReadError> {
        let state = self.containers.get(&index, 0).map(|plain| plain.0);
        state.map_err(|source| ReadError { what: "state of container", index, source })
    }

    /// Values by index of `wire::anomaly::NAMES`; an unreadable one counts as 0.
    pub(super) fn anomalies(&self) -> Vec<u64> {
        (0..anomaly::COUNT).map(|index| self.anomalies.get(&index, 0).unwrap_or(0)).collect()
    }

    /// Forgets tuples that are older than a TIME_WAIT.
    pub(super) fn sweep(&mut self, now_ns: u64) {
        let old: Vec<Plain<Tuple>> = self
            .closed
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, closed)| now_ns.saturating_sub(closed.0.at_ns) > CLOSED_NS)
            .map(|(tuple, _)| tuple)
            .collect();
        for tuple in old {
            // The kernel removes entries too; what is gone is gone.
            let _gone = self.closed.remove(&tuple);
        }
    }

    /// How full the tables are that can fill up by themselves.
    pub(super) fn usage(&self) -> Vec<MapUsage> {
        let count = |keys: usize| keys as u64;
        vec![
            MapUsage {
                name: "cgroups",
                entries: count(self.cgroups.keys().count()),
                capacity: u64::from(wire::CONTAINERS),
            },
            MapUsage {
                name: "namespaces",
                entries: count(self.namespaces.keys().count()),
                capacity: u64::from(wire::ADDRESSES),
            },
            MapUsage {
                name: "addresses",
                entries: count(self.addresses.keys().count()),
                capacity: u64::from(wire::ADDRESSES),
            },
            MapUsage {
                name: "ports",
                entries: count(self.ports.keys().count()),
                capacity: u64::from(wire::PORTS),
            },
            MapUsage {
                name: "services",
                entries: count(self.services.keys().count()),
                capacity: u64::from(wire::SERVICES),
            },
            MapUsage {
                name: "closed",
                entries: count(self.closed.keys().count()),
                capacity: u64::from(wire::CLOSED),
            },
        ]
    }
}

fn keys<K: aya::Pod, V: aya::Pod>(map: &HashMap<MapData, K, V>, wanted: impl Fn(&V) -> bool) -> Vec<K> {
    map.iter().filter_map(Result::ok).filter(|(_, value)| wanted(value)).map(|(key, _)| key).collect()
}

fn failed(what: &'static str) -> impl Fn(MapError) -> ApplyError {
    move |source| ApplyError { what, source }
}

fn service_key(address: IpAddr, port: u16) -> Plain<ServiceKey> {
    let octets = octets(address);
    let half = |at: usize| u64::from_ne_bytes(std::array::from_fn(|place| octets[at + place]));
    Plain(ServiceKey { address: [half(0), half(8)], port: u32::from(port), reserved: 0 })
}

/// An address as the kernel programs have it: IPv4 mapped.
fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}
