//! Connects that connection tracking sends to a pod that is gone, and to the one that has its address then, told apart from
//! those that late rules send there. The entries are the kernel's own: the node's rules rewrite the Service's address.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use world::agent::{Agent, Recording, Termination, Words};
use world::clients::{Load, Tally};
use world::kubelet::{Step, monotonic_ns};
use world::load::Attempt;
use world::node::AddressReuse;
use world::wait::wait_for;
use world::{PodTemplate, World, WorldConfig, judge};

use crate::site::{NAMESPACE, Site, address_of, config, failures, program, same};
use crate::{SETTLING, SOON, trial};

/// Ends the agent without waiting for other pods.
const FLAGS: [&str; 5] = ["--conntrack", "--grace", "0s", "--log-format", "json"];
/// How late the rules are: a round of connects that nobody answers takes three seconds.
const DELAY: Duration = Duration::from_secs(7);
/// Connects of a round.
const ROUND: usize = 16;
const STALE: &str = "stale_conntrack";
const QUERIES: &str = "drainscope_conntrack_queries_total";
const NO_NET_ADMIN: [&str; 3] = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"];

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("a connect that a stale entry of connection tracking sends is told from late rules", stale)]
}

fn stale() -> anyhow::Result<()> {
    let world = World::start(WorldConfig { address_reuse: AddressReuse::AtOnce, ..config() })?;
    let site = Site::in_world(world, &FLAGS)?;
    let recording = Recording::start(&site.world, &program()?, "conntrack.jsonl")?;
    let template = PodTemplate::testserver("web", &["--on-term", "exit"]);
    let deployment = site.deploy("web", 2, &template)?;
    let service = site.world.service(NAMESPACE, "web", "web")?;
    site.world.wait_routed("web", deployment.pods(), SOON)?;
    let target = SocketAddr::from((service.v4, service.port));
    site.until("connection tracking to answer", || Ok(status(&site.agent)?["state"] == "active"))?;

    // The rules lead to the pod for some time after it has gone. Each connect has a port of its own.
    site.world.delays().proxy.set(DELAY);
    let gone = &deployment.pods()[0];
    let address = address_of(&site.world, gone)?;
    site.world.delete(gone)?;
    site.world.wait_step(gone, SOON, |step| *step == Step::SandboxRemoved)?;
    let late = round(&site, target, "30000-39999")?;
    let over = monotonic_ns();
    site.world.delays().proxy.set(Duration::ZERO);
    let programmed = site.world.wait_step(
        gone,
        SOON,
        |step| matches!(step, Step::Rules { used: false, address, .. } if address.is_ipv4()),
    )?;
    ensure!(over < programmed, "the scene is too slow");
    let lost: Vec<u16> = late.attempts.iter().map(|attempt| attempt.local.port()).collect();
    ensure!((1..ROUND).contains(&lost.len()), "{} of {ROUND} connects were lost", lost.len());

    // The rules are right now. Other ports are served; these are not.
    let fresh = round(&site, target, "20000-29999")?;
    ensure!(fresh.attempts.is_empty(), "{:#?}", fresh.attempts);
    let again = once_more(&site, target, &lost)?;
    ensure!(failures(&again) == lost.len(), "{again:#?}");

    // Nor are they when the address is another pod's, which has no such port.
    let next = PodTemplate::testserver("next", &["--listen", "[::]:9090", "--on-term", "exit"]);
    let next = site.deploy("next", 1, &PodTemplate { port: 9090, ..next })?;
    ensure!(address_of(&site.world, &next.pods()[0])?.ip() == address.ip(), "another address");
    let astray = once_more(&site, target, &lost)?;
    ensure!(failures(&astray) == lost.len(), "{astray:#?}");

    let ends = site.agent.wait_ended(std::slice::from_ref(gone), SETTLING)?;
    let verdict = judge::join(&[late.attempts, again, astray].concat(), &ends);
    ensure!(verdict.holds() && ends[0].complete, "{verdict:#?}\n{ends:#?}");
    told(&site, &ends[0], &lost)?;
    let Site { mut agent, world } = site;
    let said = Words::last_of(&mut agent)?;
    ensure!(said.findings.contains("\"stale-conntrack\""), "{}", said.findings);
    let differences = said.differences(&recording.replayed()?);
    ensure!(differences.is_empty(), "the replay says otherwise: {}", differences.join("\n"));
    drop(agent);
    not_allowed(&world)?;
    world.shutdown()
}

/// Connects at once, each from a port of this range.
fn round(site: &Site, target: SocketAddr, ports: &str) -> anyhow::Result<Tally> {
    let arguments = format!("--new {ROUND} --max-requests {ROUND} --connect-timeout 5 --ports {ports}");
    Load::start(&site.world, target, &arguments)?.wait()
}

/// One connect from each of these ports.
fn once_more(site: &Site, target: SocketAddr, ports: &[u16]) -> anyhow::Result<Vec<Attempt>> {
    let start = |port: &u16| {
        let arguments = format!("--new 1 --max-requests 1 --connect-timeout 5 --ports {port}-{port}");
        Load::start(&site.world, target, &arguments)
    };
    let loads = ports.iter().map(start).collect::<anyhow::Result<Vec<_>>>()?;
    let mut attempts = Vec::new();
    for load in loads {
        attempts.extend(load.wait()?.attempts);
    }
    Ok(attempts)
}

/// Of the three connects from each port, the second and the third have the cause, and no other loss has one.
fn told(site: &Site, end: &Termination, ports: &[u16]) -> anyhow::Result<()> {
    let mut by_port: BTreeMap<u16, Vec<(&str, bool)>> = BTreeMap::new();
    for item in &end.evidence {
        let is_stale = item.cause.as_deref() == Some(STALE);
        by_port.entry(item.peer.port()).or_default().push((&item.class, is_stale));
    }
    let expected = [("blackholed", false), ("blackholed", true), ("misrouted", true)];
    ensure!(by_port.len() == ports.len(), "{by_port:?}");
    for (port, said) in &by_port {
        ensure!(ports.contains(port) && *said == expected, "{port}: {said:?}\n{end:#?}");
    }
    ensure!(end.lost_stale_entries == 2 * u64::try_from(ports.len())?, "{end:#?}");
    ensure!(end.tail_censored && end.tail_seconds.is_none(), "what an entry sends is no measure of a sleep");
    let advice = site.agent.api("/api/v1/advice")?;
    ensure!(advice.to_string().contains("no sleep mends that"), "{advice:#}");
    let asked = &status(&site.agent)?["asked"];
    // A reset takes the entry with it.
    let losses = 2 * u64::try_from(ports.len())?;
    ensure!(asked["found"] == losses && asked["none"] == losses / 2, "{asked}");
    ensure!(asked["skipped"] == 0 && asked["failed"] == 0, "{asked}");
    let found = site.metrics()?.sum(QUERIES, &["result=\"found\""]);
    ensure!(same(found, losses), "{found} of {losses}");
    Ok(())
}

fn status(agent: &Agent) -> anyhow::Result<Value> {
    agent.api("/status")?.get_mut("conntrack").map(Value::take).context("nothing of connection tracking")
}

/// Without the capability an agent says that causes are not known, and does all else.
fn not_allowed(world: &World) -> anyhow::Result<()> {
    let mut agent = Agent::start_through(world, &NO_NET_ADMIN, &program()?, &FLAGS)?;
    agent.wait_ready(SOON)?;
    wait_for("the reason", SOON, || Ok(status(&agent)?["state"] == "unsupported"))?;
    let status = status(&agent)?;
    ensure!(status["why"].as_str().is_some_and(|why| why.contains("CAP_NET_ADMIN")), "{status}");
    let (_, report) = agent.get("/readyz?verbose")?;
    ensure!(report.contains("[+]conntrack ok: degraded: unsupported: CAP_NET_ADMIN"), "{report}");
    agent.terminate(SOON).map(drop)
}
