//! Kubernetes Events of a real agent: one for each pod that lost requests and one for its rollout, which say what the counts say; the next agent
//! makes none twice; without the right to make them everything else goes on.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use world::agent::{Agent, Termination};
use world::apiserver::Kind;
use world::clients::Load;
use world::controllers::PodRef;
use world::{PodTemplate, World};

use crate::site::{NAMESPACE, Site, address_of, config, failures, program, same, wait_exited};
use crate::{SETTLING, SOON, trial};

const CLIENTS: &str = "--new 4 --new-rate 20 --keepalive 4 --keepalive-rate 20";
const WHILE: Duration = Duration::from_millis(500);
const SENT: &str = "drainscope_kubernetes_events_total";
const LOST: &str = "drainscope_kubernetes_events_lost_total";

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("lost requests are told as Events, of pods one by one and of a rollout in one", events)]
}

fn events() -> anyhow::Result<()> {
    let world = World::start(config())?;
    let pins = world.node().bpffs()?.join("drainscope");
    let arguments = ["--events", "--pin-dir", pins.to_str().context("a path that is no text")?];
    let mut site = Site::in_world(world, &arguments)?;
    site.world.delays().sandbox.set(Duration::from_secs(3));
    let exiting = |app: &str| PodTemplate::testserver(app, &["--on-term", "exit"]);
    let web = site.deploy("web", 3, &exiting("web"))?;
    let clean = site.deploy("clean", 1, &exiting("clean"))?;
    let refused = site.deploy("refused", 1, &exiting("refused"))?;
    let metrics = site.agent.metrics()?;
    for (name, label) in [(SENT, "created"), (SENT, "updated"), (LOST, "forbidden"), (LOST, "queue_full")] {
        ensure!(metrics.has(name, &[label]), "{name} {label} is not there from the start");
        ensure!(same(metrics.sum(name, &[label]), 0), "{name} {label}");
    }

    let mut lost = Vec::new();
    for pod in &web.pods()[..2] {
        lost.push(end_under_load(&site, pod)?);
    }
    site.world.delete(&clean.pods()[0])?;
    let ends = site.agent.wait_ended(&[&web.pods()[..2], clean.pods()].concat(), SETTLING)?;
    site.until("three Events, one of which grew", || {
        let metrics = site.agent.metrics()?;
        Ok(same(metrics.sum(SENT, &["created"]), 3) && same(metrics.sum(SENT, &["updated"]), 1))
    })?;
    let told = site.world.store().list(Kind::Events).1;
    ensure!(told.len() == 3, "{told:#?}");
    for ((pod, lost), end) in web.pods().iter().zip(&lost).zip(&ends) {
        let event = about(&told, "Pod", &pod.name)?;
        ensure!(event["involvedObject"]["uid"] == pod.uid.as_str(), "{event:#}");
        tells(event, *lost, std::slice::from_ref(end), "this pod's end")?;
    }
    let all = lost.iter().sum::<usize>();
    let event = about(&told, "Deployment", "web")?;
    tells(event, all, &ends[..2], "2 of 2 pod ends on node node-1")?;
    ensure!(
        event["count"] == 2 && event["type"] == "Warning" && event["reason"] == "RequestsLost",
        "{event:#}"
    );

    // The next agent goes on with the same Event; what the first one had not saved as said is said again, and makes no second one.
    site.agent.kill()?;
    site.agent = Agent::start(&site.world, &program()?, &arguments)?;
    site.agent.wait_ready(SOON)?;
    lost.push(end_under_load(&site, &web.pods()[2])?);
    // Without the right to make new ones the rest works, and the gap is named and counted.
    site.world.api().faults().forbid("create", Kind::Events, true);
    let failed = end_under_load(&site, &refused.pods()[0])?;
    let ends = site.agent.wait_ended(&[web.pods(), refused.pods()].concat(), SETTLING)?;
    let named =
        "[+]events ok: degraded: cannot create events in shop: the API answered 403: events is forbidden";
    site.until("three refusals", || {
        let metrics = site.agent.metrics()?;
        Ok(same(metrics.sum(LOST, &["reason=\"forbidden\""]), 3)
            && same(metrics.sum("drainscope_feature_degraded", &["kubernetes_events"]), 1)
            && site.agent.get("/readyz?verbose")?.1.contains(named))
    })?;
    ensure!(site.agent.log().contains("verb=\"create\" resource=\"events\""), "{}", site.agent.log());
    ensure!(site.agent.api("/status")?["events"]["lost"]["forbidden"] == 3, "/status");
    let told = site.world.store().list(Kind::Events).1;
    ensure!(told.len() == 3, "{told:#?}");
    let all = lost.iter().sum::<usize>();
    let event = about(&told, "Deployment", "web")?;
    tells(event, all, &ends[..3], "3 of 3 pod ends on node node-1")?;
    ensure!(event["count"] == 3, "{event:#}");
    let counted = ends.iter().map(|end| end.lost_total()).sum::<u64>();
    ensure!(counted == u64::try_from(all + failed)?, "{all} and {failed} failed: {ends:#?}");
    site.finish()
}

/// Deletes a pod under load; how many requests its clients lost.
fn end_under_load(site: &Site, pod: &PodRef) -> anyhow::Result<usize> {
    let mut load = Load::start(&site.world, address_of(&site.world, pod)?, CLIENTS)?;
    load.run_for(WHILE)?;
    site.world.delete(pod)?;
    wait_exited(&site.world, pod)?;
    load.run_for(WHILE)?;
    let failed = failures(&load.stop()?.attempts);
    ensure!(failed > 1, "{}: nothing was lost", pod.name);
    Ok(failed)
}

fn about<'a>(told: &'a [std::sync::Arc<Value>], kind: &str, name: &str) -> anyhow::Result<&'a Value> {
    let mut of = told.iter().filter(|event| {
        let object = &event["involvedObject"];
        object["kind"] == kind && object["name"] == name && object["namespace"] == NAMESPACE
    });
    let event = of.next().with_context(|| format!("nothing of {kind} {name}: {told:#?}"))?;
    ensure!(of.next().is_none(), "{kind} {name} twice: {told:#?}");
    Ok(event)
}

/// The message has the clients' number, the classes of these ends, and the advice.
fn tells(event: &Value, failed: usize, ends: &[Termination], place: &str) -> anyhow::Result<()> {
    let message = event["message"].as_str().unwrap_or_default();
    let classes = message.split_once('(').and_then(|(_, rest)| rest.split_once(')')).context("no classes")?;
    let told: BTreeMap<String, u64> = classes
        .0
        .split(", ")
        .filter_map(|part| part.split_once(' '))
        .map(|(count, class)| Ok((class.to_owned(), count.parse()?)))
        .collect::<anyhow::Result<_>>()?;
    let mut counted = BTreeMap::new();
    for (class, count) in ends.iter().flat_map(|end| &end.lost).filter(|(_, count)| **count > 0) {
        *counted.entry(class.clone()).or_insert(0) += count;
    }
    ensure!(told == counted, "{message:?}, counted {counted:?}");
    ensure!(message.starts_with(&format!("{failed} requests lost (")), "{failed} failed: {message:?}");
    ensure!(classes.1.starts_with(&format!(" at {place}. preStop sleep ")), "{message:?}");
    Ok(())
}
