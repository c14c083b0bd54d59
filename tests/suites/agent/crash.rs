//! A container that crashes, or is killed for memory, while its pod runs on: its losses count, it is a restart and no termination, and the time after
//! it is normal.

use std::fs;
use std::time::Duration;

use anyhow::ensure;
use libtest_mimic::Trial;
use serde_json::json;
use world::PodTemplate;
use world::node::memory_root;

use crate::site::{SERVER, Site, address_of, agree, exact, same, serving, wait_exited, workload};
use crate::trial;
use world::clients::Load;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a crash under load is a restart with its losses", crash),
        // The world limits memory by cgroup v1.
        trial("a container killed for memory is a restart with its losses", out_of_memory)
            .with_ignored_flag(memory_root().is_none()),
    ]
}

/// The init takes memory until the kernel kills it, and with it the server, its child.
fn out_of_memory() -> anyhow::Result<()> {
    let site = Site::start()?;
    let gate = site.world.node().directory().join("gate");
    let gate = gate.display();
    let line = format!("mkfifo {gate}; {SERVER} & read word < {gate}; exec tail /dev/zero");
    let mut container = serving(&["sh", "-c", &line]);
    container["resources"] = json!({"limits": {"memory": 32 << 20}});
    let pod = site.pod("hungry", &json!({"containers": [container]}))?;
    let target = address_of(&site.world, &pod)?;
    let mut waiting =
        Load::start(&site.world, target, "--keepalive 24 --path /?delay_ms=60000 --timeout 80")?;
    waiting.run_for(Duration::from_secs(1))?;
    waiting.end()?;
    fs::write(gate.to_string(), "on\n")?;
    wait_exited(&site.world, &pod)?;
    let attempts = waiting.wait()?.attempts;
    site.until("the restart's report", || Ok(!site.agent.restarts()?.is_empty()))?;
    let restarts = site.agent.restarts()?;
    let [restart] = &restarts[..] else { anyhow::bail!("one kill, {} restarts", restarts.len()) };
    let end = &restart.container_restart;
    ensure!(end.pod.uid == pod.uid && restart.reason == "oom", "{restart:#?}");
    let [container] = &end.containers[..] else { anyhow::bail!("not one container: {end:#?}") };
    ensure!(container.killed && container.signal.is_none() && container.exit_code == Some(137), "{end:#?}");
    let verdict = exact("hungry", &attempts, std::slice::from_ref(end))?;
    ensure!(verdict.by_class.get("unanswered") == Some(&24), "{:?}", verdict.by_class);
    ensure!(end.evidence.iter().all(|item| item.phase == "stopping"), "{end:#?}");
    let hungry = workload("hungry");
    let counted =
        site.metrics()?.sum("drainscope_container_terminations_total", &[&hungry, "reason=\"oom\""]);
    ensure!(same(counted, 1) && site.agent.terminations()?.is_empty(), "{counted}");
    site.finish()
}

fn crash() -> anyhow::Result<()> {
    let site = Site::start()?;
    let deployment = site.deploy("crashing", 1, &PodTemplate::testserver("crashing", &[]))?;
    let pod = deployment.pods()[0].clone();
    let target = address_of(&site.world, &pod)?;
    let mut waiting =
        Load::start(&site.world, target, "--keepalive 24 --path /?delay_ms=60000 --timeout 80")?;
    let mut busy =
        Load::start(&site.world, target, "--new 20 --new-rate 20 --keepalive 4 --keepalive-rate 20")?;
    waiting.run_for(Duration::from_secs(1))?;
    waiting.end()?;
    let fatal = Load::start(&site.world, target, "--new 1 --max-requests 1 --path /exit?code=7")?.wait()?;
    ensure!(fatal.summary.total.failed == 1, "the crash answers nobody");
    wait_exited(&site.world, &pod)?;
    busy.run_for(Duration::from_secs(2))?;
    let attempts = [fatal.attempts, waiting.wait()?.attempts, busy.stop()?.attempts].concat();

    site.until("the restart's report", || Ok(!site.agent.restarts()?.is_empty()))?;
    let restarts = site.agent.restarts()?;
    let [restart] = &restarts[..] else { anyhow::bail!("one crash, {} restarts", restarts.len()) };
    let end = &restart.container_restart;
    ensure!(end.pod.uid == pod.uid && restart.reason == "exit", "{restart:#?}");
    ensure!(end.containers.len() == 1 && end.containers[0].exit_code == Some(7), "{:?}", end.containers);
    // From the exit of its init on a container is stopping, and so is what its exit cuts off.
    let verdict = exact("crashing", &attempts, std::slice::from_ref(end))?;
    ensure!(verdict.by_class.get("unanswered").is_some_and(|count| *count >= 25), "{:?}", verdict.by_class);
    ensure!(end.evidence.iter().all(|item| item.phase == "stopping"), "{:#?}", end.evidence);
    let metrics = site.metrics()?;
    agree(&metrics, "crashing", std::slice::from_ref(end))?;
    let crashing = workload("crashing");
    let containers = "drainscope_container_terminations_total";
    ensure!(same(metrics.sum(containers, &[&crashing, "reason=\"exit\""]), 1));
    ensure!(same(metrics.sum(containers, &[]), 1));
    ensure!(same(metrics.sum("drainscope_pod_terminations_total", &[]), 0), "no pod ended");
    ensure!(site.agent.terminations()?.is_empty(), "no pod ended");

    // The next container serves as any running one: nothing of this is late, nothing is lost.
    let late = || -> anyhow::Result<f64> {
        let metrics = site.metrics()?;
        let names = ["drainscope_late_requests_total", "drainscope_late_connections_total"];
        Ok(names.into_iter().map(|name| metrics.sum(name, &[&crashing])).sum())
    };
    let before = late()?;
    let more = Load::start(&site.world, target, "--new 4 --new-rate 50 --keepalive 4 --max-requests 400")?;
    let more = more.wait()?;
    ensure!(more.summary.total.ok == 400, "{:?}", more.summary.total);
    ensure!(same(late()? - before, 0), "traffic after the restart counts as late");
    site.finish()
}
