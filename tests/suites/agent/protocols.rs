//! Ports that do not speak plain HTTP/1: real TLS, by clients and a server that close as TLS has it, and a port that nobody says anything of and
//! that never answers.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};
use world::PodTemplate;
use world::agent::Termination;
use world::controllers::{Deployment, PodRef};

use crate::controls::place::{connect, read_end, request};
use crate::site::{LOST, NAMESPACE, Site, address_of, same, wait_exited, workload};
use crate::{SETTLING, SOON, trial};

/// How often a thing is done.
const TIMES: u32 = 20;
/// Clients that have to leave a silent port before it is taken for one-way.
const TELLING: u32 = 3;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("tls: idle ends lose nothing, and each lost request is inferred", tls),
        trial("a port that never answers loses nothing that it read", one_way),
    ]
}

/// What a client of `tls_client.py` says of one of its connections.
#[derive(serde::Deserialize)]
struct Told {
    local: SocketAddr,
    mode: String,
    lost: bool,
}

/// A process of `tls_client.py`; ended when dropped.
struct Clients {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Drop for Clients {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

impl Clients {
    /// Starts the groups and waits until each connection is as it should be.
    fn start(site: &Site, target: SocketAddr, groups: &[&str]) -> anyhow::Result<Self> {
        let mut child = site
            .world
            .client_command(python()?)
            .arg(script("tls_client.py"))
            .args([target.ip().to_string(), target.port().to_string()])
            .args(groups)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the TLS clients")?;
        let input = child.stdin.take().context("their input")?;
        let output = BufReader::new(child.stdout.take().context("their output")?);
        let (sender, lines) = channel();
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let clients = Self { child, input, lines };
        let first = clients.lines.recv_timeout(SOON).context("the TLS clients are not ready")?;
        ensure!(first == "ready", "{first}");
        Ok(clients)
    }

    /// Lets the blind ones go on; what each connection came to.
    fn finish(mut self) -> anyhow::Result<Vec<Told>> {
        // Nobody may be waiting for it.
        let _told = self.input.write_all(b"go\n");
        let mut told = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(SOON) {
            told.push(serde_json::from_str(&line).with_context(|| line.clone())?);
        }
        let status = self.child.wait()?;
        ensure!(status.success(), "the TLS clients: {status}");
        Ok(told)
    }
}

fn script(name: &str) -> String {
    format!("{}/servers/python/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// The interpreter itself: a version manager's shim wants an environment that pods do not have.
fn python() -> anyhow::Result<String> {
    let output = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output()?;
    ensure!(output.status.success(), "python3: {}", output.status);
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// A pod with one container and one port, whose name is its only hint; ready as soon as somebody listens.
fn template(app: &str, port_name: &str, image: &str, args: &[&str]) -> Value {
    let template = PodTemplate { image: image.to_owned(), ..PodTemplate::testserver(app, args) };
    let mut template = template.to_value();
    let container = &mut template["spec"]["containers"][0];
    container["ports"][0]["name"] = json!(port_name);
    container["readinessProbe"] =
        json!({"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 1});
    template
}

fn deploy(site: &Site, name: &str, template: &Value) -> anyhow::Result<(Deployment, PodRef, SocketAddr)> {
    let (store, node) = (site.world.store(), site.world.node_name());
    let deployment = Deployment::create(store, node, NAMESPACE, name, 1, template)?;
    deployment.wait_ready(SOON)?;
    site.until("the workload's series", || Ok(site.agent.metrics()?.has(LOST, &[&workload(name)])))?;
    let pod = deployment.pods()[0].clone();
    let target = address_of(&site.world, &pod)?;
    Ok((deployment, pod, target))
}

/// How many are lost in this phase, as far as the metrics say now.
fn counted(site: &Site, name: &str, phase: &str) -> anyhow::Result<f64> {
    let labels = [workload(name), format!("phase=\"{phase}\"")];
    Ok(site.metrics()?.sum(LOST, &[&labels[0], &labels[1]]))
}

/// The number once everything is counted.
fn lost(site: &Site, name: &str, phase: &str, wanted: u32) -> anyhow::Result<()> {
    let counted = counted(site, name, phase)?;
    ensure!(same(counted, wanted.into()), "{name}, {phase}: {counted} lost, wanted {wanted}");
    Ok(())
}

fn end_of(site: &Site, pod: &PodRef) -> anyhow::Result<Termination> {
    let ends = site.agent.wait_ended(std::slice::from_ref(pod), SETTLING)?;
    let end = ends.into_iter().next().context("its end")?;
    ensure!(end.complete, "{}: {:?}", pod.name, end.anomalies);
    Ok(end)
}

fn tls() -> anyhow::Result<()> {
    let site = Site::start()?;
    // What a closed connection leaves in the pod's network answers the blind clients.
    site.world.delays().sandbox.set(Duration::from_secs(2));
    let python = python()?;
    let server = script("tls_server.py");
    let of_style = |name, style| template(name, "https", "python", &[&python, &server, style]);
    let mut notifying = deploy(&site, "notifying", &of_style("notifying", "notify"))?;
    let mut exiting = deploy(&site, "exiting", &of_style("exiting", "exit"))?;

    let idle = ["leave:1.3:10", "leave:1.2:10", "idle:1.3:10", "idle:1.2:10", "unused:1.3:4"];
    let losing = ["stalled:1.3:10", "stalled:1.2:10", "blind:1.3:10", "blind:1.2:10"];
    let at_ease = Clients::start(&site, notifying.2, &idle)?;
    let unlucky = Clients::start(&site, exiting.2, &[&idle[..], &losing[..]].concat())?;

    for (deployment, pod, _) in [&mut notifying, &mut exiting] {
        deployment.delete_pods()?;
        wait_exited(&site.world, pod)?;
    }
    let told = at_ease.finish()?;
    ensure!(told.len() == 44 && told.iter().all(|told| !told.lost), "idle clients lost something");
    let told = unlucky.finish()?;

    let end = end_of(&site, &notifying.1)?;
    ensure!(end.lost_total() == 0, "idle ends: {:#?}", end.evidence);
    lost(&site, "notifying", "terminating", 0)?;
    joined(&end_of(&site, &exiting.1)?, &told)?;
    lost(&site, "exiting", "terminating", 40)?;
    for name in ["notifying", "exiting"] {
        lost(&site, name, "running", 0)?;
    }
    site.finish()
}

/// Each connection that lost a request has its evidence, with the class that its client's way to lose it has, and nothing else is there.
fn joined(end: &Termination, told: &[Told]) -> anyhow::Result<()> {
    let mut wanted: Vec<(SocketAddr, &str)> = told
        .iter()
        .filter(|told| told.lost)
        .map(|told| (told.local, if told.mode == "blind" { "stale_reuse" } else { "unanswered" }))
        .collect();
    let mut shown: Vec<(SocketAddr, &str)> =
        end.evidence.iter().map(|item| (item.peer, item.class.as_str())).collect();
    wanted.sort_unstable();
    shown.sort_unstable();
    ensure!(wanted.len() == 40, "{} lost", wanted.len());
    ensure!(shown == wanted, "shown {shown:?}, wanted {wanted:?}");
    for item in &end.evidence {
        ensure!(item.confidence == "inferred", "{item:?}");
        ensure!(item.detail.ends_with("at least one request of its connection"), "{item:?}");
    }
    Ok(())
}

/// Says something to a port that never answers.
fn tell(target: SocketAddr) -> anyhow::Result<TcpStream> {
    let mut stream = connect(target)?;
    // To the test server the beginning of something, which it waits for.
    stream.write_all(b"goodbye")?;
    Ok(stream)
}

/// Says something and leaves; waits until the server has noticed.
fn tell_and_leave(target: SocketAddr) -> anyhow::Result<()> {
    let mut stream = tell(target)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    read_end(&mut stream)
}

/// No socket of the pod has anything that its server has not accepted or read.
fn has_read(site: &Site, pod: &PodRef) -> anyhow::Result<bool> {
    let (pid, _) = site.world.journal().started(&pod.uid, "server").context("it was started")?;
    let mut tables = String::new();
    for family in ["tcp", "tcp6"] {
        tables += &fs::read_to_string(format!("/proc/{pid}/net/{family}"))?;
    }
    // Columns: number, local, remote, state, transmit queue:receive queue.
    let queues = tables.lines().filter_map(|line| line.split_whitespace().nth(4)?.split_once(':'));
    Ok(queues.filter(|(_, waiting)| waiting.len() == 8).all(|(_, waiting)| waiting == "00000000"))
}

fn one_way() -> anyhow::Result<()> {
    let site = Site::start()?;
    let silent = |name, args: &[&str]| deploy(&site, name, &template(name, "ship", "testserver", args));
    // The second says nothing either, but closes on its clients: its requests are lost.
    let mut shipping = silent("shipping", &["--on-term", "exit"])?;
    let mut crashing = silent("crashing", &["--on-term", "exit"])?;
    let client = site.world.node().client().clone();

    client.inside(|| (0..TIMES).try_for_each(|_| tell_and_leave(shipping.2)))??;
    client.inside(|| {
        (0..2 * TELLING).try_for_each(|_| {
            let mut stream = connect(crashing.2)?;
            stream.write_all(request("GET /drop", "").as_bytes())?;
            read_end(&mut stream)
        })
    })??;
    // The first few might have been given up by their clients.
    let running = [("shipping", TELLING), ("crashing", 2 * TELLING)];
    for (name, wanted) in running {
        site.until("what running pods lost", || Ok(same(counted(&site, name, "running")?, wanted.into())))?;
    }

    let open =
        |target| client.inside(|| (0..TIMES).map(|_| tell(target)).collect::<anyhow::Result<Vec<_>>>());
    let (shippers, waiting) = (open(shipping.2)??, open(crashing.2)??);
    site.until("the servers to have read everything", || {
        Ok(has_read(&site, &shipping.1)? && has_read(&site, &crashing.1)?)
    })?;
    for (deployment, pod, _) in [&mut shipping, &mut crashing] {
        deployment.delete_pods()?;
        wait_exited(&site.world, pod)?;
    }
    for mut stream in shippers.into_iter().chain(waiting) {
        read_end(&mut stream)?;
    }
    let (shipped, crashed) = (end_of(&site, &shipping.1)?, end_of(&site, &crashing.1)?);
    ensure!(shipped.lost_total() == 0, "{:#?}", shipped.evidence);
    ensure!(crashed.lost.get("unanswered") == Some(&TIMES.into()), "{:#?}", crashed.lost);
    ensure!(crashed.lost_total() == u64::from(TIMES), "{:#?}", crashed.lost);
    for (name, wanted) in running {
        lost(&site, name, "running", wanted)?;
    }
    site.finish()
}
