//! The programs that the kernel suites, the demo and the matrix run, from Debian or Ubuntu packages and from Go modules.
//!
//! Only what is missing is installed, after asking. A freshly installed nginx or prometheus must not start serving on this
//! machine: invoke-rc.d is told so for the time of the installation, and the new services are disabled.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::Consent;
use crate::privilege::{self, Privilege};
use crate::process;

/// Program, its package, what it is for.
type Program = (&'static str, &'static str, &'static str);

/// What every kernel suite and the demo need.
pub(super) const WORLD: &[Program] = &[
    ("ip", "iproute2", "network namespaces of the pods"),
    ("nft", "nftables", "service proxy"),
    ("nginx", "nginx", "a real server as a pod"),
    ("prometheus", "prometheus", "scrapes the agent in a test"),
    ("promtool", "prometheus", "checks the exposition"),
    ("python3", "python3", "servers and clients"),
    ("unshare", "util-linux", "pid namespaces of the pods"),
];

/// The matrix's other servers, on top of [`WORLD`]: without one of these its rows are skipped.
pub(super) const SERVERS: &[Program] = &[
    ("go", "golang-go", "compiles the Go servers"),
    ("gunicorn", "gunicorn", "a real server as a pod"),
    ("java", "default-jdk-headless", "a real server as a pod"),
    ("node", "nodejs", "a real server as a pod"),
    ("redis-server", "redis-server", "a real server as a pod"),
];

/// What the one-node Kubernetes runs beside its own programs, and what these are built with.
pub(super) const CLUSTER: &[Program] = &[
    ("/usr/lib/cni/bridge", "containernetworking-plugins", "the pods' network"),
    ("conntrack", "conntrack", "says which client a rewritten connection is of"),
    ("containerd", "containerd", "runs the pods"),
    ("go", "golang-go", "compiles Kubernetes"),
    ("ip", "iproute2", "the node's network"),
    ("iptables", "iptables", "kube-proxy in iptables mode"),
    ("nft", "nftables", "kube-proxy in nftables mode"),
    ("nsenter", "util-linux", "the node's namespaces"),
    ("openssl", "openssl", "certificates"),
    ("runc", "runc", "runs the containers"),
];

/// Packages as arguments; runs as root. `policy-rc.d` is Debian's interface for "start nothing": 101 is "action forbidden".
/// The trap removes it on every end but SIGKILL; the mark lets the next run remove what that left behind.
const INSTALL: &str = r#"
set -eu
policy=/usr/sbin/policy-rc.d
mark='# temporary, by the set-up of drainscope'
if [ -f "$policy" ] && grep -qxF "$mark" "$policy"; then rm -f "$policy"; fi
[ "$#" -gt 0 ] || exit 0
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' INT TERM HUP
    printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >"$policy"
    chmod 755 "$policy"
fi
install() { apt-get install --yes --no-install-recommends -o DPkg::Lock::Timeout=300 "$@"; }
[ "$UPDATE" = no ] || apt-get update
# Package lists of an old image name files that the archive no longer has.
if ! install "$@"; then
    [ "$UPDATE" = no ] || exit 1
    apt-get update
    install "$@"
fi
if [ -d /run/systemd/system ]; then
    for package in "$@"; do systemctl disable --quiet "$package.service" 2>/dev/null || :; done
fi
"#;

/// Installs what is missing of these.
pub(crate) fn ensure(consent: Consent, programs: &'static [Program]) -> Result<()> {
    remove_leftover()?;
    let missing = missing(programs, |program| process::find(program).is_some());
    if missing.is_empty() {
        let names: Vec<&str> = programs.iter().map(|(program, ..)| *program).collect();
        eprintln!("setup: {}: found", names.join(", "));
        return Ok(());
    }
    let packages = packages(&missing);
    let by_hand = format!("apt-get install {}", packages.join(" "));
    for (program, package, why) in &missing {
        eprintln!("setup: {program}: missing ({why}; package {package})");
    }
    if process::find("apt-get").is_none() {
        let programs: Vec<&str> = missing.iter().map(|(program, ..)| *program).collect();
        bail!("there is no apt-get here; install these programs by hand: {}", programs.join(", "));
    }
    let privilege = match privilege::detect() {
        Ok(privilege) => privilege,
        Err(obstacle) => bail!("{}; as root: {by_hand}", obstacle.missing),
    };
    consent.obtain(&format!("install {} with apt-get", packages.join(", ")), &by_hand)?;
    let update = packages.iter().any(|package| !has_candidate(package));
    eprintln!("setup: installing {} (a minute or two); no service is started", packages.join(", "));
    process::run(install(privilege, update).args(&packages))?;
    let still: Vec<&str> = missing
        .iter()
        .map(|(program, ..)| *program)
        .filter(|program| process::find(program).is_none())
        .collect();
    if !still.is_empty() {
        bail!(
            "installed {}, but these programs are still missing: {}",
            packages.join(", "),
            still.join(", ")
        );
    }
    Ok(())
}

/// Fetches the modules of a Go program, if they are not there, for root: the matrix compiles it where there is no network.
pub(crate) fn go_modules(directory: &Path) -> Result<()> {
    let privilege = match privilege::detect() {
        Ok(privilege) => privilege,
        Err(obstacle) => bail!("{}; {}", obstacle.missing, obstacle.mend),
    };
    eprintln!("setup: Go modules of {}", directory.display());
    process::run(
        privilege.command("env").args(["GOTOOLCHAIN=local", "go", "mod", "download"]).current_dir(directory),
    )
}

fn install(privilege: Privilege, update: bool) -> Command {
    let mut command = privilege.command("env");
    command
        .arg("DEBIAN_FRONTEND=noninteractive")
        .arg(format!("UPDATE={}", if update { "yes" } else { "no" }));
    command.args(["sh", "-c", INSTALL, "set-up"]);
    command
}

/// A policy file that a killed set-up left behind would keep every later package from starting its service.
fn remove_leftover() -> Result<()> {
    let policy = std::fs::read_to_string("/usr/sbin/policy-rc.d").unwrap_or_default();
    if policy.contains("by the set-up of drainscope")
        && let Ok(privilege) = privilege::detect()
    {
        eprintln!("setup: removing the /usr/sbin/policy-rc.d of a set-up that was killed");
        process::run(&mut install(privilege, false)).context("cannot remove /usr/sbin/policy-rc.d")?;
    }
    Ok(())
}

fn missing(programs: &'static [Program], found: impl Fn(&str) -> bool) -> Vec<&'static Program> {
    programs.iter().filter(|(program, ..)| !found(program)).collect()
}

fn packages(missing: &[&Program]) -> Vec<&'static str> {
    let mut packages: Vec<&str> = missing.iter().map(|(_, package, _)| *package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

fn has_candidate(package: &str) -> bool {
    let policy = process::capture(process::command("apt-cache").env("LC_ALL", "C").args(["policy", package]));
    policy.is_ok_and(|text| candidate(&text))
}

fn candidate(policy: &str) -> bool {
    policy
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Candidate:"))
        .any(|version| version.trim() != "(none)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_of_two_missing_programs_is_installed_once() {
        let missing =
            missing(WORLD, |program| program != "prometheus" && program != "promtool" && program != "nft");
        assert_eq!(packages(&missing), ["nftables", "prometheus"]);
    }

    #[test]
    fn a_machine_that_has_everything_needs_no_package() {
        assert!(missing(WORLD, |_| true).is_empty());
    }

    #[test]
    fn without_lists_there_is_no_candidate() {
        assert!(candidate("nginx:\n  Installed: (none)\n  Candidate: 1.22.1-9\n"));
        assert!(!candidate("nginx:\n  Installed: (none)\n  Candidate: (none)\n"));
        assert!(!candidate(""), "an unknown package prints nothing");
    }

    #[test]
    fn the_install_script_is_valid_shell() {
        process::capture(Command::new("sh").args(["-n", "-c", INSTALL])).unwrap();
    }
}
