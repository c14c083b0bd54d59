//! `cargo xtask test`: every test of the workspace, in groups, with one verdict for each.
//!
//! Unprivileged tests run as the invoking user. The kernel suites (see `metadata`) are built as that user too; only the
//! built binaries run as root. A suite that cannot run here is skipped with the reason, or fails with DRAINSCOPE_REQUIRE=all.

mod tally;

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;

use self::tally::{Group, Outcome, Tally};
use crate::metadata::{Metadata, WORLD};
use crate::privilege::{self, Privilege};
use crate::process;
use crate::setup::{self, Setup};

/// Runs everything; false when something failed.
pub(crate) fn run(setup: &Setup, harness_args: &[OsString]) -> Result<bool> {
    let metadata = Metadata::read()?;
    setup.build()?;
    let obstacles = if metadata.privileged.is_empty() { Vec::new() } else { privilege::obstacles() };
    if !metadata.privileged.is_empty() && obstacles.is_empty() {
        setup.programs()?;
    }

    let mut groups = Vec::new();
    // All libraries and programs, the kernel programs' shared library included; its program is for the BPF target only.
    let mut unit = process::cargo();
    unit.args(["test", "--workspace", "--no-fail-fast", "--lib", "--bins"]);
    unit.args(metadata.unprivileged.iter().flat_map(|name| ["--test", name.as_str()]));
    groups.push(group("unprivileged", unit.arg("--").args(harness_args))?);
    let mut doc = process::cargo();
    doc.args(["test", "--workspace", "--no-fail-fast", "--doc", "--"]).args(harness_args);
    groups.push(group("documentation", &mut doc)?);

    if !metadata.privileged.is_empty() {
        match privilege::detect() {
            Ok(privilege) if obstacles.is_empty() => {
                groups.extend(kernel(&metadata, privilege, harness_args)?)
            }
            _ => groups.extend(skipped(&metadata.privileged, &setup::explain(&obstacles))),
        }
    }
    let passed = groups.iter().all(|group| !matches!(group.outcome, Outcome::Failed(_)));
    print!("{}", tally::report(&groups));
    Ok(passed)
}

/// The kernel suites, one after the other.
fn kernel(metadata: &Metadata, privilege: Privilege, harness_args: &[OsString]) -> Result<Vec<Group>> {
    eprintln!("test: building the agent and the kernel suites");
    let begun = Instant::now();
    let binaries = match build(metadata) {
        Ok(binaries) => binaries,
        Err(error) => {
            let failed = |name: &String| Group {
                name: name.clone(),
                outcome: Outcome::Failed(format!("{error:#}")),
                tally: Tally::default(),
                took: begun.elapsed(),
            };
            return Ok(metadata.privileged.iter().map(failed).collect());
        }
    };
    let package = metadata.root.join(WORLD);
    let mut groups = Vec::new();
    for name in &metadata.privileged {
        let binary =
            binaries.get(name).with_context(|| format!("cargo built no binary for suite `{name}`"))?;
        // As `cargo test` would start it: in the package's folder.
        groups.push(group(name, privilege.command(binary).args(harness_args).current_dir(&package))?);
    }
    Ok(groups)
}

/// Builds the programs that the suites start and the suites themselves; returns each suite's binary.
fn build(metadata: &Metadata) -> Result<BTreeMap<String, PathBuf>> {
    process::run(process::cargo().args(["build", "--workspace", "--exclude", "probe-ebpf", "--bins"]))?;
    let mut cargo = process::cargo();
    cargo.args(["test", "--package", WORLD, "--no-run", "--message-format=json-render-diagnostics"]);
    cargo.args(metadata.privileged.iter().flat_map(|name| ["--test", name.as_str()]));
    let output = cargo.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    if !output.status.success() {
        anyhow::bail!("the kernel suites do not build");
    }
    Ok(test_binaries(&String::from_utf8_lossy(&output.stdout)))
}

/// Test binaries in cargo's JSON messages, by target name.
fn test_binaries(messages: &str) -> BTreeMap<String, PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let artifacts = messages.filter(|m| m["reason"] == "compiler-artifact" && m["profile"]["test"] == true);
    let named = artifacts.filter_map(|m| {
        let name = m["target"]["name"].as_str()?.to_owned();
        Some((name, PathBuf::from(m["executable"].as_str()?)))
    });
    named.collect()
}

fn skipped(names: &[String], why: &str) -> Vec<Group> {
    let required = env::var("DRAINSCOPE_REQUIRE").is_ok_and(|value| value == "all");
    let outcome = || match required {
        true => Outcome::Failed(format!("cannot run here, and DRAINSCOPE_REQUIRE=all\n{why}")),
        false => Outcome::Skipped(why.to_owned()),
    };
    let group = |name: &String| Group {
        name: name.clone(),
        outcome: outcome(),
        tally: Tally::default(),
        took: Duration::ZERO,
    };
    names.iter().map(group).collect()
}

/// Runs one command, shows its output as it comes and counts the harness's result lines in it.
fn group(name: &str, command: &mut Command) -> Result<Group> {
    eprintln!("test: {name}: {}", process::shown(command));
    let begun = Instant::now();
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", process::shown(command)))?;
    let mut tally = Tally::default();
    let stdout = child.stdout.take().context("the child's output is a pipe")?;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("cannot read the tests' output")?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        tally.add_line(&line);
    }
    let status = child.wait().context("cannot wait for the tests")?;
    let outcome = tally::outcome(status.success(), &status.to_string(), &tally);
    Ok(Group { name: name.to_owned(), outcome, tally, took: begun.elapsed() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binaries_are_taken_from_test_artifacts_only() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","profile":{"test":false},"target":{"name":"demo"},"executable":"/t/demo"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","profile":{"test":true},"target":{"name":"netns"},"executable":"/t/netns-1"}"#,
            "\nnot json\n",
            r#"{"reason":"build-finished","success":true}"#
        );
        let binaries = test_binaries(messages);
        assert_eq!(
            binaries.into_iter().collect::<Vec<_>>(),
            [("netns".to_owned(), PathBuf::from("/t/netns-1"))]
        );
    }

    #[test]
    fn output_is_counted_and_the_exit_status_decides() {
        let script =
            "echo 'test result: FAILED. 2 passed; 1 failed; 3 ignored; 0 measured; 0 filtered out'; exit 101";
        let group = group("x", Command::new("sh").args(["-c", script])).unwrap();
        assert_eq!(group.tally, Tally { results: 1, passed: 2, failed: 1, ignored: 3 });
        assert!(matches!(group.outcome, Outcome::Failed(_)));
    }
}
