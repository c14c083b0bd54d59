//! An agent that may do less than it should: locked memory that cannot be raised, and no capabilities at all.

use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use world::agent::{Agent, check};
use world::{PodTemplate, World};

use crate::site::{Site, config, deploy, program, same, workload};
use crate::{SETTLING, SOON, trial};

/// 64 KiB, the default of many distributions, soft and hard.
const LITTLE_MEMORY: [&str; 2] = ["prlimit", "--memlock=65536:65536"];
/// Root in name only, as in a container whose capabilities are all dropped.
const NO_CAPABILITIES: [&str; 3] = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a locked-memory limit that cannot be raised does not matter", little_memory),
        trial("without capabilities the agent runs by the API alone and says so", no_capabilities),
        trial("check passes as root", check_as_root),
    ]
}

fn little_memory() -> anyhow::Result<()> {
    let world = World::start(config())?;
    // Without this capability nobody raises a hard limit; with it the agent would.
    let wrapper =
        ["setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource", "prlimit", LITTLE_MEMORY[1]];
    let mut agent = Agent::start_through(&world, &wrapper, &program()?, &[])?;
    agent.wait_ready(SOON)?;
    let site = Site { agent, world };
    let (_, report) = site.agent.get("/readyz?verbose")?;
    ensure!(!report.contains("degraded"), "{report}");
    let metrics = site.agent.metrics()?;
    let attached: Vec<_> = metrics.matching("drainscope_ebpf_program_attached", &[]).collect();
    ensure!(!attached.is_empty() && attached.iter().all(|(_, value)| same(*value, 1)), "{attached:?}");
    ensure!(same(metrics.sum("drainscope_feature_enabled", &["feature=\"kernel_programs\""]), 1));
    site.finish()
}

fn no_capabilities() -> anyhow::Result<()> {
    let world = World::start(config())?;
    let output = check(&world, &NO_CAPABILITIES, &program()?)?;
    ensure!(output.status.code() == Some(2), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let failed = items(&report, "failed");
    ensure!(!failed.is_empty(), "{report:#}");
    ensure!(
        failed.iter().all(|(_, item)| !item["detail"].as_str().unwrap_or_default().is_empty()),
        "{report:#}"
    );
    ensure!(
        failed.iter().any(|(_, item)| item.to_string().contains("CAP_")),
        "no missing capability is named: {report:#}"
    );

    let mut agent = Agent::start_through(&world, &NO_CAPABILITIES, &program()?, &[])?;
    agent.wait_ready(SOON)?;
    let site = Site { agent, world };
    ensure!(site.agent.get("/livez")?.0 == 200);
    let (_, ready) = site.agent.get("/readyz?verbose")?;
    ensure!(ready.contains("degraded: kernel programs"), "{ready}");
    let metrics = site.agent.metrics()?;
    for (feature, enabled, degraded) in [("kernel_programs", 0, 1), ("kubernetes_api", 1, 0)] {
        let value = |metric: &str| metrics.sum(metric, &[&format!("feature=\"{feature}\"")]);
        ensure!(same(value("drainscope_feature_enabled"), enabled), "{feature}");
        ensure!(same(value("drainscope_feature_degraded"), degraded), "{feature}");
    }
    let status = site.agent.api("/status")?;
    ensure!(status.to_string().contains("failed"), "{status:#}");

    let mut deployment = deploy(&site.world, "quiet", 1, &PodTemplate::testserver("quiet", &[]))?;
    site.until("the pod to be known", || {
        Ok(site.agent.metrics()?.has("drainscope_pod_terminations_total", &[&workload("quiet")]))
    })?;
    let pods = deployment.delete_pods()?;
    let ends = site.agent.wait_ended(&pods, SETTLING)?;
    let end = &ends[0];
    ensure!(!end.complete && end.trigger == "delete" && end.outcome == "exited", "{end:#?}");
    ensure!(
        end.lost_total() == 0 && end.anomalies.iter().any(|anomaly| anomaly == "not_watched"),
        "{end:#?}"
    );
    ensure!(!end.timeline.is_empty() && end.timeline.iter().all(|step| step.source == "api"), "{end:#?}");
    ensure!(["requested", "seen", "gone"].iter().all(|name| end.step(name).is_some()), "{end:#?}");
    site.finish()
}

fn check_as_root() -> anyhow::Result<()> {
    let world = World::start(config())?;
    let output = check(&world, &[], &program()?)?;
    ensure!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).context("its output is JSON")?;
    ensure!(items(&report, "failed").is_empty(), "{report:#}");
    let fine = items(&report, "ok");
    for wanted in [
        "inet_sock_set_state",
        "tcp_rcv_space_adjust",
        "signal_generate",
        "sched_process_exit",
        "API server",
        "list pods",
    ] {
        ensure!(fine.iter().any(|(name, _)| name.contains(wanted)), "{wanted} is not ok: {report:#}");
    }
    world.shutdown()
}

/// Names and items in this state.
fn items<'a>(report: &'a Value, state: &str) -> Vec<(&'a str, &'a Value)> {
    let all = report["items"].as_array().into_iter().flatten();
    all.filter(|item| item["state"] == state)
        .map(|item| (item["name"].as_str().unwrap_or_default(), item))
        .collect()
}
