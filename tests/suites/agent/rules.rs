//! When the service proxy took a pod out of its rules: held against the proxy's own stamps, and unknown where it was not heard.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use serde_json::Value;
use world::agent::{Agent, Recording, Termination};
use world::controllers::PodRef;
use world::kubelet::{Step, monotonic_ns};
use world::node::{find_program, run_with_input};
use world::wait::wait_for;
use world::{PodTemplate, World};

use crate::site::{NAMESPACE, Site, config, program, same, workload};
use crate::{SETTLING, SOON, trial};

/// Takes the world's own transactions, and not the flood. It need not wait for other pods when it is ended.
const FLAGS: [&str; 5] = ["--proxy-rules", "--proxy-rules-bytes", "262144", "--grace", "0s"];
/// Chains of the flood: each is a notification of a hundred bytes.
const FLOOD: usize = 5000;
/// The proxy's delay, much longer than all else takes.
const DELAY: Duration = Duration::from_millis(1500);
/// Longer than any test.
const NEVER: Duration = Duration::from_secs(3600);
const STAGE: &str = "drainscope_endpoint_removal_stage_duration_seconds";
const LOCAL: &str = "stage=\"programmed_local\"";
const MISSED: [&str; 1] = ["kind=\"rules_missed\""];
const NO_NET_ADMIN: [&str; 3] = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"];

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("the proxy's own rules tell when it let a pod go, or nothing does", rules)]
}

fn rules() -> anyhow::Result<()> {
    let site = Site::in_world(World::start(config())?, &FLAGS)?;
    let recording = Recording::start(&site.world, &program()?, "rules.jsonl")?;
    let template =
        PodTemplate { prestop_seconds: 3, ..PodTemplate::testserver("web", &["--on-term", "drain"]) };
    let deployment = site.deploy("web", 4, &template)?;
    site.world.service(NAMESPACE, "web", "web")?;
    site.world.wait_routed("web", deployment.pods(), SOON)?;
    ensure!(state(&site.agent)?.0 == "active", "{:?}", state(&site.agent)?);
    let [slow, missed, heard, ..] = deployment.pods() else { anyhow::bail!("too few pods") };

    site.world.delays().proxy.set(DELAY);
    site.world.delete(slow)?;
    let noticed = until_step(&site, slow, "programmed")?;

    let before = removed(&site, slow)?;

    // From here on the test is the proxy.
    site.world.delays().proxy.set(NEVER);
    site.world.delete(missed)?;
    until_step(&site, missed, "seen")?;
    site.suspend()?;
    let flood: String = (0..FLOOD).map(|chain| format!("add chain inet flood c{chain}\n")).collect();
    nft(&site.world, &format!("add table inet flood\n{flood}{}", without(&site, missed)?))?;
    site.agent.signal(Signal::SIGCONT)?;
    site.until("the loss to be counted", || Ok(losses(&site)? > 0.0))?;
    site.until("the rules to be followed again", || Ok(state(&site.agent)?.0 == "active"))?;
    let lost = losses(&site)?;
    ensure!(complete_since(&site)? > Some(before), "what was removed meanwhile is not told");

    site.world.delete(heard)?;
    until_step(&site, heard, "seen")?;
    nft(&site.world, &without(&site, heard)?)?;
    until_step(&site, heard, "programmed")?;

    let pods = [slow.clone(), missed.clone(), heard.clone()];
    let ends = site.agent.wait_ended(&pods, SETTLING)?;
    told(&site, &ends)?;
    ensure!(same(losses(&site)?, 1) && same(lost, 1), "one overrun, not {}", losses(&site)?);

    nft(&site.world, "delete table ip kube-proxy\ndelete table ip6 kube-proxy\n")?;
    site.until("the proxy to be gone", || Ok(state(&site.agent)?.0 == "unsupported"))?;
    let (_, why) = state(&site.agent)?;
    ensure!(why.contains("hairpin-connections") && why.contains("traffic tail"), "{why}");
    ensure!(complete_since(&site)?.is_none(), "nothing is followed");

    let sum = site.metrics()?.sum(&format!("{STAGE}_sum"), &[&workload("web"), LOCAL]);
    let Site { agent, world } = site;
    agent.terminate(SOON)?;
    recording.replayed()?;
    let log = fs::read_to_string(world.node().directory().join("rules.jsonl"))?;
    let lag = held_against_the_proxy(&world, &log, slow, noticed)? + removal(&log, heard)?;
    ensure!((sum - lag).abs() < 1e-6, "{sum} s in the metric, {lag} s in the log");
    not_followed(&world, &NO_NET_ADMIN, "CAP_NET_ADMIN")?;
    not_followed(&world, &[], "hairpin-connections")?;
    world.shutdown()
}

/// This pod's endpoints alone are among the removed, each once. Since when every one of them would be.
fn removed(site: &Site, pod: &PodRef) -> anyhow::Result<String> {
    let listing = site.agent.api("/api/v1/removed-endpoints")?;
    let items = listing["items"].as_array().context("no items")?;
    let found: BTreeSet<_> =
        items.iter().map(|item| (item["address"].to_string(), item["port"].to_string())).collect();
    let own = |address: &IpAddr| (format!("\"{address}\""), "8080".to_owned());
    let wanted: BTreeSet<_> = site.world.addresses(pod)?.iter().map(own).collect();
    ensure!(found == wanted && items.len() == wanted.len(), "{listing:#}");
    complete_since(site)?.context("the rules are followed")
}

fn complete_since(site: &Site) -> anyhow::Result<Option<String>> {
    let listing = site.agent.api("/api/v1/removed-endpoints")?;
    Ok(listing["complete_since"].as_str().map(str::to_owned))
}

/// The steps, the anomalies, and how many lags were measured.
fn told(site: &Site, ends: &[Termination]) -> anyhow::Result<()> {
    for (end, is_known) in ends.iter().zip([true, false, true]) {
        let step = end.step("programmed");
        ensure!(step.is_some() == is_known, "{end:#?}");
        ensure!(step.is_none_or(|step| step.source == "nf_tables"), "{end:#?}");
        let missed = end.anomalies.iter().any(|name| name == "rules_missed");
        ensure!(missed != is_known && end.complete && end.outcome == "exited", "{end:#?}");
    }
    let metrics = site.metrics()?;
    let measured = metrics.sum(&format!("{STAGE}_count"), &[&workload("web"), LOCAL]);
    ensure!(same(measured, 2), "{measured} lags");
    Ok(())
}

/// In each family the address left after the proxy had begun to say so, and before the agent's answer had it; as long after the deletion
/// as the proxy was late. Seconds from the deletion to the last of them.
fn held_against_the_proxy(world: &World, log: &str, pod: &PodRef, noticed: u64) -> anyhow::Result<f64> {
    let mut families = 0;
    for record in world.journal().of_pod(&pod.uid) {
        let Step::Rules { used: false, address, began_ns, .. } = record.step else { continue };
        let left = left(log, address)?;
        ensure!((began_ns..noticed).contains(&left), "{address}: {began_ns} <= {left} < {noticed}");
        families += 1;
    }
    ensure!(families == 2, "{families} families");
    let lag = removal(log, pod)?;
    let slice = world.wait_step(pod, SOON, |step| {
        matches!(step, Step::Endpoint { conditions: Some((false, _, true)), .. })
    })?;
    let last = last_left(log, pod)?;
    ensure!(u128::from(last - slice) >= DELAY.as_nanos(), "{} ns after the slice was written", last - slice);
    Ok(lag)
}

/// Seconds from the agent's learning of the deletion to the pod's last address leaving the rules.
fn removal(log: &str, pod: &PodRef) -> anyhow::Result<f64> {
    let is_deletion =
        |fact: &Value| fact["pod"]["uid"] == pod.uid.as_str() && !fact["pod"]["deletion"].is_null();
    let (seen, _) = facts(log).find(|(_, fact)| is_deletion(fact)).context("no deletion")?;
    let last = last_left(log, pod)?;
    Ok(Duration::from_nanos(last - seen).as_secs_f64())
}

/// When the last of a pod's addresses left.
fn last_left(log: &str, pod: &PodRef) -> anyhow::Result<u64> {
    let mut last = 0;
    for address in addresses(log, pod)? {
        last = last.max(left(log, address)?);
    }
    Ok(last)
}

fn addresses(log: &str, pod: &PodRef) -> anyhow::Result<Vec<IpAddr>> {
    let mut known = facts(log).filter(|(_, fact)| fact["pod"]["uid"] == pod.uid.as_str());
    let (_, fact) =
        known.find(|(_, fact)| fact["pod"]["ready"] == true).context("the pod is not in the log")?;
    serde_json::from_value(fact["pod"]["addresses"].clone()).context("addresses")
}

/// When an address left the rules last.
fn left(log: &str, address: IpAddr) -> anyhow::Result<u64> {
    let address = address.to_string();
    let left = facts(log)
        .filter(|(_, fact)| fact["rules"]["address"] == address.as_str() && fact["rules"]["used"] == false);
    left.map(|(at, _)| at).last().with_context(|| format!("{address} never left"))
}

/// The log's facts and their moments.
fn facts(log: &str) -> impl Iterator<Item = (u64, Value)> + '_ {
    log.lines().filter_map(|line| {
        let mut entry: Value = serde_json::from_str(line).ok()?;
        let event = entry.get_mut("event")?;
        Some((event["at"].as_u64()?, event["fact"].take()))
    })
}

/// The transaction that takes a pod out of the set.
fn without(site: &Site, pod: &PodRef) -> anyhow::Result<String> {
    let addresses = site.world.addresses(pod)?;
    let lines = addresses.iter().map(|address| {
        let family = if address.is_ipv4() { "ip" } else { "ip6" };
        format!("delete element {family} kube-proxy hairpin-connections {{ {address} . {address} . tcp . 8080 }}\n")
    });
    Ok(lines.collect())
}

fn nft(world: &World, transaction: &str) -> anyhow::Result<()> {
    run_with_input(world.node().network(), &find_program("nft")?, &["-f", "-"], transaction)
}

/// Waits until the agent has this step of the pod's end; the moment at which it was seen to have it.
fn until_step(site: &Site, pod: &PodRef, step: &str) -> anyhow::Result<u64> {
    site.until(step, || {
        let known = site.agent.terminations()?;
        Ok(known.iter().any(|end| end.pod.uid == pod.uid && end.step(step).is_some()))
    })?;
    Ok(monotonic_ns())
}

fn losses(site: &Site) -> anyhow::Result<f64> {
    Ok(site.agent.metrics()?.sum("drainscope_anomalies_total", &MISSED))
}

/// What `/status` says of the proxy's rules: state and reason.
fn state(agent: &Agent) -> anyhow::Result<(String, String)> {
    let status = agent.api("/status")?;
    let text = |name: &str| status["proxy_rules"][name].as_str().unwrap_or_default().to_owned();
    Ok((text("state"), text("why")))
}

/// An agent that cannot follow the rules says why, and does all else: without the capability, and where there is no set.
fn not_followed(world: &World, wrapper: &[&str], expected: &str) -> anyhow::Result<()> {
    let mut agent = Agent::start_through(world, wrapper, &program()?, &FLAGS)?;
    agent.wait_ready(SOON)?;
    wait_for("the reason", SOON, || Ok(state(&agent)?.0 == "unsupported"))?;
    let (_, why) = state(&agent)?;
    ensure!(why.contains(expected), "{why}");
    let (_, report) = agent.get("/readyz?verbose")?;
    ensure!(
        report.contains("[+]proxy-rules ok: degraded: unsupported: ") && report.contains(expected),
        "{report}"
    );
    agent.terminate(SOON).map(drop)
}
