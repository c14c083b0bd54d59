//! Each way in which the test server ends behaves as it is named, seen from a client of a pod that is deleted.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::ensure;
use libtest_mimic::Trial;
use world::controllers::PodRef;
use world::kubelet::Step;
use world::{PodTemplate, World};

use crate::client::{Client, Seen, connect_error, get};
use crate::{SOON, start, trial};

const PORT: u16 = 8080;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("exit: a request in flight stays unanswered", exit_leaves_requests_unanswered),
        trial(
            "drain: requests in flight are answered, idle connections closed, new ones refused",
            drain_answers,
        ),
        trial("linger: old and new connections are served, then drained", linger_serves_on),
        trial("close-then-wait: everything is closed while the process lives", close_then_wait_closes),
        trial("no-accept-after-term: what was never accepted is reset", no_accept_resets),
        trial("stall-reads: what was never read is reset", stall_reads_resets),
        trial("stall-answers: what was read ends without an answer", stall_answers_ends),
        trial("unready-on-term: readiness goes with SIGTERM", unready_on_term),
        trial("pipelined, large and delayed requests are answered in order", requests_in_all_sizes),
    ]
}

struct Stopping {
    world: World,
    pod: PodRef,
    address: IpAddr,
}

impl Stopping {
    fn new(arguments: &[&str]) -> anyhow::Result<Self> {
        let world = start()?;
        let pod = world.pod("default", "a", &PodTemplate::testserver("a", arguments))?;
        world.wait_ready(&pod, true, SOON)?;
        let address = world.addresses(&pod)?[0];
        Ok(Self { world, pod, address })
    }

    fn connect(&self) -> anyhow::Result<Client> {
        Ok(Client::connect(&self.world, self.address, PORT)?)
    }

    /// A connection with one answered request behind it.
    fn idle(&self) -> anyhow::Result<Client> {
        let mut client = self.connect()?;
        ensure!(client.ask("/").is(200, "hello from a"));
        Ok(client)
    }

    /// Deletes the pod and waits until its stop signal is out.
    fn stop(&self) -> anyhow::Result<()> {
        self.world.delete(&self.pod)?;
        self.world.wait_step(&self.pod, SOON, |step| matches!(step, Step::Signal { signal: 15, .. }))?;
        Ok(())
    }

    fn runs(&self) -> bool {
        self.world.journal().first(&self.pod.uid, |step| matches!(step, Step::Exited { .. })).is_none()
    }

    /// Waits for the pod's end, which has to be an exit with 0.
    fn end(self) -> anyhow::Result<()> {
        self.world.wait_gone(&self.pod, SOON)?;
        let journal = self.world.journal().of_pod(&self.pod.uid);
        ensure!(
            journal.iter().any(|record| matches!(record.step, Step::Exited { code: 0, .. })),
            "{journal:?}"
        );
        self.world.shutdown()
    }
}

fn exit_leaves_requests_unanswered() -> anyhow::Result<()> {
    let test = Stopping::new(&["--on-term", "exit"])?;
    let (mut idle, mut pending) = (test.idle()?, test.idle()?);
    pending.send("/?delay_ms=60000")?;
    // The order in which the server reads is the order of sending: once this one is answered, the other has been read.
    ensure!(test.idle()?.ask("/").is(200, "hello"));
    test.stop()?;
    ensure!(pending.receive() == Seen::Eof && idle.receive() == Seen::Eof);
    test.end()
}

fn drain_answers() -> anyhow::Result<()> {
    let test = Stopping::new(&["--on-term", "drain"])?;
    let (mut idle, mut pending) = (test.idle()?, test.idle()?);
    pending.send("/?delay_ms=1000")?;
    ensure!(test.idle()?.ask("/").is(200, "hello"));
    test.stop()?;
    ensure!(idle.receive() == Seen::Eof);
    ensure!(connect_error(&test.world, test.address, PORT) == Some(ErrorKind::ConnectionRefused));
    ensure!(test.runs(), "it has to wait for the request in flight");
    ensure!(pending.receive().is(200, "Connection: close"));
    ensure!(pending.receive() == Seen::Eof);
    test.end()
}

fn linger_serves_on() -> anyhow::Result<()> {
    let test = Stopping::new(&["--on-term", "linger:1"])?;
    let mut idle = test.idle()?;
    test.stop()?;
    ensure!(idle.ask("/").is(200, "hello") && get(&test.world, test.address, PORT, "/")?.is(200, "hello"));
    ensure!(idle.receive() == Seen::Eof, "drained at the end");
    test.end()
}

fn close_then_wait_closes() -> anyhow::Result<()> {
    let test = Stopping::new(&["--on-term", "close-then-wait:1"])?;
    let (mut idle, mut pending) = (test.idle()?, test.idle()?);
    pending.send("/?delay_ms=60000")?;
    ensure!(test.idle()?.ask("/").is(200, "hello"));
    test.stop()?;
    ensure!(idle.receive() == Seen::Eof && pending.receive() == Seen::Eof);
    ensure!(connect_error(&test.world, test.address, PORT) == Some(ErrorKind::ConnectionRefused));
    ensure!(test.runs(), "the process outlives its sockets");
    test.end()
}

fn no_accept_resets() -> anyhow::Result<()> {
    let test = Stopping::new(&["--on-term", "linger:1.5", "--no-accept-after-term", "--unready-on-term"])?;
    let mut kept = test.idle()?;
    test.stop()?;
    wait_for_unready(&mut kept)?;
    let mut late = test.connect()?;
    late.send("/")?;
    ensure!(kept.ask("/").is(200, "hello"), "old connections are served");
    ensure!(late.receive() == Seen::Error(ErrorKind::ConnectionReset));
    ensure!(kept.receive() == Seen::Eof);
    test.end()
}

fn stall_reads_resets() -> anyhow::Result<()> {
    let test = Stopping::new(&["--on-term", "linger:1.5", "--stall-reads"])?;
    let (mut old, mut witness) = (test.idle()?, test.idle()?);
    test.stop()?;
    wait_for_silence(&mut witness)?;
    let mut late = test.connect()?;
    late.send("/")?;
    old.send("/")?;
    ensure!(late.receive() == Seen::Error(ErrorKind::ConnectionReset));
    ensure!(old.receive() == Seen::Error(ErrorKind::ConnectionReset));
    test.end()
}

fn stall_answers_ends() -> anyhow::Result<()> {
    let test = Stopping::new(&["--on-term", "linger:1.5", "--stall-answers"])?;
    let (mut old, mut witness) = (test.idle()?, test.idle()?);
    test.stop()?;
    wait_for_silence(&mut witness)?;
    let mut late = test.connect()?;
    late.send("/")?;
    old.send("/")?;
    ensure!(late.receive() == Seen::Eof && old.receive() == Seen::Eof);
    test.end()
}

fn unready_on_term() -> anyhow::Result<()> {
    let test = Stopping::new(&["--on-term", "linger:3", "--unready-on-term"])?;
    test.stop()?;
    test.world.wait_ready(&test.pod, false, SOON)?;
    ensure!(test.runs(), "it was the probe, not the exit");
    test.end()
}

fn requests_in_all_sizes() -> anyhow::Result<()> {
    let test = Stopping::new(&[])?;
    let mut client = test.idle()?;
    ensure!(client.ask("/?bytes=3000000").is(200, "Content-Length: 3000000"));
    let began = Instant::now();
    ensure!(client.ask("/?delay_ms=200").is(200, "hello") && began.elapsed() >= Duration::from_millis(200));
    client.send("/?delay_ms=50&bytes=1")?;
    client.send("/?bytes=2")?;
    let Seen::Answer(first) = client.receive() else { anyhow::bail!("no first answer") };
    ensure!(first.ends_with("\r\n\r\nx"), "{first}");
    let second = client.receive();
    ensure!(second.is(200, "\r\n\r\nxx"), "{second:?}");
    ensure!(get(&test.world, test.address, PORT, "/healthz")?.is(200, "ok"));
    test.stop()?;
    test.end()
}

/// Waits until the server says that it has seen the stop signal.
fn wait_for_unready(kept: &mut Client) -> anyhow::Result<()> {
    let deadline = Instant::now() + SOON;
    while !kept.ask("/readyz").is(503, "") {
        ensure!(Instant::now() < deadline, "the server does not see its stop signal");
    }
    Ok(())
}

/// Waits until the server no longer answers a kept connection: it has seen the stop signal.
fn wait_for_silence(witness: &mut Client) -> anyhow::Result<()> {
    let deadline = Instant::now() + SOON;
    while witness.ask_briefly("/", Duration::from_millis(100)) != Seen::Error(ErrorKind::WouldBlock) {
        ensure!(Instant::now() < deadline, "the server answers on");
    }
    Ok(())
}
