//! `cargo xtask full`: everything long, one step after the other, with machine-readable reports.
//!
//! Reports go into `reports/` at the workspace root, each beside a note of the commit and machine that it is from. A failed
//! step does not stop the next; the verdict lists all. Steps can be named to run just those.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::setup::Setup;
use crate::{deploy, launch, process, suites};

/// The step that runs every test.
const TEST: &str = "test";
/// The step that builds helm and checks what is in deploy/.
const DEPLOY: &str = "deploy";
/// The step that runs the agent in a real Kubernetes, each experiment five times.
const CLUSTER: &str = "cluster";
/// Report name, program, arguments.
const STEPS: [(&str, &str, &[&str]); 8] = [
    ("demo-delay-1", "demo", &["--delay", "1"]),
    ("demo-delay-3", "demo", &["--delay", "3"]),
    ("demo-delay-8", "demo", &["--delay", "8"]),
    ("demo-blind", "demo", &["--blind"]),
    ("demo-repeat-10", "demo", &["--repeat", "10"]),
    ("accuracy", "accuracy", &[]),
    ("bench", "bench", &[]),
    ("bench-probes", "bench", &["probes"]),
];

/// Runs all steps; false when one failed.
pub(crate) fn run(setup: &Setup, wanted: &[String]) -> Result<bool> {
    let known = |name: &String| {
        [TEST, DEPLOY, CLUSTER].contains(&name.as_str()) || STEPS.iter().any(|(step, ..)| step == name)
    };
    if let Some(unknown) = wanted.iter().find(|name| !known(name)) {
        let names: Vec<&str> =
            [TEST, DEPLOY, CLUSTER].into_iter().chain(STEPS.iter().map(|(name, ..)| *name)).collect();
        bail!("no step is named {unknown}; there are {}", names.join(", "));
    }
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    let metadata = launch::prepare(setup)?;
    let reports = metadata.root.join("reports");
    fs::create_dir_all(&reports).with_context(|| format!("cannot create {}", reports.display()))?;
    let origin = origin(&metadata.root)?;

    let mut verdicts = Vec::new();
    if is_wanted(TEST) {
        let begun = Instant::now();
        verdicts.push((TEST, suites::run(setup, &[])?, begun.elapsed()));
    }
    if is_wanted(DEPLOY) {
        let begun = Instant::now();
        verdicts.push((DEPLOY, deploy::run(false)?, begun.elapsed()));
    }
    for (name, program, args) in STEPS.into_iter().filter(|(name, ..)| is_wanted(name)) {
        let run = reported(&reports, name, &origin, |report| {
            let mut args: Vec<OsString> = args.iter().map(OsString::from).collect();
            args.extend(["--report".into(), report.as_os_str().to_owned()]);
            launch::command(&metadata, program, &args)
        })?;
        verdicts.push((name, run.0, run.1));
    }
    if is_wanted(CLUSTER) {
        setup.cluster()?;
        let run = reported(&reports, CLUSTER, &origin, |report| {
            let mut xtask = process::command(env::current_exe().context("this program has no path")?);
            xtask.args(["cluster", "test", "--", "--runs", "5", "--report"]).arg(report);
            Ok(xtask)
        })?;
        verdicts.push((CLUSTER, run.0, run.1));
    }
    let failed = verdicts.iter().filter(|(_, passed, _)| !passed).count();
    println!(
        "\nfull: {}",
        if failed == 0 { "all passed".to_owned() } else { format!("{failed} steps FAILED") }
    );
    for (name, passed, took) in &verdicts {
        println!("  {name:16}{:8}{:.0} s", if *passed { "ok" } else { "FAILED" }, took.as_secs_f64());
    }
    Ok(failed == 0)
}

/// Runs one step that writes a report: whether it passed and wrote one, and how long it took.
fn reported(
    reports: &Path,
    name: &str,
    origin: &str,
    command: impl FnOnce(&Path) -> Result<Command>,
) -> Result<(bool, Duration)> {
    eprintln!("full: {name}");
    fs::write(reports.join(name).with_extension("from"), origin)
        .context("cannot write the report's origin")?;
    let report = reports.join(name).with_extension("json");
    // An old report must not stand for a run that wrote none.
    drop(fs::remove_file(&report));
    let begun = Instant::now();
    let status = command(&report)?.status().context("cannot start the step")?;
    Ok((status.success() && report.is_file(), begun.elapsed()))
}

/// Commit (marked when the tree differs from it), kernel, compiler.
fn origin(root: &Path) -> Result<String> {
    let git = |args: &[&str]| process::capture(process::command("git").arg("-C").arg(root).args(args));
    let commit = git(&["rev-parse", "HEAD"])?;
    let dirty = if git(&["status", "--porcelain"])?.is_empty() { "" } else { " with uncommitted changes" };
    let kernel = process::capture(process::command("uname").arg("-srm"))?;
    let rustc = process::capture(process::command("rustc").arg("--version"))?;
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    Ok(format!("commit {}{dirty}\nkernel {}\n{}\ncpus {cpus}\n", commit.trim(), kernel.trim(), rustc.trim()))
}
