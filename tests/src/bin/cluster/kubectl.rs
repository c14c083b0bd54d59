//! kubectl, as a person would use it: objects in by standard input, JSON out. It finds the cluster by `KUBECONFIG`.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use world::wait::wait_until;

/// How often the API is asked while something is awaited.
const POLL: Duration = Duration::from_millis(200);

/// Runs it and gives its output.
pub(crate) fn run(args: &[&str]) -> anyhow::Result<String> {
    run_with(args, "")
}

/// As [`run`], with this on its standard input.
pub(crate) fn run_with(args: &[&str], input: &str) -> anyhow::Result<String> {
    let mut child = Command::new("kubectl")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start kubectl")?;
    let mut stdin = child.stdin.take().context("kubectl has a standard input")?;
    stdin.write_all(input.as_bytes()).context("write to kubectl")?;
    drop(stdin);
    let output = child.wait_with_output().context("wait for kubectl")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "kubectl {}: {}", args.join(" "), error.trim_end());
    String::from_utf8(output.stdout).context("kubectl wrote no text")
}

/// Applies an object.
pub(crate) fn apply(object: &Value) -> anyhow::Result<()> {
    run_with(&["apply", "-f", "-"], &object.to_string()).map(drop)
}

/// Reads an object or a list.
pub(crate) fn get(args: &[&str]) -> anyhow::Result<Value> {
    let text = run(&[&["get", "-o", "json"], args].concat())?;
    serde_json::from_str(&text).context("kubectl wrote no JSON")
}

/// Asks until there is an answer.
pub(crate) fn wait<T>(
    what: &str,
    patience: Duration,
    mut ask: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    wait_until(what, patience, POLL, || ask().with_context(|| format!("while waiting: {what}")))
}
