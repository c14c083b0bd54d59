//! What the agent costs: throughput and latency with and without it, its CPU time, its memory, the run time of each kernel program, and the
//! speed of the core. Needs root; finds `drainscope` and `testserver` beside itself.
//!
//! Progress goes to standard error; standard output has the verdict line first, then the figures. Exit status 0 only if every
//! bar held. It asserts no absolute time of a load: bars are ratios, shares of a core, bytes and the core's event rate.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "telling the person who runs it is this program's job"
)]

mod correlator;
mod cpus;
mod kernel;
mod loads;
mod memory;
mod probes;
mod report;
mod site;
mod stats;
mod verdict;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand, ValueEnum};

use report::{Report, Row};
use site::Site;
use verdict::Machine;

/// Measures what the agent costs on this machine.
#[derive(Debug, Parser)]
#[command(name = "bench", args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    other: Option<Other>,
    /// Few and short windows: to try the benchmark, not to measure with it
    #[arg(long)]
    quick: bool,
    /// Write the report as JSON here
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Measure only this
    #[arg(long, value_name = "PART")]
    only: Option<Part>,
}

/// Another measurement.
#[derive(Debug, Subcommand)]
enum Other {
    /// Probes a second and core, beside blackbox_exporter and cloudprober
    Probes(probes::ProbesArgs),
}

/// A part of the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Saturating closed loops.
    Closed,
    /// Fixed rates.
    Fixed,
    /// Memory with 250 pods.
    Memory,
    /// Events a second of the core.
    Core,
}

/// How many windows, how long.
#[derive(Clone, Copy, Debug)]
struct Plan {
    closed_pairs: usize,
    closed_window: Duration,
    fixed_pairs: usize,
    fixed_window: Duration,
    statistics_window: Duration,
}

impl Plan {
    /// Seventeen minutes: with fewer pairs the interval of a noisy machine is wider than what the bars are from 1.
    const FULL: Self = Self {
        closed_pairs: 100,
        closed_window: Duration::from_millis(1500),
        fixed_pairs: 6,
        fixed_window: Duration::from_secs(4),
        statistics_window: Duration::from_secs(4),
    };
    /// Well over a minute; six pairs are the fewest that have an interval.
    const QUICK: Self = Self {
        closed_pairs: 6,
        closed_window: Duration::from_millis(700),
        fixed_pairs: 2,
        fixed_window: Duration::from_secs(2),
        statistics_window: Duration::from_secs(1),
    };
}

fn main() -> ExitCode {
    let args = Args::parse();
    let ran = match &args.other {
        Some(Other::Probes(probes)) => probes::run(probes),
        None => run(&args),
    };
    match ran {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// The saturating loop on kept connections, with server, clients and agent all on one CPU. The server has one thread; on more CPUs the
/// scheduler puts its clients beside it or elsewhere as chance will have it, and one window answers half as many again as the next. On one CPU
/// nothing that the agent costs anybody can hide on another.
fn kept(directory: &Path, plan: &Plan) -> anyhow::Result<Row> {
    let all = cpus::usable()?;
    // The last: interrupts come to the first.
    cpus::stay_on(&[*all.last().context("no CPU is usable")?])?;
    let mut site = Site::start(directory)?;
    let row = loads::measure(&mut site, &loads::CLOSED_KEPT, plan)?;
    site.end()?;
    cpus::stay_on(&all)?;
    Ok(row)
}

/// Whether every bar held.
fn run(args: &Args) -> anyhow::Result<bool> {
    let began = Instant::now();
    let plan = if args.quick { Plan::QUICK } else { Plan::FULL };
    let wants = |part| args.only.is_none_or(|only| only == part);
    let mut report = Report::default();
    // First, while this process has one thread and the machine rests.
    if wants(Part::Core) {
        report.core_events_per_second = Some(correlator::events_per_second()?);
    }
    if [Part::Closed, Part::Fixed, Part::Memory].into_iter().any(wants) {
        if let Some(obstacle) = world::suite::obstacle() {
            bail!("{obstacle}");
        }
        let program = std::env::current_exe().context("find the own program")?;
        let directory = program.parent().context("the own program has no directory")?;
        if wants(Part::Closed) {
            report.rows.push(kept(directory, &plan)?);
        }
        let mut site = Site::start(directory)?;
        if wants(Part::Closed) {
            report.rows.push(loads::measure(&mut site, &loads::CLOSED_NEW, &plan)?);
        }
        if wants(Part::Fixed) {
            for load in loads::fixed(&mut site)? {
                report.rows.push(loads::measure(&mut site, &load, &plan)?);
            }
        }
        if wants(Part::Memory) {
            report.rows.push(memory::measure(&mut site)?);
        }
        site.end()?;
    }
    eprintln!("bench: done after {:.0} s", began.elapsed().as_secs_f64());
    let machine = Machine::this()?;
    println!("{}", report.text(&machine));
    if let Some(path) = &args.report {
        let json = serde_json::to_string_pretty(&report.json(&machine))?;
        fs::write(path, json + "\n").with_context(|| format!("write {}", path.display()))?;
    }
    Ok(report.holds())
}
