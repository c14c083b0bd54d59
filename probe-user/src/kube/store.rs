//! What a watch remembers of the objects that it has reported: names, uids and versions, nothing else. From it follow
//! which events are news, which are repeats or out of order, and what vanished while the watch was broken. Pure.

use crate::kube::objects::Identity;
use crate::kube::page::version_number;
use crate::kube::probed::Source;
use crate::kube::reduce;
use probe_core::event::{Anomaly, Fact, Key, WatchKind};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Most objects that one watch remembers; later ones are ignored and counted.
const OBJECTS_MAX: usize = 10_000;
/// Uids of deleted objects that are remembered, so that a late event does not bring one back.
const DEAD_MAX: usize = 256;

#[derive(Debug)]
struct Entry {
    uid: String,
    version: Option<u64>,
    /// The core knows it.
    reported: bool,
}

/// The memory of one watch.
#[derive(Debug)]
pub struct Known {
    kind: WatchKind,
    objects: BTreeMap<Key, Entry>,
    dead: VecDeque<String>,
    /// For pods: who else is told, apart from the core.
    probed: Option<Source>,
}

impl Known {
    /// Nothing known yet.
    #[must_use]
    pub fn new(kind: WatchKind) -> Self {
        Self { kind, objects: BTreeMap::new(), dead: VecDeque::new(), probed: None }
    }

    /// Has the mirror told of each pod.
    pub fn tell(&mut self, probed: Source) {
        self.probed = Some(probed);
    }

    /// The core knows this object from before the agent began: unless a list shows it, it is gone. Its uid may be empty.
    pub fn remember(&mut self, key: Key, uid: String) {
        if self.objects.len() < OBJECTS_MAX {
            self.objects.insert(key, Entry { uid, version: None, reported: true });
        }
    }

    /// An object was listed, added or changed: adds the facts that follow to `facts` and returns its name, if it has one.
    pub fn changed(&mut self, json: &str, facts: &mut Vec<Fact>) -> Option<Key> {
        let Some(identity) = reduce::identity(json) else {
            facts.push(bad_object(1));
            return None;
        };
        let key = Key { namespace: identity.namespace.clone(), name: identity.name.clone() };
        self.apply(&identity, &key, json, facts);
        Some(key)
    }

    /// An object was deleted; `json` is its last state.
    pub fn deleted(&mut self, json: &str, facts: &mut Vec<Fact>) {
        let Some(key) = self.changed(json, facts) else { return };
        let uid = reduce::identity(json).map(|identity| identity.uid).unwrap_or_default();
        if self.objects.get(&key).is_some_and(|entry| uid.is_empty() || entry.uid == uid) {
            self.forget(&key, facts);
        }
    }

    /// A list is complete and had exactly these names: whatever else was known is gone.
    pub fn listed(&mut self, seen: &BTreeSet<Key>, facts: &mut Vec<Fact>) {
        let gone: Vec<Key> = self.objects.keys().filter(|key| !seen.contains(*key)).cloned().collect();
        for key in gone {
            self.forget(&key, facts);
        }
    }

    /// Namespaces of the known objects.
    #[must_use]
    pub fn namespaces(&self) -> BTreeSet<String> {
        self.objects.keys().map(|key| key.namespace.clone()).collect()
    }

    fn apply(&mut self, identity: &Identity, key: &Key, json: &str, facts: &mut Vec<Fact>) {
        if self.dead.contains(&identity.uid) {
            return;
        }
        let version = version_number(&identity.resource_version);
        match self.objects.get(key) {
            // Repeated, or overtaken by a newer state that is known already.
            Some(entry) if entry.uid == identity.uid && version.is_some() && version <= entry.version => {
                return;
            }
            // The same name with another uid: the deletion of the old one was missed.
            Some(entry) if entry.uid != identity.uid && !entry.uid.is_empty() && !identity.uid.is_empty() => {
                self.forget(key, facts);
            }
            Some(_) => {}
            None if self.objects.len() >= OBJECTS_MAX => {
                facts.push(Fact::Anomaly { kind: Anomaly::TooMany, count: 1 });
                return;
            }
            None => {}
        }
        let Some((fact, mut odd)) = self.reduced(identity, json) else {
            facts.push(bad_object(1));
            return;
        };
        odd += self.probed.as_ref().map_or(0, |probed| probed.changed(identity, json));
        if odd > 0 {
            facts.push(bad_object(odd));
        }
        let reported = fact.is_some();
        let before = self.objects.insert(key.clone(), Entry { uid: identity.uid.clone(), version, reported });
        match fact {
            Some(fact) => facts.push(fact),
            None if before.is_some_and(|entry| entry.reported) => facts.push(self.gone(key, &identity.uid)),
            None => {}
        }
    }

    /// The object's fact, if it concerns the core, and how many odd values it had; `None` if it cannot be used.
    fn reduced(&self, identity: &Identity, json: &str) -> Option<(Option<Fact>, u64)> {
        match self.kind {
            WatchKind::Pods => reduce::pod(identity, json)
                .map(|reduced| (Some(Fact::Pod(Box::new(reduced.fact))), reduced.odd)),
            WatchKind::Services => reduce::service(identity, json)
                .map(|reduced| (Some(Fact::Service(reduced.fact)), reduced.odd)),
            WatchKind::EndpointSlices => reduce::slice(identity, json).map(|reduced| {
                // A slice without a Service leads no traffic through a proxy.
                let fact = (!reduced.fact.service.is_empty()).then_some(Fact::Slice(reduced.fact));
                (fact, reduced.odd)
            }),
        }
    }

    fn forget(&mut self, key: &Key, facts: &mut Vec<Fact>) {
        let Some(entry) = self.objects.remove(key) else { return };
        if let Some(probed) = &self.probed {
            probed.gone(&entry.uid);
        }
        if entry.reported {
            facts.push(self.gone(key, &entry.uid));
        }
        if entry.uid.is_empty() {
            return;
        }
        if self.dead.len() >= DEAD_MAX {
            self.dead.pop_front();
        }
        self.dead.push_back(entry.uid);
    }

    fn gone(&self, key: &Key, uid: &str) -> Fact {
        match self.kind {
            WatchKind::Pods => Fact::PodGone { uid: uid.to_owned() },
            WatchKind::Services => Fact::ServiceGone { key: key.clone() },
            WatchKind::EndpointSlices => Fact::SliceGone { key: key.clone() },
        }
    }
}

fn bad_object(count: u64) -> Fact {
    Fact::Anomaly { kind: Anomaly::BadObject, count }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, uid: &str, version: &str) -> String {
        json!({"metadata": {"name": name, "namespace": "n", "uid": uid, "resourceVersion": version}})
            .to_string()
    }

    fn slice(version: &str, service: Option<&str>) -> String {
        let labels = service.map(|name| json!({"kubernetes.io/service-name": name}));
        json!({"metadata": {"name": "s-1", "namespace": "n", "uid": "s", "resourceVersion": version, "labels": labels}})
            .to_string()
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the rest is shown as it is")]
    fn summary(facts: &mut Vec<Fact>) -> Vec<String> {
        let text = |fact: Fact| match fact {
            Fact::Pod(pod) => format!("pod {}", pod.uid),
            Fact::PodGone { uid } => format!("gone {uid}"),
            Fact::Slice(slice) => format!("slice {}", slice.service),
            Fact::SliceGone { key } => format!("slice gone {}", key.name),
            Fact::Anomaly { kind, count } => format!("{kind:?} {count}"),
            other => format!("{other:?}"),
        };
        std::mem::take(facts).into_iter().map(text).collect()
    }

    #[test]
    fn repeats_and_overtaken_events_are_no_news() {
        let (mut known, mut facts) = (Known::new(WatchKind::Pods), Vec::new());
        known.changed(&pod("a", "u1", "5"), &mut facts);
        known.changed(&pod("a", "u1", "5"), &mut facts);
        known.changed(&pod("a", "u1", "4"), &mut facts);
        known.changed(&pod("a", "u1", "10"), &mut facts);
        assert_eq!(summary(&mut facts), ["pod u1", "pod u1"]);
        known.deleted(&pod("a", "u1", "11"), &mut facts);
        known.changed(&pod("a", "u1", "9"), &mut facts);
        known.changed(&pod("a", "u1", "12"), &mut facts);
        known.deleted(&pod("a", "u1", "11"), &mut facts);
        assert_eq!(summary(&mut facts), ["pod u1", "gone u1"], "a deleted uid never comes back");
    }

    #[test]
    fn a_name_that_was_given_to_another_object_ends_the_old_one() {
        let (mut known, mut facts) = (Known::new(WatchKind::Pods), Vec::new());
        known.changed(&pod("a", "u1", "5"), &mut facts);
        known.changed(&pod("a", "u2", "7"), &mut facts);
        known.deleted(&pod("a", "u1", "6"), &mut facts);
        assert_eq!(summary(&mut facts), ["pod u1", "gone u1", "pod u2"]);
    }

    #[test]
    fn what_a_list_does_not_show_any_more_is_gone() {
        let (mut known, mut facts) = (Known::new(WatchKind::Pods), Vec::new());
        for name in ["a", "b", "c"] {
            known.changed(&pod(name, &format!("u{name}"), "5"), &mut facts);
        }
        facts.clear();
        let seen = [pod("a", "ua", "5"), pod("b", "ub", "8"), pod("d", "ud", "9")]
            .iter()
            .filter_map(|json| known.changed(json, &mut facts))
            .collect();
        known.listed(&seen, &mut facts);
        assert_eq!(summary(&mut facts), ["pod ub", "pod ud", "gone uc"]);
    }

    #[test]
    fn what_the_core_knew_before_is_told_anew_or_gone() {
        let (mut known, mut facts) = (Known::new(WatchKind::Pods), Vec::new());
        for (name, uid) in [("a", "ua"), ("b", "ub"), ("c", "uc")] {
            known.remember(Key { namespace: "n".into(), name: name.into() }, uid.into());
        }
        let seen = [pod("a", "ua", "5"), pod("b", "other", "6")]
            .iter()
            .filter_map(|json| known.changed(json, &mut facts))
            .collect();
        known.listed(&seen, &mut facts);
        assert_eq!(summary(&mut facts), ["pod ua", "gone ub", "pod other", "gone uc"]);

        let mut known = Known::new(WatchKind::EndpointSlices);
        known.remember(Key { namespace: "n".into(), name: "s-1".into() }, String::new());
        known.changed(&slice("1", Some("web")), &mut facts);
        assert_eq!(summary(&mut facts), ["slice web"], "no uid was known: it may be the same");
        known.remember(Key { namespace: "n".into(), name: "s-2".into() }, String::new());
        known.changed(&slice("2", None), &mut facts);
        known.listed(&BTreeSet::new(), &mut facts);
        assert_eq!(summary(&mut facts), ["slice gone s-1", "slice gone s-2"]);
    }

    #[test]
    fn garbage_is_counted_and_hides_nothing_else() {
        let (mut known, mut facts) = (Known::new(WatchKind::Pods), Vec::new());
        known.changed(&pod("a", "u1", "5"), &mut facts);
        facts.clear();
        let broken = json!({"metadata": {"name": "a", "namespace": "n", "uid": "u1", "resourceVersion": "6"}, "spec": 7});
        let seen = known.changed(&broken.to_string(), &mut facts).into_iter().collect();
        assert_eq!(known.changed("{}", &mut facts), None);
        known.listed(&seen, &mut facts);
        assert_eq!(summary(&mut facts), ["BadObject 1", "BadObject 1"], "the pod is still there");
        known.deleted("7", &mut facts);
        known.deleted(&broken.to_string(), &mut facts);
        assert_eq!(summary(&mut facts), ["BadObject 1", "BadObject 1", "gone u1"]);
    }

    #[test]
    fn a_slice_that_lost_its_service_is_gone_for_the_core() {
        let (mut known, mut facts) = (Known::new(WatchKind::EndpointSlices), Vec::new());
        known.changed(&slice("1", None), &mut facts);
        assert!(facts.is_empty());
        known.changed(&slice("2", Some("web")), &mut facts);
        known.changed(&slice("3", None), &mut facts);
        known.deleted(&slice("4", None), &mut facts);
        assert_eq!(summary(&mut facts), ["slice web", "slice gone s-1"]);
    }

    #[test]
    fn the_memory_is_bounded() {
        let (mut known, mut facts) = (Known::new(WatchKind::Pods), Vec::new());
        for number in 0..=OBJECTS_MAX {
            known.changed(&pod(&format!("p{number}"), &format!("u{number}"), "5"), &mut facts);
        }
        assert_eq!(facts.len(), OBJECTS_MAX + 1);
        assert_eq!(facts.pop(), Some(Fact::Anomaly { kind: Anomaly::TooMany, count: 1 }));
    }
}
