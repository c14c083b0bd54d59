//! hostNetwork pods: the node's addresses and network, cgroup and pid namespace of their own; nothing of the node goes with them.

use std::fs;
use std::io::ErrorKind;

use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use serde_json::json;
use world::PodTemplate;
use world::kubelet::Step;

use crate::client::{connect_error, get};
use crate::{SOON, start, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("hostNetwork pods share the node's addresses and are told apart by port", they_share_the_node),
        trial(
            "a hostNetwork pod's port is free when it is gone, and the node's network stays",
            a_port_is_reused,
        ),
    ]
}

fn they_share_the_node() -> anyhow::Result<()> {
    let world = start()?;
    let service = world.service("default", "edge", "edge")?;
    let mut pods = Vec::new();
    for (name, port) in [("a", 8080), ("b", 8081)] {
        let pod = world.pod("default", name, &PodTemplate::on_host("edge", port, &[]))?;
        // Ready by the kubelet's probe, which goes to the node's own address.
        world.wait_ready(&pod, true, SOON)?;
        pods.push((pod, port));
    }
    let both: Vec<_> = pods.iter().map(|(pod, _)| pod.clone()).collect();
    world.wait_routed("edge", &both, SOON)?;
    for (pod, port) in &pods {
        let object = world.object(pod)?;
        let status = &object["status"];
        ensure!(
            object["spec"]["hostNetwork"] == true
                && object["spec"]["containers"][0]["ports"][0]["hostPort"] == *port
        );
        ensure!(status["podIP"] == "10.77.0.1" && status["hostIP"] == status["podIP"], "{status}");
        ensure!(status["podIPs"] == json!([{"ip": "10.77.0.1"}, {"ip": "fd77::1"}]), "{status}");
        ensure!(status["hostIPs"] == status["podIPs"], "{status}");
        for address in world.addresses(pod)? {
            ensure!(
                get(&world, address, *port, "/")?.is(200, &format!("hello from {}", pod.name)),
                "{address}"
            );
        }
        let (pid, container) = world.journal().started(&pod.uid, "server").context("no container")?;
        ensure!(namespace(pid, "net")? == namespace("thread-self", "net")?, "not in the node's network");
        ensure!(namespace(pid, "pid")? != namespace("thread-self", "pid")?, "no pid namespace of its own");
        let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        ensure!(cgroup.contains(&format!("/pod{}/{container}", pod.uid)), "{cgroup}");
    }
    // The choice is random: that all of these go to one pod has probability 2^-39 in each family.
    for address in [service.v4.into(), service.v6.into()] {
        let address: std::net::IpAddr = address;
        let mut seen = [false; 2];
        for _ in 0..40 {
            let answer = get(&world, address, service.port, "/")?;
            seen[usize::from(answer.is(200, "hello from b"))] = true;
            ensure!(answer.is(200, "hello from "), "{address}: {answer:?}");
        }
        ensure!(seen == [true; 2], "{address} goes to one of the pods only");
    }
    world.shutdown()
}

fn a_port_is_reused() -> anyhow::Result<()> {
    let world = start()?;
    let service = world.service("default", "edge", "edge")?;
    let template = PodTemplate::on_host("edge", 8080, &["--on-term", "exit"]);
    let plain = world.pod("default", "plain", &PodTemplate::testserver("plain", &[]))?;
    for name in ["a", "b"] {
        let pod = world.pod("default", name, &template)?;
        world.wait_ready(&pod, true, SOON)?;
        world.wait_routed("edge", std::slice::from_ref(&pod), SOON)?;
        let addresses = world.addresses(&pod)?;
        ensure!(get(&world, service.v4, service.port, "/")?.is(200, &format!("hello from {name}")));
        world.delete(&pod)?;
        world.wait_gone(&pod, SOON)?;
        for address in addresses {
            ensure!(connect_error(&world, address, 8080) == Some(ErrorKind::ConnectionRefused), "{address}");
        }
        world.wait_step(&pod, SOON, |step| matches!(step, Step::Rules { used: false, .. }))?;
        ensure!(!world.node().cgroups().pod(&pod.uid).exists());
    }
    world.wait_ready(&plain, true, SOON)?;
    let address = world.addresses(&plain)?[0];
    ensure!(address.to_string() != "10.77.0.1");
    ensure!(get(&world, address, 8080, "/")?.is(200, "hello from plain"), "the way to other pods stays");
    world.shutdown()
}

fn namespace(process: impl std::fmt::Display, kind: &str) -> anyhow::Result<std::path::PathBuf> {
    Ok(fs::read_link(format!("/proc/{process}/ns/{kind}"))?)
}
