//! Notices on their way to the API: a queue with a bound, and counts of what became of those that left it. The driver puts
//! in, the sender takes out, the servers look. Behind a mutex that is held for a queue operation only.

use probe_core::notice::Notice;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Notices that wait: two for each pod of a full node (the kubelet's limit is 110).
pub const WAITING: usize = 256;

/// What became of a notice that the API took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// A new Event.
    Created,
    /// More ends of the same rollout.
    Updated,
    /// It was there: an agent before this one had sent it.
    Repeated,
}

impl Sent {
    /// All, in label order.
    pub const ALL: [Self; 3] = [Self::Created, Self::Repeated, Self::Updated];

    /// The label value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Repeated => "repeated",
        }
    }
}

/// Why a notice never became an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// Too many waited.
    QueueFull,
    /// RBAC does not allow it.
    Forbidden,
    /// The API does not take it, its namespace is gone, or the API server failed on it again and again.
    Rejected,
}

impl Dropped {
    /// All, in label order.
    pub const ALL: [Self; 3] = [Self::Forbidden, Self::QueueFull, Self::Rejected];

    /// The label value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Forbidden => "forbidden",
            Self::Rejected => "rejected",
        }
    }
}

/// What the servers show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Notices that wait.
    pub waiting: usize,
    /// Counts in the order of [`Sent::ALL`].
    pub sent: [u64; 3],
    /// Counts in the order of [`Dropped::ALL`].
    pub dropped: [u64; 3],
    /// Why the last request failed; `None` once one succeeds.
    pub error: Option<String>,
}

#[derive(Debug, Default)]
struct Inner {
    queue: VecDeque<Notice>,
    state: State,
}

/// The queue.
#[derive(Debug, Default)]
pub struct Outbox {
    inner: Mutex<Inner>,
    news: Notify,
}

impl Outbox {
    /// Puts a notice in, in place of one of the same name that still waits. Never waits: a full queue drops it.
    pub fn push(&self, notice: Notice) {
        let mut inner = self.lock();
        if let Some(waiting) = inner
            .queue
            .iter_mut()
            .find(|waiting| waiting.name == notice.name && waiting.namespace == notice.namespace)
        {
            *waiting = notice;
        } else if inner.queue.len() < WAITING {
            inner.queue.push_back(notice);
            self.news.notify_one();
        } else {
            count(&mut inner.state.dropped, Dropped::ALL, Dropped::QueueFull);
        }
    }

    /// Takes the oldest notice, once there is one. For one taker.
    pub(super) async fn next(&self) -> Notice {
        loop {
            if let Some(notice) = self.lock().queue.pop_front() {
                return notice;
            }
            self.news.notified().await;
        }
    }

    pub(super) fn sent(&self, what: Sent) {
        let mut inner = self.lock();
        count(&mut inner.state.sent, Sent::ALL, what);
        inner.state.error = None;
    }

    /// It is given up; true if that reason is news.
    pub(super) fn dropped(&self, reason: Dropped, why: &str) -> bool {
        count(&mut self.lock().state.dropped, Dropped::ALL, reason);
        // What the API has against one notice says nothing about the next.
        reason != Dropped::Forbidden || self.failed(why)
    }

    /// It will be tried again; true if that reason is news.
    pub(super) fn failed(&self, why: &str) -> bool {
        let mut inner = self.lock();
        let news = inner.state.error.as_deref() != Some(why);
        inner.state.error = Some(why.to_owned());
        news
    }

    /// What the servers show.
    #[must_use]
    pub fn state(&self) -> State {
        let inner = self.lock();
        State { waiting: inner.queue.len(), ..inner.state.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count<T: PartialEq, const N: usize>(counts: &mut [u64; N], all: [T; N], what: T) {
    for (count, _) in counts.iter_mut().zip(all).filter(|(_, one)| *one == what) {
        *count = count.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use probe_core::notice::About;
    use probe_core::wallclock::Timestamp;

    fn notice(name: String, count: u64) -> Notice {
        Notice {
            name,
            namespace: "shop".into(),
            about: About::Pod { name: "p".into(), uid: "u".into() },
            message: String::new(),
            count,
            first: Timestamp(0),
            last: Timestamp(0),
        }
    }

    #[test]
    fn a_full_queue_drops_and_counts_and_what_grows_takes_no_further_place() {
        let outbox = Outbox::default();
        for number in 0..WAITING + 3 {
            outbox.push(notice(number.to_string(), 1));
        }
        outbox.push(notice("7".into(), 2));
        let state = outbox.state();
        assert_eq!((state.waiting, state.dropped), (WAITING, [0, 3, 0]));
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        let counts: Vec<u64> = (0..9).map(|_| runtime.block_on(outbox.next()).count).collect();
        assert_eq!(counts, [1, 1, 1, 1, 1, 1, 1, 2, 1]);
        assert_eq!(outbox.state().waiting, WAITING - 9);
    }

    #[test]
    fn failures_are_told_once_and_forgotten_after_a_success() {
        let outbox = Outbox::default();
        assert!(outbox.failed("down") && !outbox.failed("down"));
        assert!(outbox.dropped(Dropped::Forbidden, "403") && !outbox.dropped(Dropped::Forbidden, "403"));
        assert!(outbox.dropped(Dropped::Rejected, "404") && outbox.dropped(Dropped::Rejected, "404"));
        assert_eq!(outbox.state().error.as_deref(), Some("403"));
        outbox.sent(Sent::Updated);
        let expected = State { sent: [0, 0, 1], dropped: [2, 0, 2], ..State::default() };
        assert_eq!(outbox.state(), expected);
    }
}
