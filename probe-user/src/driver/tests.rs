//! The driver with a real core and without a kernel side.

use super::*;
use crate::args::LogFormat;
use probe_core::event::{ContainerStatus, Deletion, Key, Pod};
use probe_core::limits::Limits;
use probe_core::snapshot::{Series, Value};

fn driver() -> (Driver, Links) {
    driver_with(Limits { slots: 0, ..Limits::default() })
}

fn driver_with(limits: Limits) -> (Driver, Links) {
    Driver::new(Parts {
        monitor: Monitor::new(limits, "n1".into()),
        kernel: None,
        hierarchy: None,
        announcer: None,
        asker: None,
        journal: Journal { format: LogFormat::Text },
        kernel_log: None,
        own_pod: None,
    })
}

fn pods() -> [Fact; 2] {
    let status = ContainerStatus { name: "c".into(), id: "id".into(), ..ContainerStatus::default() };
    let pod = Pod {
        uid: "u".into(),
        cgroup_uid: "u".into(),
        key: Key { namespace: "shop".into(), name: "web".into() },
        ready: true,
        containers: vec![status],
        ..Pod::default()
    };
    let deletion = Some(Deletion { deadline_unix_s: unix_now_ns() / 1_000_000_000 + 30, grace_seconds: 30 });
    [Fact::Pod(Box::new(pod.clone())), Fact::Pod(Box::new(Pod { deletion, ..pod }))]
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = mono_now();
    while !holds().await {
        assert!(mono_now().since(begun) < 20 * SECOND, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_fact_that_its_source_sent_late_is_received_when_it_comes() {
    let (driver, links) = driver();
    let (stop, stopping) = watch::channel(false);
    let running = tokio::spawn(driver.run(stopping));
    let stamped = mono_now();
    // The source is kept from the CPU, and the core goes on.
    let late = stamped.after(SECOND / 2);
    until("the core's time", async || {
        links.handle.observe().await.is_ok_and(|observed| observed.snapshot.at >= late)
    })
    .await;
    for fact in pods() {
        links.sink.send(Event { at: stamped, fact }).await.expect("the driver takes facts");
    }
    until("the deletion", async || {
        links.handle.terminations(Filter::default()).await.is_ok_and(|listing| !listing.items.is_empty())
    })
    .await;
    let series = links.handle.observe().await.expect("the driver runs").snapshot.series;
    let behind = |series: &&Series| series.family == "anomalies" && series.labels == ["behind_window"];
    assert_eq!(series.iter().find(behind).map(|series| &series.value), Some(&Value::Counter(0)));
    stop.send_replace(true);
    assert_eq!(running.await.expect("it ends in order").len(), 1);
}

#[test]
fn between_full_readings_there_is_nothing_to_do_unless_a_pod_stops() {
    let (mut driver, _links) = driver_with(Limits::default());
    let settle = |driver: &mut Driver| {
        while let Some(due) = driver.monitor.poll_timeout().filter(|due| *due <= driver.ticks.all) {
            driver.monitor.handle_timeout(due);
        }
    };
    driver.tick(mono_now());
    driver.note(Fact::Cgroup { id: 7, pod_uid: "u".into(), container_id: "id".into() });
    let [running, deleted] = pods();
    driver.note(running);
    settle(&mut driver);
    assert!(driver.monitor.slots().iter().any(|slot| !slot.terminating), "it has a slot");
    driver.ticks.save = driver.ticks.slow;
    assert!(driver.next_due() >= driver.ticks.all.min(driver.ticks.slow));
    driver.note(deleted);
    settle(&mut driver);
    assert!(driver.next_due() <= driver.ticks.terminating);
}
