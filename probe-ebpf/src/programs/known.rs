//! What a look at the tables said the last time: that the connections to a port of a namespace need no storage, or that a
//! namespace is nobody's. It holds until something changes that it rests on, and saves most connections every other
//! look-up.
//!
//! Whoever changes that (a namespace's slot, a port, a container, a slot) raises the epoch after the change. An entry is of
//! the epoch that was read before the look. Its form is in the library.

use super::{account, maps};
use probe_ebpf::known::{NOBODYS, Place};
use probe_ebpf::wire::{TURNS_KERNEL, TURNS_USER};

/// How things stand.
#[derive(Clone, Copy)]
pub(super) struct Now {
    /// Every pod of the node is running: there is one phase for all.
    pub(super) is_settled: bool,
    /// To be read before the look at the tables whose result is to be kept.
    pub(super) epoch: u64,
}

/// How things stand.
#[inline(always)]
pub(super) fn now() -> Now {
    match (maps::TURNS.get(TURNS_KERNEL), maps::TURNS.get(TURNS_USER)) {
        (Some(kernel), Some(user)) => {
            Now { is_settled: kernel.stops == user.stops, epoch: user.changes.wrapping_add(kernel.changes) }
        }
        _ => Now { is_settled: false, epoch: 0 },
    }
}

/// A container is about to stop.
#[inline(always)]
pub(super) fn unsettle() {
    if let Some(turns) = maps::TURNS.get_ptr_mut(TURNS_KERNEL) {
        // SAFETY: a live map value.
        account::add(unsafe { &raw mut (*turns).stops });
    }
}

/// Nothing that is known holds any more. To be called after the change.
#[inline(always)]
pub(super) fn forget() {
    if let Some(turns) = maps::TURNS.get_ptr_mut(TURNS_KERNEL) {
        // SAFETY: a live map value.
        account::add(unsafe { &raw mut (*turns).changes });
    }
}

/// Slot of a port whose connections need no storage; `NONE` if that is not known.
#[inline(always)]
pub(super) fn bare_port(epoch: u64, cookie: u64, port: u16) -> u32 {
    // Of nothing, 0 - 1.
    found(epoch, cookie, port).wrapping_sub(1)
}

/// The connections to this port of this slot need no storage.
#[inline(always)]
pub(super) fn learn_bare_port(epoch: u64, cookie: u64, port: u16, slot: u32) {
    learn(epoch, cookie, port, slot + 1);
}

/// The namespace is known to be nobody's.
#[inline(always)]
pub(super) fn is_nobodys(epoch: u64, cookie: u64) -> bool {
    // No connection has the port 0.
    found(epoch, cookie, 0) == NOBODYS
}

/// The namespace is nobody's.
#[inline(always)]
pub(super) fn learn_nobodys(epoch: u64, cookie: u64) {
    learn(epoch, cookie, 0, NOBODYS);
}

#[inline(always)]
fn found(epoch: u64, cookie: u64, port: u16) -> u32 {
    let Some(place) = Place::of(epoch, cookie, port) else { return 0 };
    let Some(known) = maps::KNOWN.get_ptr(place.index) else { return 0 };
    // SAFETY: a live map value; each word is read once.
    place.found(unsafe {
        [(&raw const (*known).name).read_volatile(), (&raw const (*known).found).read_volatile()]
    })
}

#[inline(always)]
fn learn(epoch: u64, cookie: u64, port: u16, found: u32) {
    let Some(place) = Place::of(epoch, cookie, port) else { return };
    let Some(known) = maps::KNOWN.get_ptr_mut(place.index) else { return };
    let [name, found] = place.words(found);
    // SAFETY: a live map value; each word is written at once.
    unsafe {
        (&raw mut (*known).name).write_volatile(name);
        (&raw mut (*known).found).write_volatile(found);
    }
}
