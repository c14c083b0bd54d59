//! The way from a client to a pod: addresses, Services, delays of the endpoint controller and the proxy, rolling updates, the forwarder.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use world::apiserver::Kind;
use world::kubelet::Step;
use world::{PodTemplate, World};

use crate::client::{Client, Seen, connect_error, get};
use crate::{SOON, start, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a pod serves by its addresses and by its Service, IPv4 and IPv6", a_pod_serves),
        trial("a Service without endpoints refuses", a_service_without_endpoints_refuses),
        trial("a Service spreads over its pods and keeps old connections where they are", a_service_spreads),
        trial("the delays of endpoints and proxy hold", the_delays_hold),
        trial("the last pod serves while it terminates", the_last_pod_serves_while_it_terminates),
        trial("a rolling update replaces one pod after another", a_rolling_update),
        trial("the forwarder reaches into the node", the_forwarder_reaches_into_the_node),
        trial("commands run in the network they are meant for", commands_run_where_they_should),
    ]
}

fn a_pod_serves() -> anyhow::Result<()> {
    let world = start()?;
    let service = world.service("default", "web", "web")?;
    let pod = world.pod("default", "web-1", &PodTemplate::testserver("web", &[]))?;
    world.wait_ready(&pod, true, SOON)?;
    world.wait_routed("web", std::slice::from_ref(&pod), SOON)?;
    let addresses = world.addresses(&pod)?;
    ensure!(addresses.len() == 2 && addresses[0].is_ipv4() && addresses[1].is_ipv6(), "{addresses:?}");
    for address in addresses {
        ensure!(get(&world, address, 8080, "/")?.is(200, "hello from web-1"), "{address}");
    }
    ensure!(get(&world, service.v4, service.port, "/?bytes=100000")?.is(200, "xxx"));
    ensure!(get(&world, service.v6, service.port, "/")?.is(200, "hello from web-1"));
    // From the node itself as well.
    let (v4, v6) = (SocketAddr::from((service.v4, 80)), SocketAddr::from((service.v6, 80)));
    for address in [v4, v6] {
        TcpStream::connect_timeout(&address, SOON)
            .with_context(|| format!("connect to {address} from the node"))?;
    }
    world.shutdown()
}

fn a_service_without_endpoints_refuses() -> anyhow::Result<()> {
    let world = start()?;
    let service = world.service("default", "web", "web")?;
    ensure!(
        world.store().wait_until(SOON, |store| store.list(Kind::EndpointSlices).1.len() == 2),
        "one empty slice per family"
    );
    ensure!(connect_error(&world, service.v4, 80) == Some(ErrorKind::ConnectionRefused));
    ensure!(connect_error(&world, service.v6, 80) == Some(ErrorKind::ConnectionRefused));
    world.shutdown()
}

fn a_service_spreads() -> anyhow::Result<()> {
    let world = start()?;
    let service = world.service("default", "web", "web")?;
    let template = PodTemplate { prestop_seconds: 2, ..PodTemplate::testserver("web", &[]) };
    let mut deployment = world.deployment("default", "web", 2, &template)?;
    deployment.wait_ready(SOON)?;
    world.wait_routed("web", deployment.pods(), SOON)?;
    let mut answers = BTreeSet::new();
    let mut clients = Vec::new();
    // The choice is random: that all of these go to one pod has probability 2^-39.
    for _ in 0..40 {
        let mut client = Client::connect(&world, service.v4, service.port)?;
        let Seen::Answer(answer) = client.ask("/") else { anyhow::bail!("no answer") };
        answers.insert(answer.clone());
        clients.push((client, answer));
    }
    ensure!(answers.len() == 2, "{answers:?}");
    let old = deployment.delete_pods()?;
    for pod in &old {
        world.wait_step(pod, SOON, |step| matches!(step, Step::PreStop { .. }))?;
    }
    for (client, answer) in &mut clients {
        ensure!(client.ask("/") == Seen::Answer(answer.clone()), "a connection moved or broke");
    }
    deployment.wait_gone(&old, SOON)?;
    world.shutdown()
}

fn the_delays_hold() -> anyhow::Result<()> {
    let world = start()?;
    world.service("default", "web", "web")?;
    let template =
        PodTemplate { prestop_seconds: 3, ..PodTemplate::testserver("web", &["--on-term", "exit"]) };
    let deployment = world.deployment("default", "web", 2, &template)?;
    deployment.wait_ready(SOON)?;
    world.wait_routed("web", deployment.pods(), SOON)?;
    let (endpoint, proxy) = (Duration::from_millis(500), Duration::from_millis(700));
    world.delays().endpoint.set(endpoint);
    world.delays().proxy.set(proxy);
    let pod = &deployment.pods()[0];
    let deleted = world::kubelet::monotonic_ns();
    world.delete(pod)?;
    let slice = world.wait_step(pod, SOON, |step| {
        matches!(step, Step::Endpoint { conditions: Some((false, true, true)), .. })
    })?;
    let rules = world.wait_step(pod, SOON, |step| matches!(step, Step::Rules { used: false, .. }))?;
    let (slice_ms, rules_ms) = ((slice - deleted) / 1_000_000, (rules - slice) / 1_000_000);
    ensure!((500..1000).contains(&slice_ms), "the slice changed after {slice_ms} ms");
    ensure!((700..1200).contains(&rules_ms), "the rules changed {rules_ms} ms after the slice");
    world.wait_gone(pod, SOON)?;
    world.wait_step(pod, SOON, |step| matches!(step, Step::Endpoint { conditions: None, .. }))?;
    world.shutdown()
}

fn the_last_pod_serves_while_it_terminates() -> anyhow::Result<()> {
    let world = start()?;
    let service = world.service("default", "web", "web")?;
    let template =
        PodTemplate { prestop_seconds: 2, ..PodTemplate::testserver("web", &["--on-term", "exit"]) };
    let pod = world.pod("default", "web-1", &template)?;
    world.wait_ready(&pod, true, SOON)?;
    world.wait_routed("web", std::slice::from_ref(&pod), SOON)?;
    world.delete(&pod)?;
    world.wait_step(&pod, SOON, |step| {
        matches!(step, Step::Endpoint { conditions: Some((false, true, true)), .. })
    })?;
    ensure!(get(&world, service.v4, 80, "/")?.is(200, "hello from web-1"));
    ensure!(
        world.journal().first(&pod.uid, |step| matches!(step, Step::Rules { used: false, .. })).is_none()
    );
    world.wait_gone(&pod, SOON)?;
    world.wait_step(&pod, SOON, |step| matches!(step, Step::Rules { used: false, .. }))?;
    ensure!(connect_error(&world, service.v4, 80) == Some(ErrorKind::ConnectionRefused));
    world.shutdown()
}

fn a_rolling_update() -> anyhow::Result<()> {
    let world = start()?;
    let service = world.service("default", "web", "web")?;
    let template = PodTemplate::testserver("web", &["--on-term", "linger:0.2"]);
    let mut deployment = world.deployment("default", "web", 3, &template)?;
    deployment.wait_ready(SOON)?;
    let first = deployment.pods().to_vec();
    let old = deployment.rollout(&template.to_value(), SOON)?;
    ensure!(old == first && deployment.pods().len() == 3);
    ensure!(deployment.pods().iter().all(|pod| !first.contains(pod)));
    deployment.wait_gone(&old, SOON)?;
    for (old, new) in old.iter().zip(deployment.pods()) {
        let ready =
            world.journal().first(&new.uid, |step| matches!(step, Step::Readiness { ready: true, .. }));
        let ended = world.journal().first(&old.uid, |step| *step == Step::TerminationStarted);
        ensure!(ready < ended && ready.is_some(), "{} was ended before {} was ready", old.name, new.name);
    }
    world.wait_routed("web", deployment.pods(), SOON)?;
    ensure!(get(&world, service.v4, 80, "/")?.is(200, "hello from web-"));
    world.shutdown()
}

fn the_forwarder_reaches_into_the_node() -> anyhow::Result<()> {
    let world = start()?;
    let address = world.node().forward(0, world.api().address())?;
    ensure!(address.ip() == Ipv4Addr::LOCALHOST);
    let answer = world.node().outside().inside(|| -> anyhow::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, SOON)?;
        stream.write_all(b"GET /api/v1/nodes HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })??;
    ensure!(answer.starts_with("HTTP/1.1 200") && answer.contains("node-1"), "{answer}");
    world.shutdown()
}

fn commands_run_where_they_should() -> anyhow::Result<()> {
    let world = start()?;
    let addresses = |mut command: std::process::Command| -> anyhow::Result<String> {
        Ok(String::from_utf8(command.args(["-4", "-o", "addr"]).output()?.stdout)?)
    };
    let ip = world::node::find_program("ip")?;
    let (client, node) = (addresses(world.client_command(&ip))?, addresses(world.node_command(&ip))?);
    ensure!(
        client.contains("10.78.0.2/24") && client.contains("10.78.0.5/24") && !client.contains("10.77."),
        "{client}"
    );
    ensure!(node.contains("10.77.0.1/24") && node.contains("10.78.0.1/24"), "{node}");
    leaves_for_no_other_network(&world)?;
    world.shutdown()
}

/// Nothing that the node does not know goes anywhere: the world has no way out.
fn leaves_for_no_other_network(world: &World) -> anyhow::Result<()> {
    let error = connect_error(world, Ipv4Addr::new(192, 0, 2, 1), 80);
    ensure!(error == Some(ErrorKind::NetworkUnreachable), "{error:?}");
    Ok(())
}
