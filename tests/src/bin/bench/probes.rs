//! `bench probes`: how many probes a second one core makes, beside blackbox_exporter and cloudprober on the same targets; how late
//! the probes of 2,000 targets begin.
//!
//! In rounds, each tool in each, forwards and backwards in turn; ratios are taken within a round. Every prober has a CPU of its own, all else is on another one, and the
//! network is the loopback of a namespace of our own. Probes are counted by what is probed, CPU time is user and system time of the prober's process alone. The kernel does
//! much of the server's side of a loopback connection in the time of who sent the packet: it counts as the prober's, the same for all.

mod asker;
mod report;
mod target;
mod tool;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use serde::Serialize;
use world::node::NetNs;
use world::wait::wait_for;

use crate::kernel;
use crate::verdict::Machine;
use report::{Paired, Report, Round, Schedule};
use target::Target;
use tool::{Kit, Prober, Starts, Tool, Work};

/// Flags of `bench probes`; `cargo xtask bench probes` builds the programs and names them.
#[derive(Clone, Debug, Args)]
pub(crate) struct ProbesArgs {
    /// Few and short windows: to try the benchmark, not to measure with it
    #[arg(long)]
    quick: bool,
    /// Write the report as JSON here
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// A peer
    #[arg(long, value_name = "FILE")]
    blackbox_exporter: PathBuf,
    /// A peer
    #[arg(long, value_name = "FILE")]
    cloudprober: PathBuf,
}

/// What a probe does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Handler {
    /// GET on a connection of its own.
    Http,
    /// A connection that is closed at once.
    Tcp,
}

impl Handler {
    const ALL: [Self; 2] = [Self::Http, Self::Tcp];

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
        }
    }
}

/// How many windows, how long.
#[derive(Clone, Copy, Debug)]
struct Plan {
    rounds: usize,
    window: Duration,
    schedule_window: Duration,
}

impl Plan {
    /// Some five minutes.
    const FULL: Self =
        Self { rounds: 8, window: Duration::from_secs(3), schedule_window: Duration::from_secs(20) };
    /// Some three quarters of a minute.
    const QUICK: Self =
        Self { rounds: 1, window: Duration::from_secs(2), schedule_window: Duration::from_secs(5) };
}

/// Targets of the comparison, each probed once a second.
const TARGETS: u32 = 1000;
/// Targets of the schedule.
const SCHEDULE_TARGETS: u32 = 2000;
/// The longest wait for a prober to have begun with all of its targets.
const SOON: Duration = Duration::from_secs(60);

/// Measures; whether every bar held.
pub(crate) fn run(args: &ProbesArgs) -> anyhow::Result<bool> {
    let began = Instant::now();
    if !nix::unistd::geteuid().is_root() {
        bail!("it needs root (a network namespace)");
    }
    // Before this process confines itself to one of its CPUs.
    let machine = Machine::this()?;
    let kit = Kit::new(&args.blackbox_exporter, &args.cloudprober)?;
    let plan = if args.quick { Plan::QUICK } else { Plan::FULL };
    let bench = Bench::new(kit)?;
    let mut report = Report::default();
    for handler in Handler::ALL {
        let mut paired = Paired::new(handler, TARGETS);
        for number in 0..plan.rounds {
            let round = bench.round(handler, number, plan.window)?;
            eprintln!("bench: {} {}/{}: {round}", handler.word(), number + 1, plan.rounds);
            paired.rounds.push(round);
        }
        paired.asking = Some(bench.asking(handler, plan.window)?);
        report.paired.push(paired);
    }
    for handler in Handler::ALL {
        let schedule = bench.schedule(handler, plan.schedule_window)?;
        eprintln!("bench: {} of {SCHEDULE_TARGETS} targets: {:?}", handler.word(), schedule.starts);
        report.schedules.push(schedule);
    }
    eprintln!("bench: done after {:.0} s", began.elapsed().as_secs_f64());
    println!("{}", report.text(&machine));
    if let Some(path) = &args.report {
        let json = serde_json::to_string_pretty(&report.json(&machine))?;
        fs::write(path, json + "\n").with_context(|| format!("write {}", path.display()))?;
    }
    Ok(report.holds())
}

/// What one window has shown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Window {
    pub(crate) probes: u64,
    pub(crate) seconds: f64,
    pub(crate) cpu_seconds: f64,
    pub(crate) peak_bytes: u64,
    /// Probes that did not succeed; cloudprober's are not known.
    pub(crate) failed: u64,
    /// Packets that the machine's CPUs have had no time for, of whomever: a probe whose SYN is among them takes a second more.
    pub(crate) dropped: u64,
    /// Ours alone tells.
    pub(crate) starts: Option<Starts>,
}

/// What probes and what is probed, in a network of their own.
struct Bench {
    kit: Kit,
    target: Target,
}

impl Bench {
    /// The calling thread moves into the network.
    fn new(kit: Kit) -> anyhow::Result<Self> {
        NetNs::create()?.enter()?;
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().context("start ip")?;
        ensure!(up.success(), "cannot set the loopback up: {up}");
        Ok(Self { kit, target: Target::start()? })
    }

    /// A window of each tool; the order turns around from round to round.
    fn round(&self, handler: Handler, number: usize, length: Duration) -> anyhow::Result<Round> {
        let mut order = [Tool::Drainscope, Tool::BlackboxExporter, Tool::Cloudprober];
        if !number.is_multiple_of(2) {
            order.reverse();
        }
        let mut round = Round::default();
        for tool in order {
            let work = Work { handler, targets: TARGETS, port: self.target.port() };
            let prober = Prober::start(&self.kit, tool, work)?;
            let done = |_: &Prober| self.target.done(handler);
            round.set(tool, self.window(prober, TARGETS, length, done)?);
        }
        Ok(round)
    }

    /// blackbox_exporter asked as often, for nothing.
    fn asking(&self, handler: Handler, length: Duration) -> anyhow::Result<Window> {
        let work = Work { handler, targets: TARGETS, port: self.target.port() };
        let prober = Prober::only_asked(&self.kit, work)?;
        self.window(prober, TARGETS, length, Prober::answered)
    }

    fn schedule(&self, handler: Handler, length: Duration) -> anyhow::Result<Schedule> {
        let work = Work { handler, targets: SCHEDULE_TARGETS, port: self.target.port() };
        let prober = Prober::start(&self.kit, Tool::Drainscope, work)?;
        let window = self.window(prober, SCHEDULE_TARGETS, length, |_| self.target.done(handler))?;
        let starts = window.starts.context("our prober tells how late its probes begin")?;
        Ok(Schedule { handler, targets: SCHEDULE_TARGETS, window, starts })
    }

    /// Begins once each target has been probed twice on average.
    fn window(
        &self,
        mut prober: Prober,
        targets: u32,
        length: Duration,
        done: impl Fn(&Prober) -> u64,
    ) -> anyhow::Result<Window> {
        let before = done(&prober);
        wait_for("the prober has gone round twice", SOON, || {
            Ok(done(&prober) - before >= 2 * u64::from(targets))
        })
        .with_context(|| format!("its log: {}", self.kit.log()))?;
        prober.take_starts()?;
        let (dropped, bad) = (kernel::dropped_packets()?, prober.bad());
        let (began, probes, cpu) = (Instant::now(), done(&prober), prober.cpu_time()?);
        std::thread::sleep(length);
        let probes = done(&prober) - probes;
        let cpu = prober.cpu_time()?.saturating_sub(cpu);
        let seconds = began.elapsed().as_secs_f64();
        let dropped = kernel::dropped_packets()? - dropped;
        let starts = prober.take_starts()?;
        let failed = starts.map_or(prober.bad() - bad, |starts| starts.failed);
        let peak_bytes = prober.peak_bytes()?;
        prober.end().with_context(|| format!("its log: {}", self.kit.log()))?;
        Ok(Window { probes, seconds, cpu_seconds: cpu.as_secs_f64(), peak_bytes, failed, dropped, starts })
    }
}
