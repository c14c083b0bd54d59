//! What no server should do and some do: 10,000 idle connections at the stop, a listener that outlives its container or changes hands, a death during
//! the start. Nothing is lost that clients did not lose, nothing twice.

use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use world::clients::Load;
use world::controllers::PodRef;
use world::kubelet::Step;
use world::load::Attempt;

use crate::site::{NAMESPACE, SERVER, Site, address_of, ask, exact, serving, wait_exited, wait_stopped};
use crate::{SOON, trial};

const IDLE: usize = 10_000;
const MIXED: &str = "--new 4 --new-rate 20 --keepalive 4 --keepalive-rate 20";
const WHILE: Duration = Duration::from_millis(500);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("10,000 idle connections at the stop are no loss", idle_connections),
        trial("a listener that outlives its container or changes hands loses nothing twice", listeners),
    ]
}

fn idle_connections() -> anyhow::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let site = Site::start()?;
    let pod = site.pod("idle", &json!({"containers": [serving(&[SERVER, "--on-term", "drain"])]}))?;
    let target = address_of(&site.world, &pod)?;
    let connections: Vec<TcpStream> =
        site.world.node().client().inside(|| (0..IDLE).map(|_| ask(target)).collect::<Result<_, _>>())??;
    site.world.delete(&pod)?;
    let [end] = &site.agent.wait_ended(std::slice::from_ref(&pod), SOON)?[..] else {
        anyhow::bail!("not one end")
    };
    ensure!(end.connections.open_at_stop == Some(u64::try_from(IDLE)?), "{:?}", end.connections);
    ensure!(end.connections.late == 0 && end.requests.late_answered == 0, "{end:#?}");
    ensure!(end.lost_total() == 0 && end.evidence.is_empty() && end.complete, "{end:#?}");
    drop(connections);
    site.finish()
}

fn listeners() -> anyhow::Result<()> {
    let site = Site::start()?;
    // The init ends at its signal, the server is its child and knows nothing.
    let leaving = format!("trap 'exit 0' TERM; {SERVER} --on-term linger:20 & wait");
    let leaving = json!({"containers": [serving(&["sh", "-c", &leaving])]});
    let mut outliving = leaving.clone();
    outliving["shareProcessNamespace"] = json!(true);
    let outlived = site.pod("outlived", &outliving)?;
    let killed = site.pod("killed", &leaving)?;
    let handing = site.pod("handing", &with_listener_passed_on(&site))?;
    let failing = dying_at_the_start(&site)?;
    // For so long after the init's exit the pod's network stays, and in a shared pid namespace its processes.
    site.world.delays().sandbox.set(Duration::from_secs(3));

    let handed = hand_over(&site, &handing)?;
    let mut tallies = Vec::new();
    for pod in [&outlived, &killed] {
        let mut load = Load::start(&site.world, address_of(&site.world, pod)?, MIXED)?;
        load.run_for(WHILE)?;
        site.world.delete(pod)?;
        wait_exited(&site.world, pod)?;
        load.run_for(WHILE)?;
        let tally = load.stop()?;
        let gone = site.world.journal().first(&pod.uid, |step| matches!(step, Step::SandboxRemoval));
        ensure!(gone.is_none(), "{}: the scene is too slow", pod.name);
        tallies.push(tally.attempts);
    }
    site.world.delete(&failing)?;
    let pods = [outlived, killed, handing, failing];
    let ends = site.agent.wait_ended(&pods, SOON)?;
    tallies.push(handed);
    for (attempts, end) in tallies.iter().zip(&ends) {
        let verdict = exact(&end.pod.name, attempts, std::slice::from_ref(end))?;
        // The kernel kills what is left in the init's own pid namespace, and only there.
        ensure!((verdict.failed > 0) == (end.pod.name == "killed"), "{}: {verdict:?}", end.pod.name);
        ensure!(end.outcome == "exited", "{end:#?}");
    }
    ensure!(ends[0].requests.late_answered > 0, "{:#?}", ends[0]);
    ensure!(ends[3].lost_total() == 0 && ends[3].trigger == "delete", "{:#?}", ends[3]);
    site.finish()
}

/// A container whose process ends with an error as soon as it runs.
fn dying_at_the_start(site: &Site) -> anyhow::Result<PodRef> {
    let spec = json!({"containers": [serving(&["sh", "-c", "exit 3"])]});
    let pod = site.world.pod_of_value(NAMESPACE, "failing", json!({"spec": spec}))?;
    site.until("its second death", || {
        let records = site.world.journal().of_pod(&pod.uid);
        Ok(records.iter().filter(|record| matches!(record.step, Step::Exited { code: 3, .. })).count() == 2)
    })?;
    Ok(pod)
}

/// One container listens and passes the socket to the other by SCM_RIGHTS, which serves from then on.
fn with_listener_passed_on(site: &Site) -> Value {
    let path = site.world.node().directory().join("passed.sock");
    let path = path.display();
    let giving = format!(
        "import signal, socket, sys, time\n\
         signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n\
         listener = socket.create_server(('::', 8080), family=socket.AF_INET6, dualstack_ipv6=True)\n\
         to = socket.socket(socket.AF_UNIX)\n\
         while to.connect_ex('{path}'): time.sleep(0.05)\n\
         socket.send_fds(to, [b'x'], [listener.fileno()])\n\
         listener.close()\n\
         signal.pause()\n"
    );
    let taking = format!(
        "import signal, socket, sys\n\
         signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n\
         at = socket.socket(socket.AF_UNIX)\n\
         at.bind('{path}')\n\
         at.listen()\n\
         _, fds, _, _ = socket.recv_fds(at.accept()[0], 1, 1)\n\
         listener = socket.socket(fileno=fds[0])\n\
         while True:\n\
         \x20   connection, _ = listener.accept()\n\
         \x20   connection.recv(4096)\n\
         \x20   connection.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n')\n\
         \x20   connection.close()\n"
    );
    let giver = json!({"name": "giver", "command": ["python3", "-c", giving]});
    json!({"restartPolicy": "OnFailure", "containers": [giver, serving(&["python3", "-c", &taking])]})
}

/// The container that listened ends for good, the other one serves on; then the pod is deleted.
fn hand_over(site: &Site, pod: &PodRef) -> anyhow::Result<Vec<Attempt>> {
    let target = address_of(&site.world, pod)?;
    let ask = || Load::start(&site.world, target, "--new 2 --max-requests 20")?.wait();
    let mut attempts = ask()?.attempts;
    site.world.kubelet().kill_container(&pod.uid, "giver", Duration::from_secs(2))?;
    wait_exited(&site.world, pod).context("the giver's exit")?;
    attempts.extend(ask()?.attempts);
    site.world.delete(pod)?;
    wait_stopped(&site.world, pod)?;
    Ok(attempts)
}
