//! A Service that a pod's end leaves without endpoints: what the service proxy refuses there is counted apart from what the pod does.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use libtest_mimic::Trial;
use nix::errno::Errno;
use nix::sys::socket::sockopt::SendTimeout;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, setsockopt, socket};
use nix::sys::time::{TimeVal, TimeValLike as _};
use serde_json::json;
use world::PodTemplate;
use world::agent::{Recording, Words};
use world::apiserver::Kind;
use world::clients::Load;
use world::kubelet::{Step, monotonic_ns};
use world::load::{self, Attempt};

use crate::site::{NAMESPACE, Site, failures, program, wait_stopped};
use crate::{SETTLING, SOON, trial};

/// Ends the agent without waiting for other pods.
const FLAGS: [&str; 4] = ["--grace", "0s", "--log-format", "json"];
/// How late the rules are: a round of refused connects takes a moment.
const DELAY: Duration = Duration::from_secs(3);
/// Connects of a round: fewer than the messages that the kernel sends one address in a burst (net.ipv4.icmp_ratelimit).
const ROUND: usize = 4;
/// How full the kernel's tables are.
const ENTRIES: &str = "drainscope_ebpf_map_entries";

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("what a Service without endpoints refuses is told apart from what its last pod does", vacant)]
}

fn vacant() -> anyhow::Result<()> {
    let site = Site::in_world(world::World::start(crate::site::config())?, &FLAGS)?;
    let recording = Recording::start(&site.world, &program()?, "vacant.jsonl")?;
    let template = PodTemplate::testserver("solo", &["--on-term", "close-then-wait:9"]);
    let mut deployment = site.deploy("solo", 1, &template)?;
    let service = site.world.service(NAMESPACE, "solo", "solo")?;
    site.world.wait_routed("solo", deployment.pods(), SOON)?;
    let targets =
        [SocketAddr::from((service.v4, service.port)), SocketAddr::from((service.v6, service.port))];
    let pods = deployment.delete_pods()?;
    wait_stopped(&site.world, &pods[0])?;
    let by_pod = round(&site, targets[0])?;

    // The Service lets the pod go, which lives; the rules still lead to it.
    site.world.delays().proxy.set(DELAY);
    site.world.store().update(Kind::Services, NAMESPACE, "solo", |service| {
        service["spec"]["selector"] = json!({"app": "nobody"});
    })?;
    site.until("the Service to be watched", || {
        Ok(site.metrics()?.sum(ENTRIES, &["map=\"services\""]) >= 2.0)
    })?;
    let late = round(&site, targets[0])?;
    let over = monotonic_ns();
    let unused = |step: &Step| matches!(step, Step::Rules { used: false, .. });
    let programmed = site.world.wait_step(&pods[0], SOON, unused)?;
    ensure!(over < programmed, "the scene is too slow");
    site.world.delays().proxy.set(Duration::ZERO);

    // From here on the proxy refuses by itself: pods' clients by both families, and the node's own.
    let mut at_proxy = 0;
    for target in targets {
        let attempts = round(&site, target)?;
        let is_refused = |attempt: &&Attempt| attempt.error == Some(load::ErrorKind::ConnectRefused);
        ensure!(attempts.iter().filter(is_refused).count() == ROUND, "{attempts:#?}");
        let own = site.world.node().network().inside(|| TcpStream::connect_timeout(&target, SOON))?;
        let refused = own.err().context("somebody served")?.kind();
        ensure!(refused == ErrorKind::ConnectionRefused, "{target}: {refused}");
        at_proxy += ROUND + 1;
    }
    // Who is told of a network that does not lead there was not refused.
    for target in targets {
        unreachable(&site, target)?;
        at_proxy += usize::from(refused_then_silent(&site, target)?);
    }
    let by_pod = [by_pod, late].concat();
    ensure!(failures(&by_pod) == 2 * ROUND, "{by_pod:#?}");

    let ends = site.agent.wait_ended(&pods, SETTLING)?;
    let verdict = world::judge::join(&by_pod, &ends);
    ensure!(verdict.holds() && ends[0].complete, "{verdict:#?}\n{ends:#?}");
    ensure!(usize::try_from(ends[0].service_refused)? == at_proxy, "{at_proxy} were refused: {ends:#?}");
    let services = &ends[0].services_without_endpoints;
    ensure!(
        services.len() == 1 && services[0]["service"] == "solo" && services[0]["until"].is_null(),
        "{ends:#?}"
    );
    let Site { mut agent, world } = site;
    let said = Words::last_of(&mut agent)?;
    ensure!(said.findings.contains("\"service-without-endpoints\""), "{}", said.findings);
    let differences = said.differences(&recording.replayed()?);
    ensure!(differences.is_empty(), "the replay says otherwise: {}", differences.join("\n"));
    drop(agent);
    world.shutdown()
}

/// A connect to the Service that ends in an ICMP message of another kind.
fn unreachable(site: &Site, target: SocketAddr) -> anyhow::Result<()> {
    let end = in_the_way(site, target, &["reject with icmpx type host-unreachable"], || {
        TcpStream::connect_timeout(&target, SOON)
    })?;
    let kind = end.err().context("somebody served")?.kind();
    ensure!(kind == ErrorKind::HostUnreachable, "{target}: {kind}");
    Ok(())
}

/// A blocking connect whose first SYN is refused while it is being sent, and whose repetitions nobody answers: true if its client was told of the
/// refusal all the same (the message came so late that it met no connect()).
fn refused_then_silent(site: &Site, target: SocketAddr) -> anyhow::Result<bool> {
    let end = in_the_way(site, target, &["limit rate 1/minute burst 1 packets reject", "drop"], || {
        let family = if target.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&socket, SendTimeout, &TimeVal::milliseconds(1500))?;
        connect(socket.as_raw_fd(), &SockaddrStorage::from(target))
    })?;
    match end {
        Err(Errno::EINPROGRESS) => Ok(false),
        Err(Errno::ECONNREFUSED) => Ok(true),
        other => bail!("{target}: {other:?}"),
    }
}

/// What becomes of this on the node while its own packets to the Service meet these statements first.
fn in_the_way<T: Send>(
    site: &Site,
    target: SocketAddr,
    statements: &[&str],
    connect: impl FnOnce() -> T + Send,
) -> anyhow::Result<T> {
    let nft = |text: &str| -> anyhow::Result<()> {
        let status = site.world.node_command("nft").arg(text).status()?;
        ensure!(status.success(), "nft {text}: {status}");
        Ok(())
    };
    let family = if target.is_ipv4() { "ip" } else { "ip6" };
    let (address, port) = (target.ip(), target.port());
    let rule = |statement: &&str| format!("{family} daddr {address} tcp dport {port} {statement}; ");
    let rules: String = statements.iter().map(rule).collect();
    nft(&format!(
        "table inet in-the-way {{ chain output {{ type filter hook output priority -300; {rules}}}; }}"
    ))?;
    let end = site.world.node().network().inside(connect)?;
    nft("delete table inet in-the-way")?;
    Ok(end)
}

/// Connects at once, none of which is served.
fn round(site: &Site, target: SocketAddr) -> anyhow::Result<Vec<Attempt>> {
    let arguments = format!("--new {ROUND} --max-requests {ROUND} --connect-timeout 9");
    Ok(Load::start(&site.world, target, &arguments)?.wait()?.attempts)
}
