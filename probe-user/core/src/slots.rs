//! The kernel side's tables as the core hands them out: slots for pods, indexes for containers. What was freed goes to
//! the end of the queue, so that late records of an old owner meet a free entry or another generation.

use crate::time::Mono;
use probe_ebpf::wire::SlotRef;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// A driver that reads many times a second does so once more before it is told that the slot is gone.
const LEFTOVER_NS: u64 = 1_000_000_000;

/// Index of a pod in the core's own table.
pub(crate) type PodIx = usize;

#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize)]
#[serde(default)]
struct Entry {
    #[serde(skip_serializing_if = "is_default")]
    generation: u32,
    /// Follows from the pod: not saved.
    #[serde(skip)]
    pod: Option<PodIx>,
    #[serde(skip_serializing_if = "is_default")]
    released: Mono,
}

/// Most slots were never given away: nothing of them is saved.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The table of slots.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Slots {
    entries: Vec<Entry>,
    free: VecDeque<u32>,
}

impl Slots {
    pub(crate) fn new(count: u32) -> Self {
        let entries = (0..count).map(|_| Entry::default()).collect();
        Self { entries, free: (0..count).collect() }
    }

    /// Gives a free slot, with a new generation, to a pod.
    pub(crate) fn take(&mut self, pod: PodIx) -> Option<SlotRef> {
        let slot = self.free.pop_front()?;
        let entry = self.entry_mut(slot)?;
        // 0 means free in the kernel's table.
        entry.generation = entry.generation.checked_add(1).unwrap_or(1);
        entry.pod = Some(pod);
        Some(SlotRef { slot, generation: entry.generation })
    }

    /// Takes a slot back.
    pub(crate) fn release(&mut self, slot: SlotRef, at: Mono) {
        if self.pod_of(slot).is_some()
            && let Some(entry) = self.entry_mut(slot.slot)
        {
            entry.pod = None;
            entry.released = at;
            self.free.push_back(slot.slot);
        }
    }

    /// The pod that has the slot in this generation.
    pub(crate) fn pod_of(&self, slot: SlotRef) -> Option<PodIx> {
        let entry = self.entries.get(usize::try_from(slot.slot).ok()?)?;
        if entry.generation == slot.generation { entry.pod } else { None }
    }

    /// True for a reading that was on its way when the slot was taken back.
    pub(crate) fn is_leftover(&self, slot: SlotRef, at: Mono) -> bool {
        let entry = usize::try_from(slot.slot).ok().and_then(|slot| self.entries.get(slot));
        entry.is_some_and(|entry| {
            entry.generation == slot.generation
                && entry.pod.is_none()
                && at.since(entry.released) <= LEFTOVER_NS
        })
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.entries.len()
    }

    /// After a restore: the pod has the slot. False if it cannot be so.
    pub(crate) fn own(&mut self, slot: SlotRef, pod: PodIx) -> bool {
        let entry = self.entry_mut(slot.slot).filter(|entry| {
            entry.pod.is_none() && entry.generation == slot.generation && entry.generation != 0
        });
        entry.is_some_and(|entry| entry.pod.replace(pod).is_none())
    }

    /// After a restore: each slot is either owned or free.
    pub(crate) fn is_consistent(&self) -> bool {
        let owned = (0..).zip(&self.entries).filter(|(_, entry)| entry.pod.is_some()).map(|(slot, _)| slot);
        is_permutation(self.entries.len(), owned.chain(self.free.iter().copied()))
    }

    /// Slots in use, by number.
    pub(crate) fn used(&self) -> impl Iterator<Item = (SlotRef, PodIx)> + '_ {
        (0..).zip(&self.entries).filter_map(|(slot, entry)| {
            entry.pod.map(|pod| (SlotRef { slot, generation: entry.generation }, pod))
        })
    }

    /// How many are in use.
    pub(crate) fn used_count(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    fn entry_mut(&mut self, slot: u32) -> Option<&mut Entry> {
        self.entries.get_mut(usize::try_from(slot).ok()?)
    }
}

/// The indexes of containers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Indexes {
    count: u32,
    free: VecDeque<u32>,
}

/// Every number below `count` comes once, and no other.
pub(crate) fn is_permutation(count: usize, numbers: impl Iterator<Item = u32>) -> bool {
    let mut seen = vec![false; count];
    let mut left = count;
    for number in numbers {
        let place = usize::try_from(number).ok().and_then(|number| seen.get_mut(number));
        match place {
            Some(seen) if !*seen => *seen = true,
            _ => return false,
        }
        left -= 1;
    }
    left == 0
}

impl Indexes {
    pub(crate) fn new(count: u32) -> Self {
        Self { count, free: (0..count).collect() }
    }

    pub(crate) fn take(&mut self) -> Option<u32> {
        self.free.pop_front()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// After a restore: with these in use, each is either in use or free.
    pub(crate) fn is_consistent(&self, used: impl Iterator<Item = u32>) -> bool {
        let count = usize::try_from(self.count).unwrap_or(usize::MAX);
        self.free.len() <= count && is_permutation(count, used.chain(self.free.iter().copied()))
    }

    pub(crate) fn release(&mut self, index: u32) {
        self.free.push_back(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_reused_last_and_with_another_generation() {
        let mut slots = Slots::new(2);
        let first = slots.take(7).unwrap();
        assert_eq!(slots.pod_of(first), Some(7));
        slots.release(first, Mono(5));
        assert!(slots.is_leftover(first, Mono(6)));
        assert!(!slots.is_leftover(first, Mono(6 + LEFTOVER_NS)));
        assert_eq!(slots.pod_of(first), None);
        let second = slots.take(8).unwrap();
        assert_ne!(second.slot, first.slot);
        let third = slots.take(9).unwrap();
        assert_eq!((third.slot, third.generation), (first.slot, first.generation + 1));
        assert_eq!(slots.pod_of(first), None);
        assert_eq!(slots.take(10), None);
        assert_eq!(slots.used_count(), 2);
    }

    #[test]
    fn releasing_twice_frees_once() {
        let mut slots = Slots::new(1);
        let slot = slots.take(1).unwrap();
        slots.release(slot, Mono(0));
        slots.release(slot, Mono(0));
        assert!(slots.take(2).is_some());
        assert_eq!(slots.take(3), None);
    }
}
