//! The protocol on the wire: lists, pages, watches, selectors, bookmarks, errors, discovery, audit.

use std::time::Duration;

use serde_json::{Value, json};
use world::apiserver::{Kind, Options, Server, Store};

use crate::pod;
use crate::raw::{self, End};

#[test]
fn a_watch_from_the_list_sees_every_later_change_in_order() {
    let store = Store::new();
    store.create(Kind::Pods, pod("a", "n1")).expect("created");
    let server = Server::serve(&store).expect("a server");
    let list = raw::get(server.address(), "/api/v1/pods").body;
    assert_eq!(list["kind"], "PodList");
    assert_eq!(list["items"][0]["metadata"]["name"], "a");
    assert!(list["items"][0].get("kind").is_none());
    let version = list["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();

    store.create(Kind::Pods, pod("b", "n1")).expect("created");
    let mut watch =
        raw::watch(server.address(), &format!("/api/v1/pods?watch=true&resourceVersion={version}"));
    store
        .update(Kind::Pods, "shop", "a", |pod| pod["status"] = json!({"phase": "Running"}))
        .expect("updated");
    store.update(Kind::Pods, "shop", "a", |_| {}).expect("no change");
    store.create(Kind::Services, json!({"metadata": {"name": "s", "namespace": "shop"}})).expect("created");
    store.remove(Kind::Pods, "shop", "b").expect("removed");
    let (added, modified, deleted) = (watch.event(), watch.event(), watch.event());
    assert_eq!(raw::name_of(&added), "ADDED b");
    assert_eq!(raw::name_of(&modified), "MODIFIED a");
    assert_eq!(modified["object"]["status"]["phase"], "Running");
    assert_eq!(raw::name_of(&deleted), "DELETED b");
    let versions = [&added, &modified, &deleted].map(|event| {
        event["object"]["metadata"]["resourceVersion"]
            .as_str()
            .expect("a version")
            .parse::<u64>()
            .expect("a number")
    });
    assert!(versions.is_sorted() && versions[2] == store.revision(), "{versions:?}");
}

#[test]
fn a_watch_without_a_version_begins_with_the_present_objects() {
    let store = Store::new();
    store.create(Kind::Pods, pod("a", "n1")).expect("created");
    let server = Server::serve(&store).expect("a server");
    for version in ["", "&resourceVersion=", "&resourceVersion=0"] {
        let mut watch =
            raw::watch(server.address(), &format!("/api/v1/namespaces/shop/pods?watch=1{version}"));
        assert_eq!(watch.names(1), ["ADDED a"]);
    }
}

#[test]
fn an_object_enters_and_leaves_a_selector_as_added_and_deleted() {
    let store = Store::new();
    store
        .create(Kind::Pods, json!({"metadata": {"name": "a", "namespace": "shop"}, "spec": {}}))
        .expect("created");
    let server = Server::serve(&store).expect("a server");
    let path = format!(
        "/api/v1/pods?watch=true&resourceVersion={}&fieldSelector=spec.nodeName%3Dn1",
        store.revision()
    );
    let mut watch = raw::watch(server.address(), &path);
    store.create(Kind::Pods, pod("other", "n2")).expect("created");
    let assign =
        |node: &str| store.update(Kind::Pods, "shop", "a", |pod| pod["spec"]["nodeName"] = json!(node));
    assign("n1").expect("updated");
    store
        .update(Kind::Pods, "shop", "a", |pod| pod["status"] = json!({"phase": "Running"}))
        .expect("updated");
    let moved = assign("n2").expect("updated");
    store.remove(Kind::Pods, "shop", "a").expect("removed");
    assert_eq!(watch.names(2), ["ADDED a", "MODIFIED a"]);
    let left = watch.event();
    assert_eq!(raw::name_of(&left), "DELETED a");
    assert_eq!(left["object"]["spec"]["nodeName"], "n1", "a leaving object is shown as it last matched");
    assert_eq!(left["object"]["metadata"]["resourceVersion"], moved["metadata"]["resourceVersion"]);
    assert!(watch.silent_for(Duration::from_millis(100)), "changes outside the selector are not sent");
}

#[test]
fn label_selectors_and_namespaces_limit_lists() {
    let store = Store::new();
    for (namespace, name) in [("shop", "a"), ("shop", "b"), ("bank", "a")] {
        let object = json!({"metadata": {"name": name, "namespace": namespace, "labels": {"app": name}}});
        store.create(Kind::EndpointSlices, object).expect("created");
    }
    let server = Server::serve(&store).expect("a server");
    for (path, expected) in [
        ("/apis/discovery.k8s.io/v1/endpointslices", 3),
        ("/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices", 2),
        ("/apis/discovery.k8s.io/v1/endpointslices?labelSelector=app+in+(a,c)", 2),
        ("/apis/discovery.k8s.io/v1/namespaces/bank/endpointslices?labelSelector=app%21%3Da", 0),
    ] {
        let list = raw::get(server.address(), path).body;
        assert_eq!(list["items"].as_array().map(Vec::len), Some(expected), "{path}");
        assert_eq!(list["apiVersion"], "discovery.k8s.io/v1");
    }
}

#[test]
fn pages_show_one_state_until_it_is_compacted() {
    let store = Store::new();
    for name in ["a", "b", "c", "d", "e"] {
        store.create(Kind::Pods, pod(name, "n1")).expect("created");
    }
    let server = Server::serve(&store).expect("a server");
    let first = raw::get(server.address(), "/api/v1/pods?limit=2").body;
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    store.remove(Kind::Pods, "shop", "c").expect("removed");
    let token = first["metadata"]["continue"].as_str().expect("a token");
    let second = raw::get(server.address(), &format!("/api/v1/pods?limit=2&continue={token}")).body;
    assert_eq!(second["items"][0]["metadata"]["name"], "c");
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let token = second["metadata"]["continue"].as_str().expect("a token");
    let third = raw::get(server.address(), &format!("/api/v1/pods?limit=2&continue={token}")).body;
    assert_eq!(third["items"].as_array().map(Vec::len), Some(1));
    assert!(third["metadata"].get("continue").is_none());

    store.compact();
    let gone = raw::get(server.address(), &format!("/api/v1/pods?limit=2&continue={token}"));
    assert_eq!((gone.status, &gone.body["reason"]), (410, &json!("Expired")));
}

#[test]
fn a_version_older_than_the_history_is_gone() {
    let store = Store::new();
    store.create(Kind::Pods, pod("a", "n1")).expect("created");
    store.create(Kind::Pods, pod("b", "n1")).expect("created");
    store.compact();
    let server = Server::serve(&store).expect("a server");
    let mut watch = raw::watch(server.address(), "/api/v1/pods?watch=true&resourceVersion=2");
    let error = watch.event();
    assert_eq!(
        (&error["type"], &error["object"]["code"], &error["object"]["reason"]),
        (&json!("ERROR"), &json!(410), &json!("Expired"))
    );
    assert_eq!(watch.line(), Err(End::Clean));
    let list = raw::get(server.address(), "/api/v1/pods?resourceVersion=2&resourceVersionMatch=Exact");
    assert_eq!((list.status, &list.body["reason"]), (410, &json!("Expired")));
    let future = raw::get(server.address(), "/api/v1/pods?resourceVersion=1000");
    assert_eq!(future.status, 504);
}

#[test]
fn a_streaming_list_ends_with_its_bookmark() {
    let store = Store::new();
    store.create(Kind::Pods, pod("a", "n1")).expect("created");
    store.create(Kind::Pods, pod("b", "n2")).expect("created");
    let server = Server::serve(&store).expect("a server");
    let path = "/api/v1/pods?watch=true&resourceVersion=0&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&fieldSelector=spec.nodeName%3Dn2";
    let mut watch = raw::watch(server.address(), path);
    assert_eq!(watch.names(1), ["ADDED b"]);
    let end = watch.event();
    assert_eq!(end["type"], "BOOKMARK");
    assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(end["object"]["metadata"]["resourceVersion"], store.revision().to_string());
    let refused = raw::get(server.address(), "/api/v1/pods?watch=true&sendInitialEvents=true");
    assert_eq!(refused.status, 422);
}

#[test]
fn bookmarks_come_only_where_allowed_and_the_timeout_ends_the_stream() {
    let store = Store::new();
    let options = Options { bookmark_interval: Duration::from_millis(20), ..Options::default() };
    let server = Server::serve_with(&store, options).expect("a server");
    let mut with =
        raw::watch(server.address(), "/api/v1/pods?watch=true&resourceVersion=1&allowWatchBookmarks=true");
    store.create(Kind::Nodes, json!({"metadata": {"name": "n1"}})).expect("created");
    let wanted = json!(store.revision().to_string());
    // Bookmarks advance by changes of other kinds too: that is what they are for.
    let advanced = (0..100).any(|_| with.event()["object"]["metadata"]["resourceVersion"] == wanted);
    assert!(advanced, "a bookmark names the newest version");
    let mut without =
        raw::watch(server.address(), "/api/v1/pods?watch=true&resourceVersion=1&timeoutSeconds=1");
    assert_eq!(without.line(), Err(End::Clean));
}

#[test]
fn errors_are_status_objects() {
    let store = Store::new();
    let server = Server::serve(&store).expect("a server");
    for (path, status, reason) in [
        ("/api/v1/namespaces/shop/pods/none", 404, "NotFound"),
        ("/api/v1/secrets", 404, "NotFound"),
        ("/apis/discovery.k8s.io/v1/pods", 404, "NotFound"),
        ("/api/v1/namespaces/shop/nodes", 404, "NotFound"),
        ("/api/v1/pods/a", 404, "NotFound"),
        ("/api/v1/pods?fieldSelector=spec.colour%3Dred", 400, "BadRequest"),
        ("/api/v1/pods?resourceVersion=abc", 400, "BadRequest"),
        ("/api/v1/pods?continue=abc", 400, "BadRequest"),
    ] {
        let response = raw::get(server.address(), path);
        assert_eq!((response.status, &response.body["reason"]), (status, &json!(reason)), "{path}");
        assert_eq!(
            (&response.body["kind"], &response.body["code"]),
            (&json!("Status"), &json!(status)),
            "{path}"
        );
    }
    let post = "POST /api/v1/namespaces/shop/pods HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";
    assert_eq!(raw::request(server.address(), post).status, 405);
    let table = "GET /api/v1/pods HTTP/1.1\r\nHost: a\r\nAccept: application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1\r\nConnection: close\r\n\r\n";
    assert_eq!(raw::request(server.address(), table).status, 406);
}

#[test]
fn a_token_is_required_where_set() {
    let options = Options { token: Some("secret".to_owned()), ..Options::default() };
    let server = Server::serve_with(&Store::new(), options).expect("a server");
    assert_eq!(raw::get(server.address(), "/api/v1/pods").status, 401);
    let request = |token| {
        let request = format!(
            "GET /version HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        );
        raw::request(server.address(), &request).status
    };
    assert_eq!((request("wrong"), request("secret")), (401, 200));
    assert!(server.kubeconfig().contains("token: secret"));
}

#[test]
fn discovery_names_what_is_served_and_objects_can_be_read() {
    let store = Store::new();
    store.create(Kind::Nodes, json!({"metadata": {"name": "n1"}})).expect("created");
    store.create(Kind::Pods, pod("a", "n1")).expect("created");
    let server = Server::serve(&store).expect("a server");
    let get = |path| raw::get(server.address(), path).body;
    assert_eq!(get("/readyz"), "ok");
    assert!(get("/version")["gitVersion"].is_string());
    assert_eq!(get("/api")["versions"][0], "v1");
    assert_eq!(get("/apis")["groups"][0]["name"], "discovery.k8s.io");
    assert_eq!(get("/api/v1")["resources"].as_array().map(Vec::len), Some(5));
    assert_eq!(get("/apis/discovery.k8s.io/v1")["groupVersion"], "discovery.k8s.io/v1");
    assert_eq!(get("/api/v1/nodes/n1")["kind"], "Node");
    assert_eq!(get("/api/v1/namespaces/shop/pods/a")["spec"]["nodeName"], "n1");
}

#[test]
fn events_are_made_once_and_changed_by_a_merge_patch() {
    let store = Store::new();
    let server = Server::serve(&store).expect("a server");
    let event = json!({
        "metadata": {"name": "a.1"}, "involvedObject": {"kind": "Pod", "namespace": "shop", "name": "a"}, "type": "Warning",
        "reason": "R", "message": "first", "count": 1, "reportingComponent": "c", "reportingInstance": "i",
    });
    let send = |method: &str, path: &str, kind: &str, body: &Value| {
        let body = body.to_string();
        let head =
            format!("{method} /api/v1/namespaces/shop/{path} HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}");
        let length = body.len();
        raw::request(
            server.address(),
            &format!("{head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"),
        )
        .status
    };
    let (plain, merge) = ("application/json", "application/merge-patch+json");
    let patch = json!({"message": "second", "count": 2});
    assert_eq!(send("PATCH", "events/a.1", merge, &patch), 404);
    assert_eq!(send("POST", "events", merge, &event), 415);
    assert_eq!(send("POST", "events", plain, &json!({"metadata": {"name": "a.1"}})), 422);
    assert_eq!(send("POST", "events", plain, &json!({"padding": "x".repeat(100_000)})), 400);
    assert_eq!(send("POST", "events", plain, &event), 201);
    assert_eq!(send("POST", "events", plain, &event), 409);
    assert_eq!(send("PATCH", "events/a.1", merge, &patch), 200);
    assert_eq!(send("PATCH", "events/a.1", merge, &json!({"metadata": {"name": "b"}})), 422);
    assert_eq!(send("PATCH", "pods/a", merge, &patch), 405);
    server.faults().forbid("patch", Kind::Events, true);
    assert_eq!(send("PATCH", "events/a.1", merge, &patch), 403);
    let event = store.get(Kind::Events, "shop", "a.1").expect("it is there");
    assert_eq!(
        (&event["message"], &event["count"], &event["reason"]),
        (&json!("second"), &json!(2), &json!("R"))
    );
}

#[test]
fn requests_are_counted_by_what_they_asked_for() {
    let server = Server::serve(&Store::new()).expect("a server");
    raw::get(server.address(), "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1");
    raw::get(server.address(), "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1");
    raw::get(server.address(), "/api/v1/namespaces/shop/services");
    let watch = raw::watch(server.address(), "/api/v1/namespaces/shop/services?watch=true");
    let rows = server.requests();
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                row.verb.as_str(),
                row.resource.as_str(),
                row.namespace.as_deref(),
                row.selector.as_str(),
                row.count,
            )
        })
        .collect();
    assert_eq!(
        rows,
        [
            ("list", "pods", None, "spec.nodeName=n1", 2),
            ("list", "services", Some("shop"), "", 1),
            ("watch", "services", Some("shop"), "", 1),
        ]
    );
    assert_eq!(server.open_watches(), 1);
    drop(watch);
    let closed = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        server.open_watches() == 0
    });
    assert!(closed, "a client that leaves ends its watch");
}
