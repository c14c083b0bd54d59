//! `cargo xtask`: what cargo alone cannot do for drainscope - set-up of a fresh machine, every test, demo, benchmark, checks.
//!
//! This file is the command line only; each command has its own module. xtask depends on no workspace member, so it
//! builds and runs before the rest can. It builds as the invoking user and turns to sudo for single steps that need root.
//! Progress goes to standard error, verdicts to standard output.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "talking to a person at a terminal is xtask's job"
)]

mod cases;
mod check;
mod cluster;
mod deploy;
mod full;
mod go;
mod image;
mod launch;
mod metadata;
mod peers;
mod privilege;
mod process;
mod setup;
mod suites;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::cases::Ask;
use crate::cluster::ClusterArgs;
use crate::setup::{Consent, Setup};

#[derive(Parser)]
#[command(
    bin_name = "cargo xtask",
    about = "Sets up, tests and shows drainscope. Start with `cargo xtask demo`.",
    after_help = "Examples:\n  cargo xtask demo             set up what is missing, then the main job under load\n  \
                  cargo xtask test --yes       set up what is missing without asking, then every test\n  \
                  cargo xtask test -- refused  only tests whose name contains `refused`"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Find what building, testing and the demo need; install what is missing
    #[command(after_help = "Examples:\n  cargo xtask setup\n  cargo xtask setup --yes --checks --servers")]
    Setup(SetupArgs),
    /// Set up, then run every test: unprivileged ones as you, kernel suites as root
    #[command(after_help = "Examples:\n  cargo xtask test\n  cargo xtask test --yes -- stale_reuse\n\n\
                            With DRAINSCOPE_REQUIRE=all a suite that cannot run is a failure, not a skip.")]
    Test {
        #[command(flatten)]
        consent: ConsentArgs,
        /// Passed to every test binary: a filter, or flags of the test harness
        #[arg(last = true)]
        harness_args: Vec<OsString>,
    },
    /// The conformance cases: what Kubernetes does against what this code does
    #[command(after_help = "Examples:\n  cargo xtask cases\n  cargo xtask cases D12\n  \
                            cargo xtask cases --list    the ids that run, one a line\n  \
                            cargo xtask cases --invert  spoil each expected value in turn: each must make its case fail")]
    Cases(CasesArgs),
    /// Set up, then run the demo: a rolling update under load, in three parts
    #[command(after_help = "Examples:\n  cargo xtask demo\n  cargo xtask demo --delay 8\n  \
                            cargo xtask demo --report demo.json\n  cargo xtask demo -- --help   the demo's own flags")]
    Demo(LaunchArgs),
    /// Set up, then measure throughput, latency and cost with and without the agent
    #[command(after_help = "Examples:\n  cargo xtask bench\n  cargo xtask bench --report bench.json\n  \
                            cargo xtask bench probes     probes beside blackbox_exporter and cloudprober\n  \
                            cargo xtask bench -- --help  the benchmark's own flags")]
    Bench(LaunchArgs),
    /// Set up, then join every lost request of many servers, shutdown styles and clients with its cause
    #[command(after_help = "Examples:\n  cargo xtask accuracy\n  cargo xtask accuracy --quick\n  \
                            cargo xtask accuracy --only go/shutdown\n  \
                            cargo xtask accuracy -- --help  the matrix's own flags\n\n\
                            A server that is not installed is a skip (cargo xtask setup --servers installs them), \
                            with DRAINSCOPE_REQUIRE=all a failure.")]
    Accuracy(LaunchArgs),
    /// A real one-node Kubernetes in namespaces of its own: start it, end it, test the agent in it
    Cluster(ClusterArgs),
    /// Formatting, lints (BPF target included), dependency policy, house rules
    #[command(after_help = "Examples:\n  cargo xtask check\n  cargo xtask check --yes")]
    Check(ConsentArgs),
    /// What is in deploy/: alert rules and their tests, the chart and what is made from it; builds helm once
    #[command(
        after_help = "Examples:\n  cargo xtask deploy\n  cargo xtask deploy --update  make the kustomize base and golden files anew"
    )]
    Deploy(DeployArgs),
    /// The agent as a container image in a file: static, reproducible, made without a registry
    #[command(
        after_help = "Examples:\n  cargo xtask image drainscope.tar\n  ctr -n k8s.io images import drainscope.tar"
    )]
    Image(ImageArgs),
    /// Everything long: all tests, the demo in all its forms, the matrix, the benchmark, a real Kubernetes; reports go into reports/
    #[command(after_help = "Examples:\n  cargo xtask full --yes\n  cargo xtask full demo-blind bench")]
    Full(FullArgs),
}

#[derive(Args)]
struct CasesArgs {
    #[command(flatten)]
    consent: ConsentArgs,
    /// Print the ids that run, one a line
    #[arg(long)]
    list: bool,
    /// Spoil each expected value in turn and require that its case then fails
    #[arg(long, conflicts_with = "list")]
    invert: bool,
    /// Only cases whose id or name has this in it
    filter: Option<OsString>,
}

#[derive(Args)]
struct FullArgs {
    #[command(flatten)]
    consent: ConsentArgs,
    /// Steps to run [default: all of them]
    steps: Vec<String>,
}

#[derive(Args)]
struct ImageArgs {
    #[command(flatten)]
    consent: ConsentArgs,
    /// File that is written, in the form of `docker save`
    out: PathBuf,
    /// Tag in place of the version
    #[arg(long)]
    tag: Option<String>,
}

#[derive(Args)]
struct DeployArgs {
    /// Write the files that are made from the chart
    #[arg(long)]
    update: bool,
}

#[derive(Args)]
struct ConsentArgs {
    /// Install missing Debian packages without asking (also when the environment has CI)
    #[arg(long)]
    yes: bool,
}

#[derive(Args)]
struct SetupArgs {
    #[command(flatten)]
    consent: ConsentArgs,
    /// Also what `cargo xtask check` needs (cargo-deny)
    #[arg(long)]
    checks: bool,
    /// Also the servers of `cargo xtask accuracy` (Go and its modules of gRPC, gunicorn, Java, Node.js, redis)
    #[arg(long)]
    servers: bool,
    /// Only the Rust library sources, into this sysroot; rustup is not asked
    #[arg(long, hide = true)]
    rust_src_into: Option<PathBuf>,
    /// Cache directory in place of the user's
    #[arg(long, hide = true)]
    cache: Option<PathBuf>,
}

#[derive(Args)]
struct LaunchArgs {
    #[command(flatten)]
    consent: ConsentArgs,
    /// Passed on as they are
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

impl ConsentArgs {
    fn setup(&self) -> Setup {
        Setup::new(Consent::given(self.yes))
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs one command. `Ok(false)`: it ran and its verdict, already printed, is a failure.
fn run(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::Setup(args) => match args.rust_src_into {
            Some(sysroot) => setup::rust_src_into(sysroot, args.cache).map(|()| true),
            None => args.consent.setup().everything(args.checks, args.servers),
        },
        Command::Test { consent, harness_args } => suites::run(&consent.setup(), &harness_args),
        Command::Cases(args) => {
            let ask = match (args.list, args.invert) {
                (true, _) => Ask::List,
                (false, true) => Ask::Invert,
                (false, false) => Ask::Run,
            };
            cases::run(&args.consent.setup(), ask, args.filter.as_deref())
        }
        Command::Demo(args) => launch::exec(&args.consent.setup(), "demo", &args.args),
        Command::Bench(args) => launch::exec(&args.consent.setup(), "bench", &args.args),
        Command::Accuracy(args) => launch::exec(&args.consent.setup(), "accuracy", &args.args),
        Command::Cluster(args) => cluster::run(&args),
        Command::Check(consent) => check::run(&consent.setup()),
        Command::Image(args) => {
            image::run(&args.consent.setup(), &args.out, args.tag.as_deref()).map(|()| true)
        }
        Command::Deploy(args) => deploy::run(args.update),
        Command::Full(full) => full::run(&full.consent.setup(), &full.steps),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn demo_flags_pass_through_and_a_leading_yes_is_ours() {
        let cli = Cli::parse_from(["xtask", "demo", "--yes", "--delay", "3", "--blind", "--yes"]);
        let Command::Demo(launch) = cli.command else { panic!("not the demo") };
        assert!(launch.consent.yes);
        assert_eq!(launch.args, ["--delay", "3", "--blind", "--yes"]);
        let cli = Cli::parse_from(["xtask", "demo", "--delay", "3"]);
        let Command::Demo(launch) = cli.command else { panic!("not the demo") };
        assert!(!launch.consent.yes);
        assert_eq!(launch.args, ["--delay", "3"]);
    }

    #[test]
    fn harness_arguments_come_after_two_dashes() {
        let cli = Cli::parse_from(["xtask", "test", "--yes", "--", "refused", "--exact"]);
        let Command::Test { consent, harness_args } = cli.command else { panic!("not the tests") };
        assert!(consent.yes);
        assert_eq!(harness_args, ["refused", "--exact"]);
    }
}
