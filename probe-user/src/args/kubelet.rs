//! Flags of `agent` for the kubelet's own counters.

use jiff::SignedDuration;
use std::path::PathBuf;

/// The kubelet's own verdicts.
#[derive(Clone, Debug, clap::Args)]
pub struct KubeletArgs {
    /// Read the verdicts on this node's probes from the kubelet's /metrics/probes, such as https://10.0.0.1:10250; takes `get` of nodes/metrics.
    /// The agent's credentials are sent there
    #[arg(long, env = "DRAINSCOPE_KUBELET_METRICS", value_name = "URL")]
    pub kubelet_metrics: Option<String>,
    /// How often they are read
    #[arg(long, env = "DRAINSCOPE_KUBELET_METRICS_PERIOD", value_name = "DURATION", default_value = "15s")]
    pub kubelet_metrics_period: SignedDuration,
    /// Authorities (PEM) one of which has to have signed the kubelet's certificate; without it the cluster's
    #[arg(long, env = "DRAINSCOPE_KUBELET_CERTIFICATE_AUTHORITY", value_name = "FILE")]
    pub kubelet_certificate_authority: Option<PathBuf>,
    /// Take any certificate of the kubelet, as self-signed ones need: whoever answers at that address gets the agent's token, and may
    /// do with it what the agent may
    #[arg(long, env = "DRAINSCOPE_KUBELET_INSECURE_TLS", value_name = "BOOL", default_value_t = false,
          num_args = 0..=1, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    pub kubelet_insecure_tls: bool,
}
