//! What is off by default, switched on in one rolling update under load: kube-proxy's own rules held against kube-proxy's own account and the
//! API server's, connection tracking that caused nothing, and Kubernetes Events as kubectl shows them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, ensure};
use jiff::Timestamp;
use serde_json::Value;
use world::controllers::PodRef;

use crate::daemon_set::told;
use crate::pods::{self, NAMESPACE, PATIENCE};
use crate::release;
use crate::report::Row;
use crate::rollout::{self, AFTER, BEFORE, Counted, Outcome};
use crate::site::Site;
use crate::syncs::{self, Sync};
use crate::{audit, kubectl, sync_time};

/// The chart's values.
pub(crate) const VALUES: &str = "agent.proxyRules=true,agent.conntrack=true,events.enabled=true";
/// kube-proxy gathers changes for so long: what is told later after a sync's end could be of the next one.
const APART: f64 = 1.0;

/// The agent runs with [`VALUES`].
pub(crate) fn run(site: &mut Site, web: &str, proxy: &str) -> anyhow::Result<Vec<Row>> {
    let begun = Timestamp::now();
    let over = AtomicBool::new(false);
    let (outcome, syncs) = thread::scope(|scope| {
        let syncs = scope.spawn(|| syncs::watch(&over));
        let outcome = under_load(site, web);
        over.store(true, Ordering::Relaxed);
        anyhow::Ok((outcome?, syncs.join().ok().context("the watch of kube-proxy panicked")??))
    })?;
    let (outcome, addresses) = outcome;
    let rules = match proxy {
        "iptables" => told("kube-proxy's rules, in iptables mode", is_not_visible(site)),
        _ => {
            let followed = followed(site, web, (&outcome, &addresses), (begun, &syncs));
            told("kube-proxy's rules, by nf_tables and by its own metrics", followed)
        }
    };
    let mut rows = vec![
        rules,
        told("connection tracking, ports never used again", caused_nothing(site, &outcome)),
        told("Kubernetes Events of a rolling update under load", announced(site, web, &outcome)),
    ];
    if proxy != "iptables" {
        rows.push(told("kube-proxy's sync time, heard and not heard", sync_time::compared(site)));
    }
    Ok(rows)
}

/// What both sides say of a rolling update, and the old pods' addresses.
fn under_load(site: &Site, web: &str) -> anyhow::Result<(Outcome, BTreeMap<String, PodRef>)> {
    let target = rollout::service(web)?.cluster_ip;
    let mut addresses = BTreeMap::new();
    let outcome = rollout::under_load(site, target, Counted::FromTheFirst, |load| {
        load.run_for(BEFORE)?;
        for pod in pods::labelled(web)? {
            let address = pod["status"]["podIP"].as_str().context("a pod has an address")?;
            addresses.insert(address.to_owned(), pods::reference(&pod)?);
        }
        let old = rollout::restart(web)?;
        rollout::wait_replaced(web, &old)?;
        load.run_for(AFTER)?;
        Ok(old)
    })?;
    let verdict = &outcome.verdict;
    ensure!(verdict.holds() && verdict.failed > 0, "the rolling update: {verdict:#?}");
    Ok((outcome, addresses))
}

/// Each old pod's address left the rules after the API server was told to take it out, in a sync of kube-proxy's.
fn followed(
    site: &Site,
    web: &str,
    (outcome, addresses): (&Outcome, &BTreeMap<String, PodRef>),
    (begun, syncs): (Timestamp, &[Sync]),
) -> anyhow::Result<String> {
    let status = site.agent.api("/status")?["proxy_rules"].take();
    ensure!(status["state"] == "active", "{status}");
    let listing = site.agent.api("/api/v1/removed-endpoints")?;
    let writes = audit::slice_writes(&site.state, web)?;
    let (mut lags, mut after_end): (Vec<f64>, Vec<f64>) = (Vec::new(), Vec::new());
    for (address, pod) in addresses {
        let end = outcome.terminations.iter().find(|end| end.pod.uid == pod.uid).context("an end")?;
        let step = end.step("programmed").with_context(|| format!("{} has no such step", pod.name))?;
        ensure!(step.source == "nf_tables", "{step:?}");
        let items = listing["items"].as_array().context("no items")?;
        let of_pod = items.iter().filter(|item| item["address"] == address.as_str());
        let left: Vec<Timestamp> = of_pod.map(|item| moment(&item["at"])).collect::<Result<_, _>>()?;
        let left: Vec<Timestamp> = left.into_iter().filter(|at| *at > begun).collect();
        let [left] = left[..] else { anyhow::bail!("{address} left {} times: {left:?}", left.len()) };
        // The last time that it was ready comes before.
        let last_ready = writes.iter().rposition(|write| write.ready.contains(address));
        let write = last_ready.and_then(|last| writes.get(last + 1));
        let write = write.with_context(|| format!("{address} was never taken out of a slice"))?.received;
        ensure!(write <= left, "{address} left the rules at {left}, before the slice was written at {write}");
        let (left_s, write_s) = (seconds(left), seconds(write));
        let sync = syncs.iter().rev().find(|sync| sync.begin <= left_s);
        let sync = sync.with_context(|| format!("{address} left before any sync"))?;
        ensure!(sync.end > write_s, "{address} left at {left_s}, in {sync:?}, which ended before {write_s}");
        ensure!(left_s - sync.end < APART, "{address} left at {left_s}, long after {sync:?}");
        lags.push(left_s - write_s);
        after_end.push(left_s - sync.end);
    }
    let range = |all: &[f64]| {
        let ms = |seconds: f64| seconds * 1e3;
        let (least, most) = all.iter().fold((f64::MAX, f64::MIN), |(a, b), one| (a.min(*one), b.max(*one)));
        format!("{:.1} to {:.1} ms", ms(least), ms(most))
    };
    let before = after_end.iter().filter(|after| **after <= 0.0).count();
    Ok(format!(
        "{} addresses left {} after their slice was written; {before} heard before the end of kube-proxy's sync, {} from it; {} syncs",
        lags.len(),
        range(&lags),
        range(&after_end),
        syncs.len() - 1
    ))
}

/// Not visible, and said to be.
fn is_not_visible(site: &Site) -> anyhow::Result<String> {
    let status = site.agent.api("/status")?["proxy_rules"].take();
    let why = status["why"].as_str().unwrap_or_default();
    ensure!(status["state"] == "unsupported" && why.contains("the traffic tail stands alone"), "{status}");
    let told = site.agent.terminations()?.iter().filter(|end| end.step("programmed").is_some()).count();
    ensure!(told == 0, "{told} ends have a step of what is not visible");
    Ok(format!("unsupported: {why}"))
}

/// The same for an agent that runs without it.
pub(crate) fn not_visible(site: &mut Site) -> anyhow::Result<Row> {
    site.release.upgrade("agent.proxyRules=true")?;
    site.agent = release::ports()?;
    Ok(told("kube-proxy's rules, in iptables mode", is_not_visible(site)))
}

/// The clients walk through their ports: nothing that was lost was sent by an entry that was older.
fn caused_nothing(site: &Site, outcome: &Outcome) -> anyhow::Result<String> {
    let status = site.agent.api("/status")?["conntrack"].take();
    ensure!(status["state"] == "active", "{status}");
    let stale: u64 = outcome.terminations.iter().map(|end| end.lost_stale_entries).sum();
    ensure!(stale == 0, "{stale} losses by stale entries: {:#?}", outcome.terminations);
    let asked = &status["asked"];
    let answered = asked["found"].as_u64().unwrap_or_default() + asked["none"].as_u64().unwrap_or_default();
    ensure!(answered > 0 && asked["failed"] == 0, "{asked}");
    Ok(format!("{answered} lost connects asked about ({asked}), no stale entry"))
}

/// One Event for each end with losses, and one for the workload, which counts them.
fn announced(site: &Site, web: &str, outcome: &Outcome) -> anyhow::Result<String> {
    let lossy: BTreeMap<&str, u64> = outcome
        .terminations
        .iter()
        .map(|end| (end.pod.uid.as_str(), end.lost_total()))
        .filter(|(_, lost)| *lost > 0)
        .collect();
    ensure!(!lossy.is_empty(), "nothing was lost");
    // The ends before the agent was told to speak are of the same rollout to it.
    let prefix = format!("{web}-");
    let known = site.agent.terminations()?;
    let of_web = known.iter().filter(|end| end.pod.name.starts_with(&prefix) && end.lost_total() > 0);
    let (all, ends) = (of_web.count(), outcome.terminations.len());
    let events = kubectl::wait("an Event that counts all lossy ends", PATIENCE, || {
        let mut list = kubectl::get(&["events", "-n", NAMESPACE, "--field-selector", "reason=RequestsLost"])?;
        let events: Vec<Value> = serde_json::from_value(list["items"].take())?;
        let is_done = of(&events, "name", web).any(|event| event["count"] == all);
        Ok(is_done.then_some(events))
    })?;
    let workload: Vec<&Value> = of(&events, "name", web).collect();
    ensure!(workload.len() == 1 && workload[0]["involvedObject"]["kind"] == "Deployment", "{workload:#?}");
    for end in &outcome.terminations {
        let told: Vec<&Value> = of(&events, "uid", &end.pod.uid).collect();
        let lost = lossy.get(end.pod.uid.as_str());
        ensure!(told.len() == usize::from(lost.is_some()), "{}: {told:#?}", end.pod.name);
        for (event, lost) in told.into_iter().zip(lost) {
            let message = event["message"].as_str().unwrap_or_default();
            let is_right = message.starts_with(&format!("{lost} request")) && event["count"] == 1;
            ensure!(is_right, "{} lost {lost}: {event:#}", end.pod.name);
        }
    }
    let status = site.agent.api("/status")?["events"].take();
    let given_up = status["lost"].as_object().context("no counts")?;
    ensure!(status["state"] == "active" && given_up.values().all(|count| *count == 0), "{status}");
    Ok(format!(
        "{} of {ends} ends have their Event, the Deployment has one that counts {all}; sent {}",
        lossy.len(),
        status["sent"]
    ))
}

/// Events about the object with this name or uid.
fn of<'a>(events: &'a [Value], key: &'a str, value: &'a str) -> impl Iterator<Item = &'a Value> {
    events.iter().filter(move |event| event["involvedObject"][key] == value)
}

fn moment(text: &Value) -> anyhow::Result<Timestamp> {
    text.as_str().context("no moment")?.parse().context("a moment")
}

fn seconds(at: Timestamp) -> f64 {
    at.as_duration().as_secs_f64()
}
