//! `cargo xtask cases`: the conformance cases alone. They run with all other unprivileged tests too.
//!
//! The suite itself knows its cases; this builds and starts it, with `--ids` for `--list`. Its output and verdict are its own.

use std::ffi::OsStr;

use anyhow::{Context as _, Result};

use crate::metadata::WORLD;
use crate::process;
use crate::setup::Setup;

/// What is asked of the cases.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    Run,
    List,
    Invert,
}

/// Starts the suite; false when something in it failed.
pub(crate) fn run(setup: &Setup, ask: Ask, filter: Option<&OsStr>) -> Result<bool> {
    setup.build()?;
    let mut cargo = process::cargo();
    cargo.args(["test", "--package", WORLD, "--test", "cases", "--"]);
    match ask {
        Ask::Run => {}
        Ask::List => drop(cargo.arg("--ids")),
        Ask::Invert => drop(cargo.arg("--invert")),
    }
    cargo.args(filter);
    // Not `process::run`: a suite that fails is a verdict, which it has printed.
    Ok(cargo.status().context("cannot start cargo")?.success())
}
