//! Which slot a namespace, address, task or port belongs to, and the phase that this puts a connection in.
//!
//! Order of trust: the namespace that a task or socket of a container's cgroup was seen in, then the address. An entry of an
//! older generation is no entry.

use super::load::{self, probe};
use super::{account, known, maps};
use probe_ebpf::class::Phase;
use probe_ebpf::fields::{ABSENT, Field};
use probe_ebpf::wire::{
    self, HOST_SCOPE, Home, NONE, OWN_PIDS, PORT_FOREIGN, PORT_SEEN, PORT_SERVICE, Port, PortKey,
    SLOT_ADDRESSED, SLOT_DELETING, SLOT_SERVED, SlotRef, anomaly,
};

/// BPF_NOEXIST.
pub(super) const NO_EXIST: u64 = 1;
/// BPF_ANY.
const ANY: u64 = 0;
/// Levels of cgroups below a container's that are looked through (crun, systemd, nested runtimes).
const CGROUP_LEVELS: u32 = 5;
/// Ancestors of a task that are looked through for its container's init.
const ANCESTORS: u32 = 8;

/// The reference, if its generation is the slot's.
#[inline(always)]
pub(super) fn valid(slot: SlotRef) -> Option<SlotRef> {
    let state = maps::SLOTS.get(slot.slot)?;
    if state.generation == slot.generation && slot.generation != 0 { Some(slot) } else { None }
}

/// Slot of a namespace that was met before.
#[inline(always)]
fn slot_of_namespace(cookie: u64) -> Option<SlotRef> {
    // SAFETY: the map is preallocated; a value read while user space removes it has an old generation at worst.
    unsafe { maps::NAMESPACES.get(cookie) }.copied().and_then(valid)
}

/// Slot of a pod's socket. A namespace that is new is learned from the cgroup that the socket was made in; where
/// sockets have no such mark (cgroup v1), from its address.
#[inline(always)]
pub(super) fn slot_of_socket(cookie: u64, sk: *const u8) -> Option<SlotRef> {
    slot_of_namespace(cookie).or_else(|| learn_from_socket(cookie, sk))
}

#[inline(always)]
fn learn_from_socket(cookie: u64, sk: *const u8) -> Option<SlotRef> {
    let slot = if load::v1_subsystem() == ABSENT {
        slot_of_container(container_of_socket(sk)?)?
    } else {
        slot_of_address(load::local_address(sk))?
    };
    learn_namespace(cookie, slot);
    Some(slot)
}

/// The same, for events that come many times in a connection's life: a namespace that was nobody's a moment ago is not
/// looked into again, until user space adds a container or an address. Inbound connections do not ask here, so that
/// one of them is enough to mend a namespace in which a foreign task was seen first.
#[inline(always)]
pub(super) fn slot_of_frequent(cookie: u64, sk: *const u8) -> Option<SlotRef> {
    let epoch = known::now().epoch;
    if known::is_nobodys(epoch, cookie) {
        return None;
    }
    let slot = slot_of_socket(cookie, sk);
    if slot.is_none() {
        known::learn_nobodys(epoch, cookie);
    }
    slot
}

/// Slot of an address.
#[inline(always)]
pub(super) fn slot_of_address(address: [u64; 2]) -> Option<SlotRef> {
    // SAFETY: as above.
    unsafe { maps::ADDRESSES.get(address) }.copied().and_then(valid)
}

/// Remembers that a namespace is a slot's. Never for the node's own.
#[inline(always)]
pub(super) fn learn_namespace(cookie: u64, slot: SlotRef) {
    if cookie == 0 || cookie == load::host_net() {
        return;
    }
    if maps::NAMESPACES.insert(cookie, slot, ANY).is_err() {
        account::anomaly(anomaly::NAMESPACES_FULL);
        return;
    }
    if let Some(home) = maps::HOMES.get_ptr_mut(slot.slot) {
        // SAFETY: a live map value; of two writers either is right.
        unsafe { *home = Home { cookie, generation: slot.generation, reserved: 0 } };
    }
    known::forget();
}

/// Remembers the namespace of a container's task. Where a pod only ever connects, no socket of its own may have told that.
#[inline(always)]
pub(super) fn learn_namespace_of_task(task: *const u8, slot: SlotRef) {
    let cookie = probe::<*const u8>(task, Field::NamespacesOfTask)
        .and_then(|namespaces| probe::<*const u8>(namespaces, Field::NetOfNamespaces))
        .and_then(|net| probe(net, Field::NetCookie))
        .unwrap_or(0);
    learn_namespace(cookie, slot);
}

/// The namespace that a slot's pod was seen in last; 0 if none.
#[inline(always)]
pub(super) fn namespace_of_slot(slot: SlotRef) -> u64 {
    maps::HOMES.get(slot.slot).filter(|home| home.generation == slot.generation).map_or(0, |home| home.cookie)
}

/// The port of a slot, if anybody declared it or was seen there. In the node's namespace the port names the slot.
#[inline(always)]
pub(super) fn port(scope: u32, number: u16) -> Option<*mut Port> {
    let port = maps::PORTS.get_ptr_mut(PortKey { scope, port: number, reserved: 0 })?;
    // SAFETY: a live map value.
    let slot = unsafe { SlotRef { slot: (*port).slot, generation: (*port).generation } };
    if valid(slot).is_none() {
        account::anomaly(anomaly::STALE_ENTRY);
        return None;
    }
    // SAFETY: as above.
    if unsafe { (*port).flags } & PORT_FOREIGN != 0 {
        return None;
    }
    Some(port)
}

/// The port that a connection of a slot came to: the slot's own, or the node's that is the slot's.
#[inline(always)]
pub(super) fn port_of_connection(slot: SlotRef, number: u16) -> Option<*mut Port> {
    let port = maps::PORTS
        .get_ptr_mut(PortKey { scope: slot.slot, port: number, reserved: 0 })
        .or_else(|| maps::PORTS.get_ptr_mut(PortKey { scope: HOST_SCOPE, port: number, reserved: 0 }))?;
    // SAFETY: a live map value.
    let is_its_own = unsafe { (*port).slot == slot.slot && (*port).generation == slot.generation };
    if is_its_own { Some(port) } else { None }
}

/// The port, if what comes there is a client's.
#[inline(always)]
pub(super) fn client_port(scope: u32, number: u16) -> Option<*mut Port> {
    port(scope, number).filter(|port| is_for_clients(*port))
}

/// Where services name some of a pod's ports, scrapes and the like come to the others: no client loses anything there.
#[inline(always)]
pub(super) fn is_for_clients(port: *mut Port) -> bool {
    // SAFETY: a live map value.
    let (slot, flags) = unsafe { ((*port).slot, (*port).flags) };
    flags & PORT_SERVICE != 0 || maps::SLOTS.get(slot).is_none_or(|state| state.flags & SLOT_SERVED == 0)
}

/// A process of the node that is no pod's listens on a port: what comes to it is no pod's, whoever had it before.
#[inline(always)]
pub(super) fn take_host_port(number: u16) {
    if let Some(port) = maps::PORTS.get_ptr_mut(PortKey { scope: HOST_SCOPE, port: number, reserved: 0 }) {
        // SAFETY: a live map value.
        unsafe { (*port).flags |= PORT_FOREIGN };
    }
}

/// The port that a connection in the node's namespace came to, if it is a pod's. Where sockets tell their cgroup, that
/// decides: the port may have been another's when its listener came, or when the agent did. It goes to the socket's pod
/// if `make` says so.
#[inline(always)]
pub(super) fn host_port_of_socket(sk: *const u8, number: u16, make: bool) -> Option<*mut Port> {
    if load::v1_subsystem() != ABSENT {
        return port(HOST_SCOPE, number);
    }
    // Most ports of the node are no pod's.
    let known = maps::PORTS.get_ptr_mut(PortKey { scope: HOST_SCOPE, port: number, reserved: 0 })?;
    let slot = slot_of_container(container_of_socket(sk)?)?;
    if make {
        return port_or_new(HOST_SCOPE, slot, number);
    }
    // SAFETY: a live map value.
    let has_it = unsafe { (*known).slot == slot.slot && (*known).generation == slot.generation };
    if has_it { Some(known) } else { None }
}

/// No pod ever had a port of this number, so that a connection with this local port is no inbound one of a pod. Most clients' ports are
/// such; of some others it is not known.
#[inline(always)]
pub(super) fn is_no_port(number: u16) -> bool {
    maps::NUMBERS.get(wire::number(number)).is_some_and(|had| *had == 0)
}

/// The same, made if there is none.
#[inline(always)]
pub(super) fn port_or_new(scope: u32, slot: SlotRef, number: u16) -> Option<*mut Port> {
    let key = PortKey { scope, port: number, reserved: 0 };
    let fresh = Port {
        slot: slot.slot,
        generation: slot.generation,
        container: NONE,
        flags: PORT_SEEN,
        listeners: 0,
        half_open: 0,
        probing: 0,
        probed: 0,
    };
    if maps::PORTS.get_ptr_mut(key).is_none() {
        if let Some(had) = maps::NUMBERS.get_ptr_mut(wire::number(number)) {
            // SAFETY: a live map value; everybody writes the same.
            unsafe { *had = 1 };
        }
        if maps::PORTS.insert(key, fresh, NO_EXIST).is_err() {
            account::anomaly(anomaly::PORTS_FULL);
        }
    }
    let port = maps::PORTS.get_ptr_mut(key)?;
    // SAFETY: a live map value; one that another pod left behind is made anew.
    unsafe {
        if (*port).slot != slot.slot || (*port).generation != slot.generation {
            *port = fresh;
        }
        (*port).flags = ((*port).flags | PORT_SEEN) & !PORT_FOREIGN;
    }
    Some(port)
}

/// Scope of a socket's ports, and its slot where that is known without a port.
#[inline(always)]
pub(super) fn scope_of_socket(cookie: u64, sk: *const u8) -> Option<(u32, Option<SlotRef>)> {
    if cookie == load::host_net() {
        return Some((HOST_SCOPE, None));
    }
    let slot = slot_of_socket(cookie, sk)?;
    Some((slot.slot, Some(slot)))
}

/// The same for a packet that met no full socket. A namespace that no socket was met in yet is known by address only
/// where sockets do not tell their cgroup: another node's pods on this kernel may have the same addresses.
#[inline(always)]
pub(super) fn scope_of_packet(cookie: u64, local: [u64; 2]) -> Option<u32> {
    if cookie == load::host_net() {
        return Some(HOST_SCOPE);
    }
    if let Some(slot) = slot_of_namespace(cookie) {
        return Some(slot.slot);
    }
    if load::v1_subsystem() == ABSENT {
        return None;
    }
    slot_of_address(local).map(|slot| slot.slot)
}

/// The API has told where the slot's pod is. The scope may be the node's own.
#[inline(always)]
pub(super) fn is_addressed(scope: u32) -> bool {
    scope == HOST_SCOPE || maps::SLOTS.get(scope).is_some_and(|state| state.flags & SLOT_ADDRESSED != 0)
}

/// The namespace is the node's own or one of its pods'.
#[inline(always)]
pub(super) fn is_of_this_node(cookie: u64) -> bool {
    cookie == load::host_net() || slot_of_namespace(cookie).is_some()
}

/// Phase of a connection to a container (or to a slot, where the container is not known).
#[inline(always)]
pub(super) fn phase(slot: SlotRef, container: u32) -> Phase {
    let stopped = if container == NONE {
        maps::COUNTERS.get(slot.slot).is_some_and(|tally| tally.counters.stop_ns != 0)
    } else {
        maps::CONTAINERS.get(container).is_some_and(|state| {
            state.slot == slot.slot && state.generation == slot.generation && state.stop_ns != 0
        })
    };
    if stopped {
        return Phase::Stopping;
    }
    match maps::SLOTS.get(slot.slot) {
        Some(state) if state.flags & SLOT_DELETING != 0 => Phase::Deleting,
        _ => Phase::Running,
    }
}

/// The container has exited (or, where it is not known, some container of the slot has stopped).
#[inline(always)]
pub(super) fn exited(slot: SlotRef, container: u32) -> bool {
    if container == NONE {
        return maps::COUNTERS.get(slot.slot).is_some_and(|tally| tally.counters.stop_ns != 0);
    }
    maps::CONTAINERS.get(container).is_some_and(|state| state.exit_ns != 0)
}

/// The cgroup of a task in the hierarchy that names containers; null if it cannot be read.
#[inline(always)]
fn cgroup_of_task(task: *const u8) -> *const u8 {
    let Some(set) = probe::<*const u8>(task, Field::Cgroups) else { return core::ptr::null() };
    let subsystem = load::v1_subsystem();
    if subsystem == ABSENT {
        return probe(set, Field::DefaultCgroup).unwrap_or(core::ptr::null());
    }
    let states = load::member(set, Field::Subsystems);
    let Some(state) = load::probe_at::<*const u8>(states.wrapping_add(subsystem as usize * 8)) else {
        return core::ptr::null();
    };
    probe(state, Field::CssCgroup).unwrap_or(core::ptr::null())
}

/// Index of the container that a cgroup belongs to, itself or by an ancestor.
#[inline(always)]
fn container_of_cgroup(mut cgroup: *const u8) -> Option<u32> {
    for _ in 0..CGROUP_LEVELS {
        if cgroup.is_null() {
            return None;
        }
        let node: *const u8 = probe(cgroup, Field::CgroupKn)?;
        let id: u64 = probe(node, Field::KnId)?;
        // SAFETY: the map is preallocated; user space writes its values once.
        if let Some(container) = unsafe { maps::CGROUPS.get(id) } {
            return Some(*container);
        }
        // A cgroup's own state has the parent's own state as parent, and that one knows its cgroup.
        let own = load::member(cgroup, Field::CgroupSelf);
        let parent: *const u8 = probe(own, Field::CssParent)?;
        if parent.is_null() {
            return None;
        }
        cgroup = probe(parent, Field::CssCgroup)?;
    }
    None
}

/// Id of a task's own cgroup in the hierarchy that names containers.
#[inline(always)]
pub(super) fn cgroup_of(task: *const u8) -> Option<u64> {
    let cgroup = cgroup_of_task(task);
    if cgroup.is_null() {
        return None;
    }
    probe(probe::<*const u8>(cgroup, Field::CgroupKn)?, Field::KnId)
}

/// Index of the container that a task belongs to.
#[inline(always)]
pub(super) fn container_of_task(task: *const u8) -> Option<u32> {
    container_of_cgroup(cgroup_of_task(task))
}

/// Index of the container that a socket was made in (cgroup v2 only: v1 has no such mark on sockets).
#[inline(always)]
pub(super) fn container_of_socket(sk: *const u8) -> Option<u32> {
    if load::v1_subsystem() != ABSENT {
        return None;
    }
    container_of_cgroup(probe(sk, Field::SocketCgroup)?)
}

/// A container's slot.
#[inline(always)]
pub(super) fn slot_of_container(container: u32) -> Option<SlotRef> {
    let state = maps::CONTAINERS.get(container)?;
    valid(SlotRef { slot: state.slot, generation: state.generation })
}

/// The task is the process whose exit is the container's: the first of the container's own pid namespace (a container may
/// make more of them inside), or the one that was learned.
#[inline(always)]
pub(super) fn is_init(task: *const u8, container: u32) -> bool {
    if is_first_of_pids(task) {
        return !is_child_of(task, container);
    }
    let learned = maps::CONTAINERS.get(container).map_or(0, |state| state.init);
    learned != 0 && learned != OWN_PIDS && probe(task, Field::Tgid) == Some(learned)
}

/// It is known which process the container is; if not, [`learn_init`] is to be asked at the next read.
#[inline(always)]
pub(super) fn has_init(container: u32) -> bool {
    maps::CONTAINERS.get(container).is_some_and(|state| state.init != 0)
}

/// Remembers which process the container is, where its pid namespace does not tell because it is the pod's or the node's:
/// the oldest ancestor of a task of the container that is in the container too.
#[inline(always)]
pub(super) fn learn_init(task: *const u8, container: u32) {
    let Some(state) = account::container(container) else { return };
    // SAFETY: a live map value.
    if unsafe { (*state).init } != 0 || container_of_task(task) != Some(container) {
        return;
    }
    let mut oldest = task;
    for _ in 0..ANCESTORS {
        if !is_child_of(oldest, container) {
            break;
        }
        let Some(parent) = probe::<*const u8>(oldest, Field::RealParent) else { return };
        oldest = parent;
    }
    let is_own = own_upid(oldest)
        .and_then(|upid| probe::<*const u8>(upid, Field::UpidNamespace))
        .and_then(|namespace| probe::<*const u8>(namespace, Field::ChildReaper))
        .and_then(container_of_task)
        == Some(container);
    let init = if is_own { OWN_PIDS } else { probe(oldest, Field::Tgid).unwrap_or(0) };
    // SAFETY: a live map value; of two writers either is right.
    unsafe { (*state).init = init };
}

/// The task's parent is in the container too.
#[inline(always)]
fn is_child_of(task: *const u8, container: u32) -> bool {
    probe::<*const u8>(task, Field::RealParent).and_then(container_of_task) == Some(container)
}

/// The task's parent is in a container of this slot. Mostly it is in the task's own cgroup.
#[inline(always)]
pub(super) fn has_parent_in(task: *const u8, slot: SlotRef) -> bool {
    let Some(parent) = probe::<*const u8>(task, Field::RealParent) else { return true };
    let cgroup = cgroup_of_task(parent);
    cgroup == cgroup_of_task(task)
        || container_of_cgroup(cgroup).and_then(slot_of_container).is_some_and(|of| of.slot == slot.slot)
}

/// The task is the first of a pid namespace below the node's.
#[inline(always)]
fn is_first_of_pids(task: *const u8) -> bool {
    own_upid(task).and_then(|upid| probe::<u32>(upid, Field::UpidNumber)) == Some(1)
}

/// The task's number in its own pid namespace.
#[inline(always)]
fn own_upid(task: *const u8) -> Option<*const u8> {
    let pid = probe::<*const u8>(task, Field::ThreadPid)?;
    let level: u32 = probe(pid, Field::PidLevel)?;
    if level > 32 {
        return None;
    }
    Some(load::member(pid, Field::PidNumbers).wrapping_add(level as usize * load::upid_size() as usize))
}

const _: () = assert!(wire::SLOTS < NONE);
