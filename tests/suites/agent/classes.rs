//! Each class of loss, made on purpose by a server that ends that way: named as such, each one joined with its attempt.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use world::PodTemplate;
use world::controllers::{Deployment, PodRef};
use world::kubelet::Step;

use crate::site::{NAMESPACE, Site, address_of, wait_exited, wait_stopped};
use crate::{SOON, trial};
use world::clients::{Load, Tally};

/// Before the deletion: long enough for every client's first connection.
const BEFORE: Duration = Duration::from_millis(700);
/// After the stop: many times what lies between two requests of a client.
const AFTER: Duration = Duration::from_secs(1);
/// Losses of a kind that a scene has at least.
const LEAST: u64 = 20;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("each class is named as it was made, attempt by attempt", each_class),
        trial("an answer that arrived is no loss, though the FINs crossed", crossed_fins),
    ]
}

/// What came of one way to end.
struct Scene {
    name: &'static str,
    class: &'static str,
    /// Nothing else can have happened.
    only: bool,
    pods: Vec<PodRef>,
    tally: Tally,
}

fn each_class() -> anyhow::Result<()> {
    let site = Site::start()?;
    let many = "--new 24 --new-rate 20";
    let mixed = "--new 12 --new-rate 20 --keepalive 12 --keepalive-rate 20";
    let mut scenes = vec![
        Scene::direct(&site, "closing", "refused", &["--on-term", "close-then-wait:4"], many)?,
        Scene::direct(
            &site,
            "deaf",
            "unaccepted",
            &["--on-term", "linger:2.5", "--no-accept-after-term"],
            many,
        )?,
        Scene::direct(&site, "blind", "unread", &["--on-term", "linger:2.5", "--stall-reads"], mixed)?,
        Scene::direct(&site, "mute", "unanswered", &["--on-term", "linger:2.5", "--stall-answers"], mixed)?,
        Scene::direct(
            &site,
            "slamming",
            "stale_reuse",
            &["--on-term", "linger:2.5", "--close-accepted-after-term"],
            "--new 40 --new-rate 20",
        )?,
        Scene::swallowed(&site)?,
        Scene::unheard(&site)?,
        Scene::in_flight(&site)?,
        Scene::reused(&site)?,
        Scene::vanished(&site)?,
    ];
    // A server that closes at a point in time may have other requests under way.
    for scene in &mut scenes {
        scene.only &=
            scene.name == "unheard" || !matches!(scene.class, "refused" | "stale_reuse" | "blackholed");
    }
    let mut wrong = Vec::new();
    for scene in &scenes {
        if let Err(error) = scene.judge(&site) {
            wrong.push(format!("{error:#}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    site.finish()
}

/// The server answers and closes, the client closes before it sees the server's FIN: FIN_WAIT1, CLOSING, CLOSE, and never FIN_WAIT2. That the
/// answer arrived is told by the client's FIN only: its bare acknowledgements are dropped.
fn crossed_fins() -> anyhow::Result<()> {
    let site = Site::start()?;
    let name = "crossed";
    let mut deployment = site.deploy(name, 1, &PodTemplate::testserver(name, &["--on-term", "linger:3"]))?;
    let pod = deployment.pods()[0].clone();
    let target = address_of(&site.world, &pod)?;
    let rule = format!(
        "table ip {name} {{ chain fins {{ type filter hook forward priority 0; \
         ip saddr {0} tcp flags & fin == fin drop; \
         ip daddr {0} tcp flags & (syn | fin | psh) == 0 drop; }}; }}",
        target.ip()
    );
    let pods = deployment.delete_pods()?;
    wait_stopped(&site.world, &pod)?;
    nft(&site, &rule)?;
    site.world.node().client().inside(|| (0..LEAST).try_for_each(|_| ask_and_close(target)))??;
    // The server's FINs get through with their next retransmission.
    nft(&site, &format!("delete table ip {name}"))?;
    deployment.wait_gone(&pods, SOON)?;
    let (_, ends) = site.judge(name, &[], &pods)?;
    ensure!(ends[0].requests.late_answered == LEAST, "{:#?}", ends[0]);
    ensure!(ends[0].lost_total() == 0 && ends[0].complete, "{:#?}", ends[0]);
    site.finish()
}

/// One request whose answer ends the connection; closed as soon as the answer is there.
fn ask_and_close(target: SocketAddr) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect_timeout(&target, SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: crossed\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut part = [0; 1024];
    // The header ends with an empty line, the body is one line.
    while !String::from_utf8_lossy(&answer)
        .split_once("\r\n\r\n")
        .is_some_and(|(_, body)| body.ends_with('\n'))
    {
        let count = stream.read(&mut part)?;
        ensure!(count > 0, "the answer is cut: {:?}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&part[..count]);
    }
    Ok(())
}

/// A pod that has its stop signal, and from then on packets that fit (POD is its address) are dropped on their way.
fn behind_firewall(
    site: &Site,
    name: &str,
    style: &[&str],
    packets: &str,
) -> anyhow::Result<(Deployment, Vec<PodRef>, SocketAddr)> {
    let mut deployment = site.deploy(name, 1, &PodTemplate::testserver(name, style))?;
    let pod = deployment.pods()[0].clone();
    let target = address_of(&site.world, &pod)?;
    let pods = deployment.delete_pods()?;
    wait_stopped(&site.world, &pod)?;
    let packets = packets.replace("POD", &target.ip().to_string());
    nft(
        site,
        &format!(
            "table ip {name} {{ chain dropped {{ type filter hook forward priority 0; {packets} drop; }}; }}"
        ),
    )?;
    Ok((deployment, pods, target))
}

fn nft(site: &Site, command: &str) -> anyhow::Result<()> {
    let status = site.world.node_command("nft").arg(command).status()?;
    ensure!(status.success(), "nft {command}: {status}");
    Ok(())
}

impl Scene {
    /// One pod, asked at its own address until a while after its stop signal.
    fn direct(
        site: &Site,
        name: &'static str,
        class: &'static str,
        style: &[&str],
        clients: &str,
    ) -> anyhow::Result<Self> {
        let mut deployment = site.deploy(name, 1, &PodTemplate::testserver(name, style))?;
        let pod = deployment.pods()[0].clone();
        let mut load = Load::start(&site.world, address_of(&site.world, &pod)?, clients)?;
        load.run_for(BEFORE)?;
        let pods = deployment.delete_pods()?;
        wait_stopped(&site.world, &pod)?;
        load.run_for(AFTER)?;
        load.end()?;
        let exited = wait_exited(&site.world, &pod)?;
        let tally = load.wait()?;
        let last = tally.attempts.iter().map(|attempt| attempt.t_ns).max().unwrap_or(0);
        ensure!(last < exited, "{name}: an attempt began after the exit: the scene is too slow");
        deployment.wait_gone(&pods, SOON)?;
        Ok(Self { name, class, only: true, pods, tally })
    }

    /// A server that closed, and whose kernel never gets the requests sent after that: only that each client's FIN comes out of order is left of
    /// them. So it is when a request meets a socket that is on its way to TIME_WAIT on another CPU.
    fn swallowed(site: &Site) -> anyhow::Result<Self> {
        let name = "swallowed";
        let style = ["--on-term", "linger:2.5", "--close-accepted-after-term"];
        // A request is longer than any segment without data.
        let (deployment, pods, target) = behind_firewall(site, name, &style, "ip daddr POD ip length > 100")?;
        let mut load = Load::start(&site.world, target, "--new 12 --new-rate 20")?;
        load.run_for(AFTER)?;
        let tally = load.stop()?;
        deployment.wait_gone(&pods, SOON)?;
        Ok(Self { name, class: "stale_reuse", only: true, pods, tally })
    }

    /// A port without a listener whose refusals never reach the clients, as while the pod's interface is taken down: each client's kernel sends
    /// its SYN again, and that is still one attempt.
    fn unheard(site: &Site) -> anyhow::Result<Self> {
        let name = "unheard";
        let style = ["--on-term", "close-then-wait:8"];
        let (deployment, pods, target) =
            behind_firewall(site, name, &style, "ip saddr POD tcp flags & rst == rst")?;
        let load = Load::start(&site.world, target, "--new 24 --max-requests 48 --connect-timeout 2.5")?;
        let tally = load.wait()?;
        let retransmitted = Duration::from_secs(1).as_nanos();
        ensure!(
            tally
                .attempts
                .iter()
                .all(|attempt| u128::from(attempt.end_ns - attempt.start_ns) > retransmitted)
        );
        deployment.wait_gone(&pods, SOON)?;
        Ok(Self { name, class: "refused", only: true, pods, tally })
    }

    /// A server that exits at once with requests in flight.
    fn in_flight(site: &Site) -> anyhow::Result<Self> {
        let name = "leaving";
        let mut deployment = site.deploy(name, 1, &PodTemplate::testserver(name, &["--on-term", "exit"]))?;
        let target = address_of(&site.world, &deployment.pods()[0])?;
        let arguments = "--keepalive 24 --path /?delay_ms=60000 --timeout 80";
        let mut load = Load::start(&site.world, target, arguments)?;
        load.run_for(AFTER)?;
        load.end()?;
        let pods = deployment.delete_pods()?;
        let tally = load.wait()?;
        deployment.wait_gone(&pods, SOON)?;
        Ok(Self { name, class: "unanswered", only: true, pods, tally })
    }

    /// Clients that write on a kept connection without looking; the endpoints follow in time, so that nothing else is lost.
    fn reused(site: &Site) -> anyhow::Result<Self> {
        let name = "kept";
        let template =
            PodTemplate { prestop_seconds: 2, ..PodTemplate::testserver(name, &["--on-term", "drain"]) };
        let mut deployment = site.deploy(name, 2, &template)?;
        let service = site.world.service(NAMESPACE, name, name)?;
        site.world.wait_routed(name, deployment.pods(), SOON)?;
        let target = SocketAddr::from((service.v4, service.port));
        let mut load = Load::start(&site.world, target, "--keepalive 24 --keepalive-rate 10 --blind")?;
        load.run_for(BEFORE)?;
        let pods = site.roll(&mut deployment, &template)?;
        load.run_for(AFTER)?;
        Ok(Self { name, class: "stale_reuse", only: false, pods, tally: load.stop()? })
    }

    /// An address that is gone while the service proxy still uses it.
    fn vanished(site: &Site) -> anyhow::Result<Self> {
        let name = "vanished";
        let deployment = site.deploy(name, 2, &PodTemplate::testserver(name, &["--on-term", "exit"]))?;
        let service = site.world.service(NAMESPACE, name, name)?;
        site.world.wait_routed(name, deployment.pods(), SOON)?;
        let target: (Ipv4Addr, u16) = (service.v4, service.port);
        let mut load =
            Load::start(&site.world, target, "--new 100 --new-rate 2 --connect-timeout 1.5 --timeout 5")?;
        load.run_for(BEFORE)?;
        site.world.delays().proxy.set(Duration::from_secs(3));
        let pod = deployment.pods()[0].clone();
        site.world.delete(&pod)?;
        for v4 in [true, false] {
            site.world.wait_step(
                &pod,
                SOON,
                |step| matches!(step, Step::Rules { used: false, address, .. } if address.is_ipv4() == v4),
            )?;
        }
        load.run_for(AFTER)?;
        let tally = load.stop()?;
        site.world.delays().proxy.set(Duration::ZERO);
        Ok(Self { name, class: "blackholed", only: false, pods: vec![pod], tally })
    }

    fn judge(&self, site: &Site) -> anyhow::Result<()> {
        let (verdict, _) = site.judge(self.name, &self.tally.attempts, &self.pods)?;
        let named = verdict.by_class.get(self.class).copied().unwrap_or(0);
        ensure!(named >= LEAST, "{}: {:?}, of which {} too few", self.name, verdict.by_class, self.class);
        ensure!(!self.only || named == verdict.failed, "{}: {:?}", self.name, verdict.by_class);
        ensure!(verdict.failed == self.tally.summary.total.failed);
        let first = self.tally.attempts.iter().find(|attempt| !attempt.ok()).context("a failed attempt")?;
        ensure!(first.nth >= 1);
        Ok(())
    }
}
