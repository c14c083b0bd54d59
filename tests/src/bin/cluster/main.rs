//! The agent in a real Kubernetes, as its chart installs it: the founding experiment repeated, every other way in which a pod ends, the DaemonSet's own life, what
//! a Prometheus makes of it, and what the agent asks the API server.
//!
//! Runs inside the node that `cargo xtask cluster test` starts, with its kubectl, helm and fortio at hand; the load generator lies beside it. It begins and ends no cluster.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it speaks to the person who runs it")]

mod alerts;
mod audit;
mod conntrack;
mod daemon_set;
mod endings;
mod experiment;
mod kubectl;
mod kubelet;
mod pods;
mod probes;
mod release;
mod report;
mod rollout;
mod second;
mod site;
mod switched_on;
mod sync_time;
mod syncs;
mod two_nodes;
mod vacant;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use site::Site;

/// Tests the agent in a real Kubernetes.
#[derive(Debug, Parser)]
#[command(
    name = "cluster",
    after_help = "Examples:\n  cargo xtask cluster test -- --only endings\n  cargo xtask cluster test -- --runs 5 --report cluster.json"
)]
struct Args {
    /// How the cluster's kube-proxy works
    #[arg(long, default_value = "nftables")]
    proxy: String,
    /// The cluster's folder
    #[arg(long, value_name = "FOLDER")]
    state: PathBuf,
    /// The agent's image, as `cargo xtask image` writes it
    #[arg(long, value_name = "FILE")]
    image: PathBuf,
    /// The chart that installs it
    #[arg(long, value_name = "FOLDER")]
    chart: PathBuf,
    /// Just this [default: all]
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Runs of each experiment
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Only endings whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    ending: String,
    /// Write the report here as JSON
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Add to the report that is there, of another kube-proxy
    #[arg(long, requires = "report")]
    append: bool,
}

/// What can be run by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Rolling updates under load, and a Prometheus that watches them
    Experiments,
    /// The other ways to end
    Endings,
    /// The kubelet's probes and our own, on the same pods
    Probes,
    /// The agent's pod replaced, upgraded, uninstalled; a kubelet that is away
    DaemonSet,
    /// Rolling updates over two nodes; never without being asked for, for the cluster needs two
    TwoNodes,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cluster: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether everything held.
fn run(args: &Args) -> anyhow::Result<bool> {
    let wanted = |part| args.only.map_or(part != Part::TwoNodes, |only| only == part);
    let second = if wanted(Part::TwoNodes) { Some(second::Node::find(&args.state)?) } else { None };
    if let Some(second) = &second {
        second.import(&args.image)?;
    }
    let mut site = Site::start(&args.state, &args.image, &args.chart)?;
    let mut report = report::Report::new(&args.proxy, site.version()?);
    if wanted(Part::DaemonSet) {
        // While the node has no other pod.
        report.daemon_set.extend(daemon_set::alone(&mut site)?);
    }
    if wanted(Part::Endings) {
        report.endings = endings::run(&site, &args.ending)?;
    }
    if wanted(Part::Probes) {
        report.probes = probes::run(&mut site)?;
    }
    if wanted(Part::Experiments) {
        (report.experiments, report.alerts) = experiment::run(&site, args.runs)?;
    }
    if wanted(Part::DaemonSet) {
        report.daemon_set.extend(daemon_set::disturbed(&mut site, &args.proxy)?);
    }
    if args.proxy == "iptables" && !wanted(Part::DaemonSet) {
        report.daemon_set.push(switched_on::not_visible(&mut site)?);
    }
    if let Some(second) = &second {
        report.two_nodes = two_nodes::run(&site, second)?;
    }
    report.requests = audit::requests(&args.state)?;
    let failures = report.failures();
    report.print(&failures);
    if let Some(file) = &args.report {
        report.write(file, args.append)?;
    }
    Ok(failures.is_empty())
}
