//! What the flags mean: validated once, immutable afterwards. Reads the environment only through the function it is
//! given; opens nothing.

mod kubelet;

use crate::args::{AgentArgs, LogLevel, MirrorArgs, ProbesMode};
use crate::probe::command::socket_path;
use jiff::SignedDuration;
use probe_core::probes::manager::{Settings, WORKERS_MAX};
use probe_core::probes::pace::Caps;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// Most terminations that `--history` can keep: each may hold 1,000 pieces of evidence.
const HISTORY_MAX: usize = 10_000;
/// Most series: what one scrape of a Prometheus with default limits takes without complaint.
const SERIES_MAX: usize = 100_000;
/// Fewest series with which one workload fits (interface: at most 300 each).
const SERIES_MIN: usize = 300;
/// Longest `--series-ttl`, `--silence` and `--grace`.
const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);
/// Smallest `--ring-bytes`: the largest page that Linux has on amd64 and arm64, so that each power of two from here on is
/// the multiple of a page that the kernel wants.
const RING_MIN: u32 = 64 << 10;
/// Largest: room for 700,000 lost requests between two turns of the driver.
const RING_MAX: u32 = 64 << 20;

/// Least and most `--proxy-rules-bytes`: a notification, and what a full sync of ten thousand Services takes.
const RULES_MIN: usize = 4 << 10;
const RULES_MAX: usize = 64 << 20;

/// Most `--probes-rate`: several times what a core can do.
const PROBES_RATE_MAX: usize = 100_000;
/// Longest `--probes-period`.
const PROBES_PERIOD_MAX: Duration = Duration::from_secs(3600);

/// A flag that makes no sense; the agent exits with status 2.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// Nobody said which node this is.
    #[error(
        "the node's name is not known: pass --node-name, or set NODE_NAME from the downward API (spec.nodeName)"
    )]
    NoNodeName,
    /// Not a name that a Node can have.
    #[error("--node-name {0:?} is no node name (lower-case letters, digits, '-' and '.', at most 253)")]
    BadNodeName(String),
    /// Not a uid that a pod can have.
    #[error("--pod-uid {0:?} is no pod's uid (take metadata.uid from the downward API)")]
    BadPodUid(String),
    /// Both servers on one address.
    #[error("--listen and --api-listen are both {0}: give them different ports")]
    SameAddress(SocketAddr),
    /// Number out of range.
    #[error("{flag} {value} is out of range: {min} to {max}")]
    OutOfRange {
        /// The flag.
        flag: &'static str,
        /// What was typed.
        value: String,
        /// Least.
        min: String,
        /// Most.
        max: String,
    },
    /// A size that no ring buffer can have.
    #[error("--ring-bytes {0} must be a power of two from {RING_MIN} (64 KiB) to {RING_MAX} (64 MiB)")]
    RingBytes(u32),
    /// No place to send credentials to.
    #[error("--kubelet-metrics {0} is not https://HOST:PORT")]
    KubeletUrl(String),
    /// Two ways to trust.
    #[error(
        "--kubelet-insecure-tls takes any certificate: leave out --kubelet-certificate-authority, or leave out that"
    )]
    KubeletTrust,
    /// Relative path.
    #[error("{flag} {} must be an absolute path", path.display())]
    RelativePath {
        /// The flag.
        flag: &'static str,
        /// What was typed.
        path: PathBuf,
    },
}

/// The agent's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub node_name: String,
    /// The pod that the agent runs in, if somebody said so.
    pub pod_uid: Option<String>,
    /// Kubeconfig; else in-cluster.
    pub kubeconfig: Option<PathBuf>,
    /// Metrics and health.
    pub listen: SocketAddr,
    /// API and status.
    pub api_listen: SocketAddr,
    /// cgroupfs or a subtree of it.
    pub cgroup_root: PathBuf,
    /// Where programs and counts outlive the agent, if they shall.
    pub pin_dir: Option<PathBuf>,
    /// How long pinned programs count on without an agent.
    pub silence: Duration,
    /// Ended terminations kept.
    pub history: usize,
    /// Most series of workloads.
    pub series_limit: usize,
    /// How long series outlive their workload.
    pub series_ttl: Duration,
    /// Kubernetes Events are sent.
    pub events: bool,
    /// How long to serve after the own SIGTERM.
    pub grace: Duration,
    /// Bytes of the ring buffer for kernel records.
    pub ring_bytes: u32,
    /// How much the kernel keeps of notifications of the service proxy's rules, if they are followed.
    pub proxy_rules: Option<usize>,
    /// Connection tracking is asked about lost connects.
    pub conntrack: bool,
    /// The probes of pods that do not say whether are mirrored.
    pub probes: bool,
    /// How mirrored probes run.
    pub mirror: Settings,
    /// The container runtime's socket, if mirrored probes may be commands.
    pub cri_socket: Option<PathBuf>,
    /// Where the kubelet's own verdicts are read, if they are.
    pub kubelet: Option<crate::kubelet::Settings>,
    /// Kernel programs log too.
    pub kernel_log: bool,
}

impl Config {
    /// Validates the flags; `env` looks a variable up.
    pub fn new(args: &AgentArgs, env: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let node_name = node_name(args.kube.node_name.clone(), env)?;
        let (listen, api_listen) = (args.http.listen, args.http.api_listen);
        if listen == api_listen && listen.port() != 0 {
            return Err(ConfigError::SameAddress(listen));
        }
        if !args.cgroup_root.is_absolute() {
            return Err(ConfigError::RelativePath { flag: "--cgroup-root", path: args.cgroup_root.clone() });
        }
        let pin_dir = Some(PathBuf::from(&args.pin_dir)).filter(|path| !path.as_os_str().is_empty());
        if let Some(path) = pin_dir.as_ref().filter(|path| !path.is_absolute()) {
            return Err(ConfigError::RelativePath { flag: "--pin-dir", path: path.clone() });
        }
        if let Some(uid) = args.pod_uid.as_ref().filter(|uid| !crate::kube::names::is_uid(uid)) {
            return Err(ConfigError::BadPodUid(uid.clone()));
        }
        Ok(Self {
            node_name,
            pod_uid: args.pod_uid.clone(),
            kubeconfig: args.kube.kubeconfig.clone(),
            listen,
            api_listen,
            cgroup_root: args.cgroup_root.clone(),
            pin_dir,
            silence: duration("--silence", args.silence, Duration::from_secs(1))?,
            history: within("--history", args.history, 1, HISTORY_MAX)?,
            series_limit: within("--series-limit", args.series_limit, SERIES_MIN, SERIES_MAX)?,
            series_ttl: duration("--series-ttl", args.series_ttl, Duration::from_secs(1))?,
            events: args.events,
            grace: duration("--grace", args.grace, Duration::ZERO)?,
            ring_bytes: ring_bytes(args.ring_bytes)?,
            proxy_rules: args
                .proxy_rules
                .then(|| within("--proxy-rules-bytes", args.proxy_rules_bytes, RULES_MIN, RULES_MAX))
                .transpose()?,
            conntrack: args.conntrack,
            probes: args.mirror.probes == ProbesMode::Mirror,
            mirror: mirror(&args.mirror)?,
            cri_socket: args.mirror.probes_exec.then(|| cri_socket(&args.mirror.cri_socket)).transpose()?,
            kubelet: kubelet::settings(&args.kubelet)?,
            kernel_log: args.log.log_level >= LogLevel::Debug,
        })
    }
}

fn mirror(args: &MirrorArgs) -> Result<Settings, ConfigError> {
    let per_second = usize::try_from(args.probes_rate).unwrap_or(usize::MAX);
    within("--probes-rate", per_second, 1, PROBES_RATE_MAX)?;
    let concurrency = within("--probes-concurrency", args.probes_concurrency, 1, WORKERS_MAX)?;
    Ok(Settings {
        caps: Caps { concurrency, per_second: args.probes_rate },
        period_max_seconds: args.probes_period.map(period_seconds).transpose()?,
        exec: args.probes_exec,
    })
}

fn cri_socket(typed: &Path) -> Result<PathBuf, ConfigError> {
    let path = socket_path(typed);
    if path.is_absolute() { Ok(path) } else { Err(ConfigError::RelativePath { flag: "--cri-socket", path }) }
}

/// A probe's period is a whole number of seconds.
fn period_seconds(period: SignedDuration) -> Result<i32, ConfigError> {
    let longest = i32::try_from(PROBES_PERIOD_MAX.as_secs()).unwrap_or(i32::MAX);
    let seconds = i32::try_from(period.as_secs()).ok().filter(|_| period.subsec_nanos() == 0);
    seconds.filter(|seconds| (1..=longest).contains(seconds)).ok_or_else(|| ConfigError::OutOfRange {
        flag: "--probes-period",
        value: format!("{period:#}"),
        min: "1 s".to_owned(),
        max: format!("{longest} s, in whole seconds"),
    })
}

fn node_name(typed: Option<String>, env: impl Fn(&str) -> Option<String>) -> Result<String, ConfigError> {
    let name =
        typed.or_else(|| env("NODE_NAME")).filter(|name| !name.is_empty()).ok_or(ConfigError::NoNodeName)?;
    if crate::kube::names::is_subdomain(&name) { Ok(name) } else { Err(ConfigError::BadNodeName(name)) }
}

fn within(flag: &'static str, value: usize, min: usize, max: usize) -> Result<usize, ConfigError> {
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    Err(ConfigError::OutOfRange {
        flag,
        value: value.to_string(),
        min: min.to_string(),
        max: max.to_string(),
    })
}

fn ring_bytes(value: u32) -> Result<u32, ConfigError> {
    if value.is_power_of_two() && (RING_MIN..=RING_MAX).contains(&value) {
        return Ok(value);
    }
    Err(ConfigError::RingBytes(value))
}

fn duration(flag: &'static str, value: SignedDuration, min: Duration) -> Result<Duration, ConfigError> {
    match Duration::try_from(value) {
        Ok(duration) if (min..=DURATION_MAX).contains(&duration) => Ok(duration),
        _ => Err(ConfigError::OutOfRange {
            flag,
            value: format!("{value:#}"),
            min: format!("{} s", min.as_secs()),
            max: format!("{} h", DURATION_MAX.as_secs() / 3600),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Args, Command};
    use clap::Parser as _;

    pub(super) fn config(flags: &[&str], node_env: Option<&str>) -> Result<Config, ConfigError> {
        let parsed = Args::try_parse_from(["drainscope", "agent"].iter().chain(flags)).expect("parses");
        let Command::Agent(agent) = parsed.command else { panic!("not agent") };
        Config::new(&agent, |name| (name == "NODE_NAME").then_some(node_env).flatten().map(str::to_owned))
    }

    #[test]
    fn the_node_name_comes_from_the_flag_then_from_the_downward_api() {
        assert_eq!(config(&["--node-name", "a"], Some("b")).expect("valid").node_name, "a");
        assert_eq!(config(&[], Some("b.example")).expect("valid").node_name, "b.example");
        assert_eq!(config(&[], None).expect_err("missing"), ConfigError::NoNodeName);
        assert_eq!(config(&[], Some("")).expect_err("empty"), ConfigError::NoNodeName);
        let error = config(&["--node-name", "a&limit=1"], None).expect_err("not a name");
        assert_eq!(error, ConfigError::BadNodeName("a&limit=1".into()));
    }

    #[test]
    fn the_own_pod_has_a_uid_or_is_not_told() {
        let of = |flags: &[&str]| config(&[&["--node-name", "n"], flags].concat(), None).map(|c| c.pod_uid);
        let uid = "5b0d7c2e-0b1f-4a53-8d3b-0f3c1f2f9f7d";
        assert_eq!(of(&["--pod-uid", uid]), Ok(Some(uid.to_owned())));
        assert_eq!(of(&[]), Ok(None));
        for bad in ["", "a b", "$(POD_UID)"] {
            assert_eq!(of(&["--pod-uid", bad]), Err(ConfigError::BadPodUid(bad.into())), "{bad}");
        }
    }

    #[test]
    fn fields_that_do_not_fit_together_are_named() {
        let same =
            config(&["--node-name", "n", "--listen", "127.0.0.1:1", "--api-listen", "127.0.0.1:1"], None);
        assert!(matches!(same, Err(ConfigError::SameAddress(_))), "{same:?}");
        let any =
            config(&["--node-name", "n", "--listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0"], None);
        assert!(any.is_ok(), "port 0 is two ports");
    }

    #[test]
    fn the_ring_has_any_power_of_two_in_its_range() {
        let ring =
            |flags: &[&str]| config(&[&["--node-name", "n"], flags].concat(), None).map(|c| c.ring_bytes);
        assert_eq!(ring(&[]), Ok(probe_ebpf::wire::RING_BYTES));
        for bytes in (16..=26).map(|bits| 1u32 << bits) {
            assert_eq!(ring(&["--ring-bytes", &bytes.to_string()]), Ok(bytes));
        }
    }

    #[test]
    fn probes_are_off_and_at_their_own_period_unless_asked_for() {
        let of = |flags: &[&str]| config(&[&["--node-name", "n"], flags].concat(), None).expect("valid");
        let default = of(&[]);
        let caps = Caps { concurrency: 64, per_second: 200 };
        assert_eq!(default.mirror, Settings { caps, period_max_seconds: None, exec: false });
        assert!(!default.probes && !of(&["--probes", "off"]).probes && of(&["--probes", "mirror"]).probes);
        assert_eq!(of(&["--probes-period", "1m"]).mirror.period_max_seconds, Some(60));
    }

    #[test]
    fn commands_are_run_by_a_runtime_that_was_asked_for() {
        let of = |flags: &[&str]| {
            let config = config(&[&["--node-name", "n"], flags].concat(), None)?;
            assert_eq!(config.mirror.exec, config.cri_socket.is_some(), "{flags:?}");
            Ok::<_, ConfigError>(config.cri_socket)
        };
        let socket = |path: &str| Ok(Some(PathBuf::from(path)));
        assert_eq!(of(&["--probes", "mirror"]), Ok(None));
        assert_eq!(of(&["--cri-socket", "/run/x.sock"]), Ok(None));
        assert_eq!(of(&["--probes-exec"]), socket("/run/containerd/containerd.sock"));
        assert_eq!(of(&["--probes-exec", "--cri-socket", "unix:///run/x.sock"]), socket("/run/x.sock"));
        let error = of(&["--probes-exec", "--cri-socket", "x.sock"]).expect_err("relative");
        assert_eq!(error.to_string(), "--cri-socket x.sock must be an absolute path");
    }

    #[test]
    fn values_out_of_range_are_named() {
        for (flag, value) in [
            ("--history", "0"),
            ("--history", "10001"),
            ("--series-limit", "299"),
            ("--series-ttl", "0s"),
            ("--series-ttl", "25h"),
            ("--grace", "-1s"),
            ("--probes-concurrency", "0"),
            ("--probes-concurrency", "30001"),
            ("--probes-rate", "0"),
            ("--probes-rate", "100001"),
            ("--probes-period", "0s"),
            ("--probes-period", "1.5s"),
            ("--probes-period", "-1s"),
            ("--probes-period", "2h"),
        ] {
            let error = config(&["--node-name", "n", &format!("{flag}={value}")], None).expect_err(value);
            assert!(error.to_string().starts_with(flag), "{error}");
        }
        for value in ["0", "4096", "32768", "65535", "98304", "67108865", "134217728"] {
            let error = config(&["--node-name", "n", "--ring-bytes", value], None).expect_err(value);
            let expected = format!(
                "--ring-bytes {value} must be a power of two from 65536 (64 KiB) to 67108864 (64 MiB)"
            );
            assert_eq!(error.to_string(), expected);
        }
        let error = config(&["--node-name", "n", "--cgroup-root", "cgroup"], None).expect_err("relative");
        assert_eq!(error.to_string(), "--cgroup-root cgroup must be an absolute path");
    }
}
