//! The request for one entry of connection tracking, and what of the answer matters here. Bytes in, values out; no socket.
//!
//! The layout is of linux/netfilter/nfnetlink_conntrack.h: attributes within attributes, headers in the host's byte order,
//! numbers in attributes as on the wire.

use crate::host::rules::message::{
    Family, GENERAL, HEADER, Malformed, NLM_F_REQUEST, NLMSG_ERROR, attribute, number16, number32,
};
use crate::host::rules::socket::SocketError;
use nix::errno::Errno;
use probe_core::conntrack::{Entry, EntryState};
use probe_core::event::Address;
use probe_core::limits::SECOND;
use probe_core::time::Mono;
use std::net::IpAddr;

/// Upper half of ctnetlink's message types.
const SUBSYSTEM: u16 = 1 << 8;
const NEW: u16 = SUBSYSTEM;
const GET: u16 = SUBSYSTEM | 1;

/// Attributes of an entry.
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const PROTOCOL: u16 = 4;
const TIMEOUT: u16 = 7;
/// Of a tuple: its addresses and its protocol's part.
const ADDRESSES: u16 = 1;
const PORTS: u16 = 2;
/// Of the addresses, by family; the destination's number is the next.
const SOURCE_V4: u16 = 1;
const SOURCE_V6: u16 = 3;
/// Of the protocol's part.
const NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
/// Of the protocol's state: TCP's, and in it the state.
const TCP: u16 = 1;
const TCP_STATE: u16 = 1;
/// An attribute of attributes.
const NESTED: u16 = 0x8000;

const IPPROTO_TCP: u8 = 6;
/// IPS_SEEN_REPLY of linux/netfilter/nf_conntrack_common.h.
const SEEN_REPLY: u32 = 1 << 1;
/// Of enum tcp_conntrack in linux/netfilter/nf_conntrack_tcp.h.
const SYN_SENT: u8 = 1;
const SYN_RECV: u8 = 2;
const ESTABLISHED: u8 = 3;
const CLOSE: u8 = 8;

/// The kernel counts in ticks, at least a hundred a second.
const TICK_NS: u64 = SECOND / 100;

/// One direction of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tuple {
    /// Where its packets come from.
    pub(super) source: Address,
    /// Where they go.
    pub(super) destination: Address,
}

/// An entry as the answer has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    original: Address,
    replied: bool,
    state: EntryState,
    left_seconds: u32,
}

impl Answer {
    /// As the core takes it; it was asked for and came at these moments.
    pub(super) fn entry(&self, asked: Mono, came: Mono) -> Entry {
        let Self { original, replied, state, left_seconds } = *self;
        let left = u64::from(left_seconds) * SECOND;
        let (expires, expired) =
            (Mono(asked.0.saturating_sub(TICK_NS)).after(left), came.after(left).after(SECOND + TICK_NS));
        Entry { original, replied, state, expires, expired }
    }
}

/// The request for the entry whose answers have these addresses and ports.
pub(super) fn request(reply: &Tuple) -> Vec<u8> {
    let Tuple { source, destination } = reply;
    let first = if source.ip.is_ipv4() { SOURCE_V4 } else { SOURCE_V6 };
    let addresses = [part(first, &octets(source.ip)), part(first + 1, &octets(destination.ip))].concat();
    let ports = [
        part(NUMBER, &[IPPROTO_TCP]),
        part(SOURCE_PORT, &source.port.to_be_bytes()),
        part(DESTINATION_PORT, &destination.port.to_be_bytes()),
    ]
    .concat();
    let tuple = [part(ADDRESSES | NESTED, &addresses), part(PORTS | NESTED, &ports)].concat();
    let mut message = vec![0; HEADER];
    message.extend([Family::of(source.ip).number(), 0, 0, 0]);
    message.extend(part(TUPLE_REPLY | NESTED, &tuple));
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    message[..4].copy_from_slice(&length.to_ne_bytes());
    message[4..6].copy_from_slice(&GET.to_ne_bytes());
    message[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    message
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// One attribute, padded.
fn part(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + u16::try_from(value.len()).unwrap_or(u16::MAX);
    let mut part = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    part.extend(value);
    part.resize(part.len().next_multiple_of(4), 0);
    part
}

/// What the datagram says; `None` if there is no such entry.
pub(super) fn answer(datagram: &[u8]) -> Result<Option<Answer>, SocketError> {
    let length = usize::try_from(number32(datagram, 0)?).unwrap_or(usize::MAX);
    let body = datagram.get(HEADER..length).ok_or(Malformed)?;
    match number16(datagram, 4)? {
        NLMSG_ERROR => match number32(body, 0)?.cast_signed().saturating_neg() {
            number if number == Errno::ENOENT as i32 => Ok(None),
            number => Err(Errno::from_raw(number).into()),
        },
        NEW => Ok(Some(entry(body)?)),
        _ => Err(SocketError::Unread),
    }
}

fn entry(body: &[u8]) -> Result<Answer, Malformed> {
    let attributes = body.get(GENERAL..).ok_or(Malformed)?;
    let of = |kind| attribute(attributes, kind)?.ok_or(Malformed);
    let state = attribute(attribute(of(PROTOCOL)?, TCP)?.ok_or(Malformed)?, TCP_STATE)?.ok_or(Malformed)?;
    Ok(Answer {
        original: destination(of(TUPLE_ORIGINAL)?)?,
        replied: on_the_wire(of(STATUS)?)? & SEEN_REPLY != 0,
        state: match state.first() {
            Some(&SYN_SENT) => EntryState::SynSent,
            Some(&(SYN_RECV | ESTABLISHED)) => EntryState::Open,
            Some(&CLOSE) => EntryState::Close,
            _ => EntryState::Other,
        },
        left_seconds: on_the_wire(of(TIMEOUT)?)?,
    })
}

fn destination(tuple: &[u8]) -> Result<Address, Malformed> {
    let addresses = attribute(tuple, ADDRESSES)?.ok_or(Malformed)?;
    let ip = match (attribute(addresses, SOURCE_V4 + 1)?, attribute(addresses, SOURCE_V6 + 1)?) {
        (Some(v4), _) => IpAddr::from(*v4.first_chunk::<4>().ok_or(Malformed)?),
        (None, Some(v6)) => IpAddr::from(*v6.first_chunk::<16>().ok_or(Malformed)?),
        (None, None) => return Err(Malformed),
    };
    let ports = attribute(tuple, PORTS)?.ok_or(Malformed)?;
    let port = attribute(ports, DESTINATION_PORT)?.and_then(|port| port.first_chunk()).ok_or(Malformed)?;
    Ok(Address { ip, port: u16::from_be_bytes(*port) })
}

fn on_the_wire(bytes: &[u8]) -> Result<u32, Malformed> {
    bytes.first_chunk().map(|number| u32::from_be_bytes(*number)).ok_or(Malformed)
}

#[cfg(all(test, target_endian = "little"))]
mod tests;
