//! Exec probes of group B: a command, from the API's form of its probe to what the worker is told, by a runtime that really runs it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};
use drainscope::probe::command::resolve;
use drainscope::probe::spec::attempt_of;
use probe_core::probes::ProbeType;
use probe_core::probes::spec::Probe;
use probe_core::probes::verdict::{MAX_ATTEMPTS, conclude};
use probe_core::rules::object::EnvVar;
use probe_engine::attempt;
use serde::Deserialize;
use serde_json::{Value, json};
use world::cri::Runtime;

/// The one that the runtime has.
const CONTAINER: &str = "containerd://3f5b0c9d1e7a";

/// A probe and its container.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Given {
    /// In the API's form.
    probe: Value,
    /// The container's variables, in the API's form.
    #[serde(default)]
    env: Vec<EnvVar>,
    /// Another container than the runtime has.
    #[serde(default)]
    container: Option<String>,
    /// No runtime runs.
    #[serde(default)]
    no_runtime: bool,
}

/// A folder of the case's own; it goes with this.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("drainscope-cases-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left of a temporary folder disturbs nobody.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// What the attempt sees, and what its worker makes of it; the runtime's socket is shown as `SOCKET`.
pub(crate) async fn run(given: &Given) -> Result<Value> {
    let folder = Folder::new()?;
    let socket = folder.0.join("cri.sock");
    let runtime = match given.no_runtime {
        true => None,
        false => Some(Runtime::start(&socket, &[CONTAINER.trim_start_matches("containerd://")])?),
    };
    let spec: Probe = serde_json::from_value(given.probe.clone()).context("a probe")?;
    let spec = spec.with_defaults();
    let container = given.container.as_deref().unwrap_or(CONTAINER);
    let probe = resolve(&spec, &given.env, container, &socket, "kube-probe/1.36");
    let seen = match &probe {
        Ok(probe) => Ok(attempt(probe).await),
        Err(error) => Err(error.clone()),
    };
    let told = attempt_of(&seen);
    let worker = conclude(ProbeType::Liveness, MAX_ATTEMPTS, &told).context("the last attempt")?;
    let commands = runtime.as_ref().map_or(0, Runtime::started);
    let left = commands - runtime.as_ref().map_or(0, Runtime::ended);
    Ok(json!({
        "result": told.outcome.text(),
        "output": told.output,
        "bytes": told.output.len(),
        "error": told.error.as_deref().map(|text| shown(text, &socket)),
        "cause": seen.ok().and_then(|seen| seen.cause).map(|text| shown(&text, &socket)),
        "worker": worker.result,
        "commands": commands,
        "left_running": left,
    }))
}

fn shown(text: &str, socket: &Path) -> String {
    text.replace(&socket.display().to_string(), "SOCKET")
}
