//! Child processes: where programs are looked for, which environment they get, how their failure is told.
//!
//! Comes in: a command. Goes out: its output, or an error that names it. Long-running children inherit the terminal,
//! so cargo's own progress shows. No shell is involved.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// `PATH`, then where cargo installs, where Debian keeps `nft` and `ip` (not on an ordinary user's `PATH`), and where Go's own archive unpacks to.
pub(crate) fn search_path() -> OsString {
    let inherited = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = env::split_paths(&inherited).collect();
    let extra =
        [cargo_bin(), Some("/usr/sbin".into()), Some("/sbin".into()), Some("/usr/local/go/bin".into())];
    for folder in extra.into_iter().flatten() {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    // A folder from `PATH` cannot hold a colon; one from CARGO_HOME can, and then cargo itself would not find it either.
    env::join_paths(folders).unwrap_or(inherited)
}

/// Where `cargo install` puts programs.
pub(crate) fn cargo_bin() -> Option<PathBuf> {
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    cargo_home
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))
        .map(|home| home.join("bin"))
}

/// The first executable of that name on the search path.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    env::split_paths(&search_path()).map(|folder| folder.join(program)).find(|file| {
        file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    })
}

/// A command with the search path above, and without the variables that `cargo run` sets for xtask itself: build scripts
/// that watch them (`ring`'s does) would otherwise be rebuilt on each change between `cargo xtask` and `cargo build`.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", search_path());
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let own = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
        if own.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command
}

/// The cargo that runs us, so that a `+toolchain` choice holds for its children.
pub(crate) fn cargo() -> Command {
    command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs to the end on our terminal.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", shown(command));
    }
    Ok(())
}

/// Runs to the end and returns standard output; standard error becomes part of the error.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{}`", shown(command)))?;
    text_of(&output, &shown(command))
}

/// As [`capture`], but ends the child after `limit`.
pub(crate) fn capture_within(command: &mut Command, limit: Duration) -> Result<String> {
    let name = shown(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{name}`"))?;
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= deadline {
            end(&mut child)?;
            // The readers are left behind: a grandchild may hold the pipes open, and waiting for it would be unbounded.
            bail!("`{name}` did not finish within {} s", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(50));
    };
    let read = |reader: thread::JoinHandle<Vec<u8>>| reader.join().unwrap_or_default();
    text_of(&Output { status, stdout: read(stdout), stderr: read(stderr) }, &name)
}

fn end(child: &mut Child) -> io::Result<()> {
    child.kill()?;
    child.wait().map(drop)
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is still worth showing.
            drop(pipe.read_to_end(&mut bytes));
        }
        bytes
    })
}

fn text_of(output: &Output, name: &str) -> Result<String> {
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{name}` failed: {}\n{}", output.status, last_lines(&stderr, 12));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The end of a long text, where the reason stands.
pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// A command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    let words = std::iter::once(name).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_child_is_named_with_its_last_words() {
        let error = capture(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("sh -c") && error.contains("why") && error.contains('3'), "{error}");
    }

    #[test]
    fn a_child_that_never_ends_is_ended() {
        let begun = Instant::now();
        let error = capture_within(Command::new("sleep").arg("600"), Duration::from_millis(100)).unwrap_err();
        assert!(error.to_string().contains("did not finish"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn output_within_the_limit_is_returned_whole() {
        let long = capture_within(Command::new("seq").arg("100000"), Duration::from_secs(60)).unwrap();
        assert_eq!(long.lines().count(), 100_000);
    }

    #[test]
    fn only_the_end_of_a_long_text_is_shown() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc");
        assert_eq!(last_lines("a", 2), "a");
    }
}
