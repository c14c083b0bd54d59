//! `cargo xtask deploy`: what is in `deploy/` fits together: alert rules and their tests, metric names, runbooks, the chart and
//! what is made from it (kustomize base, golden files).
//!
//! The chart is the one source. helm is not needed to notice that the made files are older than it: a list of checksums is
//! checked in beside them. helm itself is built once and cached ([`helm`]); `cargo xtask check` uses it if it is there. Nothing
//! is sent to a cluster.

mod chart;
pub(crate) mod helm;
mod names;

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::metadata::Metadata;
use crate::process;

/// The alert rules, from the workspace's root.
const ALERTS: &str = "deploy/helm/drainscope/files/alerts.yaml";
/// Their tests.
const TESTS: &str = "deploy/alerts/tests.yaml";
/// What to do at each alert.
const RUNBOOKS: &str = "docs/runbooks.md";

/// The command: everything, with a helm that is built if need be. With `update` the made files are written first.
pub(crate) fn run(update: bool) -> Result<bool> {
    let root = Metadata::read()?.root;
    let program = helm::ensure()?;
    if update {
        chart::update(&root, &program)?;
    }
    let mut broken = without_helm(&root)?;
    broken.extend(chart::broken(&root, &program)?);
    for line in &broken {
        println!("{line}");
    }
    println!("deploy: {}", if broken.is_empty() { "all passed" } else { "FAILED" });
    Ok(broken.is_empty())
}

/// The part of `cargo xtask check`: one line for each thing that is wrong.
pub(crate) fn broken(root: &Path) -> Result<Vec<String>> {
    let mut broken = without_helm(root)?;
    match helm::cached()? {
        Some(program) => broken.extend(chart::broken(root, &program)?),
        None => eprintln!("check: helm is not built (cargo xtask deploy does it): the chart is not rendered"),
    }
    Ok(broken)
}

fn without_helm(root: &Path) -> Result<Vec<String>> {
    let mut broken = alerts(root)?;
    broken.extend(names::broken(root, &[ALERTS, chart::DASHBOARD])?);
    broken.extend(runbooks(&read(root, ALERTS)?, &read(root, RUNBOOKS)?));
    broken.extend(chart::stale(root)?);
    Ok(broken)
}

/// The rules' own tests.
fn alerts(root: &Path) -> Result<Vec<String>> {
    let Some(promtool) = process::find("promtool") else {
        let line = "alert rules: promtool is missing (cargo xtask setup installs it)";
        if std::env::var("DRAINSCOPE_REQUIRE").is_ok_and(|value| value == "all") {
            return Ok(vec![line.to_owned()]);
        }
        eprintln!("check: skipped: {line}");
        return Ok(Vec::new());
    };
    let runs = [["check", "rules", ALERTS], ["test", "rules", TESTS]];
    let failed = runs.iter().filter_map(|arguments| {
        // promtool tells failed tests on standard output, files that it cannot read on the other.
        let output = Command::new(&promtool).args(arguments).current_dir(root).output();
        match output {
            Ok(output) if output.status.success() => None,
            Ok(output) => {
                let text = [output.stdout, output.stderr].concat();
                Some(format!("promtool {}:\n{}", arguments.join(" "), String::from_utf8_lossy(&text)))
            }
            Err(error) => Some(format!("promtool {}: {error}", arguments.join(" "))),
        }
    });
    Ok(failed.collect())
}

/// Each alert has a test that it fires and a section of the runbooks, which its URL leads to; no section is of an alert that is gone.
fn runbooks(alerts: &str, text: &str) -> Vec<String> {
    let values = |key: &str| -> Vec<String> {
        let lines = alerts.lines().map(|line| line.trim_start().trim_start_matches("- "));
        lines.filter_map(|line| line.strip_prefix(key)).map(|value| value.trim().to_owned()).collect()
    };
    let (names, urls) = (values("alert:"), values("runbook_url:"));
    let sections: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let mut broken = Vec::new();
    if names.is_empty() || names != sections {
        broken.push(format!(
            "{RUNBOOKS}: its sections are not the alerts in their order: {names:?}, {sections:?}"
        ));
    }
    let expected: Vec<String> =
        names.iter().map(|name| format!("{RUNBOOKS}#{}", name.to_lowercase())).collect();
    if urls != expected {
        broken.push(format!("{ALERTS}: a runbook_url leads elsewhere: {urls:?}"));
    }
    broken
}

fn read(root: &Path, file: &str) -> Result<String> {
    fs::read_to_string(root.join(file)).with_context(|| format!("cannot read {file}"))
}

/// SHA-256 of files in a folder, as `sha256sum` prints them.
pub(crate) fn checksums(folder: &Path, files: &[impl AsRef<std::ffi::OsStr>]) -> Result<String> {
    if files.is_empty() {
        bail!("{}: no files", folder.display());
    }
    process::capture(process::command("sha256sum").current_dir(folder).arg("--").args(files))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = "      - alert: One\n          runbook_url: docs/runbooks.md#one\n      - alert: Two\n          \
                         runbook_url: docs/runbooks.md#two\n";

    #[test]
    fn each_alert_has_its_section() {
        assert_eq!(runbooks(RULES, "# Runbooks\n\n## One\n\ntext\n\n## Two\n"), [""; 0]);
        for text in ["## One\n", "## Two\n## One\n", "## One\n## Two\n## Three\n", ""] {
            assert_eq!(runbooks(RULES, text).len(), 1, "{text}");
        }
        assert_eq!(runbooks(&RULES.replace("#two", "#three"), "## One\n## Two\n").len(), 1);
        assert_eq!(runbooks("", "").len(), 1, "no alerts at all");
    }
}
