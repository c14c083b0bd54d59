//! One end of a pod or of some of its containers, while it is under way: when it is over, and what it was.
//!
//! It begins with the deletion, with the first stop of a named container, or with the object's leaving. Whether it is
//! the pod's termination or only a container's restart may show late. Everything here is a pure function of what is
//! known of the pod; [`crate::monitor`] keeps the time and acts on the result.

use crate::endpoints::{Stage, Vacancy, WATCH_SKEW_NS, reached};
use crate::event::WatchHealth;
use crate::limits::SECOND;
use crate::pods::{Container, PodState};
use crate::termination::{Name, Outcome, State, Trigger};
use crate::time::Mono;
use crate::wallclock::Offset;
use probe_ebpf::class::{Class, Phase};
use probe_ebpf::wire::Counters;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Nothing came for so long: nothing more will. Above the longest gap between the SYNs of one connect (1, 2, 4 s) and
/// the second for which a slice's change may wait.
const QUIET_NS: u64 = 10 * SECOND;
/// A termination is over so long after its last exit, whatever is missing: two minutes cover TIME_WAIT and retries.
const SETTLED_NS: u64 = 120 * SECOND;
/// Fewer connections than these say nothing of a tail (design, "censored").
const TAIL_CONNECTIONS: u64 = 20;
/// Attempts that came until so short before the address vanished would have gone on coming.
const TAIL_GAP_NS: u64 = SECOND;

/// One end that is under way.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Episode {
    pub(crate) began: Mono,
    /// The wall clock that its stamps are told by; a later step does not tear them apart.
    pub(crate) offset: Option<Offset>,
    /// The deletion (or, without one, the object's leaving while processes lived) was seen.
    pub(crate) seen: Option<Mono>,
    /// The request, by the API's clock.
    pub(crate) requested_unix_ns: Option<i64>,
    pub(crate) grace: Option<i64>,
    /// Stopped while an endpoint was ready and the watches were healthy.
    pub(crate) ready_at_stop: Option<bool>,
    /// Earliest report of open connections.
    pub(crate) open_at_stop: Option<(Mono, u64)>,
    /// Late connections that came on purpose.
    pub(crate) expected: u64,
    /// The service proxy sent traffic on purpose at some time.
    pub(crate) fallback: bool,
    /// What may have touched it.
    pub(crate) troubles: BTreeSet<Name>,
    /// It waits for a last reading since then.
    pub(crate) last_reading_since: Option<Mono>,
}

impl Episode {
    pub(crate) fn new(began: Mono, offset: Option<Offset>) -> Self {
        Self {
            began,
            offset,
            seen: None,
            requested_unix_ns: None,
            grace: None,
            ready_at_stop: None,
            open_at_stop: None,
            expected: 0,
            fallback: false,
            troubles: BTreeSet::new(),
            last_reading_since: None,
        }
    }

    /// Something may have touched it.
    pub(crate) fn trouble(&mut self, name: &'static str) {
        self.troubles.insert(name.into());
    }
}

/// How an end is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// The pod was stopped.
    Termination,
    /// Containers ended while their pod was not being stopped.
    Containers,
    /// Nothing ended (a signal without effect).
    Nothing,
}

/// What an end waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// A fact.
    Fact,
    /// This moment, then it is over.
    Until(Mono, Over),
}

/// A pod together with its end.
#[derive(Clone, Copy)]
pub(crate) struct End<'a> {
    pub(crate) pod: &'a PodState,
    pub(crate) episode: &'a Episode,
}

impl<'a> End<'a> {
    pub(crate) fn of(pod: &'a PodState) -> Option<Self> {
        pod.episode.as_ref().map(|episode| Self { pod, episode })
    }

    /// It is the pod's termination, not only a container's end.
    pub(crate) fn is_termination(&self) -> bool {
        if self.episode.seen.is_some() {
            return true;
        }
        match self.pod.terminal {
            Some(_) => self.stopped_by_signal() || !self.disruption().is_empty(),
            None => self.pod.gone.is_some(),
        }
    }

    /// Containers that ended so long before this moment that no deletion seen now can have been the cause, and no other is
    /// being stopped.
    pub(crate) fn is_old_restart(&self, at: Mono) -> bool {
        let is_old =
            |container: &Container| container.ended().is_some_and(|ended| ended.after(QUIET_NS) <= at);
        let mut containers = self.containers().peekable();
        !self.is_termination()
            && !self.episode.troubles.contains("watch_gap")
            && containers.peek().is_some()
            && containers.all(is_old)
    }

    /// Why Kubernetes stopped the pod, where it was not a deletion alone.
    fn disruption(&self) -> &'a str {
        self.pod.fact.as_ref().map_or("", |fact| fact.disruption.as_str())
    }

    /// Every named container ended after a signal from outside.
    pub(crate) fn stopped_by_signal(&self) -> bool {
        let mut named = self.pod.named().filter(|container| !container.concluded).peekable();
        named.peek().is_some() && named.all(|container| container.signal.is_some())
    }

    /// Containers whose end this is.
    pub(crate) fn containers(&self) -> impl Iterator<Item = &'a Container> + use<'a> {
        let whole_pod = self.is_termination();
        let is_of_this = move |container: &&Container| {
            !container.concluded && (whole_pod || container.stopped().is_some())
        };
        self.pod.named().filter(is_of_this)
    }

    /// End of one of its containers: as the kernel told it; else as the API did, where the kernel could not.
    pub(crate) fn ended(&self, container: &Container) -> Option<Mono> {
        let blind = container.index.is_none() || self.pod.ledger.read_at().is_none();
        container.ended().or(self.pod.terminal).or(if blind { self.pod.gone } else { None })
    }

    /// The last exit, once there is none to wait for.
    pub(crate) fn exited(&self) -> Option<Mono> {
        let mut last = None;
        for container in self.containers() {
            last = last.max(Some(self.ended(container)?));
        }
        last.or_else(|| [self.pod.terminal, self.pod.api_exited, self.pod.gone].into_iter().flatten().min())
    }

    /// The first stop signal.
    pub(crate) fn signalled(&self) -> Option<Mono> {
        self.containers().filter_map(|container| container.signal).map(|(at, _)| at).min()
    }

    /// The first signal, kill or exit.
    pub(crate) fn stopped(&self) -> Option<Mono> {
        self.containers().filter_map(Container::stopped).min()
    }

    /// A newer instance of a container that ended is there.
    pub(crate) fn restarted(&self) -> bool {
        self.containers().filter(|old| old.ended().is_some()).any(|old| is_replaced(self.pod, old))
    }

    /// A stage of the endpoint's removal.
    pub(crate) fn endpoint(&self, stage: Stage) -> Option<Mono> {
        reached(self.pod.services.values(), stage, self.since())
    }

    /// When this node's service proxy had taken it out of its rules.
    pub(crate) fn programmed(&self) -> Option<Mono> {
        self.pod.routes.programmed(self.since())
    }

    /// Services that had no endpoint any more when this one's had gone, by name. One that the API told shortly before the end began
    /// came with it: the two come by different watches.
    pub(crate) fn vacancies(&self) -> impl Iterator<Item = (&'a String, Vacancy)> + use<'a> {
        let began = self.episode.began;
        let all = self.pod.services.iter().filter_map(|(name, service)| Some((name, service.vacancy?)));
        all.filter(move |(_, vacancy)| vacancy.from.after(WATCH_SKEW_NS) >= began)
    }

    /// What its endpoint's removal is the effect of.
    pub(crate) fn since(&self) -> Mono {
        self.episode.seen.unwrap_or(self.episode.began)
    }

    /// Its counters.
    pub(crate) fn counters(&self) -> Counters {
        self.pod.ledger.episode()
    }

    /// What it waits for. `slices` is how the slices of its namespace are watched, `pods_synced` since when the pods are.
    pub(crate) fn plan(&self, slices: Option<WatchHealth>, pods_synced: Option<Mono>) -> Plan {
        let is_termination = self.is_termination();
        let over = if is_termination { Over::Termination } else { Over::Containers };
        let Some(exit) = self.exited() else {
            if let Some(gone) = self.pod.gone {
                return Plan::Until(gone.after(SETTLED_NS), Over::Termination);
            }
            let grace = self.pod.fact.as_ref().map_or(0, |fact| u64::from(fact.grace_seconds));
            let last = self.containers().filter_map(|c| c.signal.map(|(at, _)| at).max(c.killed)).max();
            let last = last.unwrap_or(self.episode.began);
            return if is_termination {
                Plan::Fact
            } else {
                Plan::Until(last.after(SETTLED_NS).after(grace * SECOND), Over::Nothing)
            };
        };
        let began = exit.max(self.episode.seen.unwrap_or(exit));
        let cap = began.after(SETTLED_NS);
        // Whether the kubelet starts the container again or gives the pod up is not known yet.
        if !is_termination && self.pod.terminal.is_none() && !self.restarted() {
            return pods_synced
                .map_or(Plan::Fact, |since| Plan::Until(cap.max(since.after(SETTLED_NS)), over));
        }
        let is_out = match slices {
            Some(WatchHealth::Synced) => self.pod.services.values().all(|service| !service.now.ready),
            // Nobody watches any more: there is nothing to wait for.
            Some(WatchHealth::Ended) => true,
            Some(WatchHealth::Broken) | None => false,
        };
        if is_termination && (!is_out || self.pod.routes.is_used()) {
            return Plan::Until(cap, over);
        }
        let counters = self.counters();
        let last = [
            Some(began),
            self.endpoint(Stage::NotReady),
            self.endpoint(Stage::Unserving),
            self.endpoint(Stage::Gone),
            self.programmed(),
            Some(Mono(counters.last_new_ns)),
            self.pod.evidence.last,
        ];
        let quiet = last.into_iter().flatten().max().unwrap_or(began).after(QUIET_NS);
        Plan::Until(quiet.min(cap), over)
    }

    /// What made Kubernetes stop the pod.
    pub(crate) fn trigger(&self) -> Trigger {
        match self.disruption() {
            "" if self.episode.seen.is_some() => Trigger::Delete,
            // The object left while nobody could watch: somebody deleted it.
            "" if self.pod.gone.is_some() && self.episode.troubles.contains("watch_gap") => Trigger::Delete,
            "" => Trigger::Unknown,
            // The status reason that the kubelet writes on a graceful node shutdown.
            "Terminated" | "NodeShutdown" | "Shutdown" => Trigger::NodeShutdown,
            _ => Trigger::Eviction,
        }
    }

    /// How it ended.
    pub(crate) fn outcome(&self) -> Outcome {
        let exited = self.exited();
        let forced = self.episode.grace == Some(0)
            || self.pod.gone.is_some_and(|gone| {
                self.containers().any(|container| self.ended(container).is_none_or(|ended| ended > gone))
            });
        if forced {
            Outcome::Forced
        } else if exited.is_none() {
            Outcome::Running
        } else if self.containers().any(|c| c.was_killed() && c.signal.is_some() && !c.is_oom()) {
            Outcome::GraceExceeded
        } else {
            Outcome::Exited
        }
    }

    /// Stopped without a deletion in the API while it was an endpoint. A container's restart is not.
    pub(crate) fn is_silent(&self) -> bool {
        self.is_termination()
            && self.episode.seen.is_none()
            && !self.episode.troubles.contains("watch_gap")
            && self.episode.ready_at_stop == Some(true)
            && self.stopped_by_signal()
    }

    /// How far it is.
    pub(crate) fn state(&self) -> State {
        if self.exited().is_some() {
            State::Settling
        } else if self.stopped().is_some() {
            State::Stopping
        } else {
            State::Deleting
        }
    }

    /// When the address went: the end of the sandbox, which no status names.
    fn vanished(&self) -> Option<Mono> {
        let unnamed = self.pod.containers.iter().filter(|container| container.name.is_none());
        unnamed.filter_map(Container::ended).filter(|at| *at >= self.episode.began).max()
    }

    /// Deletion seen to last new connection. Not known if that is one that a stale entry of connection tracking sent: when the
    /// one before it came is not counted.
    pub(crate) fn tail(&self) -> Option<u64> {
        let last = Mono(self.counters().last_new_ns);
        if last.0 == 0 || self.pod.evidence.is_stale(last) {
            None
        } else {
            self.episode.seen.map(|seen| last.since(seen))
        }
    }

    /// The tail is no measure of what a sleep must cover.
    pub(crate) fn tail_censored(&self) -> bool {
        let counters = self.counters();
        let late = |class: Class| {
            let lost = &counters.lost[class as usize];
            let counts =
                [Phase::Deleting, Phase::Stopping].into_iter().flat_map(|phase| lost[phase as usize]);
            counts.fold(0, u64::saturating_add)
        };
        let blackholed = late(Class::Blackholed);
        let arrived = counters.late_opened.saturating_add(late(Class::Refused)).saturating_add(blackholed);
        let last = Mono(counters.last_new_ns);
        // What still comes after the address went is seen only where this node drops it: then it was counted.
        let cut =
            blackholed == 0 && self.vanished().is_some_and(|at| last <= at && at.since(last) < TAIL_GAP_NS);
        // What the proxy sends on purpose comes until the end, however late that is.
        let is_expected = self.episode.fallback;
        let is_late = self.episode.troubles.contains("seen_late");
        self.tail().is_none() || arrived < TAIL_CONNECTIONS || cut || is_expected || is_late
    }
}

/// A container of the same name that lives or ended later took this one's place.
pub(crate) fn is_replaced(pod: &PodState, old: &Container) -> bool {
    let mut seen = false;
    for container in &pod.containers {
        if container.cgroup == old.cgroup {
            seen = true;
        } else if seen && container.name == old.name && container.name.is_some() {
            return true;
        }
    }
    false
}
