//! A watch that delivers late: every change reaches its reader a settable time after it happened, in order.
//!
//! The delay is that of each single change, not a pause between rounds, so that "endpoints lag 3 s" means 3 s for every change. It may be set while
//! the world runs; it then holds for the changes that come after.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::apiserver::{Change, Store, Watch};

/// How often a waiting reader gets the chance to look at something else, such as its stop flag.
const TURN: Duration = Duration::from_millis(50);

/// A delay that can be changed while it is in use; clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Delay(Arc<AtomicU64>);

impl Delay {
    /// A delay of so long.
    pub fn new(delay: Duration) -> Self {
        let this = Self::default();
        this.set(delay);
        this
    }

    /// Sets it for everything that begins from now on.
    pub fn set(&self, delay: Duration) {
        self.0.store(u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// What it is now.
    pub fn get(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// What the reader learns.
#[derive(Clone, Debug)]
pub(crate) enum Delivery {
    /// Read the store's present state: the watch starts, or changes were lost.
    Resync,
    /// One change, its delay ago.
    Change(Arc<Change>),
}

/// The watch and what is still under way.
#[derive(Debug)]
pub(crate) struct DelayedWatch {
    store: Store,
    watch: Watch,
    delay: Delay,
    under_way: VecDeque<(Instant, Delivery)>,
}

impl DelayedWatch {
    /// Watches from now on; the first delivery is a [`Delivery::Resync`].
    pub(crate) fn start(store: &Store, delay: &Delay) -> Self {
        let (_, watch) = store.watch();
        let under_way = VecDeque::from([(Instant::now(), Delivery::Resync)]);
        Self { store: store.clone(), watch, delay: delay.clone(), under_way }
    }

    /// The next delivery that is due, waiting for one turn at most, and not beyond `until`.
    pub(crate) fn next(&mut self, until: Option<Instant>) -> Option<Delivery> {
        let turn_end = Instant::now() + TURN;
        let turn_end = until.map_or(turn_end, |until| until.min(turn_end));
        loop {
            self.take_what_is_there();
            let now = Instant::now();
            if self.under_way.front().is_some_and(|(due, _)| *due <= now) {
                return self.under_way.pop_front().map(|(_, delivery)| delivery);
            }
            if now >= turn_end {
                return None;
            }
            let wake = self.under_way.front().map_or(turn_end, |(due, _)| turn_end.min(*due));
            match self.watch.next_timeout(wake - now) {
                Ok(Some(change)) => self.push(Delivery::Change(change)),
                Ok(None) => {}
                Err(_expired) => self.begin_again(),
            }
        }
    }

    fn take_what_is_there(&mut self) {
        loop {
            match self.watch.try_next() {
                Ok(Some(change)) => self.push(Delivery::Change(change)),
                Ok(None) => return,
                Err(_expired) => self.begin_again(),
            }
        }
    }

    /// The store's history no longer reaches back: its present state stands for what was missed.
    fn begin_again(&mut self) {
        (_, self.watch) = self.store.watch();
        self.push(Delivery::Resync);
    }

    /// Never before what came earlier, also when the delay has become shorter.
    fn push(&mut self, delivery: Delivery) {
        let due = Instant::now() + self.delay.get();
        let due = self.under_way.back().map_or(due, |(last, _)| due.max(*last));
        self.under_way.push_back((due, delivery));
    }
}
