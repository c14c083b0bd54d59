//! The main job, shown: a Deployment under load is rolled three times (without preStop, with half of the advised sleep, with all of it), and
//! every request that a client lost is joined with the agent's evidence.
//!
//! Everything is real but the cluster around it: kernel programs, sockets, processes, list and watch. It needs root and three programs beside
//! itself: the agent, the test server and the load generator.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a demo speaks to the person who runs it")]

mod part;
mod report;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Parser;
use nix::sys::signal::{SigSet, Signal};
use serde_json::json;
use world::agent::Agent;
use world::{World, WorldConfig, suite};

use part::{Experiment, Part, Plan};

/// Pods of the Deployment.
const REPLICAS: usize = 3;

/// From a pod's last exit to the end of its addresses, about what a runtime and a CNI plugin take.
const SANDBOX_DELAY: Duration = Duration::from_millis(500);

/// Addresses that the parts' clients take in turn, and the last byte of the first.
const CLIENTS: u8 = 15;
/// See [`CLIENTS`].
const FIRST_CLIENT: u8 = 2;

/// Rolls a Deployment under load three times and explains every lost request.
#[derive(Debug, Parser)]
#[command(
    name = "demo",
    after_help = "Examples:\n  cargo xtask demo                     endpoints follow a deletion after 3 s\n  cargo xtask demo --delay 8 --blind   slower, and clients that write without looking\n  cargo xtask demo --keep              then look at http://127.0.0.1:10291/api/v1/terminations"
)]
struct Args {
    /// Seconds from an EndpointSlice's change until the service proxy knows of it
    #[arg(long, default_value_t = 3.0, value_parser = delay)]
    delay: f64,
    /// Keep-alive clients write without looking whether the server has closed: no sleep mends what that loses
    #[arg(long)]
    blind: bool,
    /// Run the experiment so many times; all of them must agree
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    /// Leave the agent running afterwards, on 127.0.0.1:10290 (metrics) and 127.0.0.1:10291 (API), until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Write the report here as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether everything that the demo checks held.
fn run(args: &Args) -> anyhow::Result<bool> {
    if let Some(obstacle) = suite::obstacle() {
        bail!("the demo cannot run here: {obstacle}");
    }
    // Blocked before the first thread exists, so that `--keep` can wait for it.
    let interrupt = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    if args.keep {
        interrupt.thread_block()?;
    }
    let mut experiments: Vec<Experiment> = Vec::new();
    let (world, mut agent) = start(args)?;
    let target = world.service("shop", "web", "web")?;
    let mut number = 0;
    for round in 1..=args.repeat {
        if args.repeat > 1 {
            eprintln!("round {round} of {}", args.repeat);
        }
        let name = format!("web-{round}");
        experiments.push(experiment(args, &world, &mut agent, &name, target, &mut number)?);
    }
    let all_hold = experiments.iter().all(|experiment| report::failures(experiment, args.blind).is_empty());
    report::print(&experiments, args.delay, args.blind);
    if let Some(path) = &args.report {
        let parts: Vec<_> =
            experiments.iter().flat_map(|experiment| experiment.parts.iter().map(report::json)).collect();
        let text = serde_json::to_string_pretty(
            &json!({"delay_seconds": args.delay, "blind": args.blind, "parts": parts}),
        )?;
        fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))?;
    }
    if args.keep {
        let metrics = world.node().forward(10290, ([127, 0, 0, 1], 10290).into())?;
        let api = world.node().forward(10291, ([127, 0, 0, 1], 10291).into())?;
        println!(
            "\nthe agent goes on: http://{metrics}/metrics, http://{api}/api/v1/terminations, http://{api}/status; Ctrl-C ends it"
        );
        interrupt.wait()?;
    }
    drop(agent);
    world.shutdown()?;
    Ok(all_hold)
}

fn start(args: &Args) -> anyhow::Result<(World, Agent)> {
    let beside = std::env::current_exe()?;
    let beside = beside.parent().context("this program has no directory")?;
    let program = |name: &str| -> anyhow::Result<PathBuf> {
        let path = beside.join(name);
        ensure!(
            path.is_file(),
            "{} does not exist: build it first, as cargo xtask demo does",
            path.display()
        );
        Ok(path)
    };
    let mut config = WorldConfig::new("drainscope-demo", program("testserver")?);
    config.proxy_delay = Duration::try_from_secs_f64(args.delay)?;
    config.sandbox_delay = SANDBOX_DELAY;
    config.client_addresses = CLIENTS;
    eprintln!(
        "start a node in namespaces of its own: API server, kubelet, endpoint controller, service proxy"
    );
    let world = World::start(config)?;
    eprintln!("start the agent");
    let mut agent = Agent::start(&world, &program("drainscope")?, &[])?;
    agent.wait_ready(Duration::from_secs(30))?;
    program("load")?;
    Ok((world, agent))
}

/// The three parts, on a Deployment of their own.
fn experiment(
    args: &Args,
    world: &World,
    agent: &mut Agent,
    name: &str,
    target: world::ServiceAddresses,
    number: &mut usize,
) -> anyhow::Result<Experiment> {
    let load = std::env::current_exe()?.with_file_name("load");
    let mut deployment = None;
    let mut parts: Vec<Part> = Vec::new();
    for (part, title) in ["without-prestop", "half-prestop", "with-prestop"].into_iter().enumerate() {
        let advised = parts.first().and_then(|first| first.advice.prestop_seconds);
        let sleep = match (part, advised) {
            (0, _) => 0,
            (_, None) => {
                bail!("the first part gave no advice: {:?}", parts.first().map(|first| &first.advice))
            }
            (1, Some(advised)) => (advised / 2).max(1),
            (_, Some(advised)) => advised,
        };
        eprintln!("part {}: {title}, preStop sleep {sleep} s", part + 1);
        let source = Ipv4Addr::new(10, 78, 0, FIRST_CLIENT + u8::try_from(*number % usize::from(CLIENTS))?);
        *number += 1;
        let plan = Plan { title, prestop_seconds: sleep, blind: args.blind, delay: args.delay, source };
        parts.push(part::run(world, agent, &load, &mut deployment, name, target, &plan)?);
    }
    if let Some(mut deployment) = deployment {
        let last: Vec<_> = deployment.delete_pods()?;
        deployment.wait_gone(&last, Duration::from_secs(120))?;
    }
    Ok(Experiment { parts })
}

fn delay(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.0..=60.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("a delay must lie between 0 and 60 seconds".to_owned())
    }
}

fn scratch(world: &World, name: &str) -> PathBuf {
    Path::new(world.node().directory()).join(name)
}
