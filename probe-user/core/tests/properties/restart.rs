//! Properties of saving and restoring: a restored monitor goes on as the saved one does, and no bytes make it panic.

use super::generate::{events, limits};
use super::transcript;
use probe_core::command::Command;
use probe_core::event::{Event, Fact};
use probe_core::limits::SECOND;
use probe_core::monitor::{KernelTables, Monitor};
use probe_core::saved::RestoreError;
use probe_core::termination::Filter;
use probe_core::time::Mono;
use probe_ebpf::protocol::Protocol;
use probe_ebpf::wire::SlotRef;
use proptest::prelude::*;
use proptest::sample::Index;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

/// Magic, format and checksum.
const HEADER: usize = 16;

fn restored(bytes: &[u8]) -> Monitor {
    Monitor::restore(bytes, limits(), "n1".to_owned()).unwrap()
}

/// All that can be asked of it.
fn answers(monitor: &Monitor) -> String {
    let filter = Filter::default();
    let mut out = String::new();
    write!(out, "{:?}{:?}{:?}", monitor.poll_timeout(), monitor.snapshot(), monitor.slots()).unwrap();
    write!(out, "{:?}{:?}{:?}", monitor.events(), monitor.advice(&filter), monitor.known()).unwrap();
    out.push_str(&serde_json::to_string(&monitor.terminations(&filter)).unwrap());
    out.push_str(&serde_json::to_string(&monitor.restarts(&filter)).unwrap());
    out
}

/// Lets it go on with whatever may come, and looks at everything.
fn exercise(mut monitor: Monitor, events: Vec<Event>) {
    let mut out = String::new();
    monitor.adopt(&KernelTables::default());
    for event in events {
        monitor.handle(event);
    }
    monitor.begin_kernel_anew();
    monitor.handle_timeout(Mono(2000 * SECOND));
    transcript(&mut monitor, &mut out);
    out.push_str(&answers(&monitor));
    assert!(!monitor.save().is_empty());
}

fn with_checksum(mut bytes: Vec<u8>) -> Vec<u8> {
    let checksum = crc32fast::hash(&bytes[HEADER..]);
    bytes[12..HEADER].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Port {
    owner: SlotRef,
    probe: bool,
    service: bool,
    protocol: Protocol,
}

/// The kernel's tables, as the agent's kernel module changes them.
#[derive(Debug, Default, PartialEq)]
struct Kernel {
    /// Generation; is being deleted, has services that name ports.
    slots: BTreeMap<u32, (u32, [bool; 2])>,
    containers: BTreeMap<u64, u32>,
    addresses: BTreeMap<IpAddr, SlotRef>,
    /// By scope and number.
    ports: BTreeMap<(Option<u32>, u16), Port>,
    /// Services without endpoints, by address and port.
    services: BTreeMap<(IpAddr, u16), SlotRef>,
    /// Counters or a container's phase were wiped while in use.
    wiped: bool,
}

impl Kernel {
    fn apply(&mut self, command: &Command) {
        match *command {
            Command::WatchSlot { slot } => {
                let old = self.slots.insert(slot.slot, (slot.generation, [false; 2]));
                self.wiped |= old.is_some_and(|(generation, _)| generation == slot.generation);
            }
            Command::MarkDeleting { slot } => self.flag(slot, 0, true),
            Command::SetServed { slot, served } => self.flag(slot, 1, served),
            Command::ForgetSlot { slot } => {
                self.slots.remove(&slot.slot);
                self.addresses.retain(|_, owner| *owner != slot);
                self.ports.retain(|_, port| port.owner != slot);
                self.services.retain(|_, owner| *owner != slot);
            }
            Command::AddAddress { address, slot } => drop(self.addresses.insert(address, slot)),
            Command::RemoveAddress { address, slot } => {
                if self.addresses.get(&address) == Some(&slot) {
                    self.addresses.remove(&address);
                }
            }
            Command::AddPort { slot, host_network, port, probe, service, protocol } => {
                let key = (if host_network { None } else { Some(slot.slot) }, port);
                let known = self.ports.get(&key).copied();
                match known {
                    Some(old) if old.owner == slot => {
                        let (probe, service) = (probe || old.probe, service || old.service);
                        self.ports.insert(key, Port { owner: slot, probe, service, protocol });
                    }
                    Some(old) if self.is_there(old.owner) => {}
                    _ => drop(self.ports.insert(key, Port { owner: slot, probe, service, protocol })),
                }
            }
            Command::AddService { address, port, slot } => {
                let key = (address, port);
                if !self.services.get(&key).is_some_and(|owner| *owner != slot && self.is_there(*owner)) {
                    self.services.insert(key, slot);
                }
            }
            Command::RemoveService { address, port, slot } => {
                if self.services.get(&(address, port)) == Some(&slot) {
                    self.services.remove(&(address, port));
                }
            }
            Command::AddContainer { container, cgroup, .. } => {
                self.wiped |= self.containers.insert(cgroup, container) == Some(container);
            }
            Command::ForgetContainer { container, cgroup } => {
                if self.containers.get(&cgroup) == Some(&container) {
                    self.containers.remove(&cgroup);
                }
            }
        }
    }

    fn is_there(&self, slot: SlotRef) -> bool {
        self.slots.get(&slot.slot).is_some_and(|(generation, _)| *generation == slot.generation)
    }

    fn flag(&mut self, slot: SlotRef, flag: usize, on: bool) {
        if let Some((generation, flags)) = self.slots.get_mut(&slot.slot)
            && *generation == slot.generation
        {
            flags[flag] = on;
        }
    }

    fn tables(&self) -> KernelTables {
        let slot = |(slot, (generation, _)): (&u32, &(u32, [bool; 2]))| SlotRef {
            slot: *slot,
            generation: *generation,
        };
        KernelTables { slots: self.slots.iter().map(slot).collect(), containers: self.containers.clone() }
    }
}

/// A cgroup is never two pods' or two containers': its id says whose it is.
#[expect(clippy::wildcard_enum_match_arm, reason = "only these name cgroups")]
fn with_own_cgroup(mut event: Event) -> Event {
    let digit = |name: &str| name.bytes().last().map_or(0, |byte| u64::from(byte % 8));
    match &mut event.fact {
        Fact::Cgroup { id, pod_uid, container_id } => *id = digit(pod_uid) * 8 + digit(container_id),
        Fact::CgroupGone { id } => *id *= 5,
        _ => {}
    }
    event
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Killed wherever `cut` says so, with and without its outputs polled before.
    #[test]
    fn a_restored_monitor_goes_on_as_the_undisturbed_one(
        steps in events(80).prop_flat_map(|events| {
            let count = events.len();
            let marks = prop::collection::vec((prop::bool::weighted(0.2), any::<bool>(), any::<bool>()), count);
            (Just(events), marks)
        }).prop_map(|(events, marks)| events.into_iter().zip(marks).collect::<Vec<_>>())
    ) {
        let mut undisturbed = Monitor::new(limits(), "n1".to_owned());
        let mut killed = Monitor::new(limits(), "n1".to_owned());
        let step = |undisturbed: &mut Monitor, killed: &mut Monitor, polled: bool, scraped: bool| {
            prop_assert_eq!(answers(killed), answers(undisturbed));
            prop_assert_eq!(killed.save(), undisturbed.save());
            if polled {
                let (mut expected, mut out) = (String::new(), String::new());
                transcript(undisturbed, &mut expected);
                transcript(killed, &mut out);
                prop_assert_eq!(out, expected);
            }
            if scraped {
                let at = undisturbed.snapshot().at;
                undisturbed.scraped(at);
                killed.scraped(at);
            }
            Ok(())
        };
        let mut end = Mono(0);
        for (event, (cut, polled, scraped)) in steps {
            end = event.at.after(500 * SECOND);
            undisturbed.handle(event.clone());
            killed.handle(event);
            if cut {
                killed = restored(&killed.save());
            }
            step(&mut undisturbed, &mut killed, polled, scraped)?;
        }
        undisturbed.handle_timeout(end);
        killed.handle_timeout(end);
        step(&mut undisturbed, &mut killed, true, true)?;
    }

    /// Saved before the commands are applied, killed after any number of them.
    #[test]
    fn a_kernel_side_that_is_ahead_ends_as_it_would_have(
        steps in events(80).prop_flat_map(|events| {
            let count = events.len();
            (Just(events), prop::collection::vec(prop::option::weighted(0.4, 0usize..12), count))
        }).prop_map(|(events, kills)| events.into_iter().zip(kills).collect::<Vec<_>>())
    ) {
        let mut undisturbed = (Monitor::new(limits(), "n1".to_owned()), Kernel::default());
        let mut killed = (Monitor::new(limits(), "n1".to_owned()), Kernel::default());
        for (event, kill) in steps {
            let event = with_own_cgroup(event);
            undisturbed.0.handle(event.clone());
            killed.0.handle(event);
            if let Some(applied) = kill {
                let saved = killed.0.save();
                for _ in 0..applied {
                    killed.0.poll_command().iter().for_each(|command| killed.1.apply(command));
                }
                killed.0 = restored(&saved);
                killed.0.adopt(&killed.1.tables());
            }
            for (monitor, kernel) in [&mut undisturbed, &mut killed] {
                while let Some(command) = monitor.poll_command() {
                    kernel.apply(&command);
                }
            }
            prop_assert_eq!(&killed.1, &undisturbed.1);
            prop_assert!(!killed.1.wiped);
            prop_assert_eq!(answers(&killed.0), answers(&undisturbed.0));
        }
    }

    #[test]
    fn arbitrary_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Monitor::restore(&bytes, limits(), "n1".to_owned()).is_err());
        let mut framed = Monitor::new(limits(), "n1".to_owned()).save();
        framed.truncate(HEADER);
        framed.extend(bytes);
        prop_assert!(Monitor::restore(&with_checksum(framed), limits(), "n1".to_owned()).is_err());
    }

    #[test]
    fn a_damaged_state_is_refused(events in events(40), place in any::<Index>(), bit in 0u8..8, cut in any::<Index>()) {
        let mut monitor = Monitor::new(limits(), "n1".to_owned());
        events.into_iter().for_each(|event| monitor.handle(event));
        let good = monitor.save();
        let mut flipped = good.clone();
        flipped[place.index(good.len())] ^= 1 << bit;
        prop_assert!(Monitor::restore(&flipped, limits(), "n1".to_owned()).is_err());
        prop_assert!(Monitor::restore(&good[..cut.index(good.len())], limits(), "n1".to_owned()).is_err());
        let mut longer = good;
        longer.push(0);
        prop_assert!(matches!(
            Monitor::restore(&longer, limits(), "n1".to_owned()),
            Err(RestoreError::Checksum)
        ));
    }

    /// Damage that the checksum does not show, as of a faulty version: refused, or taken without a panic then or later.
    #[test]
    fn a_wrong_state_never_makes_it_panic(
        events in events(60),
        later in events(40),
        damage in prop::collection::vec((any::<Index>(), prop_oneof![0u8..8, any::<u8>()]), 1..4),
    ) {
        let mut monitor = Monitor::new(limits(), "n1".to_owned());
        events.into_iter().for_each(|event| monitor.handle(event));
        let mut bytes = monitor.save();
        for (place, byte) in damage {
            let place = HEADER + place.index(bytes.len() - HEADER);
            bytes[place] = byte;
        }
        if let Ok(monitor) = Monitor::restore(&with_checksum(bytes), limits(), "n1".to_owned()) {
            exercise(monitor, later);
        }
    }
}
