//! The decision function: what a closing connection was, from sequence numbers and states alone.
//!
//! The kernel program calls it once per connection, at the transition out of ESTABLISHED or CLOSE_WAIT, and once more
//! for what may follow a close (a segment that meets the closed socket, the end of a pending answer). The replay tests
//! call the same functions over recorded facts. It knows nothing of pods, phases or time. What each situation looks
//! like in the kernel is in `docs/kernel.md`.

use crate::class::{Class, Confidence};
use crate::protocol::Protocol;

/// The longest TLS record that says close_notify and nothing else: with AES-CBC and SHA-1 (RFC 5246 section 6.2.3.2: header
/// 5, IV 16, and 2 + 20 with their padding, 32). TLS 1.3 takes 24 (RFC 8446 sections 5.2 and 6.1: header 5, alert 2, type
/// 1, tag 16), AES-GCM in TLS 1.2 takes 31. An HTTP/2 frame of control fits too. A request of HTTP/1 with a Host and one
/// more header is longer in every suite.
const CLOSE_NOTIFY: u32 = 53;
/// What ends a client's TLS 1.3 handshake, and a close_notify after it: change_cipher_spec 6, Finished 74 with SHA-384 (RFC
/// 8446 sections 4.4.4 and 5.2), alert 24. A server need not answer that.
const HANDSHAKE_END: u32 = 104;
/// Frames of HTTP/2 that no request is made of (RFC 9113 section 6): SETTINGS ACK 9, WINDOW_UPDATE 13, RST_STREAM 13, PING
/// and GOAWAY 17, and a WINDOW_UPDATE with a PING, as clients that measure their bandwidth send them.
const CONTROL_FRAMES: u32 = 30;
/// The same with what a client says that closes the connection: SETTINGS ACK 9, WINDOW_UPDATE 13, PING ACK 17 (servers of gRPC
/// measure their bandwidth too), and a GOAWAY with the 25 bytes "client transport shutdown" of grpc-go, 42.
const HTTP2_LEAVING: u32 = 81;
/// Of a server that leaves: GOAWAY with a text of 13 bytes (30), PING (17).
const GOAWAY_AND_PING: u32 = 47;
/// Farewells of protocols in which the client speaks last: Terminate of PostgreSQL and COM_QUIT of MySQL take 5, QUIT of
/// SMTP and memcached 6, unbind of LDAP 7, a heartbeat of AMQP 8.
const FAREWELL: u32 = 8;

/// The state that a server side connection goes to when it leaves ESTABLISHED or CLOSE_WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// To FIN_WAIT1 or LAST_ACK: the application (or its exit) closed and a FIN goes out.
    Fin,
    /// To CLOSE at once: a reset was sent or received, or the connection timed out.
    Close,
}

/// What is known of a connection at the transition out of ESTABLISHED or CLOSE_WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closing {
    /// Where it goes.
    pub leaving: Leaving,
    /// The application took it from the accept queue (`sk->sk_socket` is set).
    pub accepted: bool,
    /// The client's FIN was seen before.
    pub client_fin: bool,
    /// The client's RST is what closes it.
    pub client_rst: bool,
    /// Bytes received and not read, the client's FIN not counted.
    pub unread: u32,
    /// At least one byte of data was received.
    pub received: bool,
    /// The application read at least once since the connection is known.
    pub read: bool,
    /// `write_seq` moved since the last read: something was written after the last request.
    pub written_since_read: bool,
    /// Written bytes that the client has not acknowledged.
    pub unacked: bool,
    /// The connection is known since its start or since a read; false when the agent met it only now.
    pub known: bool,
    /// The last data segment came in after the last one went out, by the kernel's 4 ms clock. Only consulted where
    /// `known` is false.
    pub received_last: bool,
    /// What its port speaks.
    pub protocol: Protocol,
    /// Bytes that the application read and wrote nothing after; the most there can be if that is not known. Only consulted
    /// where `protocol` is not HTTP/1.
    pub pending: u32,
    /// The first or second exchange: with TLS, its handshake.
    pub opening: bool,
    /// Its port never answers, nor did it here.
    pub one_way: bool,
}

/// The facts of a [`Closing`] as the kernel program gathers them: numbers that are 0 or 1. Those who test one by one what
/// they compare are followed by the verifier into each combination of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits {
    /// [`Leaving::Close`].
    pub close: u32,
    /// See [`Closing`].
    pub accepted: u32,
    /// See [`Closing`].
    pub client_fin: u32,
    /// See [`Closing`].
    pub client_rst: u32,
    /// See [`Closing`].
    pub received: u32,
    /// See [`Closing`].
    pub read: u32,
    /// See [`Closing`].
    pub written_since_read: u32,
    /// See [`Closing`].
    pub unacked: u32,
    /// See [`Closing`].
    pub known: u32,
    /// See [`Closing`].
    pub received_last: u32,
    /// See [`Closing`].
    pub opening: u32,
    /// See [`Closing`].
    pub one_way: u32,
    /// The protocol's number.
    pub protocol: u32,
}

impl Bits {
    /// All in one number.
    #[inline(always)]
    pub fn pack(&self) -> u32 {
        self.close
            | self.accepted << 1
            | self.client_fin << 2
            | self.client_rst << 3
            | self.received << 4
            | self.read << 5
            | self.written_since_read << 6
            | self.unacked << 7
            | self.known << 8
            | self.received_last << 9
            | self.opening << 10
            | self.one_way << 11
            | self.protocol << 12
    }
}

impl Closing {
    /// The facts in a number of [`Bits::pack`].
    #[inline(always)]
    pub fn from_bits(bits: u32, unread: u32, pending: u32) -> Self {
        Self {
            leaving: if bits & 1 == 0 { Leaving::Fin } else { Leaving::Close },
            accepted: bits & 1 << 1 != 0,
            client_fin: bits & 1 << 2 != 0,
            client_rst: bits & 1 << 3 != 0,
            unread,
            received: bits & 1 << 4 != 0,
            read: bits & 1 << 5 != 0,
            written_since_read: bits & 1 << 6 != 0,
            unacked: bits & 1 << 7 != 0,
            known: bits & 1 << 8 != 0,
            received_last: bits & 1 << 9 != 0,
            protocol: Protocol::from_number(bits >> 12),
            pending,
            opening: bits & 1 << 10 != 0,
            one_way: bits & 1 << 11 != 0,
        }
    }
}

/// What became of the last attempt on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing was outstanding and at least one request had been answered.
    Served,
    /// Nothing was outstanding because nothing was ever sent.
    Idle,
    /// Everything was written, and the client still has to acknowledge it: served if our FIN is acknowledged, truncated
    /// if the connection dies first.
    Pending,
    /// Lost.
    Lost(Class, Confidence),
}

impl Verdict {
    /// The verdict as a number.
    #[inline(always)]
    pub fn to_number(self) -> u32 {
        match self {
            Self::Served => 0,
            Self::Idle => 1,
            Self::Pending => 2,
            Self::Lost(class, confidence) => 3 | (class as u32) << 2 | (confidence as u32) << 6,
        }
    }

    /// The verdict with this number.
    #[inline(always)]
    pub fn from_number(number: u32) -> Self {
        match number & 3 {
            0 => Self::Served,
            1 => Self::Idle,
            2 => Self::Pending,
            _ => {
                let confidence = if number >> 6 == 0 { Confidence::Observed } else { Confidence::Inferred };
                Self::Lost(Class::from_number(number >> 2 & 15), confidence)
            }
        }
    }
}

/// The class of the last attempt on a connection that leaves ESTABLISHED or CLOSE_WAIT.
#[inline(always)]
pub fn closing(c: &Closing) -> Verdict {
    let verdict = as_http1(c);
    if c.protocol.is_http1() && !c.one_way {
        return verdict;
    }
    let Verdict::Lost(class, confidence) = verdict else { return verdict };
    if !matches!(class, Class::Unread | Class::Unanswered | Class::Abandoned) {
        return Verdict::Lost(class, confidence_of(c.protocol, class, confidence));
    }
    if c.one_way {
        // What was read is where it should be; what was not is lost.
        let is_lost = matches!(class, Class::Unread);
        return if is_lost { Verdict::Lost(class, Confidence::Inferred) } else { Verdict::Served };
    }
    if c.protocol.client_speaks_last() && (c.client_fin || c.client_rst) {
        return Verdict::Served;
    }
    let bytes = c.unread.saturating_add(c.pending);
    let has_left = c.client_fin || c.client_rst;
    let is_goodbye = matches!(c.protocol, Protocol::Multiplexed) && has_left && bytes <= HTTP2_LEAVING;
    if !is_goodbye && !is_chatter(c.protocol, bytes, c.opening) {
        return Verdict::Lost(class, Confidence::Inferred);
    }
    // As if it had never come; the answer before it may be cut all the same.
    match as_http1(&Closing { unread: 0, known: true, read: true, written_since_read: true, ..*c }) {
        Verdict::Lost(class, _) => Verdict::Lost(class, Confidence::Inferred),
        before @ (Verdict::Served | Verdict::Idle | Verdict::Pending) => before,
    }
}

/// The same on a port of plain HTTP/1, without pipelining. Order matters: the first cause wins.
#[inline(always)]
fn as_http1(c: &Closing) -> Verdict {
    let confidence = if c.known { Confidence::Observed } else { Confidence::Inferred };
    let no_reply = if c.known {
        c.received && (!c.read || !c.written_since_read)
    } else {
        c.received && c.received_last
    };
    let nothing_lost = if c.received { Verdict::Served } else { Verdict::Idle };

    if matches!(c.leaving, Leaving::Close) && c.client_rst {
        // A client that leaves with nothing outstanding, or in the middle of its answer, lost nothing here.
        return if no_reply || c.unread > 0 {
            Verdict::Lost(Class::Abandoned, confidence)
        } else {
            nothing_lost
        };
    }
    // No application ends what it has not taken: its listener closed, which resets it. A connection that was made just then has a FIN before
    // the reset: it took its listener's shutdown over (sk_clone, tcp_rcv_state_process).
    if !c.accepted {
        // Without data too: the client's next write fails. A client that connected and left again lost nothing.
        return if !c.received && c.client_fin {
            Verdict::Idle
        } else {
            Verdict::Lost(Class::Unaccepted, Confidence::Observed)
        };
    }
    if matches!(c.leaving, Leaving::Close) && c.unread > 0 {
        return Verdict::Lost(Class::Unread, Confidence::Observed);
    }
    if no_reply {
        // After the client's FIN this is a half-close client or one that gave up: the kernel cannot tell which.
        let confidence = if c.client_fin { Confidence::Inferred } else { confidence };
        return Verdict::Lost(Class::Unanswered, confidence);
    }
    if !c.received {
        return Verdict::Idle;
    }
    if c.unacked {
        return match c.leaving {
            Leaving::Fin => Verdict::Pending,
            Leaving::Close => Verdict::Lost(Class::Truncated, confidence),
        };
    }
    Verdict::Served
}

/// So many bytes, with nothing written after them, are no request but what the protocol itself says.
#[inline(always)]
fn is_chatter(protocol: Protocol, bytes: u32, opening: bool) -> bool {
    match protocol {
        Protocol::Unknown | Protocol::Http => false,
        Protocol::Https | Protocol::Tls => bytes <= if opening { HANDSHAKE_END } else { CLOSE_NOTIFY },
        Protocol::Multiplexed => bytes <= CONTROL_FRAMES,
        Protocol::Raw => bytes <= FAREWELL,
    }
}

/// So many bytes of a server, not acknowledged when the connection dies, are no answer but its farewell: a client that has
/// its answer may close before it takes that. TLS: close_notify; HTTP/2: GOAWAY (RFC 9113 6.8), with the text and the PING
/// of a gRPC server that stops gracefully (grpc-go's http2Server.Drain).
#[inline(always)]
pub const fn farewell_of_server(protocol: Protocol) -> u32 {
    match protocol {
        Protocol::Unknown | Protocol::Http | Protocol::Raw => 0,
        Protocol::Https | Protocol::Tls => CLOSE_NOTIFY,
        Protocol::Multiplexed => GOAWAY_AND_PING,
    }
}

/// The confidence of a loss on a port of this protocol, where that of plain HTTP/1 is given. What no payload decides is as
/// sure as there; of requests on one HTTP/2 connection it is "at least one".
#[inline(always)]
pub fn confidence_of(protocol: Protocol, class: Class, as_http1: Confidence) -> Confidence {
    let is_sure = match class {
        Class::Refused | Class::Overflow | Class::Blackholed | Class::Misrouted => true,
        Class::Unaccepted => !matches!(protocol, Protocol::Multiplexed),
        Class::Unread | Class::Unanswered | Class::Truncated | Class::StaleReuse | Class::Abandoned => {
            protocol.is_http1()
        }
    };
    if is_sure { as_http1 } else { Confidence::Inferred }
}

/// What follows when a data segment of so many bytes reaches a connection that the server has closed already (reset with
/// `TCP_ABORT_ON_DATA` or by a TIME_WAIT socket, or unread data in FIN_WAIT2): the class to add, if the attempts before
/// it were all answered. `before` is the verdict at the close. 0 bytes: data of which only the FIN behind it is seen.
#[inline(always)]
pub fn data_after_close(before: Verdict, protocol: Protocol, bytes: u32) -> Option<(Class, Confidence)> {
    match before {
        Verdict::Served | Verdict::Idle | Verdict::Pending => {
            if is_chatter(protocol, bytes, false) {
                return None;
            }
            let class = Class::StaleReuse;
            Some((class, confidence_of(protocol, class, Confidence::Observed)))
        }
        // The request that is lost already goes on arriving: one attempt, one class.
        Verdict::Lost(..) => None,
    }
}

/// What follows when a connection whose verdict was [`Verdict::Pending`] is destroyed or reset before its FIN was
/// acknowledged.
#[inline(always)]
pub fn died_pending(protocol: Protocol) -> (Class, Confidence) {
    (Class::Truncated, confidence_of(protocol, Class::Truncated, Confidence::Observed))
}

#[cfg(test)]
mod tests;
