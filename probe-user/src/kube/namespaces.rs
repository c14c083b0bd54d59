//! Runs one Service and one EndpointSlice watch for each namespace that has a pod on this node. A namespace whose last pod
//! left keeps its watches for a while: the slices still change after the pod is gone, and the next pod may come at once.

use crate::clock::mono_now;
use crate::kube::watch::{Shared, Watch};
use probe_core::event::{Anomaly, Event, Fact, Key, WatchKind};
use probe_core::monitor::Known;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Most namespaces that are watched; pods of further ones are watched without their endpoints. The kubelet's limit of
/// pods per node keeps real nodes below it.
const NAMESPACES_MAX: usize = 512;

/// The two watches of a namespace. Dropping it tells them to end.
struct Active {
    stop: watch::Sender<bool>,
    tasks: [JoinHandle<()>; 2],
    /// No local pod since then.
    idle_since: Option<Instant>,
}

/// Follows `wanted` until its sender or the driver is gone; `linger` is how long idle watches stay.
/// `known` is what the core knows from before the agent began: its namespaces are watched from the start, as those whose
/// last pod has just left, so that what is gone meanwhile is told.
pub async fn run(
    shared: Shared,
    mut wanted: watch::Receiver<Option<BTreeSet<String>>>,
    linger: Duration,
    known: &Known,
) {
    let mut active: BTreeMap<String, Active> = BTreeMap::new();
    for namespace in namespaces_of(known).into_iter().take(NAMESPACES_MAX) {
        let entry = Active { idle_since: Some(Instant::now()), ..begin(&shared, &namespace, known) };
        active.insert(namespace, entry);
    }
    let mut refused: BTreeSet<String> = BTreeSet::new();
    loop {
        let now = wanted.borrow_and_update().clone();
        if let Some(now) = now {
            for namespace in
                now.iter().filter(|namespace| !refused.contains(*namespace)).cloned().collect::<Vec<_>>()
            {
                if active.len() < NAMESPACES_MAX || active.contains_key(&namespace) {
                    let entry = active
                        .entry(namespace)
                        .or_insert_with_key(|namespace| begin(&shared, namespace, &Known::default()));
                    entry.idle_since = None;
                } else if shared.sink.send(too_many()).await.is_ok() {
                    tracing::warn!(
                        namespace,
                        NAMESPACES_MAX,
                        "too many namespaces: its endpoints are not watched"
                    );
                    refused.insert(namespace);
                }
            }
            refused.retain(|namespace| now.contains(namespace));
            for (_, entry) in active.iter_mut().filter(|(namespace, _)| !now.contains(*namespace)) {
                entry.idle_since.get_or_insert_with(Instant::now);
            }
            shared.table.namespaces_started();
        }
        let next_end = active.values().filter_map(|entry| entry.idle_since).min().map(|since| since + linger);
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(next_end.unwrap_or_else(Instant::now)), if next_end.is_some() => {}
        }
        let over: Vec<String> = active
            .iter()
            .filter(|(_, entry)| entry.idle_since.is_some_and(|since| since.elapsed() >= linger))
            .map(|(namespace, _)| namespace.clone())
            .collect();
        for namespace in over {
            end(&mut active, &namespace).await;
        }
    }
}

/// Namespaces that the core knows a Service, a slice or a watch of.
fn namespaces_of(known: &Known) -> BTreeSet<String> {
    let objects = known.services.iter().chain(&known.slices).map(|key| &key.namespace);
    let watches = known.watches.iter().filter(|(kind, _)| *kind != WatchKind::Pods);
    objects.chain(watches.map(|(_, namespace)| namespace)).cloned().collect()
}

fn begin(shared: &Shared, namespace: &str, known: &Known) -> Active {
    let (stop, stopping) = watch::channel(false);
    let here = |keys: &BTreeSet<Key>| -> Vec<(Key, String)> {
        let of_it = keys.iter().filter(|key| key.namespace == namespace);
        of_it.map(|key| (key.clone(), String::new())).collect()
    };
    let services = Watch::services(shared.clone(), namespace).remembering(here(&known.services));
    let slices = Watch::endpoint_slices(shared.clone(), namespace).remembering(here(&known.slices));
    let tasks =
        [tokio::spawn(services.run_until(stopping.clone())), tokio::spawn(slices.run_until(stopping))];
    Active { stop, tasks, idle_since: None }
}

/// Waits until both have said their last word: a new watch of the namespace must not come before it.
async fn end(active: &mut BTreeMap<String, Active>, namespace: &str) {
    let Some(ended) = active.remove(namespace) else { return };
    ended.stop.send_replace(true);
    for task in ended.tasks {
        if let Err(error) = task.await {
            tracing::error!(%error, namespace, "a watch ended badly");
        }
    }
}

fn too_many() -> Event {
    Event { at: mono_now(), fact: Fact::Anomaly { kind: Anomaly::TooMany, count: 1 } }
}
