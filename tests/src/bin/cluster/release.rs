//! The agent as its users have it: its image imported into the node's containerd, a release of its chart, a pod of the DaemonSet. Installs, upgrades and
//! uninstalls with helm, and knows the pod; what the agent says is read elsewhere.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use world::agent::Ports;

use crate::kubectl;

/// Namespace and release, as docs/deploy.md has them.
pub(crate) const NAME: &str = "drainscope";
/// The agent's pods.
const LABEL: &str = "app.kubernetes.io/component=agent";
/// This program's node.
const HERE: &str = "spec.nodeName=node-1";
/// As the archive of `cargo xtask image` names it, and another tag of ours for the same.
const IMAGE: &str = "docker.io/library/drainscope";
pub(crate) const OTHER_TAG: &str = "other";
/// The bound on a roll-out of the DaemonSet: an agent serves on for 25 s before it ends.
const ROLLED_OUT: &str = "--timeout=180s";
/// The bound on an answer of the new agent.
const READY: Duration = Duration::from_secs(60);

/// An installed chart.
pub(crate) struct Release {
    chart: PathBuf,
    /// helm's own files.
    home: PathBuf,
}

impl Release {
    /// Imports the image and installs the chart with its default values; the agent is ready then.
    pub(crate) fn install(image: &Path, chart: &Path, state: &Path) -> anyhow::Result<Self> {
        let release = Self { chart: chart.to_owned(), home: state.join("helm") };
        ctr(&["images", "import", &image.to_string_lossy()])?;
        let name = ctr(&["images", "list", "-q"])?;
        let name = name.lines().find(|name| name.starts_with(IMAGE)).context("the image was imported")?;
        ctr(&["images", "tag", name, &format!("{IMAGE}:{OTHER_TAG}")])?;
        kubectl::run(&["create", "namespace", NAME])?;
        let level = "pod-security.kubernetes.io/enforce=privileged";
        kubectl::run(&["label", "namespace", NAME, level])?;
        release.helm(&["install", NAME, &release.chart.to_string_lossy()])?;
        release.wait_ready()?;
        Ok(release)
    }

    /// Other values; the agent's next pod is ready then.
    pub(crate) fn upgrade(&self, values: &str) -> anyhow::Result<()> {
        self.helm(&["upgrade", NAME, &self.chart.to_string_lossy(), "--set", values])?;
        self.wait_ready()
    }

    /// Takes it all away; helm's hooks are through then.
    pub(crate) fn uninstall(&self) -> anyhow::Result<()> {
        self.helm(&["uninstall", NAME, "--wait"])
    }

    /// Waits until the DaemonSet's pod of the present values is ready.
    pub(crate) fn wait_ready(&self) -> anyhow::Result<()> {
        kubectl::run(&["rollout", "status", "-n", NAME, "daemonset/drainscope", ROLLED_OUT])?;
        let ports = Ports::new(PathBuf::new());
        kubectl::wait("a ready agent", READY, || {
            Ok(matches!(ports.get("/readyz"), Ok((200, _))).then_some(()))
        })
    }

    fn helm(&self, args: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new("helm");
        for folder in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            command.env(folder, &self.home);
        }
        run(command.args(args).args(["--namespace", NAME, "--timeout", "5m"])).map(drop)
    }
}

/// The agent's pod on this node; an error unless there is exactly one.
pub(crate) fn pod() -> anyhow::Result<Value> {
    let mut list = kubectl::get(&["pods", "-n", NAME, "-l", LABEL, "--field-selector", HERE])?;
    let mut pods: Vec<Value> = serde_json::from_value(list["items"].take()).context("a list of pods")?;
    ensure!(pods.len() == 1, "{} pods of the agent", pods.len());
    pods.pop().context("a pod")
}

/// What the agent in that pod says; its log is where the kubelet has it.
pub(crate) fn ports() -> anyhow::Result<Ports> {
    let pod = pod()?;
    let text = |key: &str| pod["metadata"][key].as_str().context("a pod's identity");
    let folder = format!("/var/log/pods/{NAME}_{}_{}", text("name")?, text("uid")?);
    Ok(Ports::new(Path::new(&folder).join("agent/0.log")))
}

fn ctr(args: &[&str]) -> anyhow::Result<String> {
    run(Command::new("ctr").args(["--namespace", "k8s.io"]).args(args))
}

fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}", error.trim_end());
    String::from_utf8(output.stdout).context("no text")
}
