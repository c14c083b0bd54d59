//! What Kubernetes Events say of lost requests, and when: one for the end of each pod that lost some, and one for the rollout
//! of its workload on this node, which grows with each further end. In: ended terminations, in the order of their
//! conclusion. Sends nothing; names follow from what the notices are about, so that saying one twice makes no second Event.

use crate::advice::Advice;
use crate::event::Workload;
use crate::limits::SECOND;
use crate::termination::{Lost, Termination};
use crate::time::Mono;
use crate::wallclock::Timestamp;
use probe_ebpf::class::Class;
use std::collections::BTreeMap;

/// The Events' reason.
pub const REASON: &str = "RequestsLost";

/// Ends of one workload that are further apart belong to different rollouts, as for the advice.
const GAP_NS: u64 = 600 * SECOND;
/// A workload whose pods keep ending gets a new Event after this time: the API server forgets Events after an hour.
const LONGEST_NS: u64 = 3600 * SECOND;
/// Rollouts that are remembered; beyond it the one whose last end is oldest goes, and its next end begins a new Event.
const ROLLOUTS: usize = 512;
/// Longest message that the API takes of Events with all fields (core/validation, `NoteLengthLimit`).
const MESSAGE_BYTES: usize = 1024;
/// Longest part of an Event's name that is the object's: names have 253 characters at most, and a hash follows.
const STEM_BYTES: usize = 240;

/// What an Event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// A pod.
    Pod {
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
    },
    /// A workload, by its name: who owns a ReplicaSet is known by name alone.
    Workload(Workload),
}

/// One Event, as it shall be from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The Event's name: a DNS subdomain.
    pub name: String,
    /// Its namespace, which is that of the object.
    pub namespace: String,
    /// What it is about.
    pub about: About,
    /// For people.
    pub message: String,
    /// How many ends it stands for: from 2 on it replaces what was said before.
    pub count: u64,
    /// When the first of them began.
    pub first: Timestamp,
    /// When the last of them was over.
    pub last: Timestamp,
}

/// Ends of a workload that belong together.
#[derive(Debug)]
struct Rollout {
    began: Mono,
    newest: Mono,
    began_wall: Timestamp,
    ends: u64,
    /// Of those, with losses; what follows is about them.
    lossy: u64,
    first: Timestamp,
    last: Timestamp,
    lost: Lost,
    inferred: u64,
    complete: bool,
}

/// Decides what is said.
#[derive(Debug)]
pub struct Notices {
    node: String,
    rollouts: BTreeMap<(String, Workload), Rollout>,
}

impl Notices {
    /// Nothing was said yet.
    #[must_use]
    pub fn new(node: String) -> Self {
        Self { node, rollouts: BTreeMap::new() }
    }

    /// An end of which was spoken before, by the agent before this one.
    pub fn remember(&mut self, item: &Termination) {
        self.rollout(item);
    }

    /// An end: what is to be said of it. `advice` is that of its workload's rollout.
    pub fn handle(&mut self, item: &Termination, advice: Option<&Advice>) -> Vec<Notice> {
        // Not in the API: there is no object to speak of.
        if item.pod.namespace.is_empty() || item.pod.name.is_empty() {
            return Vec::new();
        }
        let node = self.node.clone();
        let rollout = self.rollout(item);
        if item.lost.total() == 0 {
            return Vec::new();
        }
        let notes = advice.map(|advice| advice.notes.join("; ")).unwrap_or_default();
        let began = item.began_wall.to_string();
        let namespace = &item.pod.namespace;
        let lost = lost(&item.lost, item.lost_inferred);
        let mut notices = vec![Notice {
            name: event_name(&item.pod.name, &[&item.pod.uid, &began]),
            namespace: namespace.clone(),
            about: About::Pod { name: item.pod.name.clone(), uid: item.pod.uid.clone() },
            message: message(&format!("{lost} at this pod's end"), item.complete, &notes),
            count: 1,
            first: item.began_wall,
            last: over(item),
        }];
        if is_owner(&item.workload) {
            let Workload { kind, name } = &item.workload;
            let began = rollout.began_wall.to_string();
            let lost = self::lost(&rollout.lost, rollout.inferred);
            let (lossy, ends) = (rollout.lossy, rollout.ends);
            notices.push(Notice {
                name: event_name(name, &[&node, kind, &began]),
                namespace: namespace.clone(),
                about: About::Workload(item.workload.clone()),
                message: message(
                    &format!("{lost} at {lossy} of {ends} pod ends on node {node}"),
                    rollout.complete,
                    &notes,
                ),
                count: lossy,
                first: rollout.first,
                last: rollout.last,
            });
        }
        notices
    }

    /// The rollout that the end belongs to, with it.
    fn rollout(&mut self, item: &Termination) -> &mut Rollout {
        let key = (item.pod.namespace.clone(), item.workload.clone());
        let is_over = |known: &Rollout| {
            item.began.since(known.newest) > GAP_NS || item.began.since(known.began) > LONGEST_NS
        };
        if self.rollouts.get(&key).is_some_and(is_over) {
            self.rollouts.remove(&key);
        }
        if self.rollouts.len() >= ROLLOUTS && !self.rollouts.contains_key(&key) {
            let oldest = self.rollouts.iter().min_by_key(|(_, rollout)| rollout.newest);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.rollouts.remove(&oldest);
            }
        }
        let rollout = self.rollouts.entry(key).or_insert_with(|| Rollout::beginning_with(item));
        rollout.add(item);
        rollout
    }
}

impl Rollout {
    fn beginning_with(item: &Termination) -> Self {
        Self {
            began: item.began,
            newest: item.began,
            began_wall: item.began_wall,
            ends: 0,
            lossy: 0,
            first: item.began_wall,
            last: item.began_wall,
            lost: Lost::default(),
            inferred: 0,
            complete: true,
        }
    }

    fn add(&mut self, item: &Termination) {
        self.ends = self.ends.saturating_add(1);
        self.newest = self.newest.max(item.began);
        if item.lost.total() == 0 {
            return;
        }
        self.first = if self.lossy == 0 { item.began_wall } else { self.first.min(item.began_wall) };
        self.last = self.last.max(over(item));
        self.lossy = self.lossy.saturating_add(1);
        for (sum, count) in self.lost.0.iter_mut().zip(item.lost.0) {
            *sum = sum.saturating_add(count);
        }
        self.inferred = self.inferred.saturating_add(item.lost_inferred);
        self.complete &= item.complete;
    }
}

/// A pod without an owner is its own workload.
fn is_owner(workload: &Workload) -> bool {
    !workload.name.is_empty() && workload.kind != "Pod"
}

/// The last step that is known of an end.
fn over(item: &Termination) -> Timestamp {
    item.timeline.iter().map(|step| step.at).max().map_or(item.began_wall, |last| last.max(item.began_wall))
}

fn lost(lost: &Lost, inferred: u64) -> String {
    let total = lost.total();
    let by_class: Vec<String> = Class::ALL
        .into_iter()
        .filter(|class| lost.of(*class) > 0)
        .map(|class| format!("{} {}", lost.of(class), class.name()))
        .collect();
    let requests = if total == 1 { "request" } else { "requests" };
    let inferred = if inferred > 0 { format!("; {inferred} inferred") } else { String::new() };
    format!("{total} {requests} lost ({}{inferred})", by_class.join(", "))
}

fn message(lost: &str, complete: bool, notes: &str) -> String {
    let mut text = lost.to_owned();
    if !complete {
        text.push_str(", not all of which was seen");
    }
    if !notes.is_empty() {
        text.push_str(". ");
        text.push_str(notes);
    }
    let mut end = text.len().min(MESSAGE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// A name that follows from what the Event is about.
fn event_name(stem: &str, parts: &[&str]) -> String {
    let stem = stem.get(..STEM_BYTES).unwrap_or(stem).trim_end_matches(['.', '-']);
    format!("{stem}.{:08x}", crc32fast::hash(parts.join("\n").as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advice::advise;
    use crate::test_data::termination;

    /// An end that began at this second and lost so many requests.
    fn end(pod: &str, second: u64, refused: u64) -> Termination {
        termination(|t| {
            t.pod.name = pod.to_owned();
            t.pod.uid = format!("uid-{pod}");
            t.began = Mono(second * SECOND);
            t.began_wall = Timestamp(i64::try_from(second * SECOND).unwrap());
            t.lost.0[Class::Refused as usize] = refused;
            t.tail_seconds = Some(3.1);
        })
    }

    fn handle(notices: &mut Notices, item: &Termination) -> Vec<Notice> {
        notices.handle(item, advise(&[item]).as_ref())
    }

    #[test]
    fn a_pod_and_its_workload_are_told_of_and_what_lost_nothing_is_not() {
        let mut notices = Notices::new("n1".to_owned());
        assert_eq!(handle(&mut notices, &end("api-0", 100, 0)), []);
        let told = handle(&mut notices, &end("api-1", 101, 2));
        let [pod, workload] = &told[..] else { panic!("{told:?}") };
        assert_eq!(pod.about, About::Pod { name: "api-1".into(), uid: "uid-api-1".into() });
        assert_eq!(
            pod.message,
            "2 requests lost (2 refused) at this pod's end. preStop sleep 4: clients came until +3.1 s after the deletion"
        );
        assert_eq!((pod.count, pod.first, pod.namespace.as_str()), (1, Timestamp(101_000_000_000), "shop"));
        assert!(
            matches!(&workload.about, About::Workload(of) if of.kind == "Deployment" && of.name == "api")
        );
        assert!(
            workload
                .message
                .starts_with("2 requests lost (2 refused) at 1 of 2 pod ends on node n1. preStop"),
            "{}",
            workload.message
        );
        assert_eq!(workload.count, 1);
    }

    #[test]
    fn a_rollout_has_one_event_that_grows() {
        let mut notices = Notices::new("n1".to_owned());
        let first = handle(&mut notices, &end("api-1", 100, 1)).remove(1);
        let mut late = end("api-2", 90, 2);
        late.lost.0[Class::StaleReuse as usize] = 3;
        (late.lost_inferred, late.complete) = (3, false);
        let second = handle(&mut notices, &late).remove(1);
        assert_eq!(second.name, first.name, "its ends may be settled in another order");
        assert_eq!((second.count, second.first), (2, Timestamp(90_000_000_000)));
        let expected = "6 requests lost (3 refused, 3 stale_reuse; 3 inferred) at 2 of 2 pod ends on node n1, not all of which was seen. ";
        assert!(second.message.starts_with(expected), "{}", second.message);
    }

    #[test]
    fn a_gap_or_an_hour_begins_a_new_event() {
        for (seconds, is_new) in [
            (&[100, 700][..], false),
            (&[100, 701], true),
            (&[100, 600, 1100, 1600, 2100, 2600, 3100, 3600, 3700], false),
            (&[100, 600, 1100, 1600, 2100, 2600, 3100, 3600, 3701], true),
        ] {
            let mut notices = Notices::new("n1".to_owned());
            let names: Vec<String> =
                seconds.iter().map(|at| handle(&mut notices, &end("api-1", *at, 1)).remove(1).name).collect();
            assert_eq!(names.first() != names.last(), is_new, "{seconds:?}");
        }
    }

    #[test]
    fn names_follow_from_the_end_alone_and_fit_the_api() {
        let name = |item: &Termination| handle(&mut Notices::new("n1".to_owned()), item).remove(0).name;
        assert_eq!(
            name(&end("db-0", 100, 1)),
            name(&end("db-0", 100, 9)),
            "said by an agent that starts anew"
        );
        assert_ne!(name(&end("db-0", 100, 1)), name(&end("db-0", 101, 1)), "a static pod keeps its uid");
        let mut other = end("db-0", 100, 1);
        other.pod.uid = "another".to_owned();
        assert_ne!(name(&end("db-0", 100, 1)), name(&other), "the next pod of a StatefulSet");
        let long = name(&end(&format!("{}.-{}", "a".repeat(238), "b".repeat(14)), 100, 1));
        assert!(long.len() <= 253 && long.starts_with(&format!("{}.", "a".repeat(238))), "{long}");
        let on = |node: &str| handle(&mut Notices::new(node.to_owned()), &end("a", 1, 1)).remove(1).name;
        assert_ne!(on("n1"), on("n2"), "each node speaks of its own ends");
    }

    #[test]
    fn an_agent_that_starts_anew_goes_on_with_the_same_event() {
        let mut one = Notices::new("n1".to_owned());
        let items = [end("api-1", 100, 1), end("api-2", 110, 0), end("api-3", 120, 2)];
        let mut anew = Notices::new("n1".to_owned());
        for item in &items {
            handle(&mut one, item);
            anew.remember(item);
        }
        let last = end("api-4", 130, 4);
        assert_eq!(handle(&mut anew, &last), handle(&mut one, &last));
    }

    #[test]
    fn what_has_no_object_or_no_owner_is_told_as_far_as_it_goes() {
        let mut notices = Notices::new("n1".to_owned());
        let mut item = end("alone", 100, 1);
        item.workload = Workload { kind: "Pod".into(), name: "alone".into() };
        assert_eq!(handle(&mut notices, &item).len(), 1, "a pod is not told of twice");
        item.pod.namespace.clear();
        assert_eq!(handle(&mut notices, &item), [], "a pod that the API does not have");
    }

    #[test]
    fn messages_and_rollouts_have_a_bound() {
        let text = message("lost", true, &"ä".repeat(MESSAGE_BYTES));
        assert!((MESSAGE_BYTES - 1..=MESSAGE_BYTES).contains(&text.len()), "{}", text.len());
        let mut notices = Notices::new("n1".to_owned());
        for number in 0..ROLLOUTS as u64 + 2 {
            let mut item = end("api", 100 + number, 1);
            item.workload.name = format!("api-{number}");
            handle(&mut notices, &item);
        }
        assert_eq!(notices.rollouts.len(), ROLLOUTS);
        assert!(!notices.rollouts.keys().any(|(_, workload)| workload.name == "api-0"), "the oldest went");
    }
}
