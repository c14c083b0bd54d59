//! What every part needs: the agent, installed by its chart, and where things are.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde_json::json;
use world::agent::Ports;

use crate::kubectl;
use crate::pods::NAMESPACE;
use crate::release::{self, Release};

/// Everything that a part needs.
pub(crate) struct Site {
    /// What the agent says.
    pub(crate) agent: Ports,
    pub(crate) release: Release,
    /// The load generator.
    pub(crate) load: PathBuf,
    /// The cluster's folder: logs, configuration, and what this program leaves.
    pub(crate) state: PathBuf,
}

impl Site {
    /// Installs the agent and waits until it is ready.
    pub(crate) fn start(state: &Path, image: &Path, chart: &Path) -> anyhow::Result<Self> {
        let beside = std::env::current_exe().context("this program has no path")?;
        let load = beside.with_file_name("load");
        ensure!(load.is_file(), "{} does not exist: build it first", load.display());
        kubectl::apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}))?;
        let release = Release::install(image, chart, state)?;
        Ok(Self { agent: release::ports()?, release, load, state: state.to_owned() })
    }

    /// Kubernetes' version.
    pub(crate) fn version(&self) -> anyhow::Result<String> {
        let text = kubectl::run(&["version", "-o", "json"])?;
        let version: serde_json::Value = serde_json::from_str(&text).context("kubectl's version")?;
        Ok(version["serverVersion"]["gitVersion"].as_str().context("the server has a version")?.to_owned())
    }
}
