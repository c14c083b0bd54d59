//! What a port speaks, as far as names in the API tell: never from payload. What follows from it is in [`crate::decide`].

use crate::wire::{PORT_ANSWERED, PORT_PROTOCOL, PORT_PROTOCOL_SHIFT, PORT_SILENT, Port};

/// The sorts of protocol that the decision tells apart. Their numbers are part of the ABI (bits of
/// [`crate::wire::Port::flags`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum Protocol {
    /// Nobody says: counted as HTTP/1.
    #[default]
    Unknown = 0,
    /// HTTP/1 in the clear.
    Http = 1,
    /// HTTP in TLS, /1 or /2.
    Https = 2,
    /// Anything in TLS.
    Tls = 3,
    /// HTTP/2 in the clear, and so gRPC.
    Multiplexed = 4,
    /// Any other protocol, in which the client may have the last word.
    Raw = 5,
}

impl Protocol {
    /// Every one, in the order of their numbers.
    pub const ALL: [Self; 6] =
        [Self::Unknown, Self::Http, Self::Https, Self::Tls, Self::Multiplexed, Self::Raw];

    /// The protocol with this number; a number that nobody gives is as good as unknown.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Http,
            2 => Self::Https,
            3 => Self::Tls,
            4 => Self::Multiplexed,
            5 => Self::Raw,
            _ => Self::Unknown,
        }
    }

    /// Nobody says.
    pub const fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown)
    }

    /// One request after the other, each answered: losses are counted one by one. Of all else a lost connection is at
    /// least one.
    #[inline(always)]
    pub const fn is_http1(self) -> bool {
        matches!(self, Self::Unknown | Self::Http)
    }

    /// A port that never answers may still be as it should be: where nothing says that it speaks HTTP or TLS.
    #[inline(always)]
    pub const fn may_be_one_way(self) -> bool {
        matches!(self, Self::Unknown | Self::Raw)
    }

    /// The client leaves when it likes, and what it said last wants no answer.
    #[inline(always)]
    pub const fn client_speaks_last(self) -> bool {
        matches!(self, Self::Tls | Self::Raw)
    }
}

impl Port {
    /// What it speaks.
    #[inline(always)]
    pub const fn protocol(&self) -> Protocol {
        Protocol::from_number((self.flags & PORT_PROTOCOL) >> PORT_PROTOCOL_SHIFT)
    }

    /// It never answers: nothing that it may owe an answer for is a loss. A server that fails at its very first request
    /// has not answered either, so it takes three clients that left content.
    #[inline(always)]
    pub const fn is_one_way(&self) -> bool {
        self.flags & (PORT_ANSWERED | PORT_SILENT) == PORT_SILENT && self.protocol().may_be_one_way()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::PORT_SILENT_ONE;

    #[test]
    fn numbers_are_read_as_they_are_written() {
        for (number, protocol) in (0..).zip(Protocol::ALL) {
            assert_eq!((protocol as u32, Protocol::from_number(number)), (number, protocol));
        }
        assert_eq!(Protocol::from_number(7), Protocol::Unknown);
    }

    #[test]
    fn a_port_is_one_way_after_three_silent_clients_and_no_answer() {
        let port = |protocol: Protocol, flags| Port {
            flags: flags | (protocol as u32) << PORT_PROTOCOL_SHIFT,
            ..Port::default()
        };
        for protocol in Protocol::ALL {
            assert_eq!(port(protocol, !PORT_PROTOCOL).protocol(), protocol);
            let may_be = matches!(protocol, Protocol::Unknown | Protocol::Raw);
            assert_eq!(port(protocol, PORT_SILENT).is_one_way(), may_be, "{protocol:?}");
            assert!(!port(protocol, PORT_SILENT | PORT_ANSWERED).is_one_way(), "{protocol:?} answered");
            assert!(!port(protocol, PORT_SILENT - PORT_SILENT_ONE).is_one_way(), "{protocol:?}, too few");
            assert!(!port(protocol, 0).is_one_way(), "{protocol:?}, nothing seen");
        }
    }
}
