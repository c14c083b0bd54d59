//! Workers that are to probe and have not begun, and which of them may begin now: the oldest, as far as the caps allow.
//!
//! Commands wait in a lane of their own and have at most half of the room: a container runtime that hangs holds each of them for minutes,
//! and the others are not to wait for that. Not here: whether a worker whose turn it is still has something to probe.

use super::WorkerId;
use crate::probes::pace::{Cap, Caps, Pace};
use crate::probes::pod::HandlerKind;
use crate::time::Mono;
use std::collections::{BTreeSet, VecDeque};

/// What has been delayed since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Delayed {
    pub(super) by_concurrency: u64,
    pub(super) by_rate: u64,
}

#[derive(Debug, Default)]
struct Lane {
    /// Since when each is due, the oldest first.
    waiting: VecDeque<(Mono, WorkerId)>,
    /// How many of them, at the front, are counted as delayed.
    counted: usize,
}

#[derive(Debug)]
pub(super) struct Queue {
    /// Commands, and all others.
    lanes: [Lane; 2],
    pace: Pace,
    /// Commands under way.
    commands: BTreeSet<WorkerId>,
    commands_max: usize,
    delayed: Delayed,
}

const COMMANDS: usize = 0;
const OTHERS: usize = 1;

const fn lane_of(handler: HandlerKind) -> usize {
    match handler {
        HandlerKind::Exec => COMMANDS,
        HandlerKind::Http | HandlerKind::Https | HandlerKind::Tcp | HandlerKind::Grpc => OTHERS,
    }
}

impl Queue {
    pub(super) fn new(caps: Caps) -> Self {
        Self {
            lanes: Default::default(),
            pace: Pace::new(caps),
            commands: BTreeSet::new(),
            commands_max: (caps.concurrency / 2).max(1),
            delayed: Delayed::default(),
        }
    }

    /// It is to probe since then.
    pub(super) fn push(&mut self, id: WorkerId, handler: HandlerKind, due: Mono) {
        self.lanes[lane_of(handler)].waiting.push_back((due, id));
    }

    /// It does not wait any more.
    pub(super) fn remove(&mut self, id: WorkerId) {
        for lane in &mut self.lanes {
            if let Some(place) = lane.waiting.iter().position(|(_, other)| *other == id) {
                lane.waiting.remove(place);
                lane.counted -= usize::from(place < lane.counted);
            }
        }
    }

    /// Takes the next that may begin now off the queue; what the caps keep in it is counted.
    pub(super) fn pop(&mut self, now: Mono) -> Option<WorkerId> {
        let mut oldest: Option<(Mono, usize)> = None;
        for lane in [COMMANDS, OTHERS] {
            let Some((due, _)) = self.lanes[lane].waiting.front().copied() else { continue };
            match self.met(lane, now) {
                Some(cap) => self.count_delayed(lane, cap),
                None if oldest.is_none_or(|(other, _)| due < other) => oldest = Some((due, lane)),
                None => {}
            }
        }
        let lane = &mut self.lanes[oldest?.1];
        lane.counted = lane.counted.saturating_sub(1);
        lane.waiting.pop_front().map(|(_, id)| id)
    }

    /// When [`Self::pop`] has something next, unless a probe ends before; `None`: not until then.
    pub(super) fn next(&self, now: Mono) -> Option<Mono> {
        let lanes = [COMMANDS, OTHERS].into_iter().filter(|lane| !self.lanes[*lane].waiting.is_empty());
        let rooms = lanes.filter_map(|lane| match self.met(lane, now) {
            None => Some(now),
            Some(Cap::Rate(at)) => Some(at),
            Some(Cap::Concurrency) => None,
        });
        rooms.min()
    }

    /// Its probe begins.
    pub(super) fn begin(&mut self, id: WorkerId, handler: HandlerKind, now: Mono) {
        self.pace.begin(now);
        if lane_of(handler) == COMMANDS {
            self.commands.insert(id);
        }
    }

    /// Its probe has ended.
    pub(super) fn end(&mut self, id: WorkerId) {
        self.pace.end();
        self.commands.remove(&id);
    }

    /// Probes under way.
    pub(super) const fn running(&self) -> usize {
        self.pace.running()
    }

    pub(super) const fn delayed(&self) -> Delayed {
        self.delayed
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lanes.iter().map(|lane| lane.waiting.len()).sum()
    }

    fn met(&self, lane: usize, now: Mono) -> Option<Cap> {
        let is_full = lane == COMMANDS && self.commands.len() >= self.commands_max;
        if is_full { Some(Cap::Concurrency) } else { self.pace.met(now) }
    }

    fn count_delayed(&mut self, lane: usize, cap: Cap) {
        let lane = &mut self.lanes[lane];
        let new = u64::try_from(lane.waiting.len() - lane.counted).unwrap_or(u64::MAX);
        lane.counted = lane.waiting.len();
        let count = match cap {
            Cap::Concurrency => &mut self.delayed.by_concurrency,
            Cap::Rate(_) => &mut self.delayed.by_rate,
        };
        *count = count.saturating_add(new);
    }
}
