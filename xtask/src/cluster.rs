//! `cargo xtask cluster`: a real Kubernetes of one or two nodes for the agent to be right against; `test` runs the experiments in it.
//!
//! The programs are the published ones, built once as the user and cached ([`build`]). A node is a network and a mount namespace in one pid namespace ([`node`]): nothing
//! of the machine's own network, mounts or settings is touched, and the end of the namespace's first process ends all that ran there. Only the kubelets' cgroups
//! are outside of it; `down` removes them. One cluster a machine.

mod build;
mod node;
mod pki;
mod start;

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand, ValueEnum};

use crate::image;
use crate::launch;
use crate::metadata::Metadata;
use crate::privilege::{self, Privilege};
use crate::process;
use crate::setup::{Consent, Setup};
use build::Programs;
use node::Node;

/// Everything that a cluster keeps; it is there exactly while one is, or after a crash.
const STATE: &str = "/var/cache/drainscope-cluster";
/// What installs the agent, from the workspace's root.
const CHART: &str = "deploy/helm/drainscope";

/// Flags and what to do.
#[derive(Args)]
pub(crate) struct ClusterArgs {
    /// Install missing Debian packages without asking (also when the environment has CI)
    #[arg(long, global = true)]
    yes: bool,
    /// Where built programs are kept [default: $XDG_CACHE_HOME/drainscope or ~/.cache/drainscope]
    #[arg(long, global = true, env = "DRAINSCOPE_CACHE", value_name = "FOLDER")]
    cache: Option<PathBuf>,
    /// Set up and built already: said to ourselves when we become root
    #[arg(long, global = true, hide = true)]
    prepared: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Build what is not cached (12 minutes the first time), then start the node (10 seconds)
    #[command(
        after_help = "Examples:\n  cargo xtask cluster up\n  cargo xtask cluster up --proxy iptables\n  \
                            cargo xtask cluster up --nodes 2\n  cargo xtask cluster exec -- kubectl get pods -A"
    )]
    Up {
        /// How many nodes; the second has its own network, containerd, kubelet and kube-proxy
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
        nodes: u8,
        /// How kube-proxy programs Services
        #[arg(long, value_enum, default_value_t = Proxy::Nftables)]
        proxy: Proxy,
    },
    /// End the node and remove all that it made, whatever state it is in
    #[command(after_help = "Examples:\n  cargo xtask cluster down")]
    Down,
    /// Run a program inside the node, with kubectl's configuration and the cluster's programs at hand
    #[command(after_help = "Examples:\n  cargo xtask cluster exec -- kubectl get nodes\n  \
                            cargo xtask cluster exec --node 2 -- nft list ruleset\n  \
                            cargo xtask cluster exec -- target/debug/drainscope check")]
    Exec {
        /// In which node
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
        node: u8,
        /// The program and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
    /// Start a cluster, run the agent in it through rolling updates and all other ways to end, and take it down
    #[command(
        after_help = "Examples:\n  cargo xtask cluster test\n  cargo xtask cluster test --proxy nftables -- --only endings\n  \
                            cargo xtask cluster test --nodes 2 --proxy nftables\n  \
                            cargo xtask cluster test -- --report reports/cluster.json\n  \
                            cargo xtask cluster test -- --help   the test's own flags"
    )]
    Test {
        /// Of clusters of so many nodes only [default: of one, then what two are needed for]
        #[arg(long, value_parser = clap::value_parser!(u8).range(1..=2))]
        nodes: Option<u8>,
        /// How kube-proxy programs Services [default: first nftables, then iptables]
        #[arg(long, value_enum)]
        proxy: Option<Proxy>,
        /// Passed on as they are
        #[arg(last = true)]
        args: Vec<OsString>,
    },
}

/// kube-proxy's mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Proxy {
    Nftables,
    Iptables,
}

impl Proxy {
    /// As kube-proxy's configuration and our flag name it.
    fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }
}

/// Does it. False: the test ran and its verdict is a failure.
pub(crate) fn run(args: &ClusterArgs) -> Result<bool> {
    let setup = Setup::new(Consent::given(args.yes));
    let privilege = match privilege::detect() {
        Ok(privilege) => privilege,
        Err(obstacle) => bail!("{}; {}", obstacle.missing, obstacle.mend),
    };
    let cache = args.cache.clone().map_or_else(build::user_cache, Ok)?;
    let metadata = Metadata::read()?;
    if !args.prepared && !matches!(args.action, Action::Down | Action::Exec { .. }) {
        setup.cluster()?;
        build::ensure(&metadata.root, &cache)?;
        if matches!(args.action, Action::Test { .. }) {
            launch::prepare(&setup)?;
            image::run(&setup, &archive(&metadata), None)?;
        }
    }
    if privilege == Privilege::Sudo {
        return as_root(privilege, &cache);
    }
    let programs = || build::find(&metadata.root, &cache);
    match &args.action {
        Action::Up { nodes, proxy } => up(&programs()?, *nodes, *proxy).map(|_| true),
        Action::Down => down().map(|()| true),
        Action::Exec { node, command } => exec(&programs()?, *node, command),
        Action::Test { nodes, proxy, args } => test(&metadata, &programs()?, (*nodes, *proxy), args),
    }
}

/// The same command line once more, as root and prepared.
fn as_root(privilege: Privilege, cache: &Path) -> Result<bool> {
    let mut command = privilege.command("env");
    command.arg(format!("DRAINSCOPE_CACHE={}", cache.display()));
    command.arg(env::current_exe().context("this program has no path")?).args(["cluster", "--prepared"]);
    command.args(env::args_os().skip_while(|arg| arg != "cluster").skip(1));
    let status = command.status().context("cannot become root")?;
    Ok(status.success())
}

/// Brings so many nodes up; the first of them.
fn up(programs: &Programs, count: u8, proxy: Proxy) -> Result<Node> {
    let begun = Instant::now();
    if let Some(first) = Node::find()? {
        let second = first.second()?;
        let nodes: Vec<Node> = [Some(first), second].into_iter().flatten().collect();
        if nodes.len() == usize::from(count) && start::is_up(&nodes, programs, proxy) {
            println!("cluster: already up, nodes: {count}, kube-proxy by {}", proxy.name());
            return nodes.into_iter().next().context("there is a first node");
        }
        eprintln!("cluster: what runs is not whole, or is another cluster than this; starting anew");
    }
    down()?;
    let mut nodes = vec![Node::create()?];
    if count > 1 {
        let second = nodes[0].create_second()?;
        nodes.push(second);
    }
    if let Err(error) = start::everything(&nodes, programs, proxy) {
        let logs = Path::new(STATE).join("logs");
        return Err(error.context(format!("the cluster did not come up; logs are in {}", logs.display())));
    }
    println!(
        "cluster: up after {:.1} s, nodes: {count}, kube-proxy by {}; next: cargo xtask cluster exec -- kubectl get nodes",
        begun.elapsed().as_secs_f64(),
        proxy.name()
    );
    nodes.into_iter().next().context("there is a first node")
}

fn down() -> Result<()> {
    let was = Node::remove()?;
    println!("cluster: {}", if was { "down, all that it made is removed" } else { "none is there" });
    Ok(())
}

fn exec(programs: &Programs, number: u8, command: &[OsString]) -> Result<bool> {
    let mut node = Node::find()?.context("no cluster runs; start it: cargo xtask cluster up")?;
    if number > 1 {
        node = node
            .second()?
            .context("the cluster has one node; start it with two: cargo xtask cluster up --nodes 2")?;
    }
    let (program, args) = command.split_first().context("no program is given")?;
    let status = inside(&node, programs, program)?.args(args).status().context("cannot enter the node")?;
    Ok(status.success())
}

/// A program in the node, in the current folder, with the cluster's own programs first on its path.
fn inside(node: &Node, programs: &Programs, program: &OsString) -> Result<Command> {
    let mut command = node.command("sh");
    command.args(["-c", r#"cd "$1" && shift && exec "$@""#, "enter"]);
    command.arg(env::current_dir().context("the current folder is gone")?).arg(program);
    programs.put_on_path(&mut command)?;
    command.env("KUBECONFIG", Path::new(STATE).join("conf/admin.kubeconfig"));
    Ok(command)
}

/// The agent's image.
fn archive(metadata: &Metadata) -> PathBuf {
    metadata.target.join("drainscope.tar")
}

/// One run of the test program for each kube-proxy and one for two nodes, each in a cluster of its own. Pods end the same way under both proxies, so the second has
/// the rolling updates only; each adds to the report of the first.
fn test(
    metadata: &Metadata,
    programs: &Programs,
    (nodes, proxy): (Option<u8>, Option<Proxy>),
    args: &[OsString],
) -> Result<bool> {
    let program = metadata.target.join("release/cluster").into_os_string();
    let asks_help = args.iter().any(|arg| arg == "--help" || arg == "-h");
    if asks_help {
        return Ok(process::command(&program)
            .args(args)
            .status()
            .context("cannot start the test")?
            .success());
    }
    let names = |flag: &str| args.iter().any(|arg| arg.to_string_lossy().starts_with(flag));
    let proxies = proxy.map_or(vec![Proxy::Nftables, Proxy::Iptables], |proxy| vec![proxy]);
    let mut runs: Vec<(u8, Proxy)> = proxies.iter().map(|proxy| (nodes.unwrap_or(1), *proxy)).collect();
    if nodes.is_none() && !names("--only") {
        runs.extend(proxies.first().map(|proxy| (2, *proxy)));
    }
    let mut holds = true;
    for (number, (nodes, proxy)) in runs.into_iter().enumerate() {
        // What somebody left in a cluster that is up would be in the test's way.
        Node::remove()?;
        let node = up(programs, nodes, proxy)?;
        let mut command = inside(&node, programs, &program)?;
        command.args(["--proxy", proxy.name(), "--state", STATE]);
        command
            .arg("--image")
            .arg(archive(metadata))
            .arg("--chart")
            .arg(metadata.root.join(CHART))
            .args(args);
        if !names("--only") && nodes > 1 {
            command.args(["--only", "two-nodes"]);
        } else if !names("--only") && number > 0 {
            command.args(["--only", "experiments"]);
        }
        if number > 0 && names("--report") {
            command.arg("--append");
        }
        holds &= command.status().context("cannot start the test")?.success();
        down()?;
    }
    Ok(holds)
}
