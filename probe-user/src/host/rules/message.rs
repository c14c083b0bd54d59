//! What of an nf_tables message matters here: the elements of kube-proxy's set `hairpin-connections`, which has one for
//! each endpoint on this node that connections are sent to, and of the anonymous maps from which its rules choose among
//! the endpoints of a Service's port. Bytes in, values out; no socket, no memory of what was before.
//!
//! The layout is of linux/netfilter/nf_tables.h and linux/netlink.h: attributes within attributes, headers in the host's
//! byte order, addresses and ports as on the wire.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use thiserror::Error;

/// Table of kube-proxy, one for each family.
const TABLE: &[u8] = b"kube-proxy\0";
/// Its set of (address, address, protocol, port); kube-proxy before 1.36 left out the last two.
const SET: &[u8] = b"hairpin-connections\0";

/// What the names of anonymous maps begin with.
const MAP: &[u8] = b"__map";

/// Bytes of a message's header (struct nlmsghdr), and of what each of nf_tables begins with (struct nfgenmsg).
pub(crate) const HEADER: usize = 16;
pub(crate) const GENERAL: usize = 4;

pub(crate) const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
pub(crate) const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
/// The rules changed while they were read.
const NLM_F_DUMP_INTR: u16 = 0x10;

/// Upper half of nf_tables' message types.
const SUBSYSTEM: u16 = 10 << 8;
const DELTABLE: u16 = SUBSYSTEM | 2;
const NEWSET: u16 = SUBSYSTEM | 9;
const GETSET: u16 = SUBSYSTEM | 10;
const DELSET: u16 = SUBSYSTEM | 11;
const NEWSETELEM: u16 = SUBSYSTEM | 12;
const GETSETELEM: u16 = SUBSYSTEM | 13;
const DELSETELEM: u16 = SUBSYSTEM | 14;
const NEWGEN: u16 = SUBSYSTEM | 15;

/// Attributes: of a set and of a list of elements the first is the table and the second the set's name; of a table the
/// first is its name; of an element the first is its key and the second its value, and of those the first the bytes.
const FIRST: u16 = 1;
const SECOND: u16 = 2;
const ELEMENTS: u16 = 3;
/// The rest of an attribute's type are flags.
const ATTRIBUTE_TYPE: u16 = 0x3fff;

const IPPROTO_TCP: u8 = 6;

/// Of which addresses a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    /// `ip`.
    V4,
    /// `ip6`.
    V6,
}

impl Family {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Its AF number.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    /// Whose addresses these are.
    pub(crate) const fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// An endpoint on this node: its address, and its port where the set tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Element {
    pub(crate) address: IpAddr,
    pub(crate) port: Option<u16>,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// The set was made.
    SetMade(Family),
    /// The set, or its whole table, was removed.
    SetRemoved(Family),
    /// Elements came.
    Came(Vec<Element>),
    /// Elements went.
    Went(Vec<Element>),
    /// A map was made.
    MapMade(Family, String),
    /// A map was removed.
    MapRemoved(Family, String),
    /// Elements came into a map.
    Mapped(Family, String, Vec<Element>),
    /// All messages before it are one transaction, and it is in force.
    Committed,
    /// An answer ends here; not with all that there is, if the rules changed meanwhile.
    Done { interrupted: bool },
    /// An answer is an error: its number.
    Refused(i32),
    /// Anything else.
    Other,
}

/// Bytes that are no message.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("not a netlink message")]
pub(crate) struct Malformed;

/// The request for all elements of kube-proxy's set.
pub(crate) fn request(family: Family) -> Vec<u8> {
    dump(GETSETELEM, family, &[TABLE, SET])
}

/// The request for the names of all sets and maps of the table.
pub(crate) fn request_names(family: Family) -> Vec<u8> {
    dump(GETSET, family, &[TABLE])
}

/// The request for all elements of a map.
pub(crate) fn request_map(family: Family, name: &str) -> Vec<u8> {
    dump(GETSETELEM, family, &[TABLE, &[name.as_bytes(), &[0]].concat()])
}

/// A request with these names as its first attributes.
fn dump(kind: u16, family: Family, names: &[&[u8]]) -> Vec<u8> {
    let mut message = vec![0; HEADER];
    message.extend([family.number(), 0, 0, 0]);
    for (kind, name) in [FIRST, SECOND].into_iter().zip(names) {
        let length = 4 + u16::try_from(name.len()).unwrap_or(u16::MAX);
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(*name);
        message.resize(message.len().next_multiple_of(4), 0);
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    message[..4].copy_from_slice(&length.to_ne_bytes());
    message[4..6].copy_from_slice(&kind.to_ne_bytes());
    message[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    message
}

/// The messages of a datagram.
pub(crate) fn messages(datagram: &[u8]) -> Result<Vec<Message>, Malformed> {
    let mut messages = Vec::new();
    let mut rest = datagram;
    while !rest.is_empty() {
        let length = usize::try_from(number32(rest, 0)?).unwrap_or(usize::MAX);
        if length < HEADER {
            return Err(Malformed);
        }
        let one = rest.get(..length).ok_or(Malformed)?;
        messages.push(message(one)?);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(messages)
}

fn message(bytes: &[u8]) -> Result<Message, Malformed> {
    let (kind, flags) = (number16(bytes, 4)?, number16(bytes, 6)?);
    let body = &bytes[HEADER..];
    match kind {
        NLMSG_DONE => return Ok(Message::Done { interrupted: flags & NLM_F_DUMP_INTR != 0 }),
        NLMSG_ERROR => return Ok(Message::Refused(number32(body, 0)?.cast_signed().saturating_neg())),
        NEWGEN => return Ok(Message::Committed),
        DELTABLE | NEWSET | DELSET | NEWSETELEM | DELSETELEM => {}
        _ => return Ok(Message::Other),
    }
    let general = body.get(..GENERAL).ok_or(Malformed)?;
    let Some(family) = Family::ALL.into_iter().find(|family| family.number() == general[0]) else {
        return Ok(Message::Other);
    };
    let body = &body[GENERAL..];
    if attribute(body, FIRST)? != Some(TABLE) {
        return Ok(Message::Other);
    }
    if kind == DELTABLE {
        return Ok(Message::SetRemoved(family));
    }
    let name = attribute(body, SECOND)?.unwrap_or_default();
    if name.starts_with(MAP) {
        return map_message(kind, family, name, body);
    }
    Ok(match kind {
        _ if name != SET => Message::Other,
        NEWSET => Message::SetMade(family),
        DELSET => Message::SetRemoved(family),
        NEWSETELEM => Message::Came(elements(body, family)?),
        _ => Message::Went(elements(body, family)?),
    })
}

/// Of a map: nothing but a whole map ever goes.
fn map_message(kind: u16, family: Family, name: &[u8], body: &[u8]) -> Result<Message, Malformed> {
    let name = String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned();
    Ok(match kind {
        NEWSET => Message::MapMade(family, name),
        DELSET => Message::MapRemoved(family, name),
        NEWSETELEM => Message::Mapped(family, name, mapped(body, family)?),
        _ => Message::Other,
    })
}

/// Endpoints that the elements of a map lead to; those that lead to a chain are left out.
fn mapped(body: &[u8], family: Family) -> Result<Vec<Element>, Malformed> {
    let mut elements = Vec::new();
    for one in attributes(attribute(body, ELEMENTS)?.unwrap_or_default()) {
        let (_, one) = one?;
        let value = attribute(attribute(one, SECOND)?.unwrap_or_default(), FIRST)?;
        elements.extend(value.and_then(|value| {
            let (address, rest) = address(value, family)?;
            let port = rest.first_chunk().map(|port| u16::from_be_bytes(*port))?;
            Some(Element { address, port: Some(port) })
        }));
    }
    Ok(elements)
}

/// TCP endpoints of a list of elements.
fn elements(body: &[u8], family: Family) -> Result<Vec<Element>, Malformed> {
    let mut elements = Vec::new();
    for one in attributes(attribute(body, ELEMENTS)?.unwrap_or_default()) {
        let (_, one) = one?;
        let key = attribute(attribute(one, FIRST)?.unwrap_or_default(), FIRST)?;
        elements.extend(key.and_then(|key| element(key, family)));
    }
    Ok(elements)
}

/// Each part of a key takes a multiple of four bytes.
fn element(key: &[u8], family: Family) -> Option<Element> {
    let (own, rest) = address(key, family)?;
    let (_, rest) = address(rest, family)?;
    match *rest {
        [] => Some(Element { address: own, port: None }),
        [IPPROTO_TCP, _, _, _, high, low, ..] => {
            Some(Element { address: own, port: Some(u16::from_be_bytes([high, low])) })
        }
        _ => None,
    }
}

/// An address and what follows it.
fn address(bytes: &[u8], family: Family) -> Option<(IpAddr, &[u8])> {
    Some(match family {
        Family::V4 => {
            let (address, rest) = bytes.split_first_chunk::<4>()?;
            (IpAddr::V4(Ipv4Addr::from(*address)), rest)
        }
        Family::V6 => {
            let (address, rest) = bytes.split_first_chunk::<16>()?;
            (IpAddr::V6(Ipv6Addr::from(*address)), rest)
        }
    })
}

/// The first attribute of this type.
pub(crate) fn attribute(bytes: &[u8], wanted: u16) -> Result<Option<&[u8]>, Malformed> {
    for one in attributes(bytes) {
        let (kind, value) = one?;
        if kind == wanted {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// Types and values; nothing comes after what is malformed.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), Malformed>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let one = first_attribute(rest);
        rest = one
            .map_or(&[], |(_, value)| rest.get((4 + value.len()).next_multiple_of(4)..).unwrap_or_default());
        Some(one)
    })
}

fn first_attribute(bytes: &[u8]) -> Result<(u16, &[u8]), Malformed> {
    let (length, kind) = (number16(bytes, 0)?, number16(bytes, 2)?);
    let value = bytes.get(4..usize::from(length)).ok_or(Malformed)?;
    Ok((kind & ATTRIBUTE_TYPE, value))
}

pub(crate) fn number16(bytes: &[u8], at: usize) -> Result<u16, Malformed> {
    let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(Malformed)?;
    Ok(u16::from_ne_bytes(*bytes))
}

pub(crate) fn number32(bytes: &[u8], at: usize) -> Result<u32, Malformed> {
    let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(Malformed)?;
    Ok(u32::from_ne_bytes(*bytes))
}

#[cfg(all(test, target_endian = "little"))]
mod tests;
