//! The programs that the world runs (`ip`, `nft`, `nginx`): found on PATH and in the system directories, fed by standard input.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail};

use super::netns::NetNs;

/// Where Debian keeps administration programs; a user's PATH often lacks them.
const SYSTEM_DIRECTORIES: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// The full path of a program.
pub fn find_program(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(SYSTEM_DIRECTORIES.iter().map(PathBuf::from));
    let mut candidates = directories.map(|directory| directory.join(name));
    candidates
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("the program {name} is not installed"))
}

/// Runs a program inside a namespace with `input` on its standard input; its standard error is the error's text.
pub fn run_with_input(
    namespace: &NetNs,
    program: &Path,
    arguments: &[&str],
    input: &str,
) -> anyhow::Result<()> {
    let name = program.display();
    let mut child = namespace
        .command(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {name}"))?;
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().with_context(|| format!("wait for {name}"))?;
    if !output.status.success() {
        bail!("{name} {}: {}\n{input}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    written.with_context(|| format!("write to {name}"))
}
