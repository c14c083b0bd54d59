//! What the agent may not do, or may no longer: each refusal is named with verb and resource, and the rest works.

use super::agent::{Agent, eventually, get};
use super::*;
use world::apiserver::Kind;

/// A pod whose end there is something to say of.
fn running(name: &str) -> Value {
    let mut pod = pod("shop", name, NODE);
    pod["status"]["containerStatuses"] =
        json!([{"name": "c", "containerID": format!("containerd://{name}"), "restartCount": 0}]);
    pod
}

fn verbose(agent: &Agent) -> String {
    get(agent.public, "/readyz?verbose").1
}

#[test]
fn a_verb_that_rbac_does_not_give_is_named_and_the_rest_works() {
    for verb in ["list", "watch"] {
        let store = Store::new();
        store.create(Kind::Pods, running("a")).expect("created");
        let server = serve(&store);
        server.faults().forbid(verb, Kind::Services, true);
        let agent = Agent::of(&server);
        let named = format!(
            "services in shop: cannot {verb}: the API answered 403: services is forbidden: User \"agent\" cannot {verb} resource"
        );
        eventually("the refusal is named", || verbose(&agent).contains(&named));
        // A first list that never came in keeps it from being ready; a watch that is missing later on does not.
        eventually("readiness", || agent.status("/readyz") == if verb == "list" { 503 } else { 200 });
        let degraded = "drainscope_feature_degraded{feature=\"kubernetes_api\"}";
        assert_eq!(agent.metric(degraded), Some(1.0));
        store.delete_pod("shop", "a", 30).expect("deletion begins");
        eventually("the pod's end is seen all the same", || agent.termination("a").is_some());
        server.faults().forbid(verb, Kind::Services, false);
        eventually("it is ready once it may", || {
            agent.status("/readyz") == 200 && agent.metric(degraded) == Some(0.0)
        });
        assert!(!verbose(&agent).contains("403"), "{}", verbose(&agent));
        agent.stop();
    }
}

#[test]
fn a_rotated_token_is_taken_up_and_the_refusals_until_then_are_counted() {
    let store = Store::new();
    store.create(Kind::Pods, running("a")).expect("created");
    let options = Options {
        bookmark_interval: Duration::from_millis(500),
        token: Some("first".into()),
        ..Options::default()
    };
    let server = Server::serve_with(&store, options).expect("a free loopback port");
    let token = Kubeconfig::with("first");
    let text = server.kubeconfig();
    assert!(text.contains("token: first"), "{text}");
    let file = Kubeconfig::with(&text.replace("token: first", &format!("tokenFile: {}", token.0.display())));
    let agent = Agent::by(&file);
    eventually("it is ready", || agent.status("/readyz") == 200);
    let restarts = || agent.metric("drainscope_watch_restarts_total{watch=\"pods\"}").unwrap_or(0.0);

    server.set_token("second");
    server.faults().cut_watches();
    eventually("the refusal is named", || {
        verbose(&agent).contains("pods: cannot watch: the API answered 401: Unauthorized")
    });
    eventually("the refusal is counted", || restarts() > 0.5);
    let new = store.create(Kind::Pods, running("b")).expect("created");
    std::fs::write(&token.0, "second").expect("written");
    eventually("the new token is taken up", || !verbose(&agent).contains("401"));
    store.delete_pod("shop", "b", 30).expect("deletion begins");
    eventually("what came meanwhile is known", || {
        agent.termination("b").is_some_and(|end| end["pod"]["uid"] == new["metadata"]["uid"])
    });
    agent.stop();
}

#[test]
fn an_outage_that_outlasts_the_longest_pause_loses_nothing() {
    let store = Store::new();
    store.create(Kind::Pods, running("a")).expect("created");
    let server = serve(&store);
    let mut watches = Watches::of(&server);
    watches.until_health(WatchKind::Pods, "", WatchHealth::Synced);
    server.faults().only(Some(Kind::Pods));
    server.faults().fail_requests(u32::MAX, 503, None);
    server.faults().cut_watches();
    watches.until_health(WatchKind::Pods, "", WatchHealth::Broken);
    let asked = || -> u64 {
        server.requests().iter().filter(|seen| seen.resource == "pods").map(|seen| seen.count).sum()
    };
    // Four failures double the pause from 20 to its longest, 200 ms.
    let before = asked();
    eventually("the pause is at its longest", || asked() >= before + 6);
    store.remove(Kind::Pods, "shop", "a").expect("removed");
    let new = store.create(Kind::Pods, running("b")).expect("created");
    store.compact();
    server.faults().clear();
    watches.until_pod("what came meanwhile is there", &uid(&new), |pod| pod.is_some());
    watches.until("in sync again", |seen| health_count(seen, WatchKind::Pods, WatchHealth::Synced) == 2);
    assert_eq!(watches.pods().into_keys().collect::<Vec<_>>(), ["b"], "what went meanwhile is gone");
    assert_eq!(health_count(&watches.seen, WatchKind::Pods, WatchHealth::Broken), 1, "one gap");
}
