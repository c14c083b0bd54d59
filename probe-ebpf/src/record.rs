//! Turns the bytes of a ring record into a value. Never trusts a length or a number.

use crate::class::{Class, Confidence, Phase};
use crate::wire::{CgroupChange, ExecEnd, Exit, Kind, Listener, Loss, PATH_BYTES, ProbeEnd, Signal, SlotRef};
use core::mem::offset_of;

/// A ring record, parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// Evidence of a lost attempt.
    Loss {
        /// When it was written.
        at_ns: u64,
        /// When the attempt was lost.
        attempt_ns: u64,
        /// Slot and generation.
        slot: SlotRef,
        /// Container index or [`crate::wire::NONE`].
        container: u32,
        /// Client address.
        peer: [u8; 16],
        /// Client port.
        peer_port: u16,
        /// Pod address.
        local: [u8; 16],
        /// Pod port.
        local_port: u16,
        /// Number of the request on its connection, from 1.
        request: u32,
        /// Bytes never read.
        unread: u32,
        /// Bytes not acknowledged.
        unacked: u32,
        /// Class.
        class: Class,
        /// Confidence.
        confidence: Confidence,
        /// Phase.
        phase: Phase,
        /// `LOSS_*`.
        flags: u8,
        /// How many attempts it stands for.
        attempts: u32,
    },
    /// A signal.
    Signal {
        /// When.
        at_ns: u64,
        /// Slot and generation.
        slot: SlotRef,
        /// Container index.
        container: u32,
        /// Signal number.
        signal: u32,
        /// Ignored by the target.
        ignored: bool,
        /// Open inbound connections.
        open: u64,
    },
    /// An init's exit.
    Exit {
        /// When.
        at_ns: u64,
        /// Slot and generation.
        slot: SlotRef,
        /// Container index.
        container: u32,
        /// As wait(2).
        status: u32,
        /// Open inbound connections.
        open: u64,
    },
    /// A listener came or went.
    Listener {
        /// When.
        at_ns: u64,
        /// Slot and generation.
        slot: SlotRef,
        /// Container index or [`crate::wire::NONE`].
        container: u32,
        /// Port.
        port: u16,
        /// Came (else went).
        open: bool,
        /// Listeners left.
        listeners: u32,
    },
    /// A connection of a probe ended.
    Probe(ProbeEnd),
    /// A command from outside ended.
    Exec(ExecEnd),
    /// A cgroup was made or removed.
    Cgroup {
        /// When.
        at_ns: u64,
        /// Made (else removed).
        made: bool,
        /// Its id.
        id: u64,
        /// Path below the root of its hierarchy.
        path: &'a [u8],
    },
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Shorter than its kind needs.
    Short,
    /// No such kind.
    Kind(u32),
    /// A class, confidence or phase that does not exist.
    Value,
    /// A path without an end.
    Path,
}

/// Turns the bytes of one ring record into a [`Record`]. Longer input is allowed (a newer kernel side may append).
pub fn parse(bytes: &[u8]) -> Result<Record<'_>, Malformed> {
    let kind = u32_at(bytes, 0)?;
    if kind == Kind::Loss as u32 {
        return parse_loss(bytes);
    }
    if kind == Kind::Signal as u32 {
        return Ok(Record::Signal {
            at_ns: u64_at(bytes, offset_of!(Signal, at_ns))?,
            slot: slot_at(bytes, offset_of!(Signal, slot))?,
            container: u32_at(bytes, offset_of!(Signal, container))?,
            signal: u32_at(bytes, offset_of!(Signal, signal))?,
            ignored: u32_at(bytes, offset_of!(Signal, ignored))? != 0,
            open: u64_at(bytes, offset_of!(Signal, open))?,
        });
    }
    if kind == Kind::Exit as u32 {
        return Ok(Record::Exit {
            at_ns: u64_at(bytes, offset_of!(Exit, at_ns))?,
            slot: slot_at(bytes, offset_of!(Exit, slot))?,
            container: u32_at(bytes, offset_of!(Exit, container))?,
            status: u32_at(bytes, offset_of!(Exit, status))?,
            open: u64_at(bytes, offset_of!(Exit, open))?,
        });
    }
    if kind == Kind::Listener as u32 {
        return Ok(Record::Listener {
            at_ns: u64_at(bytes, offset_of!(Listener, at_ns))?,
            slot: slot_at(bytes, offset_of!(Listener, slot))?,
            container: u32_at(bytes, offset_of!(Listener, container))?,
            port: u16_at(bytes, offset_of!(Listener, port))?,
            open: u16_at(bytes, offset_of!(Listener, open))? != 0,
            listeners: u32_at(bytes, offset_of!(Listener, listeners))?,
        });
    }
    if kind == Kind::Probe as u32 {
        return parse_probe(bytes).map(Record::Probe);
    }
    if kind == Kind::Exec as u32 {
        return parse_exec(bytes).map(Record::Exec);
    }
    if kind == Kind::Cgroup as u32 {
        let path: &[u8; PATH_BYTES] = array_at(bytes, offset_of!(CgroupChange, path))?;
        let end = path.iter().position(|&byte| byte == 0).ok_or(Malformed::Path)?;
        return Ok(Record::Cgroup {
            at_ns: u64_at(bytes, offset_of!(CgroupChange, at_ns))?,
            made: u32_at(bytes, offset_of!(CgroupChange, made))? != 0,
            id: u64_at(bytes, offset_of!(CgroupChange, id))?,
            path: path.split_at(end).0,
        });
    }
    Err(Malformed::Kind(kind))
}

fn parse_loss(bytes: &[u8]) -> Result<Record<'_>, Malformed> {
    let byte = |offset: usize| array_at::<1>(bytes, offset).map(|b| b[0]);
    Ok(Record::Loss {
        at_ns: u64_at(bytes, offset_of!(Loss, at_ns))?,
        attempt_ns: u64_at(bytes, offset_of!(Loss, attempt_ns))?,
        slot: SlotRef {
            slot: u32_at(bytes, offset_of!(Loss, slot))?,
            generation: u32_at(bytes, offset_of!(Loss, generation))?,
        },
        container: u32_at(bytes, offset_of!(Loss, container))?,
        peer: *array_at(bytes, offset_of!(Loss, peer))?,
        peer_port: u16_at(bytes, offset_of!(Loss, peer_port))?,
        local: *array_at(bytes, offset_of!(Loss, local))?,
        local_port: u16_at(bytes, offset_of!(Loss, local_port))?,
        request: u32_at(bytes, offset_of!(Loss, request))?,
        unread: u32_at(bytes, offset_of!(Loss, unread))?,
        unacked: u32_at(bytes, offset_of!(Loss, unacked))?,
        class: Class::from_u8(byte(offset_of!(Loss, class))?).ok_or(Malformed::Value)?,
        confidence: Confidence::from_u8(byte(offset_of!(Loss, confidence))?).ok_or(Malformed::Value)?,
        phase: Phase::from_u8(byte(offset_of!(Loss, phase))?).ok_or(Malformed::Value)?,
        flags: byte(offset_of!(Loss, flags))?,
        attempts: u32_at(bytes, offset_of!(Loss, attempts))?,
    })
}

fn parse_probe(bytes: &[u8]) -> Result<ProbeEnd, Malformed> {
    Ok(ProbeEnd {
        kind: Kind::Probe as u32,
        container: u32_at(bytes, offset_of!(ProbeEnd, container))?,
        at_ns: u64_at(bytes, offset_of!(ProbeEnd, at_ns))?,
        slot: u32_at(bytes, offset_of!(ProbeEnd, slot))?,
        generation: u32_at(bytes, offset_of!(ProbeEnd, generation))?,
        begun_ns: u64_at(bytes, offset_of!(ProbeEnd, begun_ns))?,
        connected_ns: u64_at(bytes, offset_of!(ProbeEnd, connected_ns))?,
        established_ns: u64_at(bytes, offset_of!(ProbeEnd, established_ns))?,
        picked_up_ns: u64_at(bytes, offset_of!(ProbeEnd, picked_up_ns))?,
        answered_ns: u64_at(bytes, offset_of!(ProbeEnd, answered_ns))?,
        last_read_ns: u64_at(bytes, offset_of!(ProbeEnd, last_read_ns))?,
        begun_jiffies: u32_at(bytes, offset_of!(ProbeEnd, begun_jiffies))?,
        received_jiffies: u32_at(bytes, offset_of!(ProbeEnd, received_jiffies))?,
        closed_jiffies: u32_at(bytes, offset_of!(ProbeEnd, closed_jiffies))?,
        dropped: u32_at(bytes, offset_of!(ProbeEnd, dropped))?,
        opener: u32_at(bytes, offset_of!(ProbeEnd, opener))?,
        port: u16_at(bytes, offset_of!(ProbeEnd, port))?,
        flags: u16_at(bytes, offset_of!(ProbeEnd, flags))?,
    })
}

fn parse_exec(bytes: &[u8]) -> Result<ExecEnd, Malformed> {
    Ok(ExecEnd {
        kind: Kind::Exec as u32,
        container: u32_at(bytes, offset_of!(ExecEnd, container))?,
        at_ns: u64_at(bytes, offset_of!(ExecEnd, at_ns))?,
        slot: u32_at(bytes, offset_of!(ExecEnd, slot))?,
        generation: u32_at(bytes, offset_of!(ExecEnd, generation))?,
        started_ns: u64_at(bytes, offset_of!(ExecEnd, started_ns))?,
        cpu_ns: u64_at(bytes, offset_of!(ExecEnd, cpu_ns))?,
        status: u32_at(bytes, offset_of!(ExecEnd, status))?,
        pid: u32_at(bytes, offset_of!(ExecEnd, pid))?,
        flags: u32_at(bytes, offset_of!(ExecEnd, flags))?,
        reserved: 0,
        comm: *array_at(bytes, offset_of!(ExecEnd, comm))?,
    })
}

fn slot_at(bytes: &[u8], offset: usize) -> Result<SlotRef, Malformed> {
    Ok(SlotRef { slot: u32_at(bytes, offset)?, generation: u32_at(bytes, offset + 4)? })
}

fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> Result<&[u8; N], Malformed> {
    bytes.get(offset..).and_then(|rest| rest.first_chunk::<N>()).ok_or(Malformed::Short)
}

fn u16_at(bytes: &[u8], offset: usize) -> Result<u16, Malformed> {
    array_at(bytes, offset).map(|b| u16::from_ne_bytes(*b))
}

fn u32_at(bytes: &[u8], offset: usize) -> Result<u32, Malformed> {
    array_at(bytes, offset).map(|b| u32::from_ne_bytes(*b))
}

fn u64_at(bytes: &[u8], offset: usize) -> Result<u64, Malformed> {
    array_at(bytes, offset).map(|b| u64::from_ne_bytes(*b))
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
        bytes[at..at + value.len()].copy_from_slice(value);
    }

    fn loss() -> Vec<u8> {
        let mut bytes = std::vec![0; size_of::<Loss>()];
        put(&mut bytes, offset_of!(Loss, kind), &(Kind::Loss as u32).to_ne_bytes());
        put(&mut bytes, offset_of!(Loss, slot), &3u32.to_ne_bytes());
        put(&mut bytes, offset_of!(Loss, generation), &9u32.to_ne_bytes());
        put(&mut bytes, offset_of!(Loss, at_ns), &77u64.to_ne_bytes());
        put(&mut bytes, offset_of!(Loss, peer_port), &4242u16.to_ne_bytes());
        put(&mut bytes, offset_of!(Loss, request), &2u32.to_ne_bytes());
        put(&mut bytes, offset_of!(Loss, class), &[Class::StaleReuse as u8]);
        put(&mut bytes, offset_of!(Loss, phase), &[Phase::Stopping as u8]);
        bytes
    }

    #[test]
    fn a_loss_comes_back_as_it_was_written() {
        let Ok(Record::Loss { at_ns, slot, peer_port, request, class, phase, .. }) = parse(&loss()) else {
            panic!("not a loss");
        };
        assert_eq!((at_ns, slot.slot, slot.generation), (77, 3, 9));
        assert_eq!((peer_port, request), (4242, 2));
        assert_eq!((class, phase), (Class::StaleReuse, Phase::Stopping));
    }

    #[test]
    fn every_cut_of_every_kind_is_short_and_nothing_else() {
        let sizes = [
            (Kind::Loss, size_of::<Loss>()),
            (Kind::Signal, size_of::<Signal>()),
            (Kind::Exit, size_of::<Exit>()),
            (Kind::Listener, size_of::<Listener>()),
            (Kind::Cgroup, size_of::<CgroupChange>()),
            (Kind::Probe, size_of::<ProbeEnd>()),
            (Kind::Exec, size_of::<ExecEnd>()),
        ];
        for (kind, size) in sizes {
            let mut bytes = std::vec![0u8; size];
            put(&mut bytes, 0, &(kind as u32).to_ne_bytes());
            assert!(parse(&bytes).is_ok(), "{kind:?}");
            for length in 0..size {
                // What lies behind the last field that is read may be cut.
                match parse(&bytes[..length]) {
                    Err(Malformed::Short) | Ok(_) => {}
                    other => panic!("{kind:?} cut to {length}: {other:?}"),
                }
            }
            assert_eq!(parse(&bytes[..12]), Err(Malformed::Short), "{kind:?}");
        }
    }

    #[test]
    fn numbers_that_do_not_exist_are_refused() {
        let mut bad_class = loss();
        put(&mut bad_class, offset_of!(Loss, class), &[10]);
        assert_eq!(parse(&bad_class), Err(Malformed::Value));
        let mut bad_phase = loss();
        put(&mut bad_phase, offset_of!(Loss, phase), &[3]);
        assert_eq!(parse(&bad_phase), Err(Malformed::Value));
        assert_eq!(parse(&99u32.to_ne_bytes()), Err(Malformed::Kind(99)));
        let mut endless = std::vec![b'a'; size_of::<CgroupChange>()];
        put(&mut endless, 0, &(Kind::Cgroup as u32).to_ne_bytes());
        assert_eq!(parse(&endless), Err(Malformed::Path));
    }
}
