//! What a server and its client do at one moment on two CPUs: each request is lost once, whichever of the two the kernel hears first.
//!
//! No load comes upon such moments often enough. A thread of this test serves, in a pod's namespace and on one CPU; another asks, on another
//! CPU. Nobody is ever answered, so that what the client tried is what it lost.

use std::collections::BTreeMap;
use std::hint;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::os::linux::net::TcpStreamExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use anyhow::{Context as _, bail, ensure};
use libtest_mimic::Trial;
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use nix::unistd::Pid;
use serde_json::json;
use world::controllers::PodRef;
use world::kubelet::monotonic_ns;
use world::load::ErrorKind;
use world::node::NetNs;

use crate::site::{LOST, SERVER, Site, address_of, same, wait_exited, workload};
use crate::{SETTLING, SOON, trial};

/// Attempts of a test: fewer than the memory of closed connections holds.
const ATTEMPTS: u64 = 5000;
/// From when a moment is named to when it is.
const AHEAD_NS: u64 = 40_000;
/// How far around that moment the client acts, half of it before.
const AROUND_NS: u64 = 40_000;
/// From the place of one attempt to that of the next.
const STEP_NS: u64 = 70;
/// The source port of the first handshake; each has its own, below those that the kernel gives.
const FIRST_PORT: u16 = 20_000;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: races\r\nConnection: close\r\n\r\n";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a request that comes while its server closes is lost once", closing),
        trial("a handshake that ends while its listener closes is lost once", unlistening),
    ]
}

fn closing() -> anyhow::Result<()> {
    let site = Site::start()?;
    let scene = Scene::start(&site, "closing")?;
    let listener = scene.inside.inside(|| TcpListener::bind(scene.target))??;
    let errors = scene.race(
        |moment, turns| {
            turns.into_iter().try_for_each(|()| {
                let (stream, _) = listener.accept()?;
                spin_until(moment.name());
                drop(stream);
                Ok(())
            })
        },
        |moment, attempt, turns| {
            let mut stream = TcpStream::connect_timeout(&scene.target, SOON)?;
            turns.send(())?;
            moment.meet(attempt)?;
            end_of(&mut stream)
        },
    )?;
    let lost = scene.lost(&site, "closing", &errors)?;
    ensure!(lost["unread"] > 0 && lost["stale_reuse"] > 0, "{lost:?}: the two never met");
    site.finish()
}

fn unlistening() -> anyhow::Result<()> {
    let site = Site::start()?;
    let scene = Scene::start(&site, "unlistening")?;
    let errors = scene.race(
        |moment, turns| {
            turns.into_iter().try_for_each(|()| {
                let listener = TcpListener::bind(scene.target)?;
                spin_until(moment.name());
                drop(listener);
                Ok(())
            })
        },
        |moment, attempt, turns| {
            turns.send(())?;
            moment.meet(attempt)?;
            let mut stream =
                TcpStream::from(socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?);
            // The request goes out with the handshake's last ACK. Alone, that ACK may be reset before there is a request, so near is this
            // client; and if its SYN met the listener at the very end, nothing tells it from a late ACK of another connection (docs/limits.md).
            stream.set_quickack(false)?;
            // Of two connections of one name within a minute, what comes after the end of the first is not told from the second.
            let source = SocketAddr::from(([0; 4], FIRST_PORT + u16::try_from(attempt)?));
            bind(stream.as_raw_fd(), &SockaddrStorage::from(source))?;
            match connect(stream.as_raw_fd(), &SockaddrStorage::from(scene.target)) {
                Ok(()) => end_of(&mut stream),
                Err(Errno::ECONNREFUSED) => Ok(ErrorKind::ConnectRefused),
                Err(errno) => Err(errno.into()),
            }
        },
    )?;
    let lost = scene.lost(&site, "unlistening", &errors)?;
    let refused = errors.get(&ErrorKind::ConnectRefused).copied().unwrap_or(0);
    ensure!(lost["refused"] == refused && refused > 0, "{lost:?} for {errors:?}");
    ensure!(lost["unaccepted"] > 0, "{lost:?}: the two never met");
    site.finish()
}

/// Sends a request, and waits for what it comes to.
fn end_of(stream: &mut TcpStream) -> anyhow::Result<ErrorKind> {
    // A client that leaves by a reset says nothing of a request that was dropped.
    setsockopt(&*stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    stream.set_read_timeout(Some(SOON))?;
    match stream.write_all(REQUEST).and_then(|()| stream.read(&mut [0; 16])) {
        Ok(0) => Ok(ErrorKind::Eof),
        Ok(_) => bail!("somebody answered"),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(ErrorKind::Reset),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ErrorKind::SendError),
        Err(error) => Err(error.into()),
    }
}

/// The moment at which both threads act.
#[derive(Default)]
struct Moment(AtomicU64);

impl Moment {
    /// Names one that is about to come.
    fn name(&self) -> u64 {
        let at_ns = monotonic_ns() + AHEAD_NS;
        self.0.store(at_ns, Ordering::Release);
        at_ns
    }

    /// Waits until the other thread has named one, and then for this attempt's place around it.
    fn meet(&self, attempt: u64) -> anyhow::Result<()> {
        let patience_ns = monotonic_ns() + u64::try_from(SOON.as_nanos())?;
        loop {
            let at_ns = self.0.swap(0, Ordering::Acquire);
            if at_ns > 0 {
                spin_until(at_ns - AROUND_NS / 2 + attempt * STEP_NS % AROUND_NS);
                return Ok(());
            }
            ensure!(monotonic_ns() < patience_ns, "the server is not there");
            hint::spin_loop();
        }
    }
}

fn spin_until(at_ns: u64) {
    while monotonic_ns() < at_ns {
        hint::spin_loop();
    }
}

/// Two CPUs that this process may use, each as a set.
fn two_cpus() -> anyhow::Result<[CpuSet; 2]> {
    let usable = sched_getaffinity(Pid::from_raw(0))?;
    let mut found = (0..CpuSet::count()).filter(|cpu| usable.is_set(*cpu).unwrap_or(false)).map(|cpu| {
        let mut set = CpuSet::new();
        set.set(cpu).map(|()| set)
    });
    let (Some(first), Some(second)) = (found.next(), found.next()) else { bail!("this takes two CPUs") };
    Ok([first?, second?])
}

/// A pod that is being stopped, and does not end by itself. Nobody of it listens on its declared port.
struct Scene {
    pod: PodRef,
    pid: i32,
    target: SocketAddr,
    inside: NetNs,
    client: NetNs,
}

impl Scene {
    fn start(site: &Site, name: &str) -> anyhow::Result<Self> {
        let command = [SERVER, "--listen", "[::]:9090", "--on-term", "ignore"];
        let ports = json!([{"name": "http", "containerPort": 8080}]);
        let container = json!({"name": "server", "command": command, "ports": ports});
        let pod =
            site.pod(name, &json!({"terminationGracePeriodSeconds": 600, "containers": [container]}))?;
        let (pid, _) =
            site.world.journal().started(&pod.uid, "server").context("no container was started")?;
        let target = address_of(&site.world, &pod)?;
        site.world.delete(&pod)?;
        // The kubelet writes its journal before it sends the signal.
        site.until("the stop signal", || {
            Ok(site.agent.terminations()?.iter().any(|end| end.step("stop_signal").is_some()))
        })?;
        let client = site.world.node().client().clone();
        Ok(Self { pod, pid, target, inside: NetNs::of_process(pid)?, client })
    }

    /// Lets a server and a client meet again and again, and says what the client came to. The client sends the server its turns.
    fn race(
        &self,
        serve: impl FnOnce(&Moment, Receiver<()>) -> io::Result<()> + Send,
        ask: impl Fn(&Moment, u64, &Sender<()>) -> anyhow::Result<ErrorKind> + Sync,
    ) -> anyhow::Result<BTreeMap<ErrorKind, u64>> {
        let moment = Moment::default();
        let [first, second] = two_cpus()?;
        let (turns, taken) = mpsc::channel();
        thread::scope(|scope| {
            let server = scope.spawn(|| {
                self.inside.enter()?;
                sched_setaffinity(Pid::from_raw(0), &first)?;
                serve(&moment, taken).context("the server")
            });
            // Gone with its end, so that the server's turns are over.
            let client = scope.spawn(|| {
                let turns = turns;
                self.client.enter()?;
                sched_setaffinity(Pid::from_raw(0), &second)?;
                let mut errors = BTreeMap::new();
                for attempt in 0..ATTEMPTS {
                    *errors.entry(ask(&moment, attempt, &turns).context("the client")?).or_default() += 1;
                }
                anyhow::Ok(errors)
            });
            let errors = client.join().ok().context("the client panicked")?;
            server.join().ok().context("the server panicked")??;
            errors
        })
    }

    /// Ends the pod; what the agent says that it lost is as much as the client tried.
    fn lost(
        &self,
        site: &Site,
        name: &str,
        errors: &BTreeMap<ErrorKind, u64>,
    ) -> anyhow::Result<BTreeMap<String, u64>> {
        kill(Pid::from_raw(self.pid), Signal::SIGKILL)?;
        wait_exited(&site.world, &self.pod)?;
        let pods = [self.pod.clone()];
        let end = site.agent.wait_ended(&pods, SETTLING)?.pop().context("no end")?;
        ensure!(
            end.lost_total() == ATTEMPTS && end.complete,
            "the client: {errors:?}, the agent: {:?}, {:?}",
            end.lost,
            end.anomalies
        );
        let metrics = site.metrics()?;
        for (class, count) in &end.lost {
            let counted = metrics.sum(LOST, &[&workload(name), &format!("reason=\"{class}\"")]);
            ensure!(same(counted, *count), "{class}: JSON says {count}, the metric {counted}");
        }
        Ok(end.lost)
    }
}
