//! Flags of `agent` for mirrored probes.

use clap::ValueEnum;
use jiff::SignedDuration;

/// Mirrored probes.
#[derive(Clone, Debug, clap::Args)]
pub struct MirrorArgs {
    /// Whether this node's pods' own probes are run from here too, apart from the kubelet's; a pod's annotation
    /// `drainscope.io/probes: mirror` or `off` comes before it
    #[arg(long, env = "DRAINSCOPE_PROBES", value_name = "MODE", default_value = "off")]
    pub probes: ProbesMode,
    /// Most mirrored probes that run at a time; what this delays is counted in /status
    #[arg(long, env = "DRAINSCOPE_PROBES_CONCURRENCY", value_name = "N", default_value_t = 64)]
    pub probes_concurrency: usize,
    /// Most mirrored probes that begin in a second
    #[arg(long, env = "DRAINSCOPE_PROBES_RATE", value_name = "N", default_value_t = 200)]
    pub probes_rate: u32,
    /// Period of mirrored probes whose own is longer, in whole seconds; without it each has its own
    #[arg(long, env = "DRAINSCOPE_PROBES_PERIOD", value_name = "DURATION")]
    pub probes_period: Option<SignedDuration>,
}

/// `--probes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProbesMode {
    /// Only the probes of pods that ask for it.
    Off,
    /// Those of all pods that do not ask for the opposite.
    Mirror,
}
