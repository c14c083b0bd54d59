//! Flags of `agent` for mirrored probes.

use crate::probe::command::CRI_SOCKET;
use clap::ValueEnum;
use jiff::SignedDuration;
use std::path::PathBuf;

/// Mirrored probes.
#[derive(Clone, Debug, clap::Args)]
pub struct MirrorArgs {
    /// Whether this node's pods' own probes are run from here too, apart from the kubelet's; a pod's annotation
    /// `drainscope.io/probes: mirror` or `off` comes before it
    #[arg(long, env = "DRAINSCOPE_PROBES", value_name = "MODE", default_value = "off")]
    pub probes: ProbesMode,
    /// Most mirrored probes that run at a time, at most half of them commands; what this delays is counted in /status
    #[arg(long, env = "DRAINSCOPE_PROBES_CONCURRENCY", value_name = "N", default_value_t = 64)]
    pub probes_concurrency: usize,
    /// Most mirrored probes that begin in a second
    #[arg(long, env = "DRAINSCOPE_PROBES_RATE", value_name = "N", default_value_t = 200)]
    pub probes_rate: u32,
    /// Period of mirrored probes whose own is longer, in whole seconds; without it each has its own
    #[arg(long, env = "DRAINSCOPE_PROBES_PERIOD", value_name = "DURATION")]
    pub probes_period: Option<SignedDuration>,
    /// Mirrored probes that are commands (exec) are run too, in the pods' containers by the node's container runtime, whose socket is as good as
    /// root on the node; without it they are listed and not run
    #[arg(long, env = "DRAINSCOPE_PROBES_EXEC")]
    pub probes_exec: bool,
    /// Socket of the node's container runtime (CRI v1), for --probes-exec
    #[arg(long, env = "DRAINSCOPE_CRI_SOCKET", value_name = "PATH", default_value = CRI_SOCKET)]
    pub cri_socket: PathBuf,
}

/// `--probes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProbesMode {
    /// Only the probes of pods that ask for it.
    Off,
    /// Those of all pods that do not ask for the opposite.
    Mirror,
}
