//! The agent on the node: a process of the host, with the rights of its ServiceAccount and no more.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::json;
use world::agent::Agent;

use crate::kubectl;
use crate::pods::NAMESPACE;

/// Namespace, account and rights of the agent.
const RIGHTS: &str = include_str!("../../../cluster/manifests/agent.yaml");
/// The bound on the agent's start.
const START: Duration = Duration::from_secs(60);

/// Everything that a part needs.
pub(crate) struct Site {
    pub(crate) agent: Agent,
    /// The load generator.
    pub(crate) load: PathBuf,
    /// The cluster's folder: logs, configuration, and what this program leaves.
    pub(crate) state: PathBuf,
}

impl Site {
    /// Starts the agent and waits until it is ready.
    pub(crate) fn start(state: &Path) -> anyhow::Result<Self> {
        let beside = std::env::current_exe().context("this program has no path")?;
        let program = |name: &str| -> anyhow::Result<PathBuf> {
            let path = beside.with_file_name(name);
            ensure!(path.is_file(), "{} does not exist: build it first", path.display());
            Ok(path)
        };
        kubectl::run_with(&["apply", "-f", "-"], RIGHTS)?;
        kubectl::apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}))?;
        let kubeconfig = state.join("conf/agent.kubeconfig");
        std::fs::write(&kubeconfig, rights(state)?).context("write the agent's kubeconfig")?;
        let mut command = Command::new(program("drainscope")?);
        command.args(["agent", "--node-name", "node-1", "--kubeconfig"]).arg(kubeconfig);
        let mut agent = Agent::start_by(command, state.join("logs/agent.log"), &[])?;
        agent.wait_ready(START)?;
        Ok(Self { agent, load: program("load")?, state: state.to_owned() })
    }

    /// Kubernetes' version.
    pub(crate) fn version(&self) -> anyhow::Result<String> {
        let text = kubectl::run(&["version", "-o", "json"])?;
        let version: serde_json::Value = serde_json::from_str(&text).context("kubectl's version")?;
        Ok(version["serverVersion"]["gitVersion"].as_str().context("the server has a version")?.to_owned())
    }
}

/// A kubeconfig with a token of the ServiceAccount.
fn rights(state: &Path) -> anyhow::Result<String> {
    let token = kubectl::run(&["create", "token", "drainscope", "-n", "drainscope", "--duration=24h"])?;
    let authority = state.join("pki/ca.crt");
    let config = json!({"apiVersion": "v1", "kind": "Config", "current-context": "cluster",
        "clusters": [{"name": "cluster", "cluster": {"server": "https://10.89.0.1:6443", "certificate-authority": authority}}],
        "users": [{"name": "agent", "user": {"token": token.trim()}}],
        "contexts": [{"name": "cluster", "context": {"cluster": "cluster", "user": "agent"}}]});
    Ok(config.to_string())
}
