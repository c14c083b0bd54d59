//! `cargo xtask check`: formatting, lints for both targets, dependency policy, house rules, deploy/.
//!
//! Every part runs even when an earlier one failed, so that one run shows all there is to mend.

mod house;

use std::env::consts::ARCH;
use std::process::Command;
use std::time::Instant;

use anyhow::Result;

use crate::deploy;
use crate::metadata::Metadata;
use crate::process;
use crate::setup::Setup;

/// Runs all parts; false when one failed.
pub(crate) fn run(setup: &Setup) -> Result<bool> {
    setup.build()?;
    setup.checks()?;
    let metadata = Metadata::read()?;
    let parts = [
        ("format", cargo(&["fmt", "--all", "--check"])),
        ("clippy", cargo(&["clippy", "--all-targets", "--", "-D", "warnings"])),
        (
            "clippy, shared kernel library",
            cargo(&["clippy", "--package", "probe-ebpf", "--lib", "--tests", "--", "-D", "warnings"]),
        ),
        ("clippy, kernel programs", clippy_for_bpf(&metadata)),
        ("dependencies", cargo(&["deny", "check", "bans", "licenses", "sources"])),
    ];
    let mut failed = Vec::new();
    for (name, mut command) in parts {
        let begun = Instant::now();
        eprintln!("check: {name}");
        if let Err(error) = process::run(command.current_dir(&metadata.root)) {
            eprintln!("check: {name}: {error:#}");
            failed.push(name);
        }
        eprintln!("check: {name}: {:.1} s", begun.elapsed().as_secs_f64());
    }
    let broken = house::broken_rules(&metadata)?;
    for rule in &broken {
        println!("{rule}");
    }
    if !broken.is_empty() {
        failed.push("house rules");
    }
    let broken = deploy::broken(&metadata.root)?;
    for line in &broken {
        println!("{line}");
    }
    if !broken.is_empty() {
        failed.push("deploy");
    }
    match failed.is_empty() {
        true => println!("check: all passed"),
        false => println!("check: FAILED: {}", failed.join(", ")),
    }
    Ok(failed.is_empty())
}

fn cargo(args: &[&str]) -> Command {
    let mut cargo = process::cargo();
    cargo.args(args);
    cargo
}

/// Clippy for the kernel programs, with the flags that aya-build compiles them with. A target folder of its own:
/// RUSTC_BOOTSTRAP is watched by build scripts of the host's crates, which would be rebuilt on every change.
fn clippy_for_bpf(metadata: &Metadata) -> Command {
    let target = if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };
    let flags = format!("--cfg=bpf_target_arch=\"{ARCH}\"\x1f-Cdebuginfo=2\x1f-Clink-arg=--btf");
    let mut cargo = cargo(&["clippy", "--package", "probe-ebpf", "--bins", "--release", "--target", target]);
    cargo.args(["-Z", "build-std=core", "--target-dir"]).arg(metadata.target.join("bpf-clippy"));
    cargo.args(["--", "-D", "warnings"]).env("RUSTC_BOOTSTRAP", "1").env("CARGO_ENCODED_RUSTFLAGS", flags);
    cargo
}
