//! The real Kubernetes client against the stand-in: its watcher lists, watches, resumes and relists as against a real API server.

use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Config, ResourceExt as _};
use serde_json::json;
use world::apiserver::{Gone, Kind, Server, Store};

use crate::pod;

const PATIENCE: Duration = Duration::from_secs(20);

type Events = Pin<Box<dyn Stream<Item = String>>>;

async fn client(server: &Server) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(&server.kubeconfig()).expect("a valid kubeconfig");
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .expect("a valid configuration");
    Client::try_from(config).expect("a client")
}

/// The watcher's events as text, its errors as `error`.
fn events(client: &Client, config: watcher::Config) -> Events {
    let pods: Api<Pod> = Api::all(client.clone());
    let named = watcher(pods, config).default_backoff().map(|event| match event {
        Ok(Event::Init) => "init".to_owned(),
        Ok(Event::InitDone) => "ready".to_owned(),
        Ok(Event::InitApply(pod)) => format!("init {}", pod.name_any()),
        Ok(Event::Apply(pod)) => format!("apply {}", pod.name_any()),
        Ok(Event::Delete(pod)) => format!("delete {}", pod.name_any()),
        Err(_) => "error".to_owned(),
    });
    Box::pin(named)
}

async fn next(events: &mut Events, count: usize) -> Vec<String> {
    let collected = tokio::time::timeout(PATIENCE, events.take(count).collect());
    collected.await.expect("events in time")
}

/// The next events that are no errors: how often the client fails during a fault is a matter of its backoff.
async fn next_without_errors(events: &mut Events, count: usize) -> Vec<String> {
    let fine = events.filter(|event| std::future::ready(event != "error"));
    tokio::time::timeout(PATIENCE, fine.take(count).collect()).await.expect("events in time")
}

#[tokio::test]
async fn the_watcher_sees_add_update_and_delete() {
    let store = Store::new();
    store.create(Kind::Pods, pod("a", "n1")).expect("created");
    let server = Server::serve(&store).expect("a server");
    let client = client(&server).await;
    for config in [
        watcher::Config::default(),
        watcher::Config::default().streaming_lists(),
        watcher::Config::default().page_size(1),
    ] {
        let mut events = events(&client, config);
        assert_eq!(next(&mut events, 3).await, ["init", "init a", "ready"]);
        store.create(Kind::Pods, pod("b", "n1")).expect("created");
        store.delete_pod("shop", "b", 30).expect("marked");
        store.delete_pod("shop", "b", 0).expect("removed");
        assert_eq!(next(&mut events, 4).await, ["apply b", "apply b", "apply b", "delete b"]);
    }
}

#[tokio::test]
async fn an_outage_costs_no_change_and_no_relist() {
    let store = Store::new();
    let server = Server::serve(&store).expect("a server");
    let mut events = events(&client(&server).await, watcher::Config::default());
    assert_eq!(next(&mut events, 2).await, ["init", "ready"]);
    store.create(Kind::Pods, pod("before", "n1")).expect("created");
    assert_eq!(next(&mut events, 1).await, ["apply before"]);
    server.stop().expect("stopped");
    store.create(Kind::Pods, pod("during", "n1")).expect("created");
    store.remove(Kind::Pods, "shop", "before").expect("removed");
    assert_eq!(next(&mut events, 1).await, ["error"], "the client notices the outage");
    server.start().expect("started");
    store.create(Kind::Pods, pod("after", "n1")).expect("created");
    assert_eq!(next_without_errors(&mut events, 3).await, ["apply during", "delete before", "apply after"]);
    let lists: u64 = server.requests().iter().filter(|row| row.verb == "list").map(|row| row.count).sum();
    assert_eq!(lists, 1);
}

#[tokio::test]
async fn an_expired_version_leads_to_a_new_list() {
    let store = Store::new();
    let server = Server::serve(&store).expect("a server");
    let mut events = events(&client(&server).await, watcher::Config::default());
    assert_eq!(next(&mut events, 2).await, ["init", "ready"]);
    store.create(Kind::Pods, pod("a", "n1")).expect("created");
    assert_eq!(next(&mut events, 1).await, ["apply a"]);
    server.faults().expire_watches(1, Gone::Event);
    server.faults().cut_watches();
    assert_eq!(next_without_errors(&mut events, 3).await, ["init", "init a", "ready"]);

    // The same by a history that is too short.
    server.stop().expect("stopped");
    store.create(Kind::Pods, pod("b", "n1")).expect("created");
    store.compact();
    server.start().expect("started");
    assert_eq!(next_without_errors(&mut events, 4).await, ["init", "init a", "init b", "ready"]);
}

#[tokio::test]
async fn pods_enter_and_leave_the_node_selector() {
    let store = Store::new();
    store
        .create(
            Kind::Pods,
            json!({"metadata": {"name": "a", "namespace": "shop"}, "spec": {"containers": []}}),
        )
        .expect("created");
    let server = Server::serve(&store).expect("a server");
    let mut events = events(&client(&server).await, watcher::Config::default().fields("spec.nodeName=n1"));
    assert_eq!(next(&mut events, 2).await, ["init", "ready"]);
    store.create(Kind::Pods, pod("other", "n2")).expect("created");
    store.update(Kind::Pods, "shop", "a", |pod| pod["spec"]["nodeName"] = json!("n1")).expect("bound");
    store.update(Kind::Pods, "shop", "a", |pod| pod["spec"]["nodeName"] = json!("n2")).expect("moved");
    store.create(Kind::Pods, pod("b", "n1")).expect("created");
    assert_eq!(next(&mut events, 3).await, ["apply a", "delete a", "apply b"]);
}

#[tokio::test]
async fn broken_streams_end_in_the_same_state() {
    let store = Store::new();
    let server = Server::serve(&store).expect("a server");
    let mut events = events(&client(&server).await, watcher::Config::default());
    assert_eq!(next(&mut events, 2).await, ["init", "ready"]);
    server.faults().truncate_events(1);
    store.create(Kind::Pods, pod("a", "n1")).expect("created");
    assert_eq!(next_without_errors(&mut events, 1).await, ["apply a"]);
    server.faults().garbage_line("{\"type\": 5}");
    store.create(Kind::Pods, pod("b", "n1")).expect("created");
    assert_eq!(next(&mut events, 2).await, ["error", "apply b"]);
    server.faults().fail_requests(2, 500, None);
    server.faults().cut_watches();
    store.create(Kind::Pods, pod("c", "n1")).expect("created");
    assert_eq!(next_without_errors(&mut events, 1).await, ["apply c"]);
}

#[tokio::test]
async fn other_kinds_and_the_version_can_be_read() {
    let store = Store::new();
    store.create(Kind::Nodes, json!({"metadata": {"name": "n1"}})).expect("created");
    let slice = json!({
        "metadata": {"name": "s", "namespace": "shop", "labels": {"kubernetes.io/service-name": "shop"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true}}],
        "ports": [{"port": 80}],
    });
    store.create(Kind::EndpointSlices, slice).expect("created");
    let server = Server::serve(&store).expect("a server");
    let client = client(&server).await;
    assert_eq!(client.apiserver_version().await.expect("a version").minor, "37");
    let node = Api::<Node>::all(client.clone()).get("n1").await.expect("the node");
    assert!(node.uid().is_some());
    let missing = Api::<Node>::all(client.clone()).get_opt("n2").await.expect("an answer");
    assert!(missing.is_none());
    let slices = Api::<EndpointSlice>::namespaced(client, "shop");
    let found = slices
        .list(&kube::api::ListParams::default().labels("kubernetes.io/service-name=shop"))
        .await
        .expect("a list");
    assert_eq!(found.items.len(), 1);
}
