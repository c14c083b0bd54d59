//! Reads addresses, ports and flags of a TCP packet from a socket buffer. For the rare packets that meet no socket;
//! nothing here runs per packet.

use super::load::{self, probe, probe_at};
use probe_ebpf::fields::Field;

/// TCP flags.
pub(super) const FIN: u8 = 1;
/// See [`FIN`].
pub(super) const SYN: u8 = 2;
/// See [`FIN`].
pub(super) const RST: u8 = 4;
/// See [`FIN`].
pub(super) const ACK: u8 = 16;

/// ETH_P_IP and ETH_P_IPV6, as they are in `skb->protocol`.
const IPV4: u16 = 0x0800_u16.to_be();
const IPV6: u16 = 0x86dd_u16.to_be();

/// A TCP packet's ends (source, destination), flags and payload.
pub(super) struct Packet {
    pub(super) source: [u64; 2],
    pub(super) destination: [u64; 2],
    pub(super) source_port: u16,
    pub(super) destination_port: u16,
    pub(super) sequence: u32,
    pub(super) flags: u8,
    /// Bytes of payload.
    pub(super) payload: u32,
}

/// Parses the headers; `None` if it is no TCP packet over IPv4 or IPv6 without extension headers.
#[inline(always)]
pub(super) fn parse(skb: *const u8) -> Option<Packet> {
    let protocol: u16 = probe(skb, Field::SkbProtocol)?;
    if protocol != IPV4 && protocol != IPV6 {
        return None;
    }
    let head: *const u8 = probe(skb, Field::SkbHead)?;
    let ip = head.wrapping_add(probe::<u16>(skb, Field::SkbNetwork)? as usize);
    let (source, destination, transport, length) = if protocol == IPV4 {
        let header: [u8; 20] = probe_at(ip)?;
        if header[0] >> 4 != 4 || header[9] != 6 {
            return None;
        }
        let words: [u32; 2] = probe_at(ip.wrapping_add(12))?;
        let bytes = (u32::from(header[0]) & 15) * 4;
        let total = u32::from(u16::from_be_bytes([header[2], header[3]]));
        (
            load::mapped_v4(words[0]),
            load::mapped_v4(words[1]),
            ip.wrapping_add(bytes as usize),
            total.wrapping_sub(bytes),
        )
    } else {
        let header: [u8; 8] = probe_at(ip)?;
        if header[0] >> 4 != 6 || header[6] != 6 {
            return None;
        }
        (
            probe_at(ip.wrapping_add(8))?,
            probe_at(ip.wrapping_add(24))?,
            ip.wrapping_add(40),
            u32::from(u16::from_be_bytes([header[4], header[5]])),
        )
    };
    let tcp: [u8; 16] = probe_at(transport)?;
    let header = u32::from(tcp[12] >> 4) * 4;
    Some(Packet {
        source,
        destination,
        source_port: u16::from_be_bytes([tcp[0], tcp[1]]),
        destination_port: u16::from_be_bytes([tcp[2], tcp[3]]),
        sequence: u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]),
        flags: tcp[13],
        payload: length.saturating_sub(header),
    })
}

/// When the packet was sent, as far as it tells: a packet may wait seconds for a neighbour that is gone. The stamp of
/// TCP sockets of this machine survives forwarding (it is the delivery time); anything that cannot be one is ignored.
#[inline(always)]
pub(super) fn sent_ns(skb: *const u8) -> u64 {
    const LONGEST_WAIT_NS: u64 = 10_000_000_000;
    let now = load::now_ns();
    match probe::<u64>(skb, Field::SkbTime) {
        Some(stamp) if stamp <= now && now - stamp < LONGEST_WAIT_NS => stamp,
        _ => now,
    }
}

/// Cookie of the namespace of the packet's device, and the device's number; `None` if it has no device.
#[inline(always)]
pub(super) fn device(skb: *const u8) -> Option<(u64, u32)> {
    let device: *const u8 = probe(skb, Field::SkbDevice)?;
    if device.is_null() {
        return None;
    }
    let net: *const u8 = probe(device, Field::DeviceNet)?;
    Some((probe(net, Field::NetCookie)?, probe(device, Field::DeviceIndex)?))
}
