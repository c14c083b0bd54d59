//! The decision function: what a closing connection was, from sequence numbers and states alone.
//!
//! The kernel program calls it once per connection, at the transition out of ESTABLISHED or CLOSE_WAIT, and once more
//! for what may follow a close (a segment that meets the closed socket, the end of a pending answer). The replay tests
//! call the same functions over recorded facts. It knows nothing of pods, phases or time. What each situation looks
//! like in the kernel is in `docs/kernel.md`.

use crate::class::{Class, Confidence};

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

/// The class of the last attempt on a connection that leaves ESTABLISHED or CLOSE_WAIT.
///
/// Order matters: the first cause wins.
#[inline(always)]
pub fn closing(c: &Closing) -> Verdict {
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
    if matches!(c.leaving, Leaving::Close) && !c.accepted {
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

/// What follows when a data segment reaches a connection that the server has closed already (reset with
/// `TCP_ABORT_ON_DATA` or by a TIME_WAIT socket, or unread data in FIN_WAIT2): the class to add, if the attempts before
/// it were all answered. `before` is the verdict at the close.
#[inline(always)]
pub fn data_after_close(before: Verdict) -> Option<(Class, Confidence)> {
    match before {
        Verdict::Served | Verdict::Idle | Verdict::Pending => Some((Class::StaleReuse, Confidence::Observed)),
        // The request that is lost already goes on arriving: one attempt, one class.
        Verdict::Lost(..) => None,
    }
}

/// What follows when a connection whose verdict was [`Verdict::Pending`] is destroyed or reset before its FIN was
/// acknowledged.
#[inline(always)]
pub fn died_pending() -> (Class, Confidence) {
    (Class::Truncated, Confidence::Observed)
}
