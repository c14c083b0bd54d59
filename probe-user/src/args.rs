//! The command line: what the user typed, nothing more. Every flag has an environment mirror `DRAINSCOPE_…` and its
//! default in `--help`. What it means, and whether it fits together, is [`crate::config`]'s to say.

pub mod advise;
mod explain;
mod kubelet;
mod mirror;
mod probe;

pub use self::explain::{Explain, ExplainArgs, ExplainPodArgs};
pub use kubelet::KubeletArgs;
pub use mirror::{MirrorArgs, ProbesMode};
pub use probe::{ProbeArgs, ProbeCommand, ProbeHow, ProbePodArgs, ProbeRunArgs, ProbeTarget};

use advise::AdviseArgs;
use clap::{Parser, Subcommand, ValueEnum};
use jiff::SignedDuration;
use probe_ebpf::wire::RING_BYTES;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Where pins are by default.
const PIN_DIR: &str = "/sys/fs/bpf/drainscope";

/// Where the API is by default.
const API_LISTEN: &str = "127.0.0.1:10291";

/// What the user typed.
#[derive(Debug, Parser)]
#[command(name = "drainscope", version, about, long_about = None, max_term_width = 110)]
#[command(about = "Shows for every stopped pod whether clients lost requests, how many, and why")]
pub struct Args {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the node agent
    #[command(after_help = AGENT_EXAMPLES)]
    Agent(Box<AgentArgs>),
    /// Say what works on this node, what does not and how to mend it; needs no cluster
    #[command(after_help = CHECK_EXAMPLES)]
    Check(CheckArgs),
    /// Probes as the kubelet makes them, with their phases; needs no cluster
    Probe(ProbeArgs),
    /// Say what to change in a workload
    Advise(AdviseArgs),
    /// Say why a pod is not Ready or gets no traffic, by Kubernetes' rules
    Explain(ExplainArgs),
    /// Keep the event log of a running agent in a file, to be replayed elsewhere
    #[command(after_help = RECORD_EXAMPLES)]
    Record(RecordArgs),
    /// Replay an event log: what the agent's core concluded, byte for byte
    #[command(after_help = REPLAY_EXAMPLES)]
    Replay(ReplayArgs),
    /// Remove the pinned maps and programs that an agent left on this node
    #[command(after_help = CLEANUP_EXAMPLES)]
    Cleanup(CleanupArgs),
}

const AGENT_EXAMPLES: &str = "\
Examples:
  # In a DaemonSet: node name from the downward API, credentials of the service account
  NODE_NAME=node-1 drainscope agent

  # By hand on a node, with a kubeconfig
  drainscope agent --node-name node-1 --kubeconfig /etc/kubernetes/admin.conf

  # Run the pods' own probes from here too, each at least every two seconds
  # (commands, too, with --probes-exec: it takes the container runtime's socket, and with it everything that root can do on the node)
  drainscope agent --node-name node-1 --probes mirror --probes-period 2s
  curl -s http://127.0.0.1:10291/api/v1/probes

  # What was lost, while it runs
  curl -s http://127.0.0.1:10291/api/v1/terminations?lost=true";

const CHECK_EXAMPLES: &str = "\
Examples:
  drainscope check
  drainscope check --kubeconfig ~/.kube/config -o json

Exit status: 0 all works, 1 degraded (the table says what is lost), 2 something needed fails.";

const RECORD_EXAMPLES: &str = "\
Examples:
  # On the node, until Ctrl-C
  drainscope record rollout.jsonl

  # Ten minutes, packed
  drainscope record - --duration 10m | gzip > rollout.jsonl.gz

The log begins with all that the agent knows at that moment. It has clients' addresses.
Exit status: 0 the log has its end, 2 no agent, a file that exists, or a log that was cut off.";

const REPLAY_EXAMPLES: &str = "\
Examples:
  # What was lost, and the findings
  drainscope replay rollout.jsonl

  # /metrics as it was last scraped (without process_*); /api/v1/terminations as it would be now
  drainscope replay rollout.jsonl --metrics
  drainscope replay rollout.jsonl --terminations -o json

  zcat rollout.jsonl.gz | drainscope replay -

Exit status: 0 replayed, 1 the replay concludes otherwise than the agent did, 2 the log cannot be read.";

const CLEANUP_EXAMPLES: &str = "\
Examples:
  # After the DaemonSet is gone for good
  drainscope cleanup

  # While the last agent is ending
  drainscope cleanup --wait 1m

Without it they stop by themselves 15 minutes after the last agent, but keep their memory.
Exit status: 0 nothing is left, 2 an agent still runs or the files cannot be removed.";

/// Access to the Kubernetes API.
#[derive(Clone, Debug, clap::Args)]
pub struct KubeArgs {
    /// Kubeconfig file; without it the service account of the pod is used
    #[arg(long, env = "DRAINSCOPE_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Name of this node; falls back to the variable NODE_NAME
    #[arg(long, env = "DRAINSCOPE_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
}

/// The two servers.
#[derive(Clone, Debug, clap::Args)]
pub struct HttpArgs {
    /// Address of /metrics, /livez and /readyz
    #[arg(long, env = "DRAINSCOPE_LISTEN", value_name = "ADDR:PORT", default_value = "[::]:10290")]
    pub listen: SocketAddr,
    /// Address of the API and /status (they show clients' addresses: keep it on loopback)
    #[arg(long, env = "DRAINSCOPE_API_LISTEN", value_name = "ADDR:PORT", default_value = API_LISTEN)]
    pub api_listen: SocketAddr,
}

/// Log output, on stderr.
#[derive(Clone, Debug, clap::Args)]
pub struct LogArgs {
    /// Least severe level that is logged; debug and below switch on the kernel programs' log too
    #[arg(long, env = "DRAINSCOPE_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    pub log_level: LogLevel,
    /// Form of the log lines
    #[arg(long, env = "DRAINSCOPE_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// Flags of `agent`.
#[derive(Clone, Debug, clap::Args)]
pub struct AgentArgs {
    /// Kubernetes API.
    #[command(flatten)]
    pub kube: KubeArgs,
    /// Servers.
    #[command(flatten)]
    pub http: HttpArgs,
    /// Uid of the agent's own pod, which --grace is not for; without it its cgroup is asked, which a private namespace hides
    #[arg(long, env = "DRAINSCOPE_POD_UID", value_name = "UID")]
    pub pod_uid: Option<String>,
    /// Root of cgroupfs, or of the subtree that this agent keeps to
    #[arg(long, env = "DRAINSCOPE_CGROUP_ROOT", value_name = "DIR", default_value = "/sys/fs/cgroup")]
    pub cgroup_root: PathBuf,
    /// Directory on bpffs where programs and counts outlive the agent; empty: they end with it
    #[arg(long, env = "DRAINSCOPE_PIN_DIR", value_name = "DIR", default_value = PIN_DIR)]
    pub pin_dir: OsString,
    /// How long pinned programs count on without an agent
    #[arg(long, env = "DRAINSCOPE_SILENCE", value_name = "DURATION", default_value = "15m")]
    pub silence: SignedDuration,
    /// How many ended terminations are kept for the API
    #[arg(long, env = "DRAINSCOPE_HISTORY", value_name = "N", default_value_t = 512)]
    pub history: usize,
    /// Most series of workloads that /metrics shows; the rest falls under `~other`
    #[arg(long, env = "DRAINSCOPE_SERIES_LIMIT", value_name = "N", default_value_t = 5000)]
    pub series_limit: usize,
    /// How long a workload's series outlive its last pod here
    #[arg(long, env = "DRAINSCOPE_SERIES_TTL", value_name = "DURATION", default_value = "10m")]
    pub series_ttl: SignedDuration,
    /// Whether Kubernetes Events tell of pods and workloads that lost requests; needs `create` and `patch` of events
    #[arg(
        long,
        env = "DRAINSCOPE_EVENTS",
        value_name = "BOOL",
        default_value_t = false,
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        action = clap::ArgAction::Set
    )]
    pub events: bool,
    /// How long it serves on after its own SIGTERM while other pods are left on the node
    #[arg(long, env = "DRAINSCOPE_GRACE", value_name = "DURATION", default_value = "25s")]
    pub grace: SignedDuration,
    /// Size of the ring buffer for kernel records; a full ring loses evidence, never a count
    #[arg(long, env = "DRAINSCOPE_RING_BYTES", value_name = "BYTES", default_value_t = RING_BYTES)]
    pub ring_bytes: u32,
    /// Follow the rules of this node's service proxy (kube-proxy's nftables mode); takes CAP_NET_ADMIN
    #[arg(long, env = "DRAINSCOPE_PROXY_RULES", value_name = "BOOL", default_value_t = false,
          num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub proxy_rules: bool,
    /// Most that the kernel keeps of notifications of these rules; beyond it they are lost, and read anew
    #[arg(long, env = "DRAINSCOPE_PROXY_RULES_BYTES", value_name = "BYTES", default_value_t = 8 << 20)]
    pub proxy_rules_bytes: usize,
    /// Ask the node's connection tracking about each lost connect to an ending pod; takes CAP_NET_ADMIN
    #[arg(long, env = "DRAINSCOPE_CONNTRACK", value_name = "BOOL", default_value_t = false,
          num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub conntrack: bool,
    /// Mirrored probes.
    #[command(flatten)]
    pub mirror: MirrorArgs,
    /// The kubelet's own verdicts.
    #[command(flatten)]
    pub kubelet: KubeletArgs,
    /// Log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Flags of `record`.
#[derive(Clone, Debug, clap::Args)]
pub struct RecordArgs {
    /// File that is made; `-` is standard output
    pub file: PathBuf,
    /// The agent's --api-listen
    #[arg(long, value_name = "ADDR:PORT", default_value = API_LISTEN)]
    pub api: SocketAddr,
    /// How long, from its first entry on; without it until a signal or the agent's end
    #[arg(long, value_name = "DURATION")]
    pub duration: Option<SignedDuration>,
}

/// Flags of `replay`.
#[derive(Clone, Debug, clap::Args)]
pub struct ReplayArgs {
    /// File of `drainscope record`; `-` is standard input
    pub file: PathBuf,
    /// /metrics as it was served last, in Prometheus' text format
    #[arg(long, group = "what")]
    pub metrics: bool,
    /// The same as OpenMetrics, with exemplars
    #[arg(long, group = "what")]
    pub openmetrics: bool,
    /// Findings alone; as JSON the lines that the agent logs with --log-format json
    #[arg(long, group = "what")]
    pub findings: bool,
    /// Terminations alone; as JSON the answer of /api/v1/terminations
    #[arg(long, group = "what")]
    pub terminations: bool,
    /// Form of the result on stdout (metrics have their own)
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Output,
}

/// Flags of `cleanup`.
#[derive(Clone, Debug, clap::Args)]
pub struct CleanupArgs {
    /// Directory that the agent was given
    #[arg(long, env = "DRAINSCOPE_PIN_DIR", value_name = "DIR", default_value = PIN_DIR)]
    pub pin_dir: PathBuf,
    /// How long to wait for an agent that still runs
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    pub wait: SignedDuration,
    /// How long to stay afterwards, until SIGTERM at most: the container of a DaemonSet must not end by itself
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    pub stay: SignedDuration,
}

/// Flags of `check`.
#[derive(Clone, Debug, clap::Args)]
pub struct CheckArgs {
    /// Kubernetes API.
    #[command(flatten)]
    pub kube: KubeArgs,
    /// Root of cgroupfs
    #[arg(long, env = "DRAINSCOPE_CGROUP_ROOT", value_name = "DIR", default_value = "/sys/fs/cgroup")]
    pub cgroup_root: PathBuf,
    /// Where the agent would keep programs and counts
    #[arg(long, env = "DRAINSCOPE_PIN_DIR", value_name = "DIR", default_value = PIN_DIR)]
    pub pin_dir: PathBuf,
    /// Form of the result on stdout
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Output,
}

/// `--log-level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum LogLevel {
    /// Only what the agent cannot do.
    Error,
    /// And what is degraded.
    Warn,
    /// And terminations and findings.
    Info,
    /// And what the sources do; kernel programs log too.
    Debug,
    /// And each step.
    Trace,
}

/// `--log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `--output`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_agent_flag_has_an_environment_mirror() {
        let command = Args::command();
        let agent = command.find_subcommand("agent").expect("there is an agent");
        for arg in agent.get_arguments().filter(|arg| arg.get_id() != "help") {
            let expected = format!("DRAINSCOPE_{}", arg.get_id().as_str().to_uppercase());
            assert_eq!(
                arg.get_env().and_then(|name| name.to_str()),
                Some(expected.as_str()),
                "{}",
                arg.get_id()
            );
        }
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let parsed = Args::try_parse_from(["drainscope", "agent", "--node-name", "n"]).expect("parses");
        let Command::Agent(agent) = parsed.command else { panic!("not agent") };
        assert_eq!(agent.http.listen.to_string(), "[::]:10290");
        assert_eq!(agent.http.api_listen.to_string(), "127.0.0.1:10291");
        assert_eq!(agent.pin_dir, "/sys/fs/bpf/drainscope");
        assert_eq!((agent.history, agent.series_limit), (512, 5000));
        assert_eq!(agent.series_ttl, SignedDuration::from_mins(10));
        assert_eq!(agent.ring_bytes, RING_BYTES);
        assert!(!agent.events);
    }

    #[test]
    fn events_are_switched_on_by_the_flag_alone_or_with_a_value() {
        for (flag, expected) in [("--events", true), ("--events=true", true), ("--events=false", false)] {
            let parsed = Args::try_parse_from(["drainscope", "agent", flag]).expect("parses");
            let Command::Agent(agent) = parsed.command else { panic!("not agent") };
            assert_eq!(agent.events, expected, "{flag}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            &["drainscope"][..],
            &["drainscope", "agent", "--listen", "10290"],
            &["drainscope", "agent", "--history", "-1"],
            &["drainscope", "agent", "--series-ttl", "soon"],
            &["drainscope", "agent", "--ring-bytes", "1MiB"],
            &["drainscope", "agent", "--ring-bytes", "-65536"],
            &["drainscope", "agent", "--ring-bytes", "4294967296"],
            &["drainscope", "agent", "--events=maybe"],
            &["drainscope", "agent", "--probes", "on"],
            &["drainscope", "agent", "--probes-rate", "-1"],
            &["drainscope", "agent", "--log-level", "loud"],
            &["drainscope", "check", "-o", "yaml"],
            &["drainscope", "record"],
            &["drainscope", "record", "f", "--api", "10291"],
            &["drainscope", "replay"],
            &["drainscope", "replay", "f", "--metrics", "--findings"],
        ] {
            assert!(Args::try_parse_from(line).is_err(), "{line:?}");
        }
    }
}
