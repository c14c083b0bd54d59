//! The agent in a real Kubernetes: the founding experiment repeated, every other way in which a pod ends, and what the agent asks the API server.
//!
//! Runs inside the node that `cargo xtask cluster test` starts, with its kubectl and fortio at hand; agent and load generator lie beside it. It begins and
//! ends no cluster.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it speaks to the person who runs it")]

mod audit;
mod conntrack;
mod endings;
mod experiment;
mod kubectl;
mod pods;
mod report;
mod site;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use experiment::Path;
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
    /// Rolling updates under load
    Experiments,
    /// The other ways to end
    Endings,
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
    let wanted = |part| args.only.is_none_or(|only| only == part);
    let site = Site::start(&args.state)?;
    let mut report = report::Report::new(&args.proxy, site.version()?);
    if wanted(Part::Endings) {
        report.endings = endings::run(&site, &args.ending)?;
    }
    if wanted(Part::Experiments) {
        for path in [Path::ClusterIp, Path::NodePort] {
            report.experiments.extend(experiment::run(&site, path, args.runs)?);
        }
    }
    report.requests = audit::requests(&args.state)?;
    let failures = report.failures();
    report.print(&failures);
    if let Some(file) = &args.report {
        report.write(file, args.append)?;
    }
    Ok(failures.is_empty())
}
