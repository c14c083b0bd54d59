//! What goes wrong between client and server: nothing may be lost or invented by it, and each gap shows.

use super::*;
use world::apiserver::{Gone, Kind};

/// A world with one pod that is known, before something happens.
fn begun() -> (Store, Server, Watches, String) {
    let store = Store::new();
    let first = store.create(Kind::Pods, pod("shop", "a", NODE)).expect("created");
    let server = serve(&store);
    let mut watches = Watches::of(&server);
    for kind in [WatchKind::Pods, WatchKind::Services, WatchKind::EndpointSlices] {
        let namespace = if kind == WatchKind::Pods { "" } else { "shop" };
        watches.until_health(kind, namespace, WatchHealth::Synced);
    }
    let uid = uid(&first);
    (store, server, watches, uid)
}

/// The facts leave exactly the store's pods standing.
fn agrees_with(store: &Store, watches: &mut Watches) {
    let there: BTreeMap<String, String> = store
        .list(Kind::Pods)
        .1
        .iter()
        .map(|object| (object["metadata"]["name"].as_str().expect("a name").to_owned(), uid(object)))
        .collect();
    let expected = there.clone();
    // Deletions arrive last in what follows, so the condition cannot hold too early by chance.
    let deadline = std::time::Instant::now() + WAIT;
    while watches.pods() != expected {
        assert!(std::time::Instant::now() < deadline, "{:?} instead of {expected:?}", watches.pods());
        let before = watches.seen.len();
        watches.until("another fact", |seen| seen.len() > before);
    }
}

#[test]
fn an_outage_loses_nothing_and_shows() {
    let (store, server, mut watches, first) = begun();
    server.stop().expect("stopped");
    watches.until_health(WatchKind::Pods, "", WatchHealth::Broken);
    store.remove(Kind::Pods, "shop", "a").expect("removed");
    let second = store.create(Kind::Pods, pod("shop", "a", NODE)).expect("created");
    server.start().expect("started");
    watches.until_pod("the new pod of that name is there", &uid(&second), |pod| pod.is_some());
    watches.until_pod("the old one is gone", &first, |pod| pod.is_none());
    watches.until("in sync again", |seen| health_count(seen, WatchKind::Pods, WatchHealth::Synced) == 2);
    assert!(watches.table.is_ready(), "an outage does not take the agent out");
    agrees_with(&store, &mut watches);
}

#[test]
fn what_vanished_in_a_gap_is_gone_after_the_new_list() {
    for how in [None, Some(Gone::Http), Some(Gone::Event)] {
        let (store, server, mut watches, first) = begun();
        server.stop().expect("stopped");
        watches.until_health(WatchKind::Pods, "", WatchHealth::Broken);
        store.remove(Kind::Pods, "shop", "a").expect("removed");
        store.create(Kind::Pods, pod("shop", "b", NODE)).expect("created");
        match how {
            None => store.compact(),
            Some(how) => {
                server.faults().only(Some(Kind::Pods));
                server.faults().expire_watches(2, how);
            }
        }
        server.start().expect("started");
        watches.until_pod("it is gone", &first, |pod| pod.is_none());
        watches.until("in sync again", |seen| health_count(seen, WatchKind::Pods, WatchHealth::Synced) >= 2);
        agrees_with(&store, &mut watches);
        assert_eq!(watches.bad_objects(), 0, "{how:?}");
    }
}

#[test]
fn doubled_and_swapped_events_change_nothing() {
    let (store, server, mut watches, first) = begun();
    server.faults().only(Some(Kind::Pods));
    server.faults().duplicate_events(4);
    for number in 0..4 {
        store.create(Kind::Pods, pod("shop", &format!("d{number}"), NODE)).expect("created");
    }
    agrees_with(&store, &mut watches);
    server.faults().reorder_events(3);
    // Deletion and last word of the same pod change places; so do its end and a successor's beginning.
    store
        .update(Kind::Pods, "shop", "a", |object| object["status"]["phase"] = json!("Succeeded"))
        .expect("updated");
    store.remove(Kind::Pods, "shop", "a").expect("removed");
    store.create(Kind::Pods, pod("shop", "a", NODE)).expect("created");
    store
        .update(Kind::Pods, "shop", "d0", |object| object["status"]["podIP"] = json!("10.1.0.9"))
        .expect("updated");
    store.remove(Kind::Pods, "shop", "d0").expect("removed");
    store.create(Kind::Pods, pod("shop", "last", NODE)).expect("created");
    watches.until_pod("the old one is gone", &first, |pod| pod.is_none());
    agrees_with(&store, &mut watches);
    assert_eq!(watches.bad_objects(), 0);
    assert_eq!(health_count(&watches.seen, WatchKind::Pods, WatchHealth::Broken), 0, "nothing broke");
}

#[test]
fn cut_and_truncated_streams_are_resumed() {
    let (store, server, mut watches, _) = begun();
    server.faults().only(Some(Kind::Pods));
    for number in 0..3 {
        server.faults().truncate_events(1);
        store.create(Kind::Pods, pod("shop", &format!("t{number}"), NODE)).expect("created");
        agrees_with(&store, &mut watches);
        server.faults().cut_watches();
        store.create(Kind::Pods, pod("shop", &format!("c{number}"), NODE)).expect("created");
        agrees_with(&store, &mut watches);
    }
    assert!(health_count(&watches.seen, WatchKind::Pods, WatchHealth::Broken) >= 1);
    assert_eq!(watches.bad_objects(), 0, "half a line is a broken stream, not a bad object");
}

#[test]
fn a_stalled_stream_is_noticed_without_an_end_of_the_connection() {
    let (store, server, mut watches, _) = begun();
    server.faults().stall_watches(true);
    store.create(Kind::Pods, pod("shop", "b", NODE)).expect("created");
    watches.until_health(WatchKind::Pods, "", WatchHealth::Broken);
    server.faults().stall_watches(false);
    agrees_with(&store, &mut watches);
}

#[test]
fn failing_requests_are_tried_again() {
    for (code, retry_after) in [(500, None), (429, Some(1)), (403, None), (401, None), (504, None)] {
        let store = Store::new();
        let created = store.create(Kind::Pods, pod("shop", "a", NODE)).expect("created");
        let server = serve(&store);
        server.faults().fail_requests(3, code, retry_after);
        let mut watches = Watches::of(&server);
        watches.until_pod("the pod is there", &uid(&created), |pod| pod.is_some());
        watches.until_health(WatchKind::Services, "shop", WatchHealth::Synced);
        assert_eq!(
            health_count(&watches.seen, WatchKind::Pods, WatchHealth::Broken),
            0,
            "{code}: nothing stood yet"
        );
    }
}
