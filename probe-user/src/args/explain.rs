//! The command line of `drainscope explain`.

use super::Output;
use clap::Subcommand;
use std::path::PathBuf;

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  drainscope explain pod api-x2 -n shop
  drainscope explain pod/api-x2 -n shop -o json

  # Without a cluster
  kubectl get pod,service,endpointslice -n shop -o yaml > shop.yaml
  drainscope explain pod api-x2 -f shop.yaml

When a probe runs next and when it passes or fails are bounds: the API shows neither the kubelet's ticks nor how many equal results it has counted.
They hold while the kubelet runs, and for a command while the container runtime keeps to its timeout; with --file, while the file is fresh.
A line `differs` is where the API's state is not what the rules make of it: somebody is late, or something else writes there.
Exit status: 0 explained, 2 no such pod, no API or no such file.";

/// What is to be explained.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXPLAIN_EXAMPLES)]
pub struct ExplainArgs {
    /// The kind of object.
    #[command(subcommand)]
    pub what: Explain,
}

/// What can be explained.
#[derive(Clone, Debug, Subcommand)]
pub enum Explain {
    /// A pod
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Pod(ExplainPodArgs),
}

/// Flags of `explain pod`.
#[derive(Clone, Debug, clap::Args)]
pub struct ExplainPodArgs {
    /// The pod; `pod/NAME` is it too
    pub name: String,
    /// Its namespace; without it the kubeconfig's, or whichever the file has
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Kubeconfig file; without it kubectl's, else the service account of the pod
    #[arg(long, env = "DRAINSCOPE_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// File with the pod, its Services and EndpointSlices, in place of the API; `-` is standard input
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["kubeconfig", "context"])]
    pub file: Option<PathBuf>,
    /// Form of the result on stdout
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Output,
}
