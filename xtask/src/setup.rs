//! Set-up of a fresh machine: finds what is there, installs what is missing, says what it did and why.
//!
//! Four parts, taken as each command needs them: what building needs (library sources, bpf-linker), what the kernel
//! suites and the demo need (programs of Debian packages), the servers of the matrix (the same), what `check` needs
//! (cargo-deny). It upgrades nothing that works.

mod apt;
mod programs;
mod rust_src;

use std::env;
use std::io::{IsTerminal as _, Write as _, stderr, stdin};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::metadata::Metadata;
use crate::privilege::{self, Obstacle};
use crate::process;
pub(crate) use rust_src::user_cache;

/// The version that the build was tested with, installed when there is none.
const BPF_LINKER: &str = "0.10.3";
const CARGO_DENY: &str = "0.20.2";

/// May packages of the operating system be installed?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Consent {
    /// `--yes`, or a CI machine.
    Given,
    /// A person is asked each time.
    Ask,
}

impl Consent {
    /// From the flag and the environment.
    pub(crate) fn given(yes: bool) -> Self {
        let ci = env::var("CI").is_ok_and(|value| !value.is_empty() && value != "false" && value != "0");
        if yes || ci { Self::Given } else { Self::Ask }
    }

    /// Asks about `what`, or fails when there is nobody to ask; `by_hand` is what one would run instead.
    fn obtain(self, what: &str, by_hand: &str) -> Result<()> {
        if self == Self::Given {
            return Ok(());
        }
        let answer = if stdin().is_terminal() { Some(ask(what)?) } else { None };
        judge(answer.as_deref(), what, by_hand)
    }
}

fn ask(what: &str) -> Result<String> {
    eprint!("setup: {what}? [Y/n] ");
    stderr().flush().context("cannot write to the terminal")?;
    let mut answer = String::new();
    stdin().read_line(&mut answer).context("cannot read the answer")?;
    Ok(answer)
}

/// `None`: there was nobody to ask. An empty line is a yes; the end of input (not even a line) is not.
fn judge(answer: Option<&str>, what: &str, by_hand: &str) -> Result<()> {
    match answer.map(str::to_lowercase).as_deref().map(|answer| (answer.trim(), answer.is_empty())) {
        None => bail!("{what}: there is no terminal to ask on; add --yes, or run: {by_hand}"),
        Some(("" | "y" | "yes", false)) => Ok(()),
        Some(_) => bail!("not installed, as you said; by hand: {by_hand}"),
    }
}

/// What commands ask for before they build or run.
pub(crate) struct Setup {
    consent: Consent,
}

impl Setup {
    /// Nothing is looked at yet.
    pub(crate) fn new(consent: Consent) -> Self {
        Self { consent }
    }

    /// What a plain `cargo build` needs.
    pub(crate) fn build(&self) -> Result<()> {
        rust_src::ensure(&rust_src::Target::active()?)?;
        cargo_program("bpf-linker", BPF_LINKER, "links the kernel programs", "about a minute")
    }

    /// What the kernel suites and the demo run.
    pub(crate) fn programs(&self) -> Result<()> {
        programs::ensure(self.consent, programs::WORLD)
    }

    /// The languages that the matrix has servers in, and the Go modules that one of them is made of.
    pub(crate) fn servers(&self) -> Result<()> {
        programs::ensure(self.consent, programs::SERVERS)?;
        programs::go_modules(&Metadata::read()?.root.join("tests/servers/grpc"))
    }

    /// What `cargo xtask cluster` runs and builds with.
    pub(crate) fn cluster(&self) -> Result<()> {
        programs::ensure(self.consent, programs::CLUSTER)
    }

    /// What `check` needs besides a build.
    pub(crate) fn checks(&self) -> Result<()> {
        cargo_program("cargo-deny", CARGO_DENY, "checks licences and duplicate crates", "a few minutes")
    }

    /// `cargo xtask setup`. False when something stays missing that only the machine's owner can mend.
    pub(crate) fn everything(&self, checks: bool, servers: bool) -> Result<bool> {
        self.build()?;
        if checks {
            self.checks()?;
        }
        let obstacles = privilege::obstacles();
        if privilege::detect().is_ok() {
            self.programs()?;
            if servers {
                self.servers()?;
            }
        }
        if obstacles.is_empty() {
            println!("setup: complete; next: cargo xtask demo, cargo xtask test");
            return Ok(true);
        }
        println!("setup: complete for building; kernel programs cannot run here");
        println!("{}", explain(&obstacles));
        Ok(false)
    }
}

/// What is missing, what still runs, what mends it.
pub(crate) fn explain(obstacles: &[Obstacle]) -> String {
    let mut lines: Vec<String> = Vec::new();
    for Obstacle { missing, mend } in obstacles {
        lines.push(format!("  missing:    {missing}\n  mend:       {mend}"));
    }
    lines.push(
        "  still runs: cargo build, cargo xtask check, the unprivileged tests of cargo xtask test".to_owned(),
    );
    lines.join("\n")
}

/// The hidden `setup --rust-src-into`: only step 3 of the library sources, for a sysroot and a cache of the caller's choice.
pub(crate) fn rust_src_into(sysroot: PathBuf, cache: Option<PathBuf>) -> Result<()> {
    let mut target = rust_src::Target::active()?;
    target.sysroot = sysroot;
    target.toolchain = None;
    if let Some(cache) = cache {
        target.cache = cache;
    }
    rust_src::ensure(&target)
}

/// A program that cargo installs. One that runs is kept, whatever its version: it may be the user's choice.
fn cargo_program(name: &str, tested: &str, why: &str, duration: &str) -> Result<()> {
    if let Some(version) = version_of(name) {
        let note = if version == tested { String::new() } else { format!(" (tested with {tested})") };
        eprintln!("setup: {name} {version}: found{note}");
    } else {
        eprintln!("setup: {name} {tested}: installing by cargo ({duration}); it {why}");
        process::run(process::cargo().args(["install", name, "--version", tested, "--locked"]))?;
        version_of(name).with_context(|| format!("{name} was installed but does not run"))?;
    }
    if let Some(folder) = process::cargo_bin().filter(|folder| folder.join(name).exists()) {
        let path = env::var_os("PATH").unwrap_or_default();
        if !env::split_paths(&path).any(|p| p == folder) {
            eprintln!("setup: note: a plain `cargo build` needs {} on PATH", folder.display());
        }
    }
    Ok(())
}

/// The last word of the first line of `--version`, when the program runs.
fn version_of(program: &str) -> Option<String> {
    let text = process::capture(process::command(program).arg("--version")).ok()?;
    text.lines().next()?.split_whitespace().last().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_obstacle_comes_with_its_mend_and_what_still_runs() {
        let obstacle = |n: &str| Obstacle { missing: format!("no {n}"), mend: format!("get {n}") };
        let text = explain(&[obstacle("root"), obstacle("BTF")]);
        for part in ["no root", "get root", "no BTF", "get BTF", "still runs: cargo build"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn packages_are_installed_on_a_yes_only() {
        for yes in ["\n", "y\n", "Yes\n"] {
            judge(Some(yes), "install x", "apt-get install x").unwrap();
        }
        for other in [Some("n\n"), Some("later\n"), Some(""), None] {
            let error = judge(other, "install x", "apt-get install x").unwrap_err().to_string();
            assert!(error.contains("apt-get install x"), "{error}");
        }
        let error = judge(None, "install x", "apt-get install x").unwrap_err().to_string();
        assert!(error.contains("--yes"), "{error}");
    }

    #[test]
    fn a_program_that_is_not_there_has_no_version() {
        assert_eq!(version_of("drainscope-no-such-program"), None);
        assert!(version_of("rustc").is_some());
    }
}
