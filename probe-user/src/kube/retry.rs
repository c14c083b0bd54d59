//! When a watch has to start anew, and how long it waits before it does: what can go wrong, what follows from it, and the
//! pauses in between.

use super::watch::PAGES_MAX;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::time::Duration;
use thiserror::Error;

/// How long a watch waits for what.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// For the response's head, and for each page of a list.
    pub request: Duration,
    /// For the next event or bookmark. The API server sends a bookmark about every minute: two of them and some.
    pub idle: Duration,
    /// After this long of an open but silent stream, a broken watch counts as in sync again.
    pub quiet: Duration,
    /// First pause after a failure; doubled each time.
    pub backoff_min: Duration,
    /// Longest pause after a failure.
    pub backoff_max: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            request: Duration::from_secs(30),
            idle: Duration::from_secs(130),
            quiet: Duration::from_secs(1),
            backoff_min: Duration::from_millis(250),
            backoff_max: Duration::from_secs(10),
        }
    }
}

/// Why a watch has to start anew; each is retried.
#[derive(Debug, Error)]
pub(super) enum WatchError {
    /// The API refused or could not be reached: pause, then again.
    #[error("{}", brief(.0))]
    Api(#[from] kube::Error),
    /// The stream broke: pause, then resume.
    #[error("the stream broke: {0}")]
    Stream(#[from] io::Error),
    /// No answer in time: pause, then again.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// Nothing came for too long: resume on a new connection.
    #[error("neither event nor bookmark within {0:?}")]
    Idle(Duration),
    /// The resource version is expired: list anew.
    #[error("the resource version is expired")]
    Expired,
    /// The server ended the watch by an ERROR event: list anew.
    #[error("the server ended the watch with code {0}")]
    Ended(u16),
    /// An answer that is no list: pause, then again.
    #[error("the answer is no list: {0}")]
    NoList(#[from] serde_json::Error),
    /// A list without an end: pause, then again.
    #[error("the list has more than {PAGES_MAX} pages")]
    Endless,
    /// The agent is ending.
    #[error("the agent is ending")]
    Closed,
}

impl WatchError {
    /// Following on from the same version makes no sense.
    pub(super) fn needs_list(&self) -> bool {
        match self {
            Self::Expired | Self::Ended(_) => true,
            // Expired, or a version that the server does not take (400, 422) or does not know yet (504).
            Self::Api(kube::Error::Api(status)) => matches!(status.code, 400 | 410 | 422 | 504),
            Self::Api(_)
            | Self::Stream(_)
            | Self::Timeout(_)
            | Self::Idle(_)
            | Self::NoList(_)
            | Self::Endless
            | Self::Closed => false,
        }
    }

    /// The server does not take the credentials.
    pub(super) fn is_unauthorized(&self) -> bool {
        matches!(self, Self::Api(kube::Error::Api(status)) if status.code == 401)
    }

    /// How long the server asks to be left alone.
    pub(super) fn retry_after(&self) -> Duration {
        let Self::Api(kube::Error::Api(status)) = self else { return Duration::ZERO };
        let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
        Duration::from_secs(seconds.into())
    }
}

/// The message of an API error without the whole Status behind it.
pub(crate) fn brief(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return format!("the API answered {}: {}", status.code, status.message);
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

/// Pauses between failures: doubled each time, with jitter, so that the agents of a cluster do not return all at once.
pub(crate) struct Backoff {
    next: Duration,
    timing: Timing,
}

impl Backoff {
    pub(crate) fn new(timing: Timing) -> Self {
        Self { next: timing.backoff_min, timing }
    }

    pub(crate) fn reset(&mut self) {
        self.next = self.timing.backoff_min;
    }

    pub(crate) fn failed(&mut self) -> Duration {
        let base = self.next;
        self.next = (base * 2).min(self.timing.backoff_max);
        base / 2 + base.mul_f64(f64::from(random()) / f64::from(u32::MAX) / 2.0)
    }
}

/// Different on each call and node: the seed of the standard library's hash tables is random.
pub(crate) fn random() -> u32 {
    u32::try_from(RandomState::new().build_hasher().finish() >> 32).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew_after_success() {
        let timing = Timing::default();
        let mut backoff = Backoff::new(timing);
        for (number, longest) in [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000].into_iter().enumerate() {
            let (pause, longest) = (backoff.failed(), Duration::from_millis(longest));
            assert!((longest / 2..=longest).contains(&pause), "pause {number}: {pause:?} of {longest:?}");
        }
        backoff.reset();
        assert!(backoff.failed() <= timing.backoff_min);
    }
}
