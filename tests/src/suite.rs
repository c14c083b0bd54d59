//! Whether a privileged suite can run here, and what its absence means.
//!
//! A suite that cannot run says why and counts as passed, unless `DRAINSCOPE_REQUIRE=all` is set, as it is in CI: then it is a failure.

use std::process::ExitCode;

use crate::node::{find_program, v2_root};

/// The variable that makes a skip a failure.
const REQUIRE: &str = "DRAINSCOPE_REQUIRE";

/// What is missing for suites that make namespaces and cgroups; `None` if nothing is.
pub fn obstacle() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("it needs root (network namespaces, cgroups)".to_owned());
    }
    if let Err(error) = v2_root() {
        return Some(format!("{error:#}"));
    }
    ["ip", "nft", "nginx"]
        .iter()
        .find_map(|program| find_program(program).err())
        .map(|error| format!("{error:#}"))
}

/// Says why a suite is skipped, and gives its exit code.
#[expect(clippy::print_stderr, reason = "a test program tells the person who runs it")]
pub fn skip(suite: &str, obstacle: &str) -> ExitCode {
    let required = std::env::var_os(REQUIRE).is_some_and(|value| value == "all");
    let verdict = if required { "FAILED" } else { "skipped" };
    eprintln!("suite {suite} {verdict}: {obstacle}");
    if required { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
