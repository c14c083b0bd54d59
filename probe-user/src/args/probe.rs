//! The command line of `drainscope probe`.

use clap::{Args, Subcommand};
use jiff::SignedDuration;
use std::path::PathBuf;

use super::Output;
use crate::probe::command::CRI_SOCKET;

/// Flags of `probe`.
#[derive(Clone, Debug, Args)]
pub struct ProbeArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: ProbeCommand,
}

/// What `probe` does.
#[derive(Clone, Debug, Subcommand)]
pub enum ProbeCommand {
    /// Run one probe as the kubelet would, from here, and show where the time went
    #[command(after_help = RUN_EXAMPLES)]
    Run(ProbeRunArgs),
    /// Run a pod's own probes once, each as its specification says
    #[command(after_help = POD_EXAMPLES)]
    Pod(ProbePodArgs),
}

const POD_EXAMPLES: &str = "\
Examples:
  # On the pod's node, or wherever its address can be reached
  drainscope probe pod api-7d4b9 -n shop

  # Probes that are not in the cluster yet, against something that runs here
  drainscope probe pod -f pod.yaml --host 127.0.0.1

  # Commands (exec) too; without --exec they are named and left out
  drainscope probe pod api-7d4b9 -n shop --exec

--exec takes the container runtime's socket, and with it everything that root can do on this node.
Exit status: 0 all succeeded, 1 one did not, 2 no such pod, no address, nothing to run.";

/// Flags of `probe pod`.
#[derive(Clone, Debug, Args)]
pub struct ProbePodArgs {
    /// NAME or pod/NAME
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    pub name: Option<String>,
    /// A pod in YAML or JSON instead; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Namespace; without it that of the kubeconfig's context
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Kubeconfig file; without it ~/.kube/config, or the service account of the pod that this runs in
    #[arg(long, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Address in place of the pod's
    #[arg(long, value_name = "ADDRESS")]
    pub host: Option<String>,
    /// Run commands (exec) too, in the pod's containers
    #[arg(long)]
    pub exec: bool,
    /// Socket of the node's container runtime (CRI v1), for --exec
    #[arg(long, value_name = "PATH", default_value = CRI_SOCKET)]
    pub cri_socket: PathBuf,
    /// Version of the kubelet whose name the probes carry (User-Agent `kube-probe/VERSION`)
    #[arg(long, value_name = "MAJOR.MINOR", default_value = "1.36")]
    pub kubelet_version: String,
    /// Form of the result on stdout; JSON is one object a line, one a probe
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Output,
    /// No colours; without it terminals get some (unless NO_COLOR is set)
    #[arg(long)]
    pub no_color: bool,
}

impl ProbePodArgs {
    /// The kubeconfig that was named, or the user's if there is one.
    #[must_use]
    pub fn kubeconfig_path(&self) -> Option<PathBuf> {
        let of_user =
            || std::env::home_dir().map(|home| home.join(".kube/config")).filter(|path| path.exists());
        self.kubeconfig.clone().or_else(of_user)
    }
}

const RUN_EXAMPLES: &str = "\
Examples:
  # A pod's readiness probe, by hand (timeout 1 s, as the kubelet's default)
  drainscope probe run http http://10.244.1.7:8080/healthz

  # With the headers and the timeout of its specification; any certificate will do
  drainscope probe run http https://10.244.1.7:8443/healthz -H 'Host: shop.example' --timeout 3s

  # How long does it really take? One a second, a minute long
  drainscope probe run grpc 10.244.1.7:9090 --service shop.Cart --repeat 60

  # A command in a container, run by the node's container runtime
  drainscope probe run exec --container 3f5b0c9d1e7a -- cat /tmp/healthy

  # For scripts
  drainscope probe run tcp [fd00::7]:5432 -o json

Exit status: 0 success (a warning counts as one), 1 failure or an error that the kubelet would discard, 2 usage.";

/// Flags of `probe run`.
#[derive(Clone, Debug, Args)]
pub struct ProbeRunArgs {
    /// The sort of probe.
    #[command(subcommand)]
    pub target: ProbeTarget,
    /// What all sorts have.
    #[command(flatten)]
    pub how: ProbeHow,
}

/// The sorts of probes.
#[derive(Clone, Debug, Subcommand)]
pub enum ProbeTarget {
    /// GET by HTTP or HTTPS: 200 to 399 is success
    Http {
        /// URL, or HOST:PORT[/PATH] for plain HTTP
        url: String,
        /// Header `NAME: VALUE`; may be given several times. Host, User-Agent and Accept replace the probe's own
        #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
        headers: Vec<String>,
        /// HTTP/2 in the clear, without an upgrade: what `protocol: HTTP2` of a probe asks for (alpha in 1.37)
        #[arg(long)]
        h2c: bool,
    },
    /// A TCP connection that is closed at once
    Tcp {
        /// HOST:PORT, or [ADDRESS]:PORT for IPv6
        address: String,
    },
    /// One call of grpc.health.v1.Health/Check: SERVING is success
    Grpc {
        /// HOST:PORT, or [ADDRESS]:PORT for IPv6
        address: String,
        /// Name of the service that is asked for; without it the whole server
        #[arg(long, value_name = "NAME", default_value = "")]
        service: String,
        /// TLS with any certificate; kubelets have it behind an alpha gate
        #[arg(long)]
        tls: bool,
    },
    /// A command that the container runtime runs in a container: exit code 0 is success
    Exec {
        /// Socket of the node's container runtime (CRI v1)
        #[arg(long, value_name = "PATH", default_value = CRI_SOCKET)]
        cri_socket: PathBuf,
        /// The container's whole ID, as `crictl ps --no-trunc` shows it
        #[arg(long, value_name = "ID")]
        container: String,
        /// Program and arguments; no shell
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
}

/// How probes are run and shown.
#[derive(Clone, Debug, Args)]
pub struct ProbeHow {
    /// Bounds the whole probe: name, connection, redirects, head and body
    #[arg(long, value_name = "DURATION", default_value = "1s", global = true)]
    pub timeout: SignedDuration,
    /// How many probes; 0: until Ctrl-C
    #[arg(long, value_name = "N", default_value_t = 1, global = true)]
    pub repeat: u64,
    /// From the start of one probe to the start of the next
    #[arg(long, value_name = "DURATION", default_value = "1s", global = true)]
    pub interval: SignedDuration,
    /// Version of the kubelet whose name the probe carries (User-Agent `kube-probe/VERSION`)
    #[arg(long, value_name = "MAJOR.MINOR", default_value = "1.36", global = true)]
    pub kubelet_version: String,
    /// Form of the result on stdout; JSON is one object a line, one a probe
    #[arg(short, long, value_name = "FORMAT", default_value = "table", global = true)]
    pub output: Output,
    /// No colours; without it terminals get some (unless NO_COLOR is set)
    #[arg(long, global = true)]
    pub no_color: bool,
}
