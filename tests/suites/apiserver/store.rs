//! The store in the process: metadata rules, cursors from threads and tasks, the bounded history.

use std::time::Duration;

use serde_json::json;
use world::apiserver::{HISTORY_LIMIT, Kind, Store, StoreError, Verb};

use crate::pod;

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn objects_get_their_metadata_and_keep_their_identity() {
    let store = Store::new();
    let created = store.create(Kind::Pods, pod("a", "n1")).expect("created");
    let metadata = &created["metadata"];
    assert_eq!((&created["kind"], &created["apiVersion"]), (&json!("Pod"), &json!("v1")));
    assert_eq!(metadata["uid"].as_str().map(str::len), Some(36));
    assert_eq!(metadata["resourceVersion"], "2");
    assert!(
        metadata["creationTimestamp"].as_str().is_some_and(|time| time.len() == "2026-01-01T00:00:00Z".len())
    );

    let status = store
        .update(Kind::Pods, "shop", "a", |pod| pod["status"] = json!({"phase": "Running"}))
        .expect("updated");
    assert_eq!(
        (&status["metadata"]["generation"], &status["metadata"]["resourceVersion"]),
        (&json!(1), &json!("3"))
    );
    let spec = store.update(Kind::Pods, "shop", "a", |pod| pod["spec"]["x"] = json!(1)).expect("updated");
    assert_eq!(spec["metadata"]["generation"], 2);
    let renamed = store.update(Kind::Pods, "shop", "a", |pod| pod["metadata"]["name"] = json!("b"));
    assert!(matches!(renamed, Err(StoreError::Invalid { .. })));

    assert!(matches!(store.create(Kind::Pods, pod("a", "n1")), Err(StoreError::AlreadyExists { .. })));
    assert!(matches!(store.create(Kind::Nodes, pod("a", "n1")), Err(StoreError::Invalid { .. })));
    assert!(matches!(store.create(Kind::Pods, json!(5)), Err(StoreError::Invalid { .. })));
    assert!(matches!(store.remove(Kind::Pods, "shop", "b"), Err(StoreError::NotFound { .. })));
    assert_eq!(store.revision(), 4, "a refused call changes nothing");
}

#[test]
fn a_pod_is_marked_first_and_removed_by_the_deletion_with_grace_zero() {
    let store = Store::new();
    store.create(Kind::Pods, pod("a", "n1")).expect("created");
    let (_, mut watch) = store.watch();
    store.delete_pod("shop", "a", 30).expect("marked");
    store.delete_pod("shop", "a", 60).expect("no longer than before");
    store.delete_pod("shop", "a", 0).expect("removed");
    assert!(matches!(store.get(Kind::Pods, "shop", "a"), Err(StoreError::NotFound { .. })));
    let changes: Vec<_> = std::iter::from_fn(|| watch.try_next().expect("covered"))
        .map(|change| (change.verb, change.object["metadata"]["deletionGracePeriodSeconds"].as_u64()))
        .collect();
    assert_eq!(changes, [(Verb::Modified, Some(30)), (Verb::Modified, Some(0)), (Verb::Deleted, Some(0))]);
}

#[test]
fn a_thread_and_a_task_see_the_same_changes() {
    let store = Store::new();
    let (_, mut sync_watch) = store.watch();
    let (_, mut async_watch) = store.watch();
    let writer = {
        let store = store.clone();
        std::thread::spawn(move || {
            for number in 0..500 {
                store.create(Kind::Pods, pod(&format!("pod-{number}"), "n1")).expect("created");
            }
        })
    };
    let reader = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut versions = Vec::new();
            while versions.len() < 500 {
                versions.push(async_watch.next().await.expect("covered").resource_version);
            }
            versions
        })
    });
    let mut versions = Vec::new();
    while versions.len() < 500 {
        versions.push(sync_watch.next_timeout(PATIENCE).expect("covered").expect("in time").resource_version);
    }
    assert_eq!(versions, (2..502).collect::<Vec<u64>>());
    assert_eq!(reader.join().expect("no panic"), versions);
    writer.join().expect("no panic");
    assert_eq!(
        sync_watch
            .next_timeout(Duration::from_millis(10))
            .expect("covered")
            .map(|change| change.resource_version),
        None
    );
}

#[test]
fn a_cursor_that_fell_behind_the_history_is_told() {
    let store = Store::new();
    store.create(Kind::Pods, pod("a", "n1")).expect("created");
    let (start, mut watch) = store.watch();
    let touch = |number: usize| {
        store.update(Kind::Pods, "shop", "a", |pod| pod["status"] = json!(number)).expect("updated");
    };
    (0..HISTORY_LIMIT).for_each(touch);
    assert_eq!(
        watch.try_next().expect("just covered").map(|change| change.resource_version),
        Some(start + 1)
    );
    (HISTORY_LIMIT..HISTORY_LIMIT + 2).for_each(touch);
    let expired = watch.try_next().expect_err("too old");
    assert_eq!((expired.wanted, expired.oldest), (start + 1, start + 2));
    assert!(store.watch_from(start).is_err());
}

#[test]
fn waiting_ends_when_the_condition_holds() {
    let store = Store::new();
    let writer = {
        let store = store.clone();
        std::thread::spawn(move || store.create(Kind::Pods, pod("a", "n1")).map(|_| ()))
    };
    assert!(store.wait_until(PATIENCE, |store| store.get(Kind::Pods, "shop", "a").is_ok()));
    assert!(!store.wait_until(Duration::from_millis(10), |store| store.get(Kind::Pods, "shop", "b").is_ok()));
    writer.join().expect("no panic").expect("created");
    assert_eq!(store.list_namespace(Kind::Pods, "shop").1.len(), 1);
    assert_eq!(store.list_namespace(Kind::Pods, "bank").1.len(), 0);
}
