//! Objects that no API server should send: counted one by one, and everything else goes on.

use super::*;
use world::apiserver::Kind;

/// Garbage with the number of anomalies that it makes, in a list and in a watch alike.
fn garbage() -> Vec<(&'static str, Value, u64)> {
    let meta =
        |uid: &str| json!({"name": "x", "namespace": "shop", "uid": uid, "resourceVersion": "nonsense"});
    let spec = || json!({"nodeName": NODE});
    vec![
        ("without-metadata", json!({"spec": spec()}), 1),
        ("without-uid", json!({"metadata": {"name": "x", "namespace": "shop"}, "spec": spec()}), 1),
        (
            "bad-namespace",
            json!({"metadata": {"name": "x", "namespace": "../kube-system", "uid": "u"}, "spec": spec()}),
            1,
        ),
        ("wrong-types", json!({"metadata": meta("g1"), "spec": {"nodeName": NODE, "containers": "many"}}), 1),
        (
            "absurd-values",
            json!({"metadata": meta("g2"), "spec": {"nodeName": NODE, "terminationGracePeriodSeconds": -7,
                   "containers": [{"name": "c", "ports": [{"containerPort": 1_000_000}]}]},
                   "status": {"phase": "Dancing", "podIPs": [{"ip": "999.1.1.1"}]}}),
            3,
        ),
    ]
}

#[test]
fn garbage_in_a_list_spoils_nothing_else() {
    let store = Store::new();
    for (name, object, _) in garbage() {
        store.put_raw(Kind::Pods, "shop", name, object);
    }
    let good = store.create(Kind::Pods, pod("shop", "zz-good", NODE)).expect("created");
    let server = serve(&store);
    let mut watches = Watches::of(&server);
    watches.until_health(WatchKind::Pods, "", WatchHealth::Synced);
    watches.until_pod("the good one is there", &uid(&good), |pod| pod.is_some());
    assert_eq!(watches.bad_objects(), garbage().iter().map(|(_, _, count)| count).sum::<u64>());
}

#[test]
fn garbage_in_a_watch_spoils_nothing_else() {
    let store = Store::new();
    let server = serve(&store);
    let mut watches = Watches::of(&server);
    watches.until_health(WatchKind::Pods, "", WatchHealth::Synced);
    let mut expected = 0;
    for (name, object, count) in garbage() {
        store.put_raw(Kind::Pods, "shop", name, object);
        expected += count;
        watches.until(name, |seen| bad_objects(seen) >= expected);
        assert_eq!(watches.bad_objects(), expected, "{name}");
    }
    for line in [
        "<html>bad gateway</html>",
        "{\"type\":\"ADDED\"}",
        "{\"type\":\"NOVEL\",\"object\":{}}",
        "\u{0}\u{1}",
    ] {
        server.faults().garbage_line(line);
        let good = store.create(Kind::Pods, pod("shop", &format!("good-{expected}"), NODE)).expect("created");
        watches.until_pod("the good one is there", &uid(&good), |pod| pod.is_some());
        expected += 1;
        assert_eq!(watches.bad_objects(), expected, "{line:?}");
    }
    assert_eq!(
        health_count(&watches.seen, WatchKind::Pods, WatchHealth::Broken),
        0,
        "the watch stands all along"
    );
}

#[test]
fn big_annotations_and_absurd_times_are_survived() {
    let store = Store::new();
    let server = serve(&store);
    let mut watches = Watches::of(&server);
    watches.until_health(WatchKind::Pods, "", WatchHealth::Synced);
    let mut big = pod("shop", "big", NODE);
    big["metadata"]["annotations"] = json!({"note": "x".repeat(1 << 20)});
    let big = store.create(Kind::Pods, big).expect("created");
    watches.until_pod("the big one is there", &uid(&big), |pod| pod.is_some());
    for (number, time) in ["-292277022399-01-01T00:00:00Z", "9999-99-99", "soon", ""].into_iter().enumerate()
    {
        let name = format!("odd-{number}");
        let mut odd = pod("shop", &name, NODE);
        odd["metadata"]["uid"] = json!(format!("uid-{number}"));
        odd["metadata"]["deletionTimestamp"] = json!(time);
        odd["metadata"]["deletionGracePeriodSeconds"] = json!(i64::MAX);
        store.put_raw(Kind::Pods, "shop", &name, odd);
        watches.until_pod("a deletion at an odd time is one", &format!("uid-{number}"), |pod| {
            pod.is_some_and(|pod| pod.deletion.is_some())
        });
    }
    assert_eq!(watches.bad_objects(), 0, "the core judges the times");
}

#[test]
fn a_version_beyond_all_others_does_not_take_the_watch_past_what_comes() {
    let store = Store::new();
    let server = serve(&store);
    let mut watches = Watches::of(&server);
    watches.until_health(WatchKind::Pods, "", WatchHealth::Synced);
    let mut odd = pod("shop", "odd", NODE);
    odd["metadata"]["uid"] = json!("odd");
    odd["metadata"]["resourceVersion"] = json!("99999999999");
    store.put_raw(Kind::Pods, "shop", "odd", odd);
    watches.until_pod("it is there", "odd", |pod| pod.is_some());
    server.faults().cut_watches();
    watches.until("in sync again", |seen| health_count(seen, WatchKind::Pods, WatchHealth::Synced) == 2);
    let good = store.create(Kind::Pods, pod("shop", "good", NODE)).expect("created");
    watches.until_pod("the next one is there", &uid(&good), |pod| pod.is_some());
}
