//! The chart: lint, what is made from it, values that it must refuse.
//!
//! Made files: the kustomize base and clean-up (default values) and a golden file (all options). They are rendered for one
//! version of Kubernetes, without a cluster.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::{checksums, read};
use crate::process;

/// The dashboard, from the workspace's root.
pub(super) const DASHBOARD: &str = "deploy/helm/drainscope/files/dashboard.json";
/// The folder of the chart and of the golden file.
const HELM: &str = "deploy/helm";
/// Checksums of all that the made files depend on, at the time of their making.
const SOURCES: &str = "deploy/helm/golden/sources.sha256";
/// Some version: helm built by `go install` knows none of its own.
const KUBERNETES: &str = "--kube-version=1.36.0";
/// First line of each made file.
const NOTE: &str = "# Made by `cargo xtask deploy --update` from deploy/helm/drainscope; do not edit.\n";

/// A made file and the arguments of `helm template` that make it.
struct Made {
    file: &'static str,
    arguments: &'static [&'static str],
}

const MADE: [Made; 3] = [
    Made {
        file: "deploy/kustomize/base/drainscope.yaml",
        arguments: &["drainscope", "--namespace=drainscope", "--no-hooks"],
    },
    Made {
        file: "deploy/kustomize/cleanup/cleanup.yaml",
        arguments: &["drainscope", "--namespace=drainscope", "--show-only=templates/cleanup-daemonset.yaml"],
    },
    Made {
        file: "deploy/helm/golden/everything.yaml",
        arguments: &["scope", "--namespace=monitoring", "--values=golden/everything.values.yaml"],
    },
];

/// Each must be refused, by this word.
const REFUSED: [(&str, &str); 7] = [
    ("agent.ringBytes=1000000", "ringBytes"),
    ("agent.port=0", "port"),
    ("capabilities={NET_RAW}", "capabilities"),
    ("agents.port=1", "agents"),
    ("pins.directory=a/b", "directory"),
    ("agent.criSocket=unix:///run/x.sock", "criSocket"),
    ("monitor.kind=ServiceMonitor,service.create=false", "needs service.create"),
];

/// Renders all made files anew.
pub(super) fn update(root: &Path, helm: &Path) -> Result<()> {
    for made in &MADE {
        let file = root.join(made.file);
        fs::write(&file, made.render(root, helm)?).with_context(|| format!("cannot write {}", made.file))?;
    }
    fs::write(root.join(SOURCES), sources(root)?).with_context(|| format!("cannot write {SOURCES}"))
}

/// What is wrong with the chart or the made files; needs helm.
pub(super) fn broken(root: &Path, helm: &Path) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    if let Err(error) = process::capture(in_folder(root, helm).args(["lint", "--strict", "drainscope"])) {
        broken.push(format!("{HELM}/drainscope: {error:#}"));
        return Ok(broken);
    }
    for made in &MADE {
        if made.render(root, helm)? != read(root, made.file).unwrap_or_default() {
            broken.push(format!("{} is not what the chart makes: cargo xtask deploy --update", made.file));
        }
    }
    for (values, word) in REFUSED {
        let refused = template(root, helm, &["drainscope", &format!("--set={values}")]);
        if !refused.err().is_some_and(|error| format!("{error:#}").contains(word)) {
            broken.push(format!("{HELM}/drainscope: does not refuse {values}"));
        }
    }
    if !dashboard(root, helm)? {
        broken.push(format!("{HELM}/drainscope: the ConfigMap does not hold {DASHBOARD}"));
    }
    Ok(broken)
}

/// Made files that are older than what they are made from; needs no helm.
pub(super) fn stale(root: &Path) -> Result<Vec<String>> {
    let (then, now) = (read(root, SOURCES).unwrap_or_default(), sources(root)?);
    let changed: Vec<&str> =
        now.lines().filter(|line| !then.contains(line)).filter_map(|line| line.split("  ").nth(1)).collect();
    if then == now {
        return Ok(Vec::new());
    }
    Ok(vec![format!(
        "{HELM}: changed since the files made from it ({}): cargo xtask deploy --update",
        changed.join(", ")
    )])
}

impl Made {
    fn render(&self, root: &Path, helm: &Path) -> Result<String> {
        let text = template(root, helm, self.arguments)?;
        // Where each object came from is plain, and outside of a release nothing is managed by Helm.
        let lines = text.lines().filter(|line| {
            !line.starts_with("# Source:") && line.trim() != "app.kubernetes.io/managed-by: Helm"
        });
        let lines: Vec<&str> = lines.collect();
        Ok(format!("{NOTE}{}\n", lines.join("\n").trim_end()))
    }
}

/// The ConfigMap's text, less its indentation, is the file. The golden file leaves it out for its length.
fn dashboard(root: &Path, helm: &Path) -> Result<bool> {
    let shown = template(
        root,
        helm,
        &["drainscope", "--set=dashboards.enabled=true", "--show-only=templates/dashboards.yaml"],
    )?;
    let (_, text) = shown.split_once("drainscope.json: |\n").context("the ConfigMap has no dashboard")?;
    let text: Vec<&str> = text.lines().map(|line| line.strip_prefix("    ").unwrap_or(line)).collect();
    let json: serde_json::Value =
        serde_json::from_str(&text.join("\n")).context("the ConfigMap's dashboard")?;
    Ok(json == serde_json::from_str::<serde_json::Value>(&read(root, DASHBOARD)?).context(DASHBOARD)?)
}

fn template(root: &Path, helm: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = in_folder(root, helm);
    process::capture(
        command.args(["template", KUBERNETES]).args(&arguments[..1]).arg("drainscope").args(&arguments[1..]),
    )
}

/// helm with neither the user's settings nor a cluster.
fn in_folder(root: &Path, helm: &Path) -> Command {
    let mut command = process::command(helm);
    command.current_dir(root.join(HELM)).env("KUBECONFIG", "/dev/null");
    for folder in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(folder, "/nonexistent");
    }
    command
}

/// Checksums of the chart's files and of the golden file's values.
fn sources(root: &Path) -> Result<String> {
    let folder = root.join(HELM);
    let mut files = vec![PathBuf::from("golden/everything.values.yaml")];
    collect(&folder, Path::new("drainscope"), &mut files)?;
    files.sort();
    checksums(&folder, &files)
}

fn collect(folder: &Path, below: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let path = folder.join(below);
    for entry in fs::read_dir(&path).with_context(|| format!("cannot list {}", path.display()))? {
        let entry = entry?;
        let below = below.join(entry.file_name());
        let kind = entry.file_type()?;
        match (kind.is_dir(), kind.is_file()) {
            (true, _) => collect(folder, &below, files)?,
            (_, true) => files.push(below),
            _ => bail!("{}: neither a file nor a folder", entry.path().display()),
        }
    }
    Ok(())
}
