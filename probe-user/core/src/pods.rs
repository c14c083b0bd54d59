//! What is known of the pods of this node: API facts, cgroups, slot, counters, evidence, and the end that is under way.

use crate::conntrack::{Before, Met, Tracked, sent_it};
use crate::endpoints::Membership;
use crate::episode::Episode;
use crate::event::{Address, Loss, Pod};
use crate::exec::PodExecs;
use crate::kubelet::PortSeen;
use crate::ledger::Ledger;
use crate::ports::PortUse;
use crate::routes::Routes;
use crate::slots::PodIx;
use crate::time::Mono;
use crate::totals::WorkloadIx;
use crate::verdicts::PodVerdicts;
use probe_ebpf::wire::SlotRef;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

/// Containers of one pod that are kept, past instances until their end is concluded.
pub(crate) const MAX_CONTAINERS: usize = 64;
/// Ports of one pod.
pub(crate) const MAX_PORTS: usize = 256;
/// Services of one pod.
pub(crate) const MAX_SERVICES: usize = 64;
/// Listener closes that one end keeps.
pub(crate) const MAX_LISTENERS: usize = 64;

/// One container instance, known by its cgroup.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Container {
    pub(crate) cgroup: u64,
    pub(crate) id: String,
    /// Index in the kernel's table; none if that is full.
    pub(crate) index: Option<u32>,
    /// Name in the spec, once a status named its id. The sandbox never has one.
    pub(crate) name: Option<String>,
    /// The startup probe had passed, as long as it lived.
    pub(crate) started: Option<bool>,
    /// Why it ended, by its own status (`OOMKilled`, `Error`, …); empty until that says so.
    #[serde(default)]
    pub(crate) terminated_reason: String,
    pub(crate) signal: Option<(Mono, u32)>,
    pub(crate) ignored: bool,
    pub(crate) ignored_counted: bool,
    pub(crate) killed: Option<Mono>,
    /// Exit of its init, and its status where that was told.
    pub(crate) exit: Option<(Mono, Option<u32>)>,
    pub(crate) cgroup_gone: Option<Mono>,
    /// Its end was reported; it is kept because the kernel side tells the phase of its ports by its index.
    pub(crate) concluded: bool,
}

impl Container {
    pub(crate) fn new(cgroup: u64, id: String, index: Option<u32>) -> Self {
        Self {
            cgroup,
            id,
            index,
            name: None,
            started: None,
            terminated_reason: String::new(),
            signal: None,
            ignored: false,
            ignored_counted: false,
            killed: None,
            exit: None,
            cgroup_gone: None,
            concluded: false,
        }
    }

    /// Its end as the kernel told it: the exit, or its cgroup's removal if the exit's record was lost.
    pub(crate) fn ended(&self) -> Option<Mono> {
        self.exit.map(|(at, _)| at).or(self.cgroup_gone)
    }

    /// Its first signal, kill or exit.
    pub(crate) fn stopped(&self) -> Option<Mono> {
        [self.signal.map(|(at, _)| at), self.killed, self.ended()].into_iter().flatten().min()
    }

    /// Killed for memory.
    pub(crate) fn is_oom(&self) -> bool {
        self.terminated_reason == "OOMKilled"
    }

    /// SIGKILL ended it.
    pub(crate) fn was_killed(&self) -> bool {
        self.killed.is_some()
            || self.exit.is_some_and(|(_, status)| status.is_some_and(|status| status & 0x7f == 9))
    }
}

/// A listener that closed with no other left on its port.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Unlisten {
    pub(crate) at: Mono,
    pub(crate) port: u16,
    pub(crate) container: Option<u32>,
}

/// Evidence since the pod's last end was over.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct EvidenceLog {
    pub(crate) items: VecDeque<(Mono, bool, Loss)>,
    pub(crate) dropped: u64,
    /// Records received, those of probes included.
    pub(crate) received: u64,
    /// Losses whose client is on this node.
    pub(crate) same_node: u64,
    /// Losses that a stale entry of connection tracking caused.
    pub(crate) stale_entries: u64,
    pub(crate) last: Option<Mono>,
    /// The entries of those items that were asked about: by the item's moment, client and pod.
    met: BTreeMap<(Mono, Address, Address), Met>,
}

impl EvidenceLog {
    /// Adds a record; false if the oldest had to go.
    pub(crate) fn push(&mut self, at: Mono, same_node: bool, loss: Loss, limit: usize) -> bool {
        let attempts = u64::from(loss.attempts);
        self.received = self.received.saturating_add(attempts);
        self.same_node = self.same_node.saturating_add(if same_node { attempts } else { 0 });
        self.last = self.last.max(Some(at));
        self.items.push_back((at, same_node, loss));
        let fits = self.items.len() <= limit;
        if !fits {
            let oldest = self.items.pop_front().map_or(0, |(at, _, loss)| self.forget(at, &loss));
            self.dropped = self.dropped.saturating_add(oldest);
        }
        fits
    }

    /// Attempts of an item that has gone.
    fn forget(&mut self, at: Mono, loss: &Loss) -> u64 {
        self.met.remove(&(at, loss.peer, loss.local));
        u64::from(loss.attempts)
    }

    /// Takes what connection tracking has of a lost connect.
    pub(crate) fn track(&mut self, tracked: &Tracked) {
        let Tracked { lost, peer, local, entry, .. } = *tracked;
        let key = (lost, peer, local);
        let is_it = |(at, _, loss): &&(Mono, bool, Loss)| (*at, loss.peer, loss.local) == key;
        let Some((_, _, loss)) = self.items.iter().find(is_it) else { return };
        let (attempted, attempts) = (loss.attempted.unwrap_or(lost), u64::from(loss.attempts));
        let others = self.items.iter().filter(|(_, _, loss)| (loss.peer, loss.local) == (peer, local));
        let earlier = others
            .map(|(at, _, loss)| (loss.attempted.unwrap_or(*at), *at))
            .filter(|(moment, at)| *moment < attempted && *at != lost)
            .max();
        let before = earlier.and_then(|(moment, at)| {
            let entry = self.met.get(&(at, peer, local))?.entry?;
            Some(Before { entry, ago_ns: attempted.since(moment) })
        });
        let stale = sent_it(loss.class, local, attempted, entry.as_ref(), before.as_ref());
        if self.met.insert(key, Met { entry, stale }).is_none() && stale.is_some() {
            self.stale_entries = self.stale_entries.saturating_add(attempts);
        }
    }

    /// What is known of the entry of an item.
    pub(crate) fn met(&self, at: Mono, loss: &Loss) -> Option<&Met> {
        self.met.get(&(at, loss.peer, loss.local))
    }

    /// A stale entry of connection tracking sent the connect of this moment.
    pub(crate) fn is_stale(&self, moment: Mono) -> bool {
        self.items.iter().any(|(at, _, loss)| {
            loss.attempted.unwrap_or(*at) == moment
                && self.met(*at, loss).is_some_and(|met| met.stale.is_some())
        })
    }

    /// What came after this moment, to be kept for the pod's next end.
    pub(crate) fn after(self, moment: Mono) -> Self {
        let mut kept = Self::default();
        for (at, same_node, loss) in self.items.into_iter().filter(|(at, ..)| *at > moment) {
            if let Some(met) = self.met.get(&(at, loss.peer, loss.local)) {
                kept.met.insert((at, loss.peer, loss.local), *met);
                kept.stale_entries += if met.stale.is_some() { u64::from(loss.attempts) } else { 0 };
            }
            let _fits = kept.push(at, same_node, loss, usize::MAX);
        }
        kept
    }

    /// After a restore: the bound that holds now. Tells how many had to go.
    pub(crate) fn rebuild(&mut self, limit: usize) -> u64 {
        let surplus = self.items.len().saturating_sub(limit);
        let surplus: Vec<_> = self.items.drain(..surplus).collect();
        let surplus = surplus.iter().map(|(at, _, loss)| self.forget(*at, loss)).sum();
        self.dropped = self.dropped.saturating_add(surplus);
        surplus
    }
}

/// One pod.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PodState {
    /// Its place in the table.
    #[serde(skip)]
    pub(crate) ix: PodIx,
    /// The API's uid; the cgroup's until that is known.
    pub(crate) uid: String,
    /// The newest fact; none while only its cgroup is known.
    pub(crate) fact: Option<Box<Pod>>,
    pub(crate) workload: Option<WorkloadIx>,
    pub(crate) slot: Option<SlotRef>,
    /// It had a slot at some time.
    pub(crate) was_watched: bool,
    /// The kernel side knows that it is being deleted.
    pub(crate) marked: bool,
    /// There was none when it came.
    pub(crate) slot_refused: bool,
    pub(crate) ports: BTreeMap<u16, PortUse>,
    /// What was seen of its probes, by port.
    #[serde(default)]
    pub(crate) probed: BTreeMap<u16, PortSeen>,
    /// What the kubelet says of its probes, since this agent asks.
    #[serde(skip)]
    pub(crate) verdicts: PodVerdicts,
    /// What was run in its containers from outside.
    #[serde(default)]
    pub(crate) execs: PodExecs,
    /// The kernel side knows that services name some of its ports.
    pub(crate) served: bool,
    /// By service name.
    pub(crate) services: BTreeMap<String, Membership>,
    /// Addresses and ports of services without endpoints that the kernel side counts for it.
    #[serde(default)]
    pub(crate) vacant: BTreeSet<(IpAddr, u16)>,
    /// Since when the service proxy sends traffic to it although it is terminating.
    pub(crate) fallback: Option<Mono>,
    #[serde(default)]
    pub(crate) routes: Routes,
    pub(crate) containers: Vec<Container>,
    pub(crate) listeners: Vec<Unlisten>,
    pub(crate) ledger: Ledger,
    pub(crate) evidence: EvidenceLog,
    pub(crate) episode: Option<Episode>,
    /// Was Ready since its containers started last.
    pub(crate) was_ready: bool,
    /// First fact with phase Succeeded or Failed.
    pub(crate) terminal: Option<Mono>,
    /// First fact in which every container has an exit code.
    pub(crate) api_exited: Option<Mono>,
    /// Left the API.
    pub(crate) gone: Option<Mono>,
    /// Its end is concluded: nothing of it is of interest any more.
    pub(crate) done: bool,
    /// Its slot waits for a last reading since then.
    pub(crate) releasing: Option<Mono>,
    /// Its own cgroup.
    pub(crate) cgroup: Option<u64>,
    /// What its place in the timer queue is.
    pub(crate) timer: Option<Mono>,
}

impl PodState {
    pub(crate) fn new(ix: PodIx, uid: String) -> Self {
        Self {
            ix,
            uid,
            fact: None,
            workload: None,
            slot: None,
            was_watched: false,
            marked: false,
            slot_refused: false,
            ports: BTreeMap::new(),
            probed: BTreeMap::new(),
            verdicts: PodVerdicts::default(),
            execs: PodExecs::default(),
            served: false,
            services: BTreeMap::new(),
            vacant: BTreeSet::new(),
            fallback: None,
            routes: Routes::default(),
            containers: Vec::new(),
            listeners: Vec::new(),
            ledger: Ledger::default(),
            evidence: EvidenceLog::default(),
            episode: None,
            was_ready: false,
            terminal: None,
            api_exited: None,
            gone: None,
            done: false,
            releasing: None,
            cgroup: None,
            timer: None,
        }
    }

    /// Containers that take part in the pod's end: those that the API names.
    pub(crate) fn named(&self) -> impl Iterator<Item = &Container> + '_ {
        self.containers.iter().filter(|container| container.name.is_some())
    }

    /// The container with this index.
    pub(crate) fn container_mut(&mut self, index: u32) -> Option<&mut Container> {
        self.containers.iter_mut().find(|container| container.index == Some(index))
    }

    /// A process of it may live.
    pub(crate) fn is_alive(&self) -> bool {
        if self.containers.is_empty() {
            let has_id = |fact: &Pod| fact.containers.iter().any(|status| !status.id.is_empty());
            return self.terminal.is_none()
                && self.api_exited.is_none()
                && self.fact.as_deref().is_some_and(has_id);
        }
        self.terminal.is_none() && self.named().any(|container| container.ended().is_none())
    }

    /// It is being stopped, or its slot waits for the last reading.
    pub(crate) fn is_terminating(&self) -> bool {
        self.episode.is_some() || self.releasing.is_some()
    }
}

/// The table of pods.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Pods {
    list: Vec<Option<Box<PodState>>>,
    free: Vec<PodIx>,
    by_uid: BTreeMap<String, PodIx>,
    by_cgroup: BTreeMap<u64, PodIx>,
}

impl Pods {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.list.len() - self.free.len()
    }

    pub(crate) fn insert(&mut self, uid: &str) -> PodIx {
        let ix = self.free.pop().unwrap_or_else(|| {
            self.list.push(None);
            self.list.len() - 1
        });
        self.list[ix] = Some(Box::new(PodState::new(ix, uid.to_owned())));
        self.alias(uid, ix);
        ix
    }

    /// The pod is known by this uid too.
    pub(crate) fn alias(&mut self, uid: &str, ix: PodIx) {
        self.by_uid.insert(uid.to_owned(), ix);
    }

    pub(crate) fn find(&self, uid: &str) -> Option<PodIx> {
        self.by_uid.get(uid).copied()
    }

    pub(crate) fn own_cgroup(&mut self, cgroup: u64, ix: PodIx) {
        self.by_cgroup.insert(cgroup, ix);
    }

    pub(crate) fn of_cgroup(&self, cgroup: u64) -> Option<PodIx> {
        self.by_cgroup.get(&cgroup).copied()
    }

    pub(crate) fn disown_cgroup(&mut self, cgroup: u64) {
        self.by_cgroup.remove(&cgroup);
    }

    pub(crate) fn get(&self, ix: PodIx) -> Option<&PodState> {
        self.list.get(ix)?.as_deref()
    }

    pub(crate) fn get_mut(&mut self, ix: PodIx) -> Option<&mut PodState> {
        self.list.get_mut(ix)?.as_deref_mut()
    }

    /// Takes a pod out to work on it; [`Self::put`] gives it back.
    pub(crate) fn take(&mut self, ix: PodIx) -> Option<Box<PodState>> {
        self.list.get_mut(ix)?.take()
    }

    pub(crate) fn put(&mut self, pod: Box<PodState>) {
        let ix = pod.ix;
        self.list[ix] = Some(pod);
    }

    /// Forgets a pod that was taken out.
    pub(crate) fn forget(&mut self, pod: &PodState) {
        self.by_uid.retain(|_, ix| *ix != pod.ix);
        self.by_cgroup.retain(|_, ix| *ix != pod.ix);
        self.free.push(pod.ix);
    }

    /// Every pod that is in the table now.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &PodState> + '_ {
        self.list.iter().filter_map(Option::as_deref)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut PodState> + '_ {
        self.list.iter_mut().filter_map(Option::as_deref_mut)
    }

    /// After a restore: what is not saved. False if an index leads nowhere.
    pub(crate) fn rebuild(&mut self) -> bool {
        for (ix, pod) in self.list.iter_mut().enumerate() {
            if let Some(pod) = pod {
                pod.ix = ix;
            }
        }
        let is_pod = |ix: &PodIx| self.list.get(*ix).is_some_and(Option::is_some);
        let holes: BTreeSet<PodIx> = (0..self.list.len()).filter(|ix| !is_pod(ix)).collect();
        let free: BTreeSet<PodIx> = self.free.iter().copied().collect();
        free == holes
            && free.len() == self.free.len()
            && self.by_uid.values().all(is_pod)
            && self.by_cgroup.values().all(is_pod)
    }

    /// Places of all pods.
    pub(crate) fn places(&self) -> Vec<PodIx> {
        self.iter().map(|pod| pod.ix).collect()
    }
}
