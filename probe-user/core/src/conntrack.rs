//! Whether connection tracking sent a connect to a pod that the service proxy's rules do not lead to any more: a client that
//! uses its port again meets the entry of its attempt before, and packets of an entry never come to the rules.
//!
//! The attempt has an entry by the time of asking whether it met or made one, so that its presence says nothing. Nor does its
//! id, which the next entry of the same addresses gets as well. What tells is in [`sent_it`]; where that does not hold, the
//! cause is not known.

use crate::event::Address;
use crate::time::Mono;
use probe_ebpf::class::Class;
use probe_ebpf::wire::SlotRef;
use serde::{Deserialize, Serialize};

/// The answer to a question about a lost connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracked {
    /// Slot and generation of the pod that lost it.
    pub slot: SlotRef,
    /// The moment of that loss's event.
    pub lost: Mono,
    /// Client, as the pod's side has it.
    pub peer: Address,
    /// Pod.
    pub local: Address,
    /// The entry by which packets go from one to the other, if there is one.
    pub entry: Option<Entry>,
}

/// An entry of the node's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where the client meant to go.
    pub original: Address,
    /// Something came back by it at some time.
    pub replied: bool,
    /// How far it is.
    pub state: EntryState,
    /// It is forgotten if nothing comes: not before this moment,
    pub expires: Mono,
    /// and before this one. The kernel tells it in whole seconds.
    pub expired: Mono,
}

/// How far a tracked connection is, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryState {
    /// SYN_SENT.
    SynSent,
    /// SYN_RECV or ESTABLISHED.
    Open,
    /// CLOSE: a reset came.
    Close,
    /// Any other.
    Other,
}

/// What is known of the entry of a lost connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Met {
    pub(crate) entry: Option<Entry>,
    /// Where the client meant to go, if an entry that was there before the connect sent it.
    pub(crate) stale: Option<Address>,
}

/// What the last lost connect between the same addresses and ports was found to have, and how long before it was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Before {
    pub(crate) entry: Entry,
    pub(crate) ago_ns: u64,
}

impl Entry {
    /// A connect made it, and nobody has answered.
    fn is_unanswered(&self) -> bool {
        !self.replied && self.state == EntryState::SynSent
    }

    const fn width(&self) -> u64 {
        self.expired.since(self.expires)
    }

    /// It ends when the other one does, and one that the later connect made would not.
    fn is(&self, before: &Before) -> bool {
        let other = &before.entry;
        let overlap = self.expires <= other.expired && other.expires <= self.expired;
        overlap && before.ago_ns > self.width().saturating_add(other.width())
    }
}

/// Where the client meant to go, if a connect of `attempted` that `local` lost for this reason was sent there by an entry that
/// was older than the connect. `entry` is what was found after it.
pub(crate) fn sent_it(
    class: Class,
    local: Address,
    attempted: Mono,
    entry: Option<&Entry>,
    before: Option<&Before>,
) -> Option<Address> {
    // Without a translation here, another node's table may have chosen the pod, or the client itself.
    let entry = entry.filter(|entry| entry.original != local);
    let before = before.filter(|before| before.entry.original != local && before.entry.is_unanswered());
    match (class, entry) {
        // The kernel forgets an entry whose first answer is a reset. One that is left had an answer before.
        (Class::Refused | Class::Misrouted, Some(entry)) => {
            (entry.replied && entry.state == EntryState::Close).then_some(entry.original)
        }
        // Forgotten for that: the entry of the connect before, which was still there.
        (Class::Refused | Class::Misrouted, None) => {
            before.filter(|before| attempted < before.entry.expires).map(|before| before.entry.original)
        }
        // Nobody answered this one: what came back came before it. If by now another pod had the address and answered when
        // the client tried once more, the entry is open.
        (Class::Blackholed, Some(entry)) if entry.replied => {
            (entry.state != EntryState::Open).then_some(entry.original)
        }
        // A SYN does not prolong an entry that waits for an answer (since Linux 5.14).
        (Class::Blackholed, Some(entry)) => before
            .filter(|before| entry.is_unanswered() && before.entry.original == entry.original)
            .filter(|before| entry.is(before))
            .map(|_| entry.original),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::SECOND;
    use std::net::{IpAddr, Ipv4Addr};

    const fn address(last: u8, port: u16) -> Address {
        Address { ip: IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)), port }
    }
    const POD: Address = address(2, 8080);
    const SERVICE: Address = address(99, 80);
    const END: Mono = Mono(100 * SECOND);

    fn entry(replied: bool, state: EntryState) -> Entry {
        Entry { original: SERVICE, replied, state, expires: END, expired: END.after(SECOND) }
    }

    fn judge(class: Class, entry: Option<Entry>, before: Option<(Entry, u64)>) -> bool {
        let before = before.map(|(entry, ago_ns)| Before { entry, ago_ns });
        let sent = sent_it(class, POD, Mono(50 * SECOND), entry.as_ref(), before.as_ref());
        assert!(sent.is_none_or(|to| to == SERVICE));
        sent.is_some()
    }

    #[test]
    fn what_a_reset_leaves_had_an_answer_before() {
        for class in [Class::Refused, Class::Misrouted] {
            assert!(judge(class, Some(entry(true, EntryState::Close)), None));
            for other in [
                entry(false, EntryState::Close),
                entry(true, EntryState::Open),
                entry(true, EntryState::SynSent),
                Entry { original: POD, ..entry(true, EntryState::Close) },
            ] {
                assert!(!judge(class, Some(other), None), "{other:?}");
            }
        }
    }

    #[test]
    fn what_a_reset_took_was_there_if_the_attempt_before_had_left_it() {
        let unanswered = entry(false, EntryState::SynSent);
        assert!(judge(Class::Misrouted, None, Some((unanswered, SECOND))));
        assert!(!judge(Class::Misrouted, None, None), "its own, for all that is known");
        let over = Entry { expires: Mono(50 * SECOND), ..unanswered };
        assert!(!judge(Class::Misrouted, None, Some((over, 60 * SECOND))), "forgotten by then");
        for other in [entry(true, EntryState::Close), Entry { original: POD, ..unanswered }] {
            assert!(!judge(Class::Misrouted, None, Some((other, SECOND))), "{other:?}");
        }
        assert!(!judge(Class::Blackholed, None, Some((unanswered, SECOND))), "it has an entry, but not here");
    }

    #[test]
    fn an_answer_to_what_nobody_answered_is_of_an_attempt_before() {
        let of = |entry: Entry| judge(Class::Blackholed, Some(entry), None);
        assert!(of(entry(true, EntryState::Close)));
        assert!(of(entry(true, EntryState::SynSent)));
        assert!(!of(entry(true, EntryState::Open)), "the next pod may have answered by now");
        assert!(!of(entry(false, EntryState::SynSent)), "its own, for all that is known");
        assert!(!of(Entry { original: POD, ..entry(true, EntryState::Close) }));
    }

    #[test]
    fn an_entry_without_an_answer_is_the_same_if_it_ends_at_the_same_moment() {
        let now = entry(false, EntryState::SynSent);
        let of = |expires: Mono, ago: u64| {
            let before = Entry { expires, expired: expires.after(SECOND), ..now };
            judge(Class::Blackholed, Some(now), Some((before, ago)))
        };
        assert!(of(END.after(SECOND), 2 * SECOND + 1));
        assert!(of(Mono(END.0 - SECOND), 60 * SECOND));
        assert!(!of(Mono(END.0 - SECOND - 1), 60 * SECOND), "made anew");
        assert!(!of(END, 2 * SECOND), "too near to tell");
        let other = Entry { original: address(98, 80), ..now };
        assert!(!judge(Class::Blackholed, Some(now), Some((other, 3 * SECOND))), "another Service");
        assert!(!judge(Class::Unread, Some(now), Some((now, 3 * SECOND))));
    }
}
