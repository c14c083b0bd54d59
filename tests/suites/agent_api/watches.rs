//! What the agent asks for, and what it learns while nothing goes wrong.

use super::*;
use world::apiserver::Kind;

#[test]
fn only_this_nodes_pods_and_their_namespaces_are_watched() {
    let store = Store::new();
    let local = store.create(Kind::Pods, pod("shop", "a", NODE)).expect("created");
    store.create(Kind::Pods, pod("bank", "b", "node-2")).expect("created");
    store.create(Kind::Services, service("shop", "web")).expect("created");
    store.create(Kind::Services, service("bank", "web")).expect("created");
    store.create(Kind::EndpointSlices, slice("shop", "web-1", "web", &uid(&local), true)).expect("created");
    let server = serve(&store);
    let mut watches = Watches::of(&server);
    for (kind, namespace) in
        [(WatchKind::Pods, ""), (WatchKind::Services, "shop"), (WatchKind::EndpointSlices, "shop")]
    {
        watches.until_health(kind, namespace, WatchHealth::Synced);
    }
    assert!(watches.table.is_ready());
    assert_eq!(watches.pods().into_iter().collect::<Vec<_>>(), [("a".to_owned(), uid(&local))]);
    assert_eq!(watches.count(|fact| matches!(fact, Fact::Service(_))), 1);
    let uids = watches.seen.iter().find_map(|fact| match fact {
        Fact::Slice(slice) => {
            Some((slice.service.clone(), slice.ports.clone(), slice.endpoints[0].pod_uid.clone()))
        }
        _ => None,
    });
    assert_eq!(uids, Some(("web".to_owned(), vec![8080], uid(&local))));
    for request in server.requests() {
        assert!(
            matches!(request.verb.as_str(), "list" | "watch"),
            "no object is ever asked for alone: {request:?}"
        );
        match request.resource.as_str() {
            "pods" => assert_eq!(request.selector, format!("spec.nodeName={NODE}"), "{request:?}"),
            _ => assert_eq!(request.namespace.as_deref(), Some("shop"), "{request:?}"),
        }
    }
}

#[test]
fn a_rollout_is_followed_step_by_step() {
    let store = Store::new();
    let server = serve(&store);
    let mut watches = Watches::of(&server);
    watches.until_health(WatchKind::Pods, "", WatchHealth::Synced);
    let created = store.create(Kind::Pods, pod("shop", "a", NODE)).expect("created");
    let uid_a = uid(&created);
    watches.until_pod("the pod is there", &uid_a, |pod| pod.is_some_and(|pod| pod.deletion.is_none()));
    watches.until_health(WatchKind::EndpointSlices, "shop", WatchHealth::Synced);
    store.create(Kind::EndpointSlices, slice("shop", "web-1", "web", &uid_a, true)).expect("created");
    watches.until("the slice is there", |seen| {
        seen.iter().any(|fact| matches!(fact, Fact::Slice(slice) if slice.endpoints[0].ready))
    });
    store.delete_pod("shop", "a", 30).expect("deletion begins");
    watches.until_pod("its deletion is seen", &uid_a, |pod| {
        pod.and_then(|pod| pod.deletion).is_some_and(|deletion| deletion.grace_seconds == 30)
    });
    store
        .update(Kind::EndpointSlices, "shop", "web-1", |object| {
            object["endpoints"][0]["conditions"] =
                json!({"ready": false, "serving": true, "terminating": true});
        })
        .expect("updated");
    watches.until("the endpoint is not ready", |seen| {
        seen.iter().any(|fact| matches!(fact, Fact::Slice(slice) if !slice.endpoints[0].ready && slice.endpoints[0].serving))
    });
    store.remove(Kind::EndpointSlices, "shop", "web-1").expect("removed");
    watches.until("the slice is gone", |seen| seen.iter().any(|fact| matches!(fact, Fact::SliceGone { .. })));
    store.remove(Kind::Pods, "shop", "a").expect("removed");
    watches.until_pod("it is gone", &uid_a, |pod| pod.is_none());
    assert_eq!(watches.bad_objects(), 0);
    assert_eq!(health_count(&watches.seen, WatchKind::Pods, WatchHealth::Broken), 0);
}

#[test]
fn a_namespace_is_left_some_time_after_its_last_pod() {
    let store = Store::new();
    store.create(Kind::Pods, pod("shop", "a", NODE)).expect("created");
    store.create(Kind::Services, service("shop", "web")).expect("created");
    let server = serve(&store);
    let mut watches = Watches::begin(&server, Duration::from_millis(200));
    watches.until_health(WatchKind::Services, "shop", WatchHealth::Synced);
    store.remove(Kind::Pods, "shop", "a").expect("removed");
    watches.until_health(WatchKind::Services, "shop", WatchHealth::Ended);
    watches.until_health(WatchKind::EndpointSlices, "shop", WatchHealth::Ended);
    assert_eq!(
        watches.count(|fact| matches!(fact, Fact::ServiceGone { .. })),
        1,
        "what it knew goes with it"
    );
    assert!(server.open_watches() >= 1, "pods are still watched");
    let again = store.create(Kind::Pods, pod("shop", "b", NODE)).expect("created");
    watches.until_pod("the next pod is there", &uid(&again), |pod| pod.is_some());
    watches.until("the namespace is watched again", |seen| {
        health_count(seen, WatchKind::Services, WatchHealth::Synced) == 2
    });
}

#[test]
fn lists_of_many_pages_are_whole() {
    let store = Store::new();
    for number in 0..250 {
        store.create(Kind::Pods, pod("shop", &format!("p{number}"), NODE)).expect("created");
    }
    let server = serve(&store);
    let mut watches = Watches::of(&server);
    watches.until_health(WatchKind::Pods, "", WatchHealth::Synced);
    assert_eq!(watches.pods().len(), 250);
    let listed: u64 = server
        .requests()
        .iter()
        .filter(|request| request.verb == "list" && request.resource == "pods")
        .map(|request| request.count)
        .sum();
    assert!(listed >= 3, "in pages: {listed}");
}
