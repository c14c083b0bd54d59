//! Flags of `drainscope advise`.

use super::Output;
use clap::{Subcommand, ValueEnum};
use jiff::SignedDuration;
use probe_core::advise::Level;
use std::path::PathBuf;

/// Flags of `advise`.
#[derive(Clone, Debug, clap::Args)]
pub struct AdviseArgs {
    /// About what.
    #[command(subcommand)]
    pub command: AdviseCommand,
}

/// What there is advice about.
#[derive(Clone, Debug, Subcommand)]
pub enum AdviseCommand {
    /// Check probes and shutdown settings, from a file or the API, without running any
    #[command(after_help = PROBES_EXAMPLES)]
    Probes(AdviseProbesArgs),
}

const PROBES_EXAMPLES: &str = "\
Examples:
  drainscope advise probes deploy.yaml
  helm template . | drainscope advise probes -
  drainscope advise probes -n shop deploy/api sts/db

  # In CI: fail on what costs requests or restarts, let costs and choices pass
  drainscope advise probes --level warning --exit-code manifests.yaml

Times, by the kubelet's own worker, as from..to seconds:
  FIRST RUN   first run after the container's start, or after its startup probe (+)
  REFUSED     from a container that refuses connections to the probe's result
  HANGING     the same for one that does not answer
  THUMB       the rule of thumb for the worst case: (period + timeout) x failureThreshold
  RECOVERED   from a recovery to the probe's result, at most
  RESTARTED   from a hang to the container's end, at most (it ignores its stop signal)
  START       a start has the first for certain; one that takes longer than the second is killed

Exit status: 0, 1 with --exit-code if there are findings, 2 what cannot be read.";

/// Flags of `advise probes`.
#[derive(Clone, Debug, clap::Args)]
pub struct AdviseProbesArgs {
    /// A file of YAML or JSON, `-` for standard input, or a workload of the API as kind/name
    #[arg(required = true, value_name = "WORKLOAD|FILE")]
    pub targets: Vec<String>,
    /// Namespace of workloads; without it the context's
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Kubeconfig file; without it KUBECONFIG, ~/.kube/config, or the service account of the pod
    #[arg(long, env = "DRAINSCOPE_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// How long the API may take for an answer
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    pub timeout: SignedDuration,
    /// Pods that one node may have, for the cost of exec probes: the kubelet's maxPods (a Pod and a DaemonSet have one)
    #[arg(long, value_name = "N", default_value_t = 110, value_parser = clap::value_parser!(u32).range(1..))]
    pub pods_per_node: u32,
    /// Least level that is told
    #[arg(long, value_name = "LEVEL", default_value = "note")]
    pub level: AdviceLevel,
    /// Exit with status 1 if anything is told
    #[arg(long)]
    pub exit_code: bool,
    /// Form of the result on stdout
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Output,
    /// No colours on a terminal either (as with NO_COLOR)
    #[arg(long)]
    pub no_color: bool,
}

/// `--level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AdviceLevel {
    /// And costs, and choices that depend on the program.
    Note,
    /// And what costs requests or restarts.
    Warning,
    /// What the API refuses or what cannot work.
    Error,
}

impl From<AdviceLevel> for Level {
    fn from(level: AdviceLevel) -> Self {
        match level {
            AdviceLevel::Note => Self::Note,
            AdviceLevel::Warning => Self::Warning,
            AdviceLevel::Error => Self::Error,
        }
    }
}
