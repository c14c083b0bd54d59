//! The state that hangs on a socket while it lives.

use super::{account, load, maps};
use aya_ebpf::helpers::generated;
use core::ptr;
use probe_ebpf::class::{Class, Confidence};
use probe_ebpf::decide::Verdict;
use probe_ebpf::fields::Field;
use probe_ebpf::protocol::Protocol;
use probe_ebpf::wire::{PORT_ANSWERED, Port, SlotRef, Tuple, anomaly};

/// One inbound connection of a watched pod, or a probe's client socket. All zero when made.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Connection {
    /// The pod's slot.
    pub(super) slot: SlotRef,
    /// Index of the container that listens, or `NONE`.
    pub(super) container: u32,
    /// `IS_*`.
    pub(super) flags: u32,
    /// `write_seq` at the last application read.
    pub(super) wseq_read: u32,
    /// Requests begun.
    pub(super) request: u32,
    /// `copied_seq` after the last application read; kept if `HAS_CHATTER`.
    pub(super) read_to: u32,
    /// The same after the last read before the current request.
    pub(super) request_from: u32,
    /// Phase at the start of the connection.
    pub(super) opened_phase: u8,
    /// Phase at the start of the current request.
    pub(super) request_phase: u8,
    /// Verdict at the close, see `verdict`.
    pub(super) verdict: u8,
    /// Number of the protocol that its port spoke at the start.
    pub(super) protocol: u8,
    /// Ports, host order.
    pub(super) peer_port: u16,
    /// See `peer_port`.
    pub(super) local_port: u16,
    /// Addresses, IPv4 mapped.
    pub(super) peer: [u64; 2],
    /// See `peer`.
    pub(super) local: [u64; 2],
}

/// The application read at least once.
pub(super) const HAS_READ: u32 = 1;
/// The client's FIN came.
pub(super) const HAS_FIN: u32 = 2;
/// Known only since a read: it is older than the agent.
pub(super) const IS_ADOPTED: u32 = 4;
/// A probe's, server side: nothing of it counts.
pub(super) const IS_PROBE: u32 = 8;
/// The probe's own socket, client side.
pub(super) const IS_PROBE_CLIENT: u32 = 16;
/// The last attempt has its class.
pub(super) const IS_COUNTED: u32 = 32;
/// It left ESTABLISHED or CLOSE_WAIT: `verdict` holds.
pub(super) const IS_CLOSED: u32 = 64;
/// Its protocol says things that are no requests: what was read last is measured.
pub(super) const HAS_CHATTER: u32 = 128;
/// Its port had not answered anybody when it began, and nothing says that it will.
pub(super) const MAY_BE_ONE_WAY: u32 = 256;

const SERVED: u8 = 1;
const IDLE: u8 = 2;
const PENDING: u8 = 3;
const LOST: u8 = 4;

impl Connection {
    /// Empty, for a connection that the programs meet at its close.
    pub(super) const EMPTY: Self = Self {
        slot: SlotRef { slot: 0, generation: 0 },
        container: 0,
        flags: 0,
        wseq_read: 0,
        request: 0,
        read_to: 0,
        request_from: 0,
        opened_phase: 0,
        request_phase: 0,
        verdict: 0,
        protocol: 0,
        peer_port: 0,
        local_port: 0,
        peer: [0; 2],
        local: [0; 2],
    };

    /// The key under which it is remembered after its end.
    #[inline(always)]
    pub(super) fn tuple(&self) -> Tuple {
        Tuple {
            peer_port: self.peer_port,
            local_port: self.local_port,
            peer: account::bytes(self.peer),
            local: account::bytes(self.local),
        }
    }

    /// Keeps the verdict.
    #[inline(always)]
    pub(super) fn set_verdict(&mut self, verdict: Verdict) {
        self.verdict = match verdict {
            Verdict::Served => SERVED,
            Verdict::Idle => IDLE,
            Verdict::Pending => PENDING,
            Verdict::Lost(..) => LOST,
        };
    }

    /// What its port speaks.
    #[inline(always)]
    pub(super) fn protocol(&self) -> Protocol {
        Protocol::from_number(u32::from(self.protocol))
    }

    /// Takes over whose it is, and what its port speaks.
    #[inline(always)]
    pub(super) fn belongs_to(&mut self, port: &Port) {
        self.slot = SlotRef { slot: port.slot, generation: port.generation };
        self.container = port.container;
        let protocol = port.protocol();
        self.protocol = protocol as u8;
        if !protocol.is_http1() {
            self.flags |= HAS_CHATTER;
        }
        if protocol.may_be_one_way() && port.flags & PORT_ANSWERED == 0 {
            self.flags |= MAY_BE_ONE_WAY;
        }
    }

    /// The verdict at the close; a lost one without its class, which is counted already.
    #[inline(always)]
    pub(super) fn verdict(&self) -> Verdict {
        match self.verdict {
            IDLE => Verdict::Idle,
            PENDING => Verdict::Pending,
            LOST => Verdict::Lost(Class::Unanswered, Confidence::Observed),
            _ => Verdict::Served,
        }
    }
}

/// The state of a socket, null if it has none.
#[inline(always)]
pub(super) fn of(sk: *const u8) -> *mut Connection {
    if has_none(sk) { ptr::null_mut() } else { stored(sk) }
}

/// The same, of a socket of which something is stored, by whomever (see [`has_none`]).
#[inline(always)]
pub(super) fn stored(sk: *const u8) -> *mut Connection {
    get(sk, 0)
}

/// Nothing is stored of the socket, by whomever: what the helper looks at first.
#[inline(always)]
pub(super) fn has_none(sk: *const u8) -> bool {
    load::direct::<u64>(sk, Field::SocketStorage) == 0
}

/// Stores the state of a socket; false (and counted) if there is no memory.
#[inline(always)]
pub(super) fn store(sk: *const u8, connection: &Connection) -> bool {
    let stored = get(sk, 1);
    if stored.is_null() {
        account::anomaly(anomaly::NO_STORAGE);
        return false;
    }
    // SAFETY: non-null storage of this socket.
    unsafe { *stored = *connection };
    true
}

#[inline(always)]
fn get(sk: *const u8, flags: u64) -> *mut Connection {
    // SAFETY: the map is a socket storage map and the socket a verifier-known pointer; the helper makes zeroed values.
    unsafe {
        generated::bpf_sk_storage_get(
            (&raw const maps::CONNECTIONS).cast_mut().cast(),
            sk.cast_mut().cast(),
            ptr::null_mut(),
            flags,
        )
        .cast()
    }
}

/// Writes both ends of the connection, seen from the pod (the socket is the pod's).
#[inline(always)]
pub(super) fn fill_ends(connection: &mut Connection, sk: *const u8, tp: *const u8) {
    connection.local = load::local_address(sk);
    connection.peer = load::peer_address(sk);
    connection.local_port = u16::from_be(load::direct(tp, Field::SourcePort));
    connection.peer_port = u16::from_be(load::direct(sk, Field::PeerPort));
}
