//! The promise, shown: servers that people run, each shutdown style, many sorts of clients, one rolling update for each row; and every request
//! that a client lost is joined with the agent's evidence, connection by connection.
//!
//! Needs root; finds `drainscope`, `testserver` and `load` beside itself. Progress goes to standard error; standard output has the verdict line
//! first, then the table. Exit status 0 only if everything held. Not here: HTTP/2 in TLS.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "telling the person who runs it is this program's job"
)]

mod clients;
mod record;
mod report;
mod rows;
mod run;
mod servers;
mod styles;
mod verdict;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::Parser;
use world::agent::{Agent, Recording};
use world::{World, WorldConfig, suite};

use report::Report;
use rows::{Row, Stage};
use run::Site;
use servers::Servers;

/// What the agent keeps until the end of the run, when all of it is held against the replay: lines of metrics and ends of all rows
/// together; the defaults are for a node's usual number of workloads.
const KEEPS: [&str; 6] = ["--series-limit", "100000", "--series-ttl", "12h", "--history", "1000"];
/// Set to `all`, it makes a skip a failure, as for the suites.
const REQUIRE: &str = "DRAINSCOPE_REQUIRE";
/// The bound on the agent's start.
const START: Duration = Duration::from_secs(30);

/// Joins every lost request of a matrix of servers, shutdown styles and clients with its cause.
#[derive(Debug, Parser)]
#[command(
    name = "accuracy",
    after_help = "Examples:\n  cargo xtask accuracy                        the whole matrix\n  cargo xtask accuracy --quick                each server and each sort of clients once\n  cargo xtask accuracy --only go/shutdown     rows whose name contains that\n  cargo xtask accuracy --list                 names of all rows"
)]
struct Args {
    /// The reduced form
    #[arg(long)]
    quick: bool,
    /// Only rows whose name (server/shutdown/client) contains this
    #[arg(long, value_name = "FILTER")]
    only: Option<String>,
    /// Name the rows and run none
    #[arg(short, long)]
    list: bool,
    /// Write the report as JSON here
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Keep what clients and agent said of each wrong row in this folder [default: accuracy-wrong beside this program]
    #[arg(long, value_name = "FOLDER")]
    save: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("accuracy: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether everything held.
fn run(args: &Args) -> anyhow::Result<bool> {
    let rows = rows::rows(args.quick, args.only.as_deref());
    ensure!(!rows.is_empty(), "no row's name contains {:?}; --list names them", args.only.as_deref());
    if args.list {
        rows.iter().for_each(|row| println!("{}", row.name()));
        return Ok(true);
    }
    if let Some(obstacle) = suite::obstacle() {
        bail!("the matrix cannot run here: {obstacle}");
    }
    let began = Instant::now();
    let site = start(args, &rows)?;
    let mut report = Report {
        complete: std::env::var_os(REQUIRE).is_some_and(|value| value == "all"),
        ..Report::default()
    };
    let (able, unable): (Vec<Row>, Vec<Row>) =
        rows.iter().partition(|row| site.servers.obstacle(row.style.server).is_none());
    for row in unable {
        let why = site.servers.obstacle(row.style.server).unwrap_or_default();
        report.skipped.push((row, why));
    }
    for stage in Stage::ALL {
        let rows: Vec<Row> = able.iter().filter(|row| row.style.stage == stage).copied().collect();
        report.outcomes.extend(run::stage(&site, stage, &rows));
    }
    let Site { agent, recording, world, .. } = site;
    let panicked = agent.log().contains("panicked");
    record::compare(agent, recording, &mut report);
    world.shutdown()?;
    eprintln!("accuracy: done after {:.0} s", began.elapsed().as_secs_f64());
    print!("{}", report.text());
    if let Some(path) = &args.report {
        let json = serde_json::to_string_pretty(&report.json())?;
        fs::write(path, json + "\n").with_context(|| format!("write {}", path.display()))?;
    }
    ensure!(!panicked, "the agent panicked");
    Ok(report.holds())
}

/// A world, the servers of these rows, and an agent that is ready.
fn start(args: &Args, rows: &[Row]) -> anyhow::Result<Site> {
    let own = std::env::current_exe()?;
    let program = |name: &str| -> anyhow::Result<PathBuf> {
        let path = own.with_file_name(name);
        ensure!(
            path.is_file(),
            "{} does not exist: build it first, as cargo xtask accuracy does",
            path.display()
        );
        Ok(path)
    };
    let config = WorldConfig {
        client_addresses: run::SOURCES,
        ..WorldConfig::new("drainscope-accuracy", program("testserver")?)
    };
    let drainscope = program("drainscope")?;
    eprintln!("accuracy: start a node in namespaces of its own, and the agent");
    let world = World::start(config)?;
    let servers = Servers::prepare(&rows::servers(rows), &world.node().directory().join("servers"))?;
    let arguments = [&KEEPS[..], &["--log-format", "json"]].concat();
    let mut agent = Agent::start(&world, &drainscope, &arguments)?;
    agent.wait_ready(START)?;
    let save = args.save.clone().unwrap_or_else(|| own.with_file_name("accuracy-wrong"));
    let recording = Recording::start(&world, &drainscope, "agent.jsonl")?;
    Ok(Site { recording, agent, world, servers, save })
}
