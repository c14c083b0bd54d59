//! Can this machine run the kernel programs, and how does xtask become root for a step?
//!
//! Comes in: /proc/self/status, sudo, the kernel's BTF. Goes out: a `Privilege` to start commands with, and the list of
//! obstacles, each with the command that mends it. It never becomes root by itself.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{IsTerminal as _, stdin};
use std::path::Path;
use std::process::Command;

use crate::process;

/// How steps that need root are run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Privilege {
    /// We are root.
    Root,
    /// An ordinary user who may use sudo (it may ask for a password).
    Sudo,
}

/// Something missing, and what to do about it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Obstacle {
    /// What is missing, as a clause.
    pub(crate) missing: String,
    /// The command, or the step, that mends it.
    pub(crate) mend: String,
}

/// Variables that a step run by sudo keeps; everything else is left to sudo's policy.
const KEPT: [&str; 6] = ["CI", "NO_COLOR", "RUST_BACKTRACE", "RUST_LOG", "TERM", "UPDATE_EXPECT"];

/// The kernel capabilities without which root cannot load programs or make namespaces: number and name.
const NEEDED_CAPABILITIES: [(u32, &str); 4] =
    [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];

const BTF: &str = "/sys/kernel/btf/vmlinux";

impl Privilege {
    /// `program` as root. Our own `DRAINSCOPE_*` variables and the few of [`KEPT`] reach it through sudo as well.
    pub(crate) fn command(self, program: impl AsRef<OsStr>) -> Command {
        match self {
            Self::Root => process::command(program),
            Self::Sudo => {
                let mut sudo = process::command("sudo");
                sudo.arg("--").arg("env").arg(assignment(OsStr::new("PATH"), &process::search_path()));
                for (name, value) in env::vars_os() {
                    let kept =
                        name.to_str().is_some_and(|n| n.starts_with("DRAINSCOPE_") || KEPT.contains(&n));
                    if kept {
                        sudo.arg(assignment(&name, &value));
                    }
                }
                sudo.arg(program);
                sudo
            }
        }
    }
}

fn assignment(name: &OsStr, value: &OsStr) -> OsString {
    let mut text = name.to_owned();
    text.push("=");
    text.push(value);
    text
}

/// Root by itself, root by sudo, or why neither.
pub(crate) fn detect() -> Result<Privilege, Obstacle> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if effective_uid(&status) == Some(0) {
        return Ok(Privilege::Root);
    }
    let obstacle =
        |missing: &str, mend: &str| Obstacle { missing: missing.to_owned(), mend: mend.to_owned() };
    if process::find("sudo").is_none() {
        return Err(obstacle("this user is not root and there is no sudo", "run the same command as root"));
    }
    let without_password = process::capture(process::command("sudo").args(["-n", "true"])).is_ok();
    if without_password || stdin().is_terminal() {
        return Ok(Privilege::Sudo);
    }
    Err(obstacle(
        "sudo asks for a password and there is no terminal to ask on",
        "run the same command in a terminal, or as root",
    ))
}

/// Everything in the way of loading kernel programs; empty when they can run.
pub(crate) fn obstacles() -> Vec<Obstacle> {
    let mut found = Vec::new();
    match detect() {
        Ok(Privilege::Root) => {
            let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
            let lacking = lacking_capabilities(&status);
            if !lacking.is_empty() {
                found.push(Obstacle {
                    missing: format!("root here lacks {}", lacking.join(", ")),
                    mend: "start the container with --privileged, or run on the machine itself".to_owned(),
                });
            }
        }
        Ok(Privilege::Sudo) => {}
        Err(obstacle) => found.push(obstacle),
    }
    found.extend(btf_obstacle(Path::new(BTF)));
    found
}

fn btf_obstacle(file: &Path) -> Option<Obstacle> {
    File::open(file).is_err().then(|| Obstacle {
        missing: format!("the running kernel has no readable {}", file.display()),
        mend: "boot a kernel with CONFIG_DEBUG_INFO_BTF=y, as Debian's and Ubuntu's are \
               (Debian: apt-get install linux-image-amd64, then reboot)"
            .to_owned(),
    })
}

/// The second number of the `Uid:` line.
fn effective_uid(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().nth(1)?.parse().ok()
}

fn lacking_capabilities(status: &str) -> Vec<&'static str> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let held = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    let lacks = |(number, name): &(u32, &'static str)| (held & (1 << number) == 0).then_some(*name);
    NEEDED_CAPABILITIES.iter().filter_map(lacks).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_user_counts_not_the_real_one() {
        assert_eq!(effective_uid("Name:\tx\nUid:\t1000\t0\t1000\t1000\n"), Some(0));
        assert_eq!(effective_uid("Uid:\t1000\t1000\t1000\t1000\n"), Some(1000));
        assert_eq!(effective_uid(""), None);
    }

    #[test]
    fn a_root_without_capabilities_is_told_which() {
        // The set of an unprivileged Docker container.
        assert_eq!(
            lacking_capabilities("CapEff:\t00000000a80425fb\n"),
            ["CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_PERFMON", "CAP_BPF"]
        );
        assert!(lacking_capabilities("CapEff:\t000001ffffffffff\n").is_empty());
    }

    #[test]
    fn a_kernel_without_btf_is_named_with_the_mend() {
        let obstacle = btf_obstacle(Path::new("/nonexistent/vmlinux")).unwrap();
        assert!(obstacle.missing.contains("/nonexistent/vmlinux"));
        assert!(obstacle.mend.contains("CONFIG_DEBUG_INFO_BTF"));
    }

    #[test]
    fn sudo_gets_the_search_path_before_the_program() {
        let command = Privilege::Sudo.command("/x/suite");
        let args: Vec<_> = command.get_args().map(|a| a.to_string_lossy().into_owned()).collect();
        assert_eq!(&args[..2], ["--", "env"]);
        assert!(args[2].starts_with("PATH=") && args[2].contains("/usr/sbin"));
        assert_eq!(args.last().map(String::as_str), Some("/x/suite"));
    }
}
