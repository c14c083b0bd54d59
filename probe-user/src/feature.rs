//! Parts of the agent that work only if they are asked for and the node plays along: how each goes, shared between its task and the servers.
//!
//! Not here: what a part does, and the names of what it counts.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Whether the proxy's rules are followed, connection tracking is asked, or the kubelet is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Not asked for.
    #[default]
    Disabled,
    /// It works.
    Active,
    /// There is nothing to follow, or not the permission to: why.
    Unsupported(String),
    /// It should work: why it does not.
    Failed(String),
}

impl State {
    /// Its name, and why it does not work; `off` is why one is disabled.
    #[must_use]
    pub fn told<'a>(&'a self, off: &'a str) -> (&'static str, Option<&'a str>) {
        match self {
            Self::Active => ("active", None),
            Self::Disabled => ("disabled", Some(off)),
            Self::Unsupported(why) => ("unsupported", Some(why)),
            Self::Failed(why) => ("failed", Some(why)),
        }
    }
}

/// State of a part that asks somebody, and how many of its questions ended in each of `N` ways. Clones share it.
#[derive(Clone, Debug)]
pub struct Asking<const N: usize>(Arc<Mutex<(State, [u64; N])>>);

impl<const N: usize> Default for Asking<N> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new((State::default(), [0; N]))))
    }
}

impl<const N: usize> Asking<N> {
    /// How it goes.
    #[must_use]
    pub fn state(&self) -> State {
        self.lock().0.clone()
    }

    /// How many questions ended how.
    #[must_use]
    pub fn counts(&self) -> [u64; N] {
        self.lock().1
    }

    /// True if the state was another.
    pub(crate) fn set(&self, state: State) -> bool {
        let before = &mut self.lock().0;
        let is_news = *before != state;
        *before = state;
        is_news
    }

    /// A question ended in the way of this number, below `N`.
    pub(crate) fn count(&self, way: usize) {
        if let Some(count) = self.lock().1.get_mut(way) {
            *count += 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, (State, [u64; N])> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
