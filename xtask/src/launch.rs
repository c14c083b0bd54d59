//! `cargo xtask demo`, `accuracy` and `bench`: set-up, release build as the user, then the program as root with the arguments given.
//!
//! The programs themselves live in the test world's crate; their flags, output and exit status are theirs.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::metadata::{Metadata, WORLD};
use crate::peers;
use crate::privilege;
use crate::process;
use crate::setup::{self, Setup};

/// Sets up and builds, then becomes the program: Ctrl-C and exit status are between it and the terminal.
pub(crate) fn exec(setup: &Setup, program: &str, args: &[OsString]) -> Result<bool> {
    // `-- --help` reaches us with its dashes; they were for us.
    let args = args.strip_prefix(&[OsString::from("--")]).unwrap_or(args);
    let metadata = prepare(setup)?;
    let mut command = command(&metadata, program, args)?;
    eprintln!("{program}: starting");
    Err(command.exec()).with_context(|| format!("cannot start {program}"))
}

/// Everything that must be there before [`command`].
pub(crate) fn prepare(setup: &Setup) -> Result<Metadata> {
    let obstacles = privilege::obstacles();
    if !obstacles.is_empty() {
        bail!("this needs the running kernel, and that is not possible here\n{}", setup::explain(&obstacles));
    }
    setup.build()?;
    setup.programs()?;
    let metadata = Metadata::read()?;
    eprintln!("build: release programs (the first time some three minutes)");
    process::run(process::cargo().args([
        "build",
        "--release",
        "--package",
        "probe-user",
        "--package",
        WORLD,
        "--bins",
    ]))?;
    Ok(metadata)
}

/// A built program, to be run as root in the user's current folder.
pub(crate) fn command(metadata: &Metadata, program: &str, args: &[OsString]) -> Result<Command> {
    let binary = metadata.target.join("release").join(program);
    if !binary.is_file() {
        bail!("package `{WORLD}` has no program `{program}` (no {})", binary.display());
    }
    let privilege = match privilege::detect() {
        Ok(privilege) => privilege,
        Err(obstacle) => bail!("{}; {}", obstacle.missing, obstacle.mend),
    };
    let mut command = privilege.command(binary);
    let peers = if program == "bench" { peers::flags(metadata, args)? } else { Vec::new() };
    command.args(args).args(peers).current_dir(env::current_dir().context("the current folder is gone")?);
    Ok(command)
}
