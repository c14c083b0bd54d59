//! Pods from start to removal: readiness, restarts, preStop, signals, grace, statuses, addresses.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use world::apiserver::{Kind, Verb, Watch};
use world::controllers::PodRef;
use world::kubelet::{Journal, Step};
use world::node::AddressReuse;
use world::{PodTemplate, World};

use crate::client::{Client, Seen, connect_error, get};
use crate::{SOON, start, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a pod's end goes through preStop, SIGTERM, exit and removal", a_pods_end),
        trial("a pod that ignores SIGTERM is killed when its grace ends", a_pod_that_ignores_sigterm),
        trial("a deletion's grace begins with the kubelet's delay", the_kubelet_is_late),
        trial(
            "a removed sandbox takes its address along, and the next pod may have it",
            an_address_is_reused,
        ),
        trial("a crashed container is started again in the same sandbox", a_crash_restarts),
        trial("readiness follows the probe", readiness_follows_the_probe),
        trial("a pod that is deleted as soon as it is made ends all the same", a_pod_deleted_at_once),
        trial("a pod removed by force is ended all the same", a_forced_removal),
        trial("nginx runs as a pod's container", nginx_runs),
    ]
}

fn is_signal(wanted: i32) -> impl Fn(&Step) -> bool {
    move |step| matches!(step, Step::Signal { signal, .. } if *signal == wanted)
}

/// Milliseconds from one step to another.
fn between(
    journal: &Journal,
    pod: &PodRef,
    from: impl Fn(&Step) -> bool,
    to: impl Fn(&Step) -> bool,
) -> anyhow::Result<u64> {
    let (from, to) = (
        journal.first(&pod.uid, from).context("no first step")?,
        journal.first(&pod.uid, to).context("no second step")?,
    );
    Ok(to.checked_sub(from).context("the steps are in the wrong order")? / 1_000_000)
}

/// The last state of a pod before its removal, from a watch that was begun earlier.
fn last_state(watch: &mut Watch, pod: &PodRef) -> anyhow::Result<Arc<Value>> {
    let mut last = None;
    while let Some(change) = watch.try_next()? {
        if change.kind == Kind::Pods && change.name == pod.name && change.verb != Verb::Deleted {
            last = Some(Arc::clone(&change.object));
        }
    }
    last.context("no change of the pod")
}

fn ready_pod(world: &World, name: &str, template: &PodTemplate) -> anyhow::Result<PodRef> {
    let pod = world.pod("default", name, template)?;
    world.wait_ready(&pod, true, SOON)?;
    Ok(pod)
}

fn a_pods_end() -> anyhow::Result<()> {
    let world = start()?;
    let template =
        PodTemplate { prestop_seconds: 1, ..PodTemplate::testserver("a", &["--on-term", "linger:0.5"]) };
    let pod = ready_pod(&world, "a", &template)?;
    let address = world.addresses(&pod)?[0];
    let (_, mut watch) = world.store().watch();
    world.delete(&pod)?;
    world.wait_step(&pod, SOON, |step| matches!(step, Step::PreStop { .. }))?;
    ensure!(get(&world, address, 8080, "/")?.is(200, "hello from a"), "it serves during preStop");
    world.wait_step(&pod, SOON, is_signal(15))?;
    ensure!(get(&world, address, 8080, "/")?.is(200, "hello from a"), "it serves while it lingers");
    world.wait_gone(&pod, SOON)?;

    let journal = world.journal();
    ensure!((1000..1500).contains(&between(
        journal,
        &pod,
        |step| matches!(step, Step::PreStop { .. }),
        is_signal(15)
    )?));
    ensure!((500..1000).contains(&between(journal, &pod, is_signal(15), |step| matches!(
        step,
        Step::Exited { code: 0, .. }
    ))?));
    let steps: Vec<_> = journal.of_pod(&pod.uid).into_iter().map(|record| record.step).collect();
    let place = |wanted: &Step| steps.iter().position(|step| step == wanted);
    ensure!(
        place(&Step::SandboxRemoved) > place(&Step::SandboxRemoval)
            && place(&Step::ObjectRemoval) > place(&Step::SandboxRemoved)
    );
    ensure!(!steps.iter().any(is_signal(9)), "{steps:?}");

    let last = last_state(&mut watch, &pod)?;
    ensure!(last["status"]["phase"] == "Succeeded", "{last}");
    let state = &last["status"]["containerStatuses"][0]["state"]["terminated"];
    ensure!(
        state["exitCode"] == 0 && state["reason"] == "Completed" && state["finishedAt"].is_string(),
        "{state}"
    );
    ensure!(!world.node().cgroups().pod(&pod.uid).exists());
    world.shutdown()
}

fn a_pod_that_ignores_sigterm() -> anyhow::Result<()> {
    let world = start()?;
    let template = PodTemplate { grace_seconds: 2, ..PodTemplate::testserver("a", &["--on-term", "ignore"]) };
    let pod = ready_pod(&world, "a", &template)?;
    let address = world.addresses(&pod)?[0];
    let (_, mut watch) = world.store().watch();
    world.delete(&pod)?;
    world.wait_step(&pod, SOON, is_signal(15))?;
    ensure!(get(&world, address, 8080, "/")?.is(200, "hello"), "SIGTERM changes nothing");
    world.wait_gone(&pod, SOON)?;
    ensure!((2000..2500).contains(&between(world.journal(), &pod, is_signal(15), is_signal(9))?));
    let last = last_state(&mut watch, &pod)?;
    ensure!(
        last["status"]["phase"] == "Failed" && last["metadata"]["deletionTimestamp"].is_string(),
        "{last}"
    );
    ensure!(last["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 137, "{last}");
    world.shutdown()
}

fn the_kubelet_is_late() -> anyhow::Result<()> {
    let world = start()?;
    let pod = ready_pod(&world, "a", &PodTemplate::testserver("a", &["--on-term", "exit"]))?;
    world.delays().kubelet.set(Duration::from_millis(400));
    world.delays().sandbox.set(Duration::from_millis(300));
    let before = world::kubelet::monotonic_ns();
    world.delete(&pod)?;
    world.wait_gone(&pod, SOON)?;
    let began = world
        .journal()
        .first(&pod.uid, |step| *step == Step::TerminationStarted)
        .context("no termination")?;
    ensure!((400..900).contains(&((began - before) / 1_000_000)), "{began} {before}");
    let waited = between(
        world.journal(),
        &pod,
        |step| matches!(step, Step::Exited { .. }),
        |step| *step == Step::SandboxRemoval,
    )?;
    ensure!((300..800).contains(&waited), "{waited}");
    world.shutdown()
}

fn an_address_is_reused() -> anyhow::Result<()> {
    let world = start()?;
    world.node().set_address_reuse(AddressReuse::AtOnce);
    let template = PodTemplate::testserver("a", &["--on-term", "exit"]);
    let pod = ready_pod(&world, "a", &template)?;
    let addresses = world.addresses(&pod)?;
    world.delete(&pod)?;
    world.wait_gone(&pod, SOON)?;
    for address in &addresses {
        let error = connect_error(&world, *address, 8080);
        ensure!(
            matches!(error, Some(ErrorKind::HostUnreachable | ErrorKind::TimedOut)),
            "{address}: {error:?}"
        );
    }
    let next = ready_pod(&world, "b", &template)?;
    ensure!(world.addresses(&next)? == addresses);
    for address in addresses {
        ensure!(get(&world, address, 8080, "/")?.is(200, "hello from b"));
    }
    world.shutdown()
}

fn a_crash_restarts() -> anyhow::Result<()> {
    let world = start()?;
    let pod = ready_pod(&world, "a", &PodTemplate::testserver("a", &[]))?;
    let before = world.object(&pod)?;
    let address = world.addresses(&pod)?[0];
    ensure!(get(&world, address, 8080, "/exit?code=3")? == Seen::Eof);
    let restarted = |store: &world::apiserver::Store| {
        let object = store.get(Kind::Pods, "default", "a");
        object.is_ok_and(|pod| {
            pod["status"]["containerStatuses"][0]["restartCount"] == 1
                && pod["status"]["containerStatuses"][0]["ready"] == true
        })
    };
    ensure!(world.store().wait_until(SOON, restarted), "{}", world.object(&pod)?);
    let after = world.object(&pod)?;
    let (old, new) = (&before["status"]["containerStatuses"][0], &after["status"]["containerStatuses"][0]);
    ensure!(
        old["containerID"] != new["containerID"] && new["lastState"]["terminated"]["exitCode"] == 3,
        "{new}"
    );
    ensure!(new["lastState"]["terminated"]["containerID"] == old["containerID"], "{new}");
    ensure!(before["status"]["podIPs"] == after["status"]["podIPs"]);
    ensure!(get(&world, address, 8080, "/")?.is(200, "hello from a"));
    world.shutdown()
}

fn readiness_follows_the_probe() -> anyhow::Result<()> {
    let world = start()?;
    world.service("default", "web", "web")?;
    let pod = ready_pod(&world, "a", &PodTemplate::testserver("web", &[]))?;
    world.wait_routed("web", std::slice::from_ref(&pod), SOON)?;
    let address = world.addresses(&pod)?[0];
    ensure!(get(&world, address, 8080, "/ready?value=false")?.is(200, "ok"));
    world.wait_ready(&pod, false, SOON)?;
    let unready =
        |step: &Step| matches!(step, Step::Endpoint { conditions: Some((false, false, false)), .. });
    world.wait_step(&pod, SOON, unready)?;
    world.wait_step(&pod, SOON, |step| matches!(step, Step::Rules { used: false, .. }))?;
    ensure!(get(&world, address, 8080, "/ready?value=true")?.is(200, "ok"));
    world.wait_ready(&pod, true, SOON)?;
    world.shutdown()
}

fn a_pod_deleted_at_once() -> anyhow::Result<()> {
    let world = start()?;
    // SIGTERM may come before the server has a handler, and is then lost, as in real life: the grace bounds that.
    let template = PodTemplate { grace_seconds: 2, ..PodTemplate::testserver("a", &[]) };
    let pod = world.pod("default", "a", &template)?;
    world.delete(&pod)?;
    world.wait_gone(&pod, SOON)?;
    world.shutdown()
}

fn a_forced_removal() -> anyhow::Result<()> {
    let world = start()?;
    let template = PodTemplate::testserver("a", &["--on-term", "ignore"]);
    let pod = ready_pod(&world, "a", &template)?;
    world.store().delete_pod("default", "a", 0)?;
    ensure!(world.object(&pod).is_err(), "the object goes at once");
    world.wait_step(&pod, SOON, |step| *step == Step::SandboxRemoved)?;
    ensure!(
        (2000..2500).contains(&between(world.journal(), &pod, is_signal(15), is_signal(9))?),
        "the runtime still gives 2 s"
    );
    world.shutdown()
}

fn nginx_runs() -> anyhow::Result<()> {
    let world = start()?;
    for (name, signal) in [("fast", None), ("graceful", Some("SIGQUIT".to_owned()))] {
        let template = PodTemplate { stop_signal: signal, ..PodTemplate::nginx(name) };
        let pod = ready_pod(&world, name, &template)?;
        for address in world.addresses(&pod)? {
            ensure!(get(&world, address, 8080, "/")?.is(200, &format!("hello from {name}")), "{address}");
        }
        let mut idle = Client::connect(&world, world.addresses(&pod)?[0], 8080)?;
        ensure!(idle.ask("/").is(200, "hello"));
        world.delete(&pod)?;
        ensure!(idle.receive() == Seen::Eof);
        world.wait_gone(&pod, SOON)?;
        let exited = world.journal().first(&pod.uid, |step| matches!(step, Step::Exited { code: 0, .. }));
        ensure!(exited.is_some(), "{:?}", world.journal().of_pod(&pod.uid));
    }
    world.shutdown()
}
